"""The client of the cluster runs: a steady open loop, as KMS asks, that keeps what it was told.

    python -m tests.cluster.load     (a JSON object on standard input, then lines "canary KEY" or "end")

Requests are sent when they are due, whatever became of the ones before, and given up after 250 ms, as KMS does. Each
leaves one line in the file of answers: number, key, operation, due, done, status, error. Times are seconds of
CLOCK_MONOTONIC, which all processes of this machine share; status 0 is no answer at all.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import ssl
import sys
import time
from base64 import b64encode
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from tests.xks import world
from xks import wire

PATIENCE_S = 0.25
CANARY_EVERY = 20
DECRYPT_EVERY = 4
MOST_CONNECTIONS = 400
WARM_CONNECTIONS = 200
ABANDON_S = 2.0


class Answer(NamedTuple):
    """What became of one request."""

    number: int
    key: str
    operation: str
    due: float
    done: float
    status: int
    error: str


@dataclass
class Client:
    """One caller with a pool of connections."""

    port: int
    host: str
    ca: str
    prefix: str
    credential: wire.CredentialRecord
    keys: list[str]
    rate: float
    run: str
    answers: Any
    canary: str = ""
    ended: bool = False
    idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=deque)
    """The one that has waited longest is used first: none idles until the balancer closes it."""
    kept: dict[str, deque[dict[str, Any]]] = field(default_factory=dict)
    busy: int = 0

    def __post_init__(self) -> None:
        self.connecting = asyncio.Semaphore(8)
        self.context = ssl.create_default_context(cafile=self.ca)

    async def go(self) -> None:
        """Send until told to end."""
        # As KMS does, it comes with connections that are open already; a thousand handshakes at once are another test.
        self.idle.extend([await self.connect() for _ in range(WARM_CONNECTIONS)])
        began = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            due = began + number / self.rate
            ahead = due - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
            if self.ended:
                break
            task = asyncio.create_task(self.ask(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def ask(self, number: int, due: float) -> None:
        """Send one request and note what became of it."""
        is_canary = bool(self.canary) and number % CANARY_EVERY == 0
        key = self.canary if is_canary else random.choice(self.keys)
        kept = self.kept.setdefault(key, deque(maxlen=32))
        decrypts = not is_canary and number % DECRYPT_EVERY == 0 and bool(kept)
        operation = "decrypt" if decrypts else "encrypt"
        old = random.choice(kept) if decrypts else None
        plaintext = old["plaintext"] if old else f"{self.run}/{number}".encode()
        body = world.decrypt_body(old["answer"], b"aad") if old else world.encrypt_body(plaintext, b"aad")
        body["requestMetadata"] = {**body["requestMetadata"], "kmsRequestId": f"{self.run}-{number}"}
        status, error = 0, "gave up after 250 ms"
        asked = asyncio.create_task(self.bounded(world.path(operation, key, self.prefix), world.dumped(body)))
        # Given up is not cut off: a client that tears connections down under load makes the load worse.
        await asyncio.wait({asked}, timeout=max(0.0, due + PATIENCE_S - time.monotonic()))
        if asked.done():
            status, answer = asked.result()
            error = answer.get("errorName", "")
            if status == 200 and old and answer.get("plaintext") != b64encode(plaintext).decode():
                status, error = -1, "another plaintext came back"
            elif status == 200 and not old:
                kept.append({"plaintext": plaintext, "answer": answer})
        made = Answer(number, key, operation, due, time.monotonic(), status, error)
        self.answers.write("\t".join(map(str, made)) + "\n")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection. Raises OSError."""
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname=self.host
        )

    async def bounded(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Exchange, and say what became of the connection when there is no answer."""
        try:
            async with asyncio.timeout(ABANDON_S):
                return await self.exchange(path, body)
        except TimeoutError:
            return 0, {"errorName": f"no answer in {ABANDON_S:.0f} s"}
        except (OSError, asyncio.IncompleteReadError, ValueError) as fault:
            return 0, {"errorName": f"connection: {type(fault).__name__}"}

    async def exchange(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Send a request on an idle or a new connection; return status and JSON."""
        self.busy += 1
        try:
            if self.idle:
                reader, writer = self.idle.popleft()
            elif self.busy > MOST_CONNECTIONS:
                raise OSError("no connection is free")
            else:
                async with self.connecting:
                    reader, writer = await self.connect()
            try:
                headers = world.sign(path, body, credential=self.credential, host=self.host)
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                head = (
                    f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
                )
                writer.write(head.encode() + body)
                raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                status = int(raw.split(" ", 2)[1])
                length = int(raw.partition("content-length:")[2].partition("\r\n")[0] or 0)
                content = await reader.readexactly(length)
            except BaseException:
                writer.transport.abort()
                raise
            if "connection: close" in raw:
                writer.close()
            else:
                self.idle.append((reader, writer))
            return status, _object(content)
        finally:
            self.busy -= 1


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {"errorName": "not from Keystead"}  # a balancer's own page
    return found if isinstance(found, dict) else {}


async def main() -> None:
    """Read what to do, and do it."""
    told = json.loads(sys.stdin.readline())
    with Path(told.pop("file")).open("w", buffering=1 << 16) as answers:  # noqa: ASYNC230
        credential = wire.CredentialRecord(told.pop("access_key_id"), told.pop("secret").encode())
        client = Client(credential=credential, answers=answers, **told)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        going = asyncio.create_task(client.go())
        while line := (await reader.readline()).decode().split():
            if line[0] == "end":
                break
            client.canary = line[1] if len(line) > 1 else ""
        client.ended = True
        await going


if __name__ == "__main__":
    uvloop.run(main())
