"""A repeated POST makes nothing twice and shows no secret again."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from cloudkeys.models import CloudKey, Operation
from tests.cast import Cast
from tests.cloudkeys.api.world import CREATIONS, rows
from tests.cloudkeys.matrix import owned_key_set
from tests.cloudkeys.world import new_key
from vault.api import idempotency
from vault.models import IdempotencyRecord


@pytest.mark.parametrize("name", CREATIONS)
def test_a_repeat_makes_nothing_and_shows_no_secret(name: str, cast: Cast) -> None:
    creation = CREATIONS[name]
    path, body, api = creation.path(cast), creation.body(cast), cast.api("owner")
    first = api.post(path, body, key="k1")
    assert first.status_code == creation.status, first.content
    after = rows()
    again = api.post(path, body, key="k1")
    assert again.status_code == creation.status, again.content
    assert again.headers["Idempotency-Replayed"] == "true"
    assert rows() == after
    expected: dict[str, Any] = {**first.json(), "idempotency_replayed": True}
    for field in creation.secrets:
        assert first.json()[field]
        expected[field] = None
    assert again.json() == expected


@pytest.mark.parametrize("name", CREATIONS)
def test_what_was_made_is_noted_in_the_very_transaction(
    name: str, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that a process which dies between commit and answer leaves enough for the repeat.
    noted: list[tuple[Any, Any]] = []
    note = idempotency._note_made

    def spy(record: IdempotencyRecord, *more: Any) -> None:
        note(record, *more)
        assert connection.in_atomic_block
        noted.append((record.target_id, record.operation_id))

    monkeypatch.setattr(idempotency, "_note_made", spy)
    creation = CREATIONS[name]
    path, body = creation.path(cast), creation.body(cast)
    answer = cast.api("owner").post(path, body, key="k1").json()
    made = answer.get("cloud_key") or answer.get("link") or answer
    operation = answer.get("operation")
    assert [(str(target), str(work) if work else None) for target, work in noted] == [
        (made["id"], operation["id"] if operation else None)
    ]


def test_a_csv_that_began_is_not_begun_again_and_a_dry_run_looks_again(cast: Cast) -> None:
    api = cast.api("owner")
    key_set = owned_key_set(cast)
    body = {"key_set": str(key_set.pk), "csv": "name,region\na,eu-west-1\n", "dry_run": True}
    assert api.post("/api/v1/cloud-keys/csv", body, key="dry").json()["ok"] is True
    assert not IdempotencyRecord.objects.exists()
    new_key(cast.actor("owner"), key_set, name="a")
    assert api.post("/api/v1/cloud-keys/csv", body, key="dry").json()["ok"] is False
    body = {**body, "csv": "name,region\nb,eu-west-1\n", "dry_run": False}
    first = api.post("/api/v1/cloud-keys/csv", body, key="real")
    again = api.post("/api/v1/cloud-keys/csv", body, key="real")
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["operation"]["id"] == first.json()["operation"]["id"]
    assert Operation.objects.filter(kind="cloud_keys.csv_create").count() == 1


def test_a_bulk_act_is_begun_once(cast: Cast) -> None:
    api = cast.api("owner")
    key = new_key(cast.actor("owner"), owned_key_set(cast))
    body = {"action": "disable", "ids": [str(key.pk)]}
    first = api.post("/api/v1/cloud-keys/bulk", body, key="k")
    again = api.post("/api/v1/cloud-keys/bulk", body, key="k")
    assert first.status_code == 202
    assert again.json() == {**first.json(), "idempotency_replayed": True}
    assert Operation.objects.count() == 1


def test_what_is_gone_or_no_longer_yours_is_not_made_anew(cast: Cast) -> None:
    api = cast.api("owner")
    body = {"key_set": str(owned_key_set(cast).pk), "name": "a", "region": "eu-west-1"}
    made = api.post("/api/v1/cloud-keys", body, key="k").json()["cloud_key"]["id"]
    CloudKey.objects.get(pk=made).versions.all().delete()
    CloudKey.objects.filter(pk=made).delete()
    again = api.post("/api/v1/cloud-keys", body, key="k")
    assert (again.status_code, again.json()["code"]) == (409, "idempotency_target_gone")
    assert not CloudKey.objects.filter(name="a").exists()


def test_a_refused_request_frees_its_key(cast: Cast) -> None:
    api = cast.api("owner")
    body = {"key_set": str(owned_key_set(cast).pk), "name": "not an alias", "region": "eu-west-1"}
    assert api.post("/api/v1/cloud-keys", body, key="k").status_code == 400
    assert api.post("/api/v1/cloud-keys", {**body, "name": "alias"}, key="k").status_code == 201
