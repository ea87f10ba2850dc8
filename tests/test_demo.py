"""The demo as a newcomer runs it: everything real, in a folder of its own, gone afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[1]


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py"), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def folder_of(printed: str) -> Path:
    """Where it says that everything is."""
    found = re.search(r"everything in (\S+)", printed)
    assert found is not None, printed
    return Path(found[1])


@pytest.mark.slow
def test_walk_is_whole_and_leaves_nothing() -> None:
    done = run_demo()

    assert done.returncode == 0, done.stdout + done.stderr
    steps = re.findall(r"^ *(\d+)\. ", done.stdout, re.MULTILINE)
    assert steps == [str(number) for number in range(1, 11)]
    for seen in (
        "KMS says CONNECTED",
        "ENABLED and LINKED after",
        "Origin EXTERNAL_KEY_STORE",
        "confirmed by 2 of 2 XKS worker processes",
        "refused, 400 KMS.",
        "version 2 encrypts",
    ):
        assert seen in done.stdout
    assert done.stdout.count("as written") == 4
    assert re.search(r"All as it must be, in [\d.]+ s", done.stdout)
    assert not folder_of(done.stdout).exists()


@pytest.fixture
def kept() -> Iterator[str]:
    """A demo that was left running, and what it printed."""
    done = run_demo("--keep")
    yield done.stdout + done.stderr
    found = re.search(r"kill (\d+)\n +rm -r (\S+)", done.stdout)
    if found is not None:
        os.kill(int(found[1]), signal.SIGTERM)
        limit = time.monotonic() + 15
        while Path(f"/proc/{found[1]}").exists() and time.monotonic() < limit:
            time.sleep(0.05)
        subprocess.run(["rm", "-r", found[2]], check=True)


@pytest.mark.long
def test_kept_instance_answers_and_its_sign_ins_work(kept: str) -> None:
    url = re.search(r"Web and REST API +(http://127\.0\.0\.1:\d+)", kept)
    assert url is not None, kept
    people = re.findall(
        r"^  (Appliance admin|Vault admin|Cloud admin|Auditor) +(\S+) +(\S+)$", kept, re.MULTILINE
    )
    assert [who for who, _, _ in people] == ["Appliance admin", "Vault admin", "Cloud admin", "Auditor"]
    for who, email, password in people:
        answer = httpx.post(
            f"{url[1]}/api/v1/auth/sign-in",
            json={"email": email, "password": password},
            timeout=15,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        me = answer.json()
        assert me["is_appliance_admin"] == (who == "Appliance admin")
        assert not me["must_change_password"]
    settings = re.search(r"export (KEYSTEAD_DATA_DIR=.*)", kept)
    assert settings is not None
    # pytest-django's own settings module is not this instance's.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
    environ = {**inherited, **dict(item.split("=", 1) for item in settings[1].split())}
    listed = subprocess.run(
        [sys.executable, "-m", "vault.cli", "cloud-key", "list", "--json"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        check=True,
    )
    states = {
        row["name"]: (row["state"], row["blocked"], row["pointer_state"]) for row in json.loads(listed.stdout)
    }
    assert states == {
        "payments-prod": ("ENABLED", False, "LINKED"),
        "payments-archive": ("DISABLED", False, "LINKED"),
        "reporting": ("ENABLED", True, "LINKED"),
        "legacy-ledger": ("PENDING_DELETION", False, "LINKED"),
        "cards-2025": ("ENABLED", False, "LINKED"),
        "customer-mail": ("ENABLED", False, "LINKED"),
        "claims-scans": ("ENABLED", False, "LINKED"),
        "archive-2024": ("ENABLED", False, "NOT_LINKED"),
    }
