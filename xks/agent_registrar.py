"""The agent's registrar: a thread that makes the table of node and workers say what is so."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import structlog
from django.db import Error

from vault import node_alarms
from vault.models import WorkerProcess
from xks import wire
from xks.agent_database import close_own_connection, use_own_connection
from xks.agent_reader import BACKOFF_S, first_line
from xks.agent_registry import Heartbeat, ProcessName, Registry, is_stopped
from xks.agent_rules import ShadowSums
from xks.agent_state import NodeState, Refusal
from xks.agent_uses import WRITE_EVERY_S, UseTimes
from xks.wire import boot_clock

log = structlog.get_logger("keystead.agent")


@dataclass
class _Entry:
    """What the table is to say of one connected worker, and what it says."""

    serves: int
    confirmed: tuple[int, str] | None = None
    """Generation and its fingerprint."""
    added: bool = False
    written: tuple[int, str] | None = None
    draining: bool = False
    state: str = ""
    """As the table says."""
    problem: str = ""
    """Why it cannot keep its journal."""


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
        state: NodeState,
    ) -> None:
        super().__init__(name="registrar", daemon=True)
        self._registry = registry
        self._state = state
        self._told: tuple[Refusal | None, list[dict[str, str]]] | None = None
        self._refused: Refusal | None = None
        self._seen = seen
        self._failed = failed
        self._generation = generation
        self._beat_s = beat_s
        self._news = threading.Condition()
        self._entries: dict[ProcessName, _Entry] = {}
        self._gone: set[ProcessName] = set()
        self._shadow = ShadowSums()
        self._uses = UseTimes()
        self._next_uses = time.monotonic()
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

    def confirmed(self, process: ProcessName, generation: int, fingerprint: str) -> None:
        """See Census."""
        with self._news:
            entry = self._entries.get(process)
            if entry is not None:
                entry.confirmed = (generation, fingerprint)
                self._tell()

    def draining(self, process: ProcessName) -> None:
        """See Census."""
        with self._news:
            entry = self._entries.get(process)
            if entry is not None and not entry.draining:
                entry.draining = True
                self._tell()

    def troubled(self, process: ProcessName, problem: str) -> None:
        """See Census. Written with the next beat."""
        with self._news:
            entry = self._entries.get(process)
            if entry is not None:
                entry.problem = problem

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

    def used(self, uses: list[wire.CredentialUse]) -> None:
        """See Census. Written every few seconds: nobody waits for it."""
        with self._news:
            self._uses.add(uses)

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
            self._write_state(process, entry)
        self._confirm(entries)
        for process in gone:
            self._registry.remove_worker(process)
        with self._news:
            self._gone.difference_update(gone)
        if time.monotonic() >= self._next_beat:
            self._beat(entries)

    def _confirm(self, entries: dict[ProcessName, _Entry]) -> None:
        """Write what workers have confirmed, all that confirm the same in one transaction."""
        due: dict[tuple[int, str], list[ProcessName]] = defaultdict(list)
        for process, entry in entries.items():
            if (confirmed := entry.confirmed) is not None and confirmed != entry.written:
                due[confirmed].append(process)
        for told, processes in due.items():
            if self._registry.confirm(processes, *told):
                for process in processes:
                    entries[process].written = told
            for process in processes:
                # Whoever was stopped meanwhile is not to be taken at its word.
                self._write_state(process, entries[process])

    def _write_state(self, process: ProcessName, entry: _Entry) -> None:
        if is_stopped(process):
            state = WorkerProcess.State.STOPPED
        elif entry.draining:
            state = WorkerProcess.State.DRAINING
        elif entry.confirmed is None and entry.serves == 0:
            state = WorkerProcess.State.STARTING
        else:
            state = WorkerProcess.State.SERVING
        if state != entry.state:
            self._registry.set_state(process, state)
            entry.state = state

    def _look_at_workers(self, entries: dict[ProcessName, _Entry]) -> None:
        """See which are stopped or cannot record."""
        for process, entry in entries.items():
            self._write_state(process, entry)
        self._state.confirmed(
            {str(process): entry.written[0] if entry.written else 0 for process, entry in entries.items()}
        )
        stopped = [p.pid for p, entry in entries.items() if entry.state == WorkerProcess.State.STOPPED]
        self._raise(node_alarms.WORKER_STOPPED, ", ".join(f"pid {pid}" for pid in stopped))
        troubled = [f"pid {p.pid}: {entry.problem}" for p, entry in entries.items() if entry.problem]
        self._raise(node_alarms.JOURNAL, "; ".join(troubled))

    def _raise(self, code: str, detail: str) -> None:
        if detail:
            self._state.raise_alarm(code, detail)
        else:
            self._state.clear(code)

    def _tell_node(self, entries: dict[ProcessName, _Entry]) -> None:
        """Write what is wrong with the node, when it is not what was written last."""
        refusal = self._state.refusal
        alarms, past = self._state.take_alarms()
        if (refusal, alarms) == self._told and not past:
            return
        # Once, when a refusal begins: it may be over by now, and what workers confirm after that is to be kept.  It cannot
        # be at its first telling, since an operator accepts what was told, and this thread brings the word of that.
        begins = refusal is not None and refusal != self._refused
        self._registry.tell(refusal, alarms, past, forget_confirmed=begins)
        self._told, self._refused = (refusal, alarms), refusal
        self._state.told(past)
        if begins:
            for entry in entries.values():
                entry.confirmed = entry.written = None

    def _beat(self, entries: dict[ProcessName, _Entry]) -> None:
        beat_at = boot_clock()
        beat = self._registry.beat(entries, self._generation())
        missing = [process for process in entries if str(process) not in beat.known_workers]
        for process in missing:
            # Its row is gone (an older database was put back): enter it again at once.
            entries[process].added = False
            entries[process].written = None
            entries[process].state = ""
        if missing:
            self._told = None
        if missing:
            with self._news:
                self._tell()
        self._next_beat = time.monotonic() + self._beat_s
        self._state.seen(beat_at, beat.accepted_mark)
        self._seen(beat, beat_at)
        self._look_at_workers(entries)
        self._tell_node(entries)
        self._write_shadow()
        if time.monotonic() >= self._next_uses:
            self._next_uses = time.monotonic() + WRITE_EVERY_S
            self._write_uses()

    def _write_uses(self) -> None:
        with self._news:
            taken = self._uses.take()
        try:
            taken.write()
        except (Error, psycopg.Error):
            with self._news:
                self._uses.put_back(taken)
            raise

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
            self._write_uses()
            for process in self._gone:
                self._registry.remove_worker(process)
            self._registry.leave()
        except (Error, psycopg.Error) as error:
            log.warning(
                "stopped without a word in the table: it shows this node until it has not been seen for too long",
                cause=first_line(error),
            )
