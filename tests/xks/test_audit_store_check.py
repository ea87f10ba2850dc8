"""`keystead audit verify` and the database's records: every way of tampering with them is named."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.db.models import F
from django.utils import timezone

from cloudkeys.models import XksKeyStore
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key_set
from tests.cloudkeys.world import store_of
from tests.xks import journals
from tests.xks.test_agent_journal import begin, somebody_gone
from tests.xks.test_audit_check import World
from vault import keys
from vault.models import Node
from xks import request_rows
from xks.agent_journal import Journals
from xks.agent_shipping import Shipping
from xks.audit_check import verify
from xks.journal_shipping import Shipper
from xks.management.commands.audit_verify import stored_public_key
from xks.models import JournalChain, JournalShipment, RequestStore, UsageHour, XksRequest
from xks.request_partitions import keep_store

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(db: None, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(request_rows, "BLOCK", 4)
    keys.ensure_root_key(create_allowed=True)
    Node.objects.create(name="node-1", started_at=timezone.now(), last_seen_at=timezone.now())
    return World(data_dir)


def record(world: World, segment: int = 1, place: int = 2) -> XksRequest:
    rows = XksRequest.objects.filter(chain_id=world.closed.pk, segment=segment).order_by("entry")
    return rows[place]


def test_it_holds_with_and_without_the_journal(world: World) -> None:
    report = world.check()
    assert (report.findings, report.gaps, report.stored) == ([], [], 31)
    shutil.rmtree(world.folder)
    report = world.check()
    assert (report.findings, report.stored) == ([], 31)


def edit(world: World) -> str:
    row = record(world)
    XksRequest.objects.filter(pk=row.pk).update(principal_arn="arn:aws:iam::1:user/nobody")
    return f"segment 1: the record of entry {row.entry} (kmsRequestId '{row.kms_request_id}') was edited in the database: principal_arn"


def move_in_time(world: World) -> str:
    row = record(world)
    XksRequest.objects.filter(pk=row.pk).update(at=F("at") + timedelta(microseconds=1))
    return f"the record of entry {row.entry} (kmsRequestId '{row.kms_request_id}') was edited in the database: at"


def remove(world: World) -> str:
    row = record(world)
    XksRequest.objects.filter(pk=row.pk).delete()
    return f"segment 1: the record of entry {row.entry} (kmsRequestId '{row.kms_request_id}') was removed"


def withhold(world: World) -> str:
    XksRequest.objects.filter(pk=record(world).pk).update(withheld=True)
    return "edited in the database: withheld"


def put_in(world: World) -> str:
    row = record(world)
    row.pk, row.entry = None, 5000
    row.save(force_insert=True)
    return "the record of entry 5000 was put in"


def put_in_behind_the_end(world: World) -> str:
    row = record(world)
    row.pk, row.segment = None, 99
    row.save(force_insert=True)
    return "segment 99: the record of entry"


def put_in_of_a_strange_journal(world: World) -> str:
    row = record(world)
    row.pk, row.chain_id = None, uuid.uuid4()
    row.save(force_insert=True)
    return f"audit store: journal {row.chain_id.hex}: no seal says that it began"


def hide_by_retention(world: World) -> str:
    RequestStore.objects.update(kept_from=datetime(2100, 1, 1, tzinfo=UTC))
    XksRequest.objects.all().delete()
    return "records before 2100-01-01 are said to be dropped, and no seal says so"


def lie_in_the_sums(world: World) -> str:
    UsageHour.objects.update(count=F("count") + 1)
    return "36 requests where 35 records are"


def lie_in_the_sums_about_who(world: World) -> str:
    UsageHour.objects.update(principal_arn="somebody else")
    return "sums of"


def say_that_it_was_lost(world: World) -> str:
    JournalShipment.objects.filter(chain=world.closed, segment=1).update(damaged=True, entries=3)
    return "the database got 3 of"


TAMPERING = [
    edit,
    move_in_time,
    remove,
    withhold,
    put_in,
    put_in_behind_the_end,
    put_in_of_a_strange_journal,
    hide_by_retention,
    lie_in_the_sums,
    lie_in_the_sums_about_who,
    say_that_it_was_lost,
]


@pytest.mark.parametrize("tamper", TAMPERING)
def test_tampering_with_the_store_is_named(world: World, tamper: Callable[[World], str]) -> None:
    expected = tamper(world)
    report = world.check()
    assert any(expected in finding for finding in report.findings), report.findings


@pytest.mark.parametrize("tamper", [edit, remove, withhold, put_in, lie_in_the_sums])
def test_tampering_shows_without_the_journal(world: World, tamper: Callable[[World], str]) -> None:
    shutil.rmtree(world.folder)
    tamper(world)
    assert any(finding.startswith("audit store") for finding in world.check().findings)


def test_the_block_is_named_where_the_journal_is_not_at_hand(world: World) -> None:
    entry = record(world, place=1).entry
    shutil.rmtree(world.folder)
    XksRequest.objects.filter(pk=record(world, place=1).pk).update(outcome="OK!")
    (finding,) = [text for text in world.check().findings if "between entries" in text]
    first, last = finding.split("between entries ")[1].split(" was")[0].split(" and ")
    assert int(first) <= entry <= int(last)
    assert "segment 1:" in finding


def test_a_record_shown_to_another_vault(cast: Cast, world: World) -> None:
    store = store_of(owned_key_set(cast))
    chain, journal = begin(world.folder, somebody_gone())
    journal.append(journals.record(store_id=str(store.pk)))
    journal._close_file()
    world.keeper.tend(set())
    Shipping("node-1", world.folder).turn()
    assert XksRequest.objects.get(chain_id=chain.pk).vault_id == XksKeyStore.objects.get().vault_id
    assert world.check().findings == []
    XksRequest.objects.filter(chain_id=chain.pk).update(vault_id=uuid.uuid4())
    assert any("was moved to another vault" in finding for finding in world.check().findings)


def test_what_retention_dropped_is_signed_and_no_finding(world: World) -> None:
    RequestStore.objects.update(looked_at=None)
    later = datetime.fromtimestamp(journals.record().at, UTC) + timedelta(days=40)
    keep_store(later, timedelta(days=30))
    assert not XksRequest.objects.exists()
    assert world.check().findings == []
    assert sum(UsageHour.objects.values_list("count", flat=True)) == 35  # the sums stay


def test_what_is_not_shipped_is_a_gap(data_dir: Path) -> None:
    keys.ensure_root_key(create_allowed=True)
    folder = data_dir / "journal" / "node-1"
    chain, journal = begin(folder, somebody_gone())
    for _ in range(6):
        journal.append(journals.record())
    Shipper(folder, batch=2).ship(chain, batches=1)
    journal._close_file()
    Journals("node-1", folder).tend(set())
    key = stored_public_key()
    assert key is not None
    report = verify(key, data_dir / "journal")
    assert report.findings == []
    assert any("not in the database yet, 4 of 8 entries are" in gap for gap in report.gaps), report.gaps
    assert any("has not been seen for an hour or more" in gap for gap in report.gaps)
    assert not JournalChain.objects.get().shipped
