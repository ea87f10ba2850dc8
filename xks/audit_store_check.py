"""The audit store against what is signed: single records of the database, and the hourly sums over them.

Seals carry digests of blocks of records, so nothing but the database and the public key is needed; where the journal
itself is at hand, the first bad record is named, else the block that it lies in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, Sum

from cloudkeys.models import XksKeyStore
from vault.models import Node
from xks.journal_format import NAMED_FIELDS, SegmentDamaged
from xks.models import JournalChain, JournalShipment, UsageHour, XksRequest
from xks.request_partitions import kept_from
from xks.request_rows import KEY, STORE, Block, Row, canonical, rows_of

NODE_LOST_AFTER = timedelta(hours=1)
"""A node not seen for longer may have taken records with it."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PORTION = 2000
_TRIES = 5
_SUMMED = ("store_id", "key_id", "operation", "principal_arn", "kms_via_service", "outcome")

ReadSegment = Callable[[str, str, int], bytes | None]
"""Returns a segment's bytes by node, chain and number; None where it is not at hand."""
Stored = tuple[Row, list[str], bool]


@dataclass
class StoreReport:
    """What was found in the store."""

    findings: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    vaults: dict[UUID, UUID] = field(default_factory=dict)


def check_store(
    chains: dict[str, tuple[str, list[dict[str, Any]], int | None]],
    signed_kept_from: datetime | None,
    read: ReadSegment,
    *,
    wanted: Callable[[datetime], bool] = lambda _: True,
) -> StoreReport:
    """Check the database's records.

    Args:
        chains: what the seals say: chain -> node, statements about its segments, number of segments when it has ended.
        signed_kept_from: before which records were dropped, as the last seal about it says.
        read: gives a journal that is at hand.
        wanted: of which segments and hours (by their beginning) the content is looked at; what is there at all is always.
    """
    report = StoreReport(vaults=dict(XksKeyStore.objects.values_list("pk", "vault_id")))
    kept = kept_from()
    if kept > (signed_kept_from or _EPOCH):
        report.findings.append(
            f"audit store: records before {kept:%Y-%m-%d} are said to be dropped, and no seal says so"
        )
        kept = signed_kept_from or _EPOCH
    for name, (node, statements, ended_after) in chains.items():
        shipments = {row.segment: row for row in JournalShipment.objects.filter(chain_id=UUID(name))}
        for statement in statements:
            if wanted(_moment(statement["opened_at"])):
                _check_segment(name, node, statement, shipments, kept, read, report)
        if ended_after is not None and (
            extra := XksRequest.objects.filter(chain_id=UUID(name), segment__gte=ended_after).first()
        ):
            report.findings.append(
                f"audit store: {_named(name, extra.segment, extra.entry)} was put in: its journal ended before"
            )
    _look_for_strangers(chains, report)
    _look_for_gaps(report)
    _check_sums(kept, wanted, report)
    return report


def _named(chain: str, segment: int, entry: int) -> str:
    return f"journal {chain} segment {segment}: the record of entry {entry}"


def _check_segment(
    name: str,
    node: str,
    statement: dict[str, Any],
    shipments: dict[int, JournalShipment],
    kept: datetime,
    read: ReadSegment,
    report: StoreReport,
) -> None:
    number = statement["segment"]
    where = f"journal {node}/{name} segment {number}"
    if "rows" not in statement:
        report.notes.append(
            f"{where}: sealed without digests of its records, by an older release or a damage"
        )
        return
    shipment = shipments.get(number)
    blocks = [Block(*block) for block in statement["rows"]]
    if shipment is None or not shipment.complete:
        if blocks:
            done = 0 if shipment is None else shipment.entries
            report.gaps.append(
                f"{where}: not in the database yet, {done} of {statement['entries']} entries are"
            )
        return
    if shipment.damaged and statement["end"] not in ("damaged", "missing"):
        report.findings.append(
            f"{where}: the database got {shipment.entries} of {statement['entries']} entries"
            " before the journal was lost or changed"
        )
        return
    oldest = _microseconds(kept)
    moved: list[int] = []
    stored = _stored(name, number, report.vaults, moved)
    report.records += _compare(where, name, node, number, blocks, stored, shipment, oldest, read, report)
    if moved:
        report.findings.append(
            f"audit store: {where}: the record of entry {moved[0]} was moved to another vault, where its owner does not see it"
        )


def _compare(
    where: str,
    name: str,
    node: str,
    number: int,
    blocks: list[Block],
    stored: Iterator[Stored],
    shipment: JournalShipment,
    oldest: int,
    read: ReadSegment,
    report: StoreReport,
) -> int:
    """Compare the records of one segment block by block; return how many there are. The first difference is told."""
    count = 0
    waiting = next(stored, None)
    for block in blocks:
        digest = hashlib.sha256()
        found: list[Stored] = []
        while waiting is not None and waiting[0].entry <= block.last:
            found.append(waiting)
            digest.update(canonical(*waiting))
            waiting = next(stored, None)
        count += len(found)
        if digest.hexdigest()[:32] == block.digest:
            continue
        if (block.newest < oldest or block.last < shipment.stored_from) and not found:
            continue  # dropped, or never stored
        whole = block.oldest >= oldest and block.first >= shipment.stored_from
        data = read(node, name, number)
        if data is None:
            if whole:
                report.findings.append(
                    f"audit store: {where}: a record between entries {block.first} and {block.last}"
                    " was edited, removed or put in"
                )
                return count
            report.notes.append(
                f"{where}: entries {block.first} to {block.last} are partly dropped;"
                " the rest can be checked where the journal is"
            )
            continue
        if (difference := _first_difference(data, block, found, oldest, shipment.stored_from)) is not None:
            report.findings.append(f"audit store: {where}: {difference}")
            return count
    if waiting is not None:
        report.findings.append(f"audit store: {_named(name, number, waiting[0].entry)} was put in")
    return count


