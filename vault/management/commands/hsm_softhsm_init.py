"""keystead hsm softhsm-init: tokens of SoftHSM, connected, for trying out. Not for production."""

from __future__ import annotations

import secrets
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from hsm.base import HsmUnavailable
from hsm.softhsm import make_tokens
from vault import env, startup
from vault.actors import Actor
from vault.errors import DomainError
from vault.hardening import harden_process
from vault.models import HsmConnection, Vault
from vault.secret import Secret
from vault.services.hsm import MemberSpec, create_connection

NAME = "softhsm"


def init_softhsm(
    name: str, members: int, *, vaults: list[Vault], folder: Path | None = None
) -> HsmConnection:
    """Make tokens in the data folder and connect them as one HSM; the connection that is there already is returned.

    Raises HsmUnavailable where SoftHSM is not installed, DomainError, OSError.
    """
    there = HsmConnection.objects.filter(name=name).first()
    if there is not None:
        return there
    root = folder or env.data_dir() / "softhsm" / name
    labels = [f"{name}-{number}" for number in range(1, members + 1)]
    pin_file = root / "pin"
    # Tokens outlive a database that was thrown away: their PIN is kept beside them, as safe as their keys are there.
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    env.create_private_file(pin_file, secrets.token_urlsafe(18).encode())
    pin = Secret(pin_file.read_text("ascii"))
    made = make_tokens(root, labels, pin=pin.reveal_text())
    return create_connection(
        Actor.system("cli"),
        name=name,
        module_path=made.module,
        environment=made.environment,
        members=[MemberSpec(serial=each.serial) for each in made.tokens],
        pin=pin,
        timeout_ms=5000,
        vaults=[each.pk for each in vaults],
    )


class Command(BaseCommand):
    """Arguments and messages."""

    help = "NOT FOR PRODUCTION. Make SoftHSM tokens in the data folder and connect them as an HSM, to try HSMs out without one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("--name", default=NAME, help="name of the connection (default: softhsm)")
        parser.add_argument("--members", type=int, default=1, help="how many tokens, 1 to 4 (default: 1)")
        parser.add_argument(
            "--vault",
            action="append",
            default=[],
            metavar="NAME",
            help="vault that may use it; may be repeated",
        )
        parser.add_argument("--all-vaults", action="store_true", help="every vault may use it")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        startup.check_database(may_migrate=False)
        startup.check_root_key()
        if not 1 <= options["members"] <= 4:
            raise CommandError("Give 1 to 4 members.")
        vaults = list(Vault.objects.exclude(state=Vault.State.DESTROYED))
        if not options["all_vaults"]:
            unknown = set(options["vault"]) - {each.name for each in vaults}
            if unknown:
                raise CommandError(f"There is no vault {', '.join(sorted(unknown))}.")
            vaults = [each for each in vaults if each.name in options["vault"]]
        existed = HsmConnection.objects.filter(name=options["name"]).exists()
        try:
            row = init_softhsm(options["name"], options["members"], vaults=vaults)
        except (HsmUnavailable, DomainError, OSError) as error:
            cure = getattr(error, "cure", "")
            raise CommandError(f"{error} {cure}".strip()) from error
        self.stdout.write(
            f"{row.name} was connected before; nothing was changed."
            if existed
            else f"{row.name} is connected: {options['members']} token(s) of SoftHSM in {env.data_dir() / 'softhsm' / row.name}."
        )
        self.stdout.write(
            "NOT FOR PRODUCTION: SoftHSM is a program, its keys are files. Pages and answers mark it as such."
        )
