"""Two at once, really: on connections of their own, so that the database decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections

from tests.cast import ApiClient, Cast
from tests.cast import cast as make_cast
from vault.models import Group, Membership, Role, User, Vault
from vault.services.tokens import create_token

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def committed(transactional_db: None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cast]:
    """The cast, committed."""
    yield from make_cast.__wrapped__(None, tmp_path, monkeypatch)  # type: ignore[attr-defined]


def together(*acts: Callable[[], int]) -> list[int]:
    """Run all at the same moment, each in a thread with a database connection of its own; what each returned."""
    barrier = threading.Barrier(len(acts))
    results: list[int] = [0] * len(acts)

    def run(index: int, act: Callable[[], int]) -> None:
        try:
            barrier.wait(timeout=10)
            results[index] = act()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return results


def client(cast: Cast, who: str) -> ApiClient:
    return ApiClient(create_token(cast.actor(who), name="race").secret.reveal_text())


def test_one_key_makes_one_object(committed: Cast) -> None:
    clients = [client(committed, "owner") for _ in range(4)]
    seen = together(
        *(
            lambda api=api: api.post("/api/v1/groups", {"name": "Team"}, key="k1").status_code
            for api in clients
        )
    )
    assert set(seen) <= {201, 409}
    assert 201 in seen
    assert Group.objects.filter(name="Team").count() == 1
    again = clients[0].post("/api/v1/groups", {"name": "Team"}, key="k1")
    assert (again.status_code, again.json()["idempotency_replayed"]) == (201, True)


def test_two_admins_who_remove_each_other_leave_one(committed: Cast) -> None:
    second = committed.memberships["colleague"]
    Membership.objects.filter(pk=second.pk).update(role=Role.VAULT_ADMIN)
    first = committed.memberships["owner"]
    apis = client(committed, "owner"), client(committed, "colleague")
    seen = together(
        lambda: apis[0].delete(f"/api/v1/members/{second.pk}", if_match="*").status_code,
        lambda: apis[1].delete(f"/api/v1/members/{first.pk}", if_match="*").status_code,
    )
    assert seen.count(204) == 1
    assert set(seen) <= {204, 403, 404, 409}
    assert Membership.objects.filter(vault=committed.vault, role=Role.VAULT_ADMIN).count() == 1


def test_one_name_makes_one_vault_and_one_person(committed: Cast) -> None:
    body = {"name": "New", "admin_name": "Grace", "admin_email": "grace@example.com"}
    apis = [client(committed, "appliance") for _ in range(3)]
    seen = together(*(lambda api=api: api.post("/api/v1/vaults", body).status_code for api in apis))
    assert sorted(seen) == [201, 400, 400]
    assert Vault.objects.filter(name="New").count() == 1
    assert User.objects.filter(email="grace@example.com").count() == 1


def test_two_updates_of_one_revision(committed: Cast) -> None:
    path = f"/api/v1/groups/{committed.group.pk}"
    apis = [client(committed, "owner") for _ in range(2)]
    seen = together(
        *(
            lambda api=api, name=name: api.patch(path, {"name": name}, if_match='"1"').status_code
            for api, name in zip(apis, ("A", "B"), strict=True)
        )
    )
    assert sorted(seen) == [200, 412]
    group = Group.objects.get(pk=committed.group.pk)
    assert group.revision == 2
    assert connection.in_atomic_block is False
