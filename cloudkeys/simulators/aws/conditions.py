"""The condition operators of IAM's policy language, over a request context.

Rules from the IAM User Guide, "IAM JSON policy elements: Condition operators" and "Conditions with multiple
context keys or values". Context keys are compared without regard to case; a value is a string or a list of
strings.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ContextValue = str | Sequence[str]

# A token of a pattern: a literal character, or a wildcard. Literals that came from a policy variable
# stay literals even when they are "*".
ANY = object()
ONE = object()
VARIABLE = re.compile(r"\$\{([^}]*)\}")


def tokens(
    pattern: str, context: Mapping[str, ContextValue] | None, wildcards: bool = True
) -> list[object] | None:
    """``pattern`` cut into literals and wildcards, policy variables replaced from ``context``.

    ``context`` None leaves ``${...}`` as it is (policies of version 2008-10-17). None comes back when a
    variable has no single value in this request: such a pattern matches nothing.
    """
    cut: list[object] = []
    position = 0
    for match in VARIABLE.finditer(pattern) if context is not None else ():
        cut.extend(_literal_tokens(pattern[position : match.start()], wildcards))
        name, _, default = match.group(1).partition(",")
        if name in ("*", "?", "$"):
            cut.append(name)
        else:
            value = (context or {}).get(name.strip().lower())
            if value is None and default:
                value = default.strip().strip("'")
            if not isinstance(value, str):
                return None
            cut.extend(value)
        position = match.end()
    cut.extend(_literal_tokens(pattern[position:], wildcards))
    return cut


def _literal_tokens(text: str, wildcards: bool) -> list[object]:
    if not wildcards:
        return list(text)
    return [ANY if c == "*" else ONE if c == "?" else c for c in text]


def matches(pattern: Sequence[object], text: str) -> bool:
    """Does the whole of ``text`` match the tokens? Two pointers, so no pattern takes more than n*m steps."""
    p = t = 0
    star, mark = -1, 0
    while t < len(text):
        if p < len(pattern) and pattern[p] is ANY:
            star, mark = p, t
            p += 1
        elif p < len(pattern) and (pattern[p] is ONE or pattern[p] == text[t]):
            p += 1
            t += 1
        elif star >= 0:
            mark += 1
            p, t = star + 1, mark
        else:
            return False
    return all(token is ANY for token in pattern[p:])


def glob(pattern: str, text: str) -> bool:
    """Does ``text`` match ``pattern`` with ``*`` and ``?`` and no variables?"""
    return matches(_literal_tokens(pattern, True), text)


@dataclass(frozen=True, slots=True)
class _Operator:
    """``test(wanted, actual, context)`` compares one policy value with one value of the request.

    ``negated`` operators hold when no policy value compares equal.
    """

    test: Callable[[str, str, Mapping[str, ContextValue] | None], bool]
    negated: bool = False


def _string_equals(wanted: str, actual: str, context: Mapping[str, ContextValue] | None) -> bool:
    cut = tokens(wanted, context, wildcards=False)
    return cut is not None and matches(cut, actual)


def _string_equals_ignoring_case(
    wanted: str, actual: str, context: Mapping[str, ContextValue] | None
) -> bool:
    cut = tokens(wanted, context, wildcards=False)
    return cut is not None and matches([str(c).lower() for c in cut], actual.lower())


def _string_like(wanted: str, actual: str, context: Mapping[str, ContextValue] | None) -> bool:
    cut = tokens(wanted, context)
    return cut is not None and matches(cut, actual)


def _arn_like(wanted: str, actual: str, context: Mapping[str, ContextValue] | None) -> bool:
    # Each of the six parts is matched by itself, so that a wildcard never reaches over a colon.
    wanted_parts, actual_parts = wanted.split(":", 5), actual.split(":", 5)
    if len(wanted_parts) != 6 or len(actual_parts) != 6:
        return False
    return all(
        _string_like(part, value, context) for part, value in zip(wanted_parts, actual_parts, strict=True)
    )


def _number(compare: Callable[[float, float], bool]) -> Callable[..., bool]:
    def test(wanted: str, actual: str, context: Mapping[str, ContextValue] | None) -> bool:
        try:
            return compare(float(actual), float(wanted))
        except ValueError:
            return False

    return test


def _moment(text: str) -> float | None:
    """Seconds since the epoch of an ISO 8601 date or an epoch number; None when it is neither."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


def _date(compare: Callable[[float, float], bool]) -> Callable[..., bool]:
    def test(wanted: str, actual: str, context: Mapping[str, ContextValue] | None) -> bool:
        have, want = _moment(actual), _moment(wanted)
        return have is not None and want is not None and compare(have, want)

    return test


