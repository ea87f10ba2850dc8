"""The stream for a SIEM: this node's journals, and the audit events of the installation, each at least once.

Records are read from the node's own files, so they flow when the database does not; how far they went stands in a file
beside them, and moves on only once the other side has taken a batch.  Audit events are sent by one agent at a time,
which holds the row StreamPosition.  A slow receiver only makes the stream late: everything waits on the disk.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psycopg
import structlog
from django.db import Error
from django.db.models import Q
from django.utils import timezone

from vault.models import AuditChainHead, AuditEvent, AuditLink
from xks import journal_format as form
from xks.agent_database import close_own_connection, use_own_connection
from xks.journal_recovery import segments_of
from xks.journal_writer import read_segment, segment_path
from xks.models import StreamPosition
from xks.request_rows import RowReader
from xks.siem_lines import WARNING, Line, line_of_entry, line_of_event, stamp
from xks.siem_sinks import NotDelivered, Sink

log = structlog.get_logger("keystead.siem")

BATCH = 500
POSITIONS = "siem-positions.json"
FRESH_S = 3600.0
"""When the stream is turned on, segments written to so lately are sent, and nothing older."""
HELD_FOR = timedelta(seconds=90)
"""Longer than one delivery may take."""
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
REPEAT_ALARM_S = 60.0
_CHUNK = 256 * 1024


@dataclass
class _Place:
    segment: int
    offset: int = 0
    entries: int = 0
    reader: RowReader = field(default_factory=RowReader)


class Stream:
    """The stream of one node. Methods raise OSError and NotDelivered, those of audit events django.db.Error too."""

    def __init__(self, node_name: str, folder: Path, sink: Sink) -> None:
        self._node = node_name
        self._folder = folder
        self._sink = sink
        self._places: dict[str, _Place] = {}
        self._damaged: set[tuple[str, int]] = set()
        self._positions = self._read_positions()
        self._write_positions()  # where the stream began is not to move with a restart before the first delivery

    def send_records(self) -> bool:
        """Send what is new of each journal, a batch each; whether there may be more."""
        more = False
        for chain in sorted(self._chains()):
            more |= self._send_some(chain)
        return more

    def send_events(self) -> bool:
        """Send audit events that nobody has sent; whether there may be more."""
        now = timezone.now()
        head = AuditChainHead.objects.filter(pk=1).values_list("position", flat=True).first() or 0
        row, made = StreamPosition.objects.get_or_create(pk=1, defaults={"position": head})
        if made or head <= row.position:
            if head < row.position:  # an older database was put back: its events have new numbers from here
                StreamPosition.objects.filter(pk=1, position=row.position).update(position=head)
            return False
        free = Q(holder=self._node) | Q(held_until=None) | Q(held_until__lt=now)
        taken = StreamPosition.objects.filter(free, pk=1).update(holder=self._node, held_until=now + HELD_FOR)
        if not taken:
            return False
        position = StreamPosition.objects.get(pk=1).position
        links = list(AuditLink.objects.filter(position__gt=position).order_by("position")[:BATCH])
        events = {
            event.sequence: event
            for event in AuditEvent.objects.filter(sequence__in=[link.sequence for link in links])
        }
        lines = [
            line_of_event(link.position, events[link.sequence]) for link in links if link.sequence in events
        ]
        if lines:
            self._sink.deliver(lines)
        if links:
            StreamPosition.objects.filter(pk=1, holder=self._node).update(position=links[-1].position)
        return len(links) == BATCH

    def _chains(self) -> list[str]:
        try:
            return [path.name for path in self._folder.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []

    def _send_some(self, chain: str) -> bool:
        numbers = segments_of(self._folder, chain)
        segment, entries = self._positions.get(chain, (0, 0))
        if not numbers or segment > numbers[-1]:
            return False
        lines: list[Line] = []
        if segment not in numbers:
            following = next(number for number in numbers if number > segment)
            values = {"node": self._node, "chain": chain, "from_segment": segment, "to_segment": following}
            now_us = int(time.time() * 1e6)
            lines.append(Line(f"{chain}:{segment}:gap", stamp(now_us), WARNING, "xks_gap", values))
            segment, entries = following, 0
        place = self._places.pop(chain, None)
        if place is None or (place.segment, place.entries) != (segment, entries):
            place = _Place(segment)
        more = self._read(chain, place, lines, skip=entries)
        if not more and segment != numbers[-1]:
            place, more = _Place(segment + 1), True
        position = (place.segment, place.entries)
        if lines:
            self._sink.deliver(lines)
        if position != self._positions.get(chain):
            self._positions[chain] = position
            self._write_positions()
        self._places[chain] = place
        return more

    def _read(self, chain: str, place: _Place, lines: list[Line], *, skip: int) -> bool:
        """Read up to a batch of lines; whether there may be more."""
        path = segment_path(self._folder, chain, place.segment)
        while len(lines) < BATCH:
            try:
                with open(path, "rb") as file:
                    file.seek(place.offset)
                    data = file.read(_CHUNK)
                last = len(data) < _CHUNK
            except FileNotFoundError:
                data, last = read_segment(self._folder, chain, place.segment)[place.offset :], True
            base, began = place.offset, place.entries
            try:
                for entry in form.read_entries(data, sequence=began):
                    if len(lines) >= BATCH:
                        return True
                    line = line_of_entry(self._node, chain, place.segment, place.reader, entry)
                    if line is not None and entry.sequence >= skip:
                        lines.append(line)
                    place.offset, place.entries = base + entry.end, entry.sequence + 1
            except (form.SegmentDamaged, ValueError, TypeError, IndexError) as damage:
                # Sealing tells and signs it; here what can be read was sent.
                if (chain, place.segment) not in self._damaged:
                    self._damaged.add((chain, place.segment))
                    log.error(
                        "a journal cannot be streamed to its end",
                        chain=chain,
                        segment=place.segment,
                        cause=str(damage),
                    )
                return False
            if last or place.entries == began:
                return False
        return True

    def _read_positions(self) -> dict[str, tuple[int, int]]:
        try:
            told = json.loads((self._folder / POSITIONS).read_bytes())
            return {chain: (int(place[0]), int(place[1])) for chain, place in told.items()}
        except FileNotFoundError:
            found = {}
            for chain in self._chains():
                numbers = segments_of(self._folder, chain)
                if numbers:
                    path = segment_path(self._folder, chain, numbers[-1])
                    fresh = path.exists() and path.stat().st_mtime > time.time() - FRESH_S
                    found[chain] = (numbers[-1] if fresh else numbers[-1] + 1, 0)
            return found
        except (ValueError, TypeError, IndexError, AttributeError):
            log.error(
                "the place of the stream for the SIEM is damaged; all journals that are here are sent again"
            )
            return {}

    def _write_positions(self) -> None:
        present = set(self._chains())
        kept = {chain: list(place) for chain, place in self._positions.items() if chain in present}
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self._folder / f"{POSITIONS}.tmp"
        with open(unfinished, "wb") as file:
            file.write(json.dumps(kept).encode())
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(self._folder / POSITIONS)


class StreamThread(threading.Thread):
    """Sends what is new about every second; while the receiver does not take it, tries more and more seldom."""

    def __init__(
        self, make: Callable[[], Stream], *, failed: Callable[[BaseException], None], beat_s: float
    ) -> None:
        super().__init__(name="siem", daemon=True)
        self._make = make
        self._failed = failed
        self._beat_s = beat_s
        self._stopping = threading.Event()
        self._alarmed_at: float | None = None
        self._failures = 0

    def stop(self) -> None:
        """End after the delivery under way."""
        self._stopping.set()

    def run(self) -> None:
        """See Thread."""
        try:
            use_own_connection(snapshots=False)
            stream: Stream | None = None
            pause = 0.0
            while not self._stopping.wait(pause):
                try:
                    stream = stream or self._make()
                    pause = self._turn(stream)
                except (OSError, NotDelivered) as error:
                    pause = self._alarm(
                        "the SIEM does not take the stream; it waits on this node's disk", error
                    )
        except BaseException as error:
            self._failed(error)
        finally:
            close_own_connection()

    def _turn(self, stream: Stream) -> float:
        more = stream.send_records()
        try:
            more |= stream.send_events()
        except (Error, psycopg.Error) as error:
            close_own_connection()
            return self._alarm("audit events cannot be read for the SIEM", error)
        if self._failures:
            log.info("the SIEM takes the stream again")
        self._failures, self._alarmed_at = 0, None
        return 0.0 if more else self._beat_s

    def _alarm(self, event: str, error: Exception) -> float:
        now = time.monotonic()
        if self._alarmed_at is None or now - self._alarmed_at >= REPEAT_ALARM_S:
            self._alarmed_at = now
            log.critical(
                event, alarm=True, cause=(str(error).strip().splitlines() or [type(error).__name__])[0]
            )
        pause = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        return pause
