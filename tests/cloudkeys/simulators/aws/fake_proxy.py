"""A small external key store proxy over HTTPS, for tests of the AWS side: it can be right, and wrong in every way.

It checks signatures with a routine of its own, so that the simulator's signing is not measured by itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ACCESS_KEY_ID = "ABCDEFGHIJKLMNOPQRST"
SECRET = base64.b64encode(hashlib.sha256(b"a test credential").digest()).decode()
PATH = "/kms/xks/v1"
HEALTH = {
    "xksProxyFleetSize": 1,
    "xksProxyVendor": "Test",
    "xksProxyModel": "Fake 1",
    "ekmVendor": "Test",
    "ekmFleetDetails": [{"id": "one", "model": "m", "healthStatus": "ACTIVE"}],
}


@dataclass
class ExternalKey:
    """One key of the fake key manager."""

    material: bytes = field(default_factory=lambda: os.urandom(32))
    spec: str = "AES_256"
    usage: tuple[str, ...] = ("ENCRYPT", "DECRYPT")
    status: str = "ENABLED"


@dataclass
class Seen:
    """One request that came: its path under the proxy's prefix, its document, its headers."""

    path: str
    document: dict[str, Any]
    headers: dict[str, str]
    client_port: int


# Status and body, or bytes written to the connection as they are (b"" closes it without an answer).
Answer = tuple[int, Any] | bytes


@dataclass
class FakeProxy:
    """What a test sets and sees. ``override`` may answer in place of the proxy, None lets it answer itself."""

    port: int = 0
    prefix: str = ""
    secrets: dict[str, str] = field(default_factory=lambda: {ACCESS_KEY_ID: SECRET})
    keys: dict[str, ExternalKey] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(HEALTH)))
    override: Callable[[Seen], Answer | None] | None = None
    seen: list[Seen] = field(default_factory=list)

    def operations(self) -> list[str]:
        """The last path parts of what was asked, in order."""
        return [request.path.rsplit("/", 1)[1] for request in self.seen]


def error(status: int, name: str) -> Answer:
    """An XKS error answer."""
    return status, {"errorName": name, "errorMessage": f"said {name}"}


def _signature_is_right(proxy: FakeProxy, handler: BaseHTTPRequestHandler, body: bytes) -> bool:
    fields = dict(
        part.split("=", 1)
        for part in handler.headers["Authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(", ")
    )
    access_key_id, date, region, service, _ = fields["Credential"].split("/")
    if service != "kms-xks-proxy" or access_key_id not in proxy.secrets:
        return False
    lines = "".join(f"{name}:{handler.headers[name]}\n" for name in fields["SignedHeaders"].split(";"))
    request = (
        f"POST\n{handler.path}\n\n{lines}\n{fields['SignedHeaders']}\n{hashlib.sha256(body).hexdigest()}"
    )
    scope = f"{date}/{region}/kms-xks-proxy/aws4_request"
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{handler.headers['X-Amz-Date']}\n{scope}\n{digest}"
    key = ("AWS4" + proxy.secrets[access_key_id]).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest() == fields["Signature"]


def _aad(document: dict[str, Any], metadata: bytes) -> bytes:
    aad = base64.b64decode(document.get("additionalAuthenticatedData", ""))
    return len(aad).to_bytes(2, "big") + aad + bytes([len(metadata)]) + metadata


def _encrypt(key: ExternalKey, document: dict[str, Any]) -> Answer:
    iv, metadata = os.urandom(12), b"\x01meta"
    sealed = AESGCM(key.material).encrypt(
        iv, base64.b64decode(document["plaintext"]), _aad(document, metadata)
    )
    ciphertext, tag = sealed[:-16], sealed[-16:]
    aad = base64.b64decode(document.get("additionalAuthenticatedData", ""))
    parts = {
        "authenticationTag": tag,
        "ciphertext": ciphertext,
        "ciphertextDataIntegrityValue": hashlib.sha256(aad + metadata + iv + ciphertext + tag).digest(),
        "ciphertextMetadata": metadata,
        "initializationVector": iv,
    }
    return 200, {name: base64.b64encode(value).decode() for name, value in parts.items()}


def _decrypt(key: ExternalKey, document: dict[str, Any]) -> Answer:
    names = ("ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag")
    part = {name: base64.b64decode(document[name]) for name in names}
    try:
        plaintext = AESGCM(key.material).decrypt(
            part["initializationVector"],
            part["ciphertext"] + part["authenticationTag"],
            _aad(document, part["ciphertextMetadata"]),
        )
    except InvalidTag:
        return error(400, "InvalidCiphertextException")
    return 200, {"plaintext": base64.b64encode(plaintext).decode()}


def _answer(proxy: FakeProxy, seen: Seen) -> Answer:
    parts = seen.path.split("/")
    if parts == ["", "health"]:
        return 200, proxy.health
    key = proxy.keys.get(parts[2])
    if key is None:
        return error(404, "KeyNotFoundException")
    if parts[3] == "metadata":
        return 200, {"keySpec": key.spec, "keyUsage": list(key.usage), "keyStatus": key.status}
    if key.status != "ENABLED":
        return error(400, "InvalidStateException")
    return (_encrypt if parts[3] == "encrypt" else _decrypt)(key, seen.document)


@contextmanager
def serving(certificate: Path, private_key: Path) -> Iterator[FakeProxy]:
    """Serve a fake proxy on a free port of 127.0.0.1 while the block lasts."""
    proxy = FakeProxy()
    sockets = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            start = proxy.prefix + PATH
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(self.path.removeprefix(start), json.loads(body), headers, self.client_address[1])
            proxy.seen.append(seen)
            answer = proxy.override(seen) if proxy.override is not None else None
            if answer is None:
                if not self.path.startswith(start):
                    answer = error(404, "InvalidUriPathException")
                elif not _signature_is_right(proxy, self, body):
                    answer = error(401, "AuthenticationFailedException")
                else:
                    answer = _answer(proxy, seen)
            if isinstance(answer, bytes):
                self.wfile.write(answer)
                self.close_connection = True
                return
            status, document = answer
            content = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = False

        def finish_request(self, request: Any, client_address: Any) -> None:
            # The handshake happens in the connection's own thread; a client that refuses our certificate ends it.
            try:
                secure = context.wrap_socket(request, server_side=True)
            except (ssl.SSLError, ConnectionError):
                return
            sockets.append(secure)
            try:
                self.RequestHandlerClass(secure, client_address, self)
            except (ConnectionError, ssl.SSLError):
                return
            finally:
                secure.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private_key)
    server = Server(("127.0.0.1", 0), Handler)
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        for connection in sockets:
            if connection.fileno() >= 0:
                connection.shutdown(2)
        server.server_close()
