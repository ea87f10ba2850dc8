"""Answers for a worker whose event loop is held up in a write to a device that has stalled.

A record is written by the event loop itself, because a hop to a thread costs ten times the write (20 us
against 2 us, measured).  The price: a device that stalls would hold up the loop, and with it /ping and
every refusal.  So a write says when it begins and ends, and a watching thread, which costs nothing
while all is well, steps in when one takes too long:

* the requests under way, and those on their way to the loop, are answered with 500 from the watching thread;
* requests that come meanwhile do not go to the loop at all: granian hands them over by
  ``loop.call_soon_threadsafe`` from a thread of its own, and :class:`GuardedLoop` runs them there, to
  be refused at once.  What came between the beginning of the write and the alarm was held back;
* when the write returns the loop goes on as before.

Which of the two answers a request is decided by taking it out of ``_under_way``, one atomic step.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from types import CoroutineType
from typing import Any, Final

import uvloop
from granian import loops

log = logging.getLogger("keystead.xks")

STALL_S: Final = 0.1
"""A write that takes longer is a stall, seconds."""
LOOK_S: Final = 0.02
END_S: Final = 6
"""A worker that is told to stop is ended by the kernel after so many seconds: more than requests get to finish."""
YOUNG_END_S: Final = 3
"""The same for a worker that is younger than END_S: it may have locked up (see GuardedLoop), or the machine may be busy."""
LOOP_NAME: Final = "keystead"

Refuse = Callable[[Any, Any], None]
"""Answers a request with 500; called with what begin() was given, from any thread."""


class StallGuard:
    """Knows of one worker whether it is held up in a write."""

    def __init__(self, stall_s: float = STALL_S) -> None:
        self.since = 0.0
        """time.monotonic() when the write that is going on began; 0.0 when none is."""
        self.stalled = False
        self._stall_s = stall_s
        self._held: deque[tuple[Callable[..., Any], tuple[Any, ...], Context | None]] = deque()
        self.refuse: Refuse | None = None
        self.announced = False
        """Whether requests are announced on their way to the loop, and not only when they begin there."""
        self._under_way: dict[Any, Any] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._home: int | None = None

    # --- the loop's side ---------------------------------------------------------------------------

    def begin(self, request: Any, scope: Any) -> bool:
        """See xks.journal.Guard."""
        if self.announced:
            return request in self._under_way
        self._under_way[request] = scope
        return True

    def announce(self, request: Any, scope: Any) -> None:
        """A request is on its way to the loop, from the thread that brings it."""
        self._under_way[request] = scope

    def take(self, request: Any) -> bool:
        """See xks.journal.Guard."""
        return self._under_way.pop(request, None) is not None

    def refuses(self) -> bool:
        """Whether the request that the calling thread is about to begin must be refused at once.

        So it must on any other thread than the loop's: nothing there is safe to touch.
        """
        return self.stalled or (self._home is not None and threading.get_ident() != self._home)

    def write_ended(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Note the end of a write; return whether it was one that had stalled."""
        self.since = 0.0
        stalled = self.stalled
        if stalled:
            self.stalled = False
            log.warning("the journal's device answers again")
        while self._held:
            callback, arguments, context = self._held.popleft()
            if loop is not None:
                self.announce(arguments[1].proto, arguments[1].scope)
                loop.call_soon(callback, *arguments, context=context)
        return stalled

    @property
    def holds(self) -> bool:
        """Whether write_ended has something to do beyond noting the end."""
        return self.stalled or bool(self._held)

    # --- granian's threads --------------------------------------------------------------------------

    def hold(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[..., Any],
        arguments: tuple[Any, ...],
        context: Context | None,
    ) -> None:
        """Take a request that came during a write, from the thread that brings it.

        The first of ``arguments`` is its coroutine.
        """
        if self.stalled:
            _run_refusal(arguments[0])
            return
        self._held.append((callback, arguments, context))
        if not self.since:
            # The write ended in between, and may have looked before there was anything.
            loop.call_soon_threadsafe(self.write_ended, loop)

    # --- the watching thread ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to watch the loop of the calling thread."""
        self._home = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="journal-guard", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_S):
            since = self.since
            if not since or time.monotonic() - since < self._stall_s:
                continue
            if not self.stalled:
                self.stalled = True
                if self.since != since:  # it ended at this very moment
                    self.stalled = False
                    continue
                log.critical("the journal's device has stalled: refusing until it answers")
            self._refuse_all()

    def _refuse_all(self) -> None:
        for request in list(self._under_way):
            scope = self._under_way.pop(request, None)
            if scope is not None and self.refuse is not None:
                try:
                    self.refuse(scope, request)
                except Exception as error:  # the client may have gone; the others still wait
                    log.warning("a request could not be refused: %s", type(error).__name__)
        while self._held:
            try:
                _, arguments, _ = self._held.popleft()
            except IndexError:  # the loop is back and has taken it
                return
            _run_refusal(arguments[0])


def _run_refusal(coroutine: Any) -> None:
    """Run a request's coroutine to its end here: while the guard says stalled it never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()  # it waits for something after all: end it, granian answers 500


class GuardedLoop(uvloop.Loop):
    """uvloop that lets a guard keep requests away while it is held up, and that ends when it is told to.

    granian 2.8 can lock up for good, holding the GIL, when SIGTERM comes while a worker begins to serve (seen when
    the server was killed just after a reload).  So the kernel's alarm is set before granian hears of the signal.
    """

    guard: StallGuard | None = None
    told_to_end: Callable[[], None] | None = None
    """Called first when SIGTERM comes."""

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., Any], *args: Any
    ) -> None:
        """See asyncio."""
        if sig == signal.SIGTERM:
            super().add_signal_handler(sig, _end_within, self, time.monotonic(), callback, args)
        else:
            super().add_signal_handler(sig, callback, *args)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Any:
        """See asyncio."""
        guard = self.guard
        if guard is not None and len(args) == 2 and type(args[0]) is CoroutineType:
            # granian hands over a request: its coroutine, and a watcher that knows the rest.
            if guard.since:
                return guard.hold(self, callback, args, context)
            guard.announce(args[1].proto, args[1].scope)
        return super().call_soon_threadsafe(callback, *args, context=context)


def _end_within(loop: GuardedLoop, since: float, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
    young = time.monotonic() - since < END_S
    signal.alarm(YOUNG_END_S if young else END_S)
    if loop.told_to_end is not None:
        loop.told_to_end()
    callback(*args)


@loops.register(LOOP_NAME)
def build_guarded_loop() -> GuardedLoop:
    """Return a new loop, made the thread's own (for granian)."""
    loop = GuardedLoop()
    asyncio.set_event_loop(loop)
    return loop
