"""What the endpoint serves TLS with, in the server process of a node.

The installed certificate comes from the agent over its socket and is kept in memory alone.  Without one
there is the certificate that this product makes for itself (``xks.tls``), or the files that an operator
has named.  A change starts new workers (``xks.graceful``).
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from xks import __version__, tls, wire

log = logging.getLogger("keystead.xks")

FIRST_WORD_S = 2.0
"""A server that starts waits this long for the agent to say what is installed."""
RETRY_S = 0.5


class UnusableCertificate(Exception):
    """A certificate, its key or the clients' roots cannot be served with; the message says which and why."""


@dataclass(frozen=True, repr=False)
class Material:
    """What to serve with, all PEM; ``place`` tells a person where it is from."""

    source: str
    certificate: bytes
    key: bytes
    client_roots: bytes = b""
    place: str = "the installed certificate"


@dataclass(frozen=True)
class Files:
    """Paths under which this process and its children can read a Material."""

    certificate: str
    key: str
    client_roots: str
    descriptors: tuple[int, ...]

    def close(self) -> None:
        """Forget them."""
        for each in self.descriptors:
            os.close(each)


def from_files(certificate: Path, key: Path, source: str, client_roots: bytes = b"") -> Material:
    """Read certificate and key. Raises OSError, UnusableCertificate."""
    pem = key.read_bytes()
    if b"-----BEGIN PRIVATE KEY-----" not in pem:
        raise UnusableCertificate(
            f"the XKS key {key} must be unencrypted PKCS#8: convert it with openssl pkcs8 -topk8 -nocrypt"
        )
    place = f"the XKS certificate {certificate} or its key {key}"
    return Material(source, certificate.read_bytes(), pem, client_roots, place)


def choose(
    told: wire.EndpointTls | None, certificate: Path | None, key: Path | None, tls_folder: Path
) -> Material:
    """Return what to serve with: the operator's files, else what is installed, else our own.

    Raises OSError, UnusableCertificate.
    """
    roots = told.client_roots if told is not None else b""
    if certificate is not None and key is not None:
        return from_files(certificate, key, "file", roots)
    if told is not None and told.certificate:
        return Material("installed", told.certificate, told.key, roots)
    tls.ensure_certificate(tls_folder)
    files = tls.certificate_files(tls_folder)
    return from_files(files.certificate, files.key, "default", roots)


def open_files(material: Material) -> Files:
    """Put what is to be served where granian can read it, in memory alone. Raises UnusableCertificate."""
    made = [
        (_in_memory(content), content)
        for content in (material.certificate, material.key, material.client_roots)
    ]
    paths = [f"/proc/self/fd/{number}" if content else "" for number, content in made]
    files = Files(paths[0], paths[1], paths[2], tuple(number for number, _ in made))
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        if files.client_roots:
            context.load_verify_locations(files.client_roots)
    except ssl.SSLError as error:
        files.close()
        raise UnusableCertificate(f"{material.place} cannot be used: {error.reason or error}") from None
    return files


def _in_memory(content: bytes) -> int:
    # Closed by an exec, inherited by the workers, which are forked.
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("xks-tls", os.MFD_CLOEXEC)
    else:
        number, name = tempfile.mkstemp()
        os.unlink(name)
    os.write(number, content)
    return number


def describe(material: Material | None, trouble: str = "") -> wire.CertificateServed:
    """Return what there is to say of a certificate without its key; None: TLS is off."""
    if material is None:
        return wire.CertificateServed("off", trouble=trouble)
    leaf = x509.load_pem_x509_certificate(material.certificate)
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = tuple(str(name.value) for name in alternative)
    except x509.ExtensionNotFound:
        names = ()
    return wire.CertificateServed(
        source=material.source,
        serial=f"{leaf.serial_number:x}",
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        subject=leaf.subject.rfc4514_string(),
        issuer=leaf.issuer.rfc4514_string(),
        names=names,
        not_before=leaf.not_valid_before_utc.isoformat(),
        not_after=leaf.not_valid_after_utc.isoformat(),
        client_roots=hashlib.sha256(material.client_roots).hexdigest() if material.client_roots else "",
        trouble=trouble,
    )


