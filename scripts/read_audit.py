"""Read pip-audit's report: fail unless every package that applies here was looked at and none is vulnerable.

read_audit.py REPORT.json LOCK
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from check_locks import read_lock
from packaging.utils import canonicalize_name


def faults(report: dict[str, Any], lock: str) -> list[str]:
    """Return one line for each package that was skipped, left out, or has a known vulnerability."""
    found = []
    seen = set()
    for package in report["dependencies"]:
        name = canonicalize_name(package["name"])
        if "skip_reason" in package:
            found.append(f"audit: {name} was skipped: {package['skip_reason']}")
            continue
        seen.add(name)
        for flaw in package["vulns"]:
            cure = ", ".join(flaw["fix_versions"]) or "none yet"
            found.append(f"audit: {name} {package['version']}: {flaw['id']}, fixed in: {cure}")
    pins, _ = read_lock(lock, "lock")
    for name, requirements in pins.items():
        applies = any(pin.marker is None or pin.marker.evaluate() for pin in requirements)
        if applies and name not in seen and not any(line.startswith(f"audit: {name} ") for line in found):
            found.append(f"audit: {name} was left out of the report")
    return found


if __name__ == "__main__":
    lines = faults(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]).read_text())
    print(
        "\n".join(lines)
        if lines
        else "audit: every locked package was looked at, none has a known vulnerability"
    )
    sys.exit(1 if lines else 0)
