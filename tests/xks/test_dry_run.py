"""Candidates judged against recorded requests."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xks.reference_rules import Asked, decide
from tests.xks.test_policy_rules import allow, deny, requests, rule_set, rule_sets, when
from xks.dry_run import MAX_PRINCIPALS, DryRun, RecordedRequest, dry_run
from xks.policy_rules import RuleSet, Tags
from xks.wire import RuleRecord, RuleSetRecord

ADA = "arn:aws:iam::111122223333:user/Ada"
BOB = "arn:aws:iam::111122223333:user/Bob"


def recorded(principal: str = ADA, **more: Any) -> RecordedRequest:
    return RecordedRequest(
        **{
            "at": 1.0,
            "operation": "decrypt",
            "key_id": "k",
            "principal_arn": principal,
            "kms_operation": "Decrypt",
            **more,
        }
    )


def run(*rules: RuleRecord, over: list[RecordedRequest], tags: Tags = ()) -> DryRun:
    return dry_run(RuleSet(rule_set(*rules)), over, lambda key_id: tags)


def test_who_would_have_been_denied() -> None:
    over = [
        *(recorded(at=float(n)) for n in range(5, 10)),
        recorded(BOB, at=2.0, kms_via_service="s3.eu-west-1.amazonaws.com"),
        recorded(BOB, at=12.0),
        recorded("AWS Internal"),
    ]
    found = run(
        deny(when("principal", ADA), name="no Ada"), deny(when("principal", BOB), name="no Bob"), over=over
    )
    assert (found.judged, found.denied, found.refused_before) == (8, 7, 0)
    assert found.by_rule == {"no Ada": 5, "no Bob": 2}
    assert list(found.principals.items()) == [(ADA, 5), (BOB, 2)]
    assert found.services == {"": 6, "s3.eu-west-1.amazonaws.com": 1}
    assert (found.first_at, found.last_at) == (1.0, 12.0)
    assert found.kms_operations == {"Decrypt": 7}
    assert found.sentence == "would have denied 7 of 8, from 2 principals"


def test_nothing_recorded_says_nothing() -> None:
    assert "nothing can be said" in run(deny(), over=[]).sentence
    assert run(over=[recorded()]).sentence == "would have denied 0 of 1"


def test_health_and_what_was_never_judged_are_left_out() -> None:
    over = [recorded(operation="health"), recorded(key_id="", outcome="ValidationException")]
    assert run(deny(), over=over).judged == 0


def test_what_was_refused_then_is_apart() -> None:
    over = [
        recorded(outcome="AccessDeniedException"),
        recorded(BOB, outcome="AccessDeniedException"),
        recorded(BOB),
    ]
    found = run(deny(when("principal", BOB)), over=over)
    assert (found.judged, found.denied, found.refused_before, found.let_through) == (3, 1, 2, 1)


def test_tags_and_missing_allowances() -> None:
    rule = allow(when("key_tag", "prod", tag="env"))
    assert run(rule, over=[recorded()], tags=(("env", "prod"),)).denied == 0
    assert run(rule, over=[recorded()], tags=(("env", "dev"),)).by_rule == {"": 1}


def test_principals_are_bounded() -> None:
    found = run(deny(), over=[recorded(f"arn:aws:iam::1:user/{n}") for n in range(MAX_PRINCIPALS + 10)])
    assert found.denied == MAX_PRINCIPALS + 10
    assert found.principals[""] == 10


@settings(max_examples=100, deadline=None)
@given(rule_sets(), st.lists(requests, max_size=8))
def test_it_judges_as_the_reference_does(rules: RuleSetRecord, asked: list[Asked]) -> None:
    over = [
        RecordedRequest(
            one.at, "metadata" if one.is_metadata else "encrypt", str(n), one.principal, one.kms_operation,
            one.via_service or "", one.source_vpc or "", one.source_vpce or "",
        )
        for n, one in enumerate(asked)
    ]  # fmt: skip
    found = dry_run(RuleSet(rules), over, lambda key_id: asked[int(key_id)].tags)
    assert found.judged == len(asked)
    assert found.denied == sum(decide(rules, one) is not None for one in asked)
