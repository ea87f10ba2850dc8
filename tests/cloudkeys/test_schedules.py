"""When keys rotate and end, daylight saving and short months included."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudkeys.schedules import MAX_EVERY, UNITS, Expiration, Schedule, parse_expiration, parse_schedule
from vault.errors import ValidationFailed

BERLIN = "Europe/Berlin"


def at(*parts: int) -> datetime:
    """A moment in UTC."""
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("schedule", "began", "due"),
    [
        (Schedule(90, "days", 3), at(2026, 1, 1, 12), at(2026, 4, 1, 3)),
        (
            Schedule(2, "weeks", 0),
            at(2026, 2, 20, 23, 59),
            at(2026, 3, 6),
        ),
        (
            Schedule(1, "months", 3),
            at(2026, 1, 31, 8),
            at(2026, 2, 28, 3),
        ),
        (
            Schedule(1, "months", 3),
            at(2028, 1, 31, 8),
            at(2028, 2, 29, 3),
        ),
        (Schedule(13, "months", 3), at(2026, 12, 15), at(2028, 1, 15, 3)),
        # The day counts where the schedule lives: 23:30 UTC is the next day in Berlin.
        (
            Schedule(1, "days", 3, BERLIN),
            at(2026, 1, 1, 23, 30),
            at(2026, 1, 3, 2),
        ),
        # 29 March 2026: 02:00 to 03:00 is skipped in Berlin, so it runs at 03:00 summer time.
        (
            Schedule(1, "days", 2, BERLIN),
            at(2026, 3, 28, 12),
            at(2026, 3, 29, 1),
        ),
        # 25 October 2026: 02:00 comes twice, and the first (summer time) counts.
        (
            Schedule(1, "days", 2, BERLIN),
            at(2026, 10, 24, 12),
            at(2026, 10, 25, 0),
        ),
    ],
)
def test_next_rotation(schedule: Schedule, began: datetime, due: datetime) -> None:
    assert schedule.next_after(began) == due


schedules = st.builds(
    lambda unit, part, hour, zone: Schedule(max(1, part % MAX_EVERY[unit]), unit, hour, zone),
    st.sampled_from(UNITS),
    st.integers(1, 5000),
    st.integers(0, 23),
    st.sampled_from(["UTC", BERLIN, "America/New_York", "Pacific/Apia", "Australia/Lord_Howe"]),
)
moments = st.integers(1_577_836_800, 2_840_140_800).map(lambda second: datetime.fromtimestamp(second, UTC))


@given(schedules, moments)
def test_a_rotation_is_always_later_and_survives_json(schedule: Schedule, began: datetime) -> None:
    assert schedule.next_after(began) > began
    assert parse_schedule(schedule.as_json()) == schedule


@given(schedules, moments, st.integers(0, 10_000_000))
def test_what_began_later_is_never_due_earlier(schedule: Schedule, began: datetime, seconds: int) -> None:
    assert schedule.next_after(began + timedelta(seconds=seconds)) >= schedule.next_after(began)


@given(schedules, moments)
def test_the_date_depends_on_the_local_day_alone(schedule: Schedule, began: datetime) -> None:
    day: date = began.astimezone(ZoneInfo(schedule.time_zone)).date()
    assert schedule.next_after(began) == schedule.next_for_day(day)


@pytest.mark.parametrize("value", [{}, {"kind": "none"}])
def test_no_schedule(value: dict[str, Any]) -> None:
    assert parse_schedule(value) is None


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, "rotation_schedule"),
        ([], "rotation_schedule"),
        ("daily", "rotation_schedule"),
        ({"kind": "sometimes"}, "kind"),
        ({"every": 1}, "kind"),
        ({"kind": "none", "every": 1}, "every"),
        ({"kind": "every", "every": 1}, "unit"),
        ({"kind": "every", "every": 0, "unit": "days"}, "every"),
        ({"kind": "every", "every": True, "unit": "days"}, "every"),
        ({"kind": "every", "every": 1.0, "unit": "days"}, "every"),
        ({"kind": "every", "every": 121, "unit": "months"}, "every"),
        ({"kind": "every", "every": 1, "unit": "years"}, "unit"),
        ({"kind": "every", "every": 1, "unit": ["days"]}, "unit"),
        ({"kind": "every", "every": 1, "unit": "days", "hour": 24}, "hour"),
        (
            {"kind": "every", "every": 1, "unit": "days", "time_zone": "Mars/Base"},
            "time_zone",
        ),
        (
            {"kind": "every", "every": 1, "unit": "days", "time_zone": "../etc/passwd"},
            "time_zone",
        ),
        ({"kind": "every", "every": 1, "unit": "days", "minute": 5}, "minute"),
    ],
)
def test_a_bad_schedule_names_its_field(value: Any, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_schedule(value)
    assert caught.value.field in (f"rotation_schedule.{field}", field)
    assert caught.value.cure


def test_expiration_by_date_and_by_age() -> None:
    by_date = parse_expiration(
        {"kind": "on", "at": "2027-01-31T02:00:00+02:00", "then": "delete", "window_days": 7}
    )
    assert by_date == Expiration(at=at(2027, 1, 31), then="delete", window_days=7)
    by_age = parse_expiration({"kind": "after", "days": 30})
    assert by_age is not None
    assert by_age.then == "disable"
    assert by_age.expires_at(at(2026, 1, 1)) == at(2026, 1, 31)
    assert parse_expiration(by_date.as_json()) == by_date
    assert parse_expiration(by_age.as_json()) == by_age
    assert parse_expiration({"kind": "never"}) is None


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"kind": "on"}, "expiration.at"),
        ({"kind": "on", "at": "2027-01-31T00:00:00"}, "expiration.at"),
        ({"kind": "on", "at": 5}, "expiration.at"),
        ({"kind": "after"}, "expiration.days"),
        ({"kind": "after", "days": 0}, "expiration.days"),
        ({"kind": "after", "days": 1, "then": "explode"}, "expiration.then"),
        ({"kind": "after", "days": 1, "then": "delete", "window_days": 6}, "expiration.window_days"),
        ({"kind": "after", "days": 1, "then": "delete", "window_days": 31}, "expiration.window_days"),
        ({"kind": "after", "days": 1, "at": "2027-01-01T00:00:00Z"}, "expiration.at"),
    ],
)
def test_a_bad_expiration_names_its_field(value: Any, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        parse_expiration(value)
    assert caught.value.field == field
