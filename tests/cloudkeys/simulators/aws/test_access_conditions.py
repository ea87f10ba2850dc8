"""Condition operators and patterns of the policy language."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudkeys.simulators.aws.conditions import glob, parse_condition

CONTEXT: dict[str, Any] = {
    "aws:username": "ann",
    "aws:sourceip": "10.1.2.3",
    "aws:currenttime": "2026-03-01T12:00:00Z",
    "aws:epochtime": "1772366400",
    "aws:securetransport": "false",
    "aws:principalarn": "arn:aws:iam::111122223333:role/team/app",
    "kms:viaservice": "s3.eu-west-1.amazonaws.com",
    "kms:encryptioncontextkeys": ["a", "b"],
    "kms:resourcealiases": [],
    "s3:max-keys": "10",
}


@pytest.mark.parametrize(
    ("operator", "key", "values", "expected"),
    [
        ("StringEquals", "aws:username", ["ann"], True),
        ("StringEquals", "aws:username", ["bob", "ann"], True),
        ("StringEquals", "AWS:UserName", ["ann"], True),
        ("StringEquals", "aws:username", ["Ann"], False),
        ("StringEquals", "aws:username", ["a*"], False),
        ("StringEquals", "kms:viaservice", ["s3.${x}"], False),
        ("StringEquals", "aws:username", ["${aws:username}"], True),
        ("StringEquals", "absent", ["ann"], False),
        ("StringNotEquals", "aws:username", ["bob"], True),
        ("StringNotEquals", "aws:username", ["bob", "ann"], False),
        ("StringNotEquals", "absent", ["bob"], True),
        ("StringEqualsIgnoreCase", "aws:username", ["ANN"], True),
        ("StringNotEqualsIgnoreCase", "aws:username", ["ANN"], False),
        ("StringLike", "kms:viaservice", ["s3.*.amazonaws.com"], True),
        ("StringLike", "aws:username", ["a?n"], True),
        ("StringLike", "aws:username", ["a?"], False),
        ("StringLike", "aws:username", ["a${*}"], False),
        ("StringNotLike", "aws:username", ["a*"], False),
        ("StringEqualsIfExists", "absent", ["x"], True),
        ("StringEqualsIfExists", "aws:username", ["x"], False),
        ("ArnLike", "aws:principalarn", ["arn:aws:iam::*:role/team/*"], True),
        ("ArnLike", "aws:principalarn", ["arn:*"], False),
        ("ArnLike", "aws:principalarn", ["arn:*:role/team/app"], False),
        ("ArnEquals", "aws:principalarn", ["arn:aws:iam::111122223333:role/*"], True),
        ("ArnNotLike", "aws:principalarn", ["arn:aws:iam::*:user/*"], True),
        ("ArnNotEquals", "absent", ["arn:aws:iam::*:user/*"], True),
        ("Bool", "aws:securetransport", ["false"], True),
        ("Bool", "aws:securetransport", ["true"], False),
        ("BoolIfExists", "aws:multifactorauthpresent", ["true"], True),
        ("Null", "absent", ["true"], True),
        ("Null", "aws:username", ["true"], False),
        ("Null", "aws:username", ["false"], True),
        ("Null", "kms:resourcealiases", ["true"], True),
        ("NumericEquals", "s3:max-keys", ["10.0"], True),
        ("NumericNotEquals", "s3:max-keys", ["10"], False),
        ("NumericLessThan", "s3:max-keys", ["10"], False),
        ("NumericLessThanEquals", "s3:max-keys", ["10"], True),
        ("NumericGreaterThan", "s3:max-keys", ["9"], True),
        ("NumericGreaterThanEquals", "s3:max-keys", ["11"], False),
        ("NumericEquals", "aws:username", ["1"], False),
        ("DateGreaterThan", "aws:currenttime", ["2026-01-01T00:00:00Z"], True),
        ("DateLessThan", "aws:currenttime", ["2026-01-01"], False),
        ("DateGreaterThanEquals", "aws:epochtime", ["1772366400"], True),
        ("DateLessThanEquals", "aws:epochtime", ["1772366399"], False),
        ("DateEquals", "aws:currenttime", ["1772366400"], True),
        ("DateNotEquals", "aws:currenttime", ["yesterday"], True),
        ("IpAddress", "aws:sourceip", ["10.0.0.0/8"], True),
        ("IpAddress", "aws:sourceip", ["192.168.0.0/16", "10.1.2.3"], True),
        ("IpAddress", "aws:sourceip", ["nonsense"], False),
        ("NotIpAddress", "aws:sourceip", ["10.0.0.0/8"], False),
        ("ForAnyValue:StringEquals", "kms:encryptioncontextkeys", ["b", "c"], True),
        ("ForAnyValue:StringEquals", "kms:encryptioncontextkeys", ["c"], False),
        ("ForAnyValue:StringEquals", "absent", ["c"], False),
        ("ForAllValues:StringEquals", "kms:encryptioncontextkeys", ["a", "b", "c"], True),
        ("ForAllValues:StringEquals", "kms:encryptioncontextkeys", ["a"], False),
        ("ForAllValues:StringEquals", "absent", ["a"], True),
        ("ForAllValues:StringEquals", "kms:resourcealiases", ["a"], True),
        ("ForAnyValue:StringNotEquals", "kms:encryptioncontextkeys", ["a"], True),
        ("ForAllValues:StringNotEquals", "kms:encryptioncontextkeys", ["a"], False),
        ("BinaryEquals", "aws:username", ["!"], False),
    ],
)
def test_operator(operator: str, key: str, values: list[str], expected: bool) -> None:
    assert parse_condition(operator, key, values).holds(CONTEXT, variables=True) is expected


def test_binary_values_are_compared_as_bytes() -> None:
    line = parse_condition("BinaryEquals", "x", ["AAE="])

    assert line.holds({"x": "AAE="}, variables=True)
    assert not line.holds({"x": "AAI="}, variables=True)


def test_variables_stay_text_in_old_policies() -> None:
    line = parse_condition("StringEquals", "aws:username", ["${aws:username}"])

    assert not line.holds(CONTEXT, variables=False)
    assert line.holds({"aws:username": "${aws:username}"}, variables=False)


def test_a_wildcard_in_a_variables_value_is_no_wildcard() -> None:
    line = parse_condition("StringLike", "x", ["${aws:username}"])

    assert not line.holds({"x": "anything", "aws:username": "*"}, variables=True)
    assert line.holds({"x": "*", "aws:username": "*"}, variables=True)


def test_a_variable_has_a_default() -> None:
    line = parse_condition("StringEquals", "x", ["${absent, 'fallback'}"])

    assert line.holds({"x": "fallback"}, variables=True)


@pytest.mark.parametrize(
    "operator",
    ["StringSame", "ForSomeValues:StringEquals", "NullIfExists", "ForAnyValue:Null", ":StringEquals", ""],
)
def test_an_unknown_operator_is_refused(operator: str) -> None:
    with pytest.raises(ValueError, match="Invalid Condition type"):
        parse_condition(operator, "x", ["y"])


@given(st.text(alphabet="ab*?", max_size=12), st.text(alphabet="ab", max_size=12))
def test_patterns_match_as_a_regular_expression_would(pattern: str, text: str) -> None:
    assert glob(pattern, text) is bool(re.fullmatch(fnmatch.translate(pattern), text))


def test_a_hostile_pattern_takes_no_exponential_time() -> None:
    assert not glob("*a" * 200 + "b", "a" * 2000)
