"""keystead xks certificate-export FILE"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from vault import local_api, startup
from vault.hardening import harden_process
from xks.services.certificates import export_certificate


class Command(BaseCommand):
    """Writes chain and key into one file, as HAProxy wants it."""

    help = (
        "Write the served certificate with its private key to a file of mode 0600, for a front that ends TLS."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument(
            "file", type=Path, help="where to; on a file system in memory, if the front is near"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        startup.check_database(may_migrate=False)
        startup.check_root_key()
        path: Path = options["file"]
        chain, key = export_certificate(local_api.local_actor(None))
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(number, "wb") as file:
                file.write(chain.encode() + key.reveal())
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise CommandError(f"{path} cannot be written: {error.strerror}") from error
        self.stdout.write(f"Written: {path}. Whoever reads it can stand for the endpoint.")
