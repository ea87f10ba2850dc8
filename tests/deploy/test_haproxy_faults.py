"""deploy/haproxy under fault: nodes that hang up, callers that open too many connections, addresses that are told end to end."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.test_haproxy import BALANCER, CONFIGURATION, HAPROXY, HOST, Front, run_front, signed
from tests.vault.serving import wait_for
from tests.xks import world
from tests.xks.pki import Authority
from tests.xks.test_server import free_port
from xks import journal_format as form
from xks.journal_recovery import segments_of
from xks.journal_writer import journal_folder, read_segment

pytestmark = pytest.mark.slow

CALLER, CROWD = "127.0.0.5", "127.0.0.3"
MOST_FROM_ONE = 1000


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with run_front("none") as front:
        yield front


# --- a request is never sent twice


class Node:
    """Speaks TLS as a node does, answers probes, and hangs up on requests as it is told."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.manner = "answer"
        self.seen: Counter[str] = Counter()
        self.bodies = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(authority.issue("xks.keystead.test").write(folder / "node.pem"))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept nothing more: connections are refused."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as secured:
            secured.settimeout(20)
            reader = secured.makefile("rb")
            while line := reader.readline():
                length, headers = 0, b""
                while (header := reader.readline()) not in (b"\r\n", b""):
                    headers += header
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                body = reader.read(length)
                if line.startswith(b"GET /ping"):
                    secured.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    continue
                self.seen[self.manner] += 1
                self.bodies += len(body) == length > 0
                match self.manner:
                    case "hang up":
                        return
                    case "half an answer":
                        secured.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{")
                        return
                    case "nonsense":
                        secured.sendall(b"this is no answer\r\n\r\n")
                        return
                    case "too busy":
                        secured.sendall(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}")
                    case "silence":
                        time.sleep(4)  # longer than `timeout server`
                        return
                    case _:
                        secured.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


@contextlib.contextmanager
def run_before_a_broken_node() -> Iterator[tuple[Node, int, Authority]]:
    """HAProxy before a node that breaks off; yields it, the front's port and the front's authority."""
    assert HAPROXY is not None
    with tempfile.TemporaryDirectory(prefix="ks") as name:
        folder, port = Path(name), free_port()
        public, private = Authority("Public CA"), Authority("Keystead")
        node = Node(folder, private)
        public.issue(HOST).write(folder / "xks.pem")
        (folder / "client-roots.pem").write_text(public.pem)
        (folder / "keystead-ca.pem").write_text(private.pem)
        (folder / "balancers.lst").write_text("")
        environ = {
            "PATH": os.environ["PATH"],
            "KEYSTEAD_FRONT_BIND": f"127.0.0.1:{port}",
            "KEYSTEAD_FRONT_DIR": name,
            "KEYSTEAD_FRONT_RUN": name,
            "KEYSTEAD_FRONT_VERIFY": "none",
            "KEYSTEAD_NODE": f"127.0.0.1:{node.port}",
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [HAPROXY, "-db", "-f", str(CONFIGURATION)], env=environ, stdout=log, stderr=log
            )
        try:
            assert wait_for(lambda: status_of(port, public) == 200, 30), (folder / "log").read_text()
            yield node, port, public
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):
                node.close()


@pytest.fixture(scope="module")
def broken() -> Iterator[tuple[Node, int, Authority]]:
    with run_before_a_broken_node() as made:
        yield made


def status_of(port: int, authority: Authority, *, times: int = 1) -> int:
    """Send an Encrypt, or several on one connection; return the last answer's status, 0 for none."""
    context = ssl.create_default_context(cadata=authority.pem)
    status = b"0"
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secured,
    ):
        for _ in range(times):
            status = b"0"
            secured.sendall(signed())
            status = secured.recv(65536).split(b" ", 2)[1]
    return int(status)


