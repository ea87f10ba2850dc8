"""keystead simulator credentials"""

import json
import sqlite3
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from cloudkeys.simulators.aws import bootstrap, product
from vault import env


class Command(BaseCommand):
    """Prints credentials of an administrator of the simulator's first account."""

    help = "Print the endpoint and an administrator's credentials of the AWS simulator's first account."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take --json."""
        parser.add_argument("--json", action="store_true", help="one JSON object instead of shell exports")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print; works whether or not the simulator runs, since both open the same state."""
        try:
            settings = product.simulator_settings()
            sim = bootstrap.open_simulator(settings)
        except (env.SettingError, OSError, sqlite3.Error) as error:
            raise CommandError(f"The AWS simulator's state cannot be read: {error}") from error
        try:
            account = settings.accounts[0]
            access_key_id, secret = bootstrap.administrator_credentials(sim, account)
        finally:
            sim.close()
        found = {
            "endpoint": f"http://{settings.host}:{settings.port}",
            "region": settings.default_region,
            "account": account,
            "access_key_id": access_key_id,
            "secret_access_key": secret,
        }
        if options["json"]:
            self.stdout.write(json.dumps(found))
            return
        self.stdout.write(f"export AWS_ENDPOINT_URL={found['endpoint']}")
        self.stdout.write(f"export AWS_DEFAULT_REGION={found['region']}")
        self.stdout.write(f"export AWS_ACCESS_KEY_ID={access_key_id}")
        self.stdout.write(f"export AWS_SECRET_ACCESS_KEY={secret}")
        self.stdout.write(f"# account {account}")
