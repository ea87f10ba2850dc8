"""A worker process's link to the node's agent, and what ties it to its parent.

The link runs on the same event loop as the requests: a thread beside it was seen to raise p99 to
10 ms.  So it works in slices of well under a millisecond and lets requests through in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Protocol

from xks import __version__, wire
from xks.credential_uses import CredentialUses
from xks.keyring import Change, ChangeRefused, Serving
from xks.metrics_counters import Report
from xks.policy_shadow import ShadowCounts
from xks.resident import MAX_PREPARED, Desk

log = logging.getLogger("keystead.xks")

SLICE_S = 0.0005
"""Work on a change for this long at a time, seconds, before requests get their turn."""
RETRY_FIRST_S = 0.05
RETRY_LAST_S = 1.0
"""Pauses between attempts to reach the agent, doubling from first to last, seconds."""

REPORT_S = 1.0
"""Counters are sent to the agent this often, seconds."""
USES_AT_ONCE = 1000
"""Credentials and regions told of in one frame."""
FIRST_LOAD_S = 2.0
"""A new worker waits this long for its keys before it accepts connections, seconds."""

ORPHAN_S = 0.5
"""A worker looks this often whether its parent lives, seconds."""

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have this process told to stop when its parent dies, so that none serves unsupervised.

    Raises:
        OSError: the system refuses.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def is_orphan() -> bool:
    """Whether the parent of this worker process has died, perhaps before end_with_parent was called."""
    parent = multiprocessing.parent_process()
    return parent is not None and os.getppid() != parent.pid


async def end_when_orphaned() -> None:
    """Have this process told to stop once its parent has died.

    The kernel says so only once, and uvloop loses a signal that comes while it does not run: between
    the end of what granian has it do first and the start of serving.
    """
    while True:
        await asyncio.sleep(ORPHAN_S)
        if is_orphan():
            log.error("the XKS server is gone: this worker ends")
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def read_boot_id() -> str:
    """Return the kernel's id of this boot, "" where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class KeyedJournal(Protocol):
    """A journal whose key comes from the agent (xks.journal_writer.FileJournal)."""

    chain: str

    def start(self, chain: str, state: bytes) -> None:
        """Begin to write, or leave the chain before for this one.  Raises ValueError for a state that is none."""

    async def settled(self) -> None:
        """Wait until every answer that waits for its record has left, or been refused."""


