"""A worker's journal: what is on the disk before append returns, full and stalled devices, rolling, groups."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.xks import journals
from xks import journal_format as form
from xks.journal import JournalUnavailable
from xks.journal_guard import StallGuard
from xks.journal_recovery import examine_file
from xks.journal_writer import MAX_SOURCES, FileJournal, SyncMode, segment_path

KEY = form.mac_key_of(journals.STATE)


def check(folder: Path, number: int = 0, **more: Any) -> form.Checked:
    key = form.mac_key_of(form.state_after(journals.STATE, number))
    return form.check_chain(journals.segment(folder, number).read_bytes(), key, **more)


def entries(folder: Path, kind: int, number: int = 0) -> list[form.Entry]:
    data = journals.segment(folder, number).read_bytes()
    return [entry for entry in form.read_entries(data) if entry.kind == kind]


@asynccontextmanager
async def running(journal: FileJournal) -> AsyncIterator[FileJournal]:
    journal.run_on(asyncio.get_running_loop())
    try:
        yield journal
    finally:
        await journal.stop()


async def eventually(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.005)


def test_nothing_is_taken_before_the_key_comes(tmp_path: Path) -> None:
    journal = journals.make_journal(tmp_path, started=False)
    with pytest.raises(JournalUnavailable, match="no key"):
        journal.append(journals.record())
    assert journal.problem() is not None
    journal.start(journals.CHAIN, journals.STATE)
    assert journal.problem() is None
    assert journal.append(journals.record()) is None
    journal._close_file()


def test_a_chain_begins_once(tmp_path: Path) -> None:
    journal = journals.make_journal(tmp_path)
    journal.start(journals.CHAIN, journals.STATE)  # the agent may say it again
    assert [path.name for path in (tmp_path / journals.CHAIN).iterdir()] == ["00000000.ksj"]
    with pytest.raises(ValueError, match="32 bytes"):
        journal.start("another", b"")
    assert journal.chain == journals.CHAIN
    journal._close_file()


@pytest.mark.parametrize("sync", ["write", "group"])
async def test_another_chain_takes_the_place_of_the_first(tmp_path: Path, sync: SyncMode) -> None:
    """The database lost the first in a restore."""
    journal = journals.make_journal(tmp_path, sync=sync)
    journal.run_on(asyncio.get_running_loop())
    first = journal.append(journals.record())
    journal.start("another", bytes(range(1, 33)))
    second = journal.append(journals.record())
    for recorded in (first, second):
        if recorded is not None:
            await recorded
    await journal.stop()
    for chain, state in ((journals.CHAIN, journals.STATE), ("another", bytes(range(1, 33)))):
        entries = list(form.read_entries(segment_path(tmp_path, chain, 0).read_bytes()))
        assert [entry.kind for entry in entries][-2:] == [form.RECORD, form.END]
        assert [entry.kind for entry in entries].count(form.RECORD) == 1
        found = examine_file(tmp_path, chain, 0, state, form.NO_MAC, followed=False, anchor=None)
        assert (found.end, found.records) == ("clean", 1)


def test_record_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    journal = journals.make_journal(tmp_path)
    for count in range(1, 4):
        journal.append(journals.record())
        assert check(tmp_path).records == count
    assert journals.segment(tmp_path).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / journals.CHAIN).stat().st_mode & 0o777 == 0o700
    journal._close_file()


def test_a_request_costs_one_write(tmp_path: Path) -> None:
    files = journals.FaultyFiles()
    journal = journals.make_journal(tmp_path, files=files)
    before = len(files.sizes)
    journal.append(journals.record())
    journal.append(journals.record(principal_arn="new"))
    journal.append(journals.record())
    assert len(files.sizes) == before + 3
    journal._close_file()


async def test_clean_end(tmp_path: Path) -> None:
    journal = journals.make_journal(tmp_path)
    async with running(journal):
        journal.append(journals.record())
        journal.count("AuthenticationFailedException", "192.0.2.1")
    assert check(tmp_path).ended
    assert entries(tmp_path, form.COUNTS)[0].values[1] == [["AuthenticationFailedException", "192.0.2.1", 1]]
    assert bytes(journal._state) == bytes(32)


def test_segments_follow_one_another_and_the_key_ratchets(tmp_path: Path) -> None:
    journal = journals.make_journal(tmp_path, segment_bytes=2000)
    for _ in range(60):
        journal.append(journals.record())
    journal._end_segment()
    journal._close_file()
    count = len(list((tmp_path / journals.CHAIN).iterdir()))
    assert count > 2
    before = form.NO_MAC
    records = 0
    for number in range(count):
        checked = check(tmp_path, number, before=before)
        assert checked.ended
        assert checked.header.segment == number
        before = checked.mac
        records += checked.records
    assert records == 60
    assert bytes(journal._state) == form.state_after(journals.STATE, count - 1)  # the older are gone


def test_an_old_segment_is_closed(tmp_path: Path) -> None:
    now = [1000.0]
    journal = journals.make_journal(tmp_path, clock=lambda: now[0])
    now[0] += 5000
    journal.tick()  # nothing in it yet
    journal.append(journals.record())
    journal.tick()
    assert check(tmp_path).ended
    assert not check(tmp_path, 1).ended
    journal._close_file()


def test_too_many_names_open_another_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "MAX_NAMES", 40)
    journal = journals.make_journal(tmp_path)
    for number in range(40):
        journal.append(journals.record(principal_arn=f"user {number}"))
    journal._close_file()
    assert check(tmp_path, 0).ended
    numbers = range(len(list((tmp_path / journals.CHAIN).iterdir())))
    assert sum(check(tmp_path, number).records for number in numbers) == 40


def test_counts_are_capped(tmp_path: Path) -> None:
    journal = journals.make_journal(tmp_path)
    for number in range(1000):
        journal.count("AuthenticationFailedException", f"192.0.2.{number}")
        journal.count("InvalidUriPathException", "192.0.2.7")
    journal.tick()
    (entry,) = entries(tmp_path, form.COUNTS)
    rows = entry.values[1]
    assert sum(number for _, _, number in rows) == 2000
    assert len(rows) <= MAX_SOURCES + 2
    assert ["AuthenticationFailedException", "others", 1000 - MAX_SOURCES + 1] in rows
    journal.tick()
    assert len(entries(tmp_path, form.COUNTS)) == 1  # nothing happened, nothing is written
    journal._close_file()


@pytest.mark.parametrize("room", [0, 1, 50, 100])
def test_full_device(tmp_path: Path, room: int) -> None:
    files = journals.FaultyFiles()
    journal = journals.make_journal(tmp_path, files=files)
    journal.append(journals.record())
    whole = journals.segment(tmp_path).read_bytes()
    files.room = room
    for _ in range(3):
        with pytest.raises(JournalUnavailable):
            journal.append(journals.record(principal_arn="new"))
        files.room = room
    assert journal.problem() is not None
    assert journals.segment(tmp_path).read_bytes() == whole  # no half of an entry stays
    journal.tick()
    assert journal.problem() is not None
    files.room = None
    journal.tick()  # by itself, without a request
    assert journal.problem() is None
    journal.append(journals.record(principal_arn="new"))
    assert check(tmp_path).records == 2
    journal._close_file()


def test_full_device_at_the_change_of_segments(tmp_path: Path) -> None:
    files = journals.FaultyFiles()
    journal = journals.make_journal(tmp_path, files=files, segment_bytes=1000)
    while journal._size < 1000:
        journal.append(journals.record())
    count = check(tmp_path).records
    files.room = 40  # the end fits, the next header does not
    for _ in range(3):
        with pytest.raises(JournalUnavailable):
            journal.append(journals.record())
    files.room = None
    journal.append(journals.record())
    assert check(tmp_path, 0).ended
    assert check(tmp_path, 0).records == count
    assert check(tmp_path, 1, before=check(tmp_path, 0).mac).records == 1
    journal._close_file()


def test_real_file_size_limit(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    journal = journals.make_journal(tmp_path)
    journal.append(journals.record())
    size = journals.segment(tmp_path).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 60, hard))  # half a record fits
    try:
        with pytest.raises(JournalUnavailable):
            journal.append(journals.record())
        assert journals.segment(tmp_path).stat().st_size == size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append(journals.record())
    assert check(tmp_path).records == 2
    journal._close_file()


def test_torn_entry_that_cannot_be_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = journals.FaultyFiles()
    journal = journals.make_journal(tmp_path, files=files)
    journal.append(journals.record())

    def refuse(fd: int, size: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "truncate", refuse)
    files.room = 10
    with pytest.raises(JournalUnavailable):
        journal.append(journals.record())
    files.room = None
    journal.append(journals.record())
    journal._close_file()
    torn = check(tmp_path)
    assert not torn.ended
    assert torn.size < journals.segment(tmp_path).stat().st_size
    assert check(tmp_path, 1, before=torn.mac).records == 1


def test_stalled_write_is_refused_by_the_watching_thread(tmp_path: Path) -> None:
    files = journals.FaultyFiles()
    guard = StallGuard()
    journal = journals.make_journal(tmp_path, files=files, guard=guard)
    journal.append(journals.record())
    guard.start()
    files.go.clear()
    refused = threading.Event()
    guard.refuse = lambda scope, request: refused.set()
    guard.begin("request", "scope")
    problems: list[str | None] = []

    def look() -> None:
        refused.wait(10)
        problems.append(journal.problem())
        files.go.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    began = time.monotonic()
    with pytest.raises(JournalUnavailable, match="stalled"):
        journal.append(journals.record())  # this thread is the loop; it is held up
    assert time.monotonic() - began < 5
    watcher.join()
    guard.stop()
    assert problems == ["the journal's device has stalled"]
    assert not guard.take("request")  # it has been answered
    assert journal.problem() is None
    journal.append(journals.record())
    journal.tick()
    # Both are there; of the first it says that its result never left.
    first, last = entries(tmp_path, form.WITHHELD)[0].values[1:]
    assert first == last == entries(tmp_path, form.RECORD)[1].sequence
    assert check(tmp_path).records == 3
    journal._close_file()


def test_a_slow_write_is_no_stall(tmp_path: Path) -> None:
    files = journals.FaultyFiles()
    journal = journals.make_journal(tmp_path, files=files, guard=StallGuard(stall_s=5))
    journal.guard.start()
    files.go.clear()
    threading.Timer(0.05, files.go.set).start()
    journal.append(journals.record())
    assert journal.problem() is None
    journal.guard.stop()
    journal._close_file()


async def test_group_mode_waits_for_the_disk(tmp_path: Path) -> None:
    files = journals.FaultyFiles()
    async with running(journals.make_journal(tmp_path, files=files, sync="group")) as journal:
        futures = [journal.append(journals.record()) for _ in range(50)]
        assert files.synced == 0
        assert not any(future is None or future.done() for future in futures)
        await asyncio.gather(*(future for future in futures if future is not None))
        assert files.synced <= 2  # one for all that were written in one turn of the loop


async def test_group_mode_syncs_again_for_what_came_later(tmp_path: Path) -> None:
    files = journals.FaultyFiles()
    async with running(journals.make_journal(tmp_path, files=files, sync="group")) as journal:
        first = journal.append(journals.record())
        assert first is not None
        files.go.clear()
        await asyncio.to_thread(files.waiting.wait, 5)
        files_write_goes_on = files.go
        files_write_goes_on.set()
        second = journal.append(journals.record())
        assert second is not None
        await asyncio.gather(first, second)
        assert files.synced >= 2


async def test_group_mode_stall(tmp_path: Path) -> None:
    files = journals.FaultyFiles()
    async with running(journals.make_journal(tmp_path, files=files, sync="group")) as journal:
        future = journal.append(journals.record())
        assert future is not None
        files.go.clear()
        began = time.monotonic()
        with pytest.raises(JournalUnavailable, match="stalled"):
            await future
        assert time.monotonic() - began < 5
        assert journal.problem() == "the journal's device has stalled"
        with pytest.raises(JournalUnavailable, match="stalled"):
            journal.append(journals.record())  # at once, and without a write
        await asyncio.wait_for(journal.settled(), 5)
        files.go.set()
        await eventually(lambda: journal.problem() is None)
        again = journal.append(journals.record())
        assert again is not None
        await again
    assert check(tmp_path).records == 2
    assert entries(tmp_path, form.WITHHELD)[0].values[1:] == [entries(tmp_path, form.RECORD)[0].sequence] * 2


async def test_group_mode_fails_to_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = journals.FaultyFiles()
    async with running(journals.make_journal(tmp_path, files=files, sync="group")) as journal:
        real = files.datasync

        def refuse(fd: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(files, "datasync", refuse)
        future = journal.append(journals.record())
        assert future is not None
        with pytest.raises(JournalUnavailable, match="durable"):
            await future
        monkeypatch.setattr(files, "datasync", real)
        journal.tick()
        later = journal.append(journals.record())
        assert later is not None
        await later
    assert not check(tmp_path, 0).ended  # what a failed fdatasync leaves behind is not trusted
    assert check(tmp_path, 1).records == 1


async def test_group_mode_across_segments(tmp_path: Path) -> None:
    files = journals.FaultyFiles()
    journal = journals.make_journal(tmp_path, files=files, sync="group", segment_bytes=1500)
    async with running(journal):
        futures = [journal.append(journals.record()) for _ in range(60)]
        await asyncio.gather(*(future for future in futures if future is not None))
    numbers = range(len(list((tmp_path / journals.CHAIN).iterdir())))
    assert len(numbers) > 2
    assert sum(check(tmp_path, number).records for number in numbers) == 60
    assert all(check(tmp_path, number).ended for number in numbers)
