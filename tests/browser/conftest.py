"""Pages in Debian's Chromium, against Keystead's real processes.

Whatever a test does, it fails when the console told an error, the Content-Security-Policy was broken, a script threw, or a request went
to another host. Every test here is slow (mark `slow`) and touches no database of its own process: the server has its own.

    def test_it(signed_in_page, site):
        page = signed_in_page("owner")           # or "colleague", "auditor", "outsider", "appliance"
        page.goto(site.url + f"/v/{site.vault}/")
        assert_accessible(page)

`signed_in_page(who, width=400, scheme="dark")` opens a narrow window or the dark theme. A test that provokes an error on purpose names a
part of its text: `signed_in_page("owner", expected=["404"])`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.cast import PASSWORD
from tests.vault.serving import PROBE_EVERY, ROOT, Place, place, wait_for

CHROMIUM = Path("/usr/bin/chromium")
# How long a page may take to show what is expected: generous, because the machine runs other tests beside.
expect.set_options(timeout=20_000)


@dataclass(frozen=True)
class Site:
    """A running Keystead with the cast in it."""

    url: str
    vault: str
    other_vault: str
    place: Place


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """One for all browser tests of this process: `keystead serve`, with simulator, workers and XKS endpoint."""
    with place(
        KEYSTEAD_ADMIN_EMAIL="first@example.com", KEYSTEAD_ADMIN_PASSWORD="not used by anybody"
    ) as here:
        process = here.start("serve")
        assert wait_for(lambda: here.probe("web") or process.popen.poll() is not None, every=PROBE_EVERY), (
            process.text
        )
        assert process.popen.poll() is None, process.text
        found = subprocess.run(
            [sys.executable, "-m", "tests.browser.seed"],
            env=here.environ, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        made = json.loads(found.stdout.strip().splitlines()[-1])
        yield Site(
            f"http://127.0.0.1:{here.environ['KEYSTEAD_WEB_PORT']}", made["vault"], made["other_vault"], here
        )


@dataclass(frozen=True)
class Drawn:
    """One address of scripts/page_addresses.py."""

    name: str
    variant: str
    url: str


@pytest.fixture(scope="session")
def filled(site: Site) -> dict[str, list[Drawn]]:
    """Three vaults of the owner's, bare, little and lots (tests/browser/fill.py), and the addresses of their pages."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.browser.fill"],
        env=site.place.environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {vault: [Drawn(*row) for row in rows] for vault, rows in found.items()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Ended after each module: Playwright keeps an event loop running, in which Django refuses its database."""
    if not CHROMIUM.exists():
        pytest.fail("Debian's chromium is needed: apt-get install chromium")
    with sync_playwright() as playwright:
        # As root Chromium's sandbox does not start.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield started
        started.close()


ABORTED = ("htmx:sendAbort", "htmx:afterRequest")
"""What htmx tells of a request that the browser broke off because the page was left; a failed one is told as another event."""


class Watch:
    """Collects what must not happen."""

    def __init__(self, context: Any, host: str, expected: list[str]) -> None:
        self.host, self.expected = host, expected
        self.faults: list[str] = []
        context.on("request", self._request)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.faults.append(f"script: {error.error}"))

    def _request(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != self.host:
            self.faults.append(f"another host: {request.url}")

    def _console(self, message: Any) -> None:
        if message.text.startswith(ABORTED):
            return
        if message.type == "error" and not any(part in message.text for part in self.expected):
            self.faults.append(f"console: {message.text}")


@pytest.fixture
def open_page(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    """Open a window: open_page(width=1280, scheme="light", scripts=True, expected=())."""
    opened: list[tuple[BrowserContext, Watch]] = []

    def make(*, width: int = 1280, scheme: Any = "light", scripts: bool = True, expected: Any = ()) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripts,
            base_url=site.url,
            reduced_motion="reduce",
        )
        context.set_default_timeout(20_000)
        opened.append((context, Watch(context, urlsplit(site.url).netloc, list(expected))))
        return context.new_page()

    yield make
    faults = []
    for context, watch in opened:
        context.close()
        faults += watch.faults
    assert not faults, "\n".join(faults)


@pytest.fixture
def signed_in_page(open_page: Callable[..., Page]) -> Callable[..., Page]:
    """A window in which one of the cast has signed in."""

    def make(who: str, **options: Any) -> Page:
        page = open_page(**options)
        page.goto("/accounts/login/")
        page.get_by_label("Email").fill(f"{who}@example.com")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()
        page.wait_for_url(lambda url: "/accounts/login" not in url)
        return page

    return make


def violations(found: dict[str, Any]) -> list[str]:
    """What axe-core found, in words."""
    return [
        f"{rule['id']}: {rule['help']}\n    "
        + "\n    ".join(
            f"{node['html'][:200]} :: {node['failureSummary'][:300]}" for node in rule["nodes"][:4]
        )
        for rule in found["violations"]
    ]


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing on what the page shows now."""
    # Playwright runs it in an isolated way, so that the page's policy need not allow it.
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    told = violations(found.response)
    assert not told, f"{page.url}\n" + "\n".join(told)
