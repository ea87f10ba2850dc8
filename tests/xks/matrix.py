"""What each of the cast gets from every endpoint of this room; run by tests/vault/api/test_matrix.py."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from cloudkeys.services.lifecycle import block_cloud_key
from tests.api_row import Row, in_payments
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key, owned_key_set
from tests.cloudkeys.world import store_of
from tests.xks.pki import Authority
from vault.actors import Actor
from vault.secret import Secret
from xks.models import AccessRuleSet, DoctorReport, EndpointCertificate
from xks.services.access_rules import create_rule_set
from xks.services.certificates import install_certificate, request_certificate

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


def _closed_key(cast: Cast) -> dict[str, Any]:
    key = owned_key(cast)
    block_cloud_key(cast.actor("owner"), key.pk, reason="Incident 7")
    return {"key_id": key.pk}


V = "api/v1/"
RULE_SET = V + "access-rules/<uuid:rule_set_id>"
LIMITS = V + "xks-key-stores/<uuid:store_id>/limits"
DOCTOR = V + "xks-key-stores/<uuid:store_id>/doctor"
CERTIFICATES = V + "certificates"
CERTIFICATE = CERTIFICATES + "/<uuid:certificate_id>"
HOST = "xks.keystead.test"
_AUTHORITY = Authority()


def _pending(cast: Cast) -> dict[str, Any]:
    return {"certificate_id": request_certificate(Actor.system("test")).pk}


def _replaced(cast: Cast) -> dict[str, Any]:
    first, _ = install_certificate(Actor.system("test"), **_issued())
    install_certificate(Actor.system("test"), **_issued())
    return {"certificate_id": first.pk}


def _issued() -> dict[str, Any]:
    issued = _AUTHORITY.issue(HOST)
    return {"chain": issued.chain, "private_key": Secret(issued.key_pem)}


def _pem(cast: Cast) -> dict[str, Any]:
    issued = _AUTHORITY.issue(HOST)
    return {"chain": issued.chain, "private_key": issued.key_pem}


def _signed(cast: Cast) -> dict[str, Any]:
    row = EndpointCertificate.objects.get(state="PENDING")
    return {"chain": _AUTHORITY.sign_request(row.request).chain}


XKS_ROWS = [
    Row("GET", V + "attention", 200, 200, 200, 404, 404, query=in_payments),
    Row("GET", V + "overview", 200, 200, 200, 404, 404, query=in_payments),
    Row("GET", CERTIFICATES, 403, 403, 403, 403, 200),
    Row("POST", CERTIFICATES, 403, 403, 403, 403, 200, body=_pem),
    Row("POST", CERTIFICATES + "/check", 403, 403, 403, 403, 200, body=_pem),
    Row("POST", CERTIFICATES + "/requests", 403, 403, 403, 403, 201, body=lambda cast: {}),
    Row("GET", CERTIFICATE, 403, 403, 403, 403, 200, at=_pending),
    Row("DELETE", CERTIFICATE, 403, 403, 403, 403, 200, at=_pending, if_match=True),
    Row("POST", CERTIFICATE + "/chain", 403, 403, 403, 403, 200, at=_pending, body=_signed, if_match=True),
    Row("POST", CERTIFICATE + "/activate", 403, 403, 403, 403, 200, at=_replaced, if_match=True),
    Row("GET", V + "xks-endpoint/tls", 403, 403, 403, 403, 200),
    Row(
        "PATCH", V + "xks-endpoint/tls", 403, 403, 403, 403, 200, if_match=True,
        body=lambda cast: {"client_roots": _AUTHORITY.pem},
    ),
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
    Row("GET", V + "xks-requests", 200, 200, 200, 404, 404, query=in_payments),
    Row("GET", V + "xks-traffic", 200, 200, 200, 404, 404, query=in_payments),
    Row("GET", V + "xks-key-stores/<uuid:store_id>/traffic", 200, 200, 200, 404, 404, at=_store),
    Row("GET", V + "nodes/journal", 200, 200, 200, 200, 200),
    Row("GET", V + "audit-integrity", 200, 200, 200, 200, 200),
    Row("GET", V + "cloud-keys/<uuid:key_id>/disable-proof", 200, 200, 200, 404, 404, at=_closed_key),
    Row("GET", V + "cloud-keys/<uuid:key_id>/usage", 200, 200, 200, 404, 404, at=_key),
    Row("GET", DOCTOR, 200, 200, 200, 404, 404, at=_examined),
    Row("POST", DOCTOR, 200, 200, 403, 404, 404, at=_store, body=lambda cast: {"samples": 1}),
    Row("GET", LIMITS, 200, 200, 200, 404, 404, at=_store),
    Row(
        "PATCH", LIMITS, 200, 200, 403, 404, 404, at=_store, if_match=True,
        body=lambda cast: {"requests_per_s": 100},
    ),
]  # fmt: skip
