"""The whole guide by clicks alone: from the first sign-in to an S3 object that is readable, unreadable, readable again.

Nothing is done through the API: only S3 itself is asked by boto3, as an application would, of the bundled simulator. The second walk
is done with the keyboard alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from playwright.sync_api import Page, expect

from tests.browser.conftest import Site, assert_accessible
from tests.vault.serving import ROOT, wait_for

pytestmark = pytest.mark.slow

SLOWLY = 30_000  # milliseconds; what AWS does
CONFIRMED = re.compile("no node answers for this key any more|the others refuse by themselves")
REGION = "eu-west-1"
PASSWORD = "a river of quiet paper boats"


def aws(site: Site, service: str) -> Any:
    """An unmodified boto3 client of the simulator."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "vault.cli", "simulator", "credentials", "--json"],
        env=site.place.environ, cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    return boto3.client(
        service,
        endpoint_url=found["endpoint"],
        region_name=REGION,
        aws_access_key_id=found["access_key_id"],
        aws_secret_access_key=found["secret_access_key"],
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def new_admin(page: Page, vault: str, email: str) -> str:
    """As appliance admin: a vault; return its admin's one-time password."""
    page.goto("/appliance/vaults/")
    page.get_by_role("link", name="Create vault").click()
    page.get_by_label("Name", exact=True).fill(vault)
    page.get_by_label("Admin's name").fill("Ada")
    page.get_by_label("Admin's e-mail").fill(email)
    page.get_by_role("button", name="Create vault").click()
    page.get_by_role("button", name="Show One-time password").click()
    secret = page.locator("#secret-1")
    expect(secret).to_contain_text("-")
    return secret.inner_text()


def first_sign_in(page: Page, email: str, one_time: str) -> None:
    """With the one-time password, which has to be replaced before anything else."""
    page.goto("/")
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password", exact=True).fill(one_time)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Set a new password")).to_be_visible()
    fields = page.locator("input[type=password]")
    fields.nth(0).fill(one_time)
    fields.nth(1).fill(PASSWORD)
    fields.nth(2).fill(PASSWORD)
    page.get_by_role("button", name="Set password").click()
    expect(page.get_by_role("link", name="Overview", exact=True)).to_be_visible()


def test_the_walk_by_clicks(
    signed_in_page: Callable[..., Page], open_page: Callable[..., Page], site: Site
) -> None:
    one_time = new_admin(signed_in_page("appliance"), "Walked", "walker@example.com")
    page = open_page()
    first_sign_in(page, "walker@example.com", one_time)

    # The account, on the simulator.
    page.get_by_role("button", name="Try it with the simulator").first.click()
    expect(page.get_by_text("Simulated").first).to_be_visible(timeout=SLOWLY)
    assert_accessible(page)

    # The key set, linked.
    page.get_by_role("link", name="Key sets", exact=True).click()
    page.get_by_role("link", name="Create key set").first.click()
    page.get_by_label("Name", exact=True).fill("walk-hyok")
    for heading in (
        "CSP account",
        "Use as external key store",
        "How the keys are protected",
        "Rotation of keys",
    ):
        page.get_by_role("button", name="Continue").last.click()
        expect(page.get_by_text(heading, exact=True).first).to_be_visible()
    page.get_by_role("button", name="Continue").last.click()
    assert_accessible(page)
    page.get_by_role("button", name="Create key set").click()
    expect(page.get_by_role("heading", name="Store the XKS proxy credential")).to_be_visible()
    assert_accessible(page)
    page.get_by_role("button", name="I have stored it").click()

    # The store connects by itself, and the page tells so without a reload.
    page.get_by_role("link", name="External key stores", exact=True).click()
    page.get_by_role("link", name="walk-hyok").first.click()
    expect(page.get_by_text("Connected", exact=True).first).to_be_visible(timeout=SLOWLY)

    # The key; the person that uses it is picked by typing.
    page.get_by_role("link", name="Cloud keys", exact=True).first.click()
    page.get_by_role("link", name="Create key", exact=True).first.click()
    page.get_by_label("Name", exact=True).fill("walk-prod")
    users = page.locator("[data-picker=users]")
    users.get_by_role("combobox").fill("Administrator")
    users.get_by_role("option", name=re.compile("Administrator")).click()
    expect(users.locator(".chip")).to_contain_text("Administrator")
    page.get_by_role("button", name="Create key").click()
    expect(page.locator(".page-title")).to_contain_text("walk-prod")
    expect(page.locator(".page-title")).to_contain_text("Enabled", timeout=SLOWLY)

    expect(page.get_by_text(re.compile("arn:aws:kms")).first).to_be_attached(timeout=SLOWLY)
    see_it_work(page, site, "walked", "walk-prod")


