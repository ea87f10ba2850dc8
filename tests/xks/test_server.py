"""The real thing: granian over TLS with two workers, fed by an agent over its socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vault.serving import is_alive, listens, wait_for
from tests.xks import world
from tests.xks.fake_agent import FakeAgent
from xks import tls, wire
from xks.server import ServerSettings, SettingsError, clean_environment, make_server

ROOT = Path(__file__).parent.parent.parent
ENCRYPT = world.encrypt_body()
HEAD = f"POST {world.path('encrypt')} HTTP/1.1\r\nHost: localhost\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Running:
    """A server, its agent, and a client."""

    def __init__(self, folder: Path, agent: FakeAgent, port: int, process: subprocess.Popen[str]) -> None:
        self.folder, self.agent, self.port, self.process = folder, agent, port, process

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=tls.certificate_files(self.folder / "tls").ca)

    def connect(self, *, protocols: tuple[str, ...] = (), host: str = "localhost") -> ssl.SSLSocket:
        context = self.context()
        if protocols:
            context.set_alpn_protocols(list(protocols))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return context.wrap_socket(plain, server_hostname=host)

    @contextlib.contextmanager
    def client(self) -> Iterator[http.client.HTTPSConnection]:
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=10, context=self.context())
        try:
            yield connection
        finally:
            connection.close()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        with self.client() as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def call(self, operation: str, body: Any, key: str = "foo") -> tuple[int, dict[str, Any]]:
        path, raw = world.path(operation, key), world.dumped(body)
        return self.request("POST", path, raw, world.sign(path, raw, host=f"localhost:{self.port}"))

    def workers(self) -> set[int]:
        """Pids of the workers that said Hello and not Goodbye, and have not died."""
        said = {message.pid for message in self.agent.heard if isinstance(message, wire.Hello)}
        gone = {message.pid for message in self.agent.heard if isinstance(message, wire.Goodbye)}
        return {pid for pid in said - gone if Path(f"/proc/{pid}").exists()}


@contextlib.contextmanager
def run_server(program: str = "-m", *, workers: int = 2, **environment: str) -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="ks") as name:
        folder, port = Path(name), free_port()
        (folder / "run").mkdir(mode=0o700)
        with FakeAgent(folder / "run" / "xks.sock") as agent:
            agent.greeting = lambda hello: [*world.full_load(), world.lease()]
            environ = {
                **clean_environment(os.environ),
                "KEYSTEAD_DATA_DIR": name,
                "KEYSTEAD_XKS_PORT": str(port),
                "KEYSTEAD_XKS_WORKERS": "2",
                "KEYSTEAD_XKS_BUDGET_MS": "2000",  # this machine may be busy with other tests
                **environment,
            }
            process = subprocess.Popen(
                [sys.executable, *(["-m", "xks.server"] if program == "-m" else [program])],
                cwd=ROOT,
                env=environ,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            try:
                agent.wait_applied(1, workers=workers)
                # A worker begins to listen only after it has its keys.
                assert wait_for(lambda: listens(port), 20), "no worker listens"
                yield Running(folder, agent, port, process)
            finally:
                process.kill()
                process.communicate(timeout=30)  # a worker that lives on would hold the pipe for ever


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with run_server(KEYSTEAD_DATABASE_URL="postgres://secret", KEYSTEAD_SECRET_KEY="secret") as running:
        yield running


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "xks.keystead.test"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_certificate_and_tls_versions(running: Running, host: str, version: ssl.TLSVersion) -> None:
    context = running.context()
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        assert secured.version() == version.name.replace("_", ".")
        cipher = secured.cipher()
        assert cipher is not None
        assert cipher[0] in (
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        )


def test_older_tls_is_refused(running: Running) -> None:
    context = running.context()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


def test_round_trip(running: Running) -> None:
    status, encrypted = running.call(
        "encrypt", {**ENCRYPT, "ciphertextDataIntegrityValueAlgorithm": "SHA_256"}
    )
    assert status == 200
    assert running.call("decrypt", world.decrypt_body(encrypted)) == (
        200,
        {"plaintext": world.b64(b"Hello World!")},
    )
    assert running.call("metadata", world.metadata_body())[1]["keyStatus"] == "ENABLED"
    assert running.call("health", world.health_body())[1]["ekmFleetDetails"][0]["healthStatus"] == "ACTIVE"


def test_probes_with_any_host(running: Running) -> None:
    for path in ("/", "/ping"):
        assert running.request("GET", path, headers={"Host": "198.51.100.9"}) == (200, {"status": "ok"})


def test_get_is_405(running: Running) -> None:
    assert running.request("GET", world.path("health"))[0] == 405


def test_keep_alive_serves_many_requests(running: Running) -> None:
    with running.client() as connection:
        for _ in range(20):
            path, raw = world.path("encrypt"), world.dumped(ENCRYPT)
            connection.request("POST", path, raw, world.sign(path, raw, host=f"localhost:{running.port}"))
            response = connection.getresponse()
            assert (response.status, bool(response.read())) == (200, True)


def test_huge_announced_body_is_refused_before_it_is_sent(running: Running) -> None:
    with running.connect() as secured:
        secured.sendall(f"{HEAD}Content-Length: {1 << 40}\r\n\r\n".encode())
        answer = http.client.HTTPResponse(secured)
        answer.begin()
        assert answer.status == 501
        assert answer.getheader("connection") == "close"
        assert json.loads(answer.read())["errorName"] == "UnsupportedOperationException"


def test_endless_chunked_body_is_refused_while_it_is_sent(running: Running) -> None:
    with running.connect() as secured:
        head = (
            f"POST {world.path('encrypt')} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        secured.sendall(head.encode())
        for _ in range(20):
            secured.sendall(b"1000\r\n" + bytes(4096) + b"\r\n")
        answer = http.client.HTTPResponse(secured)
        answer.begin()
        assert answer.status == 501


def test_chunked_body_is_accepted(running: Running) -> None:
    path, raw = world.path("encrypt"), world.dumped(ENCRYPT)
    headers = {**world.sign(path, raw, host=f"localhost:{running.port}"), "Transfer-Encoding": "chunked"}
    with running.client() as connection:
        connection.request("POST", path, iter([raw[:10], raw[10:]]), headers, encode_chunked=True)
        assert connection.getresponse().status == 200


def test_slow_body_is_given_up(running: Running) -> None:
    with running.connect() as secured:
        secured.sendall(f"{HEAD}Content-Length: 100\r\n\r\n{{".encode())
        answer = http.client.HTTPResponse(secured)
        answer.begin()
        assert answer.status == 503
        assert json.loads(answer.read())["errorName"] == "DependencyTimeoutException"


def test_too_many_header_bytes_are_refused(running: Running) -> None:
    with running.client() as connection:
        connection.request("GET", "/ping", headers={"X-Padding": "x" * 17_000})
        assert connection.getresponse().status == 431


def _read_exactly(secured: ssl.SSLSocket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = secured.recv(length - len(data))
        assert more, "the server hung up"
        data += more
    return data


def _http2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _hpack_literal(name: str, value: str) -> bytes:
    """Return a header field as a literal without indexing and without Huffman coding (RFC 7541, 6.2.2)."""
    parts = b"\x00"
    for text in (name.encode(), value.encode()):
        length, prefix = len(text), b""
        if length < 127:
            prefix = bytes((length,))
        else:
            length -= 127
            prefix = b"\x7f"
            while length >= 128:
                prefix += bytes((length % 128 + 128,))
                length //= 128
            prefix += bytes((length,))
        parts += prefix + text
    return parts


def test_http2(running: Running) -> None:
    path, raw = world.path("encrypt"), world.dumped(ENCRYPT)
    signed = world.sign(path, raw, host="xks.keystead.test")
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": "xks.keystead.test",
        **signed,
    }
    block = b"".join(_hpack_literal(name, value) for name, value in fields.items())
    with running.connect(protocols=("h2",)) as secured:
        assert secured.selected_alpn_protocol() == "h2"
        secured.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _http2_frame(4, 0, 0, b"")  # SETTINGS
            + _http2_frame(1, 4, 1, block)  # HEADERS, END_HEADERS
            + _http2_frame(0, 1, 1, raw)  # DATA, END_STREAM
        )
        status, body = b"", b""
        while True:
            head = _read_exactly(secured, 9)
            payload = _read_exactly(secured, int.from_bytes(head[:3], "big"))
            if head[3] == 1:
                status = payload[:1]
            if head[3] == 0:
                body += payload
            if head[3] in (0, 1) and head[4] & 1:
                break
    assert status == b"\x88"  # ":status 200" of HPACK's static table
    assert "ciphertext" in json.loads(body)


def test_change_reaches_every_worker(running: Running) -> None:
    agent = running.agent
    agent.send(wire.Delta(2, False, True, keys=[world.key_record("foo", state="DISABLED")]))
    agent.wait_applied(2, workers=2)
    for _ in range(10):  # connections are spread over both workers
        status, answer = running.call("encrypt", ENCRYPT)
        assert (status, answer["errorName"]) == (400, "InvalidStateException")
    agent.send(wire.Delta(3, False, True, keys=[world.key_record("foo")]))
    agent.wait_applied(3, workers=2)
    assert running.call("encrypt", ENCRYPT)[0] == 200
    agent.greeting = lambda hello: [*world.full_load(3), world.lease(3)]


def test_processes_see_no_credential_but_their_own(running: Running) -> None:
    for pid in (running.process.pid, *running.workers()):
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"KEYSTEAD_DATA_DIR" in environ
        assert b"secret" not in environ


def test_worker_that_dies_is_started_again(running: Running) -> None:
    before = running.workers()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    running.agent.wait_for(lambda message: isinstance(message, wire.Applied) and message.pid not in before)
    assert running.call("encrypt", ENCRYPT)[0] == 200


def test_workers_end_with_a_server_that_is_killed() -> None:
    with run_server() as running:
        workers = running.workers()
        running.process.kill()
        running.process.wait()
        # With or without a Goodbye: one that had only just begun to serve may be ended by the kernel's alarm.
        assert wait_for(lambda: not any(map(is_alive, workers)), 20), workers


def test_sigterm_lets_a_request_finish_and_takes_leave() -> None:
    with run_server(KEYSTEAD_XKS_BUDGET_MS="5000") as running:
        path, raw = world.path("encrypt"), world.dumped(ENCRYPT)
        headers = world.sign(path, raw, host="localhost")
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with running.connect() as secured:
            secured.sendall(f"{HEAD}{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw[:9])
            # The same worker answers a probe on a connection of its own only after it has seen the head.
            assert running.request("GET", "/ping")[0] == 200
            running.process.send_signal(signal.SIGTERM)
            secured.sendall(raw[9:])
            answer = http.client.HTTPResponse(secured)
            answer.begin()
            assert answer.status == 200
        assert running.process.wait(10) == 0
        running.agent.wait_for(lambda message: isinstance(message, wire.Goodbye), count=2)


def test_reload_serves_the_new_certificate() -> None:
    with run_server(KEYSTEAD_XKS_DRAIN="1") as running:
        files = tls.certificate_files(running.folder / "tls")
        with running.connect() as secured:
            before = secured.getpeercert()
        files.certificate.unlink()
        tls.ensure_certificate(running.folder / "tls")
        old = running.workers()
        running.process.send_signal(signal.SIGHUP)
        running.agent.wait_for(lambda message: isinstance(message, wire.Goodbye), count=2, within=20)
        assert running.workers().isdisjoint(old)
        with running.connect() as secured:
            after = secured.getpeercert()
        assert before is not None
        assert after is not None
        assert before["serialNumber"] != after["serialNumber"]


def test_lease_that_runs_out_closes_the_endpoint() -> None:
    with run_server() as running:
        running.agent.send(world.lease(1, 0.2))
        deadline = time.monotonic() + 10
        while running.request("GET", "/ping")[0] != 503:
            assert time.monotonic() < deadline
        assert running.call("encrypt", ENCRYPT)[0] == 503
        running.agent.send(world.lease(1, 60))
        while running.request("GET", "/ping")[0] != 200:
            assert time.monotonic() < deadline
        assert running.call("encrypt", ENCRYPT)[0] == 200


def test_plain_http_behind_a_balancer() -> None:
    with run_server(KEYSTEAD_XKS_TLS="off") as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        connection.request("GET", "/ping")
        assert connection.getresponse().status == 200
        connection.close()
        assert not (running.folder / "tls").exists()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"KEYSTEAD_XKS_PORT": "0"}, "KEYSTEAD_XKS_PORT"),
        ({"KEYSTEAD_XKS_WORKERS": "many"}, "KEYSTEAD_XKS_WORKERS"),
        ({"KEYSTEAD_XKS_TLS": "perhaps"}, "KEYSTEAD_XKS_TLS"),
        ({"KEYSTEAD_XKS_TLS_CERT": "/tmp/x.pem"}, "KEYSTEAD_XKS_TLS_KEY"),
        ({"KEYSTEAD_XKS_TLS_CERT": "/nowhere/a", "KEYSTEAD_XKS_TLS_KEY": "/nowhere/b"}, "No such file"),
        ({"KEYSTEAD_DATA_DIR": "/proc/nowhere"}, "/proc/nowhere"),
        ({"KEYSTEAD_XKS_TLS_CERT": __file__, "KEYSTEAD_XKS_TLS_KEY": __file__}, "openssl pkcs8"),
        ({"KEYSTEAD_BIND": "192.0.2.1"}, "KEYSTEAD_BIND"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_settings_end_the_start_with_one_clear_line(
    environment: dict[str, str], told: str, tmp_path: Path
) -> None:
    environ = {**clean_environment(os.environ), "KEYSTEAD_DATA_DIR": str(tmp_path), **environment}
    ended = subprocess.run(
        [sys.executable, "-m", "xks.server"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert told in ended.stderr


def test_busy_port_ends_the_start_with_one_clear_line(running: Running, tmp_path: Path) -> None:
    environ = {
        **clean_environment(os.environ),
        "KEYSTEAD_DATA_DIR": str(tmp_path),
        "KEYSTEAD_XKS_PORT": str(running.port),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "xks.server"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert str(running.port) in ended.stderr


def test_settings_survive_the_environment(tmp_path: Path) -> None:
    settings = ServerSettings(
        socket_path=str(tmp_path / "s"),
        tls_folder=tmp_path / "tls",
        address="127.0.0.2",
        port=9443,
        workers=3,
        certificate=Path("c"),
        key=Path("k"),
        budget_s=0.2,
        node_name="node",
    )
    assert ServerSettings.from_environment(settings.to_environment()) == settings


def test_unusable_key_is_a_settings_error(tmp_path: Path) -> None:
    tls.ensure_certificate(tmp_path / "tls")
    files = tls.certificate_files(tmp_path / "tls")
    with pytest.raises(SettingsError, match="cannot be used"):
        make_server(
            ServerSettings(
                socket_path="s", tls_folder=tmp_path, certificate=files.certificate, key=files.ca_key
            )
        )


def test_key_in_another_format_is_a_settings_error(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN EC PRIVATE KEY-----\n")
    with pytest.raises(SettingsError, match="openssl pkcs8"):
        make_server(ServerSettings(socket_path="s", tls_folder=tmp_path, certificate=key, key=key))


def test_without_an_agent_the_probe_says_so(tmp_path: Path) -> None:
    port = free_port()
    environ = {
        **clean_environment(os.environ),
        "KEYSTEAD_DATA_DIR": str(tmp_path),
        "KEYSTEAD_XKS_PORT": str(port),
        "KEYSTEAD_XKS_TLS": "off",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "xks.server"],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 15
        while True:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=15)) as connection:
                try:
                    connection.request("GET", "/ping")
                    response = connection.getresponse()
                    reason = json.loads(response.read())["reason"]
                    break
                except ConnectionError:
                    assert time.monotonic() < deadline
        assert response.status == 503
        assert "waiting for the xks agent" in reason
    finally:
        process.kill()
        process.communicate()
