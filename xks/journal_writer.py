"""Writes a worker's journal: one write for each request, before its answer (docs/journal.md).

Runs on the worker's event loop.  In ``write`` mode a record is in the system's page cache when
:meth:`FileJournal.append` returns: it outlives the process.  In ``group`` mode it is on the disk when
the future that ``append`` returned is done: it outlives a power cut.  One fdatasync serves all records
that were written before it began.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from xks import __version__
from xks import journal_format as form
from xks.journal import JournalUnavailable, Record
from xks.journal_files import Files, OsFiles
from xks.journal_flusher import Flusher
from xks.journal_guard import GuardedLoop, StallGuard

log = logging.getLogger("keystead.xks")

SyncMode = Literal["write", "group"]

SEGMENT_BYTES: Final = 64 * 1024 * 1024
SEGMENT_S: Final = 3600.0
"""A segment that holds something is closed after so many bytes, or seconds."""
MAX_SOURCES: Final = 16
"""Callers counted apart in one second; those beyond are counted together as "others"."""
SUFFIX: Final = ".ksj"
COMPRESSED: Final = ".gz"
# As long as the longest record, so that it is not found to fit where a record does not.
_AGAIN: Final = "can be written again".ljust(380)


def journal_folder(data: Path, node: str) -> Path:
    """Return the folder of a node's journals below the data folder."""
    return data / "journal" / node_folder_name(node)


def node_folder_name(node: str) -> str:
    """Return the name of the folder that holds a node's journals."""
    return quote(node, safe="").replace(".", "%2E" if set(node) <= {"."} else ".")


def segment_path(folder: Path, chain: str, segment: int) -> Path:
    """Return where a segment of a chain lies below a node's folder."""
    return folder / chain / f"{segment:08d}{SUFFIX}"


def compressed_path(folder: Path, chain: str, segment: int) -> Path:
    """Return where a segment lies once it is sealed and compressed."""
    return folder / chain / f"{segment:08d}{SUFFIX}{COMPRESSED}"


def read_segment(folder: Path, chain: str, segment: int) -> bytes:
    """Return a segment, compressed or not.

    Raises:
        OSError: it is not there, or cannot be read; EOFError or zlib.error never leave.
    """
    try:
        return segment_path(folder, chain, segment).read_bytes()
    except FileNotFoundError:
        packed = compressed_path(folder, chain, segment).read_bytes()
    try:
        return gzip.decompress(packed)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return b""  # nothing of it is what was written


