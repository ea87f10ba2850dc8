"""docs/api.md names addresses and codes that exist, and leaves no code out."""

from __future__ import annotations

import re
from pathlib import Path

from vault.api.idempotency import KEPT
from vault.api.listing import DEFAULT_LIMIT, MAX_LIMIT
from vault.api.parsing import MAX_BODY_BYTES
from vault.api.problems import PROBLEMS
from vault.api.schema import document
from vault.api.throttling import DEFAULT_RATES
from vault.services import sessions, tokens, users

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "api.md").read_text("utf-8")


def test_its_addresses_exist() -> None:
    known = {*document()["paths"], "/api/v1/openapi.json", "/api/v1/docs"}
    named = set(re.findall(r"/api/v1/[a-z./-]*[a-z]", GUIDE))
    assert named
    assert named <= known


def test_its_codes_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+?) \| (.+?) \|$", GUIDE, flags=re.MULTILINE)
    assert [(int(status), code, title, cure) for status, code, title, cure in rows] == [
        (kind.status, code, kind.title, kind.cure) for code, kind in PROBLEMS.items()
    ]


def test_its_numbers_are_true() -> None:
    assert f"{DEFAULT_RATES['actor']:,} requests a minute" in GUIDE
    assert f"{DEFAULT_RATES['anonymous']} for each address" in GUIDE
    assert f"{DEFAULT_RATES['sign_in']} sign-ins" in GUIDE
    assert f"`limit` is 1 to {MAX_LIMIT}, {DEFAULT_LIMIT}" in GUIDE
    assert MAX_BODY_BYTES == 1024 * 1024
    assert "1 MiB at most" in GUIDE
    assert KEPT.total_seconds() == 24 * 3600
    assert tokens.DEFAULT_LIFETIME.days == 90
    assert users.ONE_TIME_PASSWORD_LIFETIME.days == 7
    limits = (
        sessions.MAX_FAILURES_PAIR,
        sessions.MAX_FAILURES_ADDRESS,
        sessions.MAX_FAILURES_EMAIL,
        sessions.WINDOW_S,
    )
    assert limits == (5, 30, 100, 300)
