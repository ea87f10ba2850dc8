"""Dry runs of access rules over single requests as the journal recorded them, or over requests that are given.

The newest records are judged one by one. What is older than the records that are kept, or beyond MOST_JUDGED, is
judged by the hourly sums where the rules look at nothing that those leave out; the result says how far it reaches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from uuid import UUID

from django.db.models import QuerySet

from cloudkeys.models import CloudKey
from vault.actors import Actor
from vault.errors import ValidationFailed
from xks.dry_run import DryRun, RecordedRequest, dry_run
from xks.models.requests import XksRequest
from xks.models.rules import AccessRuleSet
from xks.models.usage import UsageHour
from xks.policy_rules import PRINCIPAL_FIELDS, RuleSet, Tags, tags_of
from xks.request_partitions import kept_from
from xks.rules_input import check_rules, records_of
from xks.services.access_rules import fetch_rule_set, find_version
from xks.wire import RuleSetRecord

MOST_JUDGED: Final = 100_000
"""Single records that one dry run reads."""
ROWS_AT_ONCE = 2000
NOT_IN_SUMS = frozenset(("kms_operation", "source_vpc", "source_vpce"))
"""Fields that the hourly sums do not keep; single records do."""
_COLUMNS: Final = (
    "at", "operation", "key_id", "principal_arn", "kms_operation", "kms_via_service", "source_vpc", "source_vpce",
    "outcome",
)  # fmt: skip
Alike = tuple[datetime, str, str, str, str, str]
"""Hour, key, operation, principal, service, outcome: what one hourly sum is about."""


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

    Without since, the newest MOST_JUDGED single records (before until) are judged and nothing else.

    Raises ValidationFailed unless just one of version and rules is given, and for a period that ends before it begins.
    """
    rule_set = fetch_rule_set(actor, rule_set_id)
    if (version is None) == (rules is None):
        raise ValidationFailed("Say what to try.", field="version", cure="Give either version or rules.")
    if version is not None:
        found = find_version(rule_set, version)
        record = RuleSetRecord(str(rule_set.pk), found.number, records_of(found.rules))
    else:
        record = RuleSetRecord(str(rule_set.pk), 0, records_of(check_rules(rules)))
    if since is not None and until is not None and since >= until:
        raise ValidationFailed(
            "This period ends before it begins.", field="since", cure="Give since and a later until."
        )
    tags = _tags_of_keys(rule_set)
    if requests is not None:
        result = dry_run(RuleSet(record), requests, tags)
        result.singly = result.judged
        return result
    recorded = Recorded(rule_set, record, since, until)
    result = dry_run(RuleSet(record), recorded.requests(), tags)
    recorded.tell(result)
    return result


class Recorded:
    """What is known of the requests to a rule set's store or key in a period, and how it is known."""

    def __init__(
        self, rule_set: AccessRuleSet, rules: RuleSetRecord, since: datetime | None, until: datetime | None
    ) -> None:
        self._store, self._key = rule_set.store_id, rule_set.cloud_key_id
        self._since, self._until = since, until
        fields = {item.field for rule in rules.rules for item in rule.conditions}
        self._lacking = sorted(NOT_IN_SUMS & fields)
        self._by_time = "time" in fields
        self._by_principal = bool(fields & set(PRINCIPAL_FIELDS))
        self._singly = 0
        self._summed = 0
        self._left_out = 0
        self._more = False
        self._oldest: datetime | None = None
        self._kept_from = kept_from()

    def requests(self) -> Iterator[RecordedRequest]:
        """Single records from the newest on, then what only the sums know of."""
        judged: Counter[Alike] = Counter()
        for row in self._single().values_list(*_COLUMNS)[: MOST_JUDGED + 1].iterator(ROWS_AT_ONCE):
            if self._singly == MOST_JUDGED:
                self._more = True
                break
            at, operation, key_id, principal, kms_operation, service, vpc, vpce, outcome = row
            self._singly += 1
            self._oldest = at
            key = str(key_id)
            judged[_hour(at), key, operation, principal, service, outcome] += 1
            yield RecordedRequest(
                at.timestamp(), operation, key, principal, kms_operation, service, vpc, vpce, outcome
            )
        if self._since is None:
            return
        if self._more and self._oldest is not None:
            end = self._oldest
        elif self._since < self._kept_from:
            end = min(self._kept_from, self._until) if self._until is not None else self._kept_from
        else:
            return
        for row in self._sums(self._since, end).iterator(ROWS_AT_ONCE):
            same = (row.hour, row.key_id, row.operation, row.principal_arn, row.kms_via_service, row.outcome)
            count = row.count - judged.get(same, 0)
            if count <= 0:
                continue
            if self._lacking:
                self._left_out += count
                continue
            self._summed += count
            yield RecordedRequest(
                at=row.hour.timestamp(), operation=row.operation, key_id=row.key_id, principal_arn=row.principal_arn,
                kms_operation="", kms_via_service=row.kms_via_service, outcome=row.outcome, count=count,
            )  # fmt: skip

    def _single(self) -> QuerySet[XksRequest]:
        rows = XksRequest.objects.exclude(operation="health").filter(at__gte=self._kept_from)
        if self._since is not None:
            rows = rows.filter(at__gte=self._since)
        if self._until is not None:
            rows = rows.filter(at__lt=self._until)
        if self._key is not None:
            rows = rows.filter(store_id=self._store, key_id=self._key)
        else:
            rows = rows.filter(store_id=self._store, key_id__isnull=False)
        return rows.order_by("-at", "-id")

    def _sums(self, since: datetime, end: datetime) -> QuerySet[UsageHour]:
        rows = UsageHour.objects.filter(hour__gte=since, hour__lt=end, store_id=str(self._store))
        rows = rows.exclude(operation="health").exclude(key_id="")
        return rows.filter(key_id=str(self._key)) if self._key is not None else rows

    def tell(self, result: DryRun) -> None:
        """Say in the result how far it reaches."""
        result.singly, result.left_out = self._singly, self._left_out
        notes = result.notes
        if self._more and self._oldest is not None:
            notes.append(
                f"Judged one by one: the newest {self._singly:,} requests, back to {self._oldest:%Y-%m-%d %H:%M:%S} UTC."
                " There are more; take a shorter period to judge others one by one."
            )
        if self._summed:
            clock = " Conditions on time were judged by the beginning of each hour." if self._by_time else ""
            notes.append(
                f"{self._summed:,} older requests were judged by the journal's hourly sums,"
                f" which do not tell kmsOperation.{clock}"
            )
        if self._left_out:
            notes.append(
                f"{self._left_out:,} older requests were left out: only the journal's hourly sums"
                f" tell of them, and these do not keep {', '.join(self._lacking)}, which the rules look at."
            )
        if self._since is not None and self._since < self._kept_from:
            notes.append(
                f"Single requests are kept from {self._kept_from:%Y-%m-%d %H:%M} UTC on (KEYSTEAD_XKS_REQUEST_DAYS)."
            )
        if result.shortened and self._by_principal:
            notes.append(
                "Requests whose principal is over 200 bytes and recorded by its first characters alone:"
                f" {result.shortened:,}. A condition on its end may judge them otherwise than live traffic."
            )


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


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
