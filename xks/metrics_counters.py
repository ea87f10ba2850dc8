"""What one worker counts of its requests, for the agent's metrics (docs/metrics.md).

Plain lists of integers, only ever growing while the process lives: counting a request is one look-up and a
few additions, and whoever misses a report loses nothing with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from xks import wire

BOUNDS_US: Final = (
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000
)  # fmt: skip
"""Upper bounds of the latency histogram's buckets, microseconds; one more bucket takes what is above."""
BUCKETS: Final = len(BOUNDS_US) + 1
SUM_US, RECEIVED, SENT = BUCKETS, BUCKETS + 1, BUCKETS + 2
"""Where a cell keeps, after its buckets, the sum of microseconds and the bytes of bodies and answers."""
CELL: Final = BUCKETS + 3

MAX_STORES: Final = 200
"""Stores counted apart; those that come later are counted together as ``OTHERS``, so that series stay bounded."""
OTHERS: Final = "other"


class Counters:
    """Counts of one worker process."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, str], list[int]] = {}
        self._stores: set[str] = set()
        self._unsigned: dict[str, int] = {}
        self._unrecorded = 0

    def note(
        self, store: str, operation: str, outcome: str, microseconds: int, received: int, sent: int
    ) -> None:
        """Count a request with a valid signature; on the way of every request."""
        try:
            cell = self._cells[store, operation, outcome]
        except KeyError:
            cell = self._cell(store, operation, outcome)
        cell[bisect_left(BOUNDS_US, microseconds)] += 1
        cell[SUM_US] += microseconds
        cell[RECEIVED] += received
        cell[SENT] += sent

    def note_unsigned(self, outcome: str) -> None:
        """Count a request that no store is charged with: no valid signature, or refused before it was looked at."""
        self._unsigned[outcome] = self._unsigned.get(outcome, 0) + 1

    def note_unrecorded(self) -> None:
        """Count a result that did not leave because it could not be recorded."""
        self._unrecorded += 1

    def report(
        self,
        pid: int,
        *,
        generation: int,
        lease_issued_at_s: float | None,
        in_flight: int,
        problem: str | None,
        journal_segment: int,
        journal_bytes: int,
    ) -> wire.MetricsReport:
        """Everything so far, to be sent to the agent."""
        return wire.MetricsReport(
            pid,
            generation,
            lease_issued_at_s,
            in_flight,
            problem or "",
            journal_segment,
            journal_bytes,
            self._unrecorded,
            dict(self._unsigned),
            [(*names, cell) for names, cell in self._cells.items()],
        )

    def _cell(self, store: str, operation: str, outcome: str) -> list[int]:
        if store not in self._stores:
            if len(self._stores) >= MAX_STORES:
                # Found again under the store's own name only by way of this method: a little slower, and bounded.
                return self._cells.setdefault((OTHERS, operation, outcome), [0] * CELL)
            self._stores.add(store)
        return self._cells.setdefault((store, operation, outcome), [0] * CELL)


Report = Callable[[], wire.MetricsReport]
"""Makes a worker's report of this moment."""
