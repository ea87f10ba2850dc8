"""Each place in the side bar has its page."""

from __future__ import annotations

import pytest
from django.urls import NoReverseMatch, reverse

from tests.cast import Cast
from tests.web import Browser
from vault.web.navigation import IN_APPLIANCE, IN_VAULT, Entry


@pytest.mark.parametrize("entry", IN_VAULT, ids=lambda entry: entry.name)
def test_each_entry_of_a_vault_opens(cast: Cast, entry: Entry) -> None:
    try:
        url = reverse(entry.name, args=[cast.vault.pk])
    except NoReverseMatch:
        pytest.fail(f"{entry.label}: no page has the URL name {entry.name}")
    owner = Browser(cast, "owner")
    answer = owner.get(url)
    assert answer.status_code == 200
    html = answer.content.decode()
    assert f'href="{url}" aria-current="page"' in html
    assert html.count("<h1") == 1
    assert Browser(cast, "outsider").get(url).status_code == 404
    assert Browser(cast, "anonymous").get(url).status_code == 302


@pytest.mark.parametrize("entry", IN_APPLIANCE, ids=lambda entry: entry.name)
def test_each_entry_of_the_appliance_opens(cast: Cast, entry: Entry) -> None:
    try:
        url = reverse(entry.name)
    except NoReverseMatch:
        pytest.fail(f"{entry.label}: no page has the URL name {entry.name}")
    answer = Browser(cast, "appliance").get(url)
    assert answer.status_code == 200
    html = answer.content.decode()
    assert f'href="{url}" aria-current="page"' in html
    assert html.count("<h1") == 1
    assert Browser(cast, "owner").get(url).status_code == 404
    assert Browser(cast, "anonymous").get(url).status_code == 302


def test_the_names_are_told_apart() -> None:
    names = [entry.name for entry in (*IN_VAULT, *IN_APPLIANCE)]
    assert len(set(names)) == len(names)
