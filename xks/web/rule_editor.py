"""Access rules as a person edits them: rows of allow and deny with conditions, or JSON; both are the same rules.

Every button of the editor sends the whole of it and gets it back changed, so that it works without scripts too.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from vault.errors import ValidationFailed
from vault.web.forms import PageForm
from xks.policy_rules import FIELDS

LABELS: dict[str, tuple[str, str]] = {
    "principal": (
        gettext_noop("Principal's ARN"),
        "arn:aws:iam::111122223333:user/ada; * and ? stand for any",
    ),
    "account": (gettext_noop("AWS account"), gettext_noop("12 digits")),
    "role": (gettext_noop("Role, with all its sessions"), "arn:aws:iam::111122223333:role/app-prod"),
    "service": (gettext_noop("AWS service as caller"), gettext_noop("AWS Internal; *.amazonaws.com")),
    "kms_operation": (gettext_noop("KMS operation"), gettext_noop("Decrypt; GenerateDataKey*")),
    "source_vpc": ("VPC", "vpc-0a1b2c3d"),
    "source_vpce": (gettext_noop("VPC endpoint"), "vpce-0a1b2c3d"),
    "kms_via_service": (gettext_noop("Service that it comes through"), "s3.eu-west-1.amazonaws.com"),
    "key_tag": (gettext_noop("Tag of the CloudKey"), gettext_noop("name the tag, and its values")),
    "time": (gettext_noop("Time"), gettext_noop("MON-FRI 08:00-18:00 Europe/Berlin; daily 22:00-06:00 UTC")),
}
_SPOKEN: dict[str, str] = {
    "principal": gettext_noop("the principal"),
    "account": gettext_noop("the account"),
    "role": gettext_noop("the role"),
    "service": gettext_noop("the calling service"),
    "kms_operation": gettext_noop("the KMS operation"),
    "source_vpc": gettext_noop("the VPC"),
    "source_vpce": gettext_noop("the VPC endpoint"),
    "kms_via_service": gettext_noop("the service that it comes through"),
    "time": gettext_noop("the time"),
}
_NAME = re.compile(r"r-(\d{1,3})-(?:c-(\d{1,3})-)?(name|effect|field|negated|tag|values)")
_PLACE = re.compile(r"rules\[(\d+)\](?:\.conditions\[(\d+)\])?(?:\.(\w+))?(?:\[(\d+)\])?")
MOST = 200


@dataclass
class ConditionRow:
    """One condition as typed."""

    field: str = "role"
    negated: bool = False
    tag: str = ""
    values: str = ""
    errors: list[str] = dataclasses.field(default_factory=list)

    @property
    def hint(self) -> str:
        """How its values are written."""
        return LABELS.get(self.field, ("", ""))[1]


@dataclass
class RuleRow:
    """One rule as typed."""

    name: str = ""
    effect: str = "ALLOW"
    conditions: list[ConditionRow] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)


def rows_of(rules: Any) -> list[RuleRow]:
    """From JSON, as far as it is understood."""
    found = []
    for rule in rules if isinstance(rules, list) else []:
        if not isinstance(rule, dict):
            continue
        conditions = [
            ConditionRow(
                str(item.get("field", "")),
                bool(item.get("negated")),
                str(item.get("tag", "")),
                "\n".join(map(str, item.get("values") or [])),
            )
            for item in rule.get("conditions") or []
            if isinstance(item, dict)
        ]
        found.append(RuleRow(str(rule.get("name", "")), str(rule.get("effect", "ALLOW")), conditions))
    return found


def json_of(rows: list[RuleRow]) -> list[dict[str, Any]]:
    """As the service takes them."""
    return [
        {
            "name": row.name,
            "effect": row.effect,
            "conditions": [
                {
                    "field": item.field,
                    "negated": item.negated,
                    **({"tag": item.tag} if item.field == "key_tag" else {}),
                    "values": [line.strip() for line in item.values.splitlines() if line.strip()],
                }
                for item in row.conditions
            ],
        }
        for row in rows
    ]


def read_rows(given: Mapping[str, str]) -> list[RuleRow]:
    """From the fields of the editor, in their order."""
    rules: dict[int, RuleRow] = {}
    conditions: dict[tuple[int, int], ConditionRow] = {}
    for name in given:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        number, at, what = int(match[1]), match[2], match[3]
        if number >= MOST or (at is not None and int(at) >= MOST):
            continue
        value = given[name].replace("\x00", "")
        rule = rules.setdefault(number, RuleRow())
        if at is None:
            if what in ("name", "effect"):
                setattr(rule, what, value.strip())
            continue
        row = conditions.setdefault((number, int(at)), ConditionRow())
        if what == "negated":
            row.negated = value == "1"
        elif what != "name" and what != "effect":
            setattr(row, what, value if what == "values" else value.strip())
    for (number, _), row in sorted(conditions.items()):
        rules[number].conditions.append(row)
    return [rules[number] for number in sorted(rules)]


def act(rows: list[RuleRow], what: str) -> None:
    """Do what a button of the editor says: add, add:1, remove:1, remove:1:0, up:1."""
    verb, *places = what.split(":")
    numbers = [int(place) for place in places if place.isascii() and place.isdigit() and len(place) < 4]
    if verb == "add" and not places:
        rows.append(RuleRow(conditions=[ConditionRow()]))
    elif numbers and numbers[0] < len(rows):
        rule = rows[numbers[0]]
        if verb == "add":
            rule.conditions.append(ConditionRow())
        elif verb == "up" and numbers[0]:
            rows.insert(numbers[0] - 1, rows.pop(numbers[0]))
        elif verb == "remove" and len(numbers) == 1:
            rows.remove(rule)
        elif verb == "remove" and numbers[1] < len(rule.conditions):
            del rule.conditions[numbers[1]]


def put_errors(rows: list[RuleRow], error: ValidationFailed) -> list[str]:
    """Put a service's refusals beside the rows that they name; returns those without a row, and where the others are."""
    told = error.errors or [
        {"field": error.context.get("field", ""), "message": error.message, "cure": error.cure}
    ]
    found = []
    for each in told:
        words = f"{each['message']} {each.get('cure', '')}".strip()
        match = _PLACE.match(each.get("field", "") or "")
        if match is None or int(match[1]) >= len(rows):
            found.append(words)
            continue
        rule = rows[int(match[1])]
        place = gettext("Rule %(value)s") % {"value": int(match[1]) + 1}
        if match[2] is not None and int(match[2]) < len(rule.conditions):
            rule.conditions[int(match[2])].errors.append(words)
            place += gettext(", condition %(value)s") % {"value": int(match[2]) + 1}
        else:
            rule.errors.append(words)
        found.append(f"{place}: {words}")
    return found


