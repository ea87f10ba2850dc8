"""keystead xks serve"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from vault import env
from xks.server import ServerSettings, clean_environment, command


class Command(BaseCommand):
    """Becomes the data plane: this process's memory, with all of Django, is gone after the exec."""

    help = "Serve the XKS endpoint that AWS KMS calls, with keys from this node's agent."

    def handle(self, *args: Any, **options: Any) -> NoReturn:
        """See BaseCommand."""
        environ = {**clean_environment(os.environ), **server_settings().to_environment()}
        path = [str(settings.BASE_DIR), environ.get("PYTHONPATH", "")]
        environ["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
        sys.stdout.flush()
        try:
            # Anything else would leave the database's address and the like readable in /proc/<pid>/environ.
            os.execve(sys.executable, command(), environ)  # noqa: S606
        except OSError as error:
            raise CommandError(f"the XKS endpoint cannot be started: {error}") from error


def server_settings() -> ServerSettings:
    """Return the data plane's settings, each also read from its NAME_FILE. Raises vault.env.SettingError."""
    return ServerSettings(
        socket_path=str(env.get("KEYSTEAD_XKS_SOCKET")),
        tls_folder=env.data_dir() / "tls",
        address=env.get("KEYSTEAD_BIND"),
        port=env.get("KEYSTEAD_XKS_PORT"),
        workers=env.get("KEYSTEAD_XKS_WORKERS"),
        tls=env.get("KEYSTEAD_XKS_TLS"),
        certificate=env.get("KEYSTEAD_XKS_TLS_CERT"),
        key=env.get("KEYSTEAD_XKS_TLS_KEY"),
        budget_s=env.get("KEYSTEAD_XKS_BUDGET_MS") / 1000,
        node_name=env.get("KEYSTEAD_NODE_NAME"),
        journal_sync=env.get("KEYSTEAD_XKS_JOURNAL_SYNC"),
        drain_s=env.get("KEYSTEAD_XKS_DRAIN"),
        fronts=tuple(str(network) for network in env.get("KEYSTEAD_XKS_FRONTS")),
    )
