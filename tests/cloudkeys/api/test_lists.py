"""Lists: filters, orderings, pages; and a number of queries that does not grow with the rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from cloudkeys.models import CloudKey, KeySet, Operation
from tests.cast import ApiClient, Cast
from tests.cloudkeys.matrix import owned_account, owned_key, owned_key_set
from tests.cloudkeys.world import new_key, new_key_set, store_of

KEYS = "/api/v1/cloud-keys"


def names(api: ApiClient, **query: Any) -> list[str]:
    """Names of a list's first page."""
    answer = api.get(KEYS, **query)
    assert answer.status_code == 200, answer.content
    return [item["name"] for item in answer.json()["items"]]


def many_keys(key_set: KeySet, count: int) -> None:
    """Rows without material, for lists."""
    store = store_of(key_set)
    now = timezone.now()
    CloudKey.objects.bulk_create(
        CloudKey(
            vault=key_set.vault,
            key_set=key_set,
            csp_account=key_set.csp_account,
            store=store,
            name=f"key-{number:05}",
            region="eu-west-1",
            external_key_id=str(uuid4()),
            permitted_uses=["ENCRYPT", "DECRYPT"],
            rotated_at=now,
            next_rotation_at=now + timedelta(days=number) if number % 3 else None,
            expires_at=now + timedelta(days=number % 7) if number % 2 else None,
            state="ENABLED" if number % 4 else "DISABLED",
        )
        for number in range(count)
    )


@pytest.fixture
def api(cast: Cast) -> ApiClient:
    return cast.api("owner")


def test_filters(cast: Cast, api: ApiClient) -> None:
    owner, key_set = cast.actor("owner"), owned_key_set(cast)
    other = new_key_set(owner, cast.vault, owned_account(cast), name="other").key_set
    apple, pear = new_key(owner, key_set, "apple"), new_key(owner, other, "pear", region="us-east-1")
    now = timezone.now()
    CloudKey.objects.filter(pk=apple.pk).update(
        state="DISABLED",
        blocked=True,
        kms_key_id="12ab",
        next_rotation_at=now - timedelta(days=1),
        tags={"team": "pay", "1": "a=b"},
    )
    CloudKey.objects.filter(pk=pear.pk).update(
        expires_at=now + timedelta(days=1),
        retired_at=now,
        next_rotation_at=now - timedelta(days=1),
        tags={"team": "card", "note": ""},
    )
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["apple", "pear"]),
        ({"search": "PPL"}, ["apple"]),
        ({"search": pear.external_key_id}, ["pear"]),
        ({"search": "12ab"}, ["apple"]),
        ({"search": "12a"}, []),
        ({"search": "%"}, []),
        ({"state": "DISABLED"}, ["apple"]),
        ({"state": ["DISABLED", "ENABLED"]}, ["apple", "pear"]),
        ({"pointer_state": "LINKED"}, []),
        ({"kind": "HEALTH_CHECK"}, ["health-check", "health-check"]),
        ({"blocked": "true"}, ["apple"]),
        ({"region": "us-east-1"}, ["pear"]),
        ({"key_set": str(other.pk)}, ["pear"]),
        ({"store": str(store_of(key_set).pk)}, ["apple"]),
        ({"csp_account": str(owned_account(cast).pk)}, ["apple", "pear"]),
        ({"expires_before": (now + timedelta(days=2)).isoformat()}, ["pear"]),
        ({"rotates_before": now.isoformat()}, ["apple", "pear"]),
        ({"rotation_overdue": "true"}, ["pear"]),
        ({"rotation_overdue": "false"}, []),
        ({"retired": "true"}, ["pear"]),
        ({"retired": "false"}, ["apple"]),
        ({"due": "overdue"}, ["pear"]),
        ({"due": "rotates-7"}, ["pear"]),
        ({"due": "expires-30"}, ["pear"]),
        ({"due": ["overdue", "expires-90"]}, ["pear"]),
        ({"tag": "team"}, ["apple", "pear"]),
        ({"tag": "team=pay"}, ["apple"]),
        ({"tag": ["team", "1=a=b"]}, ["apple"]),
        ({"tag": "1"}, ["apple"]),
        ({"tag": "tea"}, []),
        ({"tag": "note="}, ["pear"]),
        ({"unused_for": "90"}, []),
    ]
    for query, wanted in expected:
        assert names(api, **query) == wanted, query


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"state": "ON"}, "state"),
        ({"blocked": "yes"}, "blocked"),
        ({"key_set": "5"}, "key_set"),
        ({"colour": "red"}, "colour"),
        ({"ordering": "material"}, "ordering"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"cursor": "made-up"}, "cursor"),
        ({"expires_before": "tomorrow"}, "expires_before"),
        ({"search": ""}, "search"),
        ({"due": "soon"}, "due"),
        ({"unused_for": "0"}, "unused_for"),
        ({"unused_for": "x"}, "unused_for"),
        ({"tag": 'a"b'}, "tag"),
        ({"tag": "=b"}, "tag"),
        ({"search": "a\x00"}, "search"),
        ({"vault": "x"}, "vault"),
    ],
)
def test_wrong_parameters_are_named(api: ApiClient, query: dict[str, str], field: str) -> None:
    answer = api.get(KEYS, **query)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