class Link:
    """Keeps a worker's :class:`Serving` in step with what the agent sends."""

    def __init__(
        self,
        serving: Serving,
        socket_path: str,
        *,
        shadow: ShadowCounts | None = None,
        uses: CredentialUses | None = None,
        journal: KeyedJournal | None = None,
        report: Report | None = None,
        desk: Desk | None = None,
    ) -> None:
        """``shadow``: what shadowed rules have counted, told to the agent after each lease.

        ``desk``: where requests for keys in HSMs wait.

        ``report`` makes what the agent's metrics are told each second, whether the database answers or not.
        """
        self._serving = serving
        self._journal = journal
        self._shadow = shadow
        self._uses = uses
        self._report = report
        self._desk = desk
        if desk is not None:
            desk.ask = self._ask_invocations
        self._reporter: asyncio.Task[None] | None = None
        self._socket_path = socket_path
        self._started_at_s = wire.boot_clock()
        self._task: asyncio.Task[None] | None = None
        self._parent_watch: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._mistrusted = False  # after a refusal only a full load will do
        self._loaded = asyncio.Event()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin in the background of ``loop``."""
        self._task = loop.create_task(self._run())
        self._parent_watch = loop.create_task(end_when_orphaned())
        if self._report is not None:
            self._reporter = loop.create_task(self._report_for_ever(self._report))

    async def wait_loaded(self, within_s: float = FIRST_LOAD_S) -> bool:
        """Wait for the first keys and lease, so long at most; return whether they came."""
        try:
            async with asyncio.timeout(within_s):
                await self._loaded.wait()
        except TimeoutError:
            return False
        return True

    def drain(self) -> None:
        """Tell the agent that this process has been told to end; call on the loop's thread."""
        if self._writer is not None:
            self._writer.write(wire.encode_frame(wire.Draining(os.getpid())))

    def _ask_invocations(self, key_id: str, number: int) -> None:
        if self._writer is not None:
            self._writer.write(wire.encode_frame(wire.InvocationsWanted(os.getpid(), key_id, number)))

    async def stop(self) -> None:
        """Take leave of the agent, as far as it can be reached, and end."""
        for watch in (self._reporter, self._parent_watch):
            if watch is not None:
                watch.cancel()
        if self._writer is not None:
            with contextlib.suppress(OSError):
                if self._report is not None:
                    self._writer.write(wire.encode_frame(self._report()))
                self._tell_uses(self._writer)
                self._writer.write(wire.encode_frame(wire.Goodbye(os.getpid())))
                async with asyncio.timeout(1):
                    await self._writer.drain()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._desk is not None:
            await self._desk.close()

    def _tell_uses(self, writer: asyncio.StreamWriter) -> None:
        """Tell which credentials were seen; what is on its way when the connection breaks is lost, a second of it."""
        if self._uses is not None and (uses := self._uses.take()):
            for start in range(0, len(uses), USES_AT_ONCE):
                report = wire.UseReport(os.getpid(), uses[start : start + USES_AT_ONCE])
                writer.write(wire.encode_frame(report))

    async def _report_for_ever(self, report: Report) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            writer = self._writer
            # An agent that does not read gets the next one: they are sums, and none is missed.
            if writer is not None and writer.transport.get_write_buffer_size() == 0:
                writer.write(wire.encode_frame(report()))

    async def _run(self) -> None:
        pause = RETRY_FIRST_S
        reachable = True
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._socket_path)
            except OSError as error:
                if reachable:
                    log.warning("xks agent not reachable at %s: %s", self._socket_path, error)
                    reachable = False
                # Spread out, so that the workers do not come back to a new agent all at once.
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
                pause = min(pause * 2, RETRY_LAST_S)
                continue
            reachable = True
            self._writer = writer
            since = wire.boot_clock()
            try:
                await self._converse(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                log.warning("connection to the xks agent ended; serving on until the lease is over")
            except (wire.FrameError, ChangeRefused) as error:
                self._mistrusted = True
                log.error("what the xks agent sent was refused: %s", error)
            except Exception as error:  # anything else must not end the link for good
                self._mistrusted = True
                log.error("applying what the xks agent sent failed: %s", type(error).__name__)
            finally:
                gc.enable()  # a load may have been broken off
                self._writer = None
                writer.close()
            if wire.boot_clock() - since > RETRY_LAST_S:
                pause = RETRY_FIRST_S
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(pause * 2, RETRY_LAST_S)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = self._serving
        pid = os.getpid()
        held = 0 if self._mistrusted else serving.keyring.generation
        chain = self._journal.chain if self._journal is not None else ""
        hello = wire.Hello(pid, self._started_at_s, read_boot_id(), held, __version__, journal=chain)
        writer.write(wire.encode_frame(hello))
        change: Change | None = None
        while True:
            message = await wire.read_agent_message(reader)
            if isinstance(message, wire.JournalKey):
                if self._journal is not None:
                    self._journal.start(message.chain, message.state)
                continue
            if isinstance(message, wire.EndpointTls):
                continue  # for the server process alone
            if isinstance(message, wire.Invocations):
                if self._desk is not None:
                    self._desk.take_invocations(message)
                continue
            if isinstance(message, wire.HsmGroups):
                serving.root_problem = message.root_problem
                if self._desk is not None:
                    self._desk.take_groups(message)
                continue
            if isinstance(message, wire.Lease):
                if serving.take_lease(message, wire.boot_clock()):
                    self._loaded.set()
                if self._shadow is not None and (counts := self._shadow.take()):
                    # Lost when the connection breaks just now: figures to decide by, not a record.
                    writer.write(wire.encode_frame(wire.ShadowReport(pid, counts)))
                self._tell_uses(writer)
                continue
            if change is None:
                change = Change(serving, message)
                if message.full:
                    # The collector would look through all keys again and again, for 0.1 to 1 s each time with 100,000.
                    gc.disable()
                resident: list[tuple[str, int]] = []
            if len(resident) < MAX_PREPARED:
                resident += [
                    (key.id, key.current_version)
                    for key in message.keys
                    if key.versions and key.versions[-1].resident is not None
                ]
            since = time.perf_counter()
            for _ in change.add(message):
                if time.perf_counter() - since > SLICE_S:
                    await asyncio.sleep(0)
                    since = time.perf_counter()
            await asyncio.sleep(0)
            if message.final:
                change.commit()
                committed, change = change, None
                if message.full:
                    # Keys hold no cycles: the collector need never look at them. What is replaced is freed all the same.
                    gc.freeze()
                    gc.enable()
                self._mistrusted = False
                # No request is in work here: they run from snapshot to answer without a pause, but for
                # those that wait for an HSM, and for the wait for the disk.
                if self._desk is not None:
                    for key_id, number in resident[:MAX_PREPARED]:
                        self._desk.prepare(key_id, number)
                    await self._desk.settled()
                if self._journal is not None:
                    await self._journal.settled()
                writer.write(wire.encode_frame(wire.Applied(pid, serving.keyring.generation)))
                await writer.drain()
                since = time.perf_counter()
                for _ in committed.let_go():
                    if time.perf_counter() - since > SLICE_S:
                        await asyncio.sleep(0)
                        since = time.perf_counter()
