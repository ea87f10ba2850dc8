"""Settings of a vault, one's own preferences, and a vault that demands a second factor."""

from __future__ import annotations

from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.urls import reverse

from tests.cast import WHO, Cast
from tests.web import Browser, text_of
from vault.models import AuditEvent, UserPreferences, Vault


def at(name: str, cast: Cast) -> str:
    return reverse(name, args=[cast.vault.pk])


def give_factor(cast: Cast, who: str) -> None:
    Authenticator.objects.create(user=cast.users[who], type=Authenticator.Type.TOTP, data={"secret": "x"})


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("name", ["settings", "settings-yours"])
def test_who_sees_them(cast: Cast, who: str, name: str) -> None:
    expected = {"outsider": 404, "appliance": 404, "anonymous": 302}.get(who, 200)
    answer = Browser(cast, who).get(at(name, cast))
    assert answer.status_code == expected
    if name == "settings" and expected == 200:
        assert (b'id="settings-form"' in answer.content) == (who == "owner")


@pytest.mark.parametrize("who", ["colleague", "auditor", "outsider", "appliance"])
def test_the_server_refuses_whatever_is_shown(cast: Cast, who: str) -> None:
    browser = Browser(cast, who)
    token = browser.hidden("/accounts/profile/")
    answer = browser.send(at("settings", cast), token, name="Theirs", description="")
    assert answer.status_code in (403, 404)
    cast.vault.refresh_from_db()
    assert cast.vault.name == "Payments"


def test_name_and_description(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    assert owner.send(at("settings", cast), name="Payments EU", description="d").status_code == 303
    cast.vault.refresh_from_db()
    assert (cast.vault.name, cast.vault.description) == ("Payments EU", "d")
    taken = owner.send(at("settings", cast), name="Elsewhere", description="kept words")
    assert taken.status_code == 422
    assert "Another vault has this name." in text_of(taken)
    assert b"kept words" in taken.content


def test_the_second_of_two_windows_is_told(cast: Cast) -> None:
    owner, url = Browser(cast, "owner"), at("settings", cast)
    seen = owner.hidden(url)
    assert owner.send(url, name="One", description="").status_code == 303
    late = owner.send(url, seen, name="Two", description="")
    assert late.status_code == 412
    assert "One" in text_of(late)
    cast.vault.refresh_from_db()
    assert cast.vault.name == "One"


def test_whoever_demands_a_second_factor_has_one(cast: Cast) -> None:
    owner, url = Browser(cast, "owner"), at("settings", cast)
    assert "You have no second factor yourself." in text_of(owner.get(url))
    refused = owner.send(url, name="Payments", description="", require_second_factor="on")
    assert refused.status_code == 422
    assert "You have no second factor yourself, and would be shut out at once." in text_of(refused)
    give_factor(cast, "owner")
    assert "2 of 3 members have none yet." in text_of(owner.get(url))
    assert owner.send(url, name="Payments", description="", require_second_factor="on").status_code == 303
    cast.vault.refresh_from_db()
    assert cast.vault.require_second_factor
    event = AuditEvent.objects.filter(action="vault:vault:update").latest("sequence")
    assert event.after["require_second_factor"] is True
    assert owner.get(url).status_code == 200


def test_without_it_one_reaches_only_the_page_that_sets_it_up(cast: Cast) -> None:
    Vault.objects.filter(pk=cast.vault.pk).update(require_second_factor=True)
    colleague = Browser(cast, "colleague")
    set_up = reverse("mfa_activate_totp")
    for url in (
        "/",
        at("people", cast),
        at("settings", cast),
        "/accounts/profile/",
        "/accounts/tokens/",
        "/palette/",
    ):
        answer = colleague.get(url)
        assert (answer.status_code, answer["Location"]) == (302, set_up), url
    # allauth asks for the password again first; both pages are within reach, and so is the way out.
    asked = colleague.get(set_up)
    assert asked.status_code in (200, 302)
    assert colleague.get(reverse("account_reauthenticate")).status_code == 200
    assert colleague.get(reverse("account_logout")).status_code == 200
    give_factor(cast, "colleague")
    assert colleague.get(at("people", cast)).status_code == 200
    assert "Demanded, not set up" in text_of(colleague.get(at("people", cast)))


def test_others_are_not_asked(cast: Cast) -> None:
    Vault.objects.filter(pk=cast.vault.pk).update(require_second_factor=True)
    assert Browser(cast, "outsider").get("/accounts/profile/").status_code == 200
    Vault.objects.filter(pk=cast.vault.pk).update(state="DESTROYED")
    assert Browser(cast, "colleague").get("/accounts/profile/").status_code == 200


@pytest.mark.parametrize("where", ["settings-yours", "account"])
def test_preferences_are_kept_and_seen_at_once(cast: Cast, where: str) -> None:
    url = at(where, cast) if where != "account" else reverse(where)
    owner = Browser(cast, "owner")
    answer = owner.send(
        url,
        name="Olga",
        time_zone="Europe/Berlin",
        theme="dark",
        density="compact",
        attention_mail="DAILY",
    )
    assert (answer.status_code, answer["Location"]) == (303, url)
    row = UserPreferences.objects.get(user=cast.users["owner"])
    assert (row.theme, row.density, row.attention_mail) == ("dark", "compact", "DAILY")
    html = owner.get(url).content.decode()
    assert 'data-theme="dark"' in html
    assert 'data-density="compact"' in html
    assert 'data-zone="Europe/Berlin"' in html
    fields: dict[str, Any] = {"name": "Olga", "time_zone": "UTC", "theme": "system", "density": "comfortable"}
    assert owner.send(url, **fields).status_code == 303
    assert "data-theme" not in owner.get(url).content.decode().split("<head>")[0]
    wrong = owner.send(url, **{**fields, "time_zone": "Moon/Base"})
    assert wrong.status_code == 422


def test_how_often_the_database_is_asked(cast: Cast, django_assert_max_num_queries: Any) -> None:
    owner = Browser(cast, "owner")
    owner.get(at("settings", cast))
    with django_assert_max_num_queries(12):
        owner.get(at("settings", cast))
