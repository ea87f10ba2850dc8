"""What is a JSON object in the API, written in short on the command line. JSON is taken everywhere too."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_UNITS = {"d": "days", "w": "weeks", "m": "months"}
_EVERY = re.compile(r"(\d{1,4})([dwm])(?:@(\d{1,2}))?(?:/([A-Za-z0-9_+/-]+))?")
_AFTER = re.compile(r"(\d{1,5})d")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(T\S+)?")


def schedule(text: str) -> dict[str, Any]:
    """none, inherited, or how often: 90d, 6w, 12m, 90d@3 (hour), 90d@3/Europe/Berlin (time zone)."""
    if text.startswith("{"):
        return _object(text)
    if text in ("none", "inherited"):
        return {"kind": text}
    found = _EVERY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no schedule. Give none, 90d, 6w, 12m, or 90d@3/Europe/Berlin.")
    number, unit, hour, zone = found.groups()
    return {
        "kind": "every",
        "every": int(number),
        "unit": _UNITS[unit],
        **({"hour": int(hour)} if hour else {}),
        **({"time_zone": zone} if zone else {}),
    }


def expiration(text: str) -> dict[str, Any]:
    """never, inherited, a date (2027-01-31), or after how many days (365d); the key is then disabled (or :delete)."""
    if text.startswith("{"):
        return _object(text)
    if text in ("never", "inherited"):
        return {"kind": text}
    when, _, then = text.partition(":") if _DATE.fullmatch(text) is None else (text, "", "")
    if then not in ("", "disable", "delete"):
        raise ValueError(f"{then!r} is neither disable nor delete.")
    ending = {"then": then or "disable"}
    if (days := _AFTER.fullmatch(when)) is not None:
        return {"kind": "after", "days": int(days[1]), **ending}
    if _DATE.fullmatch(when) is not None:
        return {"kind": "on", "at": when if "T" in when else f"{when}T00:00:00Z", **ending}
    raise ValueError(f"{text!r} is no expiration. Give never, 2027-01-31, 365d or 365d:delete.")


def tags(items: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE; may be repeated."""
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ValueError(f"{item!r} is no NAME=VALUE.")
        found[name] = value
    return found


def links(items: Sequence[str]) -> list[dict[str, Any]]:
    """A region whose AWS key store Keystead makes, or REGION:unlinked; may be repeated."""
    found: list[dict[str, Any]] = []
    for item in items:
        if item.startswith("{"):
            found.append(_object(item))
            continue
        region, _, word = item.partition(":")
        if word not in ("", "unlinked"):
            raise ValueError(f"{item!r} is neither REGION nor REGION:unlinked.")
        found.append({"region": region, "linked": not word})
    return found


def file_content(path: str) -> str:
    """Name of a file with the rows."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}.") from None


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise ValueError("this is no JSON object.") from None
    if not isinstance(found, dict):
        raise ValueError("this is no JSON object.")
    return found
