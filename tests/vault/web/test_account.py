"""The account's own pages from end to end: a password reset by mail, a second factor set up and asked for, passkeys."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.core import mail
from django.core.cache import cache
from django.test import Client
from django.urls import reverse

from tests.cast import PASSWORD, Cast
from tests.web import Browser, text_of
from vault import keys
from vault.models import Vault

NEW = "a sentence that nobody guesses"


def sign_in(email: str, password: str) -> tuple[Client, Any]:
    client = Client()
    return client, client.post(reverse("account_login"), {"login": email, "password": password})


def code_of(secret: str) -> str:
    """What an authenticator app shows at this moment."""
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30))


def confirm(client: Client) -> None:
    """Prove who one is, as the pages that change a second factor ask."""
    answer = client.post(reverse("account_reauthenticate"), {"password": PASSWORD})
    assert answer.status_code == 302, text_of(answer)


def test_a_password_is_reset_by_mail(cast: Cast, settings: Any) -> None:
    settings.MAIL_CONFIGURED = True
    client = Client()
    asked = client.post(reverse("account_reset_password"), {"email": "owner@example.com"}, follow=True)
    assert "a link is on its way" in text_of(asked)
    assert [message.to for message in mail.outbox] == [["owner@example.com"]]
    found = re.search(r"https?://[^/\s]+(/\S+)", str(mail.outbox[0].body))
    assert found is not None
    page = client.get(found[1], follow=True)
    assert "Set a new password" in text_of(page)
    address = page.redirect_chain[-1][0]
    short = client.post(address, {"password1": "short", "password2": "short"})
    assert short.status_code == 200
    assert b'aria-invalid="true"' in short.content
    assert client.post(address, {"password1": NEW, "password2": NEW}).status_code == 302
    assert sign_in("owner@example.com", NEW)[1].status_code == 302
    assert sign_in("owner@example.com", PASSWORD)[1].status_code == 200
    assert "This link no longer works" in text_of(Client().get(found[1], follow=True))


def test_an_address_without_an_account_is_told_the_same(cast: Cast, settings: Any) -> None:
    settings.MAIL_CONFIGURED = True
    asked = Client().post(reverse("account_reset_password"), {"email": "nobody@example.com"}, follow=True)
    assert "a link is on its way" in text_of(asked)
    assert not any("reset/key" in str(message.body) for message in mail.outbox)


def test_a_demanded_second_factor_is_set_up_and_asked_for(cast: Cast) -> None:
    Vault.objects.filter(pk=cast.vault.pk).update(require_second_factor=True)
    client, answer = sign_in("colleague@example.com", PASSWORD)
    assert answer.status_code == 302
    people = reverse("people", args=[cast.vault.pk])
    set_up = reverse("mfa_activate_totp")
    assert client.get(people)["Location"] == set_up
    if client.get(set_up).status_code == 302:
        confirm(client)
    shown = client.get(set_up)
    secret = re.search(r'value="([A-Z2-7]{32})"', shown.content.decode())
    assert secret is not None
    assert client.post(set_up, {"code": "000000"}).status_code == 200
    assert client.get(people).status_code == 302
    assert client.post(set_up, {"code": code_of(secret[1])}).status_code == 302
    assert client.get(people).status_code == 200
    # The code that set it up is used up.
    early, _ = sign_in("colleague@example.com", PASSWORD)
    assert early.post(reverse("mfa_authenticate"), {"code": code_of(secret[1])}).status_code == 200
    assert early.get(people).status_code == 302
    cache.clear()  # as the next half minute does
    kinds = set(Authenticator.objects.filter(user=cast.users["colleague"]).values_list("type", flat=True))
    assert kinds == {"totp", "recovery_codes"}
    codes = text_of(client.get(reverse("mfa_view_recovery_codes")))
    recovery = re.findall(r"\b[0-9a-f]{8}\b", codes)
    # The next sign-in asks for it, and does not let the same code in twice.
    again, answer = sign_in("colleague@example.com", PASSWORD)
    assert answer["Location"].startswith(reverse("mfa_authenticate"))
    assert again.get(people).status_code == 302
    code = code_of(secret[1])
    assert again.post(reverse("mfa_authenticate"), {"code": "000000"}).status_code == 200
    assert again.post(reverse("mfa_authenticate"), {"code": code}).status_code == 302
    assert again.get(people).status_code == 200
    third, _ = sign_in("colleague@example.com", PASSWORD)
    assert third.post(reverse("mfa_authenticate"), {"code": code}).status_code == 200
    assert third.get(people).status_code == 302
    assert recovery, codes
    assert third.post(reverse("mfa_authenticate"), {"code": recovery[0]}).status_code == 302
    assert third.get(people).status_code == 200


@pytest.mark.django_db(transaction=True)  # mails go out when it is committed
def test_changes_of_an_account_are_told_by_mail(cast: Cast, settings: Any) -> None:
    settings.MAIL_CONFIGURED = True
    browser = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    client = Client(headers={"User-Agent": browser})
    client.post(reverse("account_login"), {"login": "owner@example.com", "password": PASSWORD})
    confirm(client)
    shown = client.get(reverse("mfa_activate_totp")).content.decode()
    secret = re.search(r'value="([A-Z2-7]{32})"', shown)
    assert secret is not None
    client.post(reverse("mfa_activate_totp"), {"code": code_of(secret[1])})
    client.post(reverse("mfa_generate_recovery_codes"))
    client.post(reverse("mfa_deactivate_totp"))
    answer = client.post(
        reverse("account_change_password"), {"oldpassword": PASSWORD, "password1": NEW, "password2": NEW}
    )
    assert answer.status_code == 302, text_of(answer)
    told = {str(message.subject): str(message.body) for message in mail.outbox}
    assert set(told) == {
        "An authenticator app was added to your Keystead account",
        "New recovery codes for Keystead",
        "The authenticator app was removed from your Keystead account",
        "Your Keystead password was changed",
    }
    for message in mail.outbox:
        body = str(message.body)
        assert message.to == ["owner@example.com"]
        assert "Keystead account owner@example.com" in body
        assert "127.0.0.1, Firefox on Linux" in body
        assert "If it was not you" in body
        assert "example.com!" not in body, "allauth's own greeting"
        assert secret[1] not in body
        assert "\n\n\n" not in body


def test_the_pages_of_the_second_factor_open(cast: Cast) -> None:
    client, _ = sign_in("owner@example.com", PASSWORD)
    confirm(client)
    for name in ("mfa_index", "mfa_activate_totp", "mfa_list_webauthn", "mfa_add_webauthn"):
        answer = client.get(reverse(name))
        assert answer.status_code == 200, name
        html = answer.content.decode()
        assert html.count("<h1") == 1, name
        assert html.count('aria-label="Your account"') == 1, name
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]+(src=|application/json))", html), name


def test_looks_are_the_persons_in_every_browser(cast: Cast) -> None:
    first, _ = sign_in("owner@example.com", PASSWORD)
    assert first.get("/accounts/looks/").status_code == 405
    assert first.post("/accounts/looks/", {"theme": "neon"}).status_code >= 400
    assert first.post("/accounts/looks/", {"theme": "dark", "density": "compact"}).status_code == 204
    second, _ = sign_in("owner@example.com", PASSWORD)
    for client in (first, second):
        html = client.get("/accounts/profile/").content.decode()
        assert 'data-theme="dark" data-density="compact"' in html
    assert second.post("/accounts/looks/", {"theme": "", "density": ""}).status_code == 204
    # What one browser chooses, the other draws on its next page, not only after its next sign-in.
    for client in (second, first):
        assert "data-theme" not in client.get("/accounts/profile/").content.decode().split("<head>")[0]
    assert Client().post("/accounts/looks/", {"theme": "dark"}).status_code == 302


def test_tabs_of_the_account(cast: Cast) -> None:
    browser = Browser(cast, "owner")
    for name in ("account", "usersessions_list", "tokens"):
        html = browser.get(reverse(name)).content.decode()
        assert html.count('aria-label="Your account"') == 1


def test_the_second_factor_speaks_as_the_rest_of_the_product(cast: Cast) -> None:
    """What django-allauth's own templates would say stands nowhere, from none to an app, codes and a passkey."""
    theirs = (
        r"Two-Factor Authentication|Security Keys|Deactivate|Are you sure|Not used\.|Authenticator secret|Activate|Passwordless|"
        r"Master key"
    )
    client, _ = sign_in("owner@example.com", PASSWORD)
    confirm(client)

    def read(name: str, **at: Any) -> str:
        answer = client.get(reverse(name, kwargs=at))
        assert answer.status_code == 200, name
        words = text_of(answer)
        assert not re.search(theirs, words), (name, re.search(theirs, words))
        return words

    assert "You have no second factor yet." in read("mfa_index")
    assert "Recovery codes" in read("mfa_index")
    assert "No passkey yet" in read("mfa_list_webauthn")
    assert "Sign in with it alone" in read("mfa_add_webauthn")
    assert 'value="Passkey 1"' in client.get(reverse("mfa_add_webauthn")).content.decode()
    set_up = reverse("mfa_activate_totp")
    secret = re.search(r'value="([A-Z2-7]{32})"', client.get(set_up).content.decode())
    assert secret
    assert "Scan this picture with the app." in read("mfa_activate_totp")
    secret = re.search(r'value="([A-Z2-7]{32})"', client.get(set_up).content.decode())
    assert secret
    wrong = text_of(client.post(set_up, {"code": "000000"}))
    assert "This code is not right, or it was used already." in wrong
    done = client.post(set_up, {"code": code_of(secret[1])}, follow=True)
    assert "10 of 10 unused" in text_of(done)
    words = read("mfa_index")
    assert "In use since now" in words
    assert "10 of 10 unused" in words
    assert "10 unused codes that you have now open nothing" in read("mfa_generate_recovery_codes")
    made = Authenticator.objects.create(
        user=cast.users["owner"],
        type="webauthn",
        data={"name": "Blue key", "credential": {}, "passwordless": True},
    )
    assert "Blue key" in read("mfa_list_webauthn")
    assert "Rename passkey" in read("mfa_edit_webauthn", pk=made.pk)
    assert "Remove passkey Blue key?" in read("mfa_remove_webauthn", pk=made.pk)
    assert "Remove the authenticator app?" in read("mfa_deactivate_totp")
    renamed = client.post(
        reverse("mfa_edit_webauthn", kwargs={"pk": made.pk}), {"name": "Red key"}, follow=True
    )
    assert "Red key" in text_of(renamed)
    assert "Passkeys" in text_of(
        client.post(reverse("mfa_remove_webauthn", kwargs={"pk": made.pk}), follow=True)
    )
    assert not Authenticator.objects.filter(pk=made.pk).exists()


def test_whoever_has_a_code_or_a_passkey_may_confirm_with_it(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allauth.mfa.webauthn.internal.auth.get_credentials", lambda user: [])
    user = cast.users["owner"]
    Authenticator.objects.create(
        user=user, type="totp", data={"secret": keys.seal_text("allauth.mfa", "A" * 32)}
    )
    Authenticator.objects.create(user=user, type="webauthn", data={"name": "Blue key", "credential": {}})
    client = cast.session("owner")
    words = text_of(client.get(reverse("account_reauthenticate")))
    assert "Use a code instead" in words
    assert "Use a passkey instead" in words
    for name in ("mfa_reauthenticate", "mfa_reauthenticate_webauthn"):
        words = text_of(client.get(reverse(name)))
        assert "Confirm that it is you" in words
        assert "Use the password instead" in words
