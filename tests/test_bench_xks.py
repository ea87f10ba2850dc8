"""The benchmark of the XKS endpoint runs from start to end, and its document has the shape that is documented."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIGURES = {"requests_per_s", "p50_ms", "p99_ms", "p999_ms", "max_ms", "errors", "requests", "seconds"}

needs_tools = pytest.mark.skipif(
    shutil.which("wrk") is None or shutil.which("h2load") is None, reason="needs wrk and h2load"
)


@pytest.mark.long
@needs_tools
def test_smoke_run(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench_xks.py"), "--smoke", "--output", str(output)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert json.loads(output.read_text()) == document
    assert document["machine"]["cores"] >= 1
    assert document["instance"]["rss_kib_used"]["worker"] > 10_000

    rows = document["closed_loop"]
    cases = {(row["operation"], row["plaintext_bytes"]) for row in rows if row["tool"] == "wrk"}
    assert cases == {("encrypt", 32), ("encrypt", 4096), ("decrypt", 32), ("decrypt", 4096), ("health", 0)}
    assert {row["tool"] for row in rows} == {"wrk", "h2load h1", "h2load h2"}
    for row in rows:
        assert row.keys() >= FIGURES
        assert row["requests"] > 0
        assert row["errors"] == 0, row
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["p999_ms"] <= row["max_ms"]

    (loop,) = document["open_loop"]
    assert loop["answered"] == loop["requests"] == 200
    assert loop["errors"] == 0
    assert loop["rss_kib_end"] > 10_000
    assert document["ratios"] == []  # there is no peer
    assert "| keystead | encrypt | 32 |" in done.stderr
    assert "| open loop |" in done.stderr
