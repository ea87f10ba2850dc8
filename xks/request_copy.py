"""Writing many records at once: COPY on PostgreSQL, one prepared INSERT on SQLite, sums added to what is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection

from xks.journal_format import NAMED_FIELDS
from xks.models import Traffic, UsageHour, XksRequest
from xks.request_rows import KEY, OPERATION, OUTCOME, PRINCIPAL, SERVICE, STORE, Row, Withheld, identifier
from xks.traffic_buckets import bucket_of

TABLE = XksRequest._meta.db_table
_NUMBERS = (
    "at", "chain_id", "segment", "entry", "generation", "version", "microseconds", "kms_request_id", "withheld",
    "vault_id",
)  # fmt: skip
COLUMNS = (*_NUMBERS, *NAMED_FIELDS)
_MINUTE_US = 60_000_000
_HOUR_US = 3_600_000_000
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_AT_ONCE = {"sqlite": 90, "postgresql": 1000}
"""Rows of one INSERT with sums; SQLite takes 999 values in its oldest builds."""
_USAGE = ("hour", "store_id", "key_id", "operation", "principal_arn", "kms_via_service", "outcome")
_TRAFFIC = ("span_s", "at", "store_id", "bucket")


def insert(
    chain: UUID,
    segment: int,
    rows: Sequence[Row],
    names: Sequence[str],
    vault_of: Callable[[str], UUID | None],
) -> None:
    """Insert records; ``names`` are those of their segment. Raises django.db.Error."""
    if not rows:
        return
    if connection.vendor == "postgresql":
        lines = "\n".join(_lines(chain, segment, rows, names, vault_of)) + "\n"
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY {TABLE} ({', '.join(COLUMNS)}) FROM STDIN") as copy,
        ):
            copy.write(lines)
        return
    marks = ", ".join(["%s"] * len(COLUMNS))
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES ({marks})",  # noqa: S608 - our own names
            list(_tuples(chain, segment, rows, names, vault_of)),
        )


def _lines(
    chain: UUID,
    segment: int,
    rows: Sequence[Row],
    names: Sequence[str],
    vault_of: Callable[[str], UUID | None],
) -> Iterator[str]:
    """Records in COPY's text format."""
    texts: dict[int, str] = {}
    tails: dict[tuple[int, ...], str] = {}
    seconds: dict[int, str] = {}
    head = f"\t{chain}\t{segment}\t"

    def text(number: int, place: int) -> str:
        if place in (STORE, KEY):
            found = identifier(names[number])
            return "\\N" if found is None else str(found)
        if number not in texts:
            texts[number] = names[number].translate(_ESCAPES)
        return texts[number]

    for row in rows:
        second, part = divmod(row.at, 1_000_000)
        day = seconds.get(second)
        if day is None:
            day = seconds[second] = _second(second)
        key = tuple(row.names)
        tail = tails.get(key)
        if tail is None:
            vault = vault_of(names[row.names[STORE]])
            columns = [text(number, place) for place, number in enumerate(row.names)]
            tail = tails[key] = "\tf\t" + "\t".join(["\\N" if vault is None else str(vault), *columns])
        yield (
            f"{day}.{part:06d}+00{head}{row.entry}\t{row.generation}\t{row.version}\t{row.microseconds}\t"
            f"{row.kms_request_id.translate(_ESCAPES)}{tail}"
        )


def _tuples(
    chain: UUID,
    segment: int,
    rows: Sequence[Row],
    names: Sequence[str],
    vault_of: Callable[[str], UUID | None],
) -> Iterator[tuple[Any, ...]]:
    """Records as Django writes them on SQLite."""
    tails: dict[tuple[int, ...], tuple[Any, ...]] = {}
    seconds: dict[int, str] = {}
    for row in rows:
        second, part = divmod(row.at, 1_000_000)
        day = seconds.get(second)
        if day is None:
            day = seconds[second] = _second(second)
        key = tuple(row.names)
        tail = tails.get(key)
        if tail is None:
            vault = vault_of(names[row.names[STORE]])
            columns: list[Any] = [names[number] for number in row.names]
            for place in (STORE, KEY):
                found = identifier(columns[place])
                columns[place] = None if found is None else found.hex
            tail = tails[key] = (None if vault is None else vault.hex, *columns)
        at = f"{day}.{part:06d}" if part else day
        numbers = (row.generation, row.version, row.microseconds, row.kms_request_id, False)
        yield (at, chain.hex, segment, row.entry, *numbers, *tail)


