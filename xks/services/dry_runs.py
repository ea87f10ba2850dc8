"""Dry runs of access rules over what the audit store has recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from cloudkeys.models import CloudKey
from vault.actors import Actor
from vault.errors import Unavailable, ValidationFailed
from xks.dry_run import DryRun, RecordedRequest, dry_run
from xks.models import AccessRuleSet
from xks.policy_rules import RuleSet, Tags, tags_of
from xks.rules_input import check_rules, records_of
from xks.services.access_rules import fetch_rule_set, find_version
from xks.wire import RuleSetRecord

Source = Callable[[AccessRuleSet, datetime, datetime], Iterator[RecordedRequest]]
"""Yields the requests of a rule set's store or key that came from one moment until before another."""

RECORDED: Source | None = None
"""Where recorded requests come from; None until there is an audit store."""


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

    Raises ValidationFailed unless just one of version and rules is given, and for a period without both ends; Unavailable when
    there is no audit store.
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
        requests = recorded_requests(rule_set, since, until)
    return dry_run(RuleSet(record), requests, _tags_of_keys(rule_set))


def recorded_requests(
    rule_set: AccessRuleSet, since: datetime | None, until: datetime | None
) -> Iterator[RecordedRequest]:
    """What the audit store holds of the rule set's store or key. Raises ValidationFailed, Unavailable."""
    if since is None or until is None or since >= until:
        raise ValidationFailed(
            "A dry run over recorded requests needs a period.",
            field="since",
            cure="Give since and a later until.",
        )
    if RECORDED is None:
        raise Unavailable(
            "There is no audit store of data-plane requests yet, so that nothing is recorded to judge by.",
            cure="Give the requests to judge, or put the rules in the shadow of live traffic.",
        )
    return RECORDED(rule_set, since, until)


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
