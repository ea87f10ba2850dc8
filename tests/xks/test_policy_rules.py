"""Compiled access rules against the plain reference, and the cases that the reference was written for."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xks.reference_rules import Asked, arn_like, decide, glob
from xks import policy_rules
from xks.policy_match import BadValue, pattern_regex, read_time, role_name, role_pattern, text_matcher
from xks.policy_rules import ALLOWED, NO_RULE_ALLOWS, DenyAll, RuleSet, RulesInvalid
from xks.wire import ConditionRecord, RuleRecord, RuleSetRecord

ADA = "arn:aws:iam::111122223333:user/Ada"
ROLE = "arn:aws:iam::111122223333:role/team/App"
SESSION = "arn:aws:sts::111122223333:assumed-role/App/i-0abc"
TUESDAY_NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()


def when(field: str, *values: str, negated: bool = False, tag: str = "") -> ConditionRecord:
    return ConditionRecord(field, values, negated, tag)


def allow(*conditions: ConditionRecord, name: str = "allow") -> RuleRecord:
    return RuleRecord(name, "ALLOW", conditions)


def deny(*conditions: ConditionRecord, name: str = "deny") -> RuleRecord:
    return RuleRecord(name, "DENY", conditions)


def rule_set(*rules: RuleRecord) -> RuleSetRecord:
    return RuleSetRecord("rules-1", 1, rules)


def judged(rules: RuleSet, asked: Asked) -> str | None:
    verdict = rules.judge(
        asked.principal,
        asked.kms_operation,
        asked.source_vpc,
        asked.source_vpce,
        asked.via_service,
        asked.tags,
        asked.at,
        is_metadata=asked.is_metadata,
    )
    return None if verdict == ALLOWED else rules.name_of(verdict)


def verdict(asked: Asked, *rules: RuleRecord) -> str | None:
    """Return None for allowed, the denying rule's name, "" for no rule that allows."""
    compiled = RuleSet(rule_set(*rules))
    found = judged(compiled, asked)
    assert judged(compiled, asked) == found, "what is remembered must say the same"
    return found


# --- against the reference


PRINCIPALS = [
    ADA,
    ROLE,
    SESSION,
    "arn:aws:iam::111122223333:role/App",
    "arn:aws:iam::444455556666:role/x:user/Ada",
    "arn:aws:iam::111122223333:root",
    "arn:aws-cn:sts::444455556666:assumed-role/Other/session",
    "arn:aws:sts::111122223333:federated-user/Bob",
    "ec2.amazonaws.com",
    "AWS Internal",
    "arn:aws:iam",
    "",
]
PRINCIPAL_PATTERNS = [
    *PRINCIPALS[:7],
    "*",
    "arn:aws:iam::*:user/Ada",
    "arn:aws:iam::111122223333:*",
    "arn:*:iam::1111????3333:role/*A?p",
    "arn:aws:sts::*:assumed-role/App/*",
]
TEXTS = [
    "Encrypt",
    "Decrypt",
    "GenerateDataKey",
    "vpc-1",
    "vpc-22",
    "s3.eu-west-1.amazonaws.com",
    "ebs",
    "prod",
    "dev",
]
TEXT_PATTERNS = [*TEXTS, "*", "Generate*", "vpc-?", "s3.*.amazonaws.com", "p*d", "**d"]
WINDOWS = [
    "MON,TUE,WED 08:00-18:00 Europe/Berlin",
    "daily 22:00-06:00 America/New_York",
    "SUN 00:00-24:00 UTC",
    "2026-03-01T00:00+00:00/2026-11-01T00:00+00:00",
]


def conditions() -> st.SearchStrategy[ConditionRecord]:
    def of(
        field: str, values: list[str], tags: tuple[str, ...] = ("",)
    ) -> st.SearchStrategy[ConditionRecord]:
        return st.builds(
            ConditionRecord,
            st.just(field),
            st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(tuple),
            st.booleans(),
            st.sampled_from(tags),
        )

    return st.one_of(
        of("principal", PRINCIPAL_PATTERNS),
        of("account", ["111122223333", "444455556666"]),
        of("role", ["arn:aws:iam::111122223333:role/App", ROLE, "arn:aws:iam::*:role/A*", SESSION]),
        of("service", ["AWS Internal", "*.amazonaws.com", "ec2.amazonaws.com"]),
        *(
            of(field, TEXT_PATTERNS)
            for field in ("kms_operation", "source_vpc", "source_vpce", "kms_via_service")
        ),
        of("key_tag", TEXT_PATTERNS, ("env", "team")),
        of("time", WINDOWS),
    )