class FileJournal:
    """One worker's journal, in ``folder`` (<data>/journal/<node>).

    It takes nothing before :meth:`start`, which brings the key of its chain; without that nobody's
    signature can be checked either.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node: str,
        boot_id: str = "",
        sync: SyncMode = "write",
        guard: StallGuard | None = None,
        files: Files | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        segment_s: float = SEGMENT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.chain = ""
        """Id of the chain; "" before start."""
        self.guard: StallGuard = guard or StallGuard()
        self._folder = folder
        self._node = node
        self._boot_id = boot_id
        self._files: Files = files or OsFiles()
        self._write_file = self._files.write
        self._segment_bytes = segment_bytes
        self._segment_s = segment_s
        self._clock = clock
        self._fd = -1
        self._state = bytearray()
        self._segment = -1
        self._size = 0
        self._opened_at = 0.0
        self._names = form.Names()
        self._mac = form.NO_MAC
        self._key = b""
        self._keyed: Any = None
        self._sequence = 0
        self._counts: Counter[tuple[str, str]] = Counter()
        self._problem: str | None = "no key for the journal has come from the agent"
        self._must_roll = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flusher = Flusher(self._files, self._note_withheld) if sync == "group" else None
        self._withheld: list[tuple[int, int]] = []
        self._ticker: asyncio.Task[None] | None = None

    @property
    def segment(self) -> tuple[int, int]:
        """Number (-1 before the first) and bytes of the segment that is open."""
        return self._segment, self._size

    # --- life -------------------------------------------------------------------------------------

    def run_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the work in the background of ``loop``: counts, segments that grow old, recovery."""
        self._loop = loop
        if isinstance(loop, GuardedLoop):
            loop.guard, self.guard.announced = self.guard, True
        self.guard.start()
        if self._flusher is not None:
            self._flusher.start(loop)
        self._ticker = loop.create_task(self._tick_for_ever())

    def start(self, chain: str, state: bytes) -> None:
        """Begin a chain with the state of its first segment (32 bytes); the same again is ignored.

        Another one takes the place of the first, which the database has lost in a restore.

        Raises:
            ValueError: the state has another length.
        """
        if chain == self.chain:
            return
        if len(state) != form.STATE_BYTES:
            raise ValueError(f"the state of a chain has {form.STATE_BYTES} bytes")
        if self.chain:
            log.warning("the journal is begun anew: the database does not know chain %s", self.chain)
            self._end_chain()
            self._segment, self._mac = -1, form.NO_MAC
        self.chain = chain
        self._state[:] = state
        self._must_roll = True
        self.try_again()

    async def stop(self) -> None:
        """Close the segment in good order, as far as it can be written."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.wait([self._ticker])
        self._end_chain()
        if self._flusher is not None:
            self._flusher.stop()
        self.guard.stop()
        self._state[:] = bytes(len(self._state))

    def _end_chain(self) -> None:
        try:
            self._write_counts()
            self._write_withheld()
            self._end_segment()
        except JournalUnavailable as error:
            log.error("the journal could not be closed in good order: %s", error)
        self._withheld.clear()
        self._close_file()

    # --- what requests call -----------------------------------------------------------------------

    def append(self, record: Record) -> asyncio.Future[None] | None:
        """See xks.journal.Journal."""
        if self._flusher is not None and self._flusher.stalled:
            raise JournalUnavailable("the journal's device has stalled")
        if self._fd < 0 or self._must_roll or self._size >= self._segment_bytes or self._names.full:
            self._roll()
        texts = form.named_texts(record)
        try:
            frame = form.pack_record(record, map(self._names.numbers.__getitem__, texts))
        except KeyError:
            self._append_naming(record, texts)
        else:
            self._write(self._chained(frame), is_record=True)
        if self._flusher is None:
            return None
        return self._flusher.wait(self._fd, self._sequence - 1)

    def count(self, error_name: str, source: str) -> None:
        """See xks.journal.Journal."""
        key = (error_name, source)
        if key not in self._counts and len(self._counts) >= MAX_SOURCES:
            key = (error_name, "others")
        self._counts[key] += 1

    def problem(self) -> str | None:
        """Return why nothing can be recorded at this moment; None when all is well."""
        if self.guard.stalled or (self._flusher is not None and self._flusher.stalled):
            return "the journal's device has stalled"
        return self._problem

    async def settled(self) -> None:
        """Wait until every answer that waits for its record has been let go, or refused."""
        if self._flusher is not None:
            await self._flusher.settled()

    def try_again(self) -> None:
        """See, after a failure, whether it can be written again; called about every second."""
        if not self.chain:
            return
        try:
            if self._fd < 0 or self._must_roll:
                self._roll()
            else:
                self._write(self._chained(form.pack(form.NOTE, [self._now_us(), _AGAIN])))
        except JournalUnavailable as error:
            log.error("the journal cannot be written: %s", error)

    # --- within -----------------------------------------------------------------------------------

    def _now_us(self) -> int:
        return int(self._clock() * 1e6)

    def _chained(self, frame: bytes) -> bytes:
        """Return the frame with its MAC; nothing changes before _write has written it."""
        mac = self._keyed.copy()
        mac.update(self._mac + frame)
        digest: bytes = mac.digest()
        return frame + digest

    def _append_naming(self, record: Record, texts: tuple[str, ...]) -> None:
        fresh, name_frame = self._names.add(texts)
        numbers = self._names.numbers
        told = self._chained(name_frame)
        frame = form.pack_record(
            record, [numbers[text] if text in numbers else fresh[text] for text in texts]
        )
        data = told + frame + form.chain_mac(self._key, told[-form.MAC_BYTES :], frame)
        self._write(data, entries=2, is_record=True, fresh=fresh)

    def _write(
        self,
        data: bytes,
        *,
        entries: int = 1,
        is_record: bool = False,
        fresh: dict[str, int] | None = None,
    ) -> None:
        guard = self.guard
        failure: OSError | None = None
        written = 0
        guard.since = time.monotonic()
        try:
            written = self._write_file(self._fd, data)
        except OSError as error:
            failure = error
        guard.since = 0.0
        late = guard.write_ended(self._loop) if guard.holds else False
        if written != len(data):
            self._undo(written, failure)
        self._size += written
        self._mac = data[-form.MAC_BYTES :]
        self._sequence += entries
        self._problem = None
        if fresh:
            self._names.keep(fresh)
        if late and is_record:
            # The watching thread has answered with 500.
            self._note_withheld(self._sequence - 1, self._sequence - 1)
            raise JournalUnavailable("the journal's device had stalled")

    def _undo(self, written: int, failure: OSError | None) -> None:
        """Take back what was written of an entry, and raise JournalUnavailable."""
        cause = failure.strerror or "" if failure is not None else "no space is left for a whole entry"
        if written:
            try:
                self._files.truncate(self._fd, self._size)
            except OSError:
                # What is left of the entry is for recovery to find: nothing may follow it here.
                self._must_roll = True
        self._fail(cause)

    def _fail(self, cause: str) -> None:
        self._problem = f"the journal cannot be written ({cause})"
        raise JournalUnavailable(self._problem)

    def _note_withheld(self, first: int, last: int) -> None:
        """Remember records whose result never left, though their write came through; tick writes it."""
        self._withheld.append((first, last))

    def _write_withheld(self) -> None:
        while self._withheld and self._fd >= 0 and not self._must_roll:
            first, last = self._withheld[0]
            self._write(self._chained(form.pack(form.WITHHELD, [self._now_us(), first, last])))
            self._withheld.pop(0)

    def _roll(self) -> None:
        """Close the segment that is open, if any, and open the next."""
        if not self.chain:
            raise JournalUnavailable(self._problem)
        self._write_withheld()
        self._withheld.clear()  # what is left speaks of a file that nothing more goes into
        self._end_segment()
        self._close_file()
        segment = self._segment + 1
        path = segment_path(self._folder, self.chain, segment)
        state = form.next_state(self._state) if self._segment >= 0 else bytes(self._state)
        key = form.mac_key_of(state)
        header = form.Header(
            form.FORMAT,
            self._node,
            self.chain,
            segment,
            self._now_us(),
            self._mac,
            self._boot_id,
            __version__,
        )
        frame = form.pack(form.HEADER, header)
        data = frame + form.chain_mac(key, self._mac, frame)
        fd = -1
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = self._files.create(path)
            self._fd, self._size = fd, 0
            self._write(data)
        except (OSError, JournalUnavailable) as error:
            self._fd = -1
            if fd >= 0:
                self._files.close(fd)
                # It holds no record: the number is used again.
                path.unlink(missing_ok=True)
            if isinstance(error, JournalUnavailable):
                raise
            self._fail(error.strerror or type(error).__name__)
        self._state[:] = state
        self._key, self._keyed = key, form.keyed_mac(key)
        self._segment = segment
        self._sequence = 1
        self._names = form.Names()
        self._opened_at = self._clock()
        self._must_roll = False
        if self._flusher is not None:
            self._flusher.opened(fd, path.parent)

    def _end_segment(self) -> None:
        if self._fd >= 0 and not self._must_roll:
            self._write(self._chained(form.pack(form.END, [self._now_us(), self._sequence])))

    def _close_file(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            if self._flusher is not None:
                self._flusher.close(fd)
            else:
                self._files.close(fd)

    def _write_counts(self) -> None:
        if self._counts and self._fd >= 0 and not self._must_roll:
            rows = [[name, source, number] for (name, source), number in self._counts.items()]
            self._write(self._chained(form.pack(form.COUNTS, [self._now_us(), rows])))
            self._counts.clear()

    def tick(self) -> None:
        """Do what is due every second."""
        if self._flusher is not None and self._flusher.failed:
            # What a failed fdatasync leaves behind is not known: nothing more goes into that file.
            self._must_roll = True
            self._problem = "the journal cannot be made durable"
            self._flusher.failed = False
        if self._problem is not None or self._must_roll:
            self.try_again()
            return
        try:
            self._write_withheld()
            self._write_counts()
            if self._sequence > 1 and self._clock() - self._opened_at >= self._segment_s:
                self._roll()
        except JournalUnavailable as error:
            log.error("%s", error)

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.tick()
