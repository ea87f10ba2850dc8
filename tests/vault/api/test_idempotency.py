"""A POST with an Idempotency-Key makes its object once, whatever happens in between, and no secret is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.cast import Cast
from vault.api import idempotency
from vault.models import ApiToken, Group, IdempotencyRecord, Membership, User, Vault
from vault.services import vaults

GROUPS = "/api/v1/groups"
VAULTS = "/api/v1/vaults"
NEW_VAULT = {"name": "New", "admin_name": "Grace", "admin_email": "grace@example.com"}


def test_a_repeat_makes_nothing_and_says_so(cast: Cast) -> None:
    first = cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1")
    again = cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first
    assert first.json()["idempotency_replayed"] is False
    assert again.json() == {**first.json(), "idempotency_replayed": True}
    assert Group.objects.filter(name="Team").count() == 1


def test_the_order_of_fields_does_not_matter(cast: Cast) -> None:
    cast.api("owner").post(GROUPS, {"name": "Team", "description": "x"}, key="k1")
    again = cast.api("owner").post(GROUPS, {"description": "x", "name": "Team"}, key="k1")
    assert again.json()["idempotency_replayed"] is True


def test_a_repeat_holds_no_secret_and_nothing_stored_does(cast: Cast) -> None:
    first = cast.api("appliance").post(VAULTS, NEW_VAULT, key="k1").json()
    again = cast.api("appliance").post(VAULTS, NEW_VAULT, key="k1").json()
    password = first["one_time_password"]
    assert password
    assert again["one_time_password"] is None
    assert again["id"] == first["id"]
    assert password not in str(IdempotencyRecord.objects.values())
    assert User.objects.get(email="grace@example.com").check_password(password)


def test_a_token_is_shown_once(cast: Cast) -> None:
    client = cast.session("owner")
    headers = {"X-CSRFToken": client.get("/api/v1/auth/me").json()["csrf_token"], "Idempotency-Key": "k1"}
    first, again = (
        client.post("/api/v1/auth/tokens", '{"name": "ci"}', "application/json", headers=headers).json()
        for _ in "12"
    )
    assert first["token"].startswith("kst_")
    assert again["token"] is None
    assert ApiToken.objects.filter(name="ci").count() == 1


def test_another_body_is_refused(cast: Cast) -> None:
    cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1")
    other = cast.api("owner").post(GROUPS, {"name": "Crew"}, key="k1")
    assert other.status_code == 422
    assert other.json()["field"] == "Idempotency-Key"
    assert not Group.objects.filter(name="Crew").exists()


def test_keys_belong_to_a_person_and_an_address(cast: Cast) -> None:
    cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1")
    view = {"page": "cloud-keys", "name": "Mine"}
    assert (
        cast.api("owner").post("/api/v1/saved-views", view, key="k1").json()["idempotency_replayed"] is False
    )
    stranger = cast.api("outsider").post(GROUPS, {"name": "Team"}, key="k1")
    assert stranger.json()["idempotency_replayed"] is False
    assert stranger.json()["vault"]["name"] == "Elsewhere"


@pytest.mark.parametrize("key", ["a b", "ü", "x" * 256, "", "\t"])
def test_malformed_keys(cast: Cast, key: str) -> None:
    answer = cast.api("owner").post(GROUPS, {"name": "Team"}, key=key)
    assert answer.status_code == 400
    assert answer.json()["field"] == "Idempotency-Key"
    assert not Group.objects.filter(name="Team").exists()


def test_a_failure_frees_the_key(cast: Cast) -> None:
    Group.objects.create(vault=cast.vault, name="Team")
    refused = cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1")
    assert refused.status_code == 400
    Group.objects.filter(name="Team").delete()
    assert cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1").status_code == 201


def test_a_body_that_is_not_valid_takes_no_key(cast: Cast) -> None:
    assert cast.api("owner").post(GROUPS, {"nmae": "Team"}, key="k1").status_code == 400
    assert cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1").json()["idempotency_replayed"] is False


def test_while_the_first_still_runs(cast: Cast) -> None:
    record = open_record(cast)
    answer = cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1")
    assert answer.status_code == 409
    assert answer.json()["code"] == "idempotency_in_progress"
    assert answer["Retry-After"] == "1"
    other = cast.api("owner").post(GROUPS, {"name": "Other"}, key="k1")
    assert other.status_code == 422
    assert IdempotencyRecord.objects.filter(pk=record.pk).exists()


def open_record(cast: Cast, **more: Any) -> IdempotencyRecord:
    """What a request leaves that has begun and not ended."""
    return IdempotencyRecord.objects.create(
        user=cast.users["owner"],
        key="k1",
        method_path=f"POST {GROUPS}",
        request_digest=idempotency._digest({"name": "Team"}),
        **more,
    )


def test_a_process_that_died_before_making_anything(cast: Cast) -> None:
    record = open_record(cast)
    IdempotencyRecord.objects.filter(pk=record.pk).update(
        created_at=timezone.now() - idempotency.ABANDONED * 2
    )
    answer = cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1")
    assert answer.json()["idempotency_replayed"] is False


def test_a_process_that_died_after_its_commit(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vault is committed, then the mail is what the process dies in: a repeat finds the vault."""

    def die(*args: Any, **more: Any) -> bool:
        raise SystemExit

    monkeypatch.setattr(vaults.mail, "mail_one_time_password", die)
    with pytest.raises(SystemExit):
        cast.api("appliance").post(VAULTS, NEW_VAULT, key="k1")
    record = IdempotencyRecord.objects.get()
    assert record.target_id == Vault.objects.get(name="New").pk
    IdempotencyRecord.objects.update(created_at=timezone.now() - idempotency.ABANDONED * 2)
    monkeypatch.undo()
    again = cast.api("appliance").post(VAULTS, NEW_VAULT, key="k1")
    assert again.status_code == 201
    assert again.json()["idempotency_replayed"] is True
    assert Vault.objects.filter(name="New").count() == 1


