"""keystead xks agent"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from vault import __version__, env, startup
from vault.hardening import harden_process
from vault.keys import RootKeyError
from xks.agent import Agent
from xks.agent_socket import SocketUnusable
from xks.journal_writer import journal_folder
from xks.metrics_agent import MetricsSettings
from xks.siem_sinks import FileSink, Sink, TlsSink

SWITCH_INTERVAL_S = 0.0005


class Command(BaseCommand):
    """Runs this node's agent until SIGTERM or SIGINT."""

    help = "Run this node's agent: it loads keys from the database and hands them to the XKS workers."

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        # Whoever passes on a disable must not wait 5 ms for each turn beside the thread that ships journals.
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            startup.prepare_process()
            asyncio.run(serve())
        except (RootKeyError, startup.StartRefused, SocketUnusable) as error:
            raise CommandError(str(error)) from error


async def serve() -> None:
    """Run the agent with the settings of this process. Raises what Agent.run raises."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    agent = Agent(
        socket_path=env.get("KEYSTEAD_XKS_SOCKET"),
        node_name=env.get("KEYSTEAD_NODE_NAME"),
        memory=env.data_dir()
        / "agent"
        / f"{journal_folder(env.data_dir(), env.get('KEYSTEAD_NODE_NAME')).name}.json",
        max_staleness_s=env.get("KEYSTEAD_XKS_MAX_STALENESS"),
        software_version=__version__,
        journal_days=env.get("KEYSTEAD_XKS_JOURNAL_DAYS"),
        request_days=env.get("KEYSTEAD_XKS_REQUEST_DAYS"),
        siem=siem_sink(),
        journal_folder=journal_folder(env.data_dir(), env.get("KEYSTEAD_NODE_NAME")),
        metrics=metrics_settings(),
    )
    await agent.run(stop)


def metrics_settings() -> MetricsSettings | None:
    """Where this process's settings have Prometheus answered; None for nowhere."""
    port = env.get("KEYSTEAD_METRICS_PORT")
    if not port:
        return None
    certificate = None
    if env.get("KEYSTEAD_XKS_TLS"):
        certificate = env.get("KEYSTEAD_XKS_TLS_CERT") or env.data_dir() / "tls" / "xks.pem"
    return MetricsSettings(
        address=env.get("KEYSTEAD_METRICS_ADDRESS"),
        port=port,
        expected_workers=env.get("KEYSTEAD_XKS_WORKERS"),
        certificate=certificate,
    )


def siem_sink() -> Sink | None:
    """Return where the stream for a SIEM goes, if anywhere. Raises OSError for certificates that cannot be read."""
    url = env.get("KEYSTEAD_SIEM_URL")
    if url is None:
        return None
    if url.path is not None:
        return FileSink(url.path)
    certificate = env.get("KEYSTEAD_SIEM_CERT")
    return TlsSink(
        url.host,
        url.port,
        sender=env.get("KEYSTEAD_NODE_NAME"),
        authorities=env.get("KEYSTEAD_SIEM_CA"),
        certificate=None if certificate is None else (certificate, env.get("KEYSTEAD_SIEM_KEY")),
    )