def _first_difference(
    data: bytes, block: Block, found: list[Stored], oldest: int, stored_from: int
) -> str | None:
    by_entry = {one[0].entry: one for one in found}
    if len(by_entry) != len(found):
        return f"an entry between {block.first} and {block.last} is there twice"
    try:
        for one in rows_of(data, entries=block.last + 1):
            row = one[0]
            if row.entry < block.first or row.entry < stored_from:
                continue
            there = by_entry.pop(row.entry, None)
            called = f"the record of entry {row.entry} (kmsRequestId {row.kms_request_id!r})"
            if there is None and row.at >= oldest:
                return f"{called} was removed from the database"
            if there is not None and canonical(*there) != canonical(*one):
                return f"{called} was edited in the database: {_changed(there, one)}"
    except SegmentDamaged as damage:
        return f"differs from what was sealed, and so does the journal: {damage}"
    if by_entry:
        return f"the record of entry {min(by_entry)} was put into the database"
    return None


def _changed(there: Stored, written: Stored) -> str:
    names = ["entry", "at", "generation", "version", "microseconds", "kms_request_id"]
    changed = [name for name, a, b in zip(names, there[0], written[0], strict=False) if a != b]
    changed += [name for name, a, b in zip(NAMED_FIELDS, there[1], written[1], strict=True) if a != b]
    return ", ".join([*changed, *(["withheld"] if there[2] != written[2] else [])])


def _stored(name: str, number: int, vaults: dict[UUID, UUID], moved: list[int]) -> Iterator[Stored]:
    """Yield what the database holds of a segment; entries that are shown to the wrong vault go into ``moved``."""
    rows = XksRequest.objects.filter(chain_id=UUID(name), segment=number).order_by("entry")
    columns = (
        "vault_id",
        "entry",
        "at",
        "generation",
        "version",
        "microseconds",
        "kms_request_id",
        "withheld",
    )
    for vault, entry, at, generation, version, microseconds, request_id, withheld, *texts in rows.values_list(
        *columns, *NAMED_FIELDS
    ).iterator(_PORTION):
        if vault is not None and vaults.get(texts[STORE], vault) != vault:
            moved.append(entry)
        for place in (STORE, KEY):
            texts[place] = "" if texts[place] is None else str(texts[place])
        row = Row(entry, _microseconds(at), generation, version, microseconds, request_id, [])
        yield row, texts, withheld


def _look_for_strangers(chains: dict[str, Any], report: StoreReport) -> None:
    """Records of journals that no seal knows. A step for each journal, not for each record."""
    last: UUID | None = None
    while True:
        rows = XksRequest.objects.all() if last is None else XksRequest.objects.filter(chain_id__gt=last)
        last = rows.order_by("chain_id").values_list("chain_id", flat=True).first()
        if last is None:
            return
        if last.hex not in chains:
            report.findings.append(f"audit store: journal {last.hex}: no seal says that it began")


def _look_for_gaps(report: StoreReport) -> None:
    seen = Node.objects.filter(last_seen_at__gte=datetime.now(UTC) - NODE_LOST_AFTER).values("name")
    for chain in JournalChain.objects.filter(shipped=False).exclude(node_name__in=seen):
        shipped = JournalShipment.objects.filter(chain=chain, segment=chain.anchor_segment or 0).first()
        done = 0 if shipped is None else shipped.entries
        anchored = 0 if chain.anchor_sequence is None else chain.anchor_sequence + 1
        report.gaps.append(
            f"journal {chain.node_name}/{chain.id.hex}: its node has not been seen for an hour or more; of segment"
            f" {chain.anchor_segment or 0} {done} of at least {anchored} entries are in the database"
        )


def _check_sums(kept: datetime, wanted: Callable[[datetime], bool], report: StoreReport) -> None:
    """Each hour's sums against its records; both are written in one transaction."""
    older = JournalShipment.objects.filter(stored_from__gt=0).exists()
    hours = (
        UsageHour.objects.filter(hour__gte=kept).order_by("hour").values_list("hour", flat=True).distinct()
    )
    for hour in hours:
        if not wanted(hour):
            continue
        for _ in range(_TRIES):
            before, stored, after = _sums(hour), _counts(hour), _sums(hour)
            if before == after:
                break
        else:
            report.notes.append(f"sums of {hour:%Y-%m-%d %H:00}: being written, not compared")
            continue
        different = sorted(key for key in before.keys() | stored.keys() if before.get(key) != stored.get(key))
        if not different:
            continue
        told, there = before.get(different[0], 0), stored.get(different[0], 0)
        line = (
            f"sums of {hour:%Y-%m-%d %H:00}: {told} requests where {there} records are,"
            f" {', '.join(part for part in different[0] if part)}"
        )
        if older and told > there:
            report.notes.append(f"{line} (an older release kept no single records)")
        else:
            report.findings.append(f"audit store: {line}")


def _sums(hour: datetime) -> dict[tuple[str, ...], int]:
    rows = UsageHour.objects.filter(hour=hour).values(*_SUMMED).annotate(sum=Sum("count"))
    return {tuple(row[name] for name in _SUMMED): row["sum"] for row in rows}


def _counts(hour: datetime) -> dict[tuple[str, ...], int]:
    rows = XksRequest.objects.filter(at__gte=hour, at__lt=hour + timedelta(hours=1))
    found = rows.order_by().values(*_SUMMED).annotate(sum=Count("entry"))
    return {tuple(_text(row[name]) for name in _SUMMED): row["sum"] for row in found}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
