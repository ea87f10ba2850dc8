"""What stands around every page, and what becomes of errors."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client
from django.urls import get_resolver, reverse

from tests.cast import Cast
from tests.web import Browser, text_of
from vault.web.markdown import to_html
from vault.web.states import KINDS, look, states_of

PAGES = [
    "/accounts/profile/",
    "/accounts/sessions/",
    "/docs/",
    "/docs/permissions/",
    "/appliance/vaults/",
    "/appliance/vaults/new/",
]


@pytest.mark.parametrize("path", PAGES)
def test_nothing_inline_one_heading_and_its_landmarks(cast: Cast, path: str) -> None:
    html = Browser(cast, "appliance").get(path).content.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=|hx-on|<script(?![^>]+src=)", html)
    assert html.count("<h1") == 1
    assert html.count('<main class="page" id="main"') == 1
    assert 'class="skip"' in html
    assert '"allowEval": false' in html.replace("&quot;", '"')


def test_the_side_bar_holds_what_one_may_open(cast: Cast) -> None:
    assert "Vaults" in text_of(Browser(cast, "appliance").get("/accounts/profile/"))
    assert "/appliance/" not in Browser(cast, "owner").get("/accounts/profile/").content.decode()


def test_the_theme_before_sign_in_is_the_browsers(cast: Cast) -> None:
    browser = Browser(cast, "anonymous")
    assert "data-theme" not in browser.get("/accounts/login/").content.decode().split("<head>")[0]
    browser.client.cookies["keystead-theme"] = "dark"
    assert 'data-theme="dark"' in browser.get("/accounts/login/").content.decode()
    browser.client.cookies["keystead-theme"] = '"><script>'
    assert "<script>" not in browser.get("/accounts/login/").content.decode()


def test_a_part_without_a_session_is_401_and_a_form_leads_back_to_its_page(cast: Cast) -> None:
    client = Client()
    assert client.get("/appliance/vaults/", headers={"HX-Request": "true"}).status_code == 401
    answer = client.post(
        "/appliance/vaults/new/", headers={"Referer": "http://testserver/appliance/vaults/new/"}
    )
    assert answer["Location"] == "/accounts/login/?next=%2Fappliance%2Fvaults%2Fnew%2F%3Frestore%3D1"
    foreign = client.post("/appliance/vaults/new/", headers={"Referer": "http://evil.example/x"})
    assert "evil" not in foreign["Location"]


def test_errors_of_a_part_are_toasts(cast: Cast) -> None:
    answer = Browser(cast, "auditor").get(reverse("vault-block", args=[cast.vault.pk]), target="dialog")
    assert answer.status_code == 403
    told = json.loads(answer["HX-Trigger"])["toast"]
    assert told["level"] == "error"
    assert "Auditor" in told["text"]
    assert told["cure"].startswith("Ask a vault admin")


def test_a_database_that_does_not_answer_has_a_page(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise OperationalError("connection refused")

    browser = Browser(cast, "appliance")
    monkeypatch.setattr("vault.services.vaults.visible_vaults", fail)
    answer = browser.get("/appliance/vaults/")
    assert answer.status_code == 503
    assert "The database cannot be reached" in text_of(answer)
    monkeypatch.setattr("vault.services.sessions.note_use", fail)
    browser.client.raise_request_exception = False
    answer = browser.get("/")
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")


def test_a_form_that_is_too_old_leads_back_to_itself(cast: Cast) -> None:
    client = cast.session("appliance")
    answer = client.post(
        "/appliance/vaults/new/",
        {"name": "x"},
        headers={"Referer": "http://testserver/appliance/vaults/new/"},
    )
    assert answer.status_code == 403
    assert b'href="/appliance/vaults/new/?restore=1"' in answer.content


def test_every_page_has_a_frame(cast: Cast) -> None:
    """Nobody writes a page that forgets to ask who is there."""
    for pattern in _patterns(get_resolver().url_patterns):
        module = getattr(pattern.callback, "__module__", "")
        if ".web." in module:
            assert getattr(pattern.callback, "is_page", False), pattern


def _patterns(patterns: Any) -> Any:
    for pattern in patterns:
        if hasattr(pattern, "url_patterns"):
            yield from _patterns(pattern.url_patterns)
        else:
            yield pattern


def test_every_state_has_a_word_and_an_icon() -> None:
    for kind in KINDS:
        for state in states_of(kind):
            found = look(kind, state)
            assert found.word
            assert found.icon != "circle-dot" or kind == "rotation", (kind, state)
    assert look("cloud_key", "SOMETHING_NEW").word == "Something new"


def test_the_style_guide_is_for_builders(cast: Cast, settings: Any) -> None:
    browser = Browser(cast, "owner")
    assert browser.get("/styleguide/").status_code == 404
    settings.KEYSTEAD_STYLEGUIDE = True
    html = browser.get("/styleguide/").content.decode()
    assert not re.search(r"<style|\sstyle=|\son\w+=", html)


def test_the_profile(cast: Cast) -> None:
    browser = Browser(cast, "owner")
    assert browser.send("/accounts/profile/", name="Olga", time_zone="Europe/Berlin").status_code == 303
    cast.users["owner"].refresh_from_db()
    assert cast.users["owner"].time_zone == "Europe/Berlin"
    assert 'data-zone="Europe/Berlin"' in browser.get("/accounts/profile/").content.decode()


def test_the_palette(cast: Cast) -> None:
    browser = Browser(cast, "owner")
    words = text_of(browser.get("/palette/", vault=str(cast.vault.pk), q="pay"))
    assert "Payments" in words
    assert "Elsewhere" not in text_of(browser.get("/palette/", vault=str(cast.other_vault.pk), q="else"))
    assert "Nothing found" in text_of(browser.get("/palette/", q="zzzz"))
    assert browser.get("/palette/", q="\x00", vault="x").status_code == 200


def test_documentation_is_escaped() -> None:
    html = to_html(
        "# T\n\n<script>x</script> `a<b` [t](javascript:alert(1)) [p](permissions.md)\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    assert "<script" not in html
    assert "javascript" not in html.replace("javascript:alert(1)", "") or 'href="javascript' not in html
    assert '<a href="/docs/permissions/">p</a>' in html
    assert "<li>one</li><li>two</li>" in html
    assert "<td>1</td><td>2</td>" in html
