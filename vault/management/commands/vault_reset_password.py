"""keystead vault reset-password EMAIL"""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from vault import startup
from vault.actors import Actor
from vault.errors import DomainError
from vault.services.users import issue_one_time_password


class Command(BaseCommand):
    """The way back in for somebody who has lost the password, the appliance admin included."""

    help = "Replace a person's password by a one-time password, and print it. Ends all of that person's sessions."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """One positional argument."""
        parser.add_argument("email", help="the e-mail address that the person signs in with")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the one-time password."""
        startup.prepare_process()
        try:
            issued = issue_one_time_password(
                Actor.system("cli", "keystead vault reset-password"), options["email"]
            )
        except DomainError as error:
            raise CommandError(f"{error.message} {error.cure}".strip()) from None
        self.stdout.write(f"{issued.user.email}\none-time password: {issued.password.reveal_text()}")
