"""The journal on disk: frames, the chain of MACs over them, the key that ratchets (docs/journal.md).

A segment is a file of frames, each one thing that happened::

    length of body, 2 bytes big-endian | body: kind, 1 byte, then msgpack | MAC, 16 bytes

The MAC is keyed BLAKE2b-128 (RFC 7693) over the MAC before, the length and the body; before the first
frame of a segment stands the last MAC of the segment before (16 zero bytes where there is none).  So
nothing can be edited, removed, put in or put elsewhere without its key, and each segment has its own:

    state(0) = 32 random bytes, made by the control plane for one worker process
    MAC key of segment n = BLAKE2b-256(key=state(n), "keystead journal mac key")
    state(n + 1)         = BLAKE2b-256(key=state(n), "keystead journal next state")

A worker forgets state(n) when it opens segment n + 1, so whoever takes the worker over cannot rewrite
what it had closed.  Once the end of a segment is signed its MAC key is told to everybody: it says
nothing of the states, and lets anybody with the public key find the first bad record.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from xks.journal import Record

FORMAT: Final = 1
MAC_BYTES: Final = 16
STATE_BYTES: Final = 32
NO_MAC: Final = bytes(MAC_BYTES)
MAX_NAME_BYTES: Final = 200
"""Longer names (ARNs may have 2,048 characters) are shortened by :func:`shorten`."""
MAX_REQUEST_ID_BYTES: Final = 64
MAX_NAMES: Final = 65_535
"""Names of one segment; they are told apart by 16 bits."""
MAX_NAME_CHARACTERS: Final = 8 * 1024 * 1024
"""Of all names of one segment together, as they came: what a worker holds in memory of them."""
MAX_BODY_BYTES: Final = 65_535

HEADER: Final = 1
NAME: Final = 2
RECORD: Final = 3
COUNTS: Final = 4
WITHHELD: Final = 5
NOTE: Final = 6
END: Final = 7

KINDS: Final = {
    HEADER: "header",
    NAME: "name",
    RECORD: "record",
    COUNTS: "counts",
    WITHHELD: "withheld",
    NOTE: "note",
    END: "end",
}

# Fields of a Record that are written as numbers of names, in their order in the frame.
NAMED_FIELDS: Final = (
    "operation",
    "outcome",
    "store_id",
    "access_key_id",
    "region",
    "external_key_id",
    "key_id",
    "principal_arn",
    "kms_key_arn",
    "kms_operation",
    "kms_via_service",
    "source_vpc",
    "source_vpce",
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_MARK = "~"
_DIGEST_CHARACTERS = 22  # 128 bits of SHA-256 in base64url


class SegmentDamaged(Exception):
    """A segment does not hold what was written: tells the first bad entry.

    ``sequence`` counts the segment's entries from 0, ``offset`` is in bytes.
    """

    def __init__(self, sequence: int, offset: int, reason: str) -> None:
        super().__init__(f"entry {sequence} at byte {offset}: {reason}")
        self.sequence = sequence
        self.offset = offset
        self.reason = reason


def shorten(text: str, most: int = MAX_NAME_BYTES) -> str:
    """Return ``text``, or when its UTF-8 is longer than ``most`` bytes its beginning, "~" and a digest.

    The digest is the first 128 bits of the SHA-256 of the whole in base64url, so two long names stay
    apart and a claimed original can be compared with what was written.
    """
    raw = text.encode()
    if len(raw) <= most:
        return text
    digest = urlsafe_b64encode(hashlib.sha256(raw).digest()[:16]).decode()[:_DIGEST_CHARACTERS]
    return raw[: most - len(_MARK) - _DIGEST_CHARACTERS].decode(errors="ignore") + _MARK + digest


def is_shortened(text: str, most: int = MAX_NAME_BYTES) -> bool:
    """Say whether a text looks like one that :func:`shorten` has cut."""
    if len(text) <= _DIGEST_CHARACTERS or text[-_DIGEST_CHARACTERS - 1] != _MARK:
        return False
    return most - 3 <= len(text.encode()) <= most  # a cut within a character leaves up to three bytes


# --- keys ---------------------------------------------------------------------------------------------


def mac_key_of(state: bytes | bytearray) -> bytes:
    """Return the MAC key of the segment whose state this is (32 bytes)."""
    return hashlib.blake2b(b"keystead journal mac key", key=state, digest_size=32).digest()


def next_state(state: bytes | bytearray) -> bytes:
    """Return the state of the segment after; there is no way back."""
    return hashlib.blake2b(b"keystead journal next state", key=state, digest_size=STATE_BYTES).digest()


def state_after(state: bytes, segments: int) -> bytes:
    """Return the state that is ``segments`` segments on."""
    for _ in range(segments):
        state = next_state(state)
    return state


def keyed_mac(mac_key: bytes) -> Any:
    """Return the hash of :func:`chain_mac` with its key taken in, to be copied for each frame."""
    return hashlib.blake2b(key=mac_key, digest_size=MAC_BYTES)


def chain_mac(mac_key: bytes, before: bytes, frame: bytes) -> bytes:
    """Return the MAC of a frame (its length and body) that comes after ``before``."""
    return hashlib.blake2b(before + frame, key=mac_key, digest_size=MAC_BYTES).digest()


# --- writing ------------------------------------------------------------------------------------------


class Header(NamedTuple):
    """The first entry of a segment. ``opened_at`` in microseconds since the epoch."""

    format: int
    node: str
    chain: str
    segment: int
    opened_at: int
    before: bytes
    boot_id: str
    software_version: str


def pack(kind: int, values: object) -> bytes:
    """Return the frame of one entry, without its MAC.

    Raises:
        ValueError: it is too long.
    """
    body = _encode(values)
    length = len(body) + 1
    if length > MAX_BODY_BYTES:
        raise ValueError(f"an entry of {length} bytes is over the limit of {MAX_BODY_BYTES}")
    return bytes((length >> 8, length & 255, kind)) + body


class Names:
    """The names of one segment: a text is written once, its number from then on."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {"": 0}
        self._next = 1
        self._characters = 0

    @property
    def full(self) -> bool:
        """Whether the next record must go to a new segment."""
        return self._next + len(NAMED_FIELDS) > MAX_NAMES or self._characters > MAX_NAME_CHARACTERS

    def add(self, texts: tuple[str, ...]) -> tuple[dict[str, int], bytes]:
        """Number those of ``texts`` that are new; return their numbers and the frame that tells them.

        Nothing is kept before :meth:`keep` is called with the numbers: the frame may not get written.
        """
        fresh: dict[str, int] = {}
        told: list[str] = []
        for text in texts:
            if text not in self.numbers and text not in fresh:
                fresh[text] = self._next + len(told)
                told.append(shorten(text))
        return fresh, pack(NAME, [self._next, told])

    def keep(self, fresh: dict[str, int]) -> None:
        """Take over what :meth:`add` numbered: its frame is written."""
        self.numbers.update(fresh)
        self._next += len(fresh)
        self._characters += sum(map(len, fresh))