class AgentLine(threading.Thread):
    """Hears from the agent what is installed, and tells it what is served."""

    def __init__(self, socket_path: str, heard: Callable[[wire.EndpointTls], None]) -> None:
        """``heard`` is called in this thread, each time the agent says something else than before."""
        super().__init__(name="agent-line", daemon=True)
        self._socket_path = socket_path
        self._heard = heard
        self._lock = threading.Lock()
        self._line: socket.socket | None = None
        self._served: wire.CertificateServed | None = None
        self._first = threading.Event()
        self.said: wire.EndpointTls | None = None

    def wait_first(self, within_s: float = FIRST_WORD_S) -> wire.EndpointTls | None:
        """Return what the agent says, None when it does not say anything in time."""
        self._first.wait(within_s)
        return self.said

    def tell(self, served: wire.CertificateServed) -> None:
        """Tell the agent, now or as soon as it can be reached."""
        with self._lock:
            self._served = served
            self._send(served)

    def _send(self, message: wire.CertificateServed) -> None:
        if self._line is not None:
            try:
                self._line.sendall(wire.encode_frame(message))
            except OSError:
                self._line.close()  # which ends the reading, and all is said again on the next line

    def run(self) -> None:
        """See Thread."""
        pause = threading.Event()
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as line:
                    line.connect(self._socket_path)
                    self._converse(line)
            except (OSError, EOFError):
                pass  # the workers, who need the agent more, say so in the log
            except wire.FrameError as error:
                log.error("what the xks agent sent to the server was refused: %s", error)
            finally:
                with self._lock:
                    self._line = None
            pause.wait(RETRY_S)

    def _converse(self, line: socket.socket) -> None:
        with self._lock:
            line.sendall(wire.encode_frame(wire.ServerHello(os.getpid(), __version__)))
            self._line = line
            if self._served is not None:
                self._send(self._served)
        while True:
            message = wire.decode_agent_message(_read_frame(line))
            if isinstance(message, wire.EndpointTls):
                changed, self.said = message != self.said, message
                first = not self._first.is_set()
                self._first.set()
                if changed and not first:
                    self._heard(message)


def _read_frame(line: socket.socket) -> bytes:
    length = int.from_bytes(_read(line, 4), "big")
    if length > wire.MAX_FRAME_BYTES:
        raise wire.FrameError(f"a frame of {length} bytes is too long")
    return _read(line, length)


def _read(line: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        more = line.recv(length - len(parts))
        if not more:
            raise EOFError
        parts += more
    return bytes(parts)


class Certificates:
    """Gives a server what it serves TLS with, and changes it."""

    def __init__(
        self,
        line: AgentLine | None,
        certificate: Path | None,
        key: Path | None,
        tls_folder: Path,
    ) -> None:
        self._line = line
        self._operators = certificate, key
        self._folder = tls_folder
        self._now: tuple[Material, Files] | None = None
        self._next: tuple[Material, Files] | None = None

    def first(self) -> Files:
        """Return what a server that starts is to serve with.

        Raises OSError, UnusableCertificate. An installed one that cannot be used is not served, and said to be.
        """
        told = self._line.wait_first() if self._line is not None else None
        trouble = ""
        try:
            material = choose(told, *self._operators, self._folder)
            files = open_files(material)
        except UnusableCertificate as error:
            if told is None:
                raise
            log.error("%s; serving without it", error)
            trouble = str(error)
            material = choose(None, *self._operators, self._folder)
            files = open_files(material)
        self._now = material, files
        self._tell(trouble)
        return files

    def renew(self) -> Files:
        """Return what new workers are to serve with. Raises OSError, UnusableCertificate."""
        material = choose(self._line.said if self._line is not None else None, *self._operators, self._folder)
        files = open_files(material)
        self._next = material, files
        return files

    def settle(self, error: Exception | None) -> Files | None:
        """Note whether new workers serve now; returns what is served."""
        if error is None and self._next is not None:
            if self._now is not None:
                self._now[1].close()
            self._now = self._next
        elif self._next is not None:
            self._next[1].close()
        self._next = None
        self._tell("" if error is None else str(error))
        return self._now[1] if self._now is not None else None

    def _tell(self, trouble: str) -> None:
        if self._line is not None and self._now is not None:
            self._line.tell(describe(self._now[0], trouble))