@pytest.mark.parametrize("ordering", ["name", "created_at", "next_rotation_at", "expires_at", "state"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_pages_hold_each_row_once_in_every_ordering(
    cast: Cast, api: ApiClient, ordering: str, sign: str
) -> None:
    many_keys(owned_key_set(cast), 30)
    seen: list[dict[str, Any]] = []
    query: dict[str, Any] = {"ordering": sign + ordering, "limit": "7"}
    while True:
        answer = api.get(KEYS, **query).json()
        seen += answer["items"]
        if answer["next_cursor"] is None:
            break
        query["cursor"] = answer["next_cursor"]
    assert len(seen) == len({item["id"] for item in seen}) == 30
    values = [item[ordering] for item in seen]
    filled = [value for value in values if value is not None]
    assert filled == sorted(filled, reverse=bool(sign))
    assert values[len(filled) :] == [None] * (30 - len(filled))


def test_total_and_link_header(cast: Cast, api: ApiClient) -> None:
    many_keys(owned_key_set(cast), 12)
    answer = api.get(KEYS, limit="5", with_total="true", state="ENABLED")
    assert answer.json()["total"] == 9
    assert answer.headers["Link"].endswith('>; rel="next"')
    assert "state=ENABLED" in answer.headers["Link"]
    assert api.get(KEYS).json()["total"] is None


@pytest.mark.parametrize(
    "ordering", ["name", "-name", "state", "created_at", "next_rotation_at", "-expires_at"]
)
def test_a_search_tells_how_many_there_are(cast: Cast, api: ApiClient, ordering: str) -> None:
    many_keys(owned_key_set(cast), 12)
    plain = api.get(KEYS, limit="5", ordering=ordering, search="KEY-0").json()
    asked = {"limit": "5", "ordering": ordering, "search": "KEY-0", "with_total": "true"}
    first = api.get(KEYS, **asked).json()
    assert first["items"] == plain["items"]
    assert (first["total"], len(first["items"])) == (12, 5)
    assert api.get(KEYS, **asked, cursor=first["next_cursor"]).json()["total"] == 12
    none = api.get(KEYS, **{**asked, "search": "nothing"}).json()
    assert (none["total"], none["items"], none["next_cursor"]) == (0, [], None)


def test_a_search_reads_every_name_once(cast: Cast, api: ApiClient) -> None:
    many_keys(owned_key_set(cast), 12)
    with CaptureQueriesContext(connection) as asked:
        assert api.get(KEYS, limit="5", search="key-0", with_total="true").json()["total"] == 12
    assert len([one for one in asked if "LIKE" in one["sql"]]) == 1


QUERIES = {
    "cloud-keys": "cloud-keys",
    "ordered": "cloud-keys?ordering=-next_rotation_at",
    "searched": "cloud-keys?search=key-000",
    "key-sets": "key-sets",
    "stores": "xks-key-stores",
    "links": "aws-store-links",
    "operations": "operations",
    "accounts": "csp-accounts",
}


def cost(api: ApiClient, path: str) -> int:
    """Number of queries of a GET."""
    with CaptureQueriesContext(
        connection,
    ) as captured:
        answer = api.django.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.content
    return len(captured)


@pytest.mark.parametrize("name", QUERIES)
def test_queries_do_not_grow_with_rows(name: str, cast: Cast, api: ApiClient) -> None:
    owner, account = cast.actor("owner"), owned_account(cast)

    def sets(first: int, last: int) -> None:
        for number in range(first, last):
            made = new_key_set(
                owner,
                cast.vault,
                account,
                name=f"set-{number}",
                links=[],
            )
            store = store_of(made.key_set)
            many_keys_named(made.key_set, number)
            Operation.objects.create(
                vault=cast.vault,
                kind="cloud_key.refresh",
                target_type="cloudkey",
                target_id=uuid4(),
                steps=[],
            )
            store.links.create(
                vault=cast.vault, region="eu-west-1", name="x", endpoint="https://x.example.com"
            )

    sets(0, 2)
    cost(api, QUERIES[name])  # the first request may fill caches
    few = cost(api, QUERIES[name])
    sets(2, 12)
    assert cost(api, QUERIES[name]) <= few
    assert few <= 12


def many_keys_named(key_set: KeySet, number: int) -> None:
    """One key with its own account."""
    CloudKey.objects.create(
        vault=key_set.vault,
        key_set=key_set,
        csp_account=key_set.csp_account,
        store=store_of(key_set),
        name=f"key-{number:05}",
        region="eu-west-1",
        external_key_id=str(uuid4()),
        rotated_at=timezone.now(),
    )


def test_a_detail_costs_the_same_with_ten_times_the_keys(cast: Cast, api: ApiClient) -> None:
    key = owned_key(cast)
    many_keys(key.key_set, 20)
    path = f"cloud-keys/{key.pk}"
    cost(api, path)
    few = cost(api, path)
    CloudKey.objects.filter(name__startswith="key-").delete()
    many_keys(key.key_set, 200)
    assert cost(api, path) == few
    assert few <= 8
    assert cost(api, "cloud-keys") <= 8


def test_an_export_streams_all_in_a_constant_number_of_queries(cast: Cast, api: ApiClient) -> None:
    many_keys(owned_key_set(cast), 10)
    cost(api, "cloud-keys")  # the first request of a token also notes its use
    with CaptureQueriesContext(connection) as few:
        assert len(b"".join(api.get(f"{KEYS}/export").streaming_content).splitlines()) == 10  # type: ignore[attr-defined]
    CloudKey.objects.filter(name__startswith="key-").delete()
    many_keys(KeySet.objects.get(), 60)
    with CaptureQueriesContext(connection) as many:
        lines = b"".join(api.get(f"{KEYS}/export").streaming_content).splitlines()  # type: ignore[attr-defined]
    assert [json.loads(line)["name"] for line in lines] == [f"key-{number:05}" for number in range(60)]
    assert len(many) == len(few)


def test_dates_of_a_key_are_those_of_its_schedule(cast: Cast, api: ApiClient) -> None:
    key = owned_key(cast)
    when = datetime(2027, 1, 2, 3, 4, 5, 123000, tzinfo=UTC)
    CloudKey.objects.filter(pk=key.pk).update(expires_at=when)
    assert api.get(f"{KEYS}/{key.pk}").json()["expires_at"] == "2027-01-02T03:04:05.123000Z"
