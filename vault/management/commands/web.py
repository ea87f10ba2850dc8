"""keystead web"""

from typing import Any

from django.core.management.base import BaseCommand
from django.db import connections
from granian import Granian
from granian.constants import HTTPModes, Interfaces, SSLProtocols

from vault import env, logs, startup


class Command(BaseCommand):
    """Serves the web interface and the REST API."""

    help = "Serve the web interface and the REST API."

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until told to stop."""
        startup.prepare_process()
        connections.close_all()
        certificate = env.get("KEYSTEAD_WEB_TLS_CERT")
        server = Granian(
            "vault.wsgi:front",
            address=env.get("KEYSTEAD_BIND"),
            port=env.get("KEYSTEAD_WEB_PORT"),
            interface=Interfaces.RSGI,
            workers=env.get("KEYSTEAD_WEB_WORKERS"),
            # HTTP/2 only where its defaults are not an invitation: a balancer in front speaks it to the world.
            http=HTTPModes.http1,
            websockets=False,
            respawn_failed_workers=True,
            workers_kill_timeout=3,
            ssl_cert=certificate,
            ssl_key=env.get("KEYSTEAD_WEB_TLS_KEY"),
            ssl_protocol_min=SSLProtocols.tls12,
            log_dictconfig=logs.logging_config(env.get("KEYSTEAD_LOG_FORMAT"), env.get("KEYSTEAD_LOG_LEVEL")),
            log_access=False,
        )
        server.serve()
