"""Check requirements/*.lock: every requirement exact and hashed, no package host named, in step with pyproject.toml.

Needs no network. Prints one line for each fault; exits 1 when there is one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def read_lock(text: str, name: str) -> tuple[dict[str, list[Requirement]], list[str]]:
    """Return the pinned requirements of a lock file by canonical name, and its faults, one line each."""
    pins: dict[str, list[Requirement]] = {}
    faults: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if "://" in line or line.startswith("-"):
            faults.append(f"{name}: names a package host or an option of the installer: {line.split()[0]}")
            continue
        written, _, hashes = line.partition(" --hash=")
        try:
            requirement = Requirement(written)
        except InvalidRequirement:
            faults.append(f"{name}: not a requirement: {written}")
            continue
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            faults.append(f"{name}: {requirement.name} has no exact version")
        if not hashes or any(not _HASH.fullmatch(part) for part in f"--hash={hashes}".split()):
            faults.append(f"{name}: {requirement.name} has no sha256 hash")
        pins.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return pins, faults


def missing_from(pins: dict[str, list[Requirement]], wanted: list[str], name: str) -> list[str]:
    """Return a fault for each wanted requirement that the lock does not hold in a version that fits."""
    faults = []
    for text in wanted:
        requirement = Requirement(text)
        locked = pins.get(canonicalize_name(requirement.name), [])
        versions = [specifier.version for pin in locked for specifier in pin.specifier]
        if not any(requirement.specifier.contains(version) for version in versions):
            faults.append(f"{name}: {text} of pyproject.toml is not locked; run make lock")
    return faults


def check(root: Path) -> list[str]:
    """Return every fault of the two lock files under `root`, one line each."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    runtime, runtime_faults = read_lock((root / "requirements/runtime.lock").read_text(), "runtime.lock")
    dev, dev_faults = read_lock((root / "requirements/dev.lock").read_text(), "dev.lock")
    wanted = project["project"]["dependencies"]
    optional = project["project"].get("optional-dependencies", {})
    extra = [text for group in optional.values() for text in group]
    faults = runtime_faults + dev_faults
    faults += missing_from(runtime, wanted, "runtime.lock")
    faults += missing_from(dev, wanted + extra + project["dependency-groups"]["dev"], "dev.lock")
    for name, pins in runtime.items():
        if {str(pin.specifier) for pin in pins} != {str(pin.specifier) for pin in dev.get(name, [])}:
            faults.append(f"dev.lock: {name} is not the version of runtime.lock; run make lock")
    return faults


if __name__ == "__main__":
    found = check(ROOT)
    print(
        "\n".join(found)
        if found
        else "lock files: every requirement exact and hashed, in step with pyproject.toml"
    )
    sys.exit(1 if found else 0)
