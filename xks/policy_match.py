"""What one condition of an access rule looks at, and what it compares that with.

Patterns know ``*`` (any run of characters, also none) and ``?`` (one character); letters count as they
are.  In a pattern for an ARN the two never reach across the colons of the first five parts, as in
IAM's ArnLike: otherwise ``arn:aws:iam::*:user/Ada`` would let a role in with the path ``/x:user/``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MAX_PATTERN_CHARACTERS = 2048
"""ARNs are no longer."""
MAX_WILDCARDS = 16
"""In one pattern; each costs a little on every new caller."""
ARN_COLONS = 5
AWS_INTERNAL = "AWS Internal"
"""awsPrincipalArn of calls that AWS makes on its own account."""

DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")

Matcher = Callable[[str], bool]

_ROLE = re.compile(r"arn:([^:]*):iam::([^:]*):role/(.+)", re.DOTALL)
_SESSION = re.compile(r"arn:([^:]*):sts::([^:]*):assumed-role/([^/]+)(?:/.*)?", re.DOTALL)


class BadValue(ValueError):
    """A value of a condition cannot be understood. The message says why, and ``cure`` what to write."""

    def __init__(self, message: str, cure: str) -> None:
        super().__init__(message)
        self.cure = cure


# --- who calls ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Principal:
    """What awsPrincipalArn says; a field that it does not say is None."""

    arn: str | None
    account: str | None
    role: str | None
    """``partition:account:Name``; the path is left out, because assumed roles come without it."""
    service: str | None
    """A service principal, or "AWS Internal": whatever is not an ARN."""


def read_principal(text: str) -> Principal:
    """Take an awsPrincipalArn apart; any text is one, for its shape must never be insisted on."""
    if not text:
        return Principal(None, None, None, None)
    if not text.startswith("arn:"):
        return Principal(text, None, None, text)
    parts = text.split(":", ARN_COLONS)
    account = parts[4] if len(parts) > ARN_COLONS and parts[4] else None
    return Principal(text, account, role_name(text), None)


def role_name(arn: str) -> str | None:
    """Return ``partition:account:Name`` for the ARN of a role or of a session of one, else None."""
    match = _ROLE.fullmatch(arn)
    if match is not None:
        name = match[3].rpartition("/")[2]
        return f"{match[1]}:{match[2]}:{name}" if name else None
    match = _SESSION.fullmatch(arn)
    return f"{match[1]}:{match[2]}:{match[3]}" if match is not None else None


def role_pattern(value: str) -> str:
    """Return the pattern over :func:`role_name` for a role's ARN as an administrator writes it.

    Raises:
        BadValue: no ARN of a role, or one that cannot be compared with an assumed role's.
    """
    name = role_name(value)
    if name is None:
        raise BadValue(
            "this is not the ARN of a role",
            "Give it as arn:aws:iam::111122223333:role/Name (or .../path/Name).",
        )
    match = _ROLE.fullmatch(value)
    if match is not None and "/" in match[3] and ("*" in match[3] or "?" in match[3]):
        raise BadValue(
            "a wildcard beside a path would match roles of every path, because AWS names assumed roles"
            " without their path",
            "Name the role in full, or leave the path out: arn:aws:iam::111122223333:role/App*.",
        )
    return name


# --- patterns -----------------------------------------------------------------------------------------------


def is_pattern(value: str) -> bool:
    """Say whether ``value`` holds a wildcard."""
    return "*" in value or "?" in value


def pattern_regex(value: str) -> str:
    """Return the regular expression for a pattern, to be used with re.DOTALL and fullmatch.

    Each run between stars is found at its first place and held (an atomic group), which for such
    patterns loses nothing: so no input makes it slower than its length times that of the pattern.
    """
    colons = ARN_COLONS if value.startswith("arn:") else 0
    parts: list[tuple[str, str]] = []  # what a star before it may skip, and the run itself
    run, star = "", ""
    for character in value:
        skip = "[^:]" if colons else "."
        if character == "*":
            if run or not parts:
                parts.append((star, run))
                run = ""
            elif star:
                skip = star  # two stars in a row are one
            star = skip
            continue
        if character == ":" and colons:
            colons -= 1
        run += skip if character == "?" else re.escape(character)
    parts.append((star, run))
    built = ""
    for index, (skip, text) in enumerate(parts):
        last = index == len(parts) - 1
        if not skip:
            built += text
        elif last:
            built += f"{skip}*{text}"
        else:
            built += f"(?>{skip}*?{text})"
    return built


def text_matcher(values: Iterable[str]) -> Matcher:
    """Return a function that says whether a text is one of ``values`` or matches one as a pattern."""
    exact = frozenset(value for value in values if not is_pattern(value))
    patterns = sorted({pattern_regex(value) for value in values if is_pattern(value)})
    if not patterns:
        return exact.__contains__
    fits = re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.DOTALL).fullmatch
    return lambda text: text in exact or fits(text) is not None


# --- time ---------------------------------------------------------------------------------------------------

_WINDOW = re.compile(r"(\S+) (\d\d):(\d\d)-(\d\d):(\d\d) (\S+)")
_MINUTES_A_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of some days of the week, in the local time of a zone.

    ``start`` and ``end`` are minutes after midnight; an ``end`` not after ``start`` is on the next day,
    and such a window belongs to the day on which it begins.  On the two days a year when clocks change
    the local clock is what counts: an hour that comes twice is in the window twice.
    """

    days: frozenset[int]
    start: int
    end: int
    zone: ZoneInfo

    def holds(self, epoch: float) -> bool:
        """Say whether the moment is in the window."""
        local = datetime.fromtimestamp(epoch, self.zone)
        minute = local.hour * 60 + local.minute
        today, yesterday = local.weekday(), (local.weekday() - 1) % 7
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        return (today in self.days and minute >= self.start) or (yesterday in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class Interval:
    """From one moment until just before another, seconds since the epoch."""

    start: float
    end: float

    def holds(self, epoch: float) -> bool:
        """Say whether the moment is in it."""
        return self.start <= epoch < self.end


def read_time(value: str) -> Window | Interval:
    """Read ``MON-FRI 08:00-18:00 Europe/Berlin``, ``daily 22:00-06:00 UTC`` or ``<moment>/<moment>``.

    Moments are ISO 8601 with an offset, to the minute.

    Raises:
        BadValue: it is none of these.
    """
    match = _WINDOW.fullmatch(value)
    if match is not None:
        start, end = _minutes(match[2], match[3]), _minutes(match[4], match[5])
        if start == _MINUTES_A_DAY:
            raise BadValue("a window cannot begin at 24:00", "Write 00:00, and name the next day.")
        try:
            zone = ZoneInfo(match[6])
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise BadValue(f"there is no time zone {match[6]}", "Take Europe/Berlin or UTC.") from None
        return Window(_days(match[1]), start, end, zone)
    first, slash, second = value.partition("/")
    if slash:
        return _interval(first, second)
    raise BadValue(
        "this is no time window",
        "Write MON-FRI 08:00-18:00 Europe/Berlin, daily 22:00-06:00 UTC, or"
        " 2026-12-01T00:00Z/2026-12-24T12:00Z.",
    )


def _interval(first: str, second: str) -> Interval:
    moments: list[float] = []
    for text in (first, second):
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise BadValue(f"{text[:40]} is no moment", "Write it as 2026-12-01T00:00Z.") from None
        if moment.tzinfo is None:
            raise BadValue(f"{text[:40]} has no offset from UTC", "Write it as 2026-12-01T00:00Z.")
        if moment.second or moment.microsecond:
            raise BadValue(f"{text[:40]} is finer than a minute", "Leave the seconds out.")
        moments.append((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1))
    if moments[0] >= moments[1]:
        raise BadValue("this interval ends before it begins", "Put the earlier moment first.")
    return Interval(*moments)


def _minutes(hour: str, minute: str) -> int:
    if (hour, minute) == ("24", "00"):
        return _MINUTES_A_DAY
    try:
        clock = time(int(hour), int(minute))
    except ValueError:
        raise BadValue(f"there is no time {hour}:{minute}", "Take 00:00 to 24:00.") from None
    return clock.hour * 60 + clock.minute


def _days(text: str) -> frozenset[int]:
    if text == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            begin, end = DAYS.index(first), DAYS.index(last or first)
        except ValueError:
            raise BadValue(f"{part[:20]} names no days", "Write daily, MON-FRI or SAT,SUN.") from None
        while True:
            days.add(begin)
            if begin == end:
                break
            begin = (begin + 1) % 7
    return frozenset(days)
