"""A vault with people, an account, a key set and keys, for tests of services and flows."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction

from cloudkeys.models import CloudKey, CspAccount, KeySet, XksKeyStore
from cloudkeys.services.accounts import create_csp_account
from cloudkeys.services.cloud_keys import create_cloud_key
from cloudkeys.services.key_sets import KeySetCreated, create_key_set
from vault import keys
from vault.actors import Actor
from vault.models import Membership, Role, User, Vault
from vault.secret import Secret

ACCOUNT = "111122223333"
ADA = f"arn:aws:iam::{ACCOUNT}:user/ada"
APP = f"arn:aws:iam::{ACCOUNT}:role/app-prod"
ACCESS_KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture
def root_key(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, db: None) -> Any:
    """An installation with a root key of this test's own."""
    folder = tmp_path / "root"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("KEYSTEAD_ROOT_KEY_FILE", str(folder / "root.key"))
    keys.forget_keys()
    keys.ensure_root_key(create_allowed=True)
    yield folder / "root.key"
    keys.forget_keys()


def new_vault(name: str) -> Vault:
    """An enabled vault with a KEK."""
    with transaction.atomic():
        vault = Vault(name=name)
        vault.kek_blob = keys.new_vault_kek(vault.pk)
        vault.save(force_insert=True)
    return vault


def member(vault: Vault, email: str, role: Role) -> Actor:
    """Somebody with that role, as the actor of a request."""
    user = User.objects.create_user(email, "correct horse battery staple")
    Membership.objects.create(vault=vault, user=user, role=role)
    return Actor(user=user, via="api", source_ip="127.0.0.1", request_id="req-1")


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
