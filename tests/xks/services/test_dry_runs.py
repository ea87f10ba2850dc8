"""Dry runs over single requests as the journal recorded them, beside the reference evaluator."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudkeys.models import CloudKey
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key
from tests.xks.reference_rules import Asked, decide
from tests.xks.services.test_requests import store
from tests.xks.test_policy_rules import requests, rule_sets
from vault.actors import Actor
from xks.dry_run import DryRun
from xks.journal_format import shorten
from xks.models import AccessRuleSet, JournalChain, RequestStore, UsageHour, XksRequest
from xks.services import dry_runs
from xks.services.access_rules import create_rule_set
from xks.wire import RuleSetRecord

pytestmark = pytest.mark.django_db
ADA = "arn:aws:iam::111122223333:user/ada"
S3 = "s3.eu-west-1.amazonaws.com"
DAY = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def key(cast: Cast) -> CloudKey:
    return owned_key(cast)


@pytest.fixture
def chain(cast: Cast) -> JournalChain:
    return JournalChain.objects.create(node_name="node-7", process="p", sealed_mac="")


@pytest.fixture
def actor(cast: Cast) -> Actor:
    return cast.actor("owner")


@pytest.fixture
def rules(actor: Actor, key: CloudKey) -> AccessRuleSet:
    return create_rule_set(actor, store_id=key.store_id, rules=rule("principal", ADA))


def rule(field: str, *values: str, effect: str = "DENY", **more: Any) -> list[dict[str, Any]]:
    condition = {"field": field, "values": list(values), **more}
    return [{"name": "it", "effect": effect, "conditions": [condition]}]


def at(hours: float) -> float:
    return (DAY + timedelta(hours=hours)).timestamp()


def tried(
    actor: Actor, rules: AccessRuleSet, wanted: Any, since: datetime | None = DAY, days: int = 3
) -> DryRun:
    until = DAY + timedelta(days=days)
    return dry_runs.dry_run_rules(actor, rules.pk, rules=wanted, since=since, until=until)


def test_single_requests_are_judged_by_all_that_rules_look_at(
    actor: Actor, rules: AccessRuleSet, key: CloudKey, chain: JournalChain
) -> None:
    CloudKey.objects.filter(pk=key.pk).update(tags={"env": "prod"})
    plain = {"kms_via_service": "", "source_vpc": "", "source_vpce": "", "principal_arn": ADA}
    store(
        chain, key,
        {**plain, "at": at(1), "kms_operation": "Decrypt"},
        {**plain, "at": at(1), "kms_operation": "Encrypt", "kms_via_service": S3},
        {**plain, "at": at(2), "kms_operation": "ReEncrypt", "source_vpc": "vpc-1", "source_vpce": "vpce-1"},
        {**plain, "at": at(20.5), "kms_operation": "Encrypt", "outcome": "AccessDeniedException"},
        {**plain, "at": at(3), "operation": "metadata", "kms_operation": "DescribeKey"},
        {**plain, "at": at(3), "operation": "health", "key_id": ""},
        {**plain, "at": at(3), "key_id": "", "outcome": "ValidationException"},
        {**plain, "at": at(3), "store_id": str(uuid.uuid4())},
        {**plain, "at": at(-1)},
        {**plain, "at": at(73)},
    )  # fmt: skip
    by_operation = tried(actor, rules, rule("kms_operation", "Encrypt", "ReEncrypt"))
    assert (by_operation.judged, by_operation.singly, by_operation.denied) == (5, 5, 2)
    assert by_operation.sentence == "would have denied 2 of 5, from 1 principal"
    assert by_operation.kms_operations == {"Encrypt": 1, "ReEncrypt": 1}
    assert by_operation.services == {S3: 1, "": 1}
    assert by_operation.principals == {ADA: 2}
    assert (by_operation.refused_before, by_operation.let_through, by_operation.notes) == (1, 0, [])
    for wanted, denied, through in (
        (rule("source_vpc", "vpc-1"), 1, 1),
        (rule("source_vpce", "vpce-*"), 1, 1),
        (rule("kms_via_service", "s3.*"), 1, 1),
        (rule("key_tag", "prod", tag="env"), 3, 0),
        (rule("key_tag", "dev", tag="env"), 0, 1),
        (rule("time", "daily 01:30-02:30 UTC"), 1, 1),
        (rule("principal", ADA), 4, 0),
    ):
        found = tried(actor, rules, wanted)
        assert (found.denied, found.let_through, found.singly) == (denied, through, 5), wanted


def test_the_rules_of_a_key_are_tried_on_its_requests(
    actor: Actor, key: CloudKey, chain: JournalChain
) -> None:
    own = create_rule_set(actor, cloud_key_id=key.pk, rules=rule("principal", ADA))
    store(chain, key, {"at": at(1)}, {"at": at(1), "key_id": str(uuid.uuid4())})
    assert tried(actor, own, rule("kms_operation", "*")).judged == 1


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rule_sets(), st.lists(requests, max_size=8))
def test_recorded_requests_are_judged_as_the_reference_judges(
    actor: Actor, rules: AccessRuleSet, key: CloudKey, chain: JournalChain, wanted: RuleSetRecord, asked: list[Asked]
) -> None:  # fmt: skip
    XksRequest.objects.all().delete()
    UsageHour.objects.all().delete()
    tags = dict(asked[0].tags) if asked else {}
    CloudKey.objects.filter(pk=key.pk).update(tags=tags)
    records = []
    for one in asked:
        one.tags = tuple(sorted(tags.items()))
        one.at = round(one.at, 3)
        records.append(
            {
                "at": one.at, "operation": "metadata" if one.is_metadata else "decrypt",
                "principal_arn": one.principal, "kms_operation": one.kms_operation,
                "kms_via_service": one.via_service or "", "source_vpc": one.source_vpc or "",
                "source_vpce": one.source_vpce or "",
            }
        )  # fmt: skip
    store(chain, key, *records)
    recorded = dry_runs.Recorded(rules, wanted, None, None)
    found = dry_runs.dry_run(dry_runs.RuleSet(wanted), recorded.requests(), dry_runs._tags_of_keys(rules))
    assert found.judged == len(asked)
    assert found.denied == sum(decide(wanted, one) is not None for one in asked)


def test_beyond_the_bound_sums_speak_and_nothing_counts_twice(
    actor: Actor, rules: AccessRuleSet, key: CloudKey, chain: JournalChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_runs, "MOST_JUDGED", 4)
    store(chain, key, *({"at": at(hours), "principal_arn": ADA} for hours in (1, 1.1, 2, 2.1, 2.2, 2.3, 3)))
    whole = tried(actor, rules, rule("principal", ADA))
    assert (whole.judged, whole.denied, whole.singly, whole.left_out) == (7, 7, 4, 0)
    assert "newest 4 requests, back to 2026-11-20 02:06:00 UTC" in whole.notes[0]
    assert whole.notes[1].startswith("3 older requests were judged by the journal's hourly sums")
    part = tried(actor, rules, rule("source_vpc", "vpc-none"))
    assert (part.judged, part.denied, part.left_out) == (4, 0, 3)
    assert "do not keep source_vpc" in part.notes[1]
    newest = tried(actor, rules, rule("principal", ADA), since=None)
    assert (newest.judged, newest.singly, newest.left_out) == (4, 4, 0)
    assert "There are more" in newest.notes[0]


def test_sums_speak_where_records_are_gone(
    actor: Actor, rules: AccessRuleSet, key: CloudKey, chain: JournalChain
) -> None:
    store(chain, key, *({"at": at(hours), "principal_arn": ADA} for hours in (1, 2, 30, 31)))
    RequestStore.objects.update_or_create(pk=1, defaults={"kept_from": DAY + timedelta(days=1)})
    XksRequest.objects.filter(at__lt=DAY + timedelta(days=1)).delete()
    found = tried(actor, rules, rule("principal", ADA))
    assert (found.judged, found.denied, found.singly) == (4, 4, 2)
    assert found.kms_operations == {"GenerateDataKey": 2, "": 2}
    assert any("kept from 2026-11-21 00:00 UTC" in note for note in found.notes)
    timed = tried(actor, rules, rule("time", "daily 00:00-12:00 UTC"))
    assert any("by the beginning of each hour" in note for note in timed.notes)


def test_principals_known_in_part_are_told(
    actor: Actor, rules: AccessRuleSet, key: CloudKey, chain: JournalChain
) -> None:
    long = f"arn:aws:sts::111122223333:assumed-role/app/{'x' * 400}"
    store(chain, key, {"at": at(1), "principal_arn": shorten(long)}, {"at": at(1)})
    found = tried(actor, rules, rule("role", "arn:aws:iam::111122223333:role/app"))
    assert (found.judged, found.denied, found.shortened) == (2, 1, 1)
    (note,) = found.notes
    assert "first characters alone: 1." in note
    assert tried(actor, rules, rule("kms_operation", "x")).notes == []


def test_a_new_house_can_say_nothing(actor: Actor, rules: AccessRuleSet) -> None:
    found = dry_runs.dry_run_rules(actor, rules.pk, version=1, since=timezone.now() - timedelta(days=7))
    assert "nothing can be said" in found.sentence
