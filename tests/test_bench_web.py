"""The benchmark of the pages runs from start to end on few rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_small_run() -> None:
    given = ["--keys", "40", "--events", "400", "--rounds", "1", "--only", "audit", "--json"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench_web.py"), *given],
        capture_output=True,
        text=True,
        timeout=240,
    )
    document = json.loads(done.stdout)
    pages = {row["page"]: row for row in document["rows"]}
    assert {"audit", "audit-event", "appliance-audit"} <= pages.keys()
    assert {"audit, one person", "audit, one action"} <= pages.keys()
    for row in pages.values():
        assert 0 < row["queries"] < 40
        assert 5_000 < row["bytes"] < 200_000