def _second(second: int) -> str:
    try:
        return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "9999-12-30 00:00:00"


def mark_withheld(chain: UUID, segment: int, spans: Iterable[Withheld]) -> None:
    """Say of records that their results did not leave."""
    for span in spans:
        XksRequest.objects.filter(
            chain_id=chain, segment=segment, entry__gte=span.first, entry__lte=span.last
        ).update(withheld=True)


def add_sums(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Add records to the hourly sums."""
    sums: dict[tuple[int, ...], int] = {}
    last: dict[tuple[int, ...], int] = {}
    for _, at, _, _, _, _, n in rows:
        key = (at // _HOUR_US, n[STORE], n[KEY], n[OPERATION], n[PRINCIPAL], n[SERVICE], n[OUTCOME])
        sums[key] = sums.get(key, 0) + 1
        if last.get(key, -1) < at:
            last[key] = at
    hours: dict[int, Any] = {}
    told: dict[tuple[Any, ...], tuple[int, int]] = {}
    for (hour, *numbers), count in sums.items():
        if hour not in hours:
            hours[hour] = _moment(hour * 3600)
        found = (hours[hour], *(names[number] for number in numbers))
        before = told.get(found, (0, 0))  # what is shortened alike has two numbers and one text
        told[found] = (before[0] + count, max(before[1], last[(hour, *numbers)]))
    latest = "MAX" if connection.vendor == "sqlite" else "GREATEST"
    table = UsageHour._meta.db_table
    _upsert(
        table,
        (*_USAGE, "count", "last_at"),
        _USAGE,
        f"count = {table}.count + excluded.count, last_at = {latest}({table}.last_at, excluded.last_at)",
        # In one order everywhere, so that two shippers never wait for each other.
        [(*key, told[key][0], _moment(*divmod(told[key][1], 1_000_000))) for key in sorted(told)],
    )


def add_traffic(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Add records to the counts of delays, by minute and hour."""
    minutes: dict[tuple[int, int, int, int], int] = {}
    for _, at, _, _, microseconds, _, n in rows:
        key = (at // _MINUTE_US, n[STORE], bucket_of(microseconds), n[OUTCOME])
        minutes[key] = minutes.get(key, 0) + 1
    sums: dict[tuple[int, int, int, int], list[int]] = defaultdict(lambda: [0, 0])
    for (minute, store, bucket, outcome), count in minutes.items():
        failed = count if names[outcome] != "OK" else 0
        for span, at in ((60, minute * 60), (3600, minute // 60 * 3600)):
            sum_ = sums[(span, at, store, bucket)]
            sum_[0] += count
            sum_[1] += failed
    found = []
    for (span, at, number, bucket), (requests, errors) in sums.items():
        store_id = identifier(names[number])
        if store_id is not None:
            value = store_id if connection.vendor == "postgresql" else store_id.hex
            found.append((span, _moment(at), value, bucket, requests, errors))
    table = Traffic._meta.db_table
    _upsert(
        table,
        (*_TRAFFIC, "requests", "errors"),
        _TRAFFIC,
        f"requests = {table}.requests + excluded.requests, errors = {table}.errors + excluded.errors",
        sorted(found, key=lambda one: (one[0], one[1], str(one[2]), one[3])),
    )


def _upsert(
    table: str, columns: Sequence[str], unique: Sequence[str], change: str, rows: Sequence[tuple[Any, ...]]
) -> None:
    marks = f"({', '.join(['%s'] * len(columns))})"
    at_once = _AT_ONCE[connection.vendor]
    with connection.cursor() as cursor:
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([marks] * len(part))}"  # noqa: S608 - our own names
                f" ON CONFLICT ({', '.join(unique)}) DO UPDATE SET {change}",
                [value for row in part for value in row],
            )


def _moment(second: int, part: int = 0) -> Any:
    """A time as the database's driver takes it: on SQLite the text that Django writes."""
    if connection.vendor == "sqlite":
        return f"{_second(second)}.{part:06d}" if part else _second(second)
    try:
        return datetime.fromtimestamp(second, UTC).replace(microsecond=part)
    except (ValueError, OverflowError, OSError):
        return datetime(9999, 12, 30, tzinfo=UTC)