@st.composite
def rule_sets(draw: st.DrawFn) -> RuleSetRecord:
    parts = draw(
        st.lists(
            st.tuples(st.sampled_from(["ALLOW", "DENY"]), st.lists(conditions(), max_size=3).map(tuple)),
            max_size=8,
        )
    )
    return rule_set(*(RuleRecord(f"rule {n}", effect, found) for n, (effect, found) in enumerate(parts)))


texts = st.none() | st.sampled_from(["", *TEXTS])
requests = st.builds(
    Asked,
    principal=st.sampled_from(PRINCIPALS),
    kms_operation=st.sampled_from(TEXTS[:3]),
    source_vpc=texts,
    source_vpce=texts,
    via_service=texts,
    tags=st.dictionaries(st.sampled_from(["env", "team"]), st.sampled_from(TEXTS)).map(
        lambda tags: tuple(sorted(tags.items()))
    ),
    # All of 2026, to the second, both changes of the clocks among it.
    at=st.integers(1767225600, 1798761599).map(float),
    is_metadata=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(rule_sets(), st.lists(requests, min_size=1, max_size=6))
def test_compiled_rules_decide_as_the_reference(rules: RuleSetRecord, asked: list[Asked]) -> None:
    compiled = RuleSet(rules)
    for one in [*asked, *asked]:  # the second time from what is remembered
        assert judged(compiled, one) == decide(rules, one)


@settings(max_examples=300, deadline=None)
@given(st.text("ab*?:", max_size=9), st.text("ab:", max_size=9))
def test_patterns_match_as_the_reference(pattern: str, text: str) -> None:
    assert bool(re.fullmatch(pattern_regex(pattern), text, re.DOTALL)) == glob(text, pattern)
    arn, about = f"arn:{pattern}", f"arn:{text}"
    if arn.count(":") >= 5:
        assert bool(re.fullmatch(pattern_regex(arn), about, re.DOTALL)) == arn_like(about, arn)


# --- who calls


@pytest.mark.parametrize("asked", [ROLE, SESSION, "arn:aws:iam::111122223333:role/App"])
@pytest.mark.parametrize("wanted", [ROLE, SESSION, "arn:aws:iam::111122223333:role/App"])
def test_a_role_and_its_sessions_are_one(asked: str, wanted: str) -> None:
    assert verdict(Asked(asked), allow(when("role", wanted))) is None
    assert verdict(Asked(asked), deny(when("role", wanted))) == "deny"


@pytest.mark.parametrize(
    "asked",
    [
        ADA,
        "arn:aws:iam::444455556666:role/App",
        "arn:aws:iam::111122223333:role/App2",
        "arn:aws:sts::111122223333:assumed-role/App2/App",
        "arn:aws:sts::111122223333:assumed-role/Other/App",
        "arn:aws-cn:iam::111122223333:role/App",
        "AWS Internal",
        "App",
    ],
)
def test_others_are_not_that_role(asked: str) -> None:
    assert verdict(Asked(asked), allow(when("role", ROLE))) == ""


def test_a_star_does_not_reach_over_the_account() -> None:
    asked = Asked("arn:aws:iam::444455556666:role/x:user/Ada")
    assert verdict(asked, allow(when("principal", "arn:aws:iam::*:user/Ada"))) == ""
    assert verdict(asked, allow(when("principal", "arn:aws:iam::*:role/*"))) is None


def test_services_and_accounts() -> None:
    allowing = allow(when("service", "AWS Internal", "*.amazonaws.com"))
    assert verdict(Asked("AWS Internal"), allowing) is None
    assert verdict(Asked("ec2.amazonaws.com"), allowing) is None
    assert verdict(Asked(ADA), allowing) == ""
    assert verdict(Asked(SESSION), allow(when("account", "111122223333"))) is None
    assert verdict(Asked("AWS Internal"), allow(when("account", "111122223333"))) == ""


@pytest.mark.parametrize("field", ["account", "role"])
@pytest.mark.parametrize("negated", [True, False])
def test_a_service_has_neither_account_nor_role(field: str, negated: bool) -> None:
    value = "111122223333" if field == "account" else ROLE
    assert verdict(Asked("AWS Internal"), deny(when(field, value, negated=negated))) is None


@pytest.mark.parametrize("field", ["source_vpc", "source_vpce", "kms_via_service", "key_tag"])
@pytest.mark.parametrize("negated", [True, False])
def test_an_absent_field_matches_nothing(field: str, negated: bool) -> None:
    condition = when(field, "x", negated=negated, tag="env")
    assert verdict(Asked(ADA), deny(condition)) is None
    assert verdict(Asked(ADA), allow(condition)) == ""


# --- order and defaults


def test_nothing_is_refused_without_rules() -> None:
    assert verdict(Asked(ADA)) is None
    assert verdict(Asked(ADA), deny(when("account", "444455556666"))) is None


def test_the_first_denial_wins_over_every_allowance() -> None:
    asked = Asked(ADA)
    rules = (
        allow(),
        deny(when("principal", "*"), name="first"),
        deny(name="second"),
        allow(when("principal", ADA)),
    )
    assert verdict(asked, *rules) == "first"


def test_conditions_of_one_rule_hold_together() -> None:
    rule = deny(when("principal", "arn:aws:iam::111122223333:*"), when("principal", ADA, negated=True))
    assert verdict(Asked(ADA), rule) is None
    assert verdict(Asked(ROLE), rule) == "deny"


# --- metadata


@pytest.mark.parametrize(
    "condition",
    [
        when("kms_via_service", "s3*"),
        when("key_tag", "prod", tag="env"),
        when("time", "2026-01-01T00:00Z/2026-01-02T00:00Z"),
    ],
)
def test_metadata_is_judged_by_principal_operation_and_vpc_alone(condition: ConditionRecord) -> None:
    asked = Asked(ADA, "DescribeKey", is_metadata=True, at=TUESDAY_NOON)
    assert verdict(asked, deny(condition)) is None
    assert verdict(asked, allow(condition)) is None
    assert verdict(asked, allow(condition, when("principal", ROLE))) == ""
    assert verdict(asked, deny(when("principal", ADA))) == "deny"
    assert verdict(asked, allow(when("kms_operation", "Decrypt"))) == ""
    assert verdict(asked, deny(when("source_vpce", "vpce-1", negated=True))) is None


# --- time


@pytest.mark.parametrize(
    ("window", "moment", "inside"),
    [
        ("MON-FRI 08:00-18:00 Europe/Berlin", "2026-11-24T07:00+00:00", True),
        ("MON-FRI 08:00-18:00 Europe/Berlin", "2026-11-24T06:59+00:00", False),
        ("MON-FRI 08:00-18:00 Europe/Berlin", "2026-11-24T16:59+00:00", True),
        ("MON-FRI 08:00-18:00 Europe/Berlin", "2026-11-24T17:00+00:00", False),
        ("MON-FRI 08:00-18:00 Europe/Berlin", "2026-11-22T12:00+00:00", False),
        ("SAT-SUN,WED 00:00-24:00 UTC", "2026-11-22T23:59+00:00", True),
        ("FRI-MON 00:00-24:00 UTC", "2026-11-23T10:00+00:00", True),
        ("FRI-MON 00:00-24:00 UTC", "2026-11-24T10:00+00:00", False),
        # Overnight: the window is that of the day on which it began.
        ("MON 22:00-06:00 UTC", "2026-11-24T05:59+00:00", True),
        ("MON 22:00-06:00 UTC", "2026-11-23T05:59+00:00", False),
        ("daily 12:00-12:00 UTC", "2026-11-24T11:59+00:00", True),
        # Summer time ends on 25 October 2026: 02:30 comes twice in Berlin.
        ("daily 02:00-03:00 Europe/Berlin", "2026-10-25T00:30+00:00", True),
        ("daily 02:00-03:00 Europe/Berlin", "2026-10-25T01:30+00:00", True),
        ("daily 02:00-03:00 Europe/Berlin", "2026-10-25T02:00+00:00", False),
        # It begins on 29 March: 02:30 does not come at all.
        ("daily 02:00-03:00 Europe/Berlin", "2026-03-29T00:59+00:00", False),
        ("daily 02:00-03:00 Europe/Berlin", "2026-03-29T01:00+00:00", False),
        ("2026-11-24T12:00Z/2026-11-24T13:00+01:00", "2026-11-24T12:00+00:00", None),
        ("2026-11-24T12:00Z/2026-11-24T14:00+01:00", "2026-11-24T12:59+00:00", True),
    ],
)  # fmt: skip
def test_windows(window: str, moment: str, inside: bool | None) -> None:
    at = datetime.fromisoformat(moment).timestamp()
    if inside is None:
        with pytest.raises(BadValue, match="ends before it begins"):
            read_time(window)
        return
    assert read_time(window).holds(at) is inside
    rule = deny(when("time", window), name="closed")
    assert verdict(Asked(ADA, at=at + 59.9), rule) == ("closed" if inside else None)


def test_the_minute_remembered_is_that_minute_only() -> None:
    rules = RuleSet(rule_set(deny(when("time", "daily 08:00-09:00 UTC"))))
    eight = datetime(2026, 11, 24, 8, 0, tzinfo=UTC).timestamp()
    assert [judged(rules, Asked(ADA, at=eight + seconds)) for seconds in (-0.1, 0, 3599.9, 3600, 0)] == [
        None, "deny", "deny", None, "deny",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        "", "8-18", "MON 25:00-26:00 UTC", "MON 08:00-18:60 UTC", "MON 24:00-06:00 UTC", "MON 08:00-18:00 Mars/Base",
        "MON 08:00-18:00 ../../etc/passwd", "MOND 08:00-18:00 UTC", "MON- 08:00-18:00 UTC,", "2026-01-01/2026-01-02",
        "2026-01-01T00:00Z/", "2026-01-01T00:00:30Z/2026-01-02T00:00Z", "x/y", "MON 08:00-18:00 /etc/localtime",
    ],
)  # fmt: skip
def test_bad_windows_are_explained(value: str) -> None:
    with pytest.raises(BadValue) as refused:
        read_time(value)
    assert refused.value.cure


