"""keystead keys rewrap: move every vault's KEK under another root key."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from hsm.base import DataInvalid
from vault import rootkey
from vault.actors import Actor
from vault.hardening import harden_process
from vault.rewrap import RewrapUnverified, rewrap_root


class Command(BaseCommand):
    """Arguments and messages; the work is in vault.rewrap."""

    help = (
        "Move every key under another root key, while Keystead runs. Killed or failed at any point, it can be run "
        "again with the same file and goes on. On several hosts, first put the new root key beside the old one on "
        "each, as <root key file>.next."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument(
            "--new-root-key-file",
            type=Path,
            required=True,
            metavar="FILE",
            help="file of the new root key (32 bytes, mode 0600); made when it does not exist",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        new_file: Path = options["new_root_key_file"].absolute()
        try:
            if not new_file.exists():
                rootkey.create_key_file(new_file)
                self.stdout.write(f"Made a new root key in {new_file}.")
            done = rewrap_root(new_file, Actor.system("cli"))
        except (rootkey.RootKeyError, DataInvalid, RewrapUnverified) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"All {done.moved + done.already} key encryption keys are under root key {done.new_root_id} "
            f"({done.moved} moved now) and were opened with it."
        )
        if done.files_switched:
            self.stdout.write(
                f"{done.key_file} is the new root key. The old one is {rootkey.previous_path(done.key_file).name} "
                "beside it: keep a copy elsewhere for as long as you keep backups made before today, then remove it."
            )
        else:
            self.stdout.write(
                f"The folder of {done.key_file} is read-only here: make the new root key that file's content "
                f"yourself, and the old one {rootkey.previous_path(done.key_file).name}'s. Until then Keystead works "
                f"with {rootkey.next_path(done.key_file).name}."
            )
        self.stdout.write(
            f"Running processes have picked the new root up by themselves. Export it now (keystead keys export-root), "
            f"and remove {new_file} if you do not keep it as a copy."
        )
