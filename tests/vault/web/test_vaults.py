"""The vaults' pages, tried by each of the cast."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.urls import reverse

from tests.cast import WHO, Cast
from tests.web import Browser, text_of
from vault.models import AuditEvent, User, Vault

LIST = "/appliance/vaults/"
NEW = "/appliance/vaults/new/"
FIELDS = {
    "type": "CLOUD_KEY_MANAGEMENT",
    "name": "Research",
    "description": "",
    "admin_name": "Rosa",
    "admin_email": "rosa@example.com",
}


def address(verb: str, vault: Vault) -> str:
    return reverse(f"vault-{verb}", args=[vault.pk])


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("verb", ["", "create", "detail", "edit", "disable", "enable", "destroy"])
def test_only_the_appliance_admin_sees_them(cast: Cast, who: str, verb: str) -> None:
    url = LIST if not verb else NEW if verb == "create" else address(verb, cast.vault)
    answer = Browser(cast, who).get(url)
    if who == "anonymous":
        assert answer.status_code == 302
        assert answer["Location"].startswith("/accounts/login/?next=")
    else:
        assert answer.status_code == (200 if who == "appliance" else 404)


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("verb", ["block", "unblock"])
def test_who_may_block(cast: Cast, who: str, verb: str) -> None:
    answer = Browser(cast, who).get(address(verb, cast.vault))
    expected = {
        "owner": 200,
        "colleague": 403,
        "auditor": 403,
        "outsider": 404,
        "appliance": 404,
        "anonymous": 302,
    }
    assert answer.status_code == expected[who]


@pytest.mark.parametrize("who", ["owner", "colleague", "auditor", "outsider"])
def test_the_server_refuses_whatever_is_shown(cast: Cast, who: str) -> None:
    client = Browser(cast, who)
    token = client.hidden("/accounts/profile/")
    assert client.send(address("disable", cast.vault), token, reason="no").status_code == 404
    assert client.send(NEW, token, **FIELDS).status_code == 404
    cast.vault.refresh_from_db()
    assert cast.vault.state == "ENABLED"
    assert not Vault.objects.filter(name="Research").exists()


def test_the_list_filters_as_the_api_does(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    assert "Payments" in text_of(admin.get(LIST))
    Vault.objects.filter(pk=cast.other_vault.pk).update(state="DISABLED")
    part = admin.get(LIST, target="list", state="DISABLED", search="")
    assert b"<html" not in part.content
    assert "Elsewhere" in text_of(part)
    assert "Payments" not in text_of(part)
    assert "State: Disabled" in text_of(part)
    wrong = admin.get(LIST, state="NONSENSE")
    assert wrong.status_code == 400
    assert "is not one of" in text_of(wrong)


def test_columns_are_chosen_in_the_address_and_remembered(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    assert "Created</a>" in admin.get(LIST).content.decode()
    assert "Created</a>" not in admin.get(LIST, columns=["state"]).content.decode()
    assert "Created</a>" not in admin.get(LIST).content.decode()


def test_a_vault_is_made_once_and_its_password_shown_once(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    hidden = admin.hidden(NEW)
    first = admin.send(NEW, hidden, **FIELDS)
    assert first.status_code == 200
    assert "Shown this once" in text_of(first)
    made = Vault.objects.get(name="Research")
    again = admin.send(NEW, hidden, **FIELDS)
    assert (again.status_code, again["Location"]) == (303, address("detail", made))
    assert Vault.objects.filter(name="Research").count() == 1
    assert User.objects.filter(email="rosa@example.com").count() == 1
    shown = text_of(admin.get(address("detail", made)))
    assert "was sent before" in shown


def test_a_refused_form_keeps_what_was_typed_and_may_be_sent_again(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    hidden = admin.hidden(NEW)
    answer = admin.send(NEW, hidden, **{**FIELDS, "name": "Payments", "description": "kept words"})
    assert answer.status_code == 422
    assert "Another vault has this name. Choose another name." in text_of(answer)
    assert b"kept words" in answer.content
    assert b'aria-invalid="true"' in answer.content
    assert admin.send(NEW, hidden, **FIELDS).status_code == 200


def test_the_second_of_two_windows_is_told(cast: Cast) -> None:
    one, two = Browser(cast, "appliance"), Browser(cast, "appliance")
    url = address("edit", cast.vault)
    seen = two.hidden(url)
    assert one.send(url, name="Payments EU", description="").status_code == 303
    refused = two.send(url, seen, name="Payments US", description="")
    assert refused.status_code == 412
    words = text_of(refused)
    assert "changed this while you had it open" in words
    assert "Payments EU" in words
    assert "Payments US" in words
    cast.vault.refresh_from_db()
    assert cast.vault.name == "Payments EU"
    # Having seen it, the person decides.
    decided = {**seen, "revision": str(cast.vault.revision)}
    assert two.send(url, decided, name="Payments US", description="").status_code == 303


def test_disable_asks_why_and_says_what_happened(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    url = address("disable", cast.vault)
    assert "cannot be read by any service" in text_of(admin.get(url))
    assert admin.send(url, reason="").status_code == 422
    answer = admin.send(url, reason="Contract ended")
    assert (answer.status_code, answer["Location"]) == (303, address("detail", cast.vault))
    assert "Payments is disabled." in text_of(admin.get(address("detail", cast.vault)))
    event = AuditEvent.objects.get(action="vault:vault:disable")
    assert (event.reason, event.via, event.actor_name) == ("Contract ended", "web", "appliance@example.com")
    assert admin.send(address("enable", cast.vault), reason="").status_code == 303
    cast.vault.refresh_from_db()
    assert cast.vault.state == "ENABLED"


def test_block_and_unblock_by_the_vaults_own_admin(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    assert owner.send(address("block", cast.vault), reason="Incident").status_code == 303
    cast.vault.refresh_from_db()
    assert cast.vault.blocked
    assert owner.send(address("unblock", cast.vault), reason="").status_code == 303
    cast.vault.refresh_from_db()
    assert not cast.vault.blocked


def test_destroying_needs_a_disabled_vault_and_its_name(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    url = address("destroy", cast.vault)
    early = admin.send(url, reason="end", typed_name="Payments")
    assert early.status_code == 409
    assert "Disable it first" in text_of(early)
    Vault.objects.filter(pk=cast.vault.pk).update(state="DISABLED")
    wrong = admin.send(url, reason="end", typed_name="payments")
    assert wrong.status_code == 422
    assert "This is not the name" in text_of(wrong)
    assert admin.send(url, reason="end", typed_name="Payments").status_code == 303
    cast.vault.refresh_from_db()
    assert cast.vault.state == "DESTROYED"
    assert admin.get(url).status_code == 409


def test_a_dialog_is_the_same_page_without_its_frame(cast: Cast) -> None:
    admin = Browser(cast, "appliance")
    url = address("disable", cast.vault)
    part = admin.get(url, target="dialog").content.decode()
    assert "<html" not in part
    assert f'hx-post="{url}"' in part
    answer = admin.client.post(
        url, {**admin.hidden(url), "reason": "x"}, headers={"HX-Request": "true", "HX-Target": "dialog"}
    )
    assert (answer.status_code, answer["HX-Redirect"]) == (204, address("detail", cast.vault))


def test_a_vault_that_is_not_there(cast: Cast) -> None:
    assert Browser(cast, "appliance").get(reverse("vault-detail", args=[uuid4()])).status_code == 404


def test_the_list_asks_the_database_as_often_however_long_it_is(
    cast: Cast, django_assert_max_num_queries: object
) -> None:
    admin = Browser(cast, "appliance")
    admin.get(LIST)
    for number in range(40):
        Vault.objects.create(name=f"Vault {number}")
    with django_assert_max_num_queries(10):  # type: ignore[operator]
        answer = admin.get(LIST)
    assert "42 of 42" in text_of(answer)
