"""The port on which Prometheus asks an agent (docs/metrics.md).

GET /metrics and nothing else; no authentication, so it listens on loopback unless it is told otherwise.
"""

from __future__ import annotations

import socket
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

log = structlog.get_logger("keystead.agent")

MAX_SCRAPES: Final = 8
"""Answered at a time; more are refused with 503, so that nobody can fill the agent with threads."""
TIMEOUT_S: Final = 5.0
RETRY_S: Final = 10.0


class MetricsServer(threading.Thread):
    """Serves what the collectors tell.

    A port that is taken is no reason not to serve keys: it is told, and tried again.
    """

    def __init__(self, address: str, port: int, collectors: list[Collector]) -> None:
        super().__init__(name="metrics-port", daemon=True)
        self._place = (address, port)
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in collectors:
            self._registry.register(collector)
        self._stopping = threading.Event()
        self._server: _Server | None = None
        self.ready = threading.Event()
        """Set while the port is listened on."""

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1]) if self._server is not None else self._place[1]

    def run(self) -> None:
        """See Thread."""
        told = False
        while not self._stopping.is_set():
            try:
                server = _Server(self._place, lambda: generate_latest(self._registry))
            except OSError as error:
                if not told:
                    log.error(
                        "metrics cannot be served; trying again. Stop what listens there, or set"
                        " KEYSTEAD_METRICS_ADDRESS and KEYSTEAD_METRICS_PORT",
                        address=self._place[0],
                        port=self._place[1],
                        cause=error.strerror,
                    )
                told = True
                self._stopping.wait(RETRY_S)
                continue
            self._server = server
            self.ready.set()
            log.info("metrics are served", address=self._place[0], port=self.port)
            with server:
                server.serve_forever(poll_interval=0.2)
            return

    def stop(self) -> None:
        """Answer no more, and wait for the end."""
        self._stopping.set()
        if self._server is not None:
            self._server.shutdown()
        self.join(timeout=2)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, place: tuple[str, int], render: Callable[[], bytes]) -> None:
        self.render = render
        self.slots = threading.BoundedSemaphore(MAX_SCRAPES)
        if ":" in place[0]:
            self.address_family = socket.AF_INET6
        super().__init__(place, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.warning(
            "a scrape of the metrics failed",
            client=str(client_address[0]),
            cause=traceback.format_exc(limit=-2).strip(),
        )


class _Handler(BaseHTTPRequestHandler):
    timeout = TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        """Answer a scrape."""
        if self.path.partition("?")[0] != "/metrics":
            self._answer(404, "text/plain; charset=utf-8", b"metrics are at /metrics\n")
            return
        self._answer(200, CONTENT_TYPE_PLAIN_0_0_4, self.server.render())

    def version_string(self) -> str:
        """Nothing of the versions below."""
        return "Keystead"

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