def see_it_work(page: Page, site: Site, bucket: str, name: str) -> None:
    """An object under the key of the page: readable, after Disable not, after Enable again."""
    s3 = aws(site, "s3")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    put = s3.put_object(
        Bucket=bucket,
        Key="o",
        Body=b"as written",
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId=f"alias/{name}",
    )
    assert put["ServerSideEncryption"] == "aws:kms"
    assert s3.get_object(Bucket=bucket, Key="o")["Body"].read() == b"as written"

    page.get_by_role("link", name="Disable key").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("Suspected breach")
    assert_accessible(page)
    dialog.get_by_role("button", name=re.compile("Disable")).click()
    expect(page.locator(".page-title")).to_contain_text("Disabled")
    # What the page promises holds from when it says so.
    expect(page.get_by_text(CONFIRMED)).to_be_visible()
    with pytest.raises(ClientError, match="KMS"):
        s3.get_object(Bucket=bucket, Key="o")

    page.get_by_role("button", name=re.compile("Enable key|Undo")).first.click()
    expect(page.locator(".page-title")).to_contain_text("Enabled", timeout=SLOWLY)

    def is_readable() -> bool:
        try:
            return s3.get_object(Bucket=bucket, Key="o")["Body"].read() == b"as written"
        except ClientError:
            return False

    assert wait_for(is_readable), "enabled, and not readable again"


def tab_to(page: Page, role: str, name: str) -> None:
    """Press Tab until the focus is on this; it must be seen to be there."""
    wanted = page.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
    expect(wanted.first).to_be_visible()
    for _ in range(80):
        page.keyboard.press("Tab")
        if wanted.evaluate_all("all => all.includes(document.activeElement)"):
            shown = "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).boxShadow"
            assert page.evaluate(shown) != "nonenone", f"the focus does not show on {name}"
            return
    raise AssertionError(f"{role} {name} cannot be reached with Tab")


def press(page: Page, role: str, name: str) -> None:
    """Go there with Tab, and press Enter."""
    tab_to(page, role, name)
    page.keyboard.press("Enter")


def test_the_main_part_by_keyboard(signed_in_page: Callable[..., Page], site: Site) -> None:
    # A page that is left while a part of it asks for news breaks that request off, which htmx tells so.
    page = signed_in_page("owner", expected=["htmx:sendAbort", "htmx:afterRequest"])
    page.goto(f"/v/{site.vault}/csp-accounts/")
    press(page, "button", "Try it with the simulator")
    expect(page.get_by_text("Simulated").first).to_be_visible(timeout=SLOWLY)

    press(page, "link", "Key sets")
    expect(page.get_by_role("heading", name="Key sets")).to_be_visible()
    press(page, "link", "Create key set")
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.type("by-keyboard")
    page.keyboard.press("Enter")
    for heading in (
        "CSP account",
        "Use as external key store",
        "How the keys are protected",
        "Rotation of keys",
    ):
        expect(page.get_by_text(heading, exact=True).first).to_be_visible()
        press(page, "button", "Continue")
    press(page, "button", "Create key set")
    expect(page.get_by_role("heading", name="Store the XKS proxy credential")).to_be_visible()
    press(page, "button", "I have stored it")
    expect(page.get_by_role("heading", name="by-keyboard", exact=True)).to_be_visible()

    page.keyboard.press("Control+k")
    page.keyboard.type("Cloud keys")
    expect(page.locator("#palette [aria-selected=true]")).to_contain_text("Cloud keys")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Cloud keys")).to_be_visible()
    press(page, "link", "Create key")
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.type("typed-key")
    tab_to(page, "combobox", "Users optional")
    page.keyboard.type("Administrator")
    users = page.locator("[data-picker=users]")
    expect(users.locator("[aria-selected=true]")).to_contain_text("Administrator")
    page.keyboard.press("Enter")
    expect(users.locator(".chip")).to_contain_text("Administrator")
    press(page, "button", "Create key")
    expect(page.locator(".page-title")).to_contain_text("typed-key")
    expect(page.locator(".page-title")).to_contain_text("Enabled", timeout=SLOWLY)

    press(page, "link", "Disable key")
    reason = page.get_by_role("dialog").get_by_label("Reason")
    expect(reason).to_be_visible()
    if not reason.evaluate("it => it === document.activeElement"):
        tab_to(page, "textbox", "Reason")
    page.keyboard.type("by keyboard")
    press(page, "button", "Disable key")
    expect(page.locator(".page-title")).to_contain_text("Disabled")
