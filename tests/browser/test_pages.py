"""Every page there is, with nothing to show, a little, and a lot: axe-core finds nothing, and nothing is told on the console.

Pages are those of the URL tables (scripts/page_addresses.py): a new one is drawn here without a line being added. What answers with a
redirect, a file, a part of a page or 405 is no page. Each page is loaded once and looked at wide by all of axe-core, and narrow for whether
it fits; the lists also in the dark, for contrast. `make test` draws all pages with a little and the lists with nothing and a lot;
`make test-long` draws all of them in all three, each width and scheme loaded anew and looked at by all of axe-core.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from playwright.async_api import Error as BrowserError

from tests.browser.conftest import CHROMIUM, Drawn, Site, Watch, violations
from tests.cast import PASSWORD

pytestmark = pytest.mark.slow

LISTS = {
    "overview", "cloud-keys", "key-sets", "csp-accounts", "xks-stores", "xks-requests", "operations", "audit", "people", "groups",
}  # fmt: skip
"""Pages that say something else when there is nothing, and page when there is a lot; in `make test` in all three."""
PARTS_ONLY = {"csp-account-progress", "key-set-progress", "node-accept-rollback"}
"""Of a moment that the seed does not make: parts of pages while work goes on, and a node that refuses. Their own tests draw them."""

MOMENTS = {
    "operation-cancel",
    "xks-rotation-done",
    "xks-rotation-cancel",
    "xks-rotation-retry",
    "xks-rotation-file",
    "certificate-activate",
}
"""They answer 404 or 409 unless something is under way; the page that says so is drawn."""
AT_ONCE = 4
"""Windows in which pages are drawn side by side."""
PARTS = 4
"""So that a test stays under the two minutes after which one counts as hung, on a machine at work too."""
PATIENCE = 60_000  # milliseconds; for a machine at work


@dataclass
class Studio:
    """The site, and the sessions of those who have signed in already."""

    site: Site
    vaults: dict[str, list[Drawn]]
    sessions: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def studio(site: Site, filled: dict[str, list[Drawn]]) -> Studio:
    """The site with its three vaults."""
    return Studio(site, filled)


async def is_page(page: Page, drawn: Drawn) -> bool:
    """Whether a GET is answered by a whole page. A whole page that is an error fails."""
    answer = await page.context.request.get(drawn.url, max_redirects=0, timeout=PATIENCE)
    if answer.status == 405 or 300 <= answer.status < 400:
        return False
    kind = answer.headers.get("content-type", "")
    expected = (200, 404, 409) if drawn.name in MOMENTS else (200,)
    text = await answer.text()
    assert answer.status in expected, f"{drawn.url}: {answer.status}\n{text[:1500]}"
    return kind.startswith("text/html") and "<html" in text[:2_000]


def told(found: dict[str, Any], page: Page) -> None:
    """Fail with what axe-core found."""
    faults = violations(found)
    assert not faults, f"{page.url}\n" + "\n".join(faults)


async def look(page: Page) -> None:
    """axe-core finds nothing on what the page shows now."""
    found = await Axe().run(page, options={"resultTypes": ["violations"]})
    told(found.response, page)


async def look_in_the_dark(page: Page) -> None:
    """Nor when the system is dark: contrast alone can differ. axe-core is in the page already."""
    await page.emulate_media(color_scheme="dark")
    rules = {"type": "rule", "values": ["color-contrast"]}
    found = await page.evaluate(
        "options => axe.run(document, options)", {"resultTypes": ["violations"], "runOnly": rules}
    )
    await page.emulate_media(color_scheme="light")
    told(found, page)


async def fits(page: Page, width: int) -> None:
    """Nothing makes the page wider than the window."""
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        f"{page.url} is wider than {width}"
    )


async def draw(page: Page, drawn: Drawn, width: int, thorough: bool) -> str:
    """Look at one page; return what is wrong with it."""
    try:
        if not await is_page(page, drawn):
            return ""
        await page.goto(drawn.url, wait_until="load")
        await look(page)
        await fits(page, width)
        if not thorough:
            if drawn.name in LISTS:
                await look_in_the_dark(page)
            await page.set_viewport_size({"width": 400, "height": 900})
            await fits(page, 400)
            await page.set_viewport_size({"width": width, "height": 900})
    except (AssertionError, BrowserError) as error:
        return f"{drawn.name} {drawn.variant}: {error}"
    return ""


async def window(browser: Browser, studio: Studio, who: str, width: int, scheme: Any) -> BrowserContext:
    """One in which somebody is signed in."""
    context = await browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        base_url=studio.site.url,
        reduced_motion="reduce",
        storage_state=studio.sessions.get(who),
    )
    context.set_default_timeout(PATIENCE)
    if who not in studio.sessions:
        page = await context.new_page()
        await page.goto("/accounts/login/")
        await page.get_by_label("Email").fill(f"{who}@example.com")
        await page.get_by_label("Password", exact=True).fill(PASSWORD)
        await page.get_by_role("button", name="Sign in", exact=True).click()
        await page.wait_for_url(lambda url: "/accounts/login" not in url)
        studio.sessions[who] = await context.storage_state()
        await page.close()
    return context


async def draw_one_by_one(page: Page, waiting: list[Drawn], width: int, thorough: bool) -> list[str]:
    """Take from those that wait until none is left; return what is wrong."""
    faults = []
    while waiting:
        faults.append(await draw(page, waiting.pop(0), width, thorough))
    return [fault for fault in faults if fault]


async def draw_all(studio: Studio, rows: list[Drawn], width: int, scheme: str, thorough: bool) -> list[str]:
    """Look at them all, each as who may see it; return all that is wrong."""
    faults: list[str] = []
    async with async_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        for who in ("appliance", "owner"):
            waiting = [
                row for row in rows if row.url and (who == "appliance") == row.url.startswith("/appliance/")
            ]
            if not waiting:
                continue
            context = await window(browser, studio, who, width, scheme)
            watch = Watch(context, urlsplit(studio.site.url).netloc, ["404", "409"])

            pages = [await context.new_page() for _ in range(AT_ONCE)]
            faults_of = await asyncio.gather(
                *(draw_one_by_one(page, waiting, width, thorough) for page in pages)
            )
            await context.close()
            faults += [fault for found in faults_of for fault in found] + watch.faults
        await browser.close()
    return faults


def see(
    studio: Studio, rows: list[Drawn], width: int = 1280, scheme: str = "light", *, thorough: bool = False
) -> None:
    """Draw them, and tell of all that is wrong at once."""
    faults = asyncio.run(draw_all(studio, rows, width, scheme, thorough))
    assert not faults, "\n\n".join(faults)


def test_every_address_has_an_object(studio: Studio) -> None:
    lacking = {row.name for row in studio.vaults["little"] if not row.url}
    assert lacking <= PARTS_ONLY, f"tests/browser/fill.py makes nothing for {sorted(lacking - PARTS_ONLY)}"
    assert len(studio.vaults["little"]) > 120


@pytest.mark.parametrize("part", range(PARTS))
def test_each_page_with_a_little(studio: Studio, part: int) -> None:
    see(studio, studio.vaults["little"][part::PARTS])


@pytest.mark.parametrize("much", ["bare", "lots"])
def test_lists_with_nothing_and_with_a_lot(studio: Studio, much: str) -> None:
    see(studio, [row for row in studio.vaults[much] if row.name in LISTS])


# 1,500 pages: a quarter of an hour. What differs from the above are the details of single objects with nothing and a lot around them.
@pytest.mark.long
@pytest.mark.parametrize("much", ["bare", "little", "lots"])
@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")]
)
@pytest.mark.parametrize("part", range(PARTS))
def test_all_of_them(studio: Studio, much: str, width: int, scheme: str, part: int) -> None:
    see(studio, studio.vaults[much][part::PARTS], width, scheme, thorough=True)
