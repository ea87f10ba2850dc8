"""The agent's part in what the node's endpoint serves TLS with.

A thread of its own reads what is installed, whenever something changed in the database (and every second
in case word of it was lost), and writes down what the server process says it serves.  The server process
hears over the agent's socket; the private key goes nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg
import structlog
from django.db import Error

from vault.keys import RootKeyError, SecretUnreadable, unseal
from vault.models import Node
from xks import wire
from xks.agent_database import close_own_connection, use_own_connection
from xks.models import EndpointCertificate, EndpointTls

log = structlog.get_logger("keystead.agent")

LOOK_S = 1.0


def read_endpoint_tls(known_revision: int | None) -> tuple[int, wire.EndpointTls] | None:
    """Return (revision, what is installed), None when it is still the revision that is known.

    Raises SecretUnreadable, RootKeyError, django.db.Error.
    """
    row = EndpointTls.objects.filter(pk=1).first()
    revision = row.revision if row is not None else 0
    if revision == known_revision:
        return None
    roots = row.client_roots.encode() if row is not None else b""
    active = EndpointCertificate.objects.filter(state=EndpointCertificate.State.ACTIVE).first()
    if active is None:
        return revision, wire.EndpointTls(client_roots=roots)
    key = unseal(active, "private_key").reveal()
    return revision, wire.EndpointTls(active.chain.encode(), key, roots)


class EndpointKeeper(threading.Thread):
    """Reads what is to be served, writes what is."""

    def __init__(
        self,
        node_name: str,
        *,
        offer: Callable[[wire.EndpointTls], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name="endpoint", daemon=True)
        self._node = node_name
        self._offer = offer
        self._failed = failed
        self._news = threading.Event()
        self._stopping = False
        self._revision: int | None = None
        self._served: wire.CertificateServed | None = None
        self._written: dict[str, Any] | None = None
        self._quiet = False

    def wake(self) -> None:
        """Look now; from any thread."""
        self._news.set()

    def served(self, message: wire.CertificateServed | None) -> None:
        """Note what the server process serves; None when it has gone. From any thread."""
        self._served = message
        self._news.set()

    def stop(self) -> None:
        """End soon; from any thread."""
        self._stopping = True
        self._news.set()

    def run(self) -> None:
        """See Thread."""
        try:
            use_own_connection(snapshots=False)
            while not self._stopping:
                try:
                    self._look()
                    self._write()
                    self._quiet = False
                except (Error, psycopg.Error):
                    close_own_connection()  # the reader, who needs it more, says so
                except (SecretUnreadable, RootKeyError) as error:
                    if not self._quiet:
                        self._quiet = True
                        log.critical(
                            "the installed certificate cannot be read; the endpoint keeps what it has",
                            alarm=True,
                            cause=str(error),
                        )
                self._news.wait(LOOK_S)
                self._news.clear()
        except BaseException as error:
            self._failed(error)
        finally:
            close_own_connection()

    def _look(self) -> None:
        found = read_endpoint_tls(self._revision)
        if found is not None:
            revision, tls = found
            self._offer(tls)
            self._revision = revision

    def _write(self) -> None:
        served = self._served
        said = msgspec.to_builtins(served) if served is not None else {}
        said.pop("type", None)
        if said != self._written and Node.objects.filter(name=self._node).update(certificate=said):
            self._written = said


class Endpoints:
    """The event loop's part: the conversation with the server process."""

    def __init__(self) -> None:
        self._tls: wire.EndpointTls | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.served: Callable[[wire.CertificateServed | None], None] = lambda message: None

    def offer(self, tls: wire.EndpointTls) -> None:
        """Pass on what is installed."""
        self._tls = tls
        for writer in self._writers:
            writer.write(wire.encode_frame(tls))

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one server process until it goes. Raises what wire.read_worker_message raises."""
        self._writers.add(writer)
        try:
            if self._tls is not None:
                writer.write(wire.encode_frame(self._tls))
            while True:
                message = await wire.read_worker_message(reader)
                if isinstance(message, wire.CertificateServed):
                    self.served(message)
        finally:
            self._writers.discard(writer)
            if not self._writers:
                with contextlib.suppress(RuntimeError):
                    self.served(None)
