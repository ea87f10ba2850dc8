"""keystead first-admin"""

from typing import Any

from django.core.management.base import BaseCommand

from vault import env, startup
from vault.services.users import ensure_first_admin


class Command(BaseCommand):
    """Makes the first appliance administrator, where `keystead serve` does not run."""

    help = "Make the first appliance administrator and print the one-time password; does nothing when there is one."

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the one-time password, when one was made."""
        startup.prepare_process()
        password = ensure_first_admin()
        if password is not None:
            self.stdout.write(f"{env.get('KEYSTEAD_ADMIN_EMAIL')}\none-time password: {password}")
        else:
            self.stdout.write(
                "No one-time password was made: there is an administrator, or the password was given."
            )
