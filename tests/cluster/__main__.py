"""python -m tests.cluster [--only WORD] [--write]: run the scenarios, print the table, fail on any fault."""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import time

from tests.cluster import evidence, report, scenarios, whole
from tests.cluster.running import Running, begin
from tests.cluster.whole import Deviation


def observe(running: Running, title: str, act: scenarios.Act, expects_no_error: bool) -> scenarios.Observed:
    """Let one scenario happen between two stretches of calm."""
    seen = scenarios.Observed(title, expects_no_error)
    if act in scenarios.CANARIES:
        made = running.cluster.make_key(f"canary-{running.number}")
        seen.canary = scenarios.Canary(made["external_key_id"], made["id"])
        running.tell(f"canary {made['external_key_id']}")
    seen.began_at = time.monotonic()
    scenarios.pause(scenarios.STEADY_S)
    try:
        act(running, seen)
    except (AssertionError, Deviation) as error:
        seen.faults.append(str(error))
    scenarios.pause(scenarios.AFTER_S)
    running.tell("canary")
    seen.ended_at = time.monotonic()
    return seen


def run(only: str) -> tuple[list[evidence.Row], list[str], list[str]]:
    """Run all scenarios whose name has that word; return rows, sentences and faults."""
    cluster = whole.start()
    try:
        running = begin(cluster, secrets.token_hex(4))
        scenarios.pause(5.0)  # the first requests meet cold connections
        seen = []
        for number, (title, act, strict) in enumerate(scenarios.ALL):
            if only in act.__name__:
                running.number = number
                began = time.monotonic()
                seen.append(observe(running, title, act, strict))
                print(f"{title}: {time.monotonic() - began:.0f} s", flush=True)
        answers = running.end_load()
        rows = [evidence.row_of(one, answers) for one in seen]
        faults = [f"{row.title}: {fault}" for row in rows for fault in row.faults]
        journals = evidence.read_journals(cluster)
        sentences = []
        for found, sentence in (
            evidence.against_journals(answers, running.name, journals),
            evidence.against_database(cluster, journals),
            evidence.verification(cluster),
        ):
            faults += found
            sentences += [sentence] if sentence else []
        return rows, sentences, faults
    finally:
        cluster.end()
        if "--keep" not in sys.argv:
            shutil.rmtree(cluster.folder, ignore_errors=True)


def main() -> None:
    """Run, print, write, and end with the right status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="scenarios whose function has this in its name")
    parser.add_argument("--write", action="store_true", help="write the table to docs/reliability.md")
    parser.add_argument("--keep", action="store_true", help="keep the folder with its logs")
    wanted = parser.parse_args()
    rows, sentences, faults = run(wanted.only)
    text = report.table(rows, sentences)
    print(text)
    if wanted.write:
        report.write(text)
    if faults:
        sys.exit("\n".join(["", "FAULTS", *faults]))


if __name__ == "__main__":
    main()
