"""Bounds as granian really keeps them: long headers and bodies on HTTP/1.1 and HTTP/2, and rates over two workers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.xks import world
from tests.xks.test_server import (
    ENCRYPT,
    Running,
    _hpack_literal,
    _http2_frame,
    _read_exactly,
    run_server,
)
from xks import wire
from xks.app import MAX_BODY_BYTES
from xks.server import MAX_HEADER_BYTES

pytestmark = pytest.mark.slow

RATE_PER_S = 100.0
_generations = iter(range(2, 1000))
SECONDS = 3.0
CONNECTIONS = 24


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with run_server() as running:
        yield running


def signed_encrypt(running: Running, **signing: object) -> tuple[str, bytes, dict[str, str]]:
    path, raw = world.path("encrypt"), world.dumped(ENCRYPT)
    return path, raw, world.sign(path, raw, host=f"localhost:{running.port}", **signing)  # type: ignore[arg-type]


# --- headers and bodies


@pytest.mark.parametrize(("length", "expected"), [(MAX_HEADER_BYTES - 1500, 200), (MAX_HEADER_BYTES, 431)])
def test_header_bytes_on_http1(running: Running, length: int, expected: int) -> None:
    with running.client() as connection:
        connection.request("GET", "/ping", headers={"X-Padding": "x" * length})
        assert connection.getresponse().status == expected


def test_a_header_without_end_is_cut_off(running: Running) -> None:
    with running.connect() as secured:
        secured.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nX-Padding: " + b"x" * MAX_HEADER_BYTES)
        assert secured.recv(12) == b"HTTP/1.1 431"
        while secured.recv(4096):  # until it hangs up
            pass


# The digits of HPACK's Huffman code (RFC 7541, appendix B).
_DIGITS = {
    "00000": "0", "00001": "1", "00010": "2", "011001": "3", "011010": "4", "011011": "5", "011100": "6",
    "011101": "7", "011110": "8", "011111": "9",
}  # fmt: skip


def h2_status(block: bytes) -> str:
    """Return :status, which comes first: an index of HPACK's static table, or a literal."""
    known = {0x88: "200", 0x8C: "400", 0x8D: "404", 0x8E: "500"}
    if block[0] in known:
        return known[block[0]]
    assert block[0] in (0x08, 0x18, 0x48), block[:8].hex()  # a literal whose name is that of index 8
    value = block[2 : 2 + (block[1] & 0x7F)]
    if not block[1] & 0x80:
        return value.decode()
    bits, digits = "".join(f"{byte:08b}" for byte in value), ""
    while len(digits) < 3:
        length = 5 if bits[:5] in _DIGITS else 6
        digits += _DIGITS[bits[:length]]
        bits = bits[length:]
    return digits


def h2_exchange(running: Running, fields: dict[str, str], body: bytes) -> tuple[str, bytes]:
    """Send one HTTP/2 request, its header block in as many frames as it takes; return status and body.

    The status is "reset" for a stream that was reset, "gone" for a connection that was ended.
    """
    block = b"".join(_hpack_literal(name, value) for name, value in fields.items())
    frames = [block[start : start + 16_000] for start in range(0, len(block), 16_000)]
    status, answer = "", b""
    with running.connect(protocols=("h2",)) as secured:
        secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _http2_frame(4, 0, 0, b""))
        sent, head = b"", b""
        for number, frame in enumerate(frames):
            end = 4 if number == len(frames) - 1 else 0
            sent += _http2_frame(9 if number else 1, end, 1, frame)
        for start in range(0, len(body), 16_000):
            last = start + 16_000 >= len(body)
            sent += _http2_frame(0, int(last), 1, body[start : start + 16_000])
        # Settings and a wider window come first thing; without them no more than 65,535 bytes may be sent.
        while head[3:4] != b"\x08":
            head = _read_exactly(secured, 9)
            _read_exactly(secured, int.from_bytes(head[:3], "big"))
        # It may end the connection before it has read all: what counts is what it said.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            secured.sendall(sent)
        while True:
            try:
                head = _read_exactly(secured, 9)
                payload = _read_exactly(secured, int.from_bytes(head[:3], "big"))
            except (AssertionError, ConnectionError, ssl.SSLError):
                return status or "gone", answer
            if head[3] == 7:  # GOAWAY
                return status or "gone", answer
            if head[3] == 3:  # RST_STREAM
                return status or "reset", answer
            if head[3] == 1:
                status = h2_status(payload)
            if head[3] == 0:
                answer += payload
            if head[3] in (0, 1) and head[4] & 1:
                return status, answer


def h2_fields(running: Running, path: str, raw: bytes, **more: str) -> dict[str, str]:
    return {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": "xks.keystead.test",
        **world.sign(path, raw, host="xks.keystead.test"),
        **more,
    }


