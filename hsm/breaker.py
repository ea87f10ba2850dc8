"""When to leave a member of a group alone, and when to try it again. No clock, no input, no output: see hsm.group."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

FAILURES: Final = 3
"""So many failures in a row open a breaker; one is enough where the helper is not even there."""
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 10.0
ALONE_WAIT_S: Final = 0.1
"""Where no other member works there is nothing to spare a member for: it is tried this often, however long it is away."""

BreakerState: TypeAlias = Literal["closed", "open", "half-open"]


class Breaker:
    """Closed: the member is used. Open: it is left alone. Half-open: one request finds out whether it is back.

    Every attempt has a ticket from :meth:`admit` and must end in exactly one of :meth:`succeeded`, :meth:`failed` and
    :meth:`abandoned`. What an attempt tells that began before the breaker last opened is no news, and counts for nothing.
    """

    __slots__ = ("_failures", "_opened_at", "_probing", "_turn", "_wait", "closed")

    def __init__(self) -> None:
        self.closed = True
        self._failures = 0
        self._opened_at = 0.0
        self._wait = 0.0
        self._probing = False
        self._turn = 0

    @property
    def state(self) -> BreakerState:
        """What holds now."""
        return "closed" if self.closed else "half-open" if self._probing else "open"

    @property
    def failures(self) -> int:
        """Failures in a row while closed."""
        return self._failures

    def retry_in(self, now: float, *, alone: bool = False) -> float:
        """Seconds until the member may be tried again; 0 when it may be now.

        ``alone``: no other member works. Then the wait is short, and does not double.
        """
        if self.closed:
            return 0.0
        wait = ALONE_WAIT_S if alone else self._wait
        return max(0.0, self._opened_at + wait - now)

    def due(self, now: float, *, alone: bool = False) -> bool:
        """Say whether :meth:`admit` would give a ticket."""
        return self.closed or (not self._probing and self.retry_in(now, alone=alone) <= 0)

    def admit(self, now: float, *, alone: bool = False) -> int | None:
        """Return the ticket of an attempt, or None where the member is to be left alone."""
        if self.closed:
            return self._turn
        if not self.due(now, alone=alone):
            return None
        self._probing = True
        self._turn += 1
        return self._turn

    def succeeded(self, ticket: int) -> bool:
        """The member answered. Returns True when that closed the breaker."""
        if ticket != self._turn:
            return False
        self._failures = 0
        if self.closed:
            return False
        self.closed = True
        self._probing = False
        self._wait = 0.0
        return True

    def failed(self, ticket: int, now: float, *, at_once: bool = False) -> bool:
        """The member did not answer, or that it cannot; ``at_once``: there is no doubt.

        Returns True when that opened a closed breaker.
        """
        if ticket != self._turn:
            return False
        if not self.closed:
            self._open(now, min(self._wait * 2, LONGEST_WAIT_S))
            return False
        self._failures += 1
        if not at_once and self._failures < FAILURES:
            return False
        self._open(now, FIRST_WAIT_S)
        return True

    def abandoned(self, ticket: int) -> None:
        """The attempt ended without telling anything of the member: its caller went away, say."""
        if ticket == self._turn and self._probing:
            self._probing = False

    def _open(self, now: float, wait: float) -> None:
        self.closed = False
        self._probing = False
        self._failures = 0
        self._opened_at = now
        self._wait = wait
        self._turn += 1
