"""Frames, names, the ratchet and the chain: known answers, and everything that may be done to a segment."""

from __future__ import annotations

import hashlib
import struct
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xks import journals
from xks import journal_format as form
from xks.journal import Record

# Computed apart, with OpenSSL: openssl mac -macopt hexkey:... -macopt size:32 BLAKE2BMAC (RFC 7693).
MAC_KEY_OF_FIRST = "5645319202a426c14e17b264e87618a8c8d922d4f5a9bdb2c0986600e2efd337"
NEXT_STATE = "31a7e66d49fd0478def9abbb67927604a36d1887c1934e5b37052f507bc6ab01"
FIRST_MAC = "8f93a3d91192185104fd4a2331266ca6"

KEY = form.mac_key_of(journals.STATE)
TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
RECORDS = st.builds(
    Record,
    at=st.floats(0, 4e9),
    generation=st.integers(0, 2**63 - 1),
    version=st.integers(0, 2**32 - 1),
    microseconds=st.integers(0, 2**32 - 1),
    kms_request_id=TEXT,
    **dict.fromkeys(form.NAMED_FIELDS, TEXT),
)


def write(folder: Path, count: int = 5, *, end: bool = True) -> bytes:
    """Write a segment of ``count`` records and return it."""
    journal = journals.make_journal(folder)
    for number in range(count):
        journal.append(journals.record(generation=number, principal_arn=f"arn:aws:iam::1:user/{number % 2}"))
    if end:
        journal._end_segment()
    journal._close_file()
    return journals.segment(folder).read_bytes()


def test_ratchet_known_answers() -> None:
    state = bytes(range(32))
    assert form.mac_key_of(state).hex() == MAC_KEY_OF_FIRST
    assert form.next_state(state).hex() == NEXT_STATE
    assert form.state_after(state, 2) == form.next_state(form.next_state(state))
    assert form.state_after(state, 0) == state


def test_chain_known_answer() -> None:
    assert form.chain_mac(bytes(32), bytes(16), b"\x00\x01\x06").hex() == FIRST_MAC


def test_frame_known_answer() -> None:
    # msgpack of [1, "a"] is 92 01 a1 61 (the msgpack specification).
    assert form.pack(form.NOTE, [1, "a"]) == bytes.fromhex("0005 06 92 01 a1 61".replace(" ", ""))


def test_shorten_keeps_short_and_tells_long_apart() -> None:
    assert form.shorten("arn:aws:iam::1:user/Ada") == "arn:aws:iam::1:user/Ada"
    long = "arn:aws:iam::1:role/" + "x" * 2000
    short = form.shorten(long)
    assert len(short.encode()) == form.MAX_NAME_BYTES
    assert short.startswith("arn:aws:iam::1:role/xxx")
    assert short != form.shorten(long + "y")
    digest = hashlib.sha256(long.encode()).digest()[:16]
    assert short.rpartition("~")[2] == urlsafe_b64encode(digest).decode().rstrip("=")


@given(TEXT, st.integers(40, 300))
def test_shorten_never_exceeds(text: str, most: int) -> None:
    assert len(form.shorten(text, most).encode()) <= most


@given(st.lists(RECORDS, min_size=1, max_size=5))
def test_records_come_back(tmp_path_factory: pytest.TempPathFactory, records: list[Record]) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = journals.make_journal(folder)
    for one in records:
        journal.append(one)
    journal._close_file()
    data = journals.segment(folder).read_bytes()
    assert form.check_chain(data, KEY).records == len(records)
    found = list(form.records_of(data))
    assert len(found) == len(records)
    for (_, read), wrote in zip(found, records, strict=True):
        assert read.at == pytest.approx(wrote.at, abs=2e-6)
        for field in form.NAMED_FIELDS:
            assert getattr(read, field) == form.shorten(getattr(wrote, field))
        assert read.kms_request_id == form.shorten(wrote.kms_request_id, form.MAX_REQUEST_ID_BYTES)
        assert (read.generation, read.version, read.microseconds) == (
            wrote.generation,
            wrote.version,
            wrote.microseconds,
        )


def test_a_request_takes_under_400_bytes(tmp_path: Path) -> None:
    files = journals.FaultyFiles()
    journal = journals.make_journal(tmp_path, files=files)
    journal.append(journals.record())
    files.sizes.clear()
    journal.append(journals.record())
    assert files.sizes[-1] < 130
    for number in range(100):  # a caller whose name is new and as long as may be, each time
        principal = f"arn:aws:sts::123456789012:assumed-role/{number}/" + "p" * 2000
        journal.append(
            journals.record(
                generation=2**63 - 1,
                version=2**32 - 1,
                microseconds=2**32 - 1,
                principal_arn=principal,
                kms_request_id="r" * 300,
            )
        )
    assert max(files.sizes) < 400
    journal._close_file()


