"""Counting the journal exactly once, whatever happens in between."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.db.models import Sum

from tests.xks import journals
from tests.xks.test_agent_journal import begin, somebody_gone
from vault import keys
from xks import journal_format as form
from xks import request_copy as copy
from xks.agent_journal import Journals
from xks.agent_shipping import Shipping
from xks.journal_keeping import compress_segment
from xks.journal_shipping import ShippedElsewhere, Shipper, unshipped
from xks.journal_writer import segment_path
from xks.models import JournalChain, JournalShipment, RequestStore, Traffic, UsageHour, XksRequest

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


@pytest.mark.parametrize("place", ["insert", "mark_withheld", "add_sums", "add_traffic"])
def test_a_shipper_that_dies_in_the_midst_doubles_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    row, journal = begin(tmp_path)
    for number in range(30):
        journal.append(journals.record(principal_arn=f"user {number % 5}"))
    journal._write(journal._chained(form.pack(form.WITHHELD, [1, 3, 4])))
    real = getattr(copy, place)
    calls = 0

    def dies(*args: object) -> None:
        nonlocal calls
        real(*args)
        calls += 1
        if calls % 2:
            raise ZeroDivisionError

    shipper = Shipper(tmp_path, batch=10)
    monkeypatch.setattr(copy, place, dies)
    for _ in range(1 if place == "mark_withheld" else 3):  # which is called in one batch only
        with pytest.raises(ZeroDivisionError):
            shipper.ship(row)
    monkeypatch.setattr(copy, place, real)
    shipper.ship(row)
    assert counted() == 30
    assert len(entries_of(row)) == len(set(entries_of(row))) == 30
    assert Traffic.objects.filter(span_s=60).aggregate(sum=Sum("requests"))["sum"] == 30
    assert set(XksRequest.objects.filter(withheld=True).values_list("entry", flat=True)) == {4}
    journal._close_file()


def entries_of(row: JournalChain) -> list[int]:
    return list(XksRequest.objects.filter(chain_id=row.pk).order_by("entry").values_list("entry", flat=True))


def test_a_row_holds_what_was_recorded(tmp_path: Path) -> None:
    row, journal = begin(tmp_path)
    key = uuid.uuid4()
    written = journals.record(key_id=str(key), principal_arn="a\tb\\c\nd\x00e", kms_request_id="r\\1\t")
    journal.append(written)
    journal.append(journals.record(at=1_800_000_001.0, key_id="", outcome="KeyNotFoundException"))
    Shipper(tmp_path).ship(row)
    first, second = XksRequest.objects.order_by("at")
    assert (first.at.timestamp(), first.key_id, str(first.store_id)) == (written.at, key, written.store_id)
    assert (first.chain_id, first.segment, first.entry) == (row.pk, 0, 2)
    assert (first.principal_arn, first.kms_request_id) == ("a\tb\\c\nd\ufffde", "r\\1\t")
    for name in ("generation", "version", "microseconds", "operation", "access_key_id", "region", "kms_key_arn",
                 "kms_operation", "kms_via_service", "source_vpc", "source_vpce", "external_key_id"):  # fmt: skip
        assert getattr(first, name) == getattr(written, name)
    assert (second.key_id, second.outcome, second.at.timestamp()) == (
        None,
        "KeyNotFoundException",
        1_800_000_001.0,
    )
    journal._close_file()


def test_two_shippers_of_one_journal_never_both_write(tmp_path: Path) -> None:
    row, journal = begin(tmp_path)
    for _ in range(20):
        journal.append(journals.record())
    first, second = Shipper(tmp_path, batch=5), Shipper(tmp_path, batch=5)
    first.ship(row, batches=1)
    stale = JournalShipment.objects.get(chain=row)
    second.ship(row, batches=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JournalShipment.objects.__class__, "get_or_create", lambda *_, **__: (stale, False))
        with pytest.raises(ShippedElsewhere):
            first.ship(row, batches=1)
    first.ship(row)
    second.ship(row)
    assert counted() == len(entries_of(row)) == 20
    journal._close_file()


def test_what_is_older_than_what_is_kept_is_counted_only(tmp_path: Path) -> None:
    row, journal = begin(tmp_path)
    journal.append(journals.record(at=1_700_000_000.0))
    journal.append(journals.record(at=1_800_000_000.0))
    RequestStore.objects.create(kept_from=datetime(2026, 1, 1, tzinfo=UTC))
    Shipper(tmp_path).ship(row)
    assert (counted(), len(entries_of(row))) == (2, 1)
    journal._close_file()


def test_the_last_records_of_a_killed_worker_are_shipped_and_then_nothing_is_left(tmp_path: Path) -> None:
    row, journal = begin(tmp_path, somebody_gone())
    for _ in range(5):
        journal.append(journals.record())
    journal._close_file()
    Journals("node-1", tmp_path).tend(set())
    shipping = Shipping("node-1", tmp_path)
    assert shipping.turn() is False
    row.refresh_from_db()
    assert (row.end, row.shipped, counted()) == ("KILLED", True, 5)
    assert unshipped("node-1") == []
    assert JournalShipment.objects.get(chain=row).complete


def test_journals_end_whether_shipped_or_not(tmp_path: Path) -> None:
    row, journal = begin(tmp_path, somebody_gone())
    journal.append(journals.record())
    journal._close_file()
    Journals("node-1", tmp_path).tend(set())
    row.refresh_from_db()
    assert (row.end, row.shipped, counted()) == ("KILLED", False, 0)
    compress_segment(tmp_path, row.id.hex, 0)
    Shipping("node-1", tmp_path).turn()  # compressed or not
    assert counted() == 1


def test_a_damaged_journal_is_shipped_to_where_it_can_be_read(tmp_path: Path) -> None:
    row, journal = begin(tmp_path, somebody_gone())
    for _ in range(5):
        journal.append(journals.record())
    journal._close_file()
    path = segment_path(tmp_path, row.id.hex, 0)
    entry = list(form.read_entries(path.read_bytes()))[4]
    data = bytearray(path.read_bytes())
    data[entry.offset + 2] = 99
    path.write_bytes(bytes(data))
    with pytest.raises(form.SegmentDamaged):
        Shipper(tmp_path).ship(row)  # perhaps it is being written
    Journals("node-1", tmp_path).tend(set())
    Shipping("node-1", tmp_path).turn()
    row.refresh_from_db()
    shipment = JournalShipment.objects.get(chain=row)
    assert (row.end, row.shipped, shipment.complete, shipment.damaged) == ("DAMAGED", True, True, True)
    assert counted() == 2


def test_a_segment_that_is_gone_ends_the_wait(tmp_path: Path) -> None:
    row, journal = begin(tmp_path, somebody_gone())
    journal.append(journals.record())
    journal._close_file()
    Journals("node-1", tmp_path).tend(set())
    segment_path(tmp_path, row.id.hex, 0).unlink()
    Shipping("node-1", tmp_path).turn()
    assert JournalShipment.objects.get(chain=row).damaged
    assert unshipped("node-1") == []
