"""keystead keys migrate-root: move the root key into an HSM, or from one HSM to another."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from hsm.base import DataInvalid
from vault import rootkey
from vault.actors import Actor
from vault.errors import DomainError
from vault.hardening import harden_process
from vault.models import HsmConnection
from vault.rewrap import RewrapUnverified, move_root_to_hsm


class Command(BaseCommand):
    """Arguments and messages; the work is in vault.rewrap."""

    help = (
        "Move every key under a root key that is made in an HSM and never leaves it, while Keystead runs. Killed or failed "
        "at any point, it can be run again and goes on. Back to a file: keystead keys rewrap."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument(
            "--hsm", required=True, metavar="NAME", help="name of the HSM connection to move to"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        hsm = HsmConnection.objects.filter(name=options["hsm"]).first()
        if hsm is None:
            raise CommandError(f"There is no HSM {options['hsm']}. keystead hsm list shows all.")

        def progress(done: int, total: int) -> None:
            if done == total or done % 50 == 0 or total <= 20:
                self.stdout.write(f"{done} of {total} key encryption keys")

        try:
            done = move_root_to_hsm(hsm, Actor.system("cli"), progress=progress)
        except (rootkey.RootKeyError, DomainError, DataInvalid, RewrapUnverified) as error:
            cure = f" {error.cure}" if isinstance(error, DomainError) and error.cure not in str(error) else ""
            raise CommandError(
                f"{error}{cure} What was moved stays moved; run this again to go on."
            ) from error
        self.stdout.write(
            f"All {done.moved + done.already} key encryption keys are under root key {done.new_root_id} in {hsm.name} "
            f"({done.moved} moved now) and were opened with it."
        )
        self.stdout.write(
            f"{done.key_file}, if that was the root key until now, is needed for backups made before today only: keep it as long "
            "as you keep those, elsewhere, and remove it from the hosts."
        )
        self.stdout.write("Now back the HSM up, try that backup, and make a new backup of Keystead.")
