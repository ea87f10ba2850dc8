"""make screenshots: every page at 1280 and 400 px, light and dark, of a demo instance with something on every page.

Writes screenshots/<width>-<scheme>/<page>.png (not in git), an index.html beside them, and copies the pictures of the
guide (SELECTION), with a palette of few colours, to docs/guide/images when --guide is given.

    screenshots.py [--at LOG] [--only PART] [--widths 1280,400] [--schemes light,dark] [--guide]

--at takes an instance that `demo.py --keep` left running, by what it printed, instead of starting one.
Needs Debian's chromium.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import Error as BrowserError

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "screenshots"
GUIDE = ROOT / "docs" / "guide" / "images"
CHROMIUM = "/usr/bin/chromium"
TALLEST = 2_400
MOST_BYTES = 150_000
SELECTION = {
    "overview": "overview",
    "vaults": "vaults",
    "csp-account": "csp-account",
    "csp-account-tab-policy": "csp-account-policy",
    "key-set-step-store": "key-set-wizard",
    "xks-store": "xks-store",
    "xks-link-steps": "aws-console-steps",
    "cloud-keys": "cloud-keys",
    "cloud-key-new-in": "cloud-key-new",
    "cloud-key": "cloud-key",
    "cloud-key-usage": "cloud-key-usage",
    "cloud-key-disable": "cloud-key-disable",
    "audit": "audit",
    "xks-store-rules": "access-rules",
}
"""Pages of the guide (light, 1280), and their names there."""
VAULT_ADMIN, APPLIANCE_ADMIN = "Vault admin", "Appliance admin"


@dataclass
class Shown:
    """An instance, and who can sign in."""

    url: str
    sign_ins: dict[str, tuple[str, str]] = field(repr=False)
    environ: dict[str, str] = field(repr=False)


def read_log(text: str) -> Shown:
    """What demo.py --keep printed, as an instance. Raises LookupError."""
    url = re.search(r"Web and REST API +(http://\S+)", text)
    settings = re.search(r"export (KEYSTEAD_DATA_DIR=.*)", text)
    if url is None or settings is None:
        raise LookupError(f"The demo did not come up:\n{text[-3000:]}")
    people = re.findall(r"^  (\w+(?: \w+)?) {2,}(\S+@\S+) +(\S+)$", text, re.MULTILINE)
    sign_ins = {who: (email, password) for who, email, password in people}
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("KEYSTEAD_", "AWS_", "DJANGO_"))
    }
    ours = dict(item.split("=", 1) for item in settings[1].split())
    return Shown(url[1], sign_ins, {**clean, **ours, "PYTHONPATH": str(ROOT)})


@contextmanager
def instance(log: str) -> Iterator[Shown]:
    """The one that is left running, or one of our own."""
    if log:
        yield read_log(Path(log).read_text())
        return
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py"), "--keep"], capture_output=True, text=True
    )
    stop = re.search(r"kill (\d+)\n +rm -r (\S+)", done.stdout)
    try:
        yield read_log(done.stdout + done.stderr)
    finally:
        if stop is not None:
            os.kill(int(stop[1]), signal.SIGTERM)
            subprocess.run(["rm", "-r", stop[2]])


def pages_of(shown: Shown) -> list[tuple[str, str]]:
    """(slug, path) of every page of the demo's vault."""
    code = (
        "import django; django.setup()\n"
        "from vault.models import Vault; import page_addresses, json\n"
        "vault = Vault.objects.order_by('created_at').first()\n"
        "print(json.dumps([(found.slug, found.url) for found in page_addresses.addresses(vault)]))"
    )
    environ = {
        **shown.environ,
        "DJANGO_SETTINGS_MODULE": "vault.settings",
        "PYTHONPATH": f"{ROOT}:{ROOT}/scripts",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    if done.returncode:
        raise LookupError(done.stderr)
    return [(slug, url) for slug, url in json.loads(done.stdout.splitlines()[-1]) if url]


def is_page(page: Page, url: str) -> bool:
    """Whether a GET is answered by a whole page: not by a redirect, a file, a part, or 405."""
    answer = page.context.request.get(url, max_redirects=0)
    kind = answer.headers.get("content-type", "")
    if answer.status == 405 or 300 <= answer.status < 400 or not kind.startswith("text/html"):
        return False
    whole = "<html" in answer.text()[:2_000]
    if whole and answer.status >= 400:
        print(f"  {url}: {answer.status}")
    return whole


def sign_in(browser: Browser, shown: Shown, who: str, width: int, scheme: Any) -> Page:
    """A window in which `who` has signed in."""
    email, password = shown.sign_ins[who]
    context = browser.new_context(
        viewport={"width": width, "height": 860 if width > 600 else 800},
        color_scheme=scheme,
        base_url=shown.url,
        reduced_motion="reduce",
    )
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.goto("/accounts/login/")
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(lambda url: "/accounts/login" not in url)
    return page


def shoot(page: Page, url: str, path: Path) -> None:
    """One picture, as tall as the page within reason."""
    page.goto(url, wait_until="load")
    tall = int(page.evaluate("document.documentElement.scrollHeight"))
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        print(f"  wider than the window: {path.name} ({path.parent.name})")
    # A window as tall as the page, so that what is as tall as the window is too.
    wide, low = page.viewport_size["width"], page.viewport_size["height"]  # type: ignore[index]
    page.set_viewport_size({"width": wide, "height": min(max(low, tall), TALLEST)})
    page.screenshot(path=str(path))
    page.set_viewport_size({"width": wide, "height": low})


def render(shown: Shown, folder: Path, widths: list[int], schemes: list[str], only: str) -> None:
    """Every page in every width and scheme."""
    found = [(slug, url) for slug, url in pages_of(shown) if only in slug]
    drawn: list[str] = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        real: set[str] = set()
        for width in widths:
            for scheme in schemes:
                place = folder / f"{width}-{scheme}"
                place.mkdir(parents=True, exist_ok=True)
                windows = {
                    who: sign_in(browser, shown, who, width, scheme) for who in (VAULT_ADMIN, APPLIANCE_ADMIN)
                }
                for slug, url in found:
                    page = windows[APPLIANCE_ADMIN if url.startswith("/appliance/") else VAULT_ADMIN]
                    try:
                        if not real and not drawn:
                            drawn = [
                                slug
                                for slug, url in found
                                if is_page(
                                    windows[
                                        APPLIANCE_ADMIN if url.startswith("/appliance/") else VAULT_ADMIN
                                    ],
                                    url,
                                )
                            ]
                            real = set(drawn)
                        if slug in real:
                            shoot(page, url, place / f"{slug}.png")
                    except BrowserError as error:
                        print(f"  {slug}: {str(error)[:200]}")
                for page in windows.values():
                    page.context.close()
                print(f"{place}: {len(drawn)} pages", flush=True)
        browser.close()
    rows = "".join(f'<h2>{slug}</h2><img src="{widths[0]}-{schemes[0]}/{slug}.png">\n' for slug in drawn)
    (folder / "index.html").write_text(f"<!doctype html><title>Keystead</title>{rows}")


QUANTISE = """async (source) => {
  const image = new Image(); image.src = source; await image.decode();
  const [wide, tall] = [image.naturalWidth, image.naturalHeight];
  const canvas = new OffscreenCanvas(wide, tall), pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const data = new Uint32Array(pen.getImageData(0, 0, wide, tall).data.buffer);
  const counts = new Map();
  for (const each of data) counts.set(each, (counts.get(each) || 0) + 1);
  const split = (each) => [each & 255, (each >> 8) & 255, (each >> 16) & 255];
  const kept = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 128).map(([each]) => split(each));
  const nearest = new Map();
  for (const each of counts.keys()) {
    const [r, g, b] = split(each);
    let best = 0, far = Infinity;
    kept.forEach(([x, y, z], at) => { const d = (r-x)**2 + (g-y)**2 + (b-z)**2; if (d < far) { far = d; best = at; } });
    nearest.set(each, best);
  }
  let text = "";
  for (let row = 0; row < tall; row++) {
    text += String.fromCharCode(...data.subarray(row * wide, (row + 1) * wide).map((each) => nearest.get(each)));
  }
  return {wide, tall, palette: kept.flat(), pixels: btoa(text)};
}"""
"""The 128 commonest colours; all others become the nearest of them. Done by the browser, which has the decoder."""


def with_palette(page: Page, source: Path) -> bytes:
    """A PNG of the same picture with a byte a pixel."""
    url = "data:image/png;base64," + base64.b64encode(source.read_bytes()).decode()
    found = page.evaluate(QUANTISE, url)
    pixels, wide = base64.b64decode(found["pixels"]), found["wide"]
    rows = b"".join(b"\0" + pixels[at : at + wide] for at in range(0, len(pixels), wide))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", wide, found["tall"], 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", head),
        (b"PLTE", bytes(found["palette"])),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def copy_selection(folder: Path) -> None:
    """The guide's pictures, small. Raises SystemExit when one is missing or too large."""
    GUIDE.mkdir(parents=True, exist_ok=True)
    wrong = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page()
        for slug, name in SELECTION.items():
            source, target = folder / "1280-light" / f"{slug}.png", GUIDE / f"{name}.png"
            if not source.exists():
                wrong.append(f"not there: {source}")
                continue
            target.write_bytes(with_palette(page, source))
            if target.stat().st_size > MOST_BYTES:
                wrong.append(f"{target} has {target.stat().st_size:,} bytes")
        browser.close()
    if wrong:
        sys.exit("\n".join(wrong))


def main() -> int:
    """Render; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--at", default="", help="the file with what demo.py --keep printed")
    parser.add_argument("--only", default="", help="only pages whose name has this in it")
    parser.add_argument("--widths", default="1280,400")
    parser.add_argument("--schemes", default="light,dark")
    parser.add_argument("--folder", default=str(FOLDER))
    parser.add_argument("--guide", action="store_true", help="copy the guide's pictures to docs/guide/images")
    given = parser.parse_args()
    folder = Path(given.folder)
    with instance(given.at) as shown:
        widths = [int(width) for width in given.widths.split(",")]
        render(shown, folder, widths, given.schemes.split(","), given.only)
    if given.guide:
        copy_selection(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
