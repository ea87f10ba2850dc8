"""keystead restore: put a backup in the database's place."""

from __future__ import annotations

from argparse import ArgumentParser
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from vault import startup
from vault.actions import Action
from vault.actors import Actor
from vault.backup import BackupFailed
from vault.backup_format import BackupDamaged
from vault.changes import change
from vault.hardening import harden_process
from vault.restore import RestoreRefused, check_backup, restore_backup
from vault.rootkey import RootKeyError


class Command(BaseCommand):
    """Arguments and messages; the work is in vault.restore."""

    help = (
        "Put a backup in the database's place, whole or not at all. Stop Keystead first. The root key must be there "
        "already. The state is that of the backup: what was disabled, blocked, revoked or destroyed since then is as "
        "it was before."
    )
    # The database that is being restored may be missing or damaged, which is what checks would stumble over.
    requires_system_checks: Any = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("file", type=Path, metavar="FILE", help="a file of 'keystead backup'")
        parser.add_argument("--force", action="store_true", help="replace what the database holds now")
        parser.add_argument(
            "--check", action="store_true", help="only read the whole file and say what it is"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        source: Path = options["file"]
        try:
            if options["check"]:
                header = check_backup(source)
                self.stdout.write(
                    f"{source} is whole: {header.engine}, made {header.created_at} by Keystead {header.software}."
                )
                return
            # On PostgreSQL the restore is one transaction; a SQLite file that is open elsewhere must not be replaced.
            with startup.lock_data_dir() if connection.vendor == "sqlite" else nullcontext():
                done = restore_backup(source, force=options["force"])
        except BackupDamaged as error:
            raise CommandError(f"{source} was not restored: {error}. Nothing was changed.") from error
        except (RestoreRefused, BackupFailed, RootKeyError) as error:
            raise CommandError(str(error)) from error
        if done.needs_migrate:
            call_command("migrate", interactive=False, verbosity=0)
        with change(Actor.system("cli")) as collected:
            collected.audit(
                Action.BACKUP_RESTORE,
                None,
                target_type="backup",
                target_id=done.header.id,
                target_name=source.name,
                detail={"made_at": done.header.created_at, "generation": done.generation},
            )
        for place in done.keks_damaged:
            self.stderr.write(f"Warning: {place} is damaged in this backup; an earlier one may be whole.")
        self.stdout.write(
            f"Restored the state of {done.header.created_at}; the generation is now {done.generation}."
        )
        if done.kept is not None:
            self.stdout.write(
                f"What was there before is {done.kept}; remove it when it is not needed any more."
            )
        self.stdout.write(
            "What was disabled, blocked, revoked or destroyed since then is undone: look through it, then start."
        )
