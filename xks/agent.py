"""The xks agent: the only process of a node with the database and the root key.

Three lines of work, so that none waits for another:

* the *reader* thread asks the database what is current and loads it (``xks.agent_loading``);
* the *registrar* thread keeps the node's rows (``xks.agent_registry``);
* the event loop talks with the workers (``xks.agent_workers``).

A worker may serve for as long as the older of two things is recent enough: that the database said
what is current, and that the table of workers shows this one.  When the database is gone nothing of
either is renewed, and workers close by themselves.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import structlog
from django.db import Error

from vault.keys import RootKeyError
from xks import wire
from xks.agent_database import close_own_connection, new_watch, use_own_connection
from xks.agent_journal import Journals, Keeper
from xks.agent_loading import (
    Applied,
    LeftOut,
    Loaded,
    LogIncomplete,
    WentBackwards,
    load_changes,
    load_everything,
)
from xks.agent_registry import Heartbeat, ProcessName, Registry
from xks.agent_rules import ShadowSums
from xks.agent_workers import Workers, bind_socket, claim_socket
from xks.wire import boot_clock

log = structlog.get_logger("keystead.agent")

POLL_S = 0.5
"""The database is asked this often even when it sends no word."""

BEAT_S = 1.0
"""Heartbeats and leases."""

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts while the database does not answer."""

REPEAT_ALARM_S = 10.0
LINGER_S = 2.5
"""How long an agent that is told to stop waits for its workers' goodbyes: they are being stopped too."""

MAX_ALARMS = 20
"""Rows named one by one when a load had to leave many out."""


class Reader(threading.Thread):
    """Finds out what is current, and passes it on."""

    def __init__(
        self,
        *,
        take: Callable[[Loaded | None, float], None],
        failed: Callable[[BaseException], None],
        poll_s: float,
        max_staleness_s: float,
    ) -> None:
        super().__init__(name="reader", daemon=True)
        self._take = take
        self._failed = failed
        self._poll_s = poll_s
        self._max_staleness_s = max_staleness_s
        self._stopping = threading.Event()
        self._failures = 0
        self._alarmed_at: float | None = None
        self._watch = new_watch()

    def run(self) -> None:
        """See Thread."""
        try:
            self._run()
        except BaseException as error:
            self._failed(error)
        finally:
            close_own_connection()

    def stop(self) -> None:
        """End soon, from any thread; may be called when it has ended already."""
        self._stopping.set()
        self._watch.wake()

    def close(self) -> None:
        """Let go of what ``stop`` needs; call once the thread has ended."""
        self._watch.close()

    def _run(self) -> None:
        use_own_connection(snapshots=True)
        applied: Applied | None = None
        try:
            while not self._stopping.is_set():
                try:
                    applied = self._look(applied)
                    self._watch.wait(self._poll_s)
                except (Error, psycopg.Error) as error:
                    self._lost(error)
        finally:
            self._watch.reset()

    def _look(self, applied: Applied | None) -> Applied | None:
        asked_at = boot_clock()
        try:
            if applied is None:
                loaded: Loaded | None = load_everything(self._max_staleness_s)
            else:
                loaded = load_changes(applied, self._max_staleness_s)
        except LogIncomplete as gap:
            log.warning("the log of changes has a gap; loading everything", gap=str(gap))
            return None
        except WentBackwards as refused:
            self._alarm(
                "REFUSED an older database: nothing is taken from it, and workers get no lease. "
                "Restart this agent to accept it.",
                found_generation=refused.found,
                applied_generation=refused.applied,
            )
            return applied
        except RootKeyError as error:
            self._alarm("the root key cannot be used; nothing can be loaded", cause=str(error))
            return applied
        if self._failures:
            log.info("the database answers again")
        self._failures = 0
        self._alarmed_at = None
        if loaded is not None:
            took_s = boot_clock() - asked_at
            report_left_out(loaded.left_out)
            if loaded.full:
                log.info(
                    "loaded everything",
                    generation=loaded.generation,
                    stores=len(loaded.stores),
                    keys=len(loaded.keys),
                    seconds=round(took_s, 3),
                )
            else:
                log.debug("loaded a change", generation=loaded.generation, seconds=round(took_s, 4))
            applied = Applied.after(loaded, applied)
        self._take(loaded, asked_at)
        return applied

    def _lost(self, error: Exception) -> None:
        pause = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        if self._failures == 0:
            log.error("the database does not answer; trying again", cause=first_line(error))
        self._failures += 1
        close_own_connection()
        self._watch.reset()
        self._stopping.wait(pause)

    def _alarm(self, event: str, **detail: object) -> None:
        now = time.monotonic()
        if self._alarmed_at is None or now - self._alarmed_at >= REPEAT_ALARM_S:
            self._alarmed_at = now
            log.critical(event, alarm=True, **detail)


