"""Counts what workers have journalled into the hourly sums, each record exactly once.

The sums and the cursor of the segment are written in one transaction, so that a shipper
that dies at any moment goes on where the cursor says that it stopped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from django.db import transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from xks import journal_format as form
from xks.journal import Record
from xks.journal_recovery import segments_of
from xks.journal_writer import segment_path
from xks.models import JournalChain, JournalShipment, UsageHour

BATCH = 2000
"""Records of one transaction."""

_USAGE_FIELDS = (
    "hour",
    "store_id",
    "key_id",
    "operation",
    "principal_arn",
    "kms_via_service",
    "outcome",
)
_UsageKey = tuple[datetime, str, str, str, str, str, str]


@dataclass
class _Place:
    """How far a segment has been read, and the names that it has told."""

    segment: int
    offset: int = 0
    entries: int = 0
    reader: form.RecordReader = field(default_factory=form.RecordReader)


class Shipper:
    """Ships the journals of one node. Methods raise django.db.Error and OSError."""

    def __init__(self, folder: Path, *, batch: int = BATCH) -> None:
        self._folder = folder
        self._batch = batch
        self._places: dict[UUID, _Place] = {}

    def ship(self, chain: JournalChain, *, ended: bool = False, batches: int = 50) -> tuple[int, bool]:
        """Count what is there and not counted yet, so many batches at most.

        ``ended``: nobody writes the chain any more.  Returns the number of records, and whether more is left.

        Raises SegmentDamaged where a segment cannot be read; what comes before has been counted.
        """
        shipped = 0
        numbers = segments_of(self._folder, chain.id.hex)
        shipped_whole = JournalShipment.objects.filter(chain=chain, complete=True)
        done = set(shipped_whole.values_list("segment", flat=True))
        for number in numbers:
            if number in done:
                continue
            followed = number != numbers[-1] or ended
            while batches > 0:
                batches -= 1
                count, more = self._ship_some(chain, number, followed=followed)
                shipped += count
                if not more:
                    break
            else:
                return shipped, True
        return shipped, False

    def _ship_some(self, chain: JournalChain, number: int, *, followed: bool) -> tuple[int, bool]:
        place = self._places.pop(chain.id, None)
        with transaction.atomic():
            cursor, _ = JournalShipment.objects.select_for_update().get_or_create(chain=chain, segment=number)
            if place is None or place.segment != number or place.entries != cursor.entries:
                place = _Place(number)  # from the beginning: the names told there are needed
            skip = cursor.entries
            with open(segment_path(self._folder, chain.id.hex, number), "rb") as file:
                file.seek(place.offset)
                data = file.read()
            found: list[Record] = []
            more = False
            base = place.offset
            for entry in form.read_entries(data, sequence=place.entries):
                if len(found) >= self._batch:
                    more = True
                    break
                if entry.kind == form.NAME:
                    place.reader.learn(entry)
                elif entry.kind == form.RECORD and entry.sequence >= skip:
                    found.append(place.reader.record(entry))
                place.offset, place.entries = base + entry.end, entry.sequence + 1
            complete = followed and not more
            if place.entries > cursor.entries or complete != cursor.complete:
                _add(found)
                JournalShipment.objects.filter(pk=cursor.pk).update(entries=place.entries, complete=complete)
        if not complete:
            self._places[chain.id] = place
        return len(found), more


def _add(found: Iterable[Record]) -> None:
    sums: dict[_UsageKey, int] = defaultdict(int)
    last: dict[_UsageKey, datetime] = {}
    for record in found:
        at = datetime.fromtimestamp(record.at, UTC)
        key = (
            at.replace(minute=0, second=0, microsecond=0),
            record.store_id,
            record.key_id,
            record.operation,
            record.principal_arn,
            record.kms_via_service,
            record.outcome,
        )
        sums[key] += 1
        last[key] = max(last.get(key, at), at)
    for key in sorted(sums):  # in one order everywhere, so that two shippers never wait for each other
        _add_usage(dict(zip(_USAGE_FIELDS, key, strict=True)), sums[key], last[key])


def _add_usage(which: dict[str, object], count: int, last_at: datetime) -> None:
    rows = UsageHour.objects.filter(**which)
    added = {"count": F("count") + count, "last_at": Greatest(F("last_at"), Value(last_at))}
    if rows.update(**added):
        return
    _, made = UsageHour.objects.get_or_create(**which, defaults={"count": count, "last_at": last_at})
    if not made:
        rows.update(**added)
