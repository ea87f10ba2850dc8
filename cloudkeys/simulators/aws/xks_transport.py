"""HTTPS to external key store proxies, with one deadline for a whole call as KMS has it.

A connect-to map sends the public name of a proxy to an address of this machine while TLS and the Host header keep
the name, as ``curl --connect-to`` does. Connections are kept alive; the deadline covers connecting, the TLS handshake,
sending, and every byte of the answer, so that a proxy cannot win time by answering drop by drop.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_RESPONSE_BYTES = 64 * 1024
MAX_IDLE_S = 20.0
MAX_IDLE_CONNECTIONS = 16


class TransportError(Exception):
    """The proxy gave no HTTP answer. ``kind`` is ``unreachable``, ``tls``, ``timeout`` or ``invalid_response``."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Stale(Exception):
    """A kept connection turned out to be closed before any byte of an answer came."""


@dataclass(slots=True)
class _Deadline:
    at: float

    def left_s(self) -> float:
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(self._deadline.left_s())
        return self._sock.recv_into(buffer)


class _DeadlineSocket:
    """What ``http.client`` needs of a socket, with a deadline on every step."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock, self._deadline = sock, deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._deadline.left_s())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._sock, self._deadline))

    def close(self) -> None:
        """Left to the pool, which decides whether the connection is kept."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status and whole body."""

    status: int
    body: bytes


class Transport:
    """A keep-alive pool of TLS connections. ``ca_file`` None means the system's authorities."""

    def __init__(
        self, connect_to: Mapping[str, tuple[str, int]], ca_file: Path | None, timeout_s: float
    ) -> None:
        self.timeout_s = timeout_s
        self._connect_to = {name.lower(): target for name, target in connect_to.items()}
        self._ca_file = ca_file
        self._lock = threading.Lock()
        self._context: tuple[tuple[int, int] | None, ssl.SSLContext] | None = None
        self._idle: dict[str, list[tuple[float, ssl.SSLSocket]]] = {}

    def close(self) -> None:
        """Close the kept connections."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for _, sock in connections:
                sock.close()

    def knows(self, host: str) -> bool:
        """Whether the connect-to map has the host."""
        return host.lower() in self._connect_to

    def post(self, host: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST to ``https://<host><path>``. Raises TransportError."""
        deadline = _Deadline(time.monotonic() + self.timeout_s)
        try:
            while (kept := self._take(host)) is not None:
                try:
                    return self._exchange(kept, host, path, headers, body, deadline, kept=True)
                except _Stale:
                    continue
            return self._exchange(
                self._connect(host, deadline), host, path, headers, body, deadline, kept=False
            )
        except TimeoutError:
            raise TransportError("timeout", f"no answer within {self.timeout_s * 1000:.0f} ms") from None

    def _take(self, host: str) -> ssl.SSLSocket | None:
        while True:
            with self._lock:
                connections = self._idle.get(host)
                if not connections:
                    return None
                since, sock = connections.pop()
            if time.monotonic() - since < MAX_IDLE_S:
                return sock
            sock.close()

    def _give_back(self, host: str, sock: ssl.SSLSocket) -> None:
        with self._lock:
            connections = self._idle.setdefault(host, [])
            if len(connections) < MAX_IDLE_CONNECTIONS:
                connections.append((time.monotonic(), sock))
                return
        sock.close()

    def _tls(self) -> ssl.SSLContext:
        """The TLS context; read again when the CA file changed, since the product may make it after our start."""
        stamp = None
        if self._ca_file is not None:
            try:
                found = self._ca_file.stat()
            except OSError as error:
                raise TransportError(
                    "tls", f"the file of trusted authorities cannot be read: {error.strerror}"
                ) from None
            stamp = (found.st_mtime_ns, found.st_ino)
        with self._lock:
            if self._context is None or self._context[0] != stamp:
                try:
                    context = ssl.create_default_context(cafile=self._ca_file)
                except (OSError, ssl.SSLError):
                    raise TransportError(
                        "tls", "the file of trusted authorities is not a PEM bundle"
                    ) from None
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                # A certificate in the file is trusted even when the authority that issued it is not there.
                context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
                self._context = (stamp, context)
            return self._context[1]

    def _connect(self, host: str, deadline: _Deadline) -> ssl.SSLSocket:
        address = self._connect_to.get(host.lower())
        if address is None:
            # Never out of this machine, whatever host name somebody registers as a proxy's.
            raise TransportError("unreachable", f"the simulator's connect-to map has no host {host}")
        context = self._tls()
        try:
            plain = socket.create_connection(address, timeout=deadline.left_s())
        except TimeoutError:
            raise TransportError("unreachable", "cannot connect in time") from None
        except OSError as error:
            raise TransportError(
                "unreachable", f"cannot connect: {error.strerror or 'unknown host'}"
            ) from None
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(deadline.left_s())
            return context.wrap_socket(plain, server_hostname=host)
        except TimeoutError:
            plain.close()
            raise
        except ssl.SSLError as error:
            plain.close()
            reason = getattr(error, "verify_message", "") or error.reason or "handshake failed"
            raise TransportError("tls", f"TLS: {reason}") from None
        except OSError:
            plain.close()
            raise TransportError("tls", "the connection was closed during the TLS handshake") from None

    def _exchange(
        self,
        sock: ssl.SSLSocket,
        host: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        deadline: _Deadline,
        *,
        kept: bool,
    ) -> Answer:
        connection = http.client.HTTPConnection(host)
        connection.sock = _DeadlineSocket(sock, deadline)
        reusable = False
        try:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            data = response.read(MAX_RESPONSE_BYTES + 1)
            if len(data) > MAX_RESPONSE_BYTES:
                raise TransportError(
                    "invalid_response", f"the answer is larger than {MAX_RESPONSE_BYTES} bytes"
                )
            reusable = response.isclosed() and not response.will_close
            return Answer(response.status, data)
        except TimeoutError:
            raise
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            if kept:
                raise _Stale from None
            raise TransportError("invalid_response", "the connection was closed without an answer") from None
        except http.client.HTTPException:
            raise TransportError("invalid_response", "the answer is not HTTP") from None
        except ssl.SSLError as error:
            # With TLS 1.3 a server's refusal of the handshake arrives with the first read.
            raise TransportError("tls", f"TLS: {error.reason or 'connection failed'}") from None
        except OSError as error:
            raise TransportError("unreachable", f"the connection failed: {error.strerror}") from None
        finally:
            if reusable:
                self._give_back(host, sock)
            else:
                sock.close()
