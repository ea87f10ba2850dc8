"""Findings on rules: each with rules that deserve it, and with some that do not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings

from tests.xks.reference_rules import decide
from tests.xks.test_policy_rules import Asked, allow, deny, requests, rule_set, rule_sets, when
from xks.policy_lint import lint, locks_everybody_out
from xks.wire import RuleRecord, RuleSetRecord

NOW = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
ADA = when("principal", "arn:aws:iam::111122223333:user/Ada")
APP = when("role", "arn:aws:iam::111122223333:role/App")
AWS = when("service", "AWS Internal", "*.amazonaws.com")


def codes(*rules: RuleRecord) -> set[str]:
    return {finding.code for finding in lint(rules, now=NOW)}


def test_nothing_to_say_of_good_rules() -> None:
    assert codes() == set()
    assert codes(allow(APP, name="app"), allow(AWS, name="aws"), deny(ADA)) == set()
    assert codes(deny(when("source_vpc", "vpc-1"), ADA)) == set()
    assert codes(allow(when("principal", "*"), when("kms_via_service", "s3*"))) == set()


def test_an_allow_list_without_aws() -> None:
    assert codes(allow(APP)) == {"omits-aws-internal", "omits-aws-services"}
    assert codes(allow(APP), allow(when("service", "AWS Internal"), name="b")) == {"omits-aws-services"}
    assert codes(allow(APP), allow(when("service", "ec2.amazonaws.com"), name="b")) == {"omits-aws-internal"}
    assert codes(allow(when("source_vpce", "vpce-1"))) == set()


def test_an_allow_list_without_what_makes_keys() -> None:
    assert codes(allow(when("kms_operation", "Encrypt", "Decrypt"))) == {"omits-metadata"}
    assert codes(allow(when("kms_operation", "Encrypt", "DescribeKey"))) == set()
    assert codes(allow(when("kms_operation", "Encrypt", negated=True))) == set()


@pytest.mark.parametrize(
    "conditions",
    [
        (when("service", "AWS Internal"), when("account", "111122223333")),
        (when("service", "ec2.amazonaws.com"), APP),
        (when("account", "111122223333"), when("account", "444455556666")),
        (when("account", "111122223333"), when("account", "111122223333", negated=True)),
        (ADA, when("account", "444455556666")),
        (APP, when("account", "444455556666")),
        (ADA, APP),
        (ADA, when("principal", "arn:aws:iam::*:user/*", negated=True)),
        (when("principal", "arn:aws:iam::111122223333:role/App*"), when("account", "444455556666")),
        (when("principal", "*", negated=True),),
        (when("source_vpc", "*", negated=True),),
        (when("source_vpc", "vpc-1"), when("source_vpc", "vpc-2")),
        (when("kms_operation", "Decrypt"), when("kms_operation", "De*", negated=True)),
        (when("key_tag", "x", tag="aws:cloudformation:stack-name"),),
        (when("time", "2026-01-01T00:00Z/2026-11-01T00:00Z"),),
    ],
)
def test_a_rule_that_can_never_match(conditions: tuple[object, ...]) -> None:
    found = lint((deny(*conditions),), now=NOW)  # type: ignore[arg-type]
    assert "never-matches" in {finding.code for finding in found}
    assert all(finding.message and finding.cure and finding.rule == "deny" for finding in found)
    assert locks_everybody_out(lint((allow(*conditions),), now=NOW))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "conditions",
    [
        (APP, when("principal", "arn:aws:sts::111122223333:assumed-role/App/deploy")),
        (APP, when("account", "111122223333")),
        (when("role", "arn:aws:iam::*:role/App"), when("account", "111122223333")),
        (when("time", "2026-01-01T00:00Z/2027-01-01T00:00Z", "2026-01-01T00:00Z/2026-02-01T00:00Z"),),
        (when("time", "2026-01-01T00:00Z/2026-02-01T00:00Z", negated=True),),
        (when("key_tag", "a", tag="x"), when("key_tag", "b", tag="y")),
    ],
)
def test_a_rule_that_can_match(conditions: tuple[object, ...]) -> None:
    assert "never-matches" not in codes(deny(*conditions))  # type: ignore[arg-type]


def test_lock_out() -> None:
    assert "locks-everybody-out" in codes(deny(), allow(AWS))
    assert "locks-everybody-out" in codes(deny(when("principal", "*"), when("kms_operation", "*")))
    assert "locks-everybody-out" in codes(allow(ADA), deny(ADA))
    assert "locks-everybody-out" not in codes(deny(ADA), allow(AWS))
    assert lint((deny(), allow(APP)), now=NOW)[0].severity == "DANGER"


def test_an_allowance_that_a_denial_always_overrides() -> None:
    found = codes(allow(ADA, when("source_vpc", "vpc-1")), deny(ADA), allow(AWS, name="aws"))
    assert "always-overridden" in found
    assert "locks-everybody-out" not in found


def test_a_negated_denial_does_not_deny_what_is_absent() -> None:
    assert codes(deny(when("source_vpce", "vpce-1", negated=True))) == {"absent-is-not-denied"}
    assert "absent-is-not-denied" not in codes(deny(when("principal", "arn:aws:iam::1:*", negated=True)))


def test_a_denial_of_aws_internal() -> None:
    others = when("principal", "arn:aws:iam::111122223333:*", negated=True)
    assert codes(deny(others)) == {"denies-aws-internal"}
    # The cure that it names works.
    assert codes(deny(others, when("principal", "arn:*:*:*:*:*"))) == set()


def test_operations_that_kms_does_not_send() -> None:
    assert codes(deny(when("kms_operation", "decrypt"))) == {"unknown-operation"}
    assert codes(deny(when("kms_operation", "GenerateDataKey*"))) == set()


@settings(max_examples=150, deadline=None)
@given(rule_sets(), requests)
def test_findings_are_sound(rules: RuleSetRecord, asked: Asked) -> None:
    found = lint(rules.rules, now=NOW)
    if locks_everybody_out(found):
        # Seen before NOW, a time that is over may have been: the rest holds for every moment.
        asked.at = NOW + asked.at % 1000
        asked.is_metadata = False
        assert decide(rules, asked) is not None


def test_findings_read_well() -> None:
    rules = rule_set(deny(when("source_vpce", "vpce-1", negated=True)), allow(APP), deny())
    for finding in lint(rules.rules, now=NOW):
        assert finding.message[-1] in "."
        assert finding.cure[-1] in "."
        assert finding.severity in ("DANGER", "WARNING", "NOTE")
