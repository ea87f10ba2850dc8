"""A request as granian gives it, made of plain Python: for benchmarks that leave the network out."""

from __future__ import annotations

from collections.abc import AsyncIterator


class Headers:
    """Headers by lower-case name."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def get_all(self, key: str) -> list[str]:
        """See xks.sigv4.Headers."""
        value = self._values.get(key)
        return [] if value is None else [value]


class Scope:
    """See xks.app.Scope."""

    proto = "http"
    http_version = "1.1"
    client = "127.0.0.1:1"
    method = "POST"
    query_string = ""
    authority: str | None = None

    def __init__(self, path: str, headers: Headers) -> None:
        self.path = path
        self.headers = headers


class Exchange:
    """See xks.app.Exchange; the body is there at once."""

    __slots__ = ("_body", "answer", "status")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.status = 0
        self.answer = b""

    async def __call__(self) -> bytes:
        """Return the body."""
        return self._body

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Bodies here are announced by their length."""
        raise NotImplementedError

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Take the answer."""
        self.status, self.answer = status, body
