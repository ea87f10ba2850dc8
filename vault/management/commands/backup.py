"""keystead backup: an encrypted copy of the database, while everything runs."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from vault.actions import Action
from vault.actors import Actor
from vault.backup import BackupFailed, create_backup
from vault.backup_format import BackupDamaged
from vault.changes import change
from vault.hardening import harden_process
from vault.rootkey import RootKeyError


class Command(BaseCommand):
    """Arguments and messages; the work is in vault.backup."""

    help = (
        "Write an encrypted backup of the database, consistent while Keystead runs, and read it back. The root key "
        "is not in it and is needed to restore it: keep that elsewhere (keystead keys export-root)."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("file", type=Path, metavar="FILE", help="file to write, mode 0600")
        parser.add_argument("--force", action="store_true", help="replace FILE when it exists")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        try:
            made = create_backup(options["file"].absolute(), overwrite=options["force"])
        except (BackupFailed, BackupDamaged, RootKeyError) as error:
            raise CommandError(str(error)) from error
        with change(Actor.system("cli")) as collected:
            collected.audit(
                Action.BACKUP_CREATE,
                None,
                target_type="backup",
                target_id=made.header.id,
                target_name=made.path.name,
                detail={"bytes": made.size, "root_key_ids": made.header.root_key_ids},
            )
        for place in made.keks_damaged:
            self.stderr.write(
                f"Warning: {place} is damaged in the database; an earlier backup may hold it whole."
            )
        self.stdout.write(
            f"{made.path}: {made.size} bytes, encrypted, read back and checked. Restoring it needs root key "
            f"{' and '.join(made.header.root_key_ids)}, which is not in it."
        )
