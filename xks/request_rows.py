"""Records of a journal as rows of the audit store, and digests of them that seals carry.

Works on the numbers of names as the segment has them, so that each text is looked at once a segment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from xks import journal_format as form

BLOCK: Final = 4096
"""Records under one digest: a difference is found within so many, even where the journal itself is not at hand."""
_LARGE: Final = 2**62
"""No database holds more."""
_encode = msgspec.msgpack.Encoder().encode

OPERATION, OUTCOME, STORE, _, _, _, KEY, PRINCIPAL, _, _, SERVICE, _, _ = range(len(form.NAMED_FIELDS))
"""Places of names in a record."""


class Row(NamedTuple):
    """One record: the numbers that it holds, its names still as numbers. ``at`` in microseconds since the epoch."""

    entry: int
    at: int
    generation: int
    version: int
    microseconds: int
    kms_request_id: str
    names: list[int]


class Withheld(NamedTuple):
    """Results of the records among these entries did not leave."""

    first: int
    last: int


class RowReader:
    """Reads the entries of one segment, in order; ``names`` are the texts told so far."""

    def __init__(self) -> None:
        self.names: list[str] = [""]

    def read(self, entry: form.Entry) -> Row | Withheld | None:
        """Return what an entry says of requests; None for one that says nothing.

        Raises:
            SegmentDamaged: it is not what it should be.
        """
        if entry.kind == form.RECORD:
            try:
                at, generation, version, microseconds, request_id, *names = entry.values
                if len(names) != len(form.NAMED_FIELDS) or not 0 <= min(names) <= max(names) < len(
                    self.names
                ):
                    raise ValueError
                if not (0 <= at < _LARGE and 0 <= generation < _LARGE and 0 <= version < 2**31):
                    raise ValueError
                if not 0 <= microseconds < _LARGE:
                    raise ValueError
                request_id = plain(request_id)[: form.MAX_REQUEST_ID_BYTES]
                return Row(entry.sequence, at, generation, version, microseconds, request_id, names)
            except (ValueError, TypeError, AttributeError):
                raise form.SegmentDamaged(
                    entry.sequence, entry.offset, "not a record that can be read"
                ) from None
        if entry.kind == form.NAME:
            try:
                first, told = entry.values
                if first != len(self.names):
                    raise ValueError
                self.names.extend(plain(text)[: form.MAX_NAME_BYTES] for text in told)
            except (ValueError, TypeError, AttributeError):
                raise form.SegmentDamaged(entry.sequence, entry.offset, "names out of order") from None
        elif entry.kind == form.WITHHELD:
            return Withheld(int(entry.values[1]), int(entry.values[2]))
        return None


def plain(text: str) -> str:
    """Return a text as every database can hold it: PostgreSQL knows no U+0000, which a caller may well send."""
    return text.replace("\x00", "\ufffd")


@lru_cache(maxsize=8192)
def identifier(text: str) -> UUID | None:
    """Return the UUID that a name is; None for any other. Stores and keys come again and again: it is kept."""
    try:
        return UUID(text)
    except ValueError:
        return None


def rows_of(data: bytes, *, entries: int | None = None) -> Iterator[tuple[Row, list[str], bool]]:
    """Yield the records of a segment, among its first ``entries``: row, texts of its names, whether it was withheld.

    Raises:
        SegmentDamaged: an entry is not what it should be.
    """
    reader = RowReader()
    found: list[Row] = []
    withheld: list[Withheld] = []
    for entry in form.read_entries(data):
        if entries is not None and entry.sequence >= entries:
            break
        match reader.read(entry):
            case Row() as row:
                found.append(row)
            case Withheld() as span:
                withheld.append(span)
    names = reader.names
    for row in found:
        kept_back = any(span.first <= row.entry <= span.last for span in withheld)
        yield row, [names[number] for number in row.names], kept_back


def canonical(row: Row, texts: list[str], withheld: bool) -> bytes:
    """Return a record as the bytes under its digest: the same from a journal and from the database."""
    shown = list(texts)
    for place in (STORE, KEY):
        found = identifier(texts[place])
        shown[place] = "" if found is None else found.hex
    return _encode(
        (
            row.entry,
            row.at,
            row.generation,
            row.version,
            row.microseconds,
            row.kms_request_id,
            shown,
            withheld,
        )
    )


class Block(NamedTuple):
    """Some records of a segment: first and last entry, oldest and newest time (microseconds), digest.

    The digest is the first 128 bits of SHA-256 over their canonical bytes, hex.
    """

    first: int
    last: int
    oldest: int
    newest: int
    digest: str


def blocks_of(rows: Iterable[tuple[Row, list[str], bool]]) -> Iterator[Block]:
    """Yield the blocks of a segment's records."""
    digest, count = hashlib.sha256(), 0
    first = last = oldest = newest = 0
    for row, texts, withheld in rows:
        if count == 0:
            digest, first, oldest, newest = hashlib.sha256(), row.entry, row.at, row.at
        digest.update(canonical(row, texts, withheld))
        last, oldest, newest = row.entry, min(oldest, row.at), max(newest, row.at)
        count += 1
        if count == BLOCK:
            yield Block(first, last, oldest, newest, digest.hexdigest()[:32])
            count = 0
    if count:
        yield Block(first, last, oldest, newest, digest.hexdigest()[:32])
