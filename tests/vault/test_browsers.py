"""Whose browser it was, in two words; any User-Agent may come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.browsers import browser_name

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("user_agent", "told"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/143.0.0.0 Safari/537.36", "Chrome on Windows"),
        (
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/143.0.0.0 Safari/537.36 Edg/143.0.0.0",
            "Edge on Windows",
        ),
        (f"Mozilla/5.0 (X11; Linux x86_64) {WEBKIT} HeadlessChrome/143.0.0.0 Safari/537.36", "Chrome on Linux"),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
            "Safari on macOS",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Version/18.1 Mobile/15E148 Safari/604.1",
            "Safari on iPhone",
        ),
        (f"Mozilla/5.0 (Linux; Android 15; Pixel 9) {WEBKIT} Chrome/143.0.0.0 Mobile Safari/537.36", "Chrome on Android"),
        ("curl/7.88.1", "curl/7.88.1"),
        ("keystead-cli/0.1 (Linux)", "keystead-cli/0.1"),
        ("x" * 500, "x" * 60),
        ("", ""),
    ],
)  # fmt: skip
def test_what_a_person_recognises(user_agent: str, told: str) -> None:
    assert browser_name(user_agent) == told


@given(st.text(max_size=400))
def test_anything_gives_a_short_name(user_agent: str) -> None:
    assert len(browser_name(user_agent)) <= 60
