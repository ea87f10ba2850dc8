"""Every page there is, with nothing to show, a little, and a lot: axe-core finds nothing, and nothing is told on the console.

Pages are those of the URL tables (scripts/page_addresses.py): a new one is drawn here without a line being added. What answers with a
redirect, a file, a part of a page or 405 is no page. `make test` draws each page once, and those that differ most with nothing and a lot;
`make test-long` draws all of them, in all three, wide and light as well as narrow and dark.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Site, assert_accessible
from tests.vault.serving import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.long]

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


@dataclass(frozen=True)
class Drawn:
    """One address."""

    name: str
    variant: str
    url: str


@pytest.fixture(scope="module")
def filled(site: Site) -> dict[str, list[Drawn]]:
    """Addresses by vault: bare, little, lots."""
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


def is_page(page: Page, url: str, name: str) -> bool:
    """Whether a GET is answered by a whole page. A whole page that is an error fails."""
    answer = page.context.request.get(url, max_redirects=0)
    if answer.status == 405 or 300 <= answer.status < 400:
        return False
    kind = answer.headers.get("content-type", "")
    expected = (200, 404, 409) if name in MOMENTS else (200,)
    assert answer.status in expected, f"{url}: {answer.status}\n{answer.text()[:1500]}"
    return kind.startswith("text/html") and "<html" in answer.text()[:2_000]


def draw(page: Page, drawn: Drawn, width: int) -> str:
    """Look at one page; return what is wrong with it."""
    try:
        if not is_page(page, drawn.url, drawn.name):
            return ""
        page.goto(drawn.url)
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            f"{drawn.url} is wider than {width}"
        )
    except AssertionError as error:
        return f"{drawn.name} {drawn.variant}: {error}"
    return ""


def draw_all(make: Callable[..., Page], rows: list[Drawn], width: int, scheme: str) -> None:
    """Look at them all, each as who may see it, and tell of all that is wrong at once."""
    refused = ("404", "409")
    people = {who: make(who, width=width, scheme=scheme, expected=refused) for who in ("owner", "appliance")}
    faults = [
        draw(people["appliance" if row.url.startswith("/appliance/") else "owner"], row, width)
        for row in rows
        if row.url
    ]
    told = [fault for fault in faults if fault]
    assert not told, "\n\n".join(told)


def test_every_address_has_an_object(filled: dict[str, list[Drawn]]) -> None:
    lacking = {row.name for row in filled["little"] if not row.url}
    assert lacking <= PARTS_ONLY, f"tests/browser/fill.py makes nothing for {sorted(lacking - PARTS_ONLY)}"
    assert len(filled["little"]) > 120


@pytest.mark.parametrize("part", range(8))
def test_each_page_with_a_little(
    signed_in_page: Callable[..., Page], filled: dict[str, list[Drawn]], part: int
) -> None:
    draw_all(signed_in_page, filled["little"][part::8], 1280, "light")


@pytest.mark.parametrize("much", ["bare", "lots"])
def test_lists_with_nothing_and_with_a_lot(
    signed_in_page: Callable[..., Page], filled: dict[str, list[Drawn]], much: str
) -> None:
    draw_all(signed_in_page, [row for row in filled[much] if row.name in LISTS], 400, "dark")


@pytest.mark.long
@pytest.mark.parametrize("much", ["bare", "little", "lots"])
@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")]
)
@pytest.mark.parametrize("part", range(8))
def test_all_of_them(
    signed_in_page: Callable[..., Page],
    filled: dict[str, list[Drawn]],
    much: str,
    width: int,
    scheme: str,
    part: int,
) -> None:
    draw_all(signed_in_page, filled[much][part::8], width, scheme)
