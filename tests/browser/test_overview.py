"""Overview, operations, audit and the palette as people meet them: what refreshes itself, keys alone, and axe."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site, assert_accessible

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_axe_finds_nothing(signed_in_page: Callable[..., Page], site: Site, width: int, scheme: str) -> None:
    page = signed_in_page("owner", width=width, scheme=scheme)
    for path in ("", "operations/", "audit/"):
        page.goto(f"/v/{site.vault}/{path}")
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            f"{path} is wider than {width}"
        )
    page.get_by_text("More filters").click()
    assert_accessible(page)
    # The open menu lies over the first rows.
    page.keyboard.press("Escape")
    page.locator("td a.main-link").first.click()
    expect(page.get_by_role("heading", name="What changed")).to_be_visible()
    assert_accessible(page)


def test_filters_of_the_record_by_clicks_and_back(signed_in_page: Callable[..., Page], site: Site) -> None:
    page = signed_in_page("owner")
    page.goto(f"/v/{site.vault}/audit/")
    page.get_by_text("More filters").click()
    page.get_by_label("On what (name or id)").fill("there is no such thing")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()
    assert "object=there" in page.url
    page.get_by_role("link", name="Remove filter Object there is no such thing").click()
    expect(page.locator("td a.main-link").first).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Nothing matches")).to_be_visible()


def test_the_palette_by_keys_alone(signed_in_page: Callable[..., Page], site: Site) -> None:
    page = signed_in_page("owner")
    page.goto(f"/v/{site.vault}/")
    page.keyboard.press("Control+k")
    page.keyboard.type("refused att")
    expect(page.get_by_role("option", name="Show refused attempts")).to_be_visible()
    assert_accessible(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/audit/?outcome=DENIED")