@pytest.mark.parametrize(
    ("manner", "expected"),
    [("hang up", 502), ("half an answer", 200), ("nonsense", 502), ("too busy", 503), ("silence", 504)],
)
def test_what_a_node_may_have_read_is_never_sent_again(
    broken: tuple[Node, int, Authority], manner: str, expected: int
) -> None:
    node, port, authority = broken
    for connections in range(1, 3):
        # The second time the front has a connection to the node that it has used before.
        node.manner = "answer"
        assert wait_for(lambda: status_of(port, authority, times=2) == 200, 15)
        node.manner = manner
        assert status_of(port, authority) == expected
        assert node.seen[manner] == connections
    time.sleep(1)
    assert node.seen[manner] == 2
    node.manner = "answer"


def test_a_node_that_cannot_be_reached_has_read_nothing() -> None:
    with run_before_a_broken_node() as (node, port, authority):
        bodies = node.bodies
        assert bodies > 0
        node.close()
        assert status_of(port, authority) in (503, 504)
        assert node.bodies == bodies


# --- connections


def test_one_address_may_not_take_all_connections(front: Front) -> None:
    with contextlib.ExitStack() as stack:
        held = []
        at_once = 0  # cut before connect() returned
        for _ in range(MOST_FROM_ONE + 20):
            try:
                plain = socket.create_connection(
                    ("127.0.0.1", front.port), timeout=10, source_address=(CROWD, 0)
                )
            except ConnectionResetError:
                at_once += 1
            else:
                held.append(stack.enter_context(plain))

        def cut() -> int:
            found = at_once
            for plain in held:
                plain.setblocking(False)
                try:
                    found += plain.recv(1) == b""
                except BlockingIOError:
                    pass
                except OSError:
                    found += 1
            return found

        assert wait_for(lambda: cut() >= 20, 5)
        # Those above the cap, not those within; and nobody else is touched.
        assert cut() == 20
        with front.connect(front.context(None), source=CALLER) as secured:
            assert front.request(secured, signed())[0] == 200
        with pytest.raises((ssl.SSLError, ConnectionError)):
            front.connect(front.context(None), source=CROWD)
    # Once they are gone the address is served again.
    assert wait_for(lambda: _is_served(front, CROWD), 15)


def _is_served(front: Front, source: str) -> bool:
    with (
        contextlib.suppress(ssl.SSLError, ConnectionError),
        front.connect(front.context(None), source=source) as secured,
    ):
        return front.request(secured, signed())[0] == 200
    return False


# --- whose address is kept


def counted(front: Front) -> set[str]:
    """Return the addresses under which requests without a signature were counted in the node's journal."""
    (folder,) = (front.node.folder / "journal").iterdir()
    found = set()
    for chain in front.node.agent.chains:
        for number in segments_of(folder, chain):
            for entry in form.read_entries(read_segment(folder, chain, number)):
                if entry.kind == form.COUNTS:
                    found |= {source for _, source, _ in entry.values[1]}
    return found


def test_the_journal_knows_the_callers_address(front: Front) -> None:
    assert journal_folder(front.node.folder, "x").parent == front.node.folder / "journal"
    path = world.path("encrypt")
    head = f"POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 2\r\n"
    forged = f"{head}X-Forwarded-For: 198.51.100.7\r\nx-forwarded-for: 198.51.100.8\r\n\r\n{{}}".encode()
    with front.connect(front.context(None), source=CALLER) as secured:
        assert front.request(secured, forged)[0] == 401
    line = b"PROXY TCP4 203.0.113.9 127.0.0.1 40000 443\r\n"
    with front.connect(front.context(None), first=line, source=BALANCER) as secured:
        assert front.request(secured, forged)[0] == 401
    assert wait_for(lambda: {CALLER, "203.0.113.9"} <= counted(front), 10), counted(front)
    # Neither what the callers claim, nor the front, nor the balancer.
    assert not counted(front) & {"198.51.100.7", "198.51.100.8", "127.0.0.1", BALANCER}
