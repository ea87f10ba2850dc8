"""An account, a key set and keys in the cast's vault (tests/cast.py), for tests of this room."""

from __future__ import annotations

from typing import Any

from cloudkeys.models import CloudKey, CspAccount, KeySet, XksKeyStore
from cloudkeys.services.accounts import create_csp_account
from cloudkeys.services.cloud_keys import create_cloud_key
from cloudkeys.services.key_sets import KeySetCreated, create_key_set
from vault.actors import Actor
from vault.models import Vault
from vault.secret import Secret

ACCOUNT = "111122223333"
ADA = f"arn:aws:iam::{ACCOUNT}:user/ada"
APP = f"arn:aws:iam::{ACCOUNT}:role/app-prod"
ACCESS_KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def new_account(actor: Actor, vault: Vault, **more: Any) -> CspAccount:
    """An AWS account whose identity is known."""
    values: dict[str, Any] = {"name": "prod", "default_region": "eu-west-1", **more}
    account = create_csp_account(
        actor, vault, access_key_id=ACCESS_KEY_ID, secret_access_key=Secret(SECRET), **values
    )
    CspAccount.objects.filter(pk=account.pk).update(cloud_account_id=ACCOUNT)
    account.refresh_from_db()
    return account


def new_key_set(actor: Actor, vault: Vault, account: CspAccount | None, **more: Any) -> KeySetCreated:
    """A key set used as external key store, not linked anywhere."""
    values: dict[str, Any] = {"name": "pay-hyok", "use_as_external_key_store": True, **more}
    return create_key_set(actor, vault, csp_account=account.pk if account else None, **values)


def new_key(actor: Actor, key_set: KeySet, name: str = "payments-prod", **more: Any) -> CloudKey:
    """An unlinked CloudKey."""
    return create_cloud_key(actor, key_set.pk, name=name, **{"region": "eu-west-1", **more}).key


def pretend_linked(key: CloudKey) -> None:
    """Write into the row what provisioning would have: the KMS key exists."""
    CloudKey.objects.filter(pk=key.pk).update(
        pointer_state="LINKED", kms_key_id="12ab", kms_key_arn=f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/12ab"
    )
    key.refresh_from_db()


def store_of(key_set: KeySet) -> XksKeyStore:
    """The key set's proxy face."""
    return XksKeyStore.objects.get(key_set=key_set)
