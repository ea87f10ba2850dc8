"""A change of certificate under load: no begun request fails, on HTTP/1.1 and on HTTP/2; real granian."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.xks import world
from tests.xks.pki import CLIENT, Authority
from tests.xks.test_server import ENCRYPT, Running, run_server
from xks import tls, wire

pytestmark = pytest.mark.slow

CONNECTIONS = 16
DRAIN_S = 2


@pytest.fixture
def running() -> Iterator[Running]:
    with run_server(KEYSTEAD_XKS_DRAIN=str(DRAIN_S)) as running:
        yield running


def other_certificate(folder: Path) -> wire.EndpointTls:
    """Return another certificate of the CA that clients of this instance trust."""
    source = tls.certificate_files(folder / "tls")
    copy = folder / f"tls-{time.monotonic_ns()}"
    copy.mkdir()
    for name in ("ca.pem", "ca-key.pem"):
        shutil.copy(source.ca.parent / name, copy / name)
    tls.ensure_certificate(copy)
    made = tls.certificate_files(copy)
    return wire.EndpointTls(made.certificate.read_bytes(), made.key.read_bytes())


def fingerprint(told: wire.EndpointTls) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(told.certificate.decode())).hexdigest()


def served(running: Running) -> str:
    with running.connect() as secured:
        return hashlib.sha256(secured.getpeercert(True) or b"").hexdigest()


class Load:
    """Keep-alive clients that never repeat a request: whatever is lost, is counted."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.answered = 0
        self.connected = 0
        self.faults: list[str] = []
        self.stopping = False
        path, raw = world.path("encrypt"), world.dumped(ENCRYPT)
        headers = world.sign(path, raw, host="localhost")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n{lines}\r\n"
        self.request = head.encode() + raw

    async def client(self, every_s: float) -> None:
        while not self.stopping:
            try:
                await self._connection(every_s)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.faults.append(repr(error))

    async def _connection(self, every_s: float) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.running.port, ssl=self.running.context(), server_hostname="localhost"
        )
        self.connected += 1
        close = False
        for _ in range(200):  # then another connection: these must not fail either
            if self.stopping or close:
                break
            writer.write(self.request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            if b" 200 " not in head.partition(b"\r\n")[0]:
                self.faults.append(head.decode())
            self.answered += 1
            close = b"connection: close" in head
            if every_s:
                await asyncio.sleep(every_s)
        writer.close()
        # It is closed from the other side, too, after the last answer.
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()

    async def run(self, work: asyncio.Future[None]) -> None:
        clients = [
            asyncio.create_task(self.client(0.0 if number % 2 else 0.05)) for number in range(CONNECTIONS)
        ]
        try:
            await work
        finally:
            self.stopping = True
            await asyncio.gather(*clients)


def test_no_request_is_lost_when_the_certificate_changes_under_load(running: Running) -> None:
    agent = running.agent
    load = Load(running)
    changes = [other_certificate(running.folder) for _ in range(3)]

    async def change() -> None:
        await asyncio.sleep(0.5)
        for told in changes:
            wanted = fingerprint(told)
            agent.endpoint_tls = told
            await asyncio.to_thread(agent.send, told)
            await asyncio.to_thread(
                agent.wait_for,
                lambda m, wanted=wanted: isinstance(m, wire.CertificateServed) and m.fingerprint == wanted,
                within=30,
            )
            # Whoever connects from now on meets the new one, though old workers still have connections.
            for _ in range(10):
                assert await asyncio.to_thread(served, running) == wanted
            await asyncio.sleep(DRAIN_S / 2)  # the next change comes while these still drain
        await asyncio.sleep(DRAIN_S + 1)

    async def run() -> None:
        await load.run(asyncio.ensure_future(change()))

    asyncio.run(run())
    assert load.faults == []
    assert load.answered > 200
    assert load.connected > 2 * CONNECTIONS
    agent.wait_for(lambda m: isinstance(m, wire.Goodbye), count=6, within=20)


def test_http2_requests_survive_a_change(running: Running, tmp_path: Path) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("needs h2load (Debian: nghttp2-client)")
    path, raw = world.path("encrypt"), world.dumped(ENCRYPT)
    body = tmp_path / "body"
    body.write_bytes(raw)
    host = f"localhost:{running.port}"
    headers = [f"-H{name}: {value}" for name, value in world.sign(path, raw, host=host).items()]
    command = ["h2load", "-c4", "-m4", "-D6", "--rps=50", f"-d{body}", *headers, f"https://{host}{path}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(1)
    told = other_certificate(running.folder)
    running.agent.send(told)
    running.agent.wait_for(
        lambda m: isinstance(m, wire.CertificateServed) and m.fingerprint == fingerprint(told), within=20
    )
    text = process.communicate(timeout=60)[0]
    counts = next(line for line in text.splitlines() if line.startswith("requests:"))
    done, succeeded = (
        int(part.split()[0]) for word in ("done", "succeeded") for part in counts.split(", ") if word in part
    )
    assert done > 50
    assert succeeded == done, text


def test_a_certificate_that_cannot_be_used_changes_nothing(running: Running) -> None:
    before, workers = served(running), running.workers()
    broken = wire.EndpointTls(b"-----BEGIN CERTIFICATE-----\n", b"-----BEGIN PRIVATE KEY-----\n")
    running.agent.send(broken)
    running.agent.wait_for(lambda m: isinstance(m, wire.CertificateServed) and bool(m.trouble), within=20)
    assert served(running) == before
    assert running.workers() == workers
    assert running.call("encrypt", ENCRYPT)[0] == 200


def test_a_worker_that_dies_while_others_drain_is_started_again(running: Running) -> None:
    told = other_certificate(running.folder)
    running.agent.send(told)
    running.agent.wait_for(
        lambda m: isinstance(m, wire.CertificateServed) and m.fingerprint == fingerprint(told), within=20
    )
    applied = [m.pid for m in running.agent.heard if isinstance(m, wire.Applied)]
    known, victim = set(applied), applied[-1]
    os.kill(victim, signal.SIGKILL)
    running.agent.wait_for(lambda m: isinstance(m, wire.Applied) and m.pid not in known, within=20)
    for _ in range(10):
        assert served(running) == fingerprint(told)
        assert running.call("encrypt", ENCRYPT)[0] == 200


def test_client_roots_are_asked_for_and_lifted_without_a_restart(running: Running) -> None:
    authority = Authority()
    client = authority.issue(cn="a client", use=CLIENT).write(running.folder / "client.pem")
    told = other_certificate(running.folder)
    asking = wire.EndpointTls(told.certificate, told.key, authority.pem.encode())
    running.agent.send(asking)
    running.agent.wait_for(
        lambda m: isinstance(m, wire.CertificateServed) and bool(m.client_roots), within=20
    )
    with pytest.raises((ssl.SSLError, ConnectionError)):
        running.request("GET", "/ping")
    context = running.context()
    context.load_cert_chain(client)
    running.context = lambda: context  # type: ignore[method-assign]
    assert running.call("encrypt", ENCRYPT)[0] == 200
    running.agent.send(told)
    deadline = time.monotonic() + 20
    while [m for m in running.agent.heard if isinstance(m, wire.CertificateServed)][-1].client_roots:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    del running.context
    assert running.request("GET", "/ping")[0] == 200
