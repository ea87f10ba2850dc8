"""An open loop: one Encrypt at each moment of a fixed schedule, whether or not the ones before are answered.

Latency is counted from the moment for which a request was intended, so what waits for a connection, or for this
program, counts as well (no coordinated omission). Settings come as JSON on standard input; one JSON document goes
to standard output. A loop over select() of its own, because timers of asyncio and h2load are good to a millisecond
or come in bursts.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import ssl
import sys
import time
from array import array
from collections import deque
from typing import Any

from bench_xks_load import Target, raw_request, requests_for, tls_context

SETTLE_S = 3.0
"""After the last request its answer is waited for so long; then it is an error."""


class Connection:
    """One keep-alive connection with at most one request on it."""

    def __init__(self, target: Target, context: ssl.SSLContext | None) -> None:
        raw = socket.create_connection((target.host, target.port), timeout=10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: socket.socket = (
            context.wrap_socket(raw, server_hostname=target.host) if context is not None else raw
        )
        self.socket.setblocking(False)
        self.intended = 0.0
        self._received = b""

    def fileno(self) -> int:
        """For select()."""
        return self.socket.fileno()

    def send(self, data: bytes, intended: float) -> None:
        """Send a request. Raises OSError."""
        self.intended = intended
        sent = self.socket.send(data)
        while sent < len(data):  # never seen on loopback
            select.select([], [self.socket], [], 1)
            sent += self.socket.send(data[sent:])

    def read(self) -> int | None:
        """Take in what has come; return the status once an answer is whole. Raises OSError when the peer has gone."""
        try:
            while True:
                part = self.socket.recv(65536)
                if not part:
                    raise ConnectionError("closed by the server")
                self._received += part
                if not isinstance(self.socket, ssl.SSLSocket):
                    break
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        if len(body) < length:
            return None
        self._received = body[length:]
        return int(head[9:12])


def run(target: Target, *, rate: float, seconds: float, connections: int) -> dict[str, Any]:
    """Send ``rate`` requests a second for so many seconds; return the figures."""
    context = tls_context() if target.tls else None
    requests = requests_for(target, "encrypt", 32)
    idle = deque(Connection(target, context) for _ in range(connections))
    busy: set[Connection] = set()
    due: deque[float] = deque()
    latencies, lateness = array("d"), array("d")
    statuses: dict[str, int] = {}
    broken: dict[str, int] = {}
    total = round(rate * seconds)
    scheduled = 0
    clock = time.perf_counter
    gc.collect()
    gc.disable()
    began = clock() + 0.1
    end = began + total / rate + SETTLE_S
    while len(latencies) + sum(broken.values()) < total:
        now = clock()
        if now > end:
            break
        while scheduled < total and began + scheduled / rate <= now:
            due.append(began + scheduled / rate)
            scheduled += 1
        while due and idle:
            connection = idle.popleft()
            intended = due.popleft()
            try:
                connection.send(raw_request(target, requests[len(lateness) % len(requests)]), intended)
            except OSError as error:
                _note(broken, error)
                idle.append(Connection(target, context))
                continue
            lateness.append(clock() - intended)
            busy.add(connection)
        wait = began + scheduled / rate - clock() if scheduled < total else 0.05
        readable, _, _ = select.select([*busy, *idle], [], [], max(0.0, wait))
        for connection in readable:
            try:
                status = connection.read()
            except OSError as error:
                if connection in busy:
                    busy.discard(connection)
                    _note(broken, error)
                else:
                    idle.remove(connection)
                connection.socket.close()
                idle.append(Connection(target, context))
                continue
            if status is not None:
                latencies.append(clock() - connection.intended)
                statuses[str(status)] = statuses.get(str(status), 0) + 1
                busy.discard(connection)
                idle.append(connection)
    took = clock() - began
    ordered = sorted(latencies) or [0.0]
    late = sorted(lateness) or [0.0]
    answered = statuses.get("200", 0)
    return {
        "rate": rate,
        "seconds": round(took, 2),
        "requests": total,
        "answered": answered,
        "errors": total - answered,
        "statuses": statuses,
        "broken": broken,
        "unanswered": total - len(latencies) - sum(broken.values()),
        "p50_ms": _ms(ordered, 0.5),
        "p99_ms": _ms(ordered, 0.99),
        "p999_ms": _ms(ordered, 0.999),
        "max_ms": _ms(ordered, 1.0),
        "sent_late_p99_ms": _ms(late, 0.99),
        "sent_late_max_ms": _ms(late, 1.0),
    }


def _note(broken: dict[str, int], error: OSError) -> None:
    name = f"{type(error).__name__}: {error}"[:100]
    broken[name] = broken.get(name, 0) + 1


def _ms(ordered: list[float], share: float) -> float:
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 3)


def main() -> None:
    """Read the settings, run, print."""
    settings = json.load(sys.stdin)
    fields = settings.pop("target")
    target = Target(**{**fields, "keys": tuple(fields["keys"])})
    print(json.dumps(run(target, **settings)))


if __name__ == "__main__":
    main()
