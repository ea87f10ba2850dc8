"""What the client was told, held against the journals, the database and the verification that Keystead offers."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field

import psycopg

from tests.cluster.load import Answer
from tests.cluster.nodes import wait_until
from tests.cluster.scenarios import AFTER_S, STEADY_S, Observed
from tests.cluster.whole import Cluster
from xks import journal_format as form
from xks.journal_recovery import segments_of
from xks.journal_writer import journal_folder, read_segment

SHIP_S = 60.0


@dataclass
class Journals:
    """Every record of every node, by kmsRequestId."""

    outcomes: dict[str, list[str]] = field(default_factory=dict)
    records: int = 0


def read_journals(cluster: Cluster) -> Journals:
    """Read all segments of both nodes, compressed ones too."""
    found = Journals()
    for node in cluster.nodes:
        folder = journal_folder(node.data, node.name)
        for chain in sorted(path.name for path in folder.iterdir() if path.is_dir()):
            for number in segments_of(folder, chain):
                for _, record in form.records_of(read_segment(folder, chain, number)):
                    found.records += 1
                    found.outcomes.setdefault(record.kms_request_id, []).append(record.outcome)
    return found


def against_journals(answers: list[Answer], run: str, journals: Journals) -> tuple[list[str], str]:
    """Return the faults, and a sentence on what was compared."""
    faults = []
    given = [answer for answer in answers if answer.status == 200]
    without = [one for one in given if "OK" not in journals.outcomes.get(f"{run}-{one.number}", [])]
    if without:
        faults.append(f"{len(without)} answers left without a record, the first is {run}-{without[0].number}")
    wrong = [answer for answer in answers if answer.status == -1]
    if wrong:
        faults.append(f"{len(wrong)} decrypts gave another plaintext")
    asked = {f"{run}-{answer.number}" for answer in answers}
    twice = sum(len(journals.outcomes.get(name, [])) > 1 for name in asked)
    unheard = sum(answer.status == 0 and f"{run}-{answer.number}" in journals.outcomes for answer in answers)
    return faults, (
        f"{len(given)} answers with a result, each with its record; {unheard} requests were recorded whose answer "
        f"did not reach the client in time; {twice} were recorded twice because the balancer asked again."
    )


def against_database(cluster: Cluster, journals: Journals) -> tuple[list[str], str]:
    """Wait until everything is shipped, and return the faults and a sentence."""

    def counted() -> int:
        with psycopg.connect(cluster.database.url) as connection:
            row = connection.execute("SELECT coalesce(sum(count), 0) FROM xks_usagehour").fetchone()
        return int(row[0]) if row else 0

    began = time.monotonic()
    with contextlib.suppress(AssertionError):  # said below, with the numbers
        wait_until(lambda: counted() >= journals.records, "all records are in the database", SHIP_S)
    found = counted()
    if found != journals.records:
        return [f"the journals hold {journals.records} records and the database counts {found}"], ""
    waited = time.monotonic() - began
    return (
        [],
        f"{found} records in the journals and as many counted in the database, {waited:.1f} s after the end.",
    )


def verification(cluster: Cluster) -> tuple[list[str], str]:
    """Run `keystead audit verify` over the journals of both nodes, as an auditor would."""
    gathered = cluster.folder / "gathered" / "journal"
    for node in cluster.nodes:
        folder = journal_folder(node.data, node.name)
        shutil.copytree(folder, gathered / folder.name)
    done = cluster.pairs[0].run("audit", "verify", "--journal", str(gathered))
    said = done.stdout.strip().splitlines()
    if done.returncode:
        return [f"audit verify: {(done.stdout + done.stderr)[-1500:]}"], ""
    return [], f"`keystead audit verify`: {' '.join(line for line in said if not line.startswith('note'))}"


@dataclass
class Row:
    """One line of the table."""

    title: str
    asked: int
    errors: Counter[str]
    longest_ms: float
    first_s: float | None
    last_s: float | None
    recovered_s: float
    canary: str
    notes: str
    faults: list[str]


def row_of(seen: Observed, answers: list[Answer]) -> Row:
    """Gather what the client saw of one scenario."""
    mine = [one for one in answers if seen.began_at <= one.due < seen.ended_at]
    canary = seen.canary.external_key_id if seen.canary else None
    refusals = [one for one in mine if one.status != 200 and not _is_canarys(one, seen)]
    errors = Counter(f"{one.status or ''} {one.error}".strip() for one in refusals)
    faults = list(seen.faults)
    if seen.expects_no_error and refusals:
        faults.append(f"{len(refusals)} requests failed, none should: {dict(errors)}")
    told = ""
    if seen.canary is not None:
        late = [
            one for one in mine
            if one.key == canary and one.status == 200 and one.due > seen.canary.closed_at
        ]  # fmt: skip
        if late:
            faults.append(f"{len(late)} uses of the disabled key were answered after it was closed")
        told = f"confirmed by {seen.canary.confirmed}; {len(late)} uses answered after the bound"
    good = [one.done - one.due for one in mine if one.status == 200]
    first = min((one.due for one in refusals), default=None)
    last = max((one.done for one in refusals), default=None)
    steady = [one for one in mine if one.due < seen.began_at + STEADY_S * 0.9 and one.status != 200]
    if steady:
        faults.append(f"{len(steady)} requests failed before anything was broken")
    settled = [one for one in refusals if one.due > seen.ended_at - AFTER_S / 2]
    if settled:
        faults.append(f"{len(settled)} requests still failed at the end")
    return Row(
        seen.title, len(mine), errors, max(good, default=0.0) * 1000,
        None if first is None else first - seen.fault_at,
        None if last is None else last - seen.fault_at,
        seen.recovered_at - seen.mended_at, told, "; ".join(seen.notes), faults,
    )  # fmt: skip


def _is_canarys(answer: Answer, seen: Observed) -> bool:
    """Tell whether this is the disabled key being refused, which is what was asked for."""
    return (
        seen.canary is not None
        and answer.key == seen.canary.external_key_id
        and answer.error == "InvalidStateException"
    )
