"""A time limit for the bodies of requests: one timer for all that are being read.

``asyncio.timeout`` makes and cancels a timer for each, which is a tenth of the work of an Encrypt, though
nearly every body is there at once.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from xks.errors import DependencyTimeoutException
from xks.wire import boot_clock


class Deadlines:
    """Of one event loop: ``with deadlines:`` around an await ends it after ``budget_s`` seconds.

    Raises DependencyTimeoutException there.  The same task must not enter twice.
    """

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        # In the order in which they end, as all may take equally long.
        self._ends: dict[asyncio.Task[object], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """Begin, in the running task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task")
        self._ends[task] = boot_clock() + self._budget_s
        if self._timer is None:
            self._timer = task.get_loop().call_later(self._budget_s, self._end_due)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; raises DependencyTimeoutException when it is for us that the task was cancelled."""
        task = asyncio.current_task()
        if task is None or self._ends.pop(task, None) is not None:
            return
        # It was due, so it was cancelled; by somebody else too, when more than that cancellation is left.
        if task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise DependencyTimeoutException(
                "the request's body did not come within the time budget"
            ) from None

    def _end_due(self) -> None:
        now = boot_clock()
        self._timer = None
        while self._ends:
            task, end = next(iter(self._ends.items()))
            if end > now:
                # Not below a millisecond, which is what the loop's timers are good to.
                self._timer = task.get_loop().call_later(max(0.001, end - now), self._end_due)
                return
            del self._ends[task]
            task.cancel()
