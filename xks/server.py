"""Runs the data plane: granian with N worker processes, from plain settings.

``python -m xks.server`` takes them from the environment.  The processes here hold keys and face the
network, so they are kept from everything else: the program starts itself anew without any
environment variable that could hold a database address, a root key's place or cloud credentials.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from granian.constants import Interfaces, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels

from hsm.hardening import HardeningFailed, harden_process
from xks import tls
from xks.app import App, refuse_unrecorded
from xks.credential_uses import CredentialUses
from xks.endpoint_tls import AgentLine, Certificates, Files, UnusableCertificate, describe
from xks.fronts import Fronts
from xks.graceful import GracefulServer
from xks.journal_guard import LOOP_NAME, StallGuard
from xks.journal_writer import FileJournal, SyncMode, journal_folder
from xks.keyring import Serving
from xks.listeners import BACKLOG, Listeners
from xks.metrics_counters import Counters
from xks.operations import Engine
from xks.policy import RulesJudge
from xks.policy_shadow import ShadowCounts
from xks.resident import Desk, connect
from xks.wire import MetricsReport
from xks.worker import Link, read_boot_id

log = logging.getLogger("keystead.xks")

MAX_HEADER_BYTES = 16 * 1024
"""Request line and headers together; more is answered with 431."""
HEADER_TIMEOUT_MS = 60_000
"""For the next request's headers to come; granian counts idle keep-alive connections so, too."""
MAX_CONNECTIONS = 4096
"""Open connections of one worker; more wait until one of them ends."""
DRAIN_S = HEADER_TIMEOUT_MS / 1000
"""Workers that are replaced may finish what they have for so long: as an idle connection may stay open."""
SHUTDOWN_S = 4
"""Requests under way may take this long when the server is told to stop; then workers are killed."""
RENEWAL_CHECK = timedelta(hours=6)

_OURS = (
    "KEYSTEAD_BIND",
    "KEYSTEAD_DATA_DIR",
    "KEYSTEAD_NODE_NAME",
    "KEYSTEAD_XKS_BUDGET_MS",
    "KEYSTEAD_XKS_DRAIN",
    "KEYSTEAD_XKS_FRONTS",
    "KEYSTEAD_XKS_JOURNAL_SYNC",
    "KEYSTEAD_XKS_PORT",
    "KEYSTEAD_XKS_SOCKET",
    "KEYSTEAD_XKS_TLS",
    "KEYSTEAD_XKS_TLS_CERT",
    "KEYSTEAD_XKS_TLS_KEY",
    "KEYSTEAD_XKS_WORKERS",
)
_HARMLESS = (
    "HOME",
    "LANG",
    "LC_ALL",
    "PATH",
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
    "PYTHONWARNINGS",
    "TMPDIR",
    "TZ",
)


class SettingsError(Exception):
    """A setting is wrong; the message names it, the cause and the cure."""


