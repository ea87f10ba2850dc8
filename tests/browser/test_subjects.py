"""CSP accounts, a key, stores and people by mouse and keyboard, in both themes: what only a browser shows of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Drawn, assert_accessible

pytestmark = pytest.mark.slow
Filled = dict[str, list[Drawn]]


def at(filled: Filled, name: str, variant: str = "", vault: str = "little") -> str:
    found = [row.url for row in filled[vault] if (row.name, row.variant) == (name, variant)]
    assert len(found) == 1
    assert found[0]
    return found[0]


def in_both_themes(page: Page) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert_accessible(page)


def test_a_csp_account(signed_in_page: Callable[..., Page], filled: Filled) -> None:
    page = signed_in_page("owner")
    page.goto(at(filled, "csp-accounts"))
    in_both_themes(page)
    # A row is one link wide.
    page.locator("tr.goes td").last.click()
    expect(page.get_by_role("link", name="IAM policy")).to_be_visible()
    in_both_themes(page)
    page.get_by_role("link", name="IAM policy").click()
    expect(page.get_by_text("kms:CreateKey").first).to_be_visible()
    in_both_themes(page)
    page.go_back()
    expect(page.get_by_role("link", name="Connection", exact=True)).to_have_attribute("aria-current", "page")


def test_a_key_and_the_dialog_that_disables_it(signed_in_page: Callable[..., Page], filled: Filled) -> None:
    page = signed_in_page("owner")
    page.goto(at(filled, "cloud-key"))
    in_both_themes(page)
    disable = page.get_by_role("link", name="Disable key")
    disable.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Reason")).to_be_visible()
    in_both_themes(page)
    # Nothing happens without a reason; Escape closes it, and the focus is where it was.
    dialog.get_by_role("button", name=re.compile("Disable")).click()
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(disable).to_be_focused()
    expect(page.locator(".page-title")).to_contain_text("Enabled")
    page.get_by_role("link", name="Usage", exact=True).click()
    expect(page.get_by_role("link", name="Usage", exact=True)).to_have_attribute("aria-current", "page")
    in_both_themes(page)


def test_a_store_in_a_narrow_window(signed_in_page: Callable[..., Page], filled: Filled) -> None:
    page = signed_in_page("owner", width=400)
    page.goto(at(filled, "xks-stores"))
    # A row stands as a block; each cell says what it is; a screen reader still finds a table.
    cell = page.locator("td[data-label]").first
    assert (
        cell.evaluate("it => getComputedStyle(it, '::before').content")
        == f'"{cell.get_attribute("data-label")}"'
    )
    assert page.locator(".table-wrap").evaluate("it => it.scrollWidth <= it.clientWidth")
    expect(page.get_by_role("cell").first).to_be_visible()
    in_both_themes(page)
    page.locator("a.main-link").first.click()
    expect(page.get_by_role("link", name="Credentials", exact=True)).to_be_visible()
    in_both_themes(page)
    page.get_by_role("link", name="Access rules").click()
    in_both_themes(page)


def test_lists_turn_back_as_on(signed_in_page: Callable[..., Page], filled: Filled) -> None:
    page = signed_in_page("owner")
    page.goto(at(filled, "cloud-keys", vault="lots"))
    first = page.locator("a.main-link").first.inner_text()
    page.get_by_role("link", name="Next page").click()
    expect(page.locator(".pager")).to_contain_text("51–100")  # noqa: RUF001
    page.get_by_role("link", name="Previous page").click()
    expect(page.locator(".pager")).to_contain_text("1–50")  # noqa: RUF001
    expect(page.locator("a.main-link").first).to_have_text(first)
    page.go_back()
    expect(page.locator(".pager")).to_contain_text("51–100")  # noqa: RUF001


def test_a_person_is_added(signed_in_page: Callable[..., Page], filled: Filled) -> None:
    page = signed_in_page("owner")
    page.goto(at(filled, "people"))
    in_both_themes(page)
    page.get_by_role("link", name="Add person").click()
    email = f"new-{uuid4().hex[:6]}@example.com"
    page.locator("#id_name").fill("Lise")
    page.locator("#id_email").fill(email)
    in_both_themes(page)
    page.get_by_role("button", name="Add person").click()
    secret = page.locator("#secret-1")
    assert "-" not in secret.inner_text()
    in_both_themes(page)
    page.get_by_role("button", name=re.compile("^Show ")).click()
    expect(secret).to_contain_text("-")
    page.get_by_role("button", name="I have stored it").click()
    expect(page.get_by_role("heading", name="Lise")).to_be_visible()


def test_looks_go_with_the_person(signed_in_page: Callable[..., Page], filled: Filled) -> None:
    page = signed_in_page("colleague")
    page.get_by_label(re.compile("^Your account")).click()
    with page.expect_response("**/accounts/looks/") as kept:
        page.get_by_role("button", name="Dark", exact=True).click()
    assert kept.value.status == 204
    other = signed_in_page("colleague")
    assert other.evaluate("document.documentElement.dataset.theme") == "dark"
    with page.expect_response("**/accounts/looks/"):
        page.get_by_role("button", name="System", exact=True).click()


def test_a_narrow_list_sorts_and_selects_all(signed_in_page: Callable[..., Page], filled: Filled) -> None:
    """Its heads are gone at 400 px; what they did has to stay."""
    page = signed_in_page("owner", width=400)
    page.goto(at(filled, "cloud-keys"))
    page.get_by_label("Select all on this page").locator("visible=true").check()
    rows = page.locator("input[name=pick]").count()
    assert rows
    expect(page.get_by_text(f"{rows} selected")).to_be_visible()
    page.get_by_label("Select all on this page").locator("visible=true").uncheck()
    page.get_by_label("Sort by").focus()
    page.get_by_label("Sort by").select_option("-name")
    page.wait_for_url(re.compile("ordering=-name"))
    names = page.locator("tbody .main-link").all_inner_texts()
    assert names == sorted(names, reverse=True)
    assert page.evaluate("document.activeElement?.id") == "list-sort"
    assert_accessible(page)
    page.go_back()
    expect(page.get_by_label("Sort by")).not_to_have_value("-name")


def test_what_a_narrow_window_shows_is_whole(signed_in_page: Callable[..., Page], filled: Filled) -> None:
    """Tables in groups do not scroll, and no tab is out of sight."""
    page = signed_in_page("owner", width=400)
    page.goto(at(filled, "csp-account"))
    for wrap in page.locator(".table-wrap").all():
        assert wrap.evaluate("each => each.scrollWidth <= each.clientWidth + 1")
    page.goto(at(filled, "cloud-key"))
    for tab in page.locator(".tabs a").all():
        box = tab.bounding_box()
        assert box
        assert box["x"] + box["width"] <= 400
    assert_accessible(page)


def test_what_the_doctor_found_comes_by_itself(signed_in_page: Callable[..., Page], filled: Filled) -> None:
    """A worker examines the store; the page shows what it found without a reload.

    The worker may be done before the page that answers the click is drawn, so what that page shows meanwhile is a matter for
    tests/xks/web/test_stores.py, which lets no worker run.
    """
    page = signed_in_page("owner")
    page.goto(at(filled, "xks-store-doctor"))
    page.get_by_role("button", name="Examine now").click()
    expect(page.get_by_text(re.compile(r"examined .* by owner@example.com", re.IGNORECASE))).to_be_visible(
        timeout=30_000
    )
    expect(page.locator("#report:not([data-live])")).to_be_visible()
    assert_accessible(page)
