"""make test: the whole suite on PostgreSQL and Redis, then what touches the database again on SQLite.

What is marked slow is left out of the second run, and comes with what is marked long in make test-long.

    run_tests.py [--long] [PYTEST ARGUMENTS...]

The last line sums both runs up: N passed, N failed, N skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import services

ROOT = Path(__file__).resolve().parent.parent
WORKERS = "2"
NOTHING_COLLECTED = 5  # pytest's exit status


def counts(report: Path) -> tuple[int, int, int]:
    """Return (passed, failed, skipped) of a JUnit report; all 0 when pytest did not get as far as writing one."""
    if not report.exists():
        return 0, 0, 0
    totals = [0, 0, 0, 0]
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):  # noqa: S314 (pytest wrote it just now)
        for position, name in enumerate(("tests", "failures", "errors", "skipped")):
            totals[position] += int(suite.get(name, "0"))
    tests, failures, errors, skipped = totals
    return max(0, tests - failures - errors - skipped), failures + errors, skipped


def run_pytest(title: str, arguments: list[str], environ: dict[str, str], report: Path) -> int:
    """Run pytest once and return its exit status."""
    print(f"== {title}", flush=True)
    base = [sys.executable, "-m", "pytest", "-n", WORKERS, "--dist", "worksteal", f"--junitxml={report}"]
    return subprocess.run([*base, *arguments], cwd=ROOT, env=environ).returncode


def main(arguments: list[str]) -> int:
    """Run both and return 0 only when both passed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    began = time.monotonic()
    chosen, again = ["-m", "not long"], ["-m", "not long and not slow"]
    if "--long" in arguments:
        arguments.remove("--long")
        chosen, again = ["-m", "long"], ["-m", "long or slow"]
    # What the caller has set for a Keystead of their own must not reach the tests.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KEYSTEAD_")}
    # The suite starts some hundred Pythons; without this each would compile all of Keystead again.
    clean.pop("PYTHONDONTWRITEBYTECODE", None)
    results = []
    with tempfile.TemporaryDirectory(prefix="keystead-reports-") as folder:
        first, second = Path(folder) / "postgres.xml", Path(folder) / "sqlite.xml"
        with services.running() as environ:
            command = [*chosen, *arguments]
            results.append(run_pytest("PostgreSQL and Redis", command, {**clean, **environ}, first))
        command = [*again, "--database-only", *arguments]
        results.append(run_pytest("SQLite, what touches the database", command, clean, second))
        passed, failed, skipped = (a + b for a, b in zip(counts(first), counts(second), strict=True))
    # A selection by name may leave nothing for the second run; nothing in the first is a mistake.
    if results[1] == NOTHING_COLLECTED:
        results[1] = 0
    broken = [code for code in results if code]
    if broken and not failed:
        print(f"== pytest ended with status {broken[0]} without a failed test; its lines above say why")
        failed = 1
    print(f"== {time.monotonic() - began:.0f} s")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except services.ServiceFailed as error:
        sys.exit(f"run_tests: {error}\n0 passed, 1 failed, 0 skipped")
