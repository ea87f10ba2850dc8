"""Bodies that are good, and a look at whether anything changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cloudkeys.models import (
    AwsStoreLink,
    CloudKey,
    CspAccount,
    KeySet,
    KeyVersion,
    Operation,
    XksCredential,
    XksKeyStore,
)
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_account, owned_key_set, plain_key_set
from tests.cloudkeys.world import ACCESS_KEY_ID, SECRET, store_of
from vault.models import AuditEvent, Generation


def rows() -> dict[str, Any]:
    """How many rows there are of everything that a request could change, and their revisions."""
    models = (
        CspAccount,
        KeySet,
        XksKeyStore,
        XksCredential,
        AwsStoreLink,
        CloudKey,
        KeyVersion,
        Operation,
        AuditEvent,
    )
    found: dict[str, Any] = {model.__name__: model._default_manager.count() for model in models}
    found["revisions"] = sorted(
        row
        for model in (CspAccount, KeySet, XksKeyStore, AwsStoreLink, CloudKey)
        for row in model._default_manager.values_list("pk", "revision")
    )
    found["generation"] = list(Generation.objects.values_list("value", flat=True))
    return found


@dataclass(frozen=True)
class Creation:
    """A POST that creates: where, with what, and which fields of the answer are secrets."""

    path: Callable[[Cast], str]
    body: Callable[[Cast], dict[str, Any]]
    status: int = 201
    secrets: tuple[str, ...] = ()


def _key_set_body(cast: Cast) -> dict[str, Any]:
    return {"name": "pay-hyok", "csp_account": str(owned_account(cast).pk), "use_as_external_key_store": True}


CREATIONS: dict[str, Creation] = {
    "csp-accounts": Creation(
        lambda cast: "/api/v1/csp-accounts",
        lambda cast: {
            "name": "aws-prod",
            "access_key_id": ACCESS_KEY_ID,
            "secret_access_key": SECRET,
            "default_region": "eu-west-1",
        },
    ),
    "key-sets": Creation(lambda cast: "/api/v1/key-sets", _key_set_body, secrets=("credential",)),
    "key-sets linked": Creation(
        lambda cast: "/api/v1/key-sets",
        lambda cast: {**_key_set_body(cast), "links": [{"region": "eu-west-1"}]},
        status=202,
        secrets=("credential",),
    ),
    "external key store": Creation(
        lambda cast: f"/api/v1/key-sets/{plain_key_set(cast).pk}/use-as-external-key-store",
        lambda cast: {},
        secrets=("credential",),
    ),
    "credentials": Creation(
        lambda cast: f"/api/v1/xks-key-stores/{store_of(owned_key_set(cast)).pk}/credentials",
        lambda cast: {},
        secrets=("secret_access_key", "console_file"),
    ),
    "aws-store-links": Creation(
        lambda cast: "/api/v1/aws-store-links",
        lambda cast: {"store": str(store_of(owned_key_set(cast)).pk), "region": "eu-west-1"},
        status=202,
    ),
    "aws-store-links unlinked": Creation(
        lambda cast: "/api/v1/aws-store-links",
        lambda cast: {"store": str(store_of(owned_key_set(cast)).pk), "region": "eu-west-1", "linked": False},
    ),
    "cloud-keys": Creation(
        lambda cast: "/api/v1/cloud-keys",
        lambda cast: {"key_set": str(owned_key_set(cast).pk), "name": "payments-prod", "region": "eu-west-1"},
    ),
}
