"""An agent that says what a test tells it to: the other end of xks/wire.py, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from xks import wire

T = TypeVar("T")


class FakeAgent:
    """Serves a Unix socket; what workers say is kept, and what they are told is up to the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[wire.WorkerMessage] = []
        self.greeting: Callable[[wire.Hello], list[wire.AgentMessage]] = lambda hello: []
        self.journal_state: bytes | None = bytes(32)
        """First state of every worker's journal; None: no key is sent."""
        self.chains: list[str] = []
        self.endpoint_tls = wire.EndpointTls()
        """What a server process is told that presents itself."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._conversations: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._news = threading.Condition()
        self._server: asyncio.AbstractServer | None = None
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> FakeAgent:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def send(self, *messages: wire.AgentMessage) -> None:
        """Send messages to every worker that is connected."""
        self._run(self._send(messages))

    def hang_up(self) -> None:
        """End every connection."""
        self._run(self._hang_up())

    def wait_for(
        self, wanted: Callable[[wire.WorkerMessage], bool], *, count: int = 1, within: float = 10
    ) -> None:
        """Return when ``count`` messages that fit have been heard, also before this call."""
        with self._news:
            if not self._news.wait_for(lambda: sum(map(wanted, self.heard)) >= count, within):
                raise AssertionError(f"not heard within {within} s; heard {self.heard}")

    def wait_applied(self, generation: int, *, workers: int = 1) -> None:
        """Return when so many different workers have applied ``generation``."""

        def enough() -> bool:
            pids = {m.pid for m in self.heard if isinstance(m, wire.Applied) and m.generation == generation}
            return len(pids) >= workers

        with self._news:
            if not self._news.wait_for(enough, 10):
                raise AssertionError(f"generation {generation} not applied; heard {self.heard}")

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def _send(self, messages: tuple[wire.AgentMessage, ...]) -> None:
        for writer in self._writers:
            for message in messages:
                writer.write(wire.encode_frame(message))
            await writer.drain()

    async def _hang_up(self) -> None:
        for writer in list(self._writers):
            writer.close()

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._hang_up()
        await asyncio.gather(*self._conversations)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        conversation = asyncio.current_task()
        assert conversation is not None
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)
        try:
            while True:
                message = await wire.read_worker_message(reader)
                with self._news:
                    self.heard.append(message)
                    self._news.notify_all()
                if isinstance(message, wire.ServerHello):
                    writer.write(wire.encode_frame(self.endpoint_tls))
                    await writer.drain()
                if isinstance(message, wire.Hello):
                    if not message.journal and self.journal_state is not None:
                        key = wire.JournalKey(uuid.uuid4().hex, self.journal_state)
                        self.chains.append(key.chain)
                        writer.write(wire.encode_frame(key))
                    for answer in self.greeting(message):
                        writer.write(wire.encode_frame(answer))
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
