"""Makes journal records durable in groups, and lets the answers go that wait for it.

fdatasync runs in a thread of its own, one call at a time, each for everything that was written before it
began: a record waits for at most one call that is under way and then its own, and never for a timer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from xks.journal import JournalUnavailable
from xks.journal_files import Files
from xks.journal_guard import STALL_S

log = logging.getLogger("keystead.xks")

Withheld = Callable[[int, int], None]


class _Batch:
    """Records of one file that one fdatasync makes durable, and who waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        self.fd = fd
        self.folder: Path | None = None
        self.closes = False
        self.waiters: list[asyncio.Future[None]] = []
        self.first = self.last = 0
        self.settled: asyncio.Future[None] = loop.create_future()


class Flusher:
    """Used on the event loop, but for its thread."""

    def __init__(self, files: Files, withheld: Withheld, stall_s: float = STALL_S) -> None:
        """``withheld`` is told the first and last entry of records whose results were refused."""
        self.stalled = False
        self.failed = False
        """Whether an fdatasync failed; whoever has seen to it resets this."""
        self._files = files
        self._withheld = withheld
        self._stall_s = stall_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: deque[_Batch] = deque()
        self._running: _Batch | None = None
        self._new_folders: dict[int, Path] = {}
        self._work = threading.Condition()
        self._todo: _Batch | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin."""
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Do what is left, and end; a device that has stalled is not waited for."""
        with self._work:
            self._stopping = True
            if self._todo is None:
                self._todo = self._queue.popleft() if self._queue else None
            self._work.notify()
        if self._thread is not None:
            self._thread.join(self._stall_s * 10)
            if self._thread.is_alive():
                log.error("the journal's device has stalled: not waiting for it any longer")
                return
        for batch in self._queue:
            if batch.closes:
                self._finish_file(batch)

    def opened(self, fd: int, folder: Path) -> None:
        """A new file is written to; its name in ``folder`` must become durable with it."""
        self._new_folders[fd] = folder

    def close(self, fd: int) -> None:
        """Make the file durable and close it, once everybody who waits for it has been served."""
        batch = self._batch(fd)
        if batch is None:
            self._files.close(fd)
            return
        batch.closes = True

    def wait(self, fd: int, sequence: int) -> asyncio.Future[None]:
        """Return a future that is done when what was written so far is durable.

        Raises:
            JournalUnavailable: the device has stalled; the future may fail with the same.
        """
        batch = None if self.stalled else self._batch(fd)
        if batch is None or self._loop is None:
            self._withheld(sequence, sequence)
            raise JournalUnavailable("the journal's device has stalled")
        if not batch.waiters:
            batch.first = sequence
            self._loop.call_later(self._stall_s, self._look, batch)
        batch.last = sequence
        future: asyncio.Future[None] = self._loop.create_future()
        batch.waiters.append(future)
        return future

    async def settled(self) -> None:
        """Wait until nobody waits who waits now."""
        batches = [self._running, *self._queue]
        waited = [batch.settled for batch in batches if batch is not None]
        if waited:
            await asyncio.wait(waited)

    def _batch(self, fd: int) -> _Batch | None:
        """Return the batch that what is written now belongs to; None before start."""
        if self._loop is None:
            return None
        if not self._queue or self._queue[-1].fd != fd or self._queue[-1].closes:
            batch = _Batch(self._loop, fd)
            batch.folder = self._new_folders.pop(fd, None)
            self._queue.append(batch)
            if self._running is None and len(self._queue) == 1:
                # After this turn of the loop, so that what it still writes comes along.
                self._loop.call_soon(self._begin)
        return self._queue[-1]

    def _begin(self) -> None:
        if self._running is None and self._queue:
            with self._work:
                if self._stopping:
                    return
                self._running = self._todo = self._queue.popleft()
                self._work.notify()

    def _run(self) -> None:
        while True:
            with self._work:
                while self._todo is None:
                    if self._stopping:
                        return
                    self._work.wait()
                batch, self._todo = self._todo, None
            cause = self._finish_file(batch)
            loop = self._loop
            if loop is None or self._stopping:
                return
            try:
                loop.call_soon_threadsafe(self._ended, batch, cause)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _finish_file(self, batch: _Batch) -> str | None:
        """Do what a batch asks for; return what went wrong."""
        try:
            if batch.folder is not None:
                self._files.sync_folder(batch.folder)
            self._files.datasync(batch.fd)
            if batch.closes:
                self._files.close(batch.fd)
        except OSError as error:
            return error.strerror or type(error).__name__
        return None

    def _ended(self, batch: _Batch, cause: str | None) -> None:
        self._running = None
        if self.stalled:
            self.stalled = False
            log.warning("the journal's device answers again")
        if cause is None:
            for future in batch.waiters:
                if not future.done():
                    future.set_result(None)
            if not batch.settled.done():
                batch.settled.set_result(None)
        else:
            log.error("the journal could not be made durable: %s", cause)
            self.failed = True
            self._refuse(batch, f"the journal cannot be made durable ({cause})")
        self._begin()

    def _look(self, batch: _Batch) -> None:
        if batch.settled.done():
            return
        if not self.stalled:
            self.stalled = True
            log.critical("the journal's device has stalled: refusing until it answers")
        self._refuse(batch, "the journal's device has stalled")

    def _refuse(self, batch: _Batch, cause: str) -> None:
        if batch.settled.done():
            return
        batch.settled.set_result(None)
        if batch.waiters:
            self._withheld(batch.first, batch.last)
        for future in batch.waiters:
            if not future.done():
                future.set_exception(JournalUnavailable(cause))
