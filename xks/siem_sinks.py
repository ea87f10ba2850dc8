"""Where the stream for a SIEM ends: a syslog server over TLS, or a file."""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import struct
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from xks.siem_lines import Line

CONNECT_S: Final = 10.0
SEND_S: Final = 30.0
_LOOK_S: Final = (0.001, 0.005, 0.02, 0.05)


class NotDelivered(Exception):
    """Some lines of a batch may not have arrived; all of it is to be sent again."""


class Sink(Protocol):
    """Takes lines; one thread uses it."""

    def deliver(self, lines: Sequence[Line]) -> None:
        """Return once the other side has them. Raises NotDelivered."""

    def close(self) -> None:
        """Let go of it; the next delivery opens it again."""


class TlsSink:
    """A syslog server (RFC 5425). The protocol has no receipts: delivered is what the server's host has acknowledged.

    So what a server loses after that (it crashes with messages in its socket's buffer) stays lost.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        sender: str,
        authorities: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        """``sender`` stands in each message as its host. Raises OSError, ssl.SSLError for files that cannot be used."""
        self._address = (host, port)
        self._sender = sender
        self._context = ssl.create_default_context(cafile=None if authorities is None else str(authorities))
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            self._context.load_cert_chain(*(str(path) for path in certificate))
        self._socket: ssl.SSLSocket | None = None

    def deliver(self, lines: Sequence[Line]) -> None:
        """See Sink."""
        data = b"".join(line.syslog(self._sender) for line in lines)
        try:
            connected = self._connected()
            connected.settimeout(SEND_S)
            connected.sendall(data)
            self._wait_until_acknowledged(connected)
            if _has_ended(connected):
                raise NotDelivered("the server closed the connection")
        except (OSError, ssl.SSLError) as error:
            self.close()
            raise NotDelivered(reason_of(error)) from error
        except NotDelivered:
            self.close()
            raise

    def close(self) -> None:
        """See Sink."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> ssl.SSLSocket:
        if self._socket is not None and _has_ended(self._socket):
            self.close()
        if self._socket is None:
            plain = socket.create_connection(self._address, timeout=CONNECT_S)
            try:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self._socket = self._context.wrap_socket(plain, server_hostname=self._address[0])
            except BaseException:
                plain.close()
                raise
        return self._socket

    def _wait_until_acknowledged(self, connected: ssl.SSLSocket) -> None:
        deadline = time.monotonic() + SEND_S
        looks = 0
        while unacknowledged(connected):
            if time.monotonic() > deadline:
                raise NotDelivered(f"the server has not taken what was sent within {SEND_S:.0f} s")
            time.sleep(_LOOK_S[min(looks, len(_LOOK_S) - 1)])
            looks += 1


def unacknowledged(connected: socket.socket) -> int:
    """Return how many bytes the other host has not acknowledged (tcp(7), SIOCOUTQ)."""
    answer = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


def _has_ended(connected: ssl.SSLSocket) -> bool:
    """Whether the other side has closed; takes in what TLS itself sends (tickets)."""
    connected.settimeout(0)
    try:
        return connected.recv(4096) == b""
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
        return False
    except (OSError, ssl.SSLError):
        return True


def reason_of(error: Exception) -> str:
    """Return in a few words what went wrong with a connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class FileSink:
    """Appends to a file. One that was moved away (logrotate) is made anew: no signal is needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def deliver(self, lines: Sequence[Line]) -> None:
        """See Sink. Delivered is what is on the disk."""
        data = b"".join(line.json().encode() + b"\n" for line in lines)
        try:
            self._open()
            while data:
                data = data[os.write(self._fd, data) :]
            os.fdatasync(self._fd)
        except OSError as error:
            self.close()
            raise NotDelivered(reason_of(error)) from error

    def close(self) -> None:
        """See Sink."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        if self._fd >= 0:
            held = os.fstat(self._fd)
            try:
                there = os.stat(self._path)
            except FileNotFoundError:
                there = None
            if there is None or (there.st_dev, there.st_ino) != (held.st_dev, held.st_ino):
                self.close()
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o640)
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                os.write(self._fd, b"\n")  # what a power cut or a full disk left of a line
