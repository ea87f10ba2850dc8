"""Dry runs of access rules over what the journal's hourly sums have kept, or over requests that are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from cloudkeys.models import CloudKey
from vault.actors import Actor
from vault.errors import ValidationFailed
from xks.dry_run import DryRun, RecordedRequest, dry_run
from xks.models.rules import AccessRuleSet
from xks.models.usage import UsageHour
from xks.policy_rules import RuleSet, Tags, tags_of
from xks.rules_input import check_rules, records_of
from xks.services.access_rules import fetch_rule_set, find_version
from xks.wire import RuleSetRecord

ROWS_AT_ONCE = 2000
NOT_RECORDED = frozenset(("kms_operation", "source_vpc", "source_vpce"))
"""Fields that the hourly sums do not keep; the journal does."""


def dry_run_rules(
    actor: Actor,
    rule_set_id: UUID,
    *,
    version: int | None = None,
    rules: Any = None,
    requests: Iterable[RecordedRequest] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> DryRun:
    """Judge a version, or rules not yet written, by the requests given, or by those recorded from since until until.

    Raises ValidationFailed unless just one of version and rules is given, and what recorded_requests raises.
    """
    rule_set = fetch_rule_set(actor, rule_set_id)
    if (version is None) == (rules is None):
        raise ValidationFailed("Say what to try.", field="version", cure="Give either version or rules.")
    if version is not None:
        found = find_version(rule_set, version)
        record = RuleSetRecord(str(rule_set.pk), found.number, records_of(found.rules))
    else:
        record = RuleSetRecord(str(rule_set.pk), 0, records_of(check_rules(rules)))
    if requests is None:
        requests = recorded_requests(rule_set, record, since, until)
    return dry_run(RuleSet(record), requests, _tags_of_keys(rule_set))


def recorded_requests(
    rule_set: AccessRuleSet, rules: RuleSetRecord, since: datetime | None, until: datetime | None
) -> Iterator[RecordedRequest]:
    """What is known of the rule set's store or key in these hours, alike requests together.

    Conditions on time are judged by the beginning of each hour.

    Raises ValidationFailed for a period without both ends, and for rules that look at what is not kept.
    """
    if since is None or until is None or since >= until:
        raise ValidationFailed(
            "A dry run over recorded requests needs a period.",
            field="since",
            cure="Give since and a later until.",
        )
    lacking = NOT_RECORDED & {item.field for rule in rules.rules for item in rule.conditions}
    if lacking:
        raise ValidationFailed(
            f"These rules look at {', '.join(sorted(lacking))}, which the hourly sums of the journal do not keep.",
            field="rules" if rules.version == 0 else "version",
            cure="Put the version in the shadow of live traffic, or give the requests to judge.",
        )
    rows = UsageHour.objects.filter(hour__gte=since, hour__lt=until, store_id=str(rule_set.store_id))
    if rule_set.cloud_key_id is not None:
        rows = rows.filter(key_id=str(rule_set.cloud_key_id))
    return _alike(rows)


def _alike(rows: QuerySet[UsageHour]) -> Iterator[RecordedRequest]:
    for row in rows.iterator(ROWS_AT_ONCE):
        yield RecordedRequest(
            at=row.hour.timestamp(),
            operation=row.operation,
            key_id=row.key_id,
            principal_arn=row.principal_arn,
            kms_operation="",
            kms_via_service=row.kms_via_service,
            outcome=row.outcome,
            count=row.count,
        )


def _tags_of_keys(rule_set: AccessRuleSet) -> Callable[[str], Tags]:
    @cache
    def find(key_id: str) -> Tags:
        try:
            wanted = UUID(key_id)
        except ValueError:
            return ()
        # Within the store only: a request's key id is no way to ask for tags of others.
        tags = (
            CloudKey.objects.filter(store_id=rule_set.store_id, pk=wanted)
            .values_list("tags", flat=True)
            .first()
        )
        return tags_of(tags) if isinstance(tags, dict) else ()

    return find
