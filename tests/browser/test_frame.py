"""The frame and the vaults' pages as people meet them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site, assert_accessible

pytestmark = pytest.mark.slow

PAGES = [
    "/appliance/vaults/",
    "/appliance/vaults/new/",
    "/accounts/profile/",
    "/accounts/sessions/",
    "/accounts/2fa/",
    "/docs/",
    "/docs/permissions/",
]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_axe_finds_nothing(
    signed_in_page: Callable[..., Page], open_page: Callable[..., Page], width: int, scheme: str
) -> None:
    entrance = open_page(width=width, scheme=scheme)
    entrance.goto("/accounts/login/")
    assert_accessible(entrance)
    page = signed_in_page("appliance", width=width, scheme=scheme)
    for path in PAGES:
        page.goto(path)
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            f"{path} is wider than {width}"
        )


def test_a_vault_by_clicks(signed_in_page: Callable[..., Page], site: Site) -> None:
    page = signed_in_page("appliance")
    page.goto("/appliance/vaults/")
    page.get_by_role("link", name="Create vault").click()
    page.get_by_label("Name", exact=True).fill("Clicked")
    page.get_by_label("Admin's name").fill("Cleo")
    page.get_by_label("Admin's e-mail").fill("cleo@example.com")
    page.get_by_role("button", name="Create vault").click()
    secret = page.locator("#secret-1")
    expect(secret).to_have_text("•" * 16)
    page.get_by_role("button", name="Show One-time password").click()
    expect(secret).to_contain_text("-")
    assert_accessible(page)
    page.get_by_role("button", name="I have stored it").click()
    expect(page.get_by_role("heading", name="Clicked")).to_be_visible()
    page.get_by_role("link", name="Disable vault").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="Disable Clicked?")).to_be_visible()
    assert_accessible(page)
    dialog.get_by_label("Reason").fill("a test")
    dialog.get_by_role("button", name="Disable vault").click()
    expect(page.locator(".toast")).to_contain_text("Clicked is disabled.")
    page.get_by_role("link", name="Destroy vault").click()
    go = dialog.get_by_role("button", name="Destroy vault")
    expect(go).to_be_disabled()
    dialog.get_by_label("Reason").fill("a test")
    dialog.get_by_label("Type Clicked to confirm").fill("Clicked")
    go.click()
    expect(page.locator(".page-title")).to_contain_text("Destroyed")


def test_search_as_one_types_and_back(signed_in_page: Callable[..., Page]) -> None:
    page = signed_in_page("appliance")
    page.goto("/appliance/vaults/")
    page.get_by_role("searchbox", name="Search name or description").fill("Elsew")
    expect(page.get_by_role("link", name="Payments")).to_have_count(0)
    assert "search=Elsew" in page.url
    expect(page.locator("#list-search")).to_be_focused()
    page.go_back()
    expect(page.get_by_role("link", name="Payments")).to_be_visible()


def test_the_palette_by_keyboard(signed_in_page: Callable[..., Page]) -> None:
    page = signed_in_page("appliance")
    page.goto("/accounts/profile/")
    page.keyboard.press("Control+k")
    page.keyboard.type("Vaults")
    expect(page.locator("#palette [aria-selected=true]")).to_contain_text("Vaults")
    assert_accessible(page)
    page.keyboard.press("Enter")
    page.wait_for_url("**/appliance/vaults/")


def test_a_session_that_ends_in_a_form_loses_nothing(signed_in_page: Callable[..., Page]) -> None:
    page = signed_in_page("appliance")
    page.goto("/appliance/vaults/new/")
    page.get_by_label("Name", exact=True).fill("Half typed")
    page.get_by_label("Admin's name").fill("Dora")
    page.get_by_label("Admin's e-mail").fill("dora@example.com")
    page.context.clear_cookies(name="keystead-session")
    page.get_by_role("button", name="Create vault").click()
    page.wait_for_url("**/accounts/login/**")
    page.get_by_label("Email").fill("appliance@example.com")
    page.get_by_label("Password", exact=True).fill("correct horse battery staple")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("Half typed")
    expect(page.get_by_label("Admin's e-mail")).to_have_value("dora@example.com")


def test_without_scripts(open_page: Callable[..., Page], signed_in_page: Callable[..., Page]) -> None:
    page = signed_in_page("appliance", scripts=False)
    page.goto("/appliance/vaults/")
    page.get_by_role("link", name="Payments").click()
    page.get_by_role("link", name="Disable vault").click()
    expect(page.get_by_role("heading", name="Disable Payments?")).to_be_visible()
    page.get_by_role("link", name="Cancel").click()
    expect(page.get_by_role("heading", name="Payments")).to_be_visible()


def test_a_first_visit_is_small(signed_in_page: Callable[..., Page], open_page: Callable[..., Page]) -> None:
    page = open_page()
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(len(answer.body())))
    page.goto("/accounts/login/")
    page.wait_for_load_state("networkidle")
    assert sum(sizes) < 200_000, sizes


def test_theme_and_drawer(signed_in_page: Callable[..., Page]) -> None:
    page = signed_in_page("appliance", width=400)
    page.goto("/appliance/vaults/")
    page.get_by_role("button", name="Menu").click()
    expect(page.get_by_role("link", name="Vaults", exact=True).first).to_be_visible()
    assert_accessible(page)
    page.keyboard.press("Escape")
    page.get_by_label("Your account, Appliance").click()
    with page.expect_response("**/accounts/looks/"):
        page.get_by_role("button", name="Dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
