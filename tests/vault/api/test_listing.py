"""Cursor pagination, filters, orderings, and the vault that a list belongs to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core import signing
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.cast import Cast
from vault.models import ApiToken, AuditEvent, Group, Membership, Role
from vault.services.tokens import create_token

GROUPS = "/api/v1/groups"


def walk(cast: Cast, path: str, who: str = "owner", **query: Any) -> list[dict[str, Any]]:
    """All items, page by page."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = cast.api(who).get(path, **query, **cursor)
        assert answer.status_code == 200, answer.content
        body = answer.json()
        found += body["items"]
        if body["next_cursor"] is None:
            assert "Link" not in answer
            return found
        assert f"cursor={body['next_cursor'].replace(':', '%3A')}" in answer["Link"]
        cursor = {"cursor": body["next_cursor"]}


@pytest.fixture
def many(cast: Cast) -> Cast:
    Group.objects.bulk_create(
        Group(vault=cast.vault, name=f"Group {n:02}", description="even" if n % 2 == 0 else "odd")
        for n in range(23)
    )
    return cast


@pytest.mark.parametrize("limit", [1, 5, 24, 200])
@pytest.mark.parametrize("ordering", ["name", "-name", "created_at", "-created_at"])
def test_pages_hold_every_row_once(many: Cast, limit: int, ordering: str) -> None:
    names = [item["name"] for item in walk(many, GROUPS, limit=limit, ordering=ordering)]
    assert len(names) == len(set(names)) == 24
    if ordering.endswith("name"):
        assert names == sorted(names, reverse=ordering.startswith("-"))


def test_equal_values_do_not_lose_rows(cast: Cast) -> None:
    now = timezone.now()
    Group.objects.bulk_create(Group(vault=cast.vault, name=f"G{n}") for n in range(10))
    Group.objects.update(created_at=now)
    assert len(walk(cast, GROUPS, limit=3, ordering="created_at")) == 11


@pytest.mark.parametrize("ordering", ["last_used_at", "-last_used_at"])
def test_nulls_come_last_on_every_database(cast: Cast, ordering: str) -> None:
    owner = cast.actor("owner")
    tokens = [create_token(owner, name=f"t{n}").token for n in range(6)]
    for days, token in enumerate(tokens[:3]):
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=timezone.now() - timedelta(days=days))
    client = cast.session("owner")
    names: list[str] = []
    cursor = {}
    while True:
        query = {"ordering": ordering, "limit": 2, **cursor}
        body = client.get("/api/v1/auth/tokens", query_params=query).json()
        names += [item["name"] for item in body["items"]]
        if body["next_cursor"] is None:
            break
        cursor = {"cursor": body["next_cursor"]}
    first = ["t2", "t1", "t0"] if ordering == "last_used_at" else ["t0", "t1", "t2"]
    assert names[:3] == first
    assert sorted(names[3:]) == ["t3", "t4", "t5"]


def test_rows_that_come_and_go_between_pages(many: Cast) -> None:
    first = many.api("owner").get(GROUPS, limit=10).json()
    Group.objects.filter(name__in=["Group 00", "Group 12"]).delete()
    Group.objects.create(vault=many.vault, name="Aaa, before the cursor")
    second = many.api("owner").get(GROUPS, limit=200, cursor=first["next_cursor"]).json()
    names = [item["name"] for item in second["items"]]
    assert names == [f"Group {n:02}" for n in range(9, 23) if n != 12]


def test_total(many: Cast) -> None:
    assert many.api("owner").get(GROUPS, limit=1).json()["total"] is None
    assert many.api("owner").get(GROUPS, limit=1, with_total="true", search="Group 0").json()["total"] == 10
    assert (
        many.api("owner").get(GROUPS, limit=1, search="Group 0", with_total="false").json()["total"] is None
    )


