"""The simulator's HTTP server: one process, one thread a connection, loopback only.

The standard library's HTTP server reads the requests. It is chosen over the faster servers of this product because
a fault may ask for a connection to be closed without an answer, which no gateway interface (WSGI, ASGI, RSGI) can
say, and because it runs inside a test as well as in a process of its own.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cloudkeys.simulators.aws import frame, kms_stores
from cloudkeys.simulators.aws.bootstrap import open_simulator
from cloudkeys.simulators.aws.context import RawResponse, Settings, Simulator

log = logging.getLogger(__name__)
IDLE_S = 75.0


class BadRequest(Exception):
    """The bytes on the connection are not a request that this server reads."""


class _Server(ThreadingHTTPServer):
    # Threads are joined by server_close, after their sockets were shut: nothing is left behind.
    daemon_threads = False
    request_queue_size = 256
    address_family = socket.AF_INET

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim
        self.stopping = threading.Event()
        self.open_sockets: set[socket.socket] = set()
        self.sockets_lock = threading.Lock()
        if ":" in sim.settings.host:
            self.address_family = socket.AF_INET6
        super().__init__((sim.settings.host, sim.settings.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.sockets_lock:
            self.open_sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.sockets_lock:
            self.open_sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.error("a connection failed", exc_info=True)  # noqa: LOG014 - called while the exception is handled

    def close_connections(self) -> None:
        """Shut every open connection, so that the threads waiting on them end."""
        with self.sockets_lock:
            for connection in self.open_sockets:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError as error:
                    log.debug("a connection was already closed: %s", error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # One write an answer, sent at once: with two, Nagle's algorithm and delayed ACKs cost 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = IDLE_S

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError as error:
            log.debug("the client closed its connection: %s", error)

    def handle_expect_100(self) -> bool:
        self.send_response_only(100)
        self.end_headers()
        self.wfile.flush()
        return True

    def _serve(self) -> None:
        try:
            body = self._read_body()
        except BadRequest as error:
            self.close_connection = True
            self._send(RawResponse(400, {"Content-Type": "text/plain"}, str(error).encode()))
            return
        headers = {name.lower(): ",".join(self.headers.get_all(name, ())) for name in self.headers}
        request = frame.HttpRequest(self.command, self.path, headers, body)
        try:
            response = frame.answer(self.server.sim, request, self.server.stopping)
        except frame.ConnectionDropped:
            self.close_connection = True
            return
        self._send(response)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _serve

    def _read_body(self) -> bytes:
        limit = self.server.sim.settings.max_body_bytes
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self._read_chunks(limit)
        text = self.headers.get("Content-Length", "0").strip()
        if not (text.isascii() and text.isdigit()) or int(text) > limit:
            raise BadRequest(f"Content-Length must be a whole number of bytes, {limit} at most")
        body = self.rfile.read(int(text))
        if len(body) != int(text):
            raise BadRequest("the body ended early")
        return body

    def _read_chunks(self, limit: int) -> bytes:
        body = bytearray()
        while True:
            text = self.rfile.readline(64).split(b";")[0].strip()
            try:
                size = int(text, 16)
            except ValueError:
                raise BadRequest("a chunk has no size") from None
            if size < 0 or len(body) + size > limit:
                raise BadRequest(f"the body is larger than {limit} bytes")
            if size == 0:
                while self.rfile.readline(8192).strip():
                    pass
                return bytes(body)
            body += self.rfile.read(size)
            if self.rfile.readline(3) != b"\r\n":
                raise BadRequest("a chunk does not end where it says")

    def _send(self, response: RawResponse) -> None:
        self.send_response(response.status)
        names = {name.lower() for name in response.headers}
        for name, value in response.headers.items():
            self.send_header(name, value)
        # An answer to HEAD states the length that GET would have; S3 gives it itself.
        if "content-length" not in names and response.status not in (204, 304):
            self.send_header("Content-Length", str(len(response.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def version_string(self) -> str:
        return "Keystead-AWS-simulator"

    def log_message(self, format: str, *args: Any) -> None:
        # Targets may hold presigned signatures and S3 keys: nothing of a request line goes to the log.
        log.debug("%s answered", self.command)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A simulator that listens: ``url`` is what ``endpoint_url`` of boto3 takes."""

    sim: Simulator
    url: str


@contextmanager
def running(settings: Settings) -> Iterator[RunningServer]:
    """Serve in threads of this process for as long as the block lasts, then stop, close and join everything.

    Raises OSError when the port cannot be had, and what ``open_simulator`` raises.
    """
    sim = open_simulator(settings)
    try:
        server = _Server(sim)
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="aws-simulator"
        )
        thread.start()
        kms_stores.recover(sim)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            yield RunningServer(sim, f"http://{host}:{server.server_address[1]}")
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()
            server.close_connections()
            server.server_close()
    finally:
        kms_stores.wait_for_connections(sim)
        sim.close()
