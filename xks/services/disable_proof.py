"""Showing afterwards, from the journal, that a key which was disabled has answered no use since (docs/kill-switch.md).

Read are the segments on this host, each checked by its MACs (with the key that its seal tells, or, while it is still open, with
the one that the database holds sealed), and for journals of other hosts the single records in the database.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from cloudkeys.models import CloudKey
from vault.actions import Action
from vault.actors import Actor
from vault.errors import Conflict
from vault.keys import RootKeyError, SecretUnreadable, unseal
from vault.models import AuditEvent
from vault.permissions import Permission
from xks import journal_format as form
from xks.audit_seals import stored_seals
from xks.journal import Record
from xks.journal_recovery import segments_of
from xks.journal_writer import node_folder_name, read_segment
from xks.models import AuditKey, JournalChain, JournalShipment, XksRequest
from xks.seals import FIRST_PREVIOUS, SealBroken, open_seal
from xks.services.usage import USES

CLOSES: dict[Action, Action | None] = {
    Action.CLOUD_KEY_DISABLE: Action.CLOUD_KEY_ENABLE,
    Action.CLOUD_KEY_BLOCK: Action.CLOUD_KEY_UNBLOCK,
    Action.CLOUD_KEY_SCHEDULE_DELETION: Action.CLOUD_KEY_ENABLE,
    Action.CLOUD_KEY_DESTROY: None,
    Action.XKS_STORE_BLOCK: Action.XKS_STORE_UNBLOCK,
    Action.VAULT_BLOCK: Action.VAULT_UNBLOCK,
    Action.VAULT_DISABLE: Action.VAULT_ENABLE,
    Action.VAULT_DESTROY: None,
}
"""What closes a key, and what opens it again."""
BACK = timedelta(hours=24)
"""So far before the switch the last accepted use is looked for."""


@dataclass(frozen=True)
class Use:
    """One recorded use of the key, and where its record stands."""

    at: datetime
    generation: int
    operation: str
    outcome: str
    principal_arn: str
    kms_request_id: str
    where: str


@dataclass
class Proof:
    """What the record says of a key since it was closed.

    ``verdict``: PROVEN (everything that there is was read, and nothing was answered), INCOMPLETE (nothing was found that speaks
    against it, but ``gaps``), VIOLATED (``offending`` was answered).
    """

    cloud_key: UUID
    action: str
    switched_at: datetime
    generation: int
    confirmed_at: datetime | None
    """When every counted worker process had confirmed; None when they never all did."""
    closed_from: datetime
    """From when no use may have been answered: confirmed_at, or when the last straggler's lease was over."""
    reopened_at: datetime | None
    verdict: str = "PROVEN"
    last_accepted: Use | None = None
    first_refused: Use | None = None
    offending: Use | None = None
    offence: str = ""
    accepted_between: int = 0
    """Uses answered after the commit and before ``closed_from``, by workers that had not learnt it yet."""
    refused: int = 0
    segments: int = 0
    records: int = 0
    from_database: int = 0
    gaps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return asdict(self)


