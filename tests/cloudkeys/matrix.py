"""What each of the cast gets from every endpoint of this room; run by tests/vault/api/test_matrix.py.

Account and key set belong to the Cloud Admin Group, of which the colleague (a cloud admin) is a member; what a cloud
admin outside the group gets is in tests/cloudkeys/api/test_permissions.py.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from cloudkeys import providers
from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySet, Operation, XksCredential, XksKeyStore
from cloudkeys.providers.base import AccountReport, Identity
from cloudkeys.services import cloud_keys, credential_rotation, credentials, lifecycle, stores, trial
from tests.api_row import Row, in_payments
from tests.cast import Cast
from tests.cloudkeys.world import (
    ACCESS_KEY_ID,
    ACCOUNT,
    ADA,
    SECRET,
    new_account,
    new_key,
    new_key_set,
    pretend_linked,
    store_of,
)
from vault.changes import change
from vault.secret import Secret
from vault.services.vaults import disable_vault

At = Callable[[Cast], dict[str, Any]]


def no_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers in place of the cloud: what an account may do, and who is in it."""
    monkeypatch.setattr(providers, "probe_account", lambda account: AccountReport(Identity(ACCOUNT, ADA), ()))
    monkeypatch.setattr(providers, "list_principals", lambda account: [])


def owned_account(cast: Cast) -> CspAccount:
    """The account of the Cloud Admin Group."""
    found = CspAccount.objects.filter(vault=cast.vault).first()
    return found or new_account(cast.actor("owner"), cast.vault, group=cast.group.pk)


def owned_key_set(cast: Cast) -> KeySet:
    """The key set of the Cloud Admin Group, used as external key store, linked nowhere."""
    return new_key_set(cast.actor("owner"), cast.vault, owned_account(cast), group=cast.group.pk).key_set


def plain_key_set(cast: Cast) -> KeySet:
    """One that is not used as external key store."""
    owner, account = cast.actor("owner"), owned_account(cast)
    made = new_key_set(
        owner, cast.vault, account, group=cast.group.pk, name="plain", use_as_external_key_store=False
    )
    return made.key_set


def owned_key(cast: Cast) -> CloudKey:
    """A CloudKey of that key set."""
    return new_key(cast.actor("owner"), owned_key_set(cast))


def owned_link(cast: Cast, *, linked: bool) -> AwsStoreLink:
    """The key set's AWS store in eu-west-1; `linked` as if AWS had it."""
    store = store_of(owned_key_set(cast))
    request = stores.LinkRequest(region="eu-west-1", linked=linked)
    link = stores.create_store_link(cast.actor("owner"), store.pk, request).link
    if linked:
        link.custom_key_store_id, link.state = "cks-1234567890abcdef0", AwsStoreLink.State.CONNECTED
        link.save()
        Operation.objects.all().update(state=Operation.State.SUCCEEDED)
    return link


def _account(cast: Cast) -> dict[str, Any]:
    return {"account_id": owned_account(cast).pk}


def _key_set(cast: Cast) -> dict[str, Any]:
    return {"key_set_id": owned_key_set(cast).pk}


def _store(cast: Cast) -> dict[str, Any]:
    return {"store_id": store_of(owned_key_set(cast)).pk}


def _blocked_store(cast: Cast) -> dict[str, Any]:
    parameters = _store(cast)
    stores.block_xks_store(cast.actor("owner"), parameters["store_id"], reason="test")
    return parameters


def _credential(cast: Cast) -> dict[str, Any]:
    parameters = _store(cast)
    credentials.create_xks_credential(cast.actor("owner"), parameters["store_id"])
    credential = XksCredential.objects.filter(store_id=parameters["store_id"]).first()
    assert credential is not None
    return {"credential_id": credential.pk}


def _rotating(cast: Cast) -> dict[str, Any]:
    parameters = _store(cast)
    operation = credential_rotation.rotate_xks_credential(cast.actor("owner"), parameters["store_id"])
    store = XksKeyStore.objects.get(pk=parameters["store_id"])
    with change(cast.actor("owner")) as tx:
        made = credentials.make_credential(tx, store).credential
    Operation.objects.filter(pk=operation.pk).update(memo={"new_credential_id": str(made.pk)})
    return parameters


def _link(*, linked: bool) -> At:
    return lambda cast: {"link_id": owned_link(cast, linked=linked).pk}


def _key(cast: Cast) -> dict[str, Any]:
    return {"key_id": owned_key(cast).pk}


def _key_that(act: Callable[[Cast, CloudKey], object]) -> At:
    def at(cast: Cast) -> dict[str, Any]:
        key = owned_key(cast)
        act(cast, key)
        return {"key_id": key.pk}

    return at