named_texts: Final = attrgetter(*NAMED_FIELDS)
"""Return the texts of a Record that are written as numbers, in the order of NAMED_FIELDS."""

# A record is never longer (each number five bytes, the request id MAX_REQUEST_ID_BYTES).
_RECORD_HEADS = [bytes((length >> 8, length & 255, RECORD)) for length in range(400)]


def pack_record(record: Record, numbers: Iterable[int]) -> bytes:
    """Return the frame of a record, its texts numbered in the order of NAMED_FIELDS."""
    request_id = record.kms_request_id
    if len(request_id) > MAX_REQUEST_ID_BYTES or not request_id.isascii():
        request_id = shorten(request_id, MAX_REQUEST_ID_BYTES)
    body = _encode(
        (
            int(record.at * 1e6),
            record.generation,
            record.version,
            record.microseconds,
            request_id,
            *numbers,
        )
    )
    return _RECORD_HEADS[len(body) + 1] + body


# --- reading ------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One entry of a segment: ``values`` is what its kind holds, ``end`` the offset behind its MAC."""

    sequence: int
    offset: int
    end: int
    kind: int
    values: Any
    mac: bytes


def read_entries(data: bytes, *, offset: int = 0, sequence: int = 0) -> Iterator[Entry]:
    """Yield the whole entries of ``data`` from ``offset``; ends before a frame that is not all there.

    Looks at the form only; :func:`check_chain` looks at the MACs.

    Raises:
        SegmentDamaged: a frame is there that was never written so.
    """
    size = len(data)
    while offset + 3 + MAC_BYTES <= size:
        length = data[offset] << 8 | data[offset + 1]
        end = offset + 2 + length + MAC_BYTES
        if length == 0:
            raise SegmentDamaged(sequence, offset, "an entry of no length")
        if end > size:
            return
        kind = data[offset + 2]
        try:
            values = _decode(data[offset + 3 : offset + 2 + length])
        except (msgspec.DecodeError, RecursionError, ValueError, UnicodeDecodeError):
            raise SegmentDamaged(sequence, offset, "not an entry that can be read") from None
        if kind not in KINDS or not isinstance(values, list):
            raise SegmentDamaged(sequence, offset, "not an entry of this format")
        yield Entry(sequence, offset, end, kind, values, data[end - MAC_BYTES : end])
        offset = end
        sequence += 1


def header_of(entry: Entry) -> Header:
    """Return the header that a segment's first entry holds.

    Raises:
        SegmentDamaged: it holds none, or one of another format.
    """
    if entry.kind != HEADER or entry.values[:1] != [FORMAT]:
        raise SegmentDamaged(entry.sequence, entry.offset, f"not the header of format {FORMAT}")
    try:
        return msgspec.convert(entry.values, Header)
    except msgspec.ValidationError:
        raise SegmentDamaged(entry.sequence, entry.offset, "not a header that can be read") from None


