"""A candidate judged against what was asked before: who would have been refused?

Pure: requests come from wherever they are recorded, as :class:`RecordedRequest`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from xks.journal_format import is_shortened
from xks.policy_rules import ALLOWED, RuleSet, Tags

MAX_PRINCIPALS = 1000
"""Denied principals told apart; the others are counted together under ""."""
DENIED = "AccessDeniedException"


class RecordedRequest(msgspec.Struct, frozen=True):
    """One request as the journal keeps it, or ``count`` alike, as far as rules look at them.

    ``at`` is seconds since the epoch; ``operation`` is metadata, encrypt, decrypt or health; ``key_id`` is
    the CloudKey's id, "" where the request did not get that far; absent texts are "".
    """

    at: float
    operation: str
    key_id: str
    principal_arn: str
    kms_operation: str
    kms_via_service: str = ""
    source_vpc: str = ""
    source_vpce: str = ""
    outcome: str = "OK"
    count: int = 1


@dataclass
class DryRun:
    """What a candidate would have done.

    ``denied`` counts requests that were answered then and would have been refused; those that rules
    refused then already are apart: ``refused_before``, of which ``let_through`` would pass now.
    """

    judged: int = 0
    denied: int = 0
    refused_before: int = 0
    let_through: int = 0
    by_rule: dict[str, int] = field(default_factory=dict)
    """Denied requests by the rule's name; "" for no rule having allowed."""
    principals: dict[str, int] = field(default_factory=dict)
    """Denied requests by awsPrincipalArn, the most frequent first."""
    services: dict[str, int] = field(default_factory=dict)
    """Denied requests by kmsViaService; "" for none."""
    kms_operations: dict[str, int] = field(default_factory=dict)
    """Denied requests by kmsOperation; "" where only sums are known."""
    shortened: int = 0
    """Judged requests whose awsPrincipalArn is known by its beginning alone."""
    singly: int = 0
    """Of those judged, how many one by one, and not as a sum of many."""
    left_out: int = 0
    """Requests of the period that could not be judged."""
    notes: list[str] = field(default_factory=list)
    """How far the verdict reaches, in sentences."""
    first_at: float | None = None
    last_at: float | None = None

    @property
    def sentence(self) -> str:
        """The whole in one line."""
        if not self.judged:
            return "There is no recorded request to judge by: nothing can be said."
        told = f"would have denied {self.denied:,} of {self.judged:,}"
        many = len(self.principals)
        return f"{told}, from {many:,} principal{'s'[: many != 1]}" if self.denied else told


def dry_run(
    rules: RuleSet, requests: Iterable[RecordedRequest], tags_of_key: Callable[[str], Tags]
) -> DryRun:
    """Judge each request by ``rules``. ``tags_of_key`` gives a key's tags as they are now.

    Requests for health, and those that never came to be judged (no key), are left out.
    """
    found = DryRun()
    by_rule: Counter[str] = Counter()
    principals: Counter[str] = Counter()
    services: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    for request in requests:
        if request.operation == "health" or not request.key_id:
            continue
        verdict = rules.judge(
            request.principal_arn,
            request.kms_operation,
            request.source_vpc or None,
            request.source_vpce or None,
            request.kms_via_service or None,
            tags_of_key(request.key_id),
            request.at,
            is_metadata=request.operation == "metadata",
        )
        found.judged += request.count
        found.shortened += request.count if is_shortened(request.principal_arn) else 0
        found.first_at = request.at if found.first_at is None else min(found.first_at, request.at)
        found.last_at = request.at if found.last_at is None else max(found.last_at, request.at)
        if request.outcome == DENIED:
            found.refused_before += request.count
            found.let_through += request.count if verdict == ALLOWED else 0
        elif verdict != ALLOWED:
            found.denied += request.count
            by_rule[rules.name_of(verdict)] += request.count
            known = request.principal_arn in principals or len(principals) < MAX_PRINCIPALS
            principals[request.principal_arn if known else ""] += request.count
            services[request.kms_via_service] += request.count
            operations[request.kms_operation] += request.count
    found.by_rule = dict(by_rule.most_common())
    found.principals = dict(principals.most_common())
    found.services = dict(services.most_common())
    found.kms_operations = dict(operations.most_common())
    return found
