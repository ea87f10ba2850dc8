"""keystead xks accept-rollback"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from vault import startup
from vault.errors import DomainError
from vault.local_api import local_actor
from vault.models import Node
from vault.services.nodes import accept_rollback


class Command(BaseCommand):
    """Arguments and output; the work is in vault.services.nodes."""

    help = (
        "Let data-plane nodes take over a database that went backwards (a failover that lost commits, a restored backup). "
        "Until then they refuse it: what was disabled, blocked or revoked since may be open again there. Nothing needs a restart."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("node", nargs="?", help="its name (default: every node that refuses)")
        parser.add_argument("--reason", default="", help="why, for the audit record")
        parser.add_argument(
            "--as", dest="as_email", metavar="EMAIL", help="act as this person, with their rights only"
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        startup.check_database(may_migrate=False)
        node_id = None
        if options["node"]:
            node = Node.objects.filter(name=options["node"]).first()
            if node is None:
                raise CommandError(f"There is no node {options['node']}. See: keystead xks node list")
            node_id = node.pk
        try:
            done = accept_rollback(local_actor(options["as_email"]), node_id, reason=options["reason"])
        except DomainError as error:
            raise CommandError(f"{error.message} {error.cure}".strip()) from error
        rows = [
            {
                "name": one.node.name,
                "held_generation": one.held_generation,
                "accepted_generation": one.accepted_generation,
            }
            for one in done
        ]
        if options["json"]:
            self.stdout.write(json.dumps({"items": rows}, indent=2))
            return
        for row in rows:
            self.stdout.write(
                f"{row['name']} may let go of generation {row['held_generation']} and take over the database"
                f" (now {row['accepted_generation']}). It does so within two seconds: keystead xks node list"
            )
