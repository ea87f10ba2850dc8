"""Between granian and Django: a request is given a thread only once all of it has come.

Django reads bodies by blocking calls without a deadline. Under granian's own WSGI server each worker process has a
few threads, so that a handful of strangers who sent half a body and then nothing stopped every page, the API's kill
switches and /healthz for as long as they liked. Here bodies are read by the event loop, with a deadline and bounds,
and only then does one of the threads call the application.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Protocol

log = logging.getLogger("keystead.web")

THREADS: Final = 4
"""Requests that one worker process works on at a time."""
MAX_WAITING: Final = 256
"""Whole requests that wait for a thread; more are refused at once with 503."""
BODY_DEADLINE_S: Final = 15.0
"""A body has come within this time, seconds, or the answer is 408."""
MAX_BODY_BYTES: Final = 6 * 1024 * 1024
"""More than DATA_UPLOAD_MAX_MEMORY_SIZE, so that Django tells of what is just too long in its own words."""
SMALL_BODY_BYTES: Final = 64 * 1024
"""What switches something off is this small, and is taken however many large bodies are on their way."""
MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""Of large bodies together, in one worker process."""
SEND_DEADLINE_S: Final = 30.0
"""A client that takes no part of a streamed answer for so long is hung up on, seconds."""

Headers = list[tuple[str, str]]
WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Transport(Protocol):
    """A streamed answer."""

    async def send_bytes(self, data: bytes) -> None:
        """Send a part."""


class Exchange(Protocol):
    """granian's handle on one request (RSGI, as far as used)."""

    def __aiter__(self) -> Any: ...
    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer, once."""

    def response_stream(self, status: int, headers: Headers) -> Transport:
        """Begin to answer in parts."""


class _Refused(Exception):
    def __init__(self, status: int, title: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title


class Front:
    """An RSGI application around a WSGI application."""

    def __init__(
        self,
        application: WsgiApplication,
        *,
        threads: int = THREADS,
        body_deadline_s: float = BODY_DEADLINE_S,
    ) -> None:
        self._application = application
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="web")
        self._threads = threads
        self._deadline_s = body_deadline_s
        self._held = 0
        self._at_work = 0

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the requests at work end; called by granian when the worker stops."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def __rsgi__(self, scope: Any, exchange: Exchange) -> None:
        """Answer one request."""
        try:
            body = await self._read(scope, exchange)
            if self._at_work >= self._threads + MAX_WAITING:
                raise _Refused(503, "More requests wait than can be answered in time")
            environ = make_environ(scope, body)
        except _Refused as refused:
            _refuse(exchange, refused)
            return
        loop = asyncio.get_running_loop()
        self._at_work += 1
        try:
            await loop.run_in_executor(self._pool, self._answer, environ, exchange, loop)
        except Exception:
            # Django answers its own errors; what arrives here is a fault of the frame, or the client has gone.
            log.exception("a request could not be answered")
            with suppress(Exception):
                _refuse(exchange, _Refused(500, "Keystead failed"))
        finally:
            self._at_work -= 1

    async def _read(self, scope: Any, exchange: Exchange) -> bytes:
        """The whole body. Raises _Refused: 408, 413 or 503."""
        chunks: list[bytes] = []
        length = counted = 0
        try:
            async with asyncio.timeout(self._deadline_s):
                async for chunk in exchange:
                    chunks.append(bytes(chunk))
                    length += len(chunk)
                    if length > MAX_BODY_BYTES:
                        raise _Refused(413, "The body is too large")
                    if length > SMALL_BODY_BYTES:
                        self._held += length - counted
                        counted = length
                        if self._held > MAX_HELD_BYTES:
                            raise _Refused(503, "Too many large bodies are on their way")
        except TimeoutError:
            raise _Refused(408, "The body did not come in time") from None
        finally:
            self._held -= counted
        announced = scope.headers.get("content-length")
        if announced is not None and announced != str(length):
            # The stream just ends when the client goes away; half a request must not be taken for a whole one.
            raise _Refused(400, "The body is not as long as announced")
        return b"".join(chunks)

    def _answer(self, environ: dict[str, Any], exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        """Call the application and send what it answers. In a thread of the pool."""
        begun: list[tuple[int, Headers]] = []

        def start_response(status: str, headers: Headers, exc_info: Any = None) -> None:
            begun.append((int(status.split(" ", 1)[0]), [(name.lower(), value) for name, value in headers]))

        result = self._application(environ, start_response)
        try:
            parts = iter(result)
            if getattr(result, "streaming", False) or not _is_whole(result):
                _stream(parts, *begun[-1], exchange, loop)
            else:
                body = b"".join(parts)
                exchange.response_bytes(*begun[-1], body)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()


def _is_whole(result: Any) -> bool:
    return isinstance(result, list) or getattr(result, "streaming", True) is False


def _stream(
    parts: Iterator[bytes],
    status: int,
    headers: Headers,
    exchange: Exchange,
    loop: asyncio.AbstractEventLoop,
) -> None:
    transport = exchange.response_stream(status, headers)
    for part in parts:
        if part:
            sending = asyncio.run_coroutine_threadsafe(_send(transport, part), loop)
            sending.result(SEND_DEADLINE_S)


async def _send(transport: Transport, part: bytes) -> None:
    await transport.send_bytes(part)


def _refuse(exchange: Exchange, refused: _Refused) -> None:
    headers = [("content-type", "text/plain; charset=utf-8"), ("connection", "close")]
    if refused.status == 503:
        headers.append(("retry-after", "2"))
    exchange.response_bytes(refused.status, headers, f"{refused.title}.\n".encode())


def make_environ(scope: Any, body: bytes) -> dict[str, Any]:
    """The request as PEP 3333 wants it; nothing of this process's own environment, which holds secrets, is in it.

    Header names with an underscore are dropped: CGI's names cannot tell X_Forwarded_For from X-Forwarded-For, so a
    caller could say by the one what a trusted proxy says by the other. Headers that came more than once are joined.
    """
    server, _, port = str(scope.server).rpartition(":")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": _native(scope.path),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": server.strip("[]") or "localhost",
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": str(scope.client).rpartition(":")[0].strip("[]"),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope.headers.items():
        if "_" in name or name in ("content-length", "transfer-encoding"):
            continue
        key = "CONTENT_TYPE" if name == "content-type" else f"HTTP_{name.upper().replace('-', '_')}"
        text = _native(value)
        between = "; " if name == "cookie" else ","
        environ[key] = f"{environ[key]}{between}{text}" if key in environ else text
    return environ


def _native(text: str) -> str:
    """PEP 3333's "native string": each byte as the character of that number."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
