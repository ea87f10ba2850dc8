"""Access rules made ready to judge by: one pass over a handful of bit masks, however many rules there are.

Semantics.  A rule matches when all of its conditions hold.  A condition holds when any of its values
matches (none, when negated); on a field that the request does not have it never holds, negated or not.
The first denial that matches refuses; then, if there is any allow rule, one must match.

metadata requests tell nothing of a key but its existence and come without most fields, so they are
judged by principal, operation and VPC alone: other conditions are taken in the caller's favour, which
is that an allow rule is read without them, and a denial that has any never matches.

For each field there is a table from a value to a mask of the rules whose conditions on that field all
hold; the rules that match a request are the AND of a few masks, the clock's apart remembered for the
request's values as a whole.  What is remembered grows as values are seen (only ever after a valid
signature) and is emptied when full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from xks.policy_match import (
    BadValue,
    Interval,
    Matcher,
    Principal,
    Window,
    read_principal,
    read_time,
    role_pattern,
    text_matcher,
)
from xks.wire import ConditionRecord, RuleRecord, RuleSetRecord

ALLOWED = -1
NO_RULE_ALLOWS = -2

MAX_REMEMBERED = 256
"""Callers, and requests, remembered by each rule set."""
MAX_REMEMBERED_CHARACTERS = 512
"""What is longer is looked at anew each time: 256 of them could fill half a megabyte."""

PRINCIPAL_FIELDS = ("principal", "account", "role", "service")
"""Conditions on who calls."""
METADATA_FIELDS = (*PRINCIPAL_FIELDS, "kms_operation", "source_vpc", "source_vpce")
"""All that metadata requests are judged by."""
FIELDS = (*METADATA_FIELDS, "kms_via_service", "key_tag", "time")
"""All that a condition may look at."""

Tags = tuple[tuple[str, str], ...]
"""A key's tags, sorted by name."""


class RulesInvalid(ValueError):
    """A rule set cannot be compiled."""


class _Table:
    """From a value of one field to the mask of rules whose conditions on that field all hold."""

    __slots__ = ("_conditions", "_everyone", "absent")

    def __init__(self, everyone: int, conditions: Sequence[tuple[int, bool, Matcher]]) -> None:
        """``conditions``: (the rule's bit, negated, matcher), any number for one rule."""
        self._everyone = everyone
        self._conditions = conditions
        self.absent = everyone
        for bit, _, _ in conditions:
            self.absent &= ~bit

    def __call__(self, value: str | None) -> int:
        if not value:
            return self.absent
        mask = self._everyone
        for bit, negated, matches in self._conditions:
            if mask & bit and matches(value) is negated:
                mask &= ~bit
        return mask


class _PrincipalTable:
    """The same for the four fields that one awsPrincipalArn answers."""

    __slots__ = ("_known", "_tables")

    def __init__(self, everyone: int, conditions: Mapping[str, Sequence[tuple[int, bool, Matcher]]]) -> None:
        self._tables = [(_PARTS[field], _Table(everyone, of_field)) for field, of_field in conditions.items()]
        self._known: dict[str, int] = {}

    def __call__(self, value: str) -> int:
        mask = self._known.get(value)
        if mask is None:
            principal = read_principal(value)
            mask = -1
            for part, table in self._tables:
                mask &= table(part(principal))
            if len(value) <= MAX_REMEMBERED_CHARACTERS:
                if len(self._known) >= MAX_REMEMBERED:
                    self._known.clear()
                self._known[value] = mask
        return mask


_PARTS: dict[str, Callable[[Principal], str | None]] = {
    "principal": lambda principal: principal.arn,
    "account": lambda principal: principal.account,
    "role": lambda principal: principal.role,
    "service": lambda principal: principal.service,
}


class _TagTable:
    """The same for a key's tags."""

    __slots__ = ("_conditions", "_everyone")

    def __init__(self, everyone: int, conditions: Sequence[tuple[int, bool, str, Matcher]]) -> None:
        self._everyone = everyone
        self._conditions = conditions

    def __call__(self, tags: Tags) -> int:
        mask = self._everyone
        by_name = dict(tags)
        for bit, negated, name, matches in self._conditions:
            value = by_name.get(name)
            if not value or matches(value) is negated:
                mask &= ~bit
        return mask