class _Budget:
    """How long one may go on reading; None: without end."""

    def __init__(self, seconds: float | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        self.spent = False

    def is_over(self) -> bool:
        """Whether the time is over; once it is, it stays so."""
        self.spent = self.spent or (self._until is not None and time.monotonic() > self._until)
        return self.spent


def prove_disable(actor: Actor, cloud_key_id: UUID, journal: Path, *, seconds: float | None = None) -> Proof:
    """Say whether the key has answered a use since it was closed last; ``journal`` is <data>/journal.

    With ``seconds`` no more is begun to be read after that time, and what is left counts as a gap: INCOMPLETE, never PROVEN.
    Raises NotFound, PermissionDenied, Conflict when it was never closed, OSError when a file cannot be read.
    """
    key: CloudKey = actor.fetch(CloudKey, cloud_key_id, Permission.CLOUD_KEYS_VIEW)
    actor.require(Permission.AUDIT_VIEW, key)
    proof, reopened = _begin(key)
    _look_for_rollbacks(proof)
    until = proof.reopened_at or timezone.now()
    judge = _Judge(proof, str(key.pk), reopened)
    statements = _segment_statements(proof)
    since = proof.switched_at - BACK
    budget = _Budget(seconds)
    chains = JournalChain.objects.filter(started_at__lte=until).filter(
        Q(ended_at=None) | Q(ended_at__gte=since)
    )
    for chain in chains.order_by("started_at"):
        if not budget.is_over():
            _read_chain(chain, journal, statements, proof, judge, since, until, budget)
    if budget.spent:
        proof.gaps.append(
            f"reading stopped after {seconds:g} s, with {proof.segments} segments read: keystead audit prove-disable reads them all"
        )
    if proof.offending is not None:
        proof.verdict = "VIOLATED"
    elif proof.gaps:
        proof.verdict = "INCOMPLETE"
    return proof


def _begin(key: CloudKey) -> tuple[Proof, int | None]:
    """Find the switch, how far it was confirmed, and what opened the key again."""
    # With the vault, by which the record's indexes begin: without it a million events would be read.
    record = AuditEvent.objects.filter(vault_id=key.vault_id)
    targets = [str(key.pk), str(key.store_id), str(key.vault_id)]
    events = record.filter(target_id__in=targets).exclude(generation=None)
    closed = events.filter(action__in=[action.value for action in CLOSES]).order_by("-sequence").first()
    if closed is None or closed.generation is None:
        raise Conflict(
            "This key has never been disabled or blocked, nor its store or vault.",
            cure="Disable it first: keystead cloud-key disable.",
        )
    opens = CLOSES[Action(closed.action)]
    opened = None
    if opens is not None:
        opened = (
            events.filter(action=opens.value, target_id=closed.target_id, sequence__gt=closed.sequence)
            .order_by("sequence")
            .first()
        )
    told = record.filter(
        action=Action.DATA_PLANE_CONFIRM.value,
        target_id=closed.target_id,
        sequence__gt=closed.sequence,
        generation__gte=closed.generation,
    ).order_by("sequence")
    if opened is not None:
        told = told.filter(sequence__lt=opened.sequence)
    answers = list(told)
    complete = next((event for event in answers if event.outcome == AuditEvent.Outcome.SUCCESS), None)
    bound_s = max(
        [float(event.detail.get("bound_s", 0)) for event in answers] or [settings.KEYSTEAD_XKS_MAX_STALENESS]
    )
    by_time = closed.at + timedelta(seconds=bound_s)
    proof = Proof(
        cloud_key=key.pk,
        action=closed.action,
        switched_at=closed.at,
        generation=closed.generation,
        confirmed_at=complete.at if complete is not None else None,
        closed_from=min(complete.at, by_time) if complete is not None else by_time,
        reopened_at=opened.at if opened is not None else None,
    )
    if complete is None:
        missing = ", ".join(answers[-1].detail.get("missing", [])) if answers else "nobody waited for it"
        proof.notes.append(
            f"never confirmed by all ({missing}); whoever was missing had closed by itself {bound_s:.0f} s after the switch"
        )
    return proof, opened.generation if opened is not None else None


def _look_for_rollbacks(proof: Proof) -> None:
    accepted = AuditEvent.objects.filter(
        vault=None, action=Action.ROLLBACK_ACCEPT.value, at__gte=proof.switched_at
    )
    for event in accepted:
        proof.gaps.append(
            f"{event.target_name} took over an older database at {_text(event.at)}: generations before and after do not compare"
        )


class _Judge:
    """Takes uses of the key one by one, in the order of their journals."""

    def __init__(self, proof: Proof, key_id: str, reopened: int | None) -> None:
        self._proof = proof
        self.key_id = key_id
        self._reopened = reopened

    def judge(self, use: Use, highest: int) -> None:
        """``highest``: the highest generation recorded before it by the same worker."""
        proof = self._proof
        proof.records += 1
        if self._reopened is not None and use.generation >= self._reopened:
            return
        if use.outcome != "OK":
            if use.generation >= proof.generation:
                proof.refused += 1
                if proof.first_refused is None or use.at < proof.first_refused.at:
                    proof.first_refused = use
            return
        if use.generation >= proof.generation:
            self._offend(use, f"it was answered under generation {use.generation}, which has the key closed")
        elif highest >= proof.generation:
            self._offend(
                use, "the worker had learnt of the switch, and answered by an older state afterwards"
            )
        elif use.at > proof.closed_from:
            self._offend(use, f"it was answered after {_text(proof.closed_from)}, when nobody could any more")
        else:
            if use.at > proof.switched_at:
                proof.accepted_between += 1
            if proof.last_accepted is None or use.at > proof.last_accepted.at:
                proof.last_accepted = use

    def _offend(self, use: Use, offence: str) -> None:
        if self._proof.offending is None or use.at < self._proof.offending.at:
            self._proof.offending, self._proof.offence = use, offence


def _segment_statements(proof: Proof) -> dict[tuple[str, int], dict[str, Any]]:
    """What the seals say of segments, checked against the database's public key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    row = AuditKey.objects.filter(pk=1).first()
    found: dict[tuple[str, int], dict[str, Any]] = {}
    if row is None:
        return found
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(row.public_key))
    previous, number = FIRST_PREVIOUS, 0
    try:
        for number, seal in enumerate(stored_seals(), 1):
            statement = open_seal(key, seal, number, previous).statement
            previous = seal.digest
            if statement["kind"] in ("segment", "dropped"):
                found[statement["chain"], statement["segment"]] = {
                    **found.get((statement["chain"], statement["segment"]), {}),
                    **statement,
                }
    except SealBroken as broken:
        proof.gaps.append(f"the seals do not hold: {broken}")
    if number < row.seals:
        proof.gaps.append(f"seals are missing: {number} of {row.seals} are there")
    return found


def _read_chain(
    chain: JournalChain,
    journal: Path,
    statements: dict[tuple[str, int], dict[str, Any]],
    proof: Proof,
    judge: _Judge,
    since: datetime,
    until: datetime,
    budget: _Budget,
) -> None:
    name, where = chain.id.hex, f"journal {chain.node_name}/{chain.id.hex}"
    folder = journal / node_folder_name(chain.node_name)
    present = set(segments_of(folder, name))
    if not present and not (folder / name).is_dir():
        _read_database(chain, proof, judge, since, until, budget)
        return
    last = max([*present, chain.sealed_segments - 1, chain.anchor_segment or 0])
    highest = 0
    for number in range(last + 1):
        here = f"{where} segment {number}"
        statement = statements.get((name, number))
        following = statements.get((name, number + 1))
        if following is not None and _time(following.get("opened_at", 0)) < since:
            continue  # it had ended long before
        if statement is not None and statement.get("opened_at") and _time(statement["opened_at"]) > until:
            break
        if number not in present:
            if chain.anchor_segment is None and chain.sealed_segments == 0:
                continue  # it never began to write
            if statement is None or statement.get("records", 1):
                proof.gaps.append(f"{here}: the file is not there any more")
            continue
        if budget.is_over():
            return
        data = read_segment(folder, name, number)
        held, damage = _checked_part(chain, number, data, statement)
        proof.segments += 1
        if damage:
            proof.gaps.append(f"{here}: {damage}")
        if statement is not None and statement.get("end") == "killed":
            proof.notes.append(f"{here}: its worker was killed; every answer that left stands before that")
        highest = _judge_segment(held, here, judge, highest)


def _checked_part(
    chain: JournalChain, number: int, data: bytes, statement: dict[str, Any] | None
) -> tuple[bytes, str]:
    """Return the part of a segment that its MACs vouch for, and what is wrong with the rest or the whole."""
    if statement is not None and "mac_key" in statement:
        checked, damage = form.check_prefix(data[: statement["bytes"]], bytes.fromhex(statement["mac_key"]))
        if statement["end"] in ("damaged", "missing"):
            damage_text = f"{statement['end']} when it was sealed: {statement['detail']}"
        elif damage is not None:
            damage_text = str(damage)
        elif checked is None or checked.entries < statement["entries"]:
            damage_text = f"cut: {statement['entries']} entries were sealed"
        else:
            damage_text = ""
        return data[: checked.size] if checked is not None else b"", damage_text
    if number < chain.sealed_segments or chain.state is None:
        return b"", "its seal is missing, so it cannot be checked"
    try:
        state = form.state_after(unseal(chain, "state").reveal(), number - chain.sealed_segments)
    except (RootKeyError, SecretUnreadable) as error:
        return b"", f"still open, and its key cannot be read here: {error}"
    checked, damage = form.check_prefix(data, form.mac_key_of(state))
    held = data[: checked.size] if checked is not None else b""
    if damage is not None:
        return held, str(damage)
    return held, _against_anchor(chain, number, held)


def _against_anchor(chain: JournalChain, number: int, held: bytes) -> str:
    """What is wrong with an open segment beside what the database has seen of it."""
    if chain.anchor_segment != number or chain.anchor_sequence is None:
        return ""
    for entry in form.read_entries(held):
        if entry.sequence == chain.anchor_sequence:
            right = hmac.compare_digest(entry.mac.hex(), chain.anchor_mac)
            return "" if right else f"entry {entry.sequence} is not the one that was anchored"
    return f"cut: entry {chain.anchor_sequence} was anchored and is not there"


def _judge_segment(held: bytes, here: str, judge: _Judge, highest: int) -> int:
    """Hand the key's uses to the judge; return the highest generation recorded so far."""
    withheld = set(_withheld(held))
    for entry, record in form.records_of(held):
        if record.key_id == judge.key_id and record.operation in USES and entry.sequence not in withheld:
            judge.judge(_use(record, f"{here} entry {entry.sequence}"), highest)
        highest = max(highest, record.generation)
    return highest


def _withheld(held: bytes) -> Iterator[int]:
    for entry in form.read_entries(held):
        if entry.kind == form.WITHHELD:
            yield from range(entry.values[1], entry.values[2] + 1)


def _use(record: Record, where: str) -> Use:
    at = datetime.fromtimestamp(record.at, UTC)
    names = (record.operation, record.outcome, record.principal_arn, record.kms_request_id)
    return Use(at, record.generation, *names, where)


def _read_database(
    chain: JournalChain, proof: Proof, judge: _Judge, since: datetime, until: datetime, budget: _Budget
) -> None:
    """Take the records of a journal of another host from the database, as far as they have come."""
    where = f"journal {chain.node_name}/{chain.id.hex}"
    if chain.end in (JournalChain.End.LOST, JournalChain.End.DAMAGED):
        proof.gaps.append(f"{where}: {chain.get_end_display().lower()}")
    shipments = list(JournalShipment.objects.filter(chain=chain).order_by("segment"))
    if any(one.damaged for one in shipments):
        proof.gaps.append(f"{where}: a part of it could not be read when it was taken into the database")
    if chain.ended_at is not None and (
        len(shipments) < chain.sealed_segments or not all(one.complete for one in shipments)
    ):
        proof.gaps.append(f"{where}: on another host, and not all of it is in the database")
    if chain.ended_at is None:
        reached = max((one.last_at for one in shipments if one.last_at), default=None)
        told = _text(reached) if reached else "nothing yet"
        if reached is None or reached < until:
            proof.gaps.append(f"{where}: on another host and still written to; in the database is {told}")
    rows = XksRequest.objects.filter(
        chain_id=chain.id, at__gte=since - timedelta(hours=1), withheld=False
    ).order_by("segment", "entry")
    highest = 0
    for number, row in enumerate(rows.iterator(chunk_size=2000)):
        if number % 2000 == 1999 and budget.is_over():
            break
        if str(row.key_id) == judge.key_id and row.operation in USES:
            proof.from_database += 1
            names = (row.operation, row.outcome, row.principal_arn, row.kms_request_id)
            use = Use(row.at, row.generation, *names, f"{where} segment {row.segment} entry {row.entry}")
            judge.judge(use, highest)
        highest = max(highest, row.generation)
    proof.notes.append(f"{where}: on another host; its records were taken from the database")


def _time(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1e6, UTC)


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