class RecordReader:
    """Turns entries of one segment, in order, back into records."""

    def __init__(self) -> None:
        self._names: list[str] = [""]

    def learn(self, entry: Entry) -> None:
        """Take in the names that a NAME entry tells.

        Raises:
            SegmentDamaged: they do not follow those before.
        """
        try:
            first, told = entry.values
        except ValueError:
            first, told = None, None
        if first != len(self._names) or not isinstance(told, list):
            raise SegmentDamaged(entry.sequence, entry.offset, "names out of order")
        self._names.extend(str(text) for text in told)

    def record(self, entry: Entry) -> Record:
        """Return what a RECORD entry holds.

        Raises:
            SegmentDamaged: it names what was never told, or has another form.
        """
        try:
            at, generation, version, microseconds, request_id, *numbers = entry.values
            if len(numbers) != len(NAMED_FIELDS) or min(numbers) < 0:
                raise ValueError
            texts = {field: self._names[number] for field, number in zip(NAMED_FIELDS, numbers, strict=True)}
            return Record(
                at=at / 1e6,
                generation=generation,
                version=version,
                microseconds=microseconds,
                kms_request_id=request_id,
                **texts,
            )
        except (ValueError, TypeError, IndexError):
            raise SegmentDamaged(entry.sequence, entry.offset, "not a record that can be read") from None


class Checked(NamedTuple):
    """How far a segment holds: that many entries and records, so many bytes, the MAC at the end."""

    header: Header
    entries: int
    records: int
    size: int
    mac: bytes
    ended: bool
    """Whether the last entry is an END: the writer closed it."""


def check_prefix(
    data: bytes, mac_key: bytes, *, before: bytes | None = None
) -> tuple[Checked | None, SegmentDamaged | None]:
    """Check every MAC of a segment; return what holds, and the first entry that is not what was written.

    ``before`` is the last MAC of the segment before, where it is known.  An unfinished frame at the end
    is left out and is no damage.
    """
    checked: Checked | None = None
    try:
        for entry in read_entries(data):
            if checked is None:
                header = header_of(entry)
                if before is not None and not hmac.compare_digest(before, header.before):
                    raise SegmentDamaged(0, 0, "it does not follow the segment before")
                last, records = header.before, 0
            else:
                if checked.ended:
                    raise SegmentDamaged(entry.sequence, entry.offset, "something after the end")
                header, last, records = checked.header, checked.mac, checked.records
            mac = chain_mac(mac_key, last, data[entry.offset : entry.end - MAC_BYTES])
            if not hmac.compare_digest(mac, entry.mac):
                raise SegmentDamaged(
                    entry.sequence,
                    entry.offset,
                    f"this {KINDS[entry.kind]} was edited, or what stood before it was removed or moved",
                )
            checked = Checked(
                header,
                entry.sequence + 1,
                records + (entry.kind == RECORD),
                entry.end,
                mac,
                entry.kind == END,
            )
    except SegmentDamaged as damage:
        return checked, damage
    if checked is None:
        return None, SegmentDamaged(0, 0, "no header")
    return checked, None


def check_chain(data: bytes, mac_key: bytes, *, before: bytes | None = None) -> Checked:
    """Return what a segment holds, as :func:`check_prefix`.

    Raises:
        SegmentDamaged: the first entry that is not what was written there.
    """
    checked, damage = check_prefix(data, mac_key, before=before)
    if damage is not None or checked is None:
        raise damage or SegmentDamaged(0, 0, "no header")
    return checked


def records_of(data: bytes) -> Iterator[tuple[Entry, Record]]:
    """Yield the records of a segment with their entries; the MACs are not looked at.

    Raises:
        SegmentDamaged: an entry is not what it should be.
    """
    reader = RecordReader()
    for entry in read_entries(data):
        if entry.kind == NAME:
            reader.learn(entry)
        elif entry.kind == RECORD:
            yield entry, reader.record(entry)


class Tail(NamedTuple):
    """The last whole entry of what was read of a segment; ``offset`` is behind it."""

    sequence: int
    offset: int
    kind: int
    mac: bytes


def last_entry(data: bytes, offset: int, sequence: int) -> Tail | None:
    """Return the last whole entry of ``data``, which begins at ``offset`` with entry ``sequence``.

    Reads lengths only, so it is quick.  None when there is no whole entry.
    """
    at, size = 0, len(data)
    found: Tail | None = None
    while at + 2 <= size:
        length = data[at] << 8 | data[at + 1]
        end = at + 2 + length + MAC_BYTES
        if length == 0 or end > size:
            break
        found = Tail(sequence, offset + end, data[at + 2], data[end - MAC_BYTES : end])
        sequence += 1
        at = end
    return found
