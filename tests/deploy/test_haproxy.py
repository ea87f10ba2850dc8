"""deploy/haproxy: a real HAProxy before a real data plane, on loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.xks import world
from tests.xks.pki import CLIENT, Authority
from tests.xks.test_server import ENCRYPT, ROOT, Running, free_port, run_server
from xks import tls

pytestmark = pytest.mark.slow

HOST = "xks.bank.test"
KMS = "cks.kms.eu-central-1.amazonaws.com"
BALANCER = "127.0.0.2"
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/sbin")
CONFIGURATION = ROOT / "deploy" / "haproxy" / "haproxy.cfg"


class Front:
    """A running HAProxy, and clients of it."""

    def __init__(self, folder: Path, port: int, public: Authority, amazon: Authority, node: Running) -> None:
        self.folder, self.port, self.public, self.amazon, self.node = folder, port, public, amazon, node

    def context(
        self, cn: str | None = KMS, *, by: Authority | None = None, days: float = 30
    ) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.public.pem)
        if cn is not None:
            issued = (by or self.amazon).issue(
                cn=cn, use=CLIENT, begins=timedelta(days=-60), ends=timedelta(days=days)
            )
            context.load_cert_chain(issued.write(self.folder / f"client-{time.monotonic_ns()}.pem"))
        return context

    def connect(self, context: ssl.SSLContext, *, first: bytes = b"", source: str = "") -> ssl.SSLSocket:
        plain = socket.create_connection(
            ("127.0.0.1", self.port), timeout=10, source_address=(source, 0) if source else None
        )
        if first:
            plain.sendall(first)
        return context.wrap_socket(plain, server_hostname=HOST)

    def request(self, secured: ssl.SSLSocket, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
        secured.sendall(head + body)
        answer = http.client.HTTPResponse(secured)
        answer.begin()
        return answer.status, answer.read()

    def admin(self, *commands: str) -> str:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.folder / "admin.sock"))
            line.sendall((";".join(commands) + "\n").encode())
            parts = []
            while more := line.recv(4096):
                parts.append(more)
        return b"".join(parts).decode()


def signed() -> bytes:
    path, raw = world.path("encrypt"), world.dumped(ENCRYPT)
    headers = world.sign(path, raw, host=HOST)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {len(raw)}\r\n{lines}\r\n".encode() + raw


@contextlib.contextmanager
def run_front(verify: str) -> Iterator[Front]:
    assert HAPROXY is not None, "needs Debian's haproxy"
    with run_server(KEYSTEAD_XKS_FRONTS="127.0.0.1") as node:
        folder, port = node.folder, free_port()
        public, amazon = Authority("Public CA"), Authority("Amazon Root CA 1")
        public.issue(HOST).write(folder / "xks.pem")
        (folder / "client-roots.pem").write_text(amazon.pem)
        shutil.copy(tls.certificate_files(folder / "tls").ca, folder / "keystead-ca.pem")
        (folder / "balancers.lst").write_text(f"{BALANCER}\n")
        environ = {
            "PATH": os.environ["PATH"],
            "KEYSTEAD_FRONT_BIND": f"127.0.0.1:{port}",
            "KEYSTEAD_FRONT_DIR": str(folder),
            "KEYSTEAD_FRONT_RUN": str(folder),
            "KEYSTEAD_FRONT_VERIFY": verify,
            "KEYSTEAD_NODE": f"127.0.0.1:{node.port}",
        }
        process = subprocess.Popen(
            [HAPROXY, "-db", "-f", str(CONFIGURATION)],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            front = Front(folder, port, public, amazon, node)
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError), front.connect(front.context()) as secured:
                    head = f"GET /ping HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode()
                    if front.request(secured, head)[0] == 200:
                        break
                assert time.monotonic() < deadline, "HAProxy or the node behind it did not come up"
                time.sleep(0.1)
            yield front
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with run_front("required") as front:
        yield front


@pytest.fixture
def own_front() -> Iterator[Front]:
    """For what lasts: in HAProxy 2.6 a change of roots keeps a later change of the certificate from showing."""
    with run_front("required") as front:
        yield front


def refused(front: Front, context: ssl.SSLContext) -> bool:
    """Whether a client comes no further than the handshake: TLS 1.3 tells it with the first read."""
    try:
        with front.connect(context) as secured:
            secured.sendall(signed())
            return secured.recv(1) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def test_requests_go_through_on_one_connection(front: Front) -> None:
    with front.connect(front.context()) as secured:
        for _ in range(20):
            status, answer = front.request(secured, signed())
            assert (status, "ciphertext" in json.loads(answer)) == (200, True)


def test_http2(front: Front) -> None:
    context = front.context()
    context.set_alpn_protocols(["h2"])
    with front.connect(context) as secured:
        assert secured.selected_alpn_protocol() == "h2"
    client = front.amazon.issue(cn=KMS, use=CLIENT).write(front.folder / "h2.pem")
    body = front.folder / "body"
    body.write_bytes(world.dumped(ENCRYPT))
    path, raw = world.path("encrypt"), world.dumped(ENCRYPT)
    host = f"{HOST}:{front.port}"
    command = ["curl", "-sS", "--http2", "--resolve", f"{host}:127.0.0.1", "--cert", str(client)]
    (front.folder / "public.pem").write_text(front.public.pem)
    command += ["--cacert", str(front.folder / "public.pem"), "--data-binary", f"@{body}"]
    command += [
        part for item in world.sign(path, raw, host=host).items() for part in ("-H", f"{item[0]}: {item[1]}")
    ]
    command += ["-o", "/dev/null", "-w", "%{http_version} %{http_code}", f"https://{host}{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout == "2 200", done.stderr


@pytest.mark.parametrize("kind", ["none", "untrusted", "expired", "cn", "cn suffix", "cn prefix"])
def test_clients_that_are_not_kms(front: Front, kind: str) -> None:
    contexts = {
        "none": lambda: front.context(None),
        "untrusted": lambda: front.context(by=Authority("Somebody")),
        "expired": lambda: front.context(days=-1),
        "cn": lambda: front.context("somebody.example.com"),
        "cn suffix": lambda: front.context(f"{KMS}.evil.test"),
        "cn prefix": lambda: front.context(f"x.{KMS}"),
    }
    assert refused(front, contexts[kind]())
    assert not refused(front, front.context("cks.kms.us-east-1.amazonaws.com"))


def test_a_wrong_cn_is_refused_before_the_request_is_read(front: Front) -> None:
    with contextlib.suppress(ssl.SSLError, ConnectionError), front.connect(front.context("x")) as secured:
        assert secured.recv(1) == b""  # nothing was sent, and it has hung up


def test_the_proxy_protocol_is_taken_from_named_balancers_alone(front: Front) -> None:
    line = b"PROXY TCP4 203.0.113.9 127.0.0.1 40000 443\r\n"
    with front.connect(front.context(), first=line, source=BALANCER) as secured:
        assert front.request(secured, signed())[0] == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        front.connect(front.context(), first=line)
    with pytest.raises((ssl.SSLError, ConnectionError, TimeoutError)):
        front.connect(front.context(), source=BALANCER)


@pytest.mark.parametrize(("length", "good"), [(12_000, True), (17_500, False)])
def test_header_bytes(front: Front, length: int, good: bool) -> None:
    head = f"GET /ping HTTP/1.1\r\nhost: {HOST}\r\nx-padding: {'x' * length}\r\n\r\n".encode()
    with front.connect(front.context()) as secured:
        assert (front.request(secured, head)[0] == 200) is good


def test_a_body_that_is_announced_too_long(front: Front) -> None:
    head = f"POST {world.path('encrypt')} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 70000\r\n\r\n"
    with front.connect(front.context()) as secured:
        assert front.request(secured, head.encode(), b" " * 20_000)[0] == 413


@pytest.mark.parametrize("what", ["header", "body"])
def test_slow_ones_are_cut_off(front: Front, what: str) -> None:
    whole = signed()
    part = whole[:40] if what == "header" else whole[:-5]
    with front.connect(front.context()) as secured:
        secured.settimeout(15)
        since = time.monotonic()
        status, _ = front.request(secured, part)
        assert status == 408
        assert time.monotonic() - since > 4


def test_another_certificate_without_a_lost_request(own_front: Front) -> None:
    front = own_front
    new = front.public.issue(HOST)
    name = str(front.folder / "xks.pem")
    with front.connect(front.context()) as before:
        assert front.request(before, signed())[0] == 200
        pem = (new.chain + new.key_pem).rstrip("\n")
        front.admin(f"set ssl cert {name} <<\n{pem}\n")
        assert "Success" in front.admin(f"commit ssl cert {name}")
        assert front.request(before, signed())[0] == 200
    with front.connect(front.context()) as after:
        shown = after.getpeercert()
        assert shown is not None
        assert int(str(shown["serialNumber"]), 16) == new.certificate.serial_number


def test_other_roots_without_a_restart(own_front: Front) -> None:
    front = own_front
    other = Authority("Amazon Root CA 2")
    assert refused(front, front.context(by=other))
    name = str(front.folder / "client-roots.pem")
    front.admin(f"set ssl ca-file {name} <<\n{(front.amazon.pem + other.pem).rstrip()}\n")
    assert "Success" in front.admin(f"commit ssl ca-file {name}")
    assert not refused(front, front.context(by=other))
    assert not refused(front, front.context())


def test_a_node_can_be_drained(front: Front) -> None:
    front.admin("set server keystead/node-1 state drain")
    with front.connect(front.context()) as secured:
        assert front.request(secured, signed())[0] == 503
    front.admin("set server keystead/node-1 state ready")
    with front.connect(front.context()) as secured:
        assert front.request(secured, signed())[0] == 200


def test_without_client_certificates_when_told_so() -> None:
    with run_front("none") as front, front.connect(front.context(None)) as secured:
        assert front.request(secured, signed())[0] == 200
