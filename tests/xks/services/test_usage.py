"""Usage of a key: last uses, by whom, blast radius, and an answer about deletion that never says too much."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from cloudkeys.models import CloudKey
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key
from vault.errors import NotFound
from vault.models import Node
from xks.models import JournalChain, UsageHour
from xks.services.usage import safe_to_delete, usage_of

pytestmark = pytest.mark.django_db
S3 = "s3.eu-west-1.amazonaws.com"


@pytest.fixture
def key(cast: Cast) -> CloudKey:
    return owned_key(cast)


def use(key: CloudKey, ago: timedelta, **changes: Any) -> None:
    at = timezone.now() - ago
    fields: dict[str, Any] = {
        "hour": at.replace(minute=0, second=0, microsecond=0),
        "store_id": str(key.store_id),
        "key_id": str(key.pk),
        "operation": "encrypt",
        "principal_arn": "arn:aws:iam::1:role/app",
        "kms_via_service": S3,
        "outcome": "OK",
        "count": 2,
        "last_at": at,
        **changes,
    }
    UsageHour.objects.create(**fields)


def recorded_since(days: float, **changes: Any) -> datetime:
    fields = {"end": "CLEAN", "ended_at": timezone.now(), **changes}
    chain = JournalChain.objects.create(node_name="node-1", process="p", sealed_mac="", **fields)
    at = timezone.now() - timedelta(days=days)
    JournalChain.objects.filter(pk=chain.pk).update(started_at=at)
    return at


def aged(key: CloudKey, days: float) -> CloudKey:
    CloudKey.objects.filter(pk=key.pk).update(created_at=timezone.now() - timedelta(days=days))
    key.refresh_from_db()
    return key


def test_last_uses_and_sums(cast: Cast, key: CloudKey) -> None:
    use(key, timedelta(hours=3))
    use(key, timedelta(hours=2), operation="decrypt", count=5)
    use(key, timedelta(hours=1), operation="decrypt", outcome="InvalidStateException", count=9)
    use(key, timedelta(hours=1), operation="metadata", count=100)
    use(key, timedelta(days=3), principal_arn="arn:aws:iam::1:user/ada", kms_via_service="", count=1)
    told = usage_of(cast.actor("auditor"), key.pk)
    assert told["last_encrypt_at"] > told["last_decrypt_at"] - timedelta(hours=2)
    assert timezone.now() - told["last_decrypt_at"] >= timedelta(hours=2)  # a refused one is no use
    assert sum(day["decrypt"] for day in told["by_day"]) == 5
    assert sum(day["encrypt"] for day in told["by_day"]) == 3
    assert sum(day["refused"] for day in told["by_day"]) == 9
    assert [one["name"] for one in told["by_service"]] == [S3, ""]
    assert told["by_principal"][0] == {
        "name": "arn:aws:iam::1:role/app",
        "encrypt": 2,
        "decrypt": 5,
        "last_at": told["last_decrypt_at"],
    }
    radius = {one["days"]: one for one in told["blast_radius"]}
    assert (radius[1]["principals"], radius[7]["principals"]) == (1, 2)
    assert radius[1]["services"] == [{"name": S3, "principals": 1}]
    assert radius[90]["uses"] == 8


def test_other_keys_and_other_people(cast: Cast, key: CloudKey) -> None:
    use(key, timedelta(hours=1), key_id="another")
    assert usage_of(cast.actor("owner"), key.pk)["last_encrypt_at"] is None
    with pytest.raises(NotFound):
        usage_of(cast.actor("outsider"), key.pk)


def answer(key: CloudKey) -> str:
    return safe_to_delete(key, timezone.now()).answer


def test_used_of_late_is_no_whatever_else(key: CloudKey) -> None:
    use(key, timedelta(days=80), operation="decrypt")
    assert answer(key) == "NO"


def test_nothing_recorded_is_never_yes(key: CloudKey) -> None:
    assert answer(key) == "NOT_KNOWN"


def test_its_whole_life_on_record_and_never_used(key: CloudKey) -> None:
    recorded_since(10)
    assert answer(aged(key, 5)) == "YES"
    use(key, timedelta(days=4), operation="encrypt", outcome="InvalidStateException")  # refused
    assert answer(key) == "YES"


def test_older_than_the_record(key: CloudKey) -> None:
    recorded_since(10)
    assert answer(aged(key, 20)) == "NOT_KNOWN"


def test_long_unused_is_not_yes(key: CloudKey) -> None:
    recorded_since(400)
    use(aged(key, 300), timedelta(days=200))
    found = safe_to_delete(key, timezone.now())
    assert found.answer == "UNUSED"
    assert "may still lie somewhere" in found.reasons[1]
    assert answer(aged(key, 500)) == "UNUSED"


@pytest.mark.parametrize("end", ["LOST", "DAMAGED"])
def test_a_gap_in_the_record_is_never_yes(key: CloudKey, end: str) -> None:
    recorded_since(400, end=end, ended_at=timezone.now())
    found = safe_to_delete(aged(key, 5), timezone.now())
    assert (found.answer, found.gaps) == ("NOT_KNOWN", 1)


def test_a_node_that_was_lost_with_its_journal_is_a_gap(key: CloudKey) -> None:
    recorded_since(10)
    aged(key, 5)
    recorded_since(4, end="", ended_at=None)
    assert answer(key) == "NOT_KNOWN"
    Node.objects.create(name="node-1", started_at=timezone.now(), last_seen_at=timezone.now())
    assert answer(key) == "YES"  # it lives, and goes on counting
    Node.objects.update(last_seen_at=timezone.now() - timedelta(hours=2))
    assert answer(key) == "NOT_KNOWN"


def test_an_imported_key_may_have_been_used_elsewhere(key: CloudKey) -> None:
    recorded_since(10)
    CloudKey.objects.filter(pk=key.pk).update(origin="imported")
    assert answer(aged(key, 5)) == "NOT_KNOWN"
