"""The application without a server: requests go in as granian would give them, answers come out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tests.xks import world
from xks import wire
from xks.app import App
from xks.journal import MemoryJournal
from xks.keyring import Change, Serving
from xks.operations import Engine
from xks.policy import Judge
from xks.resident import Desk


class HeaderTable:
    """Headers as granian gives them."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def get_all(self, key: str) -> list[str]:
        return [value for name, value in self.pairs if name == key]


@dataclass
class FakeScope:
    """One request's head."""

    method: str
    path: str
    headers: HeaderTable
    query_string: str = ""
    http_version: str = "1.1"
    authority: str | None = None
    client: str = "192.0.2.1:40000"
    proto: str = "http"


class FakeExchange:
    """One request's body and answer."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.read = 0
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""

    async def __call__(self) -> bytes:
        self.read += sum(map(len, self.chunks))
        return b"".join(self.chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            self.read += len(chunk)
            yield chunk

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert self.status == 0, "answered twice"
        self.status, self.headers, self.body = status, headers, body


@dataclass
class Answer:
    """What came back."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    read: int = 0

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed

    @property
    def error(self) -> tuple[int, str]:
        """Status and errorName, the form of the answer having been checked."""
        parsed = self.json
        assert set(parsed) == {"errorName", "errorMessage"}
        assert len(parsed["errorMessage"]) < 512
        assert all(" " <= character <= "~" for character in parsed["errorMessage"])
        return self.status, parsed["errorName"]


def apply(serving: Serving, *deltas: wire.Delta) -> None:
    """Apply one whole change."""
    change = Change(serving, deltas[0])
    for delta in deltas:
        for _ in change.add(delta):
            pass
    change.commit()


class Shell:
    """An application that serves the stores of :mod:`tests.xks.world`."""

    def __init__(
        self,
        *,
        judge: Judge | None = None,
        budget_s: float = 5.0,
        loaded: bool = True,
        desk: Desk | None = None,
    ) -> None:
        self.serving = Serving()
        if loaded:
            apply(self.serving, *world.full_load())
            assert self.serving.take_lease(world.lease(), wire.boot_clock())
        self.journal = MemoryJournal()
        self.app = App(
            Engine(self.serving, node_name="node-1", judge=judge, desk=desk),
            journal=self.journal,
            budget_s=budget_s,
        )

    async def send(
        self,
        method: str,
        path: str,
        headers: list[tuple[str, str]] | None = None,
        body: bytes | list[bytes] = b"",
        **scope: Any,
    ) -> Answer:
        """Send a request just as it is; a list as body comes in chunks, without Content-Length."""
        pairs = list(headers or [])
        chunks = body if isinstance(body, list) else [body]
        if not isinstance(body, list):
            pairs.append(("content-length", str(len(body))))
        exchange = FakeExchange(chunks)
        await self.app.__rsgi__(FakeScope(method, path, HeaderTable(pairs), **scope), exchange)
        return Answer(exchange.status, exchange.body, dict(exchange.headers), exchange.read)

    async def post(self, path: str, body: Any, **signing: Any) -> Answer:
        """Send a signed POST; ``body`` is bytes or becomes JSON."""
        raw = world.dumped(body)
        headers = world.sign(path, raw, host="xks.keystead.test", **signing)
        return await self.send("POST", path, [*headers.items(), ("host", "xks.keystead.test")], raw)

    async def call(self, operation: str, body: Any, key: str = "foo", **signing: Any) -> Answer:
        """Send a signed request for an operation on a key of the first store."""
        return await self.post(world.path(operation, key), body, **signing)

    async def encrypt(
        self, plaintext: bytes = b"Hello World!", key: str = "foo", **fields: Any
    ) -> dict[str, Any]:
        """Return the answer of an Encrypt that must succeed."""
        answer = await self.call("encrypt", world.encrypt_body(plaintext, **fields), key)
        assert answer.status == 200, answer.body
        return answer.json
