"""Check the licences of everything in requirements/runtime.lock that is installed here.

Permissive licences pass; every other one is listed below with the reason why it may stay.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from check_locks import read_lock

ROOT = Path(__file__).resolve().parent.parent

PERMISSIVE = re.compile(
    r"\b(mit|mit-cmu|mit-0|bsd|bsd-2-clause|bsd-3-clause|0bsd|apache|apache-2\.0|isc|psf-2\.0|python-2\.0|zlib|"
    r"unlicense|cc0-1\.0)\b",
    re.IGNORECASE,
)
OTHER = re.compile(
    r"\b(a?gpl|lgpl|mpl|epl|cddl|eupl|sspl|busl|general public|mozilla public|proprietary)", re.IGNORECASE
)

EXCEPTIONS = {
    "certifi": "MPL-2.0: a list of certificates, used unchanged",
    "fido2": "BSD-2-Clause; its copy of the public suffix list is MPL-2.0 and used unchanged",
    "psycopg": "LGPL-3.0: imported, not changed, and replaceable by its user",
    "psycopg-binary": "LGPL-3.0: the same, with libpq (PostgreSQL licence) inside",
    "psycopg-pool": "LGPL-3.0: the same",
    "qrcode": "BSD-3-Clause; its second classifier speaks of the registered name 'QR Code'",
}


def licence_text(package: Distribution) -> str:
    """Return what a package says of its licence: the SPDX expression, or else field and classifiers."""
    expression = package.metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [
        line.rpartition("::")[2].strip()
        for line in package.metadata.get_all("Classifier") or []
        if line.startswith("License ::") and line != "License :: OSI Approved"
    ]
    # The field may hold a whole licence; its first line names it.
    field = (package.metadata.get("License") or "").strip().partition("\n")[0][:100]
    return "; ".join([*classifiers, field]).strip("; ")


def is_permissive(text: str) -> bool:
    """Tell whether every alternative that a package offers, or one joined by OR, is permissive."""
    if not text:
        return False
    parts = re.split(r"\s+OR\s+", text)
    return any(PERMISSIVE.search(part) and not OTHER.search(part) for part in parts)


def check(lock: str) -> list[str]:
    """Return one line for each package of the lock whose licence is neither permissive nor excepted."""
    pins, _ = read_lock(lock, "runtime.lock")
    found = []
    for name, requirements in sorted(pins.items()):
        if not any(pin.marker is None or pin.marker.evaluate() for pin in requirements):
            continue
        try:
            text = licence_text(distribution(name))
        except PackageNotFoundError:
            found.append(f"licences: {name} is locked but not installed; run make clean and make check")
            continue
        if not is_permissive(text) and name not in EXCEPTIONS:
            found.append(
                f"licences: {name} is under {text or 'no stated licence'!r}; find another, or say why it may stay"
            )
    found += [f"licences: the exception for {name} is not needed" for name in EXCEPTIONS if name not in pins]
    return found


if __name__ == "__main__":
    lines = check((ROOT / "requirements/runtime.lock").read_text())
    print("\n".join(lines) if lines else f"licences: all permissive, but {len(EXCEPTIONS)} with a reason")
    sys.exit(1 if lines else 0)