@dataclass
class _Entry:
    """What the table is to say of one connected worker, and what it says."""

    serves: int
    confirmed: int | None = None
    added: bool = False
    written: int | None = None


class Registrar(threading.Thread):
    """Makes the table of workers say what is so; keeps trying while the database does not answer.

    The methods of ``xks.agent_workers.Census`` only note what is so.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        seen: Callable[[Heartbeat, float], None],
        failed: Callable[[BaseException], None],
        generation: Callable[[], int],
        beat_s: float,
    ) -> None:
        super().__init__(name="registrar", daemon=True)
        self._registry = registry
        self._seen = seen
        self._failed = failed
        self._generation = generation
        self._beat_s = beat_s
        self._news = threading.Condition()
        self._entries: dict[ProcessName, _Entry] = {}
        self._gone: set[ProcessName] = set()
        self._shadow = ShadowSums()
        self._stopping = False
        self._changed = True
        self._next_beat = time.monotonic()
        self._failures = 0

    def joined(self, process: ProcessName, serves_generation: int) -> None:
        """See Census."""
        with self._news:
            self._gone.discard(process)
            self._entries[process] = _Entry(serves_generation)
            self._tell()

    def confirmed(self, process: ProcessName, generation: int) -> None:
        """See Census."""
        with self._news:
            entry = self._entries.get(process)
            if entry is not None:
                entry.confirmed = generation
                self._tell()

    def parted(self, process: ProcessName) -> None:
        """See Census."""
        with self._news:
            self._entries.pop(process, None)

    def gone(self, process: ProcessName) -> None:
        """See Census."""
        with self._news:
            self._entries.pop(process, None)
            self._gone.add(process)
            self._tell()

    def shadowed(self, counts: list[wire.ShadowCount]) -> None:
        """See Census. Written with the next beat: nobody waits for it."""
        with self._news:
            self._shadow.add(counts)

    def stop(self) -> None:
        """Take the node out of the table (if nobody of it can be serving) and end, from any thread."""
        with self._news:
            self._stopping = True
            self._tell()

    def _tell(self) -> None:
        self._changed = True
        self._news.notify()

    def run(self) -> None:
        """See Thread."""
        try:
            use_own_connection(snapshots=False)
            while self._wait():
                try:
                    self._write()
                    self._failures = 0
                except (Error, psycopg.Error) as error:
                    self._lost(error)
            self._sign_off()
        except BaseException as error:
            self._failed(error)
        finally:
            close_own_connection()

    def _wait(self) -> bool:
        """Wait for something to write; False when told to stop."""
        with self._news:
            while not self._changed and not self._stopping:
                rest = self._next_beat - time.monotonic()
                if rest <= 0:
                    break
                self._news.wait(rest)
            self._changed = False
            return not self._stopping

    def _write(self) -> None:
        with self._news:
            gone = list(self._gone)
            entries = dict(self._entries)
        # Confirmations first: somebody is waiting for them.
        for process, entry in entries.items():
            if not entry.added:
                self._registry.add_worker(process, entry.serves)
                entry.added = True
                self._next_beat = time.monotonic()  # its first lease waits for the beat
            if (confirmed := entry.confirmed) is not None and confirmed != entry.written:
                self._registry.confirm(process, confirmed)
                entry.written = confirmed
        for process in gone:
            self._registry.remove_worker(process)
        with self._news:
            self._gone.difference_update(gone)
        if time.monotonic() >= self._next_beat:
            self._beat(entries)

    def _beat(self, entries: dict[ProcessName, _Entry]) -> None:
        beat_at = boot_clock()
        beat = self._registry.beat(entries, self._generation())
        missing = [process for process in entries if str(process) not in beat.known_workers]
        for process in missing:
            # Its row is gone (an older database was put back): enter it again at once.
            entries[process].added = False
            entries[process].written = None
        if missing:
            with self._news:
                self._tell()
        self._next_beat = time.monotonic() + self._beat_s
        self._seen(beat, beat_at)
        self._write_shadow()

    def _write_shadow(self) -> None:
        with self._news:
            taken = self._shadow.take()
        if not taken:
            return
        try:
            self._registry.add_shadow(taken)
        except (Error, psycopg.Error):
            with self._news:
                self._shadow.put_back(taken)
            raise

    def _lost(self, error: Exception) -> None:
        if self._failures == 0:
            log.error("the node's rows cannot be written; trying again", cause=first_line(error))
        pause = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        close_own_connection()
        with self._news:
            if not self._stopping:
                self._news.wait(pause)
            self._changed = True

    def _sign_off(self) -> None:
        try:
            for process in self._gone:
                self._registry.remove_worker(process)
            self._registry.leave()
        except (Error, psycopg.Error) as error:
            log.warning(
                "stopped without a word in the table: it shows this node until it has not been seen for too long",
                cause=first_line(error),
            )


def report_left_out(left_out: list[LeftOut]) -> None:
    """Raise an alarm for rows that the data plane does not get."""
    for item in left_out[:MAX_ALARMS]:
        log.critical(
            "a row was left out of the data plane",
            alarm=True,
            kind=item.kind,
            row_id=item.id,
            vault_id=str(item.vault_id),
            reason=item.reason,
        )
    if len(left_out) > MAX_ALARMS:
        log.critical("more rows were left out of the data plane", alarm=True, rows=len(left_out))


def first_line(error: Exception) -> str:
    """Return the first line of a driver's message; they hold no password."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Agent:
    """One node's agent. ``run`` serves until told to stop."""

    def __init__(
        self,
        *,
        socket_path: Path,
        node_name: str,
        max_staleness_s: float,
        software_version: str,
        journal_folder: Path | None = None,
        journal_days: int = 90,
    ) -> None:
        """``journal_folder``: where this node's workers write their journals; None when they do not."""
        self._socket_path = socket_path
        self._max_staleness_s = max_staleness_s
        self._poll_s = min(POLL_S, max_staleness_s / 5)
        self._beat_s = min(BEAT_S, max_staleness_s / 5)
        self._journals: Journals | None = None
        if journal_folder is not None:
            self._journals = Journals(node_name, journal_folder, keep=timedelta(days=journal_days))
        self._registry = Registry(node_name, software_version, max_staleness_s=max_staleness_s)

    async def run(self, stop: asyncio.Event, *, started: Callable[[], None] = lambda: None) -> None:
        """Serve the socket until ``stop`` is set; ``started`` is called once it can be connected to.

        Raises SocketUnusable, and whatever ended one of the two threads.
        """
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        failures: list[BaseException] = []

        def failed(error: BaseException) -> None:
            failures.append(error)
            call_in(loop, ending.set)

        lock = claim_socket(self._socket_path)
        registrar = Registrar(
            self._registry,
            seen=lambda beat, at: call_in(loop, workers.seen, beat, at),
            failed=failed,
            generation=lambda: workers.generation,
            beat_s=self._beat_s,
        )
        keeper: Keeper | None = None
        if self._journals is not None:
            keeper = Keeper(
                self._journals,
                give=lambda process, chain, state: call_in(loop, workers.give_journal, process, chain, state),
                failed=failed,
                beat_s=self._beat_s,
            )
        workers = Workers(
            registrar,
            max_staleness_s=self._max_staleness_s,
            lease_every_s=self._beat_s * 0.9,
            journals=keeper,
        )
        reader = Reader(
            take=lambda loaded, at: call_in(loop, workers.take, loaded, at),
            failed=failed,
            poll_s=self._poll_s,
            max_staleness_s=self._max_staleness_s,
        )
        try:
            server = await asyncio.start_unix_server(workers.converse, sock=bind_socket(self._socket_path))
            registrar.start()
            reader.start()
            if keeper is not None:
                keeper.start()
            log.info("agent ready", node=self._registry.name, socket=str(self._socket_path))
            started()
            stopped = asyncio.create_task(stop.wait())
            stopped.add_done_callback(lambda _: ending.set())
            try:
                await ending.wait()
                if not failures:
                    await self._linger(workers)
            finally:
                stopped.cancel()
                server.close()
                await workers.close()
                reader.stop()
                registrar.stop()
                if keeper is not None:
                    keeper.stop()
                await asyncio.to_thread(join, reader, registrar, *([keeper] if keeper is not None else []))
                if not reader.is_alive():
                    reader.close()
                self._socket_path.unlink(missing_ok=True)
            if failures:
                raise failures[0]
            log.info("agent stopped")
        finally:
            lock.close()

    async def _linger(self, workers: Workers) -> None:
        try:
            await asyncio.wait_for(workers.nobody_left.wait(), LINGER_S)
        except TimeoutError:
            log.info("workers go on without this agent until their lease ends")


def join(*threads: threading.Thread) -> None:
    """Wait for threads to end; a database that hangs must not keep the process alive."""
    for thread in threads:
        thread.join(timeout=2.0)


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    """Have the event loop call ``function``; nothing happens once it is closed, which is after the end."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *args)
