"""What access rules mean, written the plain way: a loop over rules, conditions and values.

Shares nothing with xks/policy*.py but the records; slow on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from xks.wire import ConditionRecord, RuleRecord, RuleSetRecord

FOR_METADATA = {"principal", "account", "role", "service", "kms_operation", "source_vpc", "source_vpce"}


@dataclass
class Asked:
    """One request as far as rules look at it."""

    principal: str
    kms_operation: str = "Decrypt"
    source_vpc: str | None = None
    source_vpce: str | None = None
    via_service: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    at: float = 0.0
    is_metadata: bool = False


def decide(rules: RuleSetRecord, asked: Asked) -> str | None:
    """Return None to allow, the denying rule's name, or "" when no rule allows."""
    for rule in rules.rules:
        if rule.effect == "DENY" and matches(rule, asked):
            return rule.name
    allowing = [rule for rule in rules.rules if rule.effect == "ALLOW"]
    if allowing and not any(matches(rule, asked) for rule in allowing):
        return ""
    return None


def matches(rule: RuleRecord, asked: Asked) -> bool:
    """Say whether a rule matches."""
    for condition in rule.conditions:
        if asked.is_metadata and condition.field not in FOR_METADATA:
            if rule.effect == "DENY":
                return False
            continue
        if not holds(condition, asked):
            return False
    return True


def holds(condition: ConditionRecord, asked: Asked) -> bool:
    """Say whether a condition holds."""
    if condition.field == "time":
        inside = any(in_window(value, asked.at) for value in condition.values)
        return inside != condition.negated
    value = field(condition, asked)
    if not value:
        return False
    found = False
    for wanted in condition.values:
        if condition.field == "principal":
            found = found or arn_like(value, wanted)
        elif condition.field == "role":
            found = found or arn_like(value, as_role(wanted))
        else:
            found = found or glob(value, wanted)
    return found != condition.negated


def field(condition: ConditionRecord, asked: Asked) -> str | None:
    """Return what the request says, None for nothing."""
    arn = asked.principal.split(":") if asked.principal.startswith("arn:") else None
    match condition.field:
        case "principal":
            return asked.principal
        case "account":
            return arn[4] if arn and len(arn) > 5 else None
        case "service":
            return None if arn else asked.principal
        case "role":
            return as_role(asked.principal) if arn else None
        case "kms_operation":
            return asked.kms_operation
        case "source_vpc":
            return asked.source_vpc
        case "source_vpce":
            return asked.source_vpce
        case "kms_via_service":
            return asked.via_service
        case "key_tag":
            return dict(asked.tags).get(condition.tag)
    raise AssertionError(condition.field)


def as_role(arn: str) -> str | None:
    """Return the role's ARN without path, for roles and their sessions."""
    parts = arn.split(":", 5)
    if len(parts) < 6:
        return None
    if parts[2] == "iam" and parts[5].startswith("role/"):
        name = parts[5].split("/")[-1]
    elif parts[2] == "sts" and parts[5].startswith("assumed-role/"):
        name = parts[5].split("/")[1]
    else:
        return None
    return f"arn:{parts[1]}:iam::{parts[4]}:role/{name}" if name else None


def arn_like(value: str, pattern: str | None) -> bool:
    """Compare part by part, as IAM's ArnLike does."""
    if pattern is None:
        return False
    if not pattern.startswith("arn:"):
        return glob(value, pattern)
    values, patterns = value.split(":", 5), pattern.split(":", 5)
    return len(values) == len(patterns) and all(map(glob, values, patterns))


def glob(value: str, pattern: str) -> bool:
    """Compare with * and ?."""
    # reachable[i]: the pattern so far can end before value[i].
    reachable = [True] + [False] * len(value)
    for character in pattern:
        if character == "*":
            for i in range(len(value)):
                reachable[i + 1] = reachable[i + 1] or reachable[i]
        else:
            after = [False] * (len(value) + 1)
            for i, actual in enumerate(value):
                after[i + 1] = reachable[i] and character in ("?", actual)
            reachable = after
    return reachable[len(value)]


def in_window(text: str, at: float) -> bool:
    """Say whether the moment is in a window, minute by minute."""
    if "/" in text.split(" ")[0]:
        first, last = text.split("/")
        return datetime.fromisoformat(first).timestamp() <= at < datetime.fromisoformat(last).timestamp()
    names, hours, zone = text.split(" ")
    start, end = hours.split("-")
    local = datetime.fromtimestamp(at, ZoneInfo(zone))
    now = local.strftime("%H:%M")
    today = local.strftime("%a").upper()
    days = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]
    yesterday = days[days.index(today) - 1]
    wanted = days if names == "daily" else names.split(",")
    if start < end:
        return today in wanted and start <= now < end
    return (today in wanted and start <= now) or (yesterday in wanted and now < end)
