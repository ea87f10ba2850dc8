"""Pages of a list: on and back again, by links alone, so that the browser's Back does the same."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.urls import reverse
from django.utils import timezone

from tests.cast import Cast
from tests.web import Browser, text_of
from vault.models import ApiToken, Group
from vault.services.tokens import create_token


def link(html: str, rel: str) -> str:
    found = re.search(rf'href="([^"]+)" rel="{rel}"', html)
    return unescape(found[1]) if found else ""


def there_and_back(browser: Browser, path: str, query: str, row: str) -> list[list[str]]:
    """Turn all pages, then turn them back; both show the same rows under the same numbers. Return the pages' rows."""
    pages, html = [], browser.get(f"{path}{query}").content.decode()
    assert not link(html, "prev")
    while True:
        pages.append((re.findall(row, html), re.findall(r"\d+\u2013\d+", html)))
        following = link(html, "next")
        if not following:
            break
        html = browser.get(path + following).content.decode()
    for page in reversed(pages[:-1]):
        html = browser.get(path + link(html, "prev")).content.decode()
        assert (re.findall(row, html), re.findall(r"\d+\u2013\d+", html)) == page
    assert not link(html, "prev")
    assert link(html, "next")
    return [rows for rows, _ in pages]


@pytest.mark.parametrize("ordering", ["name", "-name"])
def test_back_by_name(cast: Cast, ordering: str) -> None:
    Group.objects.bulk_create(Group(vault=cast.vault, name=f"Group {n:02}") for n in range(22))
    path = reverse("groups", args=[cast.vault.pk])
    pages = there_and_back(
        Browser(cast, "owner"), path, f"?ordering={ordering}&limit=5", r"Group \d\d(?=</a>)"
    )
    assert sum(map(len, pages)) == 22
    assert len(pages) == 5


@pytest.mark.parametrize("ordering", ["last_used_at", "-last_used_at"])
def test_back_over_rows_without_a_value(cast: Cast, ordering: str) -> None:
    tokens = [create_token(cast.actor("owner"), name=f"tok-{n}").token for n in range(9)]
    for days, token in enumerate(tokens[:4]):
        ApiToken.objects.filter(pk=token.pk).update(last_used_at=timezone.now() - timedelta(days=days))
    pages = there_and_back(
        Browser(cast, "owner"), reverse("tokens"), f"?ordering={ordering}&limit=2", r">(tok-\d)<"
    )
    assert len({name for page in pages for name in page}) == 9


def test_the_first_page_is_whole_when_rows_before_it_are_gone(cast: Cast) -> None:
    Group.objects.filter(vault=cast.vault).delete()
    Group.objects.bulk_create(Group(vault=cast.vault, name=f"Group {n:02}") for n in range(12))
    browser, path = Browser(cast, "owner"), reverse("groups", args=[cast.vault.pk])
    second = browser.get(
        path + link(browser.get(f"{path}?limit=5").content.decode(), "next")
    ).content.decode()
    Group.objects.filter(name="Group 00").delete()
    first = browser.get(path + link(second, "prev"))
    assert "1\u20135 of 11" in text_of(first)
    assert not link(first.content.decode(), "prev")


def test_a_narrow_list_can_be_sorted_and_keeps_its_filters(cast: Cast) -> None:
    for name in ("Alpha", "Beta"):
        Group.objects.create(vault=cast.vault, name=f"Team {name}")
    path = reverse("groups", args=[cast.vault.pk])
    browser = Browser(cast, "owner")
    html = browser.get(path, search="Team", ordering="-name").content.decode()
    tools = re.search(r'<div class="narrow-tools">.*?</div>', html, re.DOTALL)
    assert tools
    assert '<option value="-name" selected>Group, descending</option>' in tools[0]
    assert '<option value="name">Group, ascending</option>' in tools[0]
    assert '<input type="hidden" name="search" value="Team">' in tools[0]
    rows = re.findall(r"Team (Alpha|Beta)(?=</a>)", browser.get(path, ordering="name").content.decode())
    assert rows == ["Alpha", "Beta"]
    assert 'name="ordering" id="list-sort"' in browser.get(path).content.decode()