def test_the_member_not_the_account_is_what_was_made(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: Any, **more: Any) -> bool:
        raise SystemExit

    monkeypatch.setattr("vault.mail.mail_one_time_password", die)
    body = {"email": "grace@example.com", "role": "AUDITOR"}
    with pytest.raises(SystemExit):
        cast.api("owner").post("/api/v1/members", body, key="k1")
    record = IdempotencyRecord.objects.get()
    assert record.target_id == Membership.objects.get(user__email="grace@example.com").pk


def test_what_was_made_is_gone(cast: Cast) -> None:
    cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1")
    Group.objects.filter(name="Team").delete()
    again = cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1")
    assert again.status_code == 409
    assert again.json()["code"] == "idempotency_target_gone"
    assert not Group.objects.filter(name="Team").exists()


def test_who_lost_the_vault_reads_nothing_by_a_repeat(cast: Cast) -> None:
    cast.api("owner").post(GROUPS, {"name": "Team", "vault": str(cast.vault.pk)}, key="k1")
    cast.memberships["owner"].delete()
    again = cast.api("owner").post(GROUPS, {"name": "Team", "vault": str(cast.vault.pk)}, key="k1")
    assert again.status_code == 409
    assert b"Team" not in again.content


def test_records_are_forgotten_after_a_day(cast: Cast) -> None:
    cast.api("owner").post(GROUPS, {"name": "Team"}, key="k1")
    IdempotencyRecord.objects.update(created_at=timezone.now() - timedelta(hours=25))
    Group.objects.filter(name="Team").delete()
    assert cast.api("owner").post(GROUPS, {"name": "Team"}, key="k2").status_code == 201
    assert [record.key for record in IdempotencyRecord.objects.all()] == ["k2"]
