"""Searching single requests, and the course of requests over time."""

from __future__ import annotations

import io
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import timezone

from cloudkeys.models import CloudKey
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key
from tests.xks import journals
from vault import startup
from vault.errors import NotFound, PermissionDenied
from xks import journal_format as form
from xks import request_copy as copy
from xks.journal import Record
from xks.models import JournalChain, XksRequest
from xks.request_partitions import day_of, ensure_partitions
from xks.request_rows import Row
from xks.services.requests import course_of, traffic_of_store, traffic_of_vault
from xks.traffic_buckets import BOUNDS, bucket_of, percentile

pytestmark = pytest.mark.django_db
PATH = "/api/v1/xks-requests"


@pytest.fixture
def key(cast: Cast) -> CloudKey:
    return owned_key(cast)


@pytest.fixture
def chain(cast: Cast) -> JournalChain:
    return JournalChain.objects.create(node_name="node-7", process="p", sealed_mac="")


def store(chain: JournalChain, key: CloudKey, *records: dict[str, Any]) -> None:
    """Put records into the store as a shipper does."""
    names = [""]
    rows = []
    taken = XksRequest.objects.filter(chain_id=chain.pk).count()
    for number, changes in enumerate(records):
        fields = {
            "at": timezone.now().timestamp(),
            "store_id": str(key.store_id),
            "key_id": str(key.pk),
            **changes,
        }
        record: Record = journals.record(**fields)
        numbers = []
        for text in form.named_texts(record):
            if text not in names:
                names.append(text)
            numbers.append(names.index(text))
        rows.append(
            Row(taken + number, round(record.at * 1e6), record.generation, record.version, record.microseconds,
                record.kms_request_id, numbers)
        )  # fmt: skip
    ensure_partitions({day_of(datetime.fromtimestamp(row.at / 1e6, UTC)) for row in rows})
    copy.insert(chain.pk, 0, rows, names, lambda _: key.vault_id)
    copy.add_sums(rows, names)
    copy.add_traffic(rows, names)


def ask(cast: Cast, who: str = "auditor", **query: Any) -> list[dict[str, Any]]:
    answer = cast.api(who).get(PATH, vault=str(cast.vault.pk), **query)
    assert answer.status_code == 200, answer.content
    items: list[dict[str, Any]] = json.loads(answer.content)["items"]
    return items


def found(cast: Cast, **query: Any) -> set[str]:
    return {item["kms_request_id"] for item in ask(cast, **query)}


def test_a_request_is_found_by_what_kms_tells(cast: Cast, key: CloudKey, chain: JournalChain) -> None:
    store(chain, key, {"kms_request_id": "first"}, {"kms_request_id": "second", "kms_operation": "Encrypt"})
    (one,) = ask(cast, kms_request_id="second")
    assert (one["node"], one["kms_operation"], one["cloud_key"]) == ("node-7", "Encrypt", str(key.pk))
    assert one["id"] == f"{chain.pk.hex}:0:1"
    assert ask(cast, kms_request_id="third") == []


def test_filters(cast: Cast, key: CloudKey, chain: JournalChain) -> None:
    now = timezone.now()
    hour = timedelta(hours=1)
    long_arn = "arn:aws:iam::1:role/" + "x" * 400
    store(
        chain,
        key,
        {
            "kms_request_id": "ada",
            "principal_arn": "arn:aws:iam::1:user/ada",
            "at": (now - 5 * hour).timestamp(),
        },
        {"kms_request_id": "bob", "principal_arn": "arn:aws:iam::1:user/bob", "at": (now - hour).timestamp()},
        {"kms_request_id": "bad", "outcome": "AccessDeniedException", "at": (now - 30 * hour).timestamp()},
        {"kms_request_id": "long", "principal_arn": form.shorten(long_arn), "operation": "decrypt"},
        {"kms_request_id": "other", "key_id": str(uuid.uuid4()), "outcome": "KeyNotFoundException"},
    )
    assert found(cast) == {"ada", "bob", "bad", "long", "other"}
    assert found(cast, principal="arn:aws:iam::1:user/ada") == {"ada"}
    assert found(cast, principal=long_arn) == {"long"}
    assert found(cast, principal="arn:aws:iam::1:user/eve") == set()
    assert found(cast, outcome="AccessDeniedException") == {"bad"}
    assert found(cast, outcome="errors") == {"bad", "other"}
    assert found(cast, outcome=["OK", "AccessDeniedException"]) == {"ada", "bob", "bad", "long"}
    assert found(cast, operation="decrypt") == {"long"}
    assert found(cast, cloud_key=str(key.pk)) == {"ada", "bob", "bad", "long"}
    assert found(cast, store=str(uuid.uuid4())) == set()
    assert found(cast, since=(now - 2 * hour).isoformat()) == {"bob", "long", "other"}
    assert found(cast, until=(now - 2 * hour).isoformat()) == {"ada", "bad"}


