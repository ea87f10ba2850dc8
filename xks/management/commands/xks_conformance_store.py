"""keystead xks conformance-store"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from cloudkeys.models import KeySet
from vault import env, startup
from vault.actors import Actor
from vault.hardening import harden_process
from xks.conformance import KEYS, ConformanceStore, prepare_conformance_store


class Command(BaseCommand):
    """Arguments and output; the work is in xks.conformance."""

    help = (
        "Make (or find) a key store to check this endpoint with AWS's conformance client. Run it beside a running "
        "instance, with the same settings. It prints the store's secret, each time: no data is under its keys."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--protection",
            default=KeySet.Protection.SOFTWARE.value,
            choices=KeySet.Protection.values,
            help="protection of its keys (default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        startup.check_database(may_migrate=False)
        startup.check_root_key()
        made = prepare_conformance_store(Actor.system("cli"), options["protection"])
        shown = describe(made)
        if options["json"]:
            self.stdout.write(json.dumps(shown, indent=2))
        else:
            keys = ", ".join(KEYS)
            self.stdout.write(
                f"Endpoint          {shown['endpoint']}\nURI path prefix   {shown['uri_path_prefix']}\n"
                f"Access key id     {shown['access_key_id']}\nSecret            {shown['secret_access_key']}\n"
                f"Keys              {keys}"
            )
        for line in warnings_of(made):
            self.stderr.write(f"keystead: warning: {line}")


def describe(made: ConformanceStore) -> dict[str, Any]:
    """Return what a client needs to know, secret included."""
    scheme = "https" if env.get("KEYSTEAD_XKS_TLS") else "http"
    return {
        "endpoint": f"{scheme}://localhost:{env.get('KEYSTEAD_XKS_PORT')}",
        "uri_path_prefix": made.store.path_prefix,
        "access_key_id": made.credential.credential.access_key_id,
        "secret_access_key": made.credential.secret.reveal_text(),
        "keys": {name: name for name in KEYS},
    }


def warnings_of(made: ConformanceStore) -> list[str]:
    """Return why the endpoint may not serve the store yet."""
    confirmation = made.confirmation
    if confirmation.counted == 0:
        return ["no XKS worker runs: start Keystead (keystead serve) before the client."]
    if not confirmation.complete:
        return [f"not yet confirmed by {name}." for name in confirmation.missing]
    return []
