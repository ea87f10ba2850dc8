"""What recovery makes of segments that ended well, ended badly, or were tampered with."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xks import journals
from xks import journal_format as form
from xks.journal_recovery import MAX_TORN_BYTES, Anchor, Examined, examine, examine_file, segments_of

KEY = form.mac_key_of(journals.STATE)


def written(folder: Path, *, end: bool) -> bytes:
    journal = journals.make_journal(folder)
    for number in range(6):
        journal.append(journals.record(generation=number))
    if end:
        journal._end_segment()
    journal._close_file()
    return journals.segment(folder).read_bytes()


def look(data: bytes, *, followed: bool = False, anchor: Anchor | None = None) -> Examined:
    return examine(data, KEY, form.NO_MAC, followed=followed, anchor=anchor, place=(journals.CHAIN, 0))


def cut_points(data: bytes) -> list[int]:
    return [0, *(entry.end for entry in form.read_entries(data))]


def test_clean_end(tmp_path: Path) -> None:
    data = written(tmp_path, end=True)
    found = look(data)
    assert (found.end, found.detail, found.records, found.size) == ("clean", "", 6, len(data))


@given(st.data())
def test_killed_at_any_byte(tmp_path_factory: pytest.TempPathFactory, choice: st.DataObject) -> None:
    data = written(tmp_path_factory.mktemp("journal"), end=False)
    ends = cut_points(data)
    at = choice.draw(st.integers(ends[1], len(data)))
    found = look(data[:at])
    assert found.end == "killed"
    assert found.size == max(end for end in ends if end <= at)
    assert look(data[:at], followed=True).end == "next"


def test_killed_before_the_header_was_whole(tmp_path: Path) -> None:
    data = written(tmp_path, end=False)
    for size in (0, 10):
        found = look(data[:size])
        assert (found.end, found.entries, found.mac) == ("killed", 0, form.NO_MAC)
    assert look(data[:10], anchor=Anchor(0, bytes(16))).end == "damaged"
    assert look(b"\x00\x05\x09" + bytes(30)).end == "damaged"


def test_power_cut_leaves_zeros(tmp_path: Path) -> None:
    data = written(tmp_path, end=False)
    at = cut_points(data)[4]
    found = look(data[:at] + bytes(4096))
    assert (found.end, found.size) == ("killed", at)
    assert "never reached the disk" in found.detail


def test_cut_below_the_anchor_is_told_as_damage(tmp_path: Path) -> None:
    data = written(tmp_path, end=False)
    entries = list(form.read_entries(data))
    anchor = Anchor(entries[-1].sequence, entries[-1].mac)
    assert look(data, anchor=anchor).end == "killed"
    found = look(data[: entries[-3].end], anchor=anchor)
    assert found.end == "damaged"
    assert "2 anchored entries are missing" in found.detail
    assert look(data, anchor=Anchor(2, bytes(16))).end == "damaged"


def test_edited_and_lengthened(tmp_path: Path) -> None:
    data = written(tmp_path, end=False)
    entry = list(form.read_entries(data))[3]
    edited = bytearray(data)
    edited[entry.offset + 5] ^= 1
    found = look(bytes(edited))
    assert found.end == "damaged"
    assert f"entry 3 at byte {entry.offset}" in found.detail
    assert found.size == entry.offset  # what holds before it still counts
    whole = written(tmp_path / "other", end=True)
    assert look(whole + b"\x00").end == "damaged"
    assert look(data + b"\xff" * (MAX_TORN_BYTES + 1)).end == "damaged"


def test_another_segment_in_its_place(tmp_path: Path) -> None:
    data = written(tmp_path, end=True)
    found = examine(data, KEY, form.NO_MAC, followed=False, place=(journals.CHAIN, 1))
    assert found.end == "damaged"


def test_missing_file(tmp_path: Path) -> None:
    assert segments_of(tmp_path, journals.CHAIN) == []
    found = examine_file(tmp_path, journals.CHAIN, 0, journals.STATE, form.NO_MAC, followed=True)
    assert found.end == "missing"
    written(tmp_path, end=True)
    assert segments_of(tmp_path, journals.CHAIN) == [0]
    assert (
        examine_file(tmp_path, journals.CHAIN, 0, journals.STATE, form.NO_MAC, followed=False).end == "clean"
    )