def test_pages_neither_repeat_nor_leave_out(cast: Cast, key: CloudKey, chain: JournalChain) -> None:
    at = timezone.now().timestamp()
    store(chain, key, *[{"kms_request_id": str(n), "at": at - n // 3} for n in range(25)])  # three at a time
    client = cast.api("auditor")
    seen: list[str] = []
    query: dict[str, Any] = {"vault": str(cast.vault.pk), "limit": 4}
    while True:
        answer = json.loads(client.get(PATH, **query).content)
        seen += [item["kms_request_id"] for item in answer["items"]]
        if answer["next_cursor"] is None:
            break
        query["cursor"] = answer["next_cursor"]
    assert sorted(seen) == sorted(str(n) for n in range(25))


def test_other_vaults_see_nothing(cast: Cast, key: CloudKey, chain: JournalChain) -> None:
    store(chain, key, {"kms_request_id": "mine"})
    answer = cast.api("outsider").get(PATH, kms_request_id="mine")
    assert json.loads(answer.content)["items"] == []
    XksRequest.objects.update(vault_id=None)
    assert ask(cast, kms_request_id="mine") == []


def test_the_command_finds_it_in_whatever_vault(
    cast: Cast, key: CloudKey, chain: JournalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "check_database", lambda **_: None)
    store(chain, key, {"kms_request_id": "mine", "outcome": "AccessDeniedException"})
    out = io.StringIO()
    call_command("xks_find_request", "mine", stdout=out, skip_checks=True)
    assert "node node-7" in out.getvalue()
    assert "AccessDeniedException" in out.getvalue()
    out = io.StringIO()
    call_command("xks_find_request", "mine", "--json", stdout=out, skip_checks=True)
    assert json.loads(out.getvalue())[0]["key_id"] == str(key.pk)
    with pytest.raises(CommandError, match="has not shipped it yet"):
        call_command("xks_find_request", "else", stdout=io.StringIO(), skip_checks=True)


def test_the_course_of_an_hour_and_a_day(cast: Cast, key: CloudKey, chain: JournalChain) -> None:
    now = timezone.now().replace(second=30)
    fast = [{"at": now.timestamp(), "microseconds": 150} for _ in range(98)]
    slow = [{"at": now.timestamp(), "microseconds": 9000, "outcome": "InternalException"} for _ in range(2)]
    store(chain, key, *fast, *slow, {"at": (now - timedelta(minutes=7)).timestamp(), "microseconds": 150})
    store(chain, key, {"at": (now - timedelta(hours=7)).timestamp(), "microseconds": 150})
    hour = course_of([key.store_id], "hour", now=now)
    assert len(hour.points) == 60
    last = hour.points[-1]
    assert (last.requests, last.errors) == (100, 2)
    assert last.p50_us == pytest.approx(150, rel=0.125)
    assert last.p99_us == pytest.approx(9000, rel=0.125)
    assert hour.points[-8].requests == 1
    assert (hour.points[-2].requests, hour.points[-2].p50_us) == (0, None)
    assert hour.total.requests == 101
    day = course_of([key.store_id], "day", now=now)
    assert (len(day.points), day.total.requests, day.points[-8].requests) == (24, 102, 1)
    assert course_of([uuid.uuid4()], "day", now=now).total.requests == 0


def test_who_may_see_the_course(cast: Cast, key: CloudKey) -> None:
    assert traffic_of_store(cast.actor("auditor"), key.store_id).total.requests == 0
    assert traffic_of_vault(cast.actor("owner"), cast.vault).span == "hour"
    with pytest.raises(NotFound):
        traffic_of_store(cast.actor("outsider"), key.store_id)
    with pytest.raises((NotFound, PermissionDenied)):
        traffic_of_vault(cast.actor("outsider"), cast.vault)


def test_buckets_are_a_quarter_wide() -> None:
    assert bucket_of(0) == bucket_of(9) == 0
    assert bucket_of(10) == 1
    for number in (11, 187, 999, 25_000, 10**7):
        bucket = bucket_of(number)
        assert BOUNDS[bucket] <= number < BOUNDS[bucket + 1]
        told = percentile({bucket: 1}, 0.5)
        assert told == pytest.approx(number, rel=0.135)
    assert bucket_of(10**12) == len(BOUNDS) - 1
    assert percentile({}, 0.5) is None