def _disable(cast: Cast, key: CloudKey) -> None:
    lifecycle.disable_cloud_key(cast.actor("owner"), key.pk, reason="test")


def _block(cast: Cast, key: CloudKey) -> None:
    lifecycle.block_cloud_key(cast.actor("owner"), key.pk, reason="test")


def _schedule(cast: Cast, key: CloudKey) -> None:
    lifecycle.schedule_deletion(cast.actor("owner"), key.pk, confirm_name=key.name)


def _window_over(cast: Cast, key: CloudKey) -> None:
    _schedule(cast, key)
    CloudKey.objects.filter(pk=key.pk).update(delete_after=timezone.now() - timedelta(minutes=1))


def _linked_store(cast: Cast, key: CloudKey) -> None:
    stores.create_store_link(cast.actor("owner"), key.store_id, stores.LinkRequest(region=key.region))


def _has_pointer(cast: Cast, key: CloudKey) -> None:
    pretend_linked(key)


def _operation(state: str) -> At:
    def at(cast: Cast) -> dict[str, Any]:
        key = owned_key(cast)
        pretend_linked(key)
        row = cloud_keys.refresh_cloud_key(cast.actor("owner"), key.pk)
        Operation.objects.filter(pk=row.pk).update(state=state)
        return {"operation_id": row.pk}

    return at


def _vault_that_is_disabled(cast: Cast) -> dict[str, Any]:
    owned_key(cast)
    disable_vault(cast.actor("appliance"), cast.vault.pk, reason="test")
    return {"vault_id": cast.vault.pk}


def _new_account(cast: Cast) -> dict[str, Any]:
    return {
        **in_payments(cast), "name": "aws-prod", "access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET,
        "default_region": "eu-west-1",
    }  # fmt: skip


def _new_key_set(cast: Cast) -> dict[str, Any]:
    return {**in_payments(cast), "name": "pay-hyok", "csp_account": str(owned_account(cast).pk)}


def _new_link(cast: Cast) -> dict[str, Any]:
    return {"store": str(store_of(owned_key_set(cast)).pk), "region": "eu-west-1", "linked": False}


def _new_key(cast: Cast) -> dict[str, Any]:
    return {"key_set": str(owned_key_set(cast).pk), "name": "payments-prod", "region": "eu-west-1"}


def _bulk(cast: Cast) -> dict[str, Any]:
    return {**in_payments(cast), "action": "disable", "ids": [str(owned_key(cast).pk)]}


def _csv(cast: Cast) -> dict[str, Any]:
    return {"key_set": str(owned_key_set(cast).pk), "csv": "name,region\na,eu-west-1\n", "dry_run": True}


def _nothing(cast: Cast) -> dict[str, Any]:
    return {}


def _confirmed(cast: Cast) -> dict[str, Any]:
    return {"confirm_name": "payments-prod"}


def _gone(cast: Cast) -> dict[str, Any]:
    return {"confirm_name": "payments-prod", "pointer_is_gone": True}


def _renamed(cast: Cast) -> dict[str, Any]:
    return {"name": "renamed"}


