"""Access rules of stores and keys: write versions, put one in the shadow, enforce one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError
from django.utils import timezone

from cloudkeys.models import CloudKey, XksKeyStore
from cloudkeys.services.rows import is_constraint, require_live_vault, save_revision
from vault.actions import Action
from vault.actors import Actor
from vault.changes import Change, change
from vault.errors import Conflict, NotFound, ValidationFailed, check_revision
from vault.models import GenerationChange
from vault.permissions import Permission
from xks.models import AccessRuleSet, AccessRuleVersion
from xks.policy_lint import Finding, lint, locks_everybody_out
from xks.rules_input import JsonRules, check_rules, records_of

MAX_REASON = 1000


def lint_rules(rules: JsonRules) -> list[Finding]:
    """What is probably not meant in checked rules."""
    return lint(records_of(rules), now=time.time())


def create_rule_set(
    actor: Actor,
    *,
    store_id: UUID | None = None,
    cloud_key_id: UUID | None = None,
    rules: Any,
    reason: str = "",
) -> AccessRuleSet:
    """Write the first version of a store's or a key's access rules. Nothing is enforced by it.

    Raises ValidationFailed for the rules, or unless just one of the two ids is given; Conflict when there are rules already.
    """
    if (store_id is None) == (cloud_key_id is None):
        raise ValidationFailed(
            "Access rules belong to a store or to a key.",
            field="store",
            cure="Give either store or cloud_key.",
        )
    checked = check_rules(rules)
    with change(actor) as tx:
        key: CloudKey | None = None
        if cloud_key_id is not None:
            key = actor.fetch(CloudKey, cloud_key_id, Permission.ACCESS_RULES_MANAGE, lock=True)
            _require_user_key(key)
            store: XksKeyStore = key.store
        else:
            store = actor.fetch(XksKeyStore, store_id, Permission.ACCESS_RULES_MANAGE, lock=True)  # type: ignore[arg-type]
        require_live_vault(store.vault)
        owner = {"store": store, "cloud_key": key}
        if AccessRuleSet.objects.filter(**owner).exists():
            raise _exists()
        try:
            rule_set = AccessRuleSet.objects.create(vault=store.vault, **owner)
        except IntegrityError as error:
            if is_constraint(error, "one_access_rule_set_per_store", "store_id") or "cloud_key" in str(error):
                raise _exists() from None
            raise
        version = _add(actor, rule_set, 1, checked, reason)
        tx.audit(
            Action.ACCESS_RULES_CREATE,
            rule_set,
            after=_told(version),
            reason=reason,
            target_name=name_of(rule_set),
        )
    return rule_set


def add_version(
    actor: Actor, rule_set_id: UUID, *, rules: Any, reason: str = "", expected_revision: int | None = None
) -> AccessRuleVersion:
    """Write a further version: a candidate, until it is enforced. Raises ValidationFailed, StaleRevision."""
    checked = check_rules(rules)
    with change(actor) as tx:
        rule_set = _locked(actor, rule_set_id)
        check_revision(rule_set, expected_revision)
        last = rule_set.versions.order_by("-number").first()
        version = _add(actor, rule_set, last.number + 1 if last is not None else 1, checked, reason)
        save_revision(rule_set)
        tx.audit(
            Action.ACCESS_RULES_ADD_VERSION,
            version,
            before=_told(last) if last is not None else None,
            after=_told(version),
            detail={"access_rules": str(rule_set.pk)},
            reason=reason,
            target_name=name_of(rule_set),
        )
    return version


def enforce_version(
    actor: Actor,
    rule_set_id: UUID,
    *,
    version: int | None,
    reason: str = "",
    even_if_it_locks_out: bool = False,
    expected_revision: int | None = None,
) -> tuple[AccessRuleSet, int]:
    """Judge every use by this version from now on, or (None) trust AWS IAM again; returns the generation to wait for.

    Raises NotFound for a version that is not there, Conflict for rules that would refuse everybody unless
    ``even_if_it_locks_out``, StaleRevision.
    """
    with change(actor) as tx:
        rule_set = _locked(actor, rule_set_id)
        check_revision(rule_set, expected_revision)
        wanted = _version(rule_set, version)
        if wanted is not None and not even_if_it_locks_out and locks_everybody_out(lint_rules(wanted.rules)):
            raise Conflict(
                "These rules would refuse everybody, AWS's own services included.",
                cure="Correct them, or repeat with even_if_it_locks_out. Blocking the key or store does the same and"
                " is undone more easily.",
            )
        before = _number(rule_set.enforced)
        rule_set.enforced = wanted
        if wanted is not None and rule_set.shadowed_id == wanted.pk:
            # What is enforced is counted by the journal; the shadow has nothing to add.
            rule_set.shadowed = None
        save_revision(rule_set, "enforced", "shadowed")
        tx.audit(
            Action.ACCESS_RULES_ENFORCE,
            rule_set,
            before={"enforced": before},
            after={"enforced": _number(rule_set.enforced)},
            reason=reason,
            target_name=name_of(rule_set),
        )
        _touch(tx, rule_set)
    return rule_set, tx.generation or 0


def shadow_version(
    actor: Actor,
    rule_set_id: UUID,
    *,
    version: int | None,
    reason: str = "",
    expected_revision: int | None = None,
) -> tuple[AccessRuleSet, int]:
    """Have this version count what it would deny, and deny nothing; None ends that. Counting begins at nought.

    Raises NotFound for a version that is not there, StaleRevision.
    """
    with change(actor) as tx:
        rule_set = _locked(actor, rule_set_id)
        check_revision(rule_set, expected_revision)
        wanted = _version(rule_set, version)
        before = _number(rule_set.shadowed)
        rule_set.shadowed = wanted
        rule_set.shadowed_at = timezone.now() if wanted is not None else None
        if wanted is not None:
            wanted.tallies.all().delete()
        save_revision(rule_set, "shadowed", "shadowed_at")
        tx.audit(
            Action.ACCESS_RULES_SHADOW,
            rule_set,
            before={"shadowed": before},
            after={"shadowed": _number(wanted)},
            reason=reason,
            target_name=name_of(rule_set),
        )
        _touch(tx, rule_set)
    return rule_set, tx.generation or 0


def fetch_rule_set(actor: Actor, rule_set_id: UUID) -> AccessRuleSet:
    """A visible rule set. Raises NotFound."""
    found: AccessRuleSet = actor.fetch(AccessRuleSet, rule_set_id, Permission.ACCESS_RULES_VIEW)
    return found


def find_version(rule_set: AccessRuleSet, number: int) -> AccessRuleVersion:
    """One version of a rule set that the caller has fetched. Raises NotFound."""
    found = rule_set.versions.filter(number=number).first()
    if found is None:
        raise NotFound(f"These access rules have no version {number}.", cure="List their versions.")
    return found


@dataclass(frozen=True)
class ShadowSummary:
    """What a version in the shadow would have done, on all nodes together."""

    judged: int
    denied: int
    by_rule: dict[str, int]
    """By the rule's name; "" for no rule having allowed."""
    principals: dict[str, int]
    """Denied requests by awsPrincipalArn, the most frequent first; "" for those not told apart."""
    since: datetime | None
    last_at: datetime | None


