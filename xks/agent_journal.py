"""The agent's keeper of journals: gives workers their keys, anchors what they write, seals what has ended.

Runs in a thread of its own with its own database connection.  What it does is safe to do again: it looks
at the files and at the rows each time and does what is missing.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import structlog
from django.db import Error, transaction
from django.utils import timezone

from vault.event_chain import EventsBroken
from vault.keys import RootKeyError, seal, unseal
from xks import journal_format as form
from xks.agent_database import close_own_connection, use_own_connection
from xks.agent_registry import ProcessName, boot_id
from xks.audit_seals import add_seal, seal_events, seal_restore
from xks.journal_keeping import compress_one, drop_old
from xks.journal_recovery import Anchor, Examined, examine_file, segments_of
from xks.journal_strays import seal_strays
from xks.journal_writer import read_segment, segment_path
from xks.models import JournalChain
from xks.request_rows import blocks_of, rows_of

log = structlog.get_logger("keystead.agent")

REPEAT_ALARM_S = 10.0
RETRY_S = 0.5
TIDY_S = 60.0
SETTLE_BEATS = 5
"""For so many beats workers have time to connect before journals are sealed that nobody knows: none may still be written."""
_ENDS = {"clean": "CLEAN", "next": "KILLED", "killed": "KILLED", "damaged": "DAMAGED", "missing": "LOST"}

Give = Callable[[ProcessName, str, bytes], None]


def new_chain(node_name: str, process: ProcessName) -> tuple[JournalChain, bytes]:
    """Begin a chain for a worker process; return its row and first state. Raises RootKeyError."""
    state = secrets.token_bytes(form.STATE_BYTES)
    row = JournalChain(node_name=node_name, process=str(process), sealed_mac=form.NO_MAC.hex())
    seal(row, "state", state)
    with transaction.atomic():
        row.save(force_insert=True)
        add_seal({"kind": "chain", "chain": row.id.hex, "node": node_name, "process": str(process)})
    return row, state


def has_ended(process: ProcessName | None) -> bool:
    """Whether a worker process provably runs no more."""
    if process is None:
        return False
    return process.is_gone() or bool(process.boot and boot_id() and process.boot != boot_id())


@dataclass
class _Cursor:
    """How far an open segment has been read."""

    segment: int
    offset: int = 0
    sequence: int = -1
    kind: int = 0
    mac: bytes = b""


class Journals:
    """The journals of one node. Every method raises django.db.Error when the database does not answer."""

    def __init__(self, node_name: str, folder: Path, *, keep: timedelta = timedelta(days=90)) -> None:
        """``keep``: for how long sealed segments stay."""
        self.node_name = node_name
        self._keep = keep
        self._kept_at = 0.0
        self.folder = self._folder = folder
        self._cursors: dict[UUID, _Cursor] = {}

    def tend(self, gone: set[str]) -> None:
        """Anchor and seal; ``gone`` names processes that have said goodbye or ended.

        Raises OSError when a file cannot be read, and RootKeyError.
        """
        for row in JournalChain.objects.filter(node_name=self.node_name, ended_at=None):
            ended = row.process in gone or has_ended(ProcessName.parse(row.process))
            self._anchor(row)
            self._seal_segments(row, ended=ended)
            if ended and row.ended_at is not None:
                self._cursors.pop(row.id, None)

    def known(self, chains: Iterable[str]) -> set[str]:
        """Return those of the chains that the database knows, open ones alone."""
        found = JournalChain.objects.filter(
            pk__in=[UUID(hex=chain) for chain in chains], node_name=self.node_name, ended_at=None
        )
        return {pk.hex for pk in found.values_list("pk", flat=True)}

    def has_begun(self, chain: str) -> bool:
        """Whether a worker has written something of a chain."""
        return bool(segments_of(self._folder, chain))

    def tidy(self) -> None:
        """Compress what is sealed and counted, a segment at a time, and about every minute drop what is old."""
        if time.monotonic() < self._kept_at + TIDY_S:
            return
        if not compress_one(self.node_name, self._folder):
            self._kept_at = time.monotonic()
            drop_old(self.node_name, self._folder, now=timezone.now(), keep=self._keep)

    def _anchor(self, row: JournalChain) -> None:
        numbers = segments_of(self._folder, row.id.hex)
        if not numbers:
            return
        cursor = self._cursors.get(row.id)
        if cursor is None or cursor.segment != numbers[-1]:
            cursor = self._cursors[row.id] = _Cursor(numbers[-1])
        with open(segment_path(self._folder, row.id.hex, cursor.segment), "rb") as file:
            file.seek(cursor.offset)
            tail = form.last_entry(file.read(), cursor.offset, cursor.sequence + 1)
        if tail is None:
            return
        cursor.sequence, cursor.offset, cursor.kind, cursor.mac = tail
        if (cursor.segment, cursor.sequence) <= (row.anchor_segment or 0, row.anchor_sequence or -1):
            return  # nothing new; or less than was there before, which shows when it is sealed
        row.anchor_segment, row.anchor_sequence = cursor.segment, cursor.sequence
        row.anchor_mac, row.anchored_at = cursor.mac.hex(), timezone.now()
        row.save(update_fields=["anchor_segment", "anchor_sequence", "anchor_mac", "anchored_at"])

    def _seal_segments(self, row: JournalChain, *, ended: bool) -> None:
        numbers = segments_of(self._folder, row.id.hex)
        last = max(numbers[-1] if numbers else -1, -1 if row.anchor_segment is None else row.anchor_segment)
        worst = row.end
        while row.sealed_segments <= last:
            number = row.sealed_segments
            if number == last and not ended:
                return
            worst = self._seal_segment(row, number, followed=number != last)
        if ended:
            with transaction.atomic():
                row.ended_at, row.state = timezone.now(), None
                row.end = worst or JournalChain.End.CLEAN
                row.save(update_fields=["ended_at", "state", "end"])
                segments = row.sealed_segments
                add_seal({"kind": "end", "chain": row.id.hex, "segments": segments, "end": row.end})

    def _seal_segment(self, row: JournalChain, number: int, *, followed: bool) -> str:
        state = unseal(row, "state").reveal()
        anchor = None
        if row.anchor_segment == number and row.anchor_sequence is not None:
            anchor = Anchor(row.anchor_sequence, bytes.fromhex(row.anchor_mac))
        before = bytes.fromhex(row.sealed_mac) if row.sealed_mac else None
        found = examine_file(
            self._folder, row.id.hex, number, state, before, followed=followed, anchor=anchor
        )
        holds = found.end in ("clean", "next", "killed")
        if not holds:
            log.critical(
                "a segment of the journal is not what was written",
                alarm=True,
                chain=row.id.hex,
                segment=number,
                end=found.end,
                detail=found.detail,
            )
        rows = self._rows(row, number, found)
        row.sealed_segments = number + 1
        row.sealed_mac = found.mac.hex() if holds else ""
        end = _worse(row.end, found, followed=followed)
        row.end = end
        seal(row, "state", form.next_state(state))
        with transaction.atomic():
            row.save(update_fields=["sealed_segments", "sealed_mac", "state", "end"])
            add_seal({**segment_statement(row, number, state, before, found), **rows})
        return end

    def _rows(self, row: JournalChain, number: int, found: Examined) -> dict[str, object]:
        """Return digests of the records that hold, which speak for the database where the file is not at hand."""
        if not found.records:
            return {"rows": []}
        try:
            data = read_segment(self._folder, row.id.hex, number)
            return {"rows": list(blocks_of(rows_of(data, entries=found.entries)))}
        except form.SegmentDamaged as damage:
            log.error(
                "records of a journal cannot be read", chain=row.id.hex, segment=number, cause=str(damage)
            )
            return {}


def segment_statement(
    row: JournalChain, number: int, state: bytes, before: bytes | None, found: Examined
) -> dict[str, object]:
    """Return what is signed of a segment; its MAC key is among it, and from then on no secret."""
    return {
        "kind": "segment",
        "chain": row.id.hex,
        "node": row.node_name,
        "segment": number,
        "before": None if before is None else before.hex(),
        "mac": found.mac.hex(),
        "mac_key": form.mac_key_of(state).hex(),
        "entries": found.entries,
        "records": found.records,
        "bytes": found.size,
        "sha256": found.sha256,
        "opened_at": found.opened_at,
        "end": found.end,
        "detail": found.detail,
    }


def _worse(before: str, found: Examined, *, followed: bool) -> str:
    order = ["", "CLEAN", "KILLED", "LOST", "DAMAGED"]
    now = _ENDS[found.end] if not (followed and found.end in ("clean", "next")) else ""
    return max(before, now, key=order.index)


class Keeper(threading.Thread):
    """Looks after the journals about every second; the methods from joined to stop may be called from any thread."""

    def __init__(
        self,
        journals: Journals,
        *,
        give: Give,
        failed: Callable[[BaseException], None],
        beat_s: float,
    ) -> None:
        """``give`` hands a worker the id and first state of its chain."""
        super().__init__(name="keeper", daemon=True)
        self._journals = journals
        self._give = give
        self._failed = failed
        self._beat_s = beat_s
        self._news = threading.Condition()
        self._wanting: dict[ProcessName, None] = {}
        self._gone: set[str] = set()
        self._chains: dict[ProcessName, str] = {}
        self._moving: dict[ProcessName, str] = {}
        self._stopping = False
        self._alarmed_at: float | None = None
        self._began = time.monotonic()
        self._chains_known = False
        self._restore_sealed = False

    def wanted(self, process: ProcessName) -> None:
        """A worker has connected and has no journal yet."""
        with self._news:
            self._wanting[process] = None
            self._news.notify()

    def holds(self, process: ProcessName, chain: str) -> None:
        """A worker has connected and writes this chain already."""
        with self._news:
            self._chains[process] = chain
            self._chains_known = False

    def gone(self, process: ProcessName) -> None:
        """A worker has said goodbye, or its process has ended."""
        with self._news:
            self._wanting.pop(process, None)
            self._chains.pop(process, None)
            self._gone.add(str(process))
            self._news.notify()

    def stop(self) -> None:
        """Do what is due once more and end."""
        with self._news:
            self._stopping = True
            self._news.notify()

    def run(self) -> None:
        """See Thread."""
        try:
            use_own_connection(snapshots=False)
            while self._wait():
                self._work()
            self._work()
        except BaseException as error:
            self._failed(error)
        finally:
            close_own_connection()

    def _wait(self) -> bool:
        with self._news:
            if not self._wanting and not self._stopping:
                self._news.wait(self._beat_s)
            return not self._stopping

    def _work(self) -> None:
        try:
            if not self._restore_sealed:
                seal_restore()  # before any seal that would stand where others stood before the restore
            if not self._chains_known:
                self._want_known_chains()
            self._hand_out()
            if not self._restore_sealed and self._all_have_moved():
                seal_strays(self._journals.node_name, self._journals.folder)
                self._restore_sealed = True
            with self._news:
                gone = set(self._gone)
            self._journals.tend(gone)
            seal_events()
            self._journals.tidy()
            self._alarmed_at = None
        except (Error, psycopg.Error) as error:
            close_own_connection()
            self._chains_known = self._restore_sealed = False  # another database may answer next
            self._alarm("the database does not answer the keeper of journals", error)
        except (OSError, RootKeyError, EventsBroken) as error:
            self._alarm("journals cannot be anchored and sealed", error)

    def _want_known_chains(self) -> None:
        """Have workers begin anew whose chain the database has lost: nobody would anchor, seal or ship it."""
        with self._news:
            self._chains_known = True
            held = dict(self._chains)
        known = self._journals.known(held.values())
        for process, chain in held.items():
            if chain not in known:
                log.warning("a worker writes a journal that the database has lost", chain=chain)
                with self._news:
                    self._moving[process] = ""
                    self._wanting[process] = None

    def _all_have_moved(self) -> bool:
        """Whether nothing more is written to chains that the database has lost, as far as workers had time to say so."""
        if time.monotonic() < self._began + SETTLE_BEATS * self._beat_s:
            return False
        with self._news:
            for process, chain in list(self._moving.items()):
                if process not in self._chains or (chain and self._journals.has_begun(chain)):
                    del self._moving[process]
            return not self._moving

    def _hand_out(self) -> None:
        while True:
            with self._news:
                process = next(iter(self._wanting), None)
            if process is None:
                return
            row, state = new_chain(self._journals.node_name, process)
            with self._news:
                if process not in self._wanting:
                    continue  # gone meanwhile: its chain ends as one that never began
                self._wanting.pop(process)
                self._chains[process] = row.id.hex
                if process in self._moving:
                    self._moving[process] = row.id.hex
            self._give(process, row.id.hex, state)

    def _alarm(self, event: str, error: Exception) -> None:
        now = time.monotonic()
        if self._alarmed_at is None or now - self._alarmed_at >= REPEAT_ALARM_S:
            self._alarmed_at = now
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.critical(event, alarm=True, cause=cause)
        with self._news:
            if not self._stopping:
                self._news.wait(RETRY_S)