def test_what_was_written_holds(tmp_path: Path) -> None:
    data = write(tmp_path)
    checked = form.check_chain(data, KEY, before=form.NO_MAC)
    assert (checked.records, checked.size, checked.ended) == (5, len(data), True)
    assert checked.header.node == "node-1"
    assert checked.header.segment == 0


def frames(data: bytes) -> list[bytes]:
    return [data[entry.offset : entry.end] for entry in form.read_entries(data)]


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except form.SegmentDamaged as damage:
        return damage


def first_bad(data: bytes) -> int:
    with pytest.raises(form.SegmentDamaged) as caught:
        form.check_chain(data, KEY)
    return caught.value.sequence


@given(st.data())
def test_any_changed_byte_shows(tmp_path_factory: pytest.TempPathFactory, choice: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("journal")
    data = write(folder)
    at = choice.draw(st.integers(0, len(data) - 1))
    changed = bytearray(data)
    changed[at] ^= choice.draw(st.integers(1, 255))
    whole = form.check_chain(data, KEY)
    found = outcome(lambda: form.check_chain(bytes(changed), KEY))
    if isinstance(found, form.SegmentDamaged):
        assert found.offset <= at
    else:
        # A length that became larger than the file: the rest reads as an unfinished entry.
        assert found.entries < whole.entries
        assert found.mac != whole.mac


def test_a_removed_record_shows(tmp_path: Path) -> None:
    parts = frames(write(tmp_path))
    for number in range(1, len(parts) - 1):
        left = parts[:number] + parts[number + 1 :]
        assert first_bad(b"".join(left)) == number


def test_records_in_another_order_show(tmp_path: Path) -> None:
    parts = frames(write(tmp_path))
    parts[4], parts[5] = parts[5], parts[4]
    assert first_bad(b"".join(parts)) == 4


def test_a_record_put_in_again_shows(tmp_path: Path) -> None:
    parts = frames(write(tmp_path))
    assert first_bad(b"".join([*parts[:5], parts[4], *parts[5:]])) == 5


def test_a_cut_end_is_short_of_it(tmp_path: Path) -> None:
    parts = frames(write(tmp_path))
    checked = form.check_chain(b"".join(parts[:-2]), KEY)
    assert not checked.ended
    assert checked.records == 4


def test_another_key_fits_nothing(tmp_path: Path) -> None:
    data = write(tmp_path)
    with pytest.raises(form.SegmentDamaged, match="entry 0"):
        form.check_chain(data, form.mac_key_of(form.next_state(journals.STATE)))


def test_something_after_the_end_shows(tmp_path: Path) -> None:
    data = write(tmp_path)
    last = form.check_chain(data, KEY).mac
    frame = form.pack(form.NOTE, [0, "late"])
    with pytest.raises(form.SegmentDamaged, match="after the end"):
        form.check_chain(data + frame + form.chain_mac(KEY, last, frame), KEY)


def test_a_segment_of_another_place_shows(tmp_path: Path) -> None:
    with pytest.raises(form.SegmentDamaged, match="does not follow"):
        form.check_chain(write(tmp_path), KEY, before=b"x" * 16)


@given(st.binary(max_size=200))
def test_garbage_never_passes(data: bytes) -> None:
    with pytest.raises(form.SegmentDamaged):
        form.check_chain(data, KEY)


@given(st.binary(max_size=60), st.integers(1, 7))
def test_garbage_with_a_right_mac_is_still_refused_or_read(body: bytes, kind: int) -> None:
    frame = struct.pack(">H", len(body) + 1) + bytes([kind]) + body
    data = frame + form.chain_mac(KEY, form.NO_MAC, frame)
    found = outcome(lambda: list(form.records_of(data)))
    assert (found.sequence == 0) if isinstance(found, form.SegmentDamaged) else len(found) <= 1


def test_names_out_of_order_are_refused() -> None:
    reader = form.RecordReader()
    with pytest.raises(form.SegmentDamaged, match="out of order"):
        reader.learn(form.Entry(0, 0, 1, form.NAME, [2, ["x"]], b""))
    with pytest.raises(form.SegmentDamaged, match="out of order"):
        reader.learn(form.Entry(0, 0, 1, form.NAME, ["x"], b""))


def test_record_that_names_nothing_known_is_refused() -> None:
    reader = form.RecordReader()
    with pytest.raises(form.SegmentDamaged, match="not a record"):
        reader.record(form.Entry(0, 0, 1, form.RECORD, [1, 2, 3, 4, "r", *[9] * 13], b""))
