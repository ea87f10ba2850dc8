"""A syslog server over TLS on loopback, for tests."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate_for(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate that is its own authority; return the paths of it and of its key."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, private


class SyslogServer:
    """Takes frames of RFC 5425; ``reads`` cleared, it takes nothing from its connections."""

    def __init__(self, folder: Path, *, client_authorities: Path | None = None) -> None:
        self.authorities, key = certificate_for(folder / "server", "localhost")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.authorities, key)
        if client_authorities is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(client_authorities)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.reads = threading.Event()
        self.reads.set()
        self._news = threading.Condition()
        self._messages: list[str] = []
        self._connection: ssl.SSLSocket | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> SyslogServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self.reads.set()
        self.hang_up()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def hang_up(self) -> None:
        """Close the connection that there is."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            try:
                socket.socket.shutdown(
                    connection, socket.SHUT_RDWR
                )  # not ssl's, which would read on in clear
            except OSError:
                return  # the other side was first

    def messages(self, count: int) -> list[str]:
        """Return what has come once so many are there."""
        with self._news:
            assert self._news.wait_for(lambda: len(self._messages) >= count, 10), len(self._messages)
            return list(self._messages)

    def _serve(self) -> None:
        while not self._ended:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self._connection = connection
                    self._read(connection)
            except (OSError, ssl.SSLError):
                plain.close()

    def _read(self, connection: ssl.SSLSocket) -> None:
        data = b""
        while self.reads.wait(10):
            piece = connection.recv(65536)
            if not piece:
                return
            data += piece
            while b" " in data[:10]:
                length, _, rest = data.partition(b" ")
                if len(rest) < int(length):
                    break
                with self._news:
                    self._messages.append(rest[: int(length)].decode())
                    self._news.notify_all()
                data = rest[int(length) :]