@pytest.mark.parametrize(
    "value",
    [
        "App",
        ADA,
        "arn:aws:iam::111122223333:role/",
        "arn:aws:iam::1:role/team/App*",
        "arn:aws:iam::1:role/t*/App",
    ],
)
def test_bad_roles_are_explained(value: str) -> None:
    with pytest.raises(BadValue) as refused:
        role_pattern(value)
    assert refused.value.cure


def test_role_names() -> None:
    assert role_name(ROLE) == role_name(SESSION) == "aws:111122223333:App"
    assert role_name("arn:aws:iam::1:role/a/b/c/Name") == "aws:1:Name"
    assert role_name(ADA) is None
    assert role_name("arn:aws:sts::1:assumed-role/Name") == "aws:1:Name"


# --- what is not known is refused


@pytest.mark.parametrize(
    "rule",
    [
        RuleRecord("r", "MAYBE"),
        deny(when("shoe_size", "44")),
        deny(when("time", "whenever")),
        deny(when("role", "App")),
    ],
)
def test_rules_that_cannot_be_read(rule: RuleRecord) -> None:
    with pytest.raises(RulesInvalid):
        RuleSet(rule_set(rule))


@pytest.mark.parametrize("is_metadata", [True, False])
def test_unreadable_rules_refuse_everything(is_metadata: bool) -> None:
    compiled = DenyAll(rule_set(RuleRecord("r", "MAYBE")))
    assert judged(compiled, Asked(ADA, is_metadata=is_metadata)) == policy_rules.UNREADABLE