class _TimeTable:
    """The same for the clock; windows are whole minutes, so each minute is looked at once."""

    __slots__ = ("_conditions", "_everyone", "_mask", "_minute")

    def __init__(
        self, everyone: int, conditions: Sequence[tuple[int, bool, Sequence[Window | Interval]]]
    ) -> None:
        self._everyone = everyone
        self._conditions = conditions
        self._minute = -1
        self._mask = 0

    def __call__(self, now: float) -> int:
        minute = int(now // 60)
        if minute != self._minute:
            mask = self._everyone
            for bit, negated, spans in self._conditions:
                if any(span.holds(minute * 60) for span in spans) is negated:
                    mask &= ~bit
            self._minute, self._mask = minute, mask
        return self._mask


class RuleSet:
    """One version of the access rules of a store or a key, compiled."""

    __slots__ = (
        "_allows",
        "_denies",
        "_everyone",
        "_metadata",
        "_operation",
        "_principal",
        "_seen",
        "_tags",
        "_time",
        "_via",
        "_vpc",
        "_vpce",
        "id",
        "names",
        "version",
    )

    def __init__(self, record: RuleSetRecord) -> None:
        """Compile ``record``.

        Raises:
            RulesInvalid: an effect, a field or a value in it is not known here.
        """
        self.id = record.id
        self.version = record.version
        self.names = tuple(rule.name for rule in record.rules)
        bits = [(1 << index, rule) for index, rule in enumerate(record.rules)]
        self._everyone = (1 << len(bits)) - 1
        self._denies = sum(bit for bit, rule in bits if _effect(rule) == "DENY")
        self._allows = self._everyone & ~self._denies
        self._metadata = self._everyone & ~sum(
            bit
            for bit, rule in bits
            if rule.effect == "DENY" and any(item.field not in METADATA_FIELDS for item in rule.conditions)
        )
        found: dict[str, list[tuple[int, ConditionRecord]]] = {}
        for bit, rule in bits:
            for item in rule.conditions:
                if item.field not in FIELDS:
                    raise RulesInvalid(f"rule {rule.name!r}: no condition on {item.field!r} is known")
                found.setdefault(item.field, []).append((bit, item))
        try:
            self._compile(found)
        except BadValue as error:
            raise RulesInvalid(str(error)) from error

    def _compile(self, found: Mapping[str, Sequence[tuple[int, ConditionRecord]]]) -> None:
        def texts(field: str) -> list[tuple[int, bool, Matcher]]:
            return [(bit, item.negated, _matcher(item)) for bit, item in found.get(field, ())]

        def table(field: str) -> _Table | None:
            return _Table(self._everyone, texts(field)) if field in found else None

        by_principal = {field: texts(field) for field in PRINCIPAL_FIELDS if field in found}
        self._principal = _PrincipalTable(self._everyone, by_principal) if by_principal else None
        self._operation = table("kms_operation")
        self._vpc = table("source_vpc")
        self._vpce = table("source_vpce")
        self._via = table("kms_via_service")
        self._tags: _TagTable | None = None
        if "key_tag" in found:
            self._tags = _TagTable(
                self._everyone,
                [(bit, item.negated, item.tag, _matcher(item)) for bit, item in found["key_tag"]],
            )
        self._seen: dict[tuple[str, str, str | None, str | None, str | None, Tags, bool], int] = {}
        self._time: _TimeTable | None = None
        if "time" in found:
            self._time = _TimeTable(
                self._everyone,
                [
                    (bit, item.negated, [read_time(value) for value in item.values])
                    for bit, item in found["time"]
                ],
            )

    def judge(
        self,
        principal: str,
        kms_operation: str,
        source_vpc: str | None,
        source_vpce: str | None,
        via_service: str | None,
        tags: Tags,
        now: float,
        *,
        is_metadata: bool,
    ) -> int:
        """Return ALLOWED, NO_RULE_ALLOWS, or the index of the rule that denies.

        ``now`` is seconds since the epoch.  Absent texts are None or empty.
        """
        asked = (principal, kms_operation, source_vpc, source_vpce, via_service, tags, is_metadata)
        matched = self._seen.get(asked)
        if matched is None:
            matched = self._match(*asked)
        if self._time is not None and not is_metadata:
            matched &= self._time(now)
        denying = matched & self._denies
        if denying:
            return (denying & -denying).bit_length() - 1
        if self._allows and not matched & self._allows:
            return NO_RULE_ALLOWS
        return ALLOWED

    def _match(
        self,
        principal: str,
        kms_operation: str,
        source_vpc: str | None,
        source_vpce: str | None,
        via_service: str | None,
        tags: Tags,
        is_metadata: bool,
    ) -> int:
        """Return the rules whose conditions hold, those on time left out, and remember them."""
        matched = self._everyone
        if self._principal is not None:
            matched = self._principal(principal)
        if self._operation is not None:
            matched &= self._operation(kms_operation)
        if self._vpc is not None:
            matched &= self._vpc(source_vpc)
        if self._vpce is not None:
            matched &= self._vpce(source_vpce)
        if is_metadata:
            matched &= self._metadata
        else:
            if self._via is not None:
                matched &= self._via(via_service)
            if self._tags is not None:
                matched &= self._tags(tags)
        texts = (principal, kms_operation, source_vpc or "", source_vpce or "", via_service or "")
        if sum(map(len, texts)) <= MAX_REMEMBERED_CHARACTERS:
            if len(self._seen) >= MAX_REMEMBERED:
                self._seen.clear()
            asked = (principal, kms_operation, source_vpc, source_vpce, via_service, tags, is_metadata)
            self._seen[asked] = matched
        return matched

    def name_of(self, verdict: int) -> str:
        """Return the name of the rule that a verdict points to, "" for NO_RULE_ALLOWS."""
        return self.names[verdict] if verdict >= 0 else ""

    def __repr__(self) -> str:
        return f"RuleSet({self.id!r}, version={self.version}, {len(self.names)} rules)"


class DenyAll(RuleSet):
    """Stands for rules that this node cannot read: better nothing than what they might have refused."""

    def __init__(self, record: RuleSetRecord) -> None:
        super().__init__(RuleSetRecord(record.id, record.version, (RuleRecord(UNREADABLE, "DENY"),)))


UNREADABLE = "(these rules cannot be read by this node)"


def tags_of(tags: Mapping[str, str]) -> Tags:
    """Return tags in the form in which rules take them."""
    return tuple(sorted(tags.items())) if tags else ()


def _effect(rule: RuleRecord) -> str:
    if rule.effect not in ("ALLOW", "DENY"):
        raise RulesInvalid(f"rule {rule.name!r}: no effect {rule.effect!r} is known")
    return rule.effect


def _matcher(item: ConditionRecord) -> Matcher:
    values: Iterable[str] = item.values
    if item.field == "role":
        values = [role_pattern(value) for value in item.values]
    return text_matcher(values)
