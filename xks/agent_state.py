"""What the agent's threads know together of the node: how stale it is, what it refuses, what is wrong.

Everything here may be called from any thread.  Metrics, the node's row and the log are all fed from it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from vault import node_alarms
from vault.node_alarms import CODES, STALENESS_HALF, STALENESS_OVER
from xks.wire import boot_clock

log = structlog.get_logger("keystead.agent")

REPEAT_ALARM_S = 10.0


@dataclass(frozen=True)
class Refusal:
    """A database that went backwards: what the node holds, what it found, and the name of what it holds."""

    mark: str
    held: int
    found: int


@dataclass(frozen=True)
class NodeFigures:
    """The node at a moment."""

    staleness_s: float
    """Seconds since the older of: the database said what is current; the table showed this node."""
    max_staleness_s: float
    generation: int
    """What the agent has read."""
    database_generation: int
    """What the database was last seen to hold."""
    confirmed: int
    """Connected workers of this node that have confirmed ``generation``."""
    connected: int
    alarms: tuple[str, ...]


class NodeState:
    """See the module."""

    def __init__(self, max_staleness_s: float) -> None:
        self.max_staleness_s = max_staleness_s
        self._lock = threading.Lock()
        self._began_at = boot_clock()
        self._current_at: float | None = None
        self._seen_at: float | None = None
        self._generation = 0
        self._database_generation = 0
        self._confirmed: dict[str, int] = {}
        self._refusal: Refusal | None = None
        self._accepted_mark = ""
        self._alarms: dict[str, dict[str, str]] = {}
        self._past: dict[str, dict[str, str]] = {}
        self._logged_at: dict[str, float] = {}

    # --- what is so ----------------------------------------------------------------------------------------

    def current(self, generation: int, asked_at: float) -> None:
        """The database has said what is current; ``asked_at``: boot clock before it was asked."""
        with self._lock:
            self._current_at = asked_at
            self._generation = self._database_generation = generation
            self._refusal = None
        self.clear(node_alarms.GENERATION_WENT_BACK)

    def seen(self, beat_at: float, accepted_mark: str) -> None:
        """The table shows this node; ``accepted_mark`` is what an operator has accepted last."""
        with self._lock:
            self._seen_at = beat_at
            self._accepted_mark = accepted_mark

    def refuse(self, refusal: Refusal) -> None:
        """The database went backwards, and nobody has accepted that."""
        with self._lock:
            self._refusal = refusal
            self._database_generation = refusal.found
        self.raise_alarm(
            node_alarms.GENERATION_WENT_BACK,
            f"The database is at generation {refusal.found}, this node holds {refusal.held}. Nothing is taken from it and workers get no "
            "lease. Accept it: keystead xks accept-rollback",
        )

    def confirmed(self, confirmed: dict[str, int]) -> None:
        """What each connected worker has confirmed."""
        with self._lock:
            self._confirmed = confirmed

    @property
    def refusal(self) -> Refusal | None:
        """What is refused at this moment."""
        return self._refusal

    def is_accepted(self, mark: str) -> bool:
        """Whether an operator has accepted that what the node holds under this mark is let go of."""
        return bool(mark) and self._accepted_mark == mark

    def staleness_s(self, now: float) -> float:
        """Seconds since the older of the two on which leases depend."""
        with self._lock:
            current = self._began_at if self._current_at is None else self._current_at
            seen = self._began_at if self._seen_at is None else self._seen_at
        return max(0.0, now - min(current, seen))

    @property
    def figures(self) -> NodeFigures:
        """For metrics."""
        stale = self.staleness_s(boot_clock())
        with self._lock:
            return NodeFigures(
                stale,
                self.max_staleness_s,
                self._generation,
                self._database_generation,
                sum(one >= self._generation for one in self._confirmed.values()),
                len(self._confirmed),
                tuple(sorted(self._alarms)),
            )

    # --- what is wrong -------------------------------------------------------------------------------------

    def raise_alarm(self, code: str, detail: str) -> None:
        """Say that something is wrong: in the log (again every few seconds) and, with the next beat, in the node's row."""
        now = time.monotonic()
        with self._lock:
            known = self._alarms.get(code)
            since = known["since"] if known is not None else _now()
            self._alarms[code] = {"code": code, "since": since, "detail": detail}
            due = known is None or now - self._logged_at.get(code, 0.0) >= REPEAT_ALARM_S
            if due:
                self._logged_at[code] = now
        if due:
            log.critical(CODES[code], alarm=True, code=code, since=since, detail=detail)

    def clear(self, code: str) -> None:
        """It is over."""
        with self._lock:
            past = self._alarms.pop(code, None)
            if past is not None:
                self._past[code] = past
        if past is not None:
            log.warning("an alarm is over", code=code, since=past["since"])

    def watch(self, now: float) -> None:
        """Compare staleness with the bound, half of it first; ``now`` is the boot clock."""
        stale, bound = self.staleness_s(now), self.max_staleness_s
        detail = f"No news for {stale:.0f} s of the {bound:.0f} s for which workers may answer."
        for code, limit in ((STALENESS_HALF, bound / 2), (STALENESS_OVER, bound)):
            if stale > limit:
                self.raise_alarm(code, detail)
            else:
                self.clear(code)

    def take_alarms(self) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """Return what is wrong now, and what was since the last time and is over again."""
        with self._lock:
            now = [dict(alarm) for _, alarm in sorted(self._alarms.items())]
            past = [dict(alarm) for code, alarm in sorted(self._past.items()) if code not in self._alarms]
            return now, past

    def told(self, past: list[dict[str, str]]) -> None:
        """What was over has been written down."""
        with self._lock:
            for alarm in past:
                if self._past.get(alarm["code"]) == alarm:
                    del self._past[alarm["code"]]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