# --- cost


def test_what_is_remembered_is_bounded() -> None:
    rules = RuleSet(rule_set(deny(when("principal", "*x")), deny(when("kms_via_service", "*y"))))
    for number in range(3 * policy_rules.MAX_REMEMBERED):
        asked = Asked(f"arn:aws:iam::1:user/{number}x", via_service=f"{number}y")
        assert judged(rules, asked) == "deny"
    assert judged(rules, Asked("p" * 5000, via_service="v" * 5000)) is None
    assert rules._principal is not None
    for known in (rules._principal._known, rules._seen):
        assert 0 < len(known) <= policy_rules.MAX_REMEMBERED
        assert (
            len(str(max(known, key=lambda value: len(str(value)))))
            < 2 * policy_rules.MAX_REMEMBERED_CHARACTERS
        )


def test_no_principal_makes_a_pattern_slow() -> None:
    matches = text_matcher(["arn:aws:iam::*:role/*a*a*a*a*a*a*a*ab"])
    # A pattern that tried every way to share them out would not end in this test's time, nor in a year.
    assert not matches("arn:aws:iam::111122223333:role/" + "a" * 2000)


def test_no_rule_allows_is_told_from_a_denial() -> None:
    rules = RuleSet(rule_set(allow(when("principal", ROLE))))
    verdict = rules.judge(ADA, "Encrypt", None, None, None, (), 0.0, is_metadata=False)
    assert verdict == NO_RULE_ALLOWS
    assert rules.name_of(verdict) == ""
