"""vault.front: what comes between granian and Django."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from vault import front
from vault.front import Front, make_environ


class HeaderTable:
    """Headers as granian gives them."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def get(self, name: str) -> str | None:
        return next((value for known, value in self.pairs if known == name), None)

    def items(self) -> list[tuple[str, str]]:
        return self.pairs


@dataclass
class Scope:
    """A request's head."""

    method: str = "POST"
    path: str = "/api/v1/x"
    query_string: str = ""
    headers: HeaderTable = field(default_factory=lambda: HeaderTable([]))
    http_version: str = "1.1"
    scheme: str = "http"
    client: str = "192.0.2.1:40000"
    server: str = "127.0.0.1:8000"


class Exchange:
    """A request's body, which may stop half-way, and its answer."""

    def __init__(self, chunks: Iterable[bytes] = (), *, stalls: bool = False) -> None:
        self.chunks = list(chunks)
        self.stalls = stalls
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.sent: list[bytes] = []

    async def __aiter__(self) -> Any:
        for chunk in self.chunks:
            yield chunk
        if self.stalls:
            await asyncio.Event().wait()

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.headers = status, headers
        self.sent.append(body)

    def response_stream(self, status: int, headers: list[tuple[str, str]]) -> Exchange:
        self.status, self.headers = status, headers
        return self

    async def send_bytes(self, data: bytes) -> None:
        self.sent.append(data)


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer the body."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.input"].read()]


@pytest.fixture
def serve() -> Any:
    """Run requests through one Front."""
    fronts = []

    def run(application: Any, *exchanges: Exchange, scope: Scope | None = None, **more: Any) -> None:
        async def all_of_them() -> None:
            one = Front(application, **more)
            fronts.append(one)
            await asyncio.gather(*(one(scope or Scope(), each) for each in exchanges))  # type: ignore[operator]

        asyncio.run(all_of_them())

    yield run
    for each in fronts:
        each._pool.shutdown(wait=True)


@pytest.fixture(autouse=True)
def _callable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Front, "__call__", Front.__rsgi__, raising=False)


def test_half_sent_bodies_hold_no_thread(serve: Any) -> None:
    stalled = [Exchange([b"{"], stalls=True) for _ in range(50)]
    whole = Exchange([b"he", b"llo"])
    order: list[str] = []

    def noting(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        order.append("whole" if not any(each.status for each in stalled) else "too late")
        return echo(environ, start_response)

    serve(noting, *stalled, whole, threads=1, body_deadline_s=0.2)
    assert (whole.status, whole.sent, order) == (200, [b"hello"], ["whole"])
    assert {each.status for each in stalled} == {408}


def test_a_client_that_went_away_half_way_is_not_taken_for_a_whole_request(serve: Any) -> None:
    exchange = Exchange([b'{"a"'])
    serve(echo, exchange, scope=Scope(headers=HeaderTable([("content-length", "400")])))
    assert exchange.status == 400


def test_bodies_are_bounded_each_and_together(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "MAX_BODY_BYTES", 100)
    monkeypatch.setattr(front, "SMALL_BODY_BYTES", 10)
    monkeypatch.setattr(front, "MAX_HELD_BYTES", 90)
    huge = Exchange([b"x" * 101])
    large = [Exchange([b"x" * 60], stalls=True) for _ in range(2)]
    small = Exchange([b"x" * 10])
    serve(echo, huge, *large, small, body_deadline_s=0.2)
    assert huge.status == 413
    assert sorted(each.status for each in large) == [408, 503]
    assert small.status == 200


def test_what_waits_for_a_thread_is_bounded(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "MAX_WAITING", 1)
    gate = threading.Event()
    exchanges: list[Exchange] = []

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert gate.wait(5)
        return echo(environ, start_response)

    class Counting(Exchange):
        def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            super().response_bytes(status, headers, body)
            if sum(each.status == 503 for each in exchanges) == 2:
                gate.set()

    exchanges += [Counting([b"a"]) for _ in range(4)]
    serve(slow, *exchanges, threads=1)
    assert sorted(each.status for each in exchanges) == [200, 200, 503, 503]


def test_a_streamed_answer_is_sent_in_parts_and_closed(serve: Any) -> None:
    closed: list[bool] = []

    class Parts:
        streaming = True

        def __iter__(self) -> Any:
            yield b"one"
            yield b"two"

        def close(self) -> None:
            closed.append(True)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Parts()

    exchange = Exchange()
    serve(application, exchange)
    assert (exchange.status, exchange.sent, closed) == (200, [b"one", b"two"], [True])


def test_a_fault_of_the_application_is_an_answer_and_a_line_in_the_log(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise RuntimeError("kst_secret")

    exchange = Exchange()
    serve(broken, exchange)
    assert exchange.status == 500
    assert b"kst_secret" not in b"".join(exchange.sent)


def test_a_header_with_underscores_cannot_pass_for_a_proxys() -> None:
    headers = HeaderTable(
        [
            ("x-forwarded-for", "198.51.100.1"),
            ("x_forwarded_for", "9.9.9.9"),
            ("x-forwarded-for", "203.0.113.7"),
        ]
    )
    environ = make_environ(Scope(headers=headers), b"")
    assert environ["HTTP_X_FORWARDED_FOR"] == "198.51.100.1,203.0.113.7"


def test_the_environment_of_the_process_is_no_part_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYSTEAD_ADMIN_PASSWORD", "correct horse battery staple")
    environ = make_environ(Scope(path="/ä", headers=HeaderTable([("content-type", "text/csv")])), b"abc")
    assert "correct horse battery staple" not in map(str, environ.values())
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("text/csv", "3")
    assert environ["PATH_INFO"].encode("latin-1").decode() == "/ä"
    assert (environ["REMOTE_ADDR"], environ["SERVER_PORT"]) == ("192.0.2.1", "8000")
