"""What each of the cast gets from every endpoint of this room; run by tests/vault/api/test_matrix.py."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from tests.api_row import Row, in_payments
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key, owned_key_set
from tests.cloudkeys.world import store_of
from xks.models import AccessRuleSet, DoctorReport
from xks.services.access_rules import create_rule_set

RULES = [{"name": "no Ada", "effect": "DENY", "conditions": [
    {"field": "principal", "values": ["arn:aws:iam::111122223333:user/ada"]}]}]  # fmt: skip


def owned_rules(cast: Cast) -> AccessRuleSet:
    """Access rules of the store of the Cloud Admin Group."""
    store = store_of(owned_key_set(cast))
    return create_rule_set(cast.actor("owner"), store_id=store.pk, rules=RULES)


def _rules(cast: Cast) -> dict[str, Any]:
    return {"rule_set_id": owned_rules(cast).pk}


def _store(cast: Cast) -> dict[str, Any]:
    return {"store_id": store_of(owned_key_set(cast)).pk}


def _examined(cast: Cast) -> dict[str, Any]:
    store = store_of(owned_key_set(cast))
    DoctorReport.objects.create(
        vault=store.vault, store=store, endpoint="https://xks.bank.test", region="eu-west-1", severity="ok",
        examined_at=timezone.now(),
    )  # fmt: skip
    return {"store_id": store.pk}


def _key(cast: Cast) -> dict[str, Any]:
    return {"key_id": owned_key(cast).pk}


V = "api/v1/"
RULE_SET = V + "access-rules/<uuid:rule_set_id>"
LIMITS = V + "xks-key-stores/<uuid:store_id>/limits"
DOCTOR = V + "xks-key-stores/<uuid:store_id>/doctor"
XKS_ROWS = [
    # method, route, owner, colleague, auditor, outsider, appliance, anonymous
    Row("GET", V + "access-rules", 200, 200, 200, 404, 404, query=in_payments),
    Row(
        "POST", V + "access-rules", 201, 201, 403, 404, 404,
        body=lambda cast: {"store": str(store_of(owned_key_set(cast)).pk), "rules": RULES},
    ),
    Row("POST", V + "access-rules/check", 200, 200, 200, 200, 200, body=lambda cast: {"rules": RULES}),
    Row("GET", RULE_SET, 200, 200, 200, 404, 404, at=_rules),
    Row("GET", RULE_SET + "/versions", 200, 200, 200, 404, 404, at=_rules),
    Row("POST", RULE_SET + "/versions", 201, 201, 403, 404, 404, at=_rules, body=lambda cast: {"rules": RULES}),
    Row("POST", RULE_SET + "/enforce", 200, 200, 403, 404, 404, at=_rules, body=lambda cast: {"version": 1}),
    Row("POST", RULE_SET + "/shadow", 200, 200, 403, 404, 404, at=_rules, body=lambda cast: {"version": 1}),
    Row(
        "POST", RULE_SET + "/dry-run", 200, 200, 200, 404, 404, at=_rules,
        body=lambda cast: {"version": 1, "requests": [{"principal_arn": "AWS Internal"}]},
    ),
    Row("GET", V + "cloud-keys/<uuid:key_id>/usage", 200, 200, 200, 404, 404, at=_key),
    Row("GET", DOCTOR, 200, 200, 200, 404, 404, at=_examined),
    Row("POST", DOCTOR, 200, 200, 403, 404, 404, at=_store, body=lambda cast: {"samples": 1}),
    Row("GET", LIMITS, 200, 200, 200, 404, 404, at=_store),
    Row(
        "PATCH", LIMITS, 200, 200, 403, 404, 404, at=_store, if_match=True,
        body=lambda cast: {"requests_per_s": 100},
    ),
]  # fmt: skip
