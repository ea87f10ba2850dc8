"""An HSM by clicks: connected with its PIN, tested by its keeper, chosen for a key set. On SoftHSM, with real processes."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from hsm.softhsm import make_tokens
from tests.browser.conftest import Site, assert_accessible

pytestmark = pytest.mark.slow
PIN = "4812-Kestrel-Mug"


def test_an_hsm_is_connected_tested_and_chosen(signed_in_page: Callable[..., Page], site: Site) -> None:
    name = f"soft-{uuid4().hex[:6]}"
    tokens = make_tokens(site.place.folder / name, ["one", "two"], pin=PIN)
    page = signed_in_page("appliance")
    page.goto("/appliance/hsms/")
    assert_accessible(page)
    page.get_by_role("link", name="Connect HSM").first.click()
    page.get_by_role("link", name="SoftHSM").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("PKCS#11 module").fill(tokens.module)
    page.get_by_label("Environment of the module").fill(
        f"SOFTHSM2_CONF={tokens.environment['SOFTHSM2_CONF']}"
    )
    page.locator("#id_pin").fill(PIN)
    page.get_by_label("Tokens").fill("label: one\nlabel: two")
    page.get_by_label("Payments").check()
    assert_accessible(page)
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    page.get_by_role("button", name="Test connection").click()
    # What the keeper finds comes by itself.
    expect(page.get_by_text("Every member passed.")).to_be_visible(timeout=40_000)
    members = page.locator("#members")
    expect(members.get_by_text("Active")).to_have_count(2, timeout=30_000)
    assert PIN not in page.content()
    assert_accessible(page)
    for tab in ("What works", "Keys and dependents", "Audit"):
        page.locator("nav.tabs").get_by_role("link", name=tab).click()
        assert_accessible(page)
    page.locator("nav.tabs").get_by_role("link", name="Keys and dependents").click()
    expect(page.get_by_text("On all members").first).to_be_visible()

    page.get_by_role("link", name="Take over a key").first.click()
    expect(page.get_by_text("No key set can take it.")).to_be_visible()
    assert_accessible(page)

    page.goto("/appliance/hsms/root-key/")
    expect(page.get_by_text("In a file")).to_be_visible()
    assert_accessible(page)

    narrow = signed_in_page("owner", width=400, scheme="dark")
    narrow.goto(f"/v/{site.vault}/key-sets/new/")
    narrow.get_by_label("Name", exact=True).fill(name)
    narrow.get_by_role("button", name="Continue", exact=True).click()
    narrow.locator("input[name=csp_account][value='']").check()
    narrow.get_by_role("button", name="Continue", exact=True).click()
    narrow.locator("input[name=external][value=no]").check()
    narrow.get_by_role("button", name="Continue", exact=True).click()
    picker = narrow.locator("#id_hsm_connection")
    expect(picker).to_be_hidden()
    # By keys alone: down to the second choice, and the picker is there.
    narrow.locator("input[name=protection][value=software]").focus()
    narrow.keyboard.press("ArrowDown")
    expect(narrow.locator("input[name=protection][value=hsm-wrapped]")).to_be_checked()
    expect(picker).to_be_visible()
    assert_accessible(narrow)
    assert narrow.evaluate("document.documentElement.scrollWidth <= innerWidth")
    picker.select_option(label=f"{name} (SoftHSM, for trying out only)")
    narrow.get_by_role("button", name="Continue", exact=True).click()
    narrow.get_by_role("button", name="Continue", exact=True).click()
    expect(narrow.get_by_text("encrypted by a key that never leaves an HSM")).to_be_visible()
    narrow.get_by_role("button", name="Create key set").click()
    expect(narrow.get_by_role("heading", name=name)).to_be_visible()
    expect(narrow.get_by_text(f"Wrapped by an HSM, by {name}")).to_be_visible()
    narrow.locator("nav.tabs").get_by_role("link", name="Protection").click()
    assert_accessible(narrow)

    # The HSM is needed now, and says by what.
    page.goto("/appliance/hsms/")
    page.get_by_role("link", name=name).click()
    page.locator("nav.tabs").get_by_role("link", name="Keys and dependents").click()
    expect(page.get_by_text("1 key that wraps key sets of vault Payments.")).to_be_visible()