class RulesForm(PageForm):
    """Why the rules change; the rules themselves stand beside it."""

    reason = forms.CharField(
        required=False,
        max_length=1000,
        label=gettext_lazy("Why"),
        help_text=gettext_lazy("Stands in the history, such as a ticket's number."),
    )

    def __init__(self, *args: Any, rows: list[RuleRow], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows = rows

    def refuse(self, error: ValidationFailed) -> None:
        """See PageForm; a rule's fault stands at the rule."""
        for words in put_errors(self.rows, error):
            self.add_error(None, words)


# --- in words -------------------------------------------------------------------------------------------------------


def words_of(rule: Mapping[str, Any]) -> str:
    """A rule as a sentence: Allow when role is ... and VPC endpoint is ..."""
    verb = gettext("Allow") if rule.get("effect") == "ALLOW" else gettext("Deny")
    conditions = rule.get("conditions") or []
    if not conditions:
        return gettext("%(verb)s every request") % {"verb": verb}
    told = []
    for item in conditions:
        label = _SPOKEN.get(item["field"], item["field"])
        if item.get("tag"):
            label = gettext("the key's tag %(tag)s") % {"tag": item["tag"]}
        told.append(
            f"{label} {'is not' if item.get('negated') else 'is'} {' or '.join(map(str, item['values']))}"
        )
    return gettext("%(verb)s when %(told)s") % {"verb": verb, "told": " and ".join(told)}


def diff_rows(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Rules that differ, in words: (name, before, after)."""
    old, new = ({rule["name"]: rule for rule in rules} for rules in (before, after))
    names = [*old, *(name for name in new if name not in old)]
    found = []
    for name in names:
        was, now = (words_of(side[name]) if name in side else "" for side in (old, new))
        if was != now:
            found.append((name, was, now))
    return found


def parsed_json(text: str) -> Any:
    """Rules from the JSON view. Raises ValidationFailed."""
    try:
        return json.loads(text or "[]")
    except ValueError as error:
        at = (
            gettext("line %(lineno)s, column %(colno)s") % {"lineno": error.lineno, "colno": error.colno}
            if isinstance(error, json.JSONDecodeError)
            else ""
        )
        raise ValidationFailed(
            f"This is no JSON: {getattr(error, 'msg', error)} ({at}).",
            field="rules",
            cure="Correct it there; the other view opens when it can be read.",
        ) from None
    except RecursionError:
        raise ValidationFailed(
            "This is too deep.", field="rules", cure="Rules are a list of objects."
        ) from None


FIELD_CHOICES = [(name, LABELS[name][0]) for name in FIELDS]
