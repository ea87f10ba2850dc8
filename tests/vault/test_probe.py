"""vault.probe: does a part work?"""

import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from vault import probe


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers /healthz and /ping with 200, /broken with 503, everything else with 404."""

    def do_GET(self) -> None:
        """Answer."""
        status = {"/healthz": 200, "/ping": 200, "/broken": 503}.get(self.path, 404)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Yield the port of a small HTTP server."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_answers(port):
    assert probe.http_answers("127.0.0.1", port, "/healthz", tls=False)
    assert not probe.http_answers("127.0.0.1", port, "/broken", tls=False)
    assert not probe.http_answers("127.0.0.1", port, "/", tls=False)
    assert probe.http_answers("127.0.0.1", port, "/", tls=False, statuses=range(200, 500))
    # Plain HTTP where TLS is expected, and nobody at all.
    assert not probe.http_answers("127.0.0.1", port, "/healthz", tls=True)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert not probe.http_answers("127.0.0.1", unused.getsockname()[1], "/healthz", tls=False)


def test_web_xks_simulator(port, set_environ):
    set_environ(WEB_PORT=str(port), XKS_PORT=str(port), XKS_TLS="off", SIMULATOR_PORT=str(port))
    assert probe.main(["web"]) == 0
    assert probe.main(["xks"]) == 0
    assert probe.main(["simulator"]) == 0
    set_environ(XKS_TLS="on")
    assert probe.main(["xks"]) == 1


@pytest.mark.parametrize(
    ("bind", "address"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.1", "127.0.0.1"), ("10.1.1.1", "10.1.1.1")],
)
def test_local_address(bind, address, set_environ):
    set_environ(BIND=bind)
    assert probe.local_address() == address


def test_agent(data_dir, set_environ):
    set_environ(XKS_SOCKET=str(data_dir / "x.sock"))
    assert not probe.agent()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(data_dir / "x.sock"))
        listener.listen()
        assert probe.agent()
    assert not probe.agent()


@pytest.mark.parametrize("name", ["worker", "beat", "hsm"])
def test_pulse(name, data_dir):
    assert probe.main([name]) == 1
    (data_dir / "run").mkdir()
    probe.beat_pulse(name)
    assert probe.main([name]) == 0
    old = time.time() - probe.PULSE_LIMIT - 1
    os.utime(probe.pulse_path(name), (old, old))
    assert probe.main([name]) == 1
    probe.beat_pulse(name)
    assert probe.main([name]) == 0


def test_usage(capsys):
    assert probe.main([]) == 2
    assert probe.main(["database"]) == 2
    assert "usage" in capsys.readouterr().err
