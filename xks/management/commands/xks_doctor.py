"""keystead xks doctor STORE"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping
from typing import Any

from vault import startup
from vault.commandline import GroupCommand, Verb, _Run
from vault.hardening import harden_process

_MARKS = {"ok": "ok   ", "info": "info ", "warn": "WARN ", "error": "ERROR"}
EXAMINE = Verb("run", "POST", "xks-key-stores/{store}/doctor")
LAST = Verb("last", "GET", "xks-key-stores/{store}/doctor")
EXIT_ERRORS = 1


class Command(GroupCommand):
    """One command, not a group of them: what it does is the store's name alone."""

    help = "Examine an external key store as AWS KMS meets it: what is wrong, why it matters, what to do."
    verbs = (EXAMINE, LAST)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument(
            "the_store", metavar="STORE", help="name of its key set, its path prefix, or its id"
        )
        parser.add_argument(
            "--last", action="store_true", help="show the last report, without examining anew"
        )
        parser.add_argument(
            "--region", dest="field_region", help="of which AWS key store; the first when left out"
        )
        parser.add_argument(
            "--samples",
            dest="field_samples",
            type=int,
            metavar="N",
            help="encrypts and decrypts to measure (20)",
        )
        parser.add_argument("--vault", metavar="VAULT", help="name or id (when there is more than one)")
        parser.add_argument("--as", dest="as_email", metavar="EMAIL", help="act as this person")
        parser.add_argument("--json", action="store_true", help="print the report as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand. Exits with 1 when there is an error among the findings."""
        harden_process()
        startup.check_database(may_migrate=False)
        startup.check_root_key()
        run = _Run(self, LAST if options["last"] else EXAMINE, options)
        path = f"xks-key-stores/{run.find('store', options['the_store'])}/doctor"
        body = {
            name: options[f"field_{name}"]
            for name in ("region", "samples")
            if options[f"field_{name}"] is not None
        }
        report = run.call("GET", path).data if options["last"] else run.call("POST", path, body=body).data
        if options["json"]:
            self.stdout.write(json.dumps(report, indent=2))
        else:
            for line in lines_of(report):
                self.stdout.write(line)
        if report["severity"] == "error":
            sys.exit(EXIT_ERRORS)


def lines_of(report: Mapping[str, Any]) -> Iterable[str]:
    """The report for people: what is well in a line, what is not with why and what to do."""
    yield f"{report['endpoint']} ({report['region']}), examined {report['examined_at']} in {report['seconds']:g} s"
    for each in report["findings"]:
        yield f"{_MARKS[each['severity']]} {each['id']}: {each['what']}"
        if each["severity"] in ("warn", "error"):
            yield f"        Why: {each['why']}"
        if each["do"]:
            yield f"        Do:  {each['do']}"
    counts = {name: sum(1 for f in report["findings"] if f["severity"] == name) for name in _MARKS}
    yield ", ".join(f"{number} {name}" for name, number in counts.items() if number) + "."