def test_what_fits_on_one_page_is_not_counted_again(many: Cast) -> None:
    api = many.api("owner")
    asked = {"with_total": "true", "search": "Group 0"}

    def counts(**query: Any) -> int:
        with CaptureQueriesContext(connection) as found:
            assert api.get(GROUPS, **asked, **query).json()["total"] == 10
        return sum("COUNT(*)" in one["sql"] for one in found)

    assert counts(limit=10) == 0
    assert counts(limit=9) == 1
    cursor = api.get(GROUPS, **asked, limit=9).json()["next_cursor"]
    assert counts(limit=9, cursor=cursor) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "٣"}, "limit"),
        ({"ordering": "password"}, "ordering"),
        ({"ordering": "--name"}, "ordering"),
        ({"ordering": "vault__name"}, "ordering"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": ""}, "cursor"),
        ({"cursor": signing.dumps(["name", "x", "y"], salt="another")}, "cursor"),
        ({"with_total": "1"}, "with_total"),
        ({"nmae": "x"}, "nmae"),
        ({"search": ""}, "search"),
        ({"search": "a\x00b"}, "search"),
        ({"search": "x" * 201}, "search"),
        ({"search": ["a", "b"]}, "search"),
        ({"limit": ["1", "2"]}, "limit"),
        ({"vault": "x"}, "vault"),
        ({"vault": "\x00"}, "vault"),
    ],
)
def test_wrong_parameters_are_named(cast: Cast, query: dict[str, Any], field: str) -> None:
    answer = cast.api("owner").get(GROUPS, **query)
    assert answer.status_code == 400
    body = answer.json()
    assert body["field"] == field
    assert body["errors"][0]["field"] == field
    assert body["cure"]


def test_a_cursor_belongs_to_its_ordering(many: Cast) -> None:
    cursor = many.api("owner").get(GROUPS, limit=5).json()["next_cursor"]
    answer = many.api("owner").get(GROUPS, limit=5, ordering="-name", cursor=cursor)
    assert answer.status_code == 400
    assert answer.json()["field"] == "cursor"


def test_choices_may_be_repeated(cast: Cast) -> None:
    found = walk(cast, "/api/v1/members", role=["AUDITOR", "CLOUD_ADMIN"])
    assert {item["role"] for item in found} == {"AUDITOR", "CLOUD_ADMIN"}
    answer = cast.api("owner").get("/api/v1/members", role="KING")
    assert answer.status_code == 400
    assert "VAULT_ADMIN" in answer.json()["detail"]


def test_moments(cast: Cast) -> None:
    for days in range(4):
        event = AuditEvent.objects.create(
            vault=cast.vault, actor_type="user", via="api", action="vault:group:create"
        )
        AuditEvent.objects.filter(pk=event.pk).update(at=timezone.now() - timedelta(days=days))
    since = (timezone.now() - timedelta(days=1, hours=12)).isoformat()
    path = "/api/v1/audit-events"
    assert len(walk(cast, path, since=since, action="vault:group:create")) == 2
    assert len(walk(cast, path, until=since, action="vault:group:create")) == 2
    for wrong in (
        "yesterday",
        "2026-11-22T14:00:00",
        "2026-13-01",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-10:00",
    ):
        answer = cast.api("owner").get(path, since=wrong)
        assert answer.status_code == 400, wrong
        assert answer.json()["field"] == "since"


def test_the_vault_is_found_for_who_has_one_and_asked_of_who_has_several(cast: Cast) -> None:
    assert cast.api("owner").get(GROUPS).status_code == 200
    Membership.objects.create(vault=cast.other_vault, user=cast.users["owner"], role=Role.AUDITOR)
    answer = cast.api("owner").get(GROUPS)
    assert answer.status_code == 400
    assert answer.json()["field"] == "vault"
    assert cast.api("owner").get(GROUPS, vault=str(cast.other_vault.pk)).json()["items"] == []
    assert cast.api("owner").get(GROUPS, vault=str(uuid4())).status_code == 404


def test_a_token_of_one_vault_need_not_name_it_and_sees_no_other(cast: Cast) -> None:
    from tests.cast import ApiClient

    Membership.objects.create(vault=cast.other_vault, user=cast.users["owner"], role=Role.VAULT_ADMIN)
    made = create_token(cast.actor("owner"), name="one", vault_id=cast.vault.pk)
    client = ApiClient(made.secret.reveal_text())
    assert client.get(GROUPS).json()["items"][0]["vault"]["name"] == "Payments"
    assert client.get(GROUPS, vault=str(cast.other_vault.pk)).status_code == 404
    assert [vault["name"] for vault in client.get("/api/v1/vaults").json()["items"]] == ["Payments"]


@pytest.mark.parametrize(
    "path", ["/api/v1/members", GROUPS, "/api/v1/vaults", "/api/v1/audit-events", "/api/v1/nodes"]
)
def test_the_number_of_queries_does_not_grow(
    cast: Cast, path: str, django_assert_max_num_queries: Any
) -> None:
    from tests.cast import new_user

    for n in range(20):
        user = new_user(f"person{n}")
        membership = Membership.objects.create(vault=cast.vault, user=user, role=Role.AUDITOR)
        cast.group.members.add(membership)
        Group.objects.create(vault=cast.vault, name=f"G{n}").members.add(membership)
    cast.api("owner").get(path)
    with django_assert_max_num_queries(9):
        assert cast.api("owner").get(path).status_code == 200
