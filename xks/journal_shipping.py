"""Ships what workers have journalled into the database, each record exactly once.

Single records, hourly sums, counts of delays and the cursor of the segment are written in one transaction, so that a
shipper that dies at any moment goes on where the cursor says that it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import structlog
from django.db import transaction

from cloudkeys.models import XksKeyStore
from xks import journal_format as form
from xks import request_copy as copy
from xks.journal_recovery import segments_of
from xks.journal_writer import read_segment, segment_path
from xks.models import JournalChain, JournalShipment
from xks.request_partitions import day_of, ensure_partitions, kept_from
from xks.request_rows import Row, RowReader, Withheld

log = structlog.get_logger("keystead.agent")

BATCH = 1000
"""Records of one transaction: on SQLite nobody else writes meanwhile, and a confirmation must not wait long for its turn."""
_BREATH = 200
"""Records that are read without asking whether somebody is in a hurry; 4 ms of the interpreter."""
_CHUNK = 1024 * 1024
"""Bytes of a segment that are read at once."""
_VAULTS_FOR_S = 300.0


@dataclass
class _Place:
    """How far a segment has been read, and the names that it has told."""

    segment: int
    offset: int = 0
    entries: int = 0
    reader: RowReader = field(default_factory=RowReader)


@dataclass
class _Found:
    """What one transaction writes."""

    rows: list[Row] = field(default_factory=list)
    withheld: list[Withheld] = field(default_factory=list)
    more: bool = False
    damage: form.SegmentDamaged | None = None


class Shipper:
    """Ships the journals of one node. Methods raise django.db.Error and OSError."""

    def __init__(
        self, folder: Path, *, batch: int = BATCH, give_way: Callable[[], None] = lambda: None
    ) -> None:
        """``give_way`` is called between pieces of work, outside of transactions, and may wait."""
        self._folder = folder
        self._give_way = give_way
        self._batch = batch
        self._places: dict[UUID, _Place] = {}
        self._vaults: dict[str, UUID | None] = {}
        self._vaults_until = 0.0

    def ship(self, chain: JournalChain, *, batches: int = 50) -> tuple[int, bool]:
        """Ship what is there and not shipped yet, so many batches at most.

        ``chain`` as it was read before this call: what it says is sealed grows no more.

        Returns:
            The number of records, and whether more is left.

        Raises:
            SegmentDamaged: a segment that may still grow cannot be read; what comes before has been shipped.
        """
        shipped = 0
        numbers = segments_of(self._folder, chain.id.hex)
        done = set(
            JournalShipment.objects.filter(chain=chain, complete=True).values_list("segment", flat=True)
        )
        last = numbers[-1] if numbers else -1
        for number in sorted({*numbers, *range(chain.sealed_segments)} - done):
            finished = number < max(last, chain.sealed_segments) or chain.ended_at is not None
            while batches > 0:
                batches -= 1
                count, more = self._ship_some(chain, number, finished=finished)
                shipped += count
                if not more:
                    break
            else:
                return shipped, True
        if chain.ended_at is not None:
            JournalChain.objects.filter(pk=chain.pk).update(shipped=True)
            self._places.pop(chain.id, None)
        return shipped, False

    def _ship_some(self, chain: JournalChain, number: int, *, finished: bool) -> tuple[int, bool]:
        self._give_way()
        cursor, _ = JournalShipment.objects.get_or_create(chain=chain, segment=number)
        place = self._places.pop(chain.id, None)
        if place is None or place.segment != number or place.entries != cursor.entries:
            place = _Place(number)  # from the beginning: the names told there are needed
        before = cursor.entries
        found = self._read(chain.id.hex, place, skip=before, finished=finished)
        if found.damage is not None:
            if not finished:
                raise found.damage  # sealing looks closer, says so and signs it; until then it may be being written
            log.error(
                "a journal cannot be shipped to its end",
                chain=chain.id.hex,
                segment=number,
                cause=str(found.damage),
            )
        complete = finished and not found.more
        if place.entries > before or complete:
            self._make_room(found)
            self._give_way()
            with transaction.atomic():
                self._write(chain, number, place, found, before=before, complete=complete)
        if not complete:
            self._places[chain.id] = place
        return len(found.rows), found.more

    def _write(
        self,
        chain: JournalChain,
        number: int,
        place: _Place,
        found: _Found,
        *,
        before: int,
        complete: bool,
    ) -> None:
        changes: dict[str, object] = {"entries": max(place.entries, before), "complete": complete}
        if found.rows:
            changes["last_at"] = moment(max(row.at for row in found.rows))
        if found.damage is not None:
            changes["damaged"] = True
        # First, so that two shippers of one journal (an agent thought dead) never both write.
        moved = JournalShipment.objects.filter(
            chain=chain, segment=number, entries=before, complete=False
        ).update(**changes)
        if moved != 1:
            raise ShippedElsewhere(f"{chain.id.hex} segment {number}")
        names = place.reader.names
        kept = kept_from()
        oldest = int(kept.timestamp()) * 1_000_000
        rows = [row for row in found.rows if row.at >= oldest]
        copy.insert(chain.id, number, rows, names, self._vault_of)
        if found.withheld:
            copy.mark_withheld(chain.id, number, found.withheld)
        copy.add_sums(found.rows, names)
        copy.add_traffic(found.rows, names)

    def _read(self, chain: str, place: _Place, *, skip: int, finished: bool) -> _Found:
        """Read one batch; ``place`` moves on with what was taken."""
        found = _Found()
        path = segment_path(self._folder, chain, place.segment)
        try:
            with open(path, "rb") as file:
                while not found.more:
                    file.seek(place.offset)
                    data = file.read(_CHUNK)
                    if not self._take(data, place, found, skip=skip) or len(data) < _CHUNK:
                        break
        except FileNotFoundError:
            try:
                data = read_segment(self._folder, chain, place.segment)[place.offset :]
                self._take(data, place, found, skip=skip)
            except FileNotFoundError:
                found.damage = form.SegmentDamaged(place.entries, place.offset, "there is no such file")
        return found

    def _take(self, data: bytes, place: _Place, found: _Found, *, skip: int) -> bool:
        """Take what is whole in ``data``; whether there was anything."""
        base, began = place.offset, place.entries
        try:
            for entry in form.read_entries(data, sequence=began):
                if len(found.rows) >= self._batch:
                    found.more = True
                    break
                told = place.reader.read(entry)
                if told is not None and entry.sequence >= skip:
                    if isinstance(told, Row):
                        found.rows.append(told)
                    else:
                        found.withheld.append(told)
                place.offset, place.entries = base + entry.end, entry.sequence + 1
                if not place.entries % _BREATH:
                    self._give_way()
        except form.SegmentDamaged as damage:
            found.damage = damage
            return False
        return place.entries > began

    def _make_room(self, found: _Found) -> None:
        kept = day_of(kept_from())
        days = {moment(at).date() for at in {row.at // 3_600_000_000 * 3_600_000_000 for row in found.rows}}
        ensure_partitions(day for day in days if day >= kept)

    def _vault_of(self, store_id: str) -> UUID | None:
        if time.monotonic() > self._vaults_until:
            self._vaults.clear()
            self._vaults_until = time.monotonic() + _VAULTS_FOR_S
        if store_id not in self._vaults:
            try:
                store = UUID(store_id)
            except ValueError:
                return None
            self._vaults[store_id] = (
                XksKeyStore.objects.filter(pk=store).values_list("vault_id", flat=True).first()
            )
        return self._vaults[store_id]


class ShippedElsewhere(Exception):
    """Another shipper has moved the cursor: nothing was written, and the next look begins at its place."""


def moment(microseconds: int) -> datetime:
    """Return a time of a record. One that no calendar holds becomes its end: a clock may be that wrong."""
    try:
        whole, part = divmod(microseconds, 1_000_000)
        return datetime.fromtimestamp(whole, UTC).replace(microsecond=part)
    except (ValueError, OverflowError, OSError):
        return datetime(9999, 12, 30, tzinfo=UTC)


def unshipped(node_name: str) -> list[JournalChain]:
    """Return the journals of a node of which the database may not have everything."""
    return list(JournalChain.objects.filter(node_name=node_name, shipped=False).order_by("started_at"))