def no_simulator(patch: pytest.MonkeyPatch) -> None:
    """Let the simulator give an access key without running."""
    made = ("AKIAIOSFODNN7EXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), "eu-west-1")
    patch.setattr(trial, "simulator_offered", lambda: True)
    patch.setattr(settings, "KEYSTEAD_SIMULATOR", True)
    patch.setattr(trial, "_new_access_key", lambda user_name: made)
    patch.setattr(trial, "probe_csp_account", lambda actor, account_id: CspAccount.objects.get(pk=account_id))


def _adopted(cast: Cast) -> dict[str, Any]:
    return {"key_label": "foo", "name": "payments-old", "region": "eu-west-1"}


V = "api/v1/"
ACCOUNT_AT = V + "csp-accounts/<uuid:account_id>"
KEY_SET_AT = V + "key-sets/<uuid:key_set_id>"
STORE_AT = V + "xks-key-stores/<uuid:store_id>"
CREDENTIAL_AT = V + "xks-credentials/<uuid:credential_id>"
LINK_AT = V + "aws-store-links/<uuid:link_id>"
KEY_AT = V + "cloud-keys/<uuid:key_id>"
OPERATION_AT = V + "operations/<uuid:operation_id>"
DESTRUCTION_AT = V + "vaults/<uuid:vault_id>/destruction"

CLOUDKEYS_ROWS = [
    # method, route, owner, colleague, auditor, outsider, appliance (anonymous: 401)
    Row("GET", V + "csp-accounts", 200, 200, 200, 404, 404, query=in_payments),
    Row("POST", V + "csp-accounts", 201, 201, 403, 404, 404, body=_new_account),
    Row("GET", ACCOUNT_AT, 200, 200, 200, 404, 404, at=_account),
    Row("PATCH", ACCOUNT_AT, 200, 200, 403, 404, 404, at=_account, if_match=True, body=_renamed),
    Row("DELETE", ACCOUNT_AT, 204, 204, 403, 404, 404, at=_account, if_match=True),
    Row("POST", ACCOUNT_AT + "/test", 200, 200, 403, 404, 404, at=_account, body=_nothing, patch=no_cloud),
    Row("POST", ACCOUNT_AT + "/rotate-credential", 202, 202, 403, 404, 404, at=_account, body=_nothing),
    Row("GET", ACCOUNT_AT + "/policy", 200, 200, 200, 404, 404, at=_account),
    Row("GET", ACCOUNT_AT + "/iam-principals", 200, 200, 200, 404, 404, at=_account, patch=no_cloud),

    Row("GET", ACCOUNT_AT + "/dependents", 200, 200, 200, 404, 404, at=_account),
    Row("POST", V + "csp-accounts/try-simulator", 201, 201, 403, 404, 404, body=in_payments, patch=no_simulator),
    Row("GET", V + "search", 200, 200, 200, 404, 404, query=lambda cast: {**in_payments(cast), "text": "pay"}),

    Row("GET", V + "key-sets", 200, 200, 200, 404, 404, query=in_payments),
    Row("POST", KEY_SET_AT + "/schedule-effects", 200, 200, 200, 404, 404, at=_key_set, body=_nothing),
    Row("GET", KEY_SET_AT + "/deletion", 200, 200, 200, 404, 404, at=_key_set),
    Row("GET", KEY_SET_AT + "/protection", 200, 200, 200, 404, 404, at=_key_set),
    # The appliance admin's act; here the key set's keys do not live in an HSM.
    Row("POST", KEY_SET_AT + "/adopt", 403, 403, 403, 403, 409, at=_key_set, body=_adopted),
    Row("POST", KEY_SET_AT + "/adopt-check", 403, 403, 403, 403, 409, at=_key_set, body=_adopted),
    Row("POST", V + "key-sets", 201, 201, 403, 404, 404, body=_new_key_set),
    Row("GET", KEY_SET_AT, 200, 200, 200, 404, 404, at=_key_set),
    Row("PATCH", KEY_SET_AT, 200, 200, 403, 404, 404, at=_key_set, if_match=True, body=_renamed),
    Row("DELETE", KEY_SET_AT, 204, 204, 403, 404, 404, at=_key_set, if_match=True),
    Row(
        "POST", KEY_SET_AT + "/use-as-external-key-store", 201, 201, 403, 404, 404, body=_nothing,
        at=lambda cast: {"key_set_id": plain_key_set(cast).pk},
    ),

    Row("GET", V + "xks-key-stores", 200, 200, 200, 404, 404, query=in_payments),
    Row("GET", STORE_AT, 200, 200, 200, 404, 404, at=_store),
    Row("PATCH", STORE_AT, 200, 200, 403, 404, 404, at=_store, if_match=True, body=lambda cast: {"max_staleness_s": 30}),
    Row("POST", STORE_AT + "/block", 200, 200, 403, 404, 404, at=_store, body=_nothing),
    Row("POST", STORE_AT + "/unblock", 200, 403, 403, 404, 404, at=_blocked_store, body=_nothing),
    Row("GET", STORE_AT + "/credentials", 200, 200, 200, 404, 404, at=_store),
    Row("POST", STORE_AT + "/credentials", 201, 201, 403, 404, 404, at=_store, body=_nothing),
    Row("POST", STORE_AT + "/rotate-credentials", 202, 202, 403, 404, 404, at=_store, body=_nothing),
    Row("GET", STORE_AT + "/rotation", 200, 200, 200, 404, 404, at=_rotating),
    Row("POST", STORE_AT + "/rotation/file", 200, 200, 403, 404, 404, at=_rotating, body=_nothing),
    Row("POST", STORE_AT + "/rotation/done", 200, 200, 403, 404, 404, at=_rotating, body=lambda cast: {"region": "eu-west-1"}),
    Row("GET", CREDENTIAL_AT, 200, 200, 200, 404, 404, at=_credential),
    Row("DELETE", CREDENTIAL_AT, 200, 200, 403, 404, 404, at=_credential),
    Row("POST", CREDENTIAL_AT + "/retire", 200, 200, 403, 404, 404, at=_credential, body=_nothing),

    Row("GET", V + "aws-store-links", 200, 200, 200, 404, 404, query=in_payments),
    Row("POST", V + "aws-store-links", 201, 201, 403, 404, 404, body=_new_link),
    Row("GET", LINK_AT, 200, 200, 200, 404, 404, at=_link(linked=False)),
    Row("GET", LINK_AT + "/console-steps", 200, 200, 200, 404, 404, at=_link(linked=False)),
    Row("PATCH", LINK_AT, 200, 200, 403, 404, 404, at=_link(linked=False), if_match=True, body=_renamed),
    Row("DELETE", LINK_AT, 200, 200, 403, 404, 404, at=_link(linked=False), if_match=True),
    Row("POST", LINK_AT + "/link", 202, 202, 403, 404, 404, at=_link(linked=False), body=_nothing),
    Row("POST", LINK_AT + "/connect", 202, 202, 403, 404, 404, at=_link(linked=True), body=_nothing),
    Row("POST", LINK_AT + "/disconnect", 202, 202, 403, 404, 404, at=_link(linked=True), body=_nothing),
    Row("POST", LINK_AT + "/refresh", 202, 202, 403, 404, 404, at=_link(linked=True), body=_nothing),

    Row("GET", V + "cloud-keys", 200, 200, 200, 404, 404, query=in_payments),
    Row("POST", V + "cloud-keys", 201, 201, 403, 404, 404, body=_new_key),
    # Anybody who sees keys may begin; what each may do is decided key by key (cloudkeys/flows/bulk.py).
    Row("POST", V + "cloud-keys/bulk", 202, 202, 403, 404, 404, body=_bulk),
    Row("POST", V + "cloud-keys/csv", 200, 200, 403, 404, 404, body=_csv),
    Row("GET", V + "cloud-keys/export", 200, 200, 200, 404, 404, query=in_payments),
    Row("GET", KEY_AT, 200, 200, 200, 404, 404, at=_key),
    Row("PATCH", KEY_AT, 200, 200, 403, 404, 404, at=_key, if_match=True, body=_renamed),
    Row("GET", KEY_AT + "/versions", 200, 200, 200, 404, 404, at=_key),
    Row("GET", KEY_AT + "/timeline", 200, 200, 200, 404, 404, at=_key),
    Row("GET", KEY_AT + "/policy", 200, 200, 200, 404, 404, at=_key),
    Row("GET", KEY_AT + "/create-key-step", 200, 200, 200, 404, 404, at=_key),
    Row("POST", KEY_AT + "/disable", 200, 200, 403, 404, 404, at=_key, body=_nothing),
    Row("POST", KEY_AT + "/enable", 200, 200, 403, 404, 404, at=_key_that(_disable), body=_nothing),
    Row("POST", KEY_AT + "/block", 200, 200, 403, 404, 404, at=_key, body=_nothing),
    Row("POST", KEY_AT + "/unblock", 200, 403, 403, 404, 404, at=_key_that(_block), body=_nothing),
    Row("POST", KEY_AT + "/retire", 200, 200, 403, 404, 404, at=_key, body=_nothing),
    Row("POST", KEY_AT + "/rotate", 202, 202, 403, 404, 404, at=_key, body=_nothing),
    Row("POST", KEY_AT + "/schedule-deletion", 200, 200, 403, 404, 404, at=_key, body=_confirmed),
    Row("POST", KEY_AT + "/cancel-deletion", 200, 200, 403, 404, 404, at=_key_that(_schedule), body=_nothing),
    Row("POST", KEY_AT + "/destroy", 200, 200, 403, 404, 404, at=_key_that(_window_over), body=_gone),
    Row("POST", KEY_AT + "/link", 202, 202, 403, 404, 404, at=_key_that(_linked_store), body=_nothing),
    Row("POST", KEY_AT + "/refresh", 202, 202, 403, 404, 404, at=_key_that(_has_pointer), body=_nothing),

    Row("GET", V + "operations", 200, 200, 200, 404, 404, query=in_payments),
    Row("GET", OPERATION_AT, 200, 200, 200, 404, 404, at=_operation("WAITING")),
    Row("POST", OPERATION_AT + "/retry", 200, 200, 403, 404, 404, at=_operation("FAILED"), body=_nothing),
    Row("POST", OPERATION_AT + "/cancel", 200, 200, 403, 404, 404, at=_operation("WAITING"), body=_nothing),

    # The appliance admin's alone: who owns the keys cannot destroy the vault, and who destroys it cannot use them.
    Row("GET", DESTRUCTION_AT, 403, 403, 403, 403, 200, at=_vault_that_is_disabled),
    Row(
        "POST", DESTRUCTION_AT, 403, 403, 403, 403, 200, at=_vault_that_is_disabled, if_match=True,
        body=lambda cast: {"confirm_name": "Payments"},
    ),
]  # fmt: skip
