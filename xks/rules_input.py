"""Access rules as people write them: JSON in, checked in every part, and turned into records.

[{"name": "only our VPC", "effect": "DENY",
  "conditions": [{"field": "source_vpc", "negated": true, "values": ["vpc-0a1b"]}]}]
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from vault.errors import ValidationFailed
from xks.policy_match import (
    ARN_COLONS,
    AWS_INTERNAL,
    MAX_PATTERN_CHARACTERS,
    MAX_WILDCARDS,
    BadValue,
    read_time,
    role_pattern,
)
from xks.policy_rules import FIELDS
from xks.wire import ConditionRecord, RuleRecord

MAX_RULES = 100
MAX_CONDITIONS = 20
MAX_VALUES = 100
MAX_JSON_BYTES = 32 * 1024
MAX_NAME_CHARACTERS = 100
MAX_ERRORS = 20

_OPERATION = re.compile(r"[A-Za-z0-9*?]+")
_TEXT = re.compile(r"[\x20-\x7e]+")
_SERVICE = re.compile(r"[A-Za-z0-9.*?_-]+")
_VPC = re.compile(r"vpc-[0-9a-z*?]+|\*")
_VPCE = re.compile(r"vpce-[0-9a-z*?]+|\*")

JsonRules = list[dict[str, Any]]


class _Faults:
    """Everything that is wrong, so that an editor can show it all at once."""

    def __init__(self) -> None:
        self.found: list[dict[str, str]] = []

    def add(self, field: str, message: str, cure: str) -> None:
        self.found.append({"field": field, "message": message, "cure": cure})

    def raise_any(self) -> None:
        if self.found:
            first = self.found[0]
            raise ValidationFailed(
                first["message"], field=first["field"], cure=first["cure"], errors=self.found[:MAX_ERRORS]
            )


def check_rules(value: Any, *, field: str = "rules") -> JsonRules:
    """Return rules in their one normal form. Raises ValidationFailed with all that is wrong, place by place."""
    faults = _Faults()
    if not isinstance(value, list):
        faults.add(field, "Rules are a list.", "Give [] for no rules.")
        faults.raise_any()
    if len(value) > MAX_RULES:
        faults.add(
            field, f"There are {len(value)} rules; {MAX_RULES} is the most.", "Put values into one rule."
        )
        faults.raise_any()
    rules = [_rule(item, f"{field}[{index}]", faults) for index, item in enumerate(value)]
    names: set[str] = set()
    for index, rule in enumerate(rules):
        if rule["name"] and rule["name"] in names:
            faults.add(
                f"{field}[{index}].name",
                "Another rule has this name.",
                "A denial names its rule, so that names must differ.",
            )
        names.add(rule["name"])
    faults.raise_any()
    if len(json.dumps(rules)) > MAX_JSON_BYTES:
        faults.add(
            field,
            f"These rules are longer than {MAX_JSON_BYTES} bytes together.",
            "Use wildcards, or an account in place of its principals.",
        )
    faults.raise_any()
    return rules


def records_of(rules: JsonRules) -> tuple[RuleRecord, ...]:
    """Return checked rules as the data plane takes them."""
    return tuple(
        RuleRecord(
            rule["name"],
            rule["effect"],
            tuple(
                ConditionRecord(
                    condition["field"],
                    tuple(condition["values"]),
                    condition["negated"],
                    condition.get("tag", ""),
                )
                for condition in rule["conditions"]
            ),
        )
        for rule in rules
    )


def _rule(value: Any, at: str, faults: _Faults) -> dict[str, Any]:
    rule: dict[str, Any] = {"name": "", "effect": "DENY", "conditions": []}
    if not _members(value, {"name", "effect", "conditions"}, at, faults):
        return rule
    name = value.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS or not _TEXT.fullmatch(name):
        faults.add(
            f"{at}.name",
            f"A rule has a name of 1 to {MAX_NAME_CHARACTERS} printable ASCII characters.",
            "It appears in errors and in CloudTrail: say what it is for.",
        )
    else:
        rule["name"] = name
    if value.get("effect") not in ("ALLOW", "DENY"):
        faults.add(f"{at}.effect", "A rule allows or denies.", "Give ALLOW or DENY.")
    else:
        rule["effect"] = value["effect"]
    conditions = value.get("conditions", [])
    if not isinstance(conditions, list) or len(conditions) > MAX_CONDITIONS:
        faults.add(
            f"{at}.conditions",
            f"Conditions are a list of at most {MAX_CONDITIONS}.",
            "Split the rule in two.",
        )
        return rule
    rule["conditions"] = [
        _condition(item, f"{at}.conditions[{index}]", faults) for index, item in enumerate(conditions)
    ]
    return rule


def _condition(value: Any, at: str, faults: _Faults) -> dict[str, Any]:
    condition: dict[str, Any] = {"field": "", "negated": False, "values": []}
    if not _members(value, {"field", "negated", "values", "tag"}, at, faults):
        return condition
    field = value.get("field")
    if field not in FIELDS:
        faults.add(f"{at}.field", "There is no condition on this.", f"Give one of {', '.join(FIELDS)}.")
        return condition
    condition["field"] = field
    if not isinstance(value.get("negated", False), bool):
        faults.add(f"{at}.negated", "This is true or false.", "Leave it out for false.")
    else:
        condition["negated"] = value.get("negated", False)
    tag = value.get("tag", "")
    if (field == "key_tag") != bool(tag) or not isinstance(tag, str) or len(tag) > 128 or not _is_text(tag):
        faults.add(
            f"{at}.tag",
            "A condition on a key's tag, and no other, names the tag.",
            'Give "tag": "environment" beside "field": "key_tag".',
        )
    elif tag:
        condition["tag"] = tag
    values = value.get("values")
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_VALUES:
        faults.add(
            f"{at}.values",
            f"A condition has 1 to {MAX_VALUES} values.",
            "Take wildcards where there are more.",
        )
        return condition
    for index, item in enumerate(values):
        try:
            condition["values"].append(_value(field, item))
        except BadValue as error:
            faults.add(f"{at}.values[{index}]", _sentence(str(error)), error.cure)
    return condition


def _members(value: Any, known: set[str], at: str, faults: _Faults) -> bool:
    if not isinstance(value, dict):
        faults.add(at, "This is an object with named members.", f"Give {', '.join(sorted(known))}.")
        return False
    for name in list(value)[:MAX_ERRORS]:
        if name not in known:
            faults.add(f"{at}.{name[:50]}", "There is no such member.", f"Take {', '.join(sorted(known))}.")
    return True


def _value(field: str, value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_PATTERN_CHARACTERS:
        raise BadValue(f"a value is text of 1 to {MAX_PATTERN_CHARACTERS} characters", "Put it in quotes.")
    if field == "key_tag":
        if not _is_text(value):
            raise BadValue("a tag's value is text without control characters", "Remove them.")
    elif not _TEXT.fullmatch(value):
        raise BadValue("a value is printable ASCII", "Take the characters that AWS allows.")
    if value.count("*") + value.count("?") > MAX_WILDCARDS:
        raise BadValue(f"a pattern has at most {MAX_WILDCARDS} wildcards", "Use a simpler pattern.")
    match field:
        case "principal":
            _check_principal(value)
        case "account":
            if not (value.isdigit() and len(value) == 12):
                raise BadValue("an AWS account has 12 digits", "Give them without dashes: 111122223333.")
        case "role":
            role_pattern(value)
            if value.split(":")[4] == "":
                raise BadValue("this role has no account", "Write its whole ARN.")
        case "service":
            if value != AWS_INTERNAL and not _SERVICE.fullmatch(value):
                raise BadValue(
                    "this is no service principal",
                    f'Write ec2.amazonaws.com, *.amazonaws.com or "{AWS_INTERNAL}".',
                )
        case "kms_operation":
            if not _OPERATION.fullmatch(value):
                raise BadValue("this is no name of a KMS operation", "Write Decrypt or GenerateDataKey*.")
        case "kms_via_service":
            if not _SERVICE.fullmatch(value):
                raise BadValue(
                    "this is no service name", "Write s3.eu-west-1.amazonaws.com or s3.*.amazonaws.com."
                )
        case "source_vpc":
            if not _VPC.fullmatch(value):
                raise BadValue("this is no VPC", "Write vpc-0a1b2c3d, or * for any.")
        case "source_vpce":
            if not _VPCE.fullmatch(value):
                raise BadValue("this is no VPC endpoint", "Write vpce-0a1b2c3d, or * for any.")
        case "time":
            read_time(value)
    return value


def _check_principal(value: str) -> None:
    if value == "*":
        return
    if not value.startswith("arn:"):
        raise BadValue(
            "this is not the ARN of a principal",
            "Write arn:aws:iam::111122223333:user/Ada; AWS's services have a condition of their own, service.",
        )
    if value.count(":") < ARN_COLONS:
        raise BadValue(
            "an ARN has six parts between colons, and * does not reach over a colon",
            "Write arn:aws:iam::111122223333:* for everybody of an account.",
        )


def _is_text(value: str) -> bool:
    # Lone surrogates, which JSON can spell, are no text and cannot be stored.
    return all(ord(character) >= 32 and not 0xD800 <= ord(character) <= 0xDFFF for character in value)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def describe(rule: dict[str, Any]) -> Iterator[str]:
    """Yield a rule in words, a line each, for tables and terminals."""
    verb = "allow" if rule["effect"] == "ALLOW" else "deny"
    yield f"{verb}: {rule['name']}" + ("" if rule["conditions"] else " (every request)")
    for condition in rule["conditions"]:
        name = f"tag {condition['tag']}" if condition["field"] == "key_tag" else condition["field"]
        yield f"  {name} {'is not' if condition['negated'] else 'is'} {' or '.join(condition['values'])}"
