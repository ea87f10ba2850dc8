"""Counting the journal exactly once, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.db.models import Sum

from tests.xks import journals
from tests.xks.test_agent_journal import begin, somebody_gone
from vault import keys
from xks import journal_shipping
from xks.agent_journal import Journals
from xks.journal_shipping import Shipper
from xks.models import JournalShipment, UsageHour

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _root_key(db: None) -> None:
    keys.ensure_root_key(create_allowed=True)


def counted() -> int:
    return UsageHour.objects.aggregate(sum=Sum("count"))["sum"] or 0


def test_sums_are_by_hour_and_who(tmp_path: Path) -> None:
    row, journal = begin(tmp_path)
    for number in range(10):
        journal.append(
            journals.record(
                at=1_800_000_000.0 + number * 1000, outcome="OK" if number % 2 else "InvalidStateException"
            )
        )
    Shipper(tmp_path).ship(row)
    assert counted() == 10
    one = UsageHour.objects.filter(outcome="OK").order_by("hour").first()
    assert one is not None
    assert one.principal_arn == journals.record().principal_arn
    assert (one.hour.minute, one.hour.second) == (0, 0)
    assert one.last_at >= one.hour
    journal._close_file()


def test_each_record_once_however_often_it_is_called(tmp_path: Path) -> None:
    row, journal = begin(tmp_path, segment_bytes=2000)
    shipper = Shipper(tmp_path, batch=7)
    for number in range(60):
        journal.append(journals.record(principal_arn=f"user {number % 3}"))
        if number % 11 == 0:
            shipper.ship(row, batches=1)
        if number % 25 == 0:
            shipper = Shipper(tmp_path, batch=7)  # the agent was started anew
    while shipper.ship(row, batches=2)[1]:
        pass
    assert counted() == 60
    assert JournalShipment.objects.filter(chain=row, complete=True).count() == journal._segment
    journal._close_file()


def test_a_shipper_that_dies_in_the_midst_doubles_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, journal = begin(tmp_path)
    for number in range(30):
        journal.append(journals.record(principal_arn=f"user {number % 5}"))
    real = journal_shipping._add_usage
    calls = 0

    def dies(which: dict[str, object], count: int, last_at: object) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise ZeroDivisionError
        real(which, count, last_at)  # type: ignore[arg-type]

    shipper = Shipper(tmp_path, batch=10)
    monkeypatch.setattr(journal_shipping, "_add_usage", dies)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            shipper.ship(row)
        calls = 1
    monkeypatch.setattr(journal_shipping, "_add_usage", real)
    shipper.ship(row)
    assert counted() == 30
    journal._close_file()


def test_a_chain_ends_only_once_all_of_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row, journal = begin(tmp_path, somebody_gone())
    for _ in range(30):
        journal.append(journals.record())
    journal._close_file()
    keeper = Journals("node-1", tmp_path)
    monkeypatch.setattr(keeper._shipper, "_batch", 10)
    ship = keeper._shipper.ship
    monkeypatch.setattr(keeper._shipper, "ship", lambda chain, ended: ship(chain, ended=ended, batches=1))
    keeper.tend(set())
    row.refresh_from_db()
    assert (row.ended_at, counted()) == (None, 10)
    for _ in range(3):
        keeper.tend(set())
    row.refresh_from_db()
    assert (row.end, counted()) == ("KILLED", 30)
    assert JournalShipment.objects.get(chain=row).complete


def test_the_keeper_ships_a_killed_worker_s_last_records(tmp_path: Path) -> None:
    row, journal = begin(tmp_path, somebody_gone())
    for _ in range(5):
        journal.append(journals.record())
    journal._close_file()
    Journals("node-1", tmp_path).tend(set())
    assert counted() == 5
    row.refresh_from_db()
    assert row.end == "KILLED"
