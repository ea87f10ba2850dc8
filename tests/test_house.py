"""Rules of the house that no linter knows: lock files, licences, words that no file may hold, the Makefile."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import check_licences  # noqa: E402
import check_locks  # noqa: E402
import read_audit  # noqa: E402
import run_tests  # noqa: E402

HASH = "--hash=sha256:" + "0" * 64


def tracked_files() -> list[Path]:
    """Return the files that git knows or would take up."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def test_no_file_names_a_package_host():
    # Put together here, so that this file does not name one either.
    hosts = [
        ".".join(parts)
        for parts in (("pypi", "org"), ("pythonhosted", "org"), ("test", "pypi", "python", "org"))
    ]
    options = ["--index" + "-url", "--extra-index" + "-url", "--find" + "-links"]
    allowed = {"--no-emit-index" + "-url", "--no-emit-find" + "-links"}
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", "replace")
        for word in hosts:
            assert word not in text, f"{path} names {word}"
        for word in allowed:
            text = text.replace(word, "")
        for word in options:
            assert word not in text, f"{path} uses {word}"


def test_locks_are_right():
    assert check_locks.check(ROOT) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a==1", "a has no sha256 hash"),
        ("a==1 --hash=md5:00", "a has no sha256 hash"),
        (f"a==1 \\\n    {HASH} \\\n    --hash=sha256:short", "a has no sha256 hash"),
        (f"a>=1 {HASH}", "a has no exact version"),
        (f"a==1.* {HASH}", "a has no exact version"),
        (f"a {HASH}", "a has no exact version"),
        ("--index" + "-url https://host/simple", "package host"),
        (f"a @ https://host/a.whl {HASH}", "package host"),
        ("-e .", "option of the installer"),
        (f"not a requirement {HASH}", "not a requirement"),
    ],
)
def test_a_wrong_lock_is_found(text, fault):
    assert any(fault in line for line in check_locks.read_lock(text, "x.lock")[1])


def test_a_right_lock_is_read():
    pins, faults = check_locks.read_lock(
        f"# words\n\nA_b==1.0 ; python_version > '3' \\\n    {HASH}\n", "x.lock"
    )
    assert faults == []
    assert list(pins) == ["a-b"]


def test_a_lock_out_of_step_is_found():
    pins, _ = check_locks.read_lock(f"a==1.0 {HASH}", "x.lock")
    assert check_locks.missing_from(pins, ["a>=1"], "x.lock") == []
    assert check_locks.missing_from(pins, ["a>=2"], "x.lock") == [
        "x.lock: a>=2 of pyproject.toml is not locked; run make lock"
    ]
    assert check_locks.missing_from(pins, ["b[c]"], "x.lock") == [
        "x.lock: b[c] of pyproject.toml is not locked; run make lock"
    ]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("MIT", True), ("BSD-3-Clause", True), ("Apache-2.0 OR GPL-2.0-only", True), ("Apache Software License", True),
        ("(MIT OR Apache-2.0)", True), ("GPL-3.0-only", False), ("MIT AND GPL-3.0-only", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False), ("MPL-2.0", False), ("", False), ("See website", False),
    ],
)  # fmt: skip
def test_licences_that_may_be_used(text, right):
    assert check_licences.is_permissive(text) == right


def test_licences_of_what_is_locked():
    assert check_licences.check((ROOT / "requirements/runtime.lock").read_text()) == []
    (missing,) = [
        line for line in check_licences.check(f"no-such-package-at-all==1 {HASH}") if "exception" not in line
    ]
    assert "locked but not installed" in missing


def test_licence_text_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_audit_fails_on_what_was_not_looked_at():
    lock = f"a==1 {HASH}\nb==1 {HASH}\nc==1 ; sys_platform == 'none' {HASH}\n"
    fine = {"dependencies": [{"name": n, "version": "1", "vulns": []} for n in ("a", "b")]}
    assert read_audit.faults(fine, lock) == []
    skipped = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": []},
            {"name": "B", "skip_reason": "no answer"},
        ]
    }
    assert read_audit.faults(skipped, lock) == ["audit: b was skipped: no answer"]
    left_out = {"dependencies": [{"name": "a", "version": "1", "vulns": []}]}
    assert read_audit.faults(left_out, lock) == ["audit: b was left out of the report"]
    flaw = {"id": "CVE-1", "fix_versions": ["2"]}
    bad = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": [flaw]},
            {"name": "b", "version": "1", "vulns": []},
        ]
    }
    assert read_audit.faults(bad, lock) == ["audit: a 1: CVE-1, fixed in: 2"]


def test_reports_are_counted(tmp_path):
    report = tmp_path / "r.xml"
    assert run_tests.counts(report) == (0, 0, 0)
    report.write_text('<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3"/></testsuites>')
    assert run_tests.counts(report) == (3, 3, 3)


def test_every_target_of_the_makefile_has_its_help():
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (\S+)", text, re.M)
    plain = [target for target in targets if not target.startswith("bench-")]
    wanted = [
        "help",
        "run",
        "demo",
        "test",
        "test-long",
        "test-cluster",
        "screenshots",
        "messages",
        "check",
        "audit",
        "lock",
        "clean",
    ]
    assert [target for target in plain if target not in wanted] == []
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in shown.splitlines()] == targets
    assert all(len(line.split()) > 3 for line in shown.splitlines())


def test_ci_runs_check_and_test():
    text = (ROOT / ".ci/run").read_text()
    assert "set -euo pipefail" in text
    assert "make check\nmake test\n" in text
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_shell_scripts_stop_at_the_first_fault():
    for path in [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci/run"]:
        assert path.read_text().startswith("#!/usr/bin/env bash\n"), path
        assert "\nset -euo pipefail\n" in path.read_text(), path
        assert path.stat().st_mode & 0o111, path
        subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_project_file_says_what_tools_read():
    # pyproject.toml parses, and what tools read from it is there.
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert json.loads(json.dumps(project["project"]["scripts"])) == {"keystead": "vault.cli:main"}
    assert project["tool"]["pytest"]["ini_options"]["filterwarnings"][0] == "error"
    assert project["project"]["requires-python"] == ">=3.11"
