"""The client side of XKS over HTTPS: one deadline for everything, trust, and what counts as an answer."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloudkeys.simulators.aws.xks_transport import Transport, TransportError
from tests.cloudkeys.simulators.aws.conftest import HOST
from tests.cloudkeys.simulators.aws.fake_proxy import FakeProxy


@contextmanager
def dripping(tls_files: dict[str, Path]) -> Iterator[int]:
    """A server that goes on answering, one byte every few milliseconds, and never comes to an end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_files["leaf"], tls_files["key"])
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as secure:
                try:
                    secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                    while not stop.wait(0.005):
                        secure.sendall(b"x")
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stop.set()
            thread.join()


def test_answering_drop_by_drop_wins_no_time(tls_files: dict[str, Path]) -> None:
    with dripping(tls_files) as port:
        transport = Transport({HOST: ("127.0.0.1", port)}, tls_files["ca"], 0.2)
        with pytest.raises(TransportError) as refused:
            transport.post(HOST, "/", {"Host": HOST}, b"{}")
        transport.close()
    assert refused.value.kind == "timeout"


def test_a_listener_that_says_nothing_times_out_in_the_handshake(tls_files: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = Transport({HOST: listener.getsockname()}, tls_files["ca"], 0.1)
        with pytest.raises(TransportError) as refused:
            transport.post(HOST, "/", {"Host": HOST}, b"{}")
        transport.close()
    assert refused.value.kind == "timeout"


def test_a_leaf_may_be_trusted_by_itself(tls_files: dict[str, Path], proxy: FakeProxy) -> None:
    proxy.override = lambda seen: (200, {})
    transport = Transport({HOST: ("127.0.0.1", proxy.port)}, tls_files["leaf"], 10)
    answer = transport.post(HOST, "/", {"Host": HOST}, b"{}")
    transport.close()
    assert (answer.status, answer.body) == (200, b"{}")


def test_the_authorities_are_read_again_when_their_file_changes(
    tls_files: dict[str, Path], tmp_path: Path, proxy: FakeProxy
) -> None:
    proxy.override = lambda seen: (200, {})
    bundle = tmp_path / "ca.pem"
    transport = Transport({HOST: ("127.0.0.1", proxy.port)}, bundle, 10)
    for content in (None, b"no certificate", tls_files["stranger"].read_bytes()):
        if content is not None:
            bundle.write_bytes(content)
        with pytest.raises(TransportError) as refused:
            transport.post(HOST, "/", {"Host": HOST}, b"{}")
        assert refused.value.kind == "tls"
    bundle.write_bytes(tls_files["ca"].read_bytes())
    assert transport.post(HOST, "/", {"Host": HOST}, b"{}").status == 200
    transport.close()
