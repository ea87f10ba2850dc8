"""Sign-in by the browser: plain forms under a strict Content-Security-Policy, the same rules as the API."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.cast import PASSWORD, Cast
from vault.models import AuditEvent, User

NEW = "a new and longer password"
LOGIN, CHANGE = "/accounts/login/", "/accounts/password/change/"


def browse(client: Client, path: str, fields: dict[str, str]) -> Any:
    """Open a page and send its form with the hidden token that it holds."""
    page = client.get(path).content.decode()
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found, page
    return client.post(path, {**fields, "csrfmiddlewaretoken": found[1]})


def sign_in(password: str = PASSWORD, email: str = "owner@example.com") -> tuple[Client, Any]:
    client = Client(enforce_csrf_checks=True)
    return client, browse(client, LOGIN, {"login": email, "password": password})


def test_signing_in_and_out(cast: Cast) -> None:
    client, answer = sign_in()
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert "Owner" in client.get("/", follow=True).content.decode()
    assert client.get("/api/v1/auth/me").json()["email"] == "owner@example.com"
    browse(client, "/accounts/logout/", {})
    assert client.get("/")["Location"].startswith(LOGIN)
    last = list(AuditEvent.objects.order_by("sequence").values_list("action", "via"))[-2:]
    assert last == [("auth:session:sign_in", "web"), ("auth:session:sign_out", "web")]


@pytest.mark.parametrize(
    ("email", "password"), [("owner@example.com", "wrong"), ("nobody@example.com", PASSWORD)]
)
def test_refusals_look_alike(cast: Cast, email: str, password: str) -> None:
    _, answer = sign_in(password, email)
    assert answer.status_code == 200
    found = re.findall(r'class="error">([^<]+)<', answer.content.decode())
    assert found == ["The email address and/or password you specified are not correct."]
    assert AuditEvent.objects.latest("sequence").action == "auth:session:refuse"


def test_the_limit_is_shared_with_the_api(cast: Cast) -> None:
    for _ in range(5):
        sign_in("wrong")
    _, answer = sign_in()
    assert "Too many failed" in answer.content.decode()
    api = Client().post(
        "/api/v1/auth/sign-in",
        {"email": "owner@example.com", "password": PASSWORD},
        content_type="application/json",
    )
    assert api.status_code == 429


@pytest.fixture
def newcomer(cast: Cast) -> User:
    user = cast.users["owner"]
    user.must_change_password = True
    user.one_time_password_expires_at = timezone.now() + timedelta(days=1)
    user.save()
    return user


def test_a_one_time_password_leads_to_one_page(cast: Cast, newcomer: User) -> None:
    client, answer = sign_in()
    assert answer["Location"] == CHANGE
    assert client.get("/")["Location"] == CHANGE
    assert client.get("/accounts/sessions/")["Location"] == CHANGE
    answer = browse(client, CHANGE, {"oldpassword": PASSWORD, "password1": NEW, "password2": NEW})
    assert answer["Location"] == "/"
    assert client.get("/", follow=True).status_code == 200
    newcomer.refresh_from_db()
    assert not newcomer.must_change_password
    assert newcomer.check_password(NEW)
    assert AuditEvent.objects.filter(action="auth:password:change", via="web").count() == 1


@pytest.mark.parametrize("new", [PASSWORD, "short", "123456789012"])
def test_bad_new_passwords(cast: Cast, newcomer: User, new: str) -> None:
    client, _ = sign_in()
    answer = browse(client, CHANGE, {"oldpassword": PASSWORD, "password1": new, "password2": new})
    assert answer.status_code == 200
    assert 'class="error"' in answer.content.decode()
    newcomer.refresh_from_db()
    assert newcomer.must_change_password


def test_an_ended_one_time_password(cast: Cast, newcomer: User) -> None:
    newcomer.one_time_password_expires_at = timezone.now() - timedelta(seconds=1)
    newcomer.save()
    assert sign_in()[1].status_code == 200


def test_signing_out_everywhere_else(cast: Cast) -> None:
    client, _ = sign_in()
    other, _ = sign_in()
    answer = browse(client, "/accounts/sessions/", {})
    assert answer.status_code == 303
    assert client.get("/accounts/profile/").status_code == 200
    assert other.get("/accounts/profile/").status_code == 302
    assert AuditEvent.objects.filter(action="auth:session:revoke").count() == 1


@pytest.mark.parametrize(
    "path", ["/accounts/signup/", "/accounts/email/", "/accounts/password/reset/", "/admin/"]
)
def test_pages_that_are_not_offered(cast: Cast, path: str) -> None:
    answer = Client().get(path)
    assert answer.status_code == 404
    assert "There is nothing here" in answer.content.decode()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        LOGIN,
        CHANGE,
        "/accounts/logout/",
        "/accounts/reauthenticate/",
        "/accounts/sessions/",
        "/accounts/2fa/",
        "/nothing",
    ],
)
def test_no_page_holds_anything_inline(cast: Cast, path: str) -> None:
    client = Client() if path == LOGIN else sign_in()[0]
    answer = client.get(path, follow=True)
    assert answer.status_code in (200, 404)
    html = answer.content.decode()
    assert "unsafe-inline" not in answer["Content-Security-Policy"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]+(src=|application/json))", html)
    assert html.count("<h1") == 1


def test_a_form_without_its_token(cast: Cast) -> None:
    answer = Client(enforce_csrf_checks=True).post(LOGIN, {"login": "x", "password": "y"})
    assert answer.status_code == 403
    assert "reload the page" in answer.content.decode()


def test_errors_under_other_hosts_and_inside_are_pages(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Client().get("/", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    client = Client(raise_request_exception=False)
    client.force_login(cast.users["owner"])

    def fail(*args: Any, **more: Any) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr("vault.services.sessions.note_use", fail)
    answer = client.get("/")
    assert answer.status_code == 500
    assert b"hunter2" not in answer.content
    assert b"Something went wrong" in answer.content


def test_redirects_stay_here(cast: Cast) -> None:
    client = Client(enforce_csrf_checks=True)
    answer = browse(
        client, LOGIN, {"login": "owner@example.com", "password": PASSWORD, "next": "https://evil.example/"}
    )
    assert answer["Location"] == reverse("home")
