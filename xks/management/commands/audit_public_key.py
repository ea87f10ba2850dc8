"""keystead audit public-key"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from vault import startup
from xks.audit_seals import ensure_key


class Command(BaseCommand):
    """Prints the key; makes it when there is none."""

    help = "Print the public key that checks seals (Ed25519, hex). Keep it where the auditor keeps things."

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        startup.check_database(may_migrate=False)
        startup.check_root_key()
        self.stdout.write(ensure_key().public_key)