def sum_shadow(version: AccessRuleVersion) -> ShadowSummary:
    """Add up what the nodes' workers have counted."""
    tallies = list(version.tallies.all())
    by_rule, principals = _sum(tally.denied for tally in tallies), _sum(tally.principals for tally in tallies)
    return ShadowSummary(
        judged=sum(tally.judged for tally in tallies),
        denied=by_rule.total(),
        by_rule=dict(by_rule.most_common()),
        principals=dict(principals.most_common()),
        since=min((tally.began_at for tally in tallies), default=None),
        last_at=max((tally.last_at for tally in tallies), default=None),
    )


def name_of(rule_set: AccessRuleSet) -> str:
    """What the audit record calls them: the key's or the key set's name."""
    if rule_set.cloud_key is not None:
        return rule_set.cloud_key.name
    return rule_set.store.key_set.name


def _sum(parts: Iterable[dict[str, int]]) -> Counter[str]:
    whole: Counter[str] = Counter()
    for part in parts:
        whole.update(part)
    return whole


def _locked(actor: Actor, rule_set_id: UUID) -> AccessRuleSet:
    rule_set: AccessRuleSet = actor.fetch(
        AccessRuleSet, rule_set_id, Permission.ACCESS_RULES_MANAGE, lock=True
    )
    require_live_vault(rule_set.vault)
    return rule_set


def _version(rule_set: AccessRuleSet, number: int | None) -> AccessRuleVersion | None:
    return None if number is None else find_version(rule_set, number)


def _number(version: AccessRuleVersion | None) -> int | None:
    return version.number if version is not None else None


def _add(
    actor: Actor, rule_set: AccessRuleSet, number: int, rules: JsonRules, reason: str
) -> AccessRuleVersion:
    return AccessRuleVersion.objects.create(
        vault=rule_set.vault,
        rule_set=rule_set,
        number=number,
        rules=rules,
        reason=reason[:MAX_REASON],
        author_type=actor.kind,
        author_id=actor.id,
        author_name=actor.display_name[:254],
    )


def _told(version: AccessRuleVersion) -> dict[str, Any]:
    return {"version": version.number, "rules": version.rules}


def _touch(tx: Change, rule_set: AccessRuleSet) -> None:
    if rule_set.cloud_key_id is not None:
        tx.touch(GenerationChange.Kind.KEY, rule_set.cloud_key_id)
    else:
        tx.touch(GenerationChange.Kind.STORE, rule_set.store_id)


def _require_user_key(key: CloudKey) -> None:
    if key.kind != CloudKey.Kind.USER:
        raise Conflict(
            "A health-check key has no access rules: AWS's health checks are exempt from them.",
            cure="Give rules to the store or to another key.",
        )
    if key.state == CloudKey.State.DESTROYED:
        raise Conflict("This key is destroyed.")


def _exists() -> Conflict:
    return Conflict(
        "There are access rules for this already.",
        cure="Add a version to them; GET /api/v1/access-rules finds them.",
    )


def differences(before: JsonRules, after: JsonRules) -> Iterator[str]:
    """Yield the names of rules that were added (+), removed (-) or changed (~)."""
    old, new = ({rule["name"]: rule for rule in rules} for rules in (before, after))
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            yield f"- {name}"
        elif name not in old:
            yield f"+ {name}"
        elif old[name] != new[name]:
            yield f"~ {name}"
