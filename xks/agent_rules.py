"""What the agent reads and writes of access rules and limits; runs in its reader and registrar threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Q, QuerySet

from xks.models import AccessRuleSet, AccessRuleVersion, ShadowTally, StoreLimits
from xks.policy_rules import UNREADABLE
from xks.rules_input import records_of
from xks.wire import RuleRecord, RuleSetRecord, ShadowCount

log = structlog.get_logger("keystead.agent")

MAX_PRINCIPALS = 200
"""Denied principals told apart in one row; the others are counted together under ""."""


@dataclass(frozen=True)
class RulesOf:
    """What one store or key has."""

    enforced: RuleSetRecord | None = None
    shadowed: RuleSetRecord | None = None


NO_RULES = RulesOf()


def rules_by_owner(rows: QuerySet[AccessRuleSet], owner: str) -> dict[UUID, RulesOf]:
    """Return rule sets that say anything, by ``store_id`` or ``cloud_key_id``. One query."""
    found = rows.filter(Q(enforced__isnull=False) | Q(shadowed__isnull=False))
    return {
        getattr(row, owner): RulesOf(_record(row, row.enforced), _record(row, row.shadowed))
        for row in found.select_related("enforced", "shadowed")
    }


def limits_by_store(rows: QuerySet[StoreLimits]) -> dict[UUID, tuple[float | None, float | None]]:
    """Return (store's, each credential's) requests a second by store id. One query."""
    return {
        store_id: (_rate(own), _rate(others))
        for store_id, own, others in rows.values_list(
            "store_id", "requests_per_s", "credential_requests_per_s"
        )
    }


def _rate(value: int | None) -> float | None:
    return None if value is None else float(value)


def _record(row: AccessRuleSet, version: AccessRuleVersion | None) -> RuleSetRecord | None:
    if version is None:
        return None
    try:
        rules = records_of(version.rules)
    except (KeyError, TypeError, AttributeError):
        # Altered behind our back. What these rules refused is not known, so all is refused.
        log.critical(
            "access rules cannot be read; they refuse everything", alarm=True, row_id=str(version.pk)
        )
        rules = (RuleRecord(UNREADABLE, "DENY"),)
    return RuleSetRecord(str(row.pk), version.number, rules)


@dataclass
class _Sum:
    judged: int = 0
    denied: dict[str, int] = field(default_factory=dict)
    principals: dict[str, int] = field(default_factory=dict)


class ShadowSums:
    """Counts of this node's workers, on their way into the database. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, int], _Sum] = {}

    def __bool__(self) -> bool:
        return bool(self._sums)

    def add(self, counts: Iterable[ShadowCount]) -> None:
        """Take over a worker's report."""
        for count in counts:
            whole = self._sums.setdefault((count.rule_set_id, count.version), _Sum())
            whole.judged += count.judged
            whole.denied = _added(whole.denied, count.denied)
            whole.principals = _added(whole.principals, count.principals, most=MAX_PRINCIPALS)

    def take(self) -> ShadowSums:
        """Return what is there, and begin anew."""
        taken = ShadowSums()
        taken._sums, self._sums = self._sums, {}
        return taken

    def put_back(self, taken: ShadowSums) -> None:
        """Count again what could not be written."""
        self.add(
            ShadowCount(rule_set_id, version, one.judged, one.denied, one.principals)
            for (rule_set_id, version), one in taken._sums.items()
        )

    def write(self, node: str) -> None:
        """Add to the node's rows, all or nothing. What is not in the shadow any more is dropped."""
        with transaction.atomic():
            for (rule_set_id, number), one in self._sums.items():
                version = AccessRuleVersion.objects.filter(
                    rule_set_id=UUID(rule_set_id), number=number, rule_set__shadowed__number=number
                ).first()
                if version is None:
                    continue
                tally, _ = ShadowTally.objects.select_for_update().get_or_create(
                    version=version, node=node, defaults={"vault_id": version.vault_id}
                )
                tally.judged += one.judged
                tally.denied = _added(tally.denied, one.denied)
                tally.principals = _added(tally.principals, one.principals, most=MAX_PRINCIPALS)
                tally.save(update_fields=["judged", "denied", "principals", "last_at"])


def _added(whole: Mapping[str, int], part: Mapping[str, int], *, most: int = 0) -> dict[str, int]:
    total = dict(whole)
    for name, count in part.items():
        known = name if name in total or not most or len(total) < most else ""
        total[known] = total.get(known, 0) + count
    return total
