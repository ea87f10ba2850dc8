"""keystead audit verify"""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from vault import env, startup
from xks.audit_check import verify
from xks.models import AuditKey


class Command(BaseCommand):
    """Arguments and output; the work is in xks.audit_check."""

    help = (
        "Check that nobody has changed the journal, the seals, the records in the database or the audit events. Exits "
        "with 1 when something does not hold, and names the first bad record of each."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--public-key",
            type=public_key,
            help="hex, as printed by 'keystead audit public-key' when it was made; default: the database's, which "
            "proves less, for whoever can change seals may change it too",
        )
        parser.add_argument(
            "--journal", type=Path, help="folder of the journals (default: journal in the data folder)"
        )
        parser.add_argument(
            "--known-head",
            type=known_head,
            help="NUMBER:SHA256 of the last seal at an earlier check: tells when seals were cut off since",
        )

        parser.add_argument(
            "--days",
            type=int,
            help="compare the database's records of the last so many days only (default: all that are kept)",
        )
        parser.add_argument(
            "--no-gaps",
            action="store_true",
            help="exit with 1 for gaps, too: what was written and is not here",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        startup.check_database(may_migrate=False)
        key = options["public_key"] or stored_public_key()
        if key is None:
            raise CommandError("Nothing has been sealed yet: no agent has run on this database.")
        folder = options["journal"] or env.data_dir() / "journal"
        since = None if options["days"] is None else timezone.now() - timedelta(days=options["days"])
        report = verify(
            key,
            folder,
            known_head=options["known_head"],
            wanted=lambda begun: since is None or begun >= since,
        )
        if options["json"]:
            self.stdout.write(json.dumps({"holds": report.holds, **asdict(report)}, indent=2))
        else:
            for note in report.notes:
                self.stdout.write(f"note     {note}")
            for gap in report.gaps:
                self.stdout.write(f"GAP      {gap}")
            for finding in report.findings:
                self.stdout.write(f"FINDING  {finding}")
            self.stdout.write(
                f"{report.seals} seals, {report.chains} journals, {report.segments} sealed segments with "
                f"{report.records} records, {report.stored} records in the database, {report.events} audit events."
                f"\nLast seal {report.seals}:{report.head}"
            )
        if not report.holds:
            raise CommandError(f"{len(report.findings)} findings: the record is not what was written.")
        if report.gaps and options["no_gaps"]:
            raise CommandError(f"{len(report.gaps)} gaps: not all that was written is here.")


def stored_public_key() -> Ed25519PublicKey | None:
    """Return the public key that the database holds."""
    text = AuditKey.objects.values_list("public_key", flat=True).filter(pk=1).first()
    return None if text is None else Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))


def public_key(text: str) -> Ed25519PublicKey:
    """Parse a public key."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError:
        raise ArgumentTypeError("give 64 hex digits") from None


def known_head(text: str) -> tuple[int, str]:
    """Parse NUMBER:SHA256."""
    number, _, digest = text.partition(":")
    if not number.isdecimal() or len(digest) != 64:
        raise ArgumentTypeError("give NUMBER:SHA256, as the end of an earlier check says it")
    return int(number), digest