def _bool(wanted: str, actual: str, context: Mapping[str, ContextValue] | None) -> bool:
    return wanted.lower() == actual.lower()


def _binary(wanted: str, actual: str, context: Mapping[str, ContextValue] | None) -> bool:
    try:
        return base64.b64decode(wanted, validate=True) == base64.b64decode(actual, validate=True)
    except binascii.Error:
        return False


def _ip_address(wanted: str, actual: str, context: Mapping[str, ContextValue] | None) -> bool:
    try:
        return ipaddress.ip_address(actual) in ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        return False


OPERATORS: dict[str, _Operator] = {
    "stringequals": _Operator(_string_equals),
    "stringnotequals": _Operator(_string_equals, negated=True),
    "stringequalsignorecase": _Operator(_string_equals_ignoring_case),
    "stringnotequalsignorecase": _Operator(_string_equals_ignoring_case, negated=True),
    "stringlike": _Operator(_string_like),
    "stringnotlike": _Operator(_string_like, negated=True),
    # ArnEquals and ArnLike behave identically (same page of the guide).
    "arnequals": _Operator(_arn_like),
    "arnlike": _Operator(_arn_like),
    "arnnotequals": _Operator(_arn_like, negated=True),
    "arnnotlike": _Operator(_arn_like, negated=True),
    "bool": _Operator(_bool),
    "binaryequals": _Operator(_binary),
    "ipaddress": _Operator(_ip_address),
    "notipaddress": _Operator(_ip_address, negated=True),
    "numericequals": _Operator(_number(lambda a, b: a == b)),
    "numericnotequals": _Operator(_number(lambda a, b: a == b), negated=True),
    "numericlessthan": _Operator(_number(lambda a, b: a < b)),
    "numericlessthanequals": _Operator(_number(lambda a, b: a <= b)),
    "numericgreaterthan": _Operator(_number(lambda a, b: a > b)),
    "numericgreaterthanequals": _Operator(_number(lambda a, b: a >= b)),
    "dateequals": _Operator(_date(lambda a, b: a == b)),
    "datenotequals": _Operator(_date(lambda a, b: a == b), negated=True),
    "datelessthan": _Operator(_date(lambda a, b: a < b)),
    "datelessthanequals": _Operator(_date(lambda a, b: a <= b)),
    "dategreaterthan": _Operator(_date(lambda a, b: a > b)),
    "dategreaterthanequals": _Operator(_date(lambda a, b: a >= b)),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of a Condition block. ``qualifier`` is "", "forallvalues" or "foranyvalue"; ``key`` is lower
    case."""

    operator: str
    qualifier: str
    if_exists: bool
    key: str
    values: tuple[str, ...]

    def holds(self, context: Mapping[str, ContextValue], variables: bool) -> bool:
        """Is the condition met? ``context`` has lower-case keys; ``variables`` says whether ``${...}`` is
        replaced."""
        value = context.get(self.key)
        if self.operator == "null":
            missing = value is None or (not isinstance(value, str) and not value)
            return any((wanted.lower() == "true") == missing for wanted in self.values)
        operator = OPERATORS[self.operator]
        if value is None:
            return (
                self.if_exists
                or self.qualifier == "forallvalues"
                or (operator.negated and not self.qualifier)
            )
        actual = [value] if isinstance(value, str) else list(value)
        scope = context if variables else None
        each = [
            any(operator.test(wanted, one, scope) for wanted in self.values) != operator.negated
            for one in actual
        ]
        if self.qualifier == "forallvalues":
            return all(each)
        if self.qualifier == "foranyvalue":
            return any(each)
        # Without a qualifier a key with several values behaves as one set: a negated operator must hold for
        # all.
        return all(each) if operator.negated else any(each)


def parse_condition(operator: str, key: str, values: Sequence[str]) -> Condition:
    """One line of a Condition block; ValueError when the operator does not exist."""
    qualifier, colon, name = operator.rpartition(":")
    qualifier, name = qualifier.lower(), name.lower()
    if_exists = name.endswith("ifexists")
    if if_exists:
        name = name.removesuffix("ifexists")
    known = name in OPERATORS or (name == "null" and not if_exists and not qualifier)
    if not known or (colon and qualifier not in ("forallvalues", "foranyvalue")):
        raise ValueError(f"Invalid Condition type : {operator}.")
    return Condition(name, qualifier, if_exists, key.lower(), tuple(values))