@dataclass(frozen=True)
class ServerSettings:
    """What the data plane needs to know.

    ``certificate`` and ``key`` (PEM, the key PKCS#8 without a password) are None for a certificate
    of the private CA kept in ``tls_folder``; with ``tls`` off plain HTTP is served, for use behind a
    balancer that ends TLS.  ``budget_s`` is in seconds.  ``journal_sync`` says when a record counts as
    written: "write" to the system, "group" to the disk.  ``drain_s``: see DRAIN_S.  ``fronts`` are addresses
    and networks whose X-Forwarded-For is believed.
    """

    socket_path: str
    tls_folder: Path
    address: str = "127.0.0.1"
    port: int = 8443
    workers: int = 1
    tls: bool = True
    certificate: Path | None = None
    key: Path | None = None
    budget_s: float = 0.12
    node_name: str = ""
    journal_sync: SyncMode = "write"
    drain_s: float = DRAIN_S
    fronts: tuple[str, ...] = ()

    @property
    def journal_folder(self) -> Path:
        """Where this node's workers write their journals."""
        return journal_folder(self.tls_folder.parent, self.node_name or socket.gethostname())

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> ServerSettings:
        """Read the KEYSTEAD_ variables listed in docs/configuration.md that concern this part.

        Raises:
            SettingsError: one of them is wrong.
        """
        data = Path(environ.get("KEYSTEAD_DATA_DIR") or "var")
        certificate, key = environ.get("KEYSTEAD_XKS_TLS_CERT"), environ.get("KEYSTEAD_XKS_TLS_KEY")
        if bool(certificate) != bool(key):
            raise SettingsError("KEYSTEAD_XKS_TLS_CERT and KEYSTEAD_XKS_TLS_KEY: set both or neither")
        switch = (environ.get("KEYSTEAD_XKS_TLS") or "on").lower()
        if switch not in ("on", "off", "1", "0", "true", "false", "yes", "no"):
            raise SettingsError(f"KEYSTEAD_XKS_TLS is {switch!r}: say on or off")
        sync = environ.get("KEYSTEAD_XKS_JOURNAL_SYNC") or "write"
        if sync not in ("write", "group"):
            raise SettingsError(f"KEYSTEAD_XKS_JOURNAL_SYNC is {sync!r}: say write or group")
        return cls(
            socket_path=environ.get("KEYSTEAD_XKS_SOCKET") or str(data / "run" / "xks.sock"),
            tls_folder=data / "tls",
            address=environ.get("KEYSTEAD_BIND") or "127.0.0.1",
            port=_number(environ, "KEYSTEAD_XKS_PORT", 8443, 1, 65535),
            workers=_number(environ, "KEYSTEAD_XKS_WORKERS", 1, 1, 64),
            tls=switch in ("on", "1", "true", "yes"),
            certificate=Path(certificate) if certificate else None,
            key=Path(key) if key else None,
            budget_s=_number(environ, "KEYSTEAD_XKS_BUDGET_MS", 120, 1, 60_000) / 1000,
            node_name=environ.get("KEYSTEAD_NODE_NAME") or socket.gethostname(),
            journal_sync=sync,  # type: ignore[arg-type] # one of the two
            drain_s=_number(environ, "KEYSTEAD_XKS_DRAIN", round(DRAIN_S), 1, 600),
            fronts=_networks(environ, "KEYSTEAD_XKS_FRONTS"),
        )

    def to_environment(self) -> dict[str, str]:
        """Return the variables from which :meth:`from_environment` makes the same settings."""
        named = {
            "KEYSTEAD_DATA_DIR": str(self.tls_folder.parent),
            "KEYSTEAD_XKS_SOCKET": self.socket_path,
            "KEYSTEAD_BIND": self.address,
            "KEYSTEAD_XKS_PORT": str(self.port),
            "KEYSTEAD_XKS_WORKERS": str(self.workers),
            "KEYSTEAD_XKS_TLS": "on" if self.tls else "off",
            "KEYSTEAD_XKS_TLS_CERT": str(self.certificate or ""),
            "KEYSTEAD_XKS_TLS_KEY": str(self.key or ""),
            "KEYSTEAD_XKS_BUDGET_MS": str(round(self.budget_s * 1000)),
            "KEYSTEAD_NODE_NAME": self.node_name,
            "KEYSTEAD_XKS_JOURNAL_SYNC": self.journal_sync,
            "KEYSTEAD_XKS_DRAIN": str(round(self.drain_s)),
            "KEYSTEAD_XKS_FRONTS": ",".join(self.fronts),
        }
        return {name: value for name, value in named.items() if value}


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of ``environ`` that the data plane may see."""
    return {name: environ[name] for name in (*_OURS, *_HARMLESS) if name in environ}


def command() -> list[str]:
    """Return the command line that runs the data plane; give it a clean environment."""
    return [sys.executable, "-m", "xks.server"]


def make_app(settings: ServerSettings) -> App:
    """Build the application; called in each worker process."""
    serving = Serving()
    shadow = ShadowCounts()
    node = settings.node_name or socket.gethostname()
    guard = StallGuard()
    journal = FileJournal(
        settings.journal_folder, node=node, boot_id=read_boot_id(), sync=settings.journal_sync, guard=guard
    )
    counters = Counters()
    uses = CredentialUses()

    def report() -> MetricsReport:
        segment, size = journal.segment
        return counters.report(
            os.getpid(),
            generation=serving.keyring.generation,
            lease_issued_at_s=serving.leased_at,
            in_flight=app.in_flight,
            problem=journal.problem(),
            journal_segment=segment,
            journal_bytes=size,
        )

    desk = Desk(connect)
    app = App(
        Engine(serving, node_name=node, judge=RulesJudge(shadow), desk=desk),
        journal=journal,
        link=Link(
            serving, settings.socket_path, shadow=shadow, journal=journal, report=report, uses=uses, desk=desk
        ),
        budget_s=settings.budget_s,
        counters=counters,
        uses=uses,
        fronts=Fronts(settings.fronts),
    )
    guard.refuse = refuse_unrecorded
    return app


def make_server(settings: ServerSettings, line: AgentLine | None = None) -> GracefulServer:
    """Build the granian server, the certificate made where it is missing.

    ``line`` to the agent tells which certificate is installed.

    Raises:
        SettingsError: the certificate or its key cannot be used, or the port is taken.
        OSError: a file cannot be read or written.
    """
    certificates = Certificates(line, settings.certificate, settings.key, settings.tls_folder)
    try:
        files = certificates.first() if settings.tls else None
    except UnusableCertificate as error:
        raise SettingsError(str(error)) from None
    _check_port(settings)
    server = GracefulServer(
        "xks.app",
        listeners=Listeners(settings.address, settings.port),
        drain_s=settings.drain_s,
        address=settings.address,
        port=settings.port,
        interface=Interfaces.RSGI,
        workers=settings.workers,
        # uvloop, with a way around it for when the journal's device holds it up.
        loop=LOOP_NAME,
        websockets=False,
        # Idle connections count too, and KMS keeps many.
        backlog=BACKLOG,
        backpressure=MAX_CONNECTIONS,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=MAX_HEADER_BYTES),
        http2_settings=HTTP2Settings(max_headers_size=MAX_HEADER_BYTES),
        log_level=LogLevels.warning,
        respawn_failed_workers=True,
        workers_kill_timeout=SHUTDOWN_S,
    )
    if files is None:
        if line is not None:
            line.tell(describe(None))
        return server
    server.ssl_ctx = _tls_of(files)

    def renew() -> None:
        server.ssl_ctx = _tls_of(certificates.renew())

    def replaced(error: Exception | None) -> None:
        served = certificates.settle(error)
        if served is not None:
            server.ssl_ctx = _tls_of(served)

    server.renew, server.replaced = renew, replaced
    return server


def _tls_of(files: Files) -> Any:
    """Return what granian gives its workers (granian/server/common.py, build_ssl_context).

    That method would resolve the paths, and what is in memory has none.
    """
    roots = files.client_roots or None
    return True, files.certificate, files.key, None, str(SSLProtocols.tls12), roots, [], roots is not None


def serve(settings: ServerSettings) -> None:
    """Serve until told to stop by SIGTERM or SIGINT; a worker that dies is started again.

    SIGHUP, and another certificate, start new workers beside the old ones; see xks/graceful.py.

    Raises:
        SettingsError, OSError: as :func:`make_server`.
    """
    line = AgentLine(settings.socket_path, lambda told: os.kill(os.getpid(), signal.SIGHUP))
    line.start()
    server = make_server(settings, line)
    if settings.tls and settings.certificate is None:
        threading.Thread(target=_keep_certificate, args=(settings.tls_folder,), daemon=True).start()
    # granian takes an object with __rsgi__ as well as a function; its annotation knows functions only.
    load: Callable[..., Any] = functools.partial(make_app, settings)
    server.serve(target_loader=load, wrap_loader=False)


def _check_port(settings: ServerSettings) -> None:
    """Refuse a port that something listens on: granian would share it (SO_REUSEPORT) without a word."""
    family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.address, settings.port))
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {settings.address} port {settings.port} ({error.strerror}): stop what"
                " uses it, or set KEYSTEAD_BIND and KEYSTEAD_XKS_PORT"
            ) from None


def _keep_certificate(folder: Path) -> None:
    waiting = threading.Event()
    while not waiting.wait(RENEWAL_CHECK.total_seconds()):
        try:
            renewed = tls.ensure_certificate(folder)
        except OSError as error:
            log.error("the XKS certificate could not be renewed: %s", error)
            continue
        if renewed:
            log.warning("the XKS certificate was renewed: starting the workers anew with it")
            os.kill(os.getpid(), signal.SIGHUP)


def _networks(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    given = tuple(each.strip() for each in (environ.get(name) or "").split(",") if each.strip())
    try:
        Fronts(given)
    except ValueError as error:
        raise SettingsError(
            f"{name}: {error}; write IP addresses or networks such as 10.0.0.0/24, separated by commas"
        ) from None
    return given


def _number(environ: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise SettingsError(f"{name} is {text!r}: give a number from {least} to {most}")
    return int(text)


def main() -> None:
    """Run the data plane with the settings of the environment."""
    clean = clean_environment(os.environ)
    telling = ("KEYSTEAD_", "AWS_", "PG", "DJANGO_")
    if any(name.startswith(telling) for name in os.environ.keys() - clean.keys()):
        # Deleting them would leave them readable in /proc/<pid>/environ.
        os.execve(sys.executable, sys.orig_argv, clean)  # noqa: S606
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        harden_process()
        serve(ServerSettings.from_environment(os.environ))
    except (SettingsError, HardeningFailed, OSError) as error:
        sys.exit(f"keystead xks serve: {error}")


if __name__ == "__main__":
    main()
