"""When keys rotate and when they end. Values are kept as JSON on key sets and CloudKeys, and parsed here."""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from vault.errors import ValidationFailed

Unit = Literal["days", "weeks", "months"]
Then = Literal["disable", "delete"]
UNITS: tuple[Unit, ...] = ("days", "weeks", "months")
MAX_EVERY: dict[str, int] = {"days": 3650, "weeks": 520, "months": 120}
MIN_WINDOW_DAYS, MAX_WINDOW_DAYS = 7, 30  # AWS KMS ScheduleKeyDeletion, PendingWindowInDays


@cache
def _time_zones() -> frozenset[str]:
    """Names of the IANA database. Looked up once: asking reads every file of it, 15 ms for each schedule parsed."""
    return frozenset(available_timezones())


@dataclass(frozen=True)
class Schedule:
    """Every `every` days, weeks or months, at `hour` o'clock in `time_zone`.

    Daylight saving: an hour that the clock skips runs when the skip ends; an hour that comes twice runs the first time.
    The 31st of a shorter month is its last day.
    """

    every: int
    unit: Unit
    hour: int = 3
    time_zone: str = "UTC"

    def as_json(self) -> dict[str, Any]:
        """The form that is stored and shown."""
        return {
            "kind": "every",
            "every": self.every,
            "unit": self.unit,
            "hour": self.hour,
            "time_zone": self.time_zone,
        }

    def next_after(self, began: datetime) -> datetime:
        """The first due instant (UTC) for something that began at `began` (aware). Depends on its local date alone."""
        return self.next_for_day(began.astimezone(ZoneInfo(self.time_zone)).date())

    def next_for_day(self, began: date) -> datetime:
        """As `next_after`, for a local date."""
        if self.unit == "months":
            month = began.month - 1 + self.every
            year, month = began.year + month // 12, month % 12 + 1
            due = date(year, month, min(began.day, calendar.monthrange(year, month)[1]))
        else:
            due = began + timedelta(days=self.every * (7 if self.unit == "weeks" else 1))
        # fold=0 gives the first of two equal hours, and carries a skipped hour past the gap.
        local = datetime(due.year, due.month, due.day, self.hour, tzinfo=ZoneInfo(self.time_zone))
        return local.astimezone(UTC)


@dataclass(frozen=True)
class Expiration:
    """At a date, or `days` after creation: then the key is disabled, or its deletion scheduled."""

    at: datetime | None = None
    days: int | None = None
    then: Then = "disable"
    window_days: int = MAX_WINDOW_DAYS

    def as_json(self) -> dict[str, Any]:
        """The form that is stored and shown."""
        value: dict[str, Any] = (
            {"kind": "on", "at": self.at.isoformat()} if self.at else {"kind": "after", "days": self.days}
        )
        value["then"] = self.then
        if self.then == "delete":
            value["window_days"] = self.window_days
        return value

    def expires_at(self, created_at: datetime) -> datetime:
        """The instant for a key that was created at `created_at`."""
        return self.at if self.at is not None else created_at + timedelta(days=self.days or 0)


def parse_schedule(value: Any, *, field: str = "rotation_schedule") -> Schedule | None:
    """Read {"kind": "none"} (also {}) as None, {"kind": "every", ...} as a Schedule. Raises ValidationFailed."""
    kind = _kind(value, field, ("none", "every"))
    if kind == "none":
        _no_more(value, field, {"kind"})
        return None
    _no_more(value, field, {"kind", "every", "unit", "hour", "time_zone"})
    unit = value.get("unit")
    if unit not in UNITS:
        raise ValidationFailed(
            "A schedule counts in days, weeks or months.",
            field=f"{field}.unit",
            cure=f"Give one of {', '.join(UNITS)}.",
        )
    every = _whole(value.get("every"), 1, MAX_EVERY[unit], f"{field}.every")
    hour = _whole(value.get("hour", 3), 0, 23, f"{field}.hour")
    zone = value.get("time_zone", "UTC")
    if not isinstance(zone, str) or zone not in _time_zones():
        raise ValidationFailed(
            "This is no time zone of the IANA database.",
            field=f"{field}.time_zone",
            cure="Give a name such as Europe/Berlin or UTC.",
        )
    return Schedule(every, unit, hour, zone)


def parse_expiration(value: Any, *, field: str = "expiration") -> Expiration | None:
    """Read {"kind": "never"} (also {}) as None, "on" a date or "after" N days. Raises ValidationFailed by field."""
    kind = _kind(value, field, ("never", "on", "after"))
    if kind == "never":
        _no_more(value, field, {"kind"})
        return None
    _no_more(value, field, {"kind", "then", "window_days", "at" if kind == "on" else "days"})
    then = value.get("then", "disable")
    if then not in ("disable", "delete"):
        raise ValidationFailed(
            "A key that expires is disabled or deleted.",
            field=f"{field}.then",
            cure="Give disable or delete.",
        )
    window = _whole(
        value.get("window_days", MAX_WINDOW_DAYS), MIN_WINDOW_DAYS, MAX_WINDOW_DAYS, f"{field}.window_days"
    )
    if kind == "after":
        return Expiration(
            days=_whole(value.get("days"), 1, 36500, f"{field}.days"), then=then, window_days=window
        )
    try:
        at = datetime.fromisoformat(value.get("at", ""))
    except (TypeError, ValueError):
        at = None
    if at is None or at.tzinfo is None:
        raise ValidationFailed(
            "The expiry needs a date and time with an offset.",
            field=f"{field}.at",
            cure="Give it as 2027-01-31T00:00:00Z.",
        )
    return Expiration(at=at.astimezone(UTC), then=then, window_days=window)


def _kind(value: Any, field: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, Mapping):
        raise ValidationFailed(
            "This is not an object.", field=field, cure=f'Give {{"kind": "{allowed[0]}"}}, for example.'
        )
    kind = value.get("kind", allowed[0] if not value else None)
    if kind not in allowed:
        raise ValidationFailed(
            "The kind is missing or unknown.",
            field=f"{field}.kind",
            cure=f"Give one of {', '.join(allowed)}.",
        )
    return str(kind)


def _no_more(value: Mapping[str, Any], field: str, known: set[str]) -> None:
    for name in value:
        if name not in known:
            raise ValidationFailed(
                "This is not a known part here.",
                field=f"{field}.{name}",
                cure=f"Known are {', '.join(sorted(known))}.",
            )


def _whole(value: Any, low: int, high: int, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValidationFailed(
            f"This must be a whole number from {low} to {high}.", field=field, cure=f"Give {low} to {high}."
        )
    return value
