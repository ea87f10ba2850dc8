"""Rules as people write them: what is taken, and how what is not is explained."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vault.errors import ValidationFailed
from xks.policy_rules import RuleSet
from xks.rules_input import MAX_JSON_BYTES, MAX_RULES, check_rules, describe, records_of
from xks.wire import ConditionRecord, RuleRecord, RuleSetRecord

GOOD: list[dict[str, Any]] = [
    {
        "name": "the application, in our VPC",
        "effect": "ALLOW",
        "conditions": [
            {"field": "role", "values": ["arn:aws:iam::111122223333:role/App*"]},
            {"field": "source_vpce", "values": ["vpce-0a1b2c3d", "vpce-9*"]},
            {"field": "key_tag", "tag": "env", "values": ["prod", "größe"]},
        ],
    },
    {
        "name": "AWS",
        "effect": "ALLOW",
        "conditions": [{"field": "service", "values": ["AWS Internal", "*.amazonaws.com"]}],
    },
    {
        "name": "closed at night",
        "effect": "DENY",
        "conditions": [{"field": "time", "negated": True, "values": ["MON-FRI 06:00-20:00 Europe/Berlin"]}],
    },
    {"name": "nothing else", "effect": "DENY"},
]


def one(field: str, value: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "r", "effect": "DENY", "conditions": [{"field": field, "values": [value], **more}]}]


def test_good_rules_become_records() -> None:
    rules = check_rules(GOOD)
    assert check_rules(rules) == rules
    assert rules[3] == {"name": "nothing else", "effect": "DENY", "conditions": []}
    records = records_of(rules)
    assert records[2] == RuleRecord(
        "closed at night",
        "DENY",
        (ConditionRecord("time", ("MON-FRI 06:00-20:00 Europe/Berlin",), negated=True),),
    )
    assert records[0].conditions[2].tag == "env"
    assert RuleSet(RuleSetRecord("", 1, records)).names == tuple(rule["name"] for rule in rules)


def test_rules_in_words() -> None:
    assert list(describe(check_rules(GOOD)[2])) == [
        "deny: closed at night",
        "  time is not MON-FRI 06:00-20:00 Europe/Berlin",
    ]
    assert list(describe(check_rules(GOOD)[3])) == ["deny: nothing else (every request)"]
    assert list(describe(check_rules(GOOD)[0]))[3] == "  tag env is prod or größe"


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        (None, "rules"),
        ({}, "rules"),
        ([{"name": f"r{n}", "effect": "DENY"} for n in range(MAX_RULES + 1)], "rules"),
        (["x"], "rules[0]"),
        ([{"effect": "DENY"}], "rules[0].name"),
        ([{"name": "", "effect": "DENY"}], "rules[0].name"),
        ([{"name": "größe", "effect": "DENY"}], "rules[0].name"),
        ([{"name": "x" * 101, "effect": "DENY"}], "rules[0].name"),
        ([{"name": "r", "effect": "deny"}], "rules[0].effect"),
        ([{"name": "r"}], "rules[0].effect"),
        ([{"name": "r", "effect": "DENY", "when": []}], "rules[0].when"),
        ([{"name": "r", "effect": "DENY", "conditions": {}}], "rules[0].conditions"),
        ([{"name": "r", "effect": "DENY"}, {"name": "r", "effect": "ALLOW"}], "rules[1].name"),
        ([{"name": "r", "effect": "DENY", "conditions": [1]}], "rules[0].conditions[0]"),
        (one("shoe_size", "44"), "rules[0].conditions[0].field"),
        (one("account", "111122223333", negated="yes"), "rules[0].conditions[0].negated"),
        (one("account", "111122223333", tag="env"), "rules[0].conditions[0].tag"),
        (one("key_tag", "prod"), "rules[0].conditions[0].tag"),
        ([{"name": "r", "effect": "DENY", "conditions": [{"field": "account", "values": []}]}],
         "rules[0].conditions[0].values"),
        ([{"name": "r", "effect": "DENY", "conditions": [{"field": "account"}]}], "rules[0].conditions[0].values"),
        (one("account", 111122223333), "rules[0].conditions[0].values[0]"),
        (one("account", "1111-2222-3333"), "rules[0].conditions[0].values[0]"),
        (one("account", "*"), "rules[0].conditions[0].values[0]"),
        (one("principal", "Ada"), "rules[0].conditions[0].values[0]"),
        (one("principal", "ec2.amazonaws.com"), "rules[0].conditions[0].values[0]"),
        (one("principal", "arn:aws:iam::*"), "rules[0].conditions[0].values[0]"),
        (one("principal", "arn:aws:iam::1:user/" + "*a" * 17), "rules[0].conditions[0].values[0]"),
        (one("principal", "arn:aws:iam::1:user/" + "x" * 2048), "rules[0].conditions[0].values[0]"),
        (one("principal", "arn:aws:iam::1:user/\n"), "rules[0].conditions[0].values[0]"),
        (one("role", "App"), "rules[0].conditions[0].values[0]"),
        (one("role", "arn:aws:iam::1:role/t/App*"), "rules[0].conditions[0].values[0]"),
        (one("role", "arn:aws:iam:::role/App"), "rules[0].conditions[0].values[0]"),
        (one("service", "AWS internal"), "rules[0].conditions[0].values[0]"),
        (one("kms_operation", "kms:Decrypt"), "rules[0].conditions[0].values[0]"),
        (one("kms_via_service", "s3 eu"), "rules[0].conditions[0].values[0]"),
        (one("source_vpc", "10.0.0.0/8"), "rules[0].conditions[0].values[0]"),
        (one("source_vpce", "vpc-1"), "rules[0].conditions[0].values[0]"),
        (one("time", "at night"), "rules[0].conditions[0].values[0]"),
        (one("key_tag", "a\x00b", tag="env"), "rules[0].conditions[0].values[0]"),
        (one("key_tag", "\ud800", tag="env"), "rules[0].conditions[0].values[0]"),
        (one("key_tag", "prod", tag="\ud800"), "rules[0].conditions[0].tag"),
        (one("key_tag", "prod", tag=["env"]), "rules[0].conditions[0].tag"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_explained(rules: Any, field: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        check_rules(rules)
    (error,) = refused.value.errors
    assert error["field"] == field
    assert error["message"].endswith(".")
    assert error["cure"].endswith(".")


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ValidationFailed) as refused:
        check_rules([{"name": "", "effect": "MAYBE"}, *one("account", "1"), {"effect": "DENY", "x": 1}])
    assert [error["field"] for error in refused.value.errors] == [
        "rules[0].name", "rules[0].effect", "rules[1].conditions[0].values[0]", "rules[2].x", "rules[2].name",
    ]  # fmt: skip


def test_rules_are_bounded_as_a_whole() -> None:
    values = [f"arn:aws:iam::111122223333:user/{'x' * 1000}{n}" for n in range(MAX_JSON_BYTES // 1000)]
    with pytest.raises(ValidationFailed, match="longer than"):
        check_rules(
            [{"name": "r", "effect": "DENY", "conditions": [{"field": "principal", "values": values}]}]
        )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "effect", "conditions", "field", "values", "negated", "tag", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_anything_is_taken_or_explained(value: Any) -> None:
    try:
        rules = check_rules(value)
    except ValidationFailed as error:
        refused = error.errors
    else:
        refused = []
        RuleSet(RuleSetRecord("", 1, records_of(rules)))
    assert all(item["field"] and item["message"] and item["cure"] for item in refused)