def test_header_bytes_on_http2(running: Running) -> None:
    path, raw = world.path("encrypt"), world.dumped(ENCRYPT)
    padding = {"x-padding": "x" * (MAX_HEADER_BYTES - 2000)}
    assert h2_exchange(running, h2_fields(running, path, raw, **padding), raw)[0] == "200"
    padding = {"x-padding": "x" * (MAX_HEADER_BYTES + 100)}
    status, _ = h2_exchange(running, h2_fields(running, path, raw, **padding), raw)
    assert status in ("431", "reset", "gone")


@pytest.mark.parametrize("length", [MAX_BODY_BYTES, MAX_BODY_BYTES + 1, 4 * MAX_BODY_BYTES])
def test_body_bytes_on_http1(running: Running, length: int) -> None:
    path, raw = world.path("encrypt"), b"{" + b" " * (length - 1)
    headers = world.sign(path, raw, host=f"localhost:{running.port}")
    with running.client() as connection:
        connection.putrequest("POST", path)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            connection.putheader(name, value)
        # One that is too long is refused by its announcement, before it is read.
        connection.endheaders(raw if length <= MAX_BODY_BYTES else None)
        answer = connection.getresponse()
        name = json.loads(answer.read())["errorName"]
    # One byte less is read and looked at: it is no JSON.
    expected = (
        (400, "ValidationException") if length <= MAX_BODY_BYTES else (501, "UnsupportedOperationException")
    )
    assert (answer.status, name) == expected


def test_body_bytes_on_http2(running: Running) -> None:
    path = world.path("encrypt")
    for length, expected in ((MAX_BODY_BYTES, "400"), (MAX_BODY_BYTES + 1, "501")):
        raw = b"{" + b" " * (length - 1)
        assert h2_exchange(running, h2_fields(running, path, raw), raw)[0] == expected


# --- rates


def put_store(running: Running, **changes: Any) -> None:
    """Change the first store for both workers."""
    generation = next(_generations)
    store = msgspec.structs.replace(world.STORES[0], **changes)
    running.agent.send(
        wire.Delta(generation, False, True, stores=[store]), world.lease(generation, counted_workers=2)
    )
    running.agent.wait_applied(generation, workers=2)


class Client:
    """Sends the same signed request over and over on connections that stay open."""

    def __init__(self, running: Running, prefix: str, credential: wire.CredentialRecord) -> None:
        path, raw = world.path("encrypt", prefix=prefix), world.dumped(ENCRYPT)
        headers = world.sign(path, raw, host="localhost", credential=credential)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n{lines}\r\n"
        self.request = head.encode() + raw
        self.running = running
        self.statuses: Counter[int] = Counter()
        self.waits_s: dict[int, list[float]] = {}
        self.seconds = 0.0

    async def run(self, *, until: float, every_s: float, start: float) -> None:
        """Send at fixed moments, however long answers take, until then."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.running.port, ssl=self.running.context(), server_hostname="localhost"
        )
        moment = start
        while moment < until:
            await asyncio.sleep(max(0.0, moment - time.monotonic()))
            began = time.monotonic()
            writer.write(self.request)
            status = int((await reader.readline()).split()[1])
            length = 0
            while (line := await reader.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            await reader.readexactly(length)
            self.statuses[status] += 1
            self.waits_s.setdefault(status, []).append(time.monotonic() - began)
            self.seconds = max(self.seconds, time.monotonic() - start)
            moment += every_s
        writer.close()
        await writer.wait_closed()


def test_a_rate_holds_for_the_fleet_and_costs_others_nothing(running: Running) -> None:
    put_store(running, rate_per_s=RATE_PER_S)
    limited = Client(running, world.PREFIX, world.CREDENTIAL)
    other = Client(running, world.OTHER_PREFIX, world.OTHER_CREDENTIAL)

    async def offer() -> None:
        start = time.monotonic() + 0.5  # connections are made meanwhile
        every_s = CONNECTIONS / (
            3 * RATE_PER_S
        )  # three times the rate, so that neither worker lacks requests
        spread = [start + every_s * number / CONNECTIONS for number in range(CONNECTIONS)]
        await asyncio.gather(
            *(limited.run(until=start + SECONDS, every_s=every_s, start=moment) for moment in spread),
            other.run(until=start + SECONDS, every_s=0.1, start=start),
        )

    asyncio.run(offer())
    assert set(limited.statuses) == {200, 429}
    # On a machine busy with other things the last requests may come later than planned.
    assert 0.8 * RATE_PER_S * SECONDS <= limited.statuses[200] <= 1.2 * RATE_PER_S * limited.seconds
    assert set(other.statuses) == {200}
    assert sorted(limited.waits_s[429])[len(limited.waits_s[429]) // 2] < 0.25
    put_store(running)


def test_connections_survive_refusals(running: Running) -> None:
    put_store(running, rate_per_s=0.001)
    path, raw, headers = signed_encrypt(running)
    with running.client() as connection:
        statuses = []
        for _ in range(5):
            connection.request("POST", path, raw, headers)
            answer: http.client.HTTPResponse = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
            assert connection.sock is not None
    assert statuses[-1] == 429
    put_store(running)
