"""External key stores on AWS's side that are there: adopted, changed, looked at, deleted."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from cloudkeys.flows.data_plane import wait_workers
from cloudkeys.flows.store_links import (
    AUDITED,
    describe_store,
    disconnect,
    find_store,
    live_credential,
    look_at_store,
    open_link,
    save_store,
    uri_path,
    wait_disconnected,
    write_link,
)
from cloudkeys.models import AwsStoreLink, XksCredential
from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.steps import Flow, StepContext
from cloudkeys.providers.base import KeyStore, KeyStoreChanges
from vault.actions import Action
from vault.changes import snapshot
from vault.keys import unseal

TYPE = "EXTERNAL_KEY_STORE"
State = AwsStoreLink.State


def check_store(ctx: StepContext) -> None:
    """DescribeCustomKeyStores confirms type, endpoint and path; nothing is changed."""
    link, provider = open_link(ctx)
    wanted = str(ctx.input["custom_key_store_id"])
    store = provider.find_key_store(link.region, id=wanted)
    if store is None:
        raise OperationError(
            "store_missing",
            f"AWS knows no custom key store {wanted} in {link.region}.",
            "Check the id and the region.",
            permanent=True,
        )
    for what, found, expected in (
        ("type", store.type, TYPE),
        ("endpoint", store.endpoint.lower(), link.endpoint.lower()),
        ("path", store.uri_path, uri_path(link)),
    ):
        if found != expected:
            raise OperationError(
                "not_this_store",
                f"Key store {store.id} has the {what} {found or 'none'}, and this one is {expected}.",
                "Give the id of the AWS key store that was made with this store's credentials file.",
                permanent=True,
            )
    ctx.detail = f"{store.name}, {store.state}"


def adopt(ctx: StepContext) -> None:
    """From now on Keystead drives it."""
    link, provider = open_link(ctx)
    store = provider.find_key_store(link.region, id=str(ctx.input["custom_key_store_id"]))
    if store is None:
        raise OperationError(
            "store_missing", "The key store is gone from AWS.", "Make it anew.", permanent=True
        )
    known = link.store.credentials.filter(
        access_key_id=store.proxy_access_key_id, state=XksCredential.State.ACTIVE
    ).exists()
    acting = provider.identity().account_id
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        row.linked = True
        save_store(tx, row, store, action=Action.STORE_LINK_LINK, detail="adopted", account_id=acting)
    ctx.operation.result = {"custom_key_store_id": store.id, "state": store.state}
    if not known:
        ctx.detail = f"AWS signs with {store.proxy_access_key_id or 'an unknown credential'}, which is none of the live ones"


def update_store(ctx: StepContext) -> None:
    """UpdateCustomKeyStore with what differs: name, path and credential while connected, the rest only disconnected."""
    link, provider = open_link(ctx)
    store = describe_store(link, provider)
    changes, needs_disconnect = _changes(ctx, link, store)
    if changes is not None:
        if needs_disconnect and store.state != "DISCONNECTED":
            raise OperationError(
                "store_connected",
                "AWS changes endpoint and connectivity only while the key store is disconnected.",
                "Disconnect the key store (its keys are unavailable meanwhile), retry, and connect it again.",
                permanent=True,
            )
        provider.update_key_store(link.region, store.id, changes)
    look_at_store(ctx, link, provider)


def _changes(ctx: StepContext, link: AwsStoreLink, store: KeyStore) -> tuple[KeyStoreChanges | None, bool]:
    """What differs between the row and AWS, and whether AWS wants the store disconnected for it."""
    plain: dict[str, Any] = {}
    if store.name != link.name:
        plain["name"] = link.name
    if store.uri_path != uri_path(link):
        plain["uri_path"] = uri_path(link)
    asked = ctx.input.get("credential_id")
    live = link.store.credentials.filter(state=XksCredential.State.ACTIVE)
    if asked or not live.filter(access_key_id=store.proxy_access_key_id).exists():
        credential = live_credential(link, asked)
        # AWS does not say which secret it has, so the one that was asked for is always sent.
        plain["proxy_access_key_id"] = credential.access_key_id
        plain["proxy_secret"] = unseal(credential, "secret_access_key")
    offline: dict[str, Any] = {}
    if store.endpoint.lower() != link.endpoint.lower():
        offline["endpoint"] = link.endpoint
    if store.connectivity != link.connectivity:
        offline["connectivity"] = link.connectivity
    if (
        link.connectivity == AwsStoreLink.Connectivity.VPC_ENDPOINT_SERVICE
        and store.vpc_endpoint_service_name != link.vpc_endpoint_service_name
    ):
        offline["vpc_endpoint_service_name"] = link.vpc_endpoint_service_name
    if not plain and not offline:
        return None, False
    return KeyStoreChanges(**plain, **offline), bool(offline)


def delete_store(ctx: StepContext) -> None:
    """DeleteCustomKeyStore; AWS refuses while it holds KMS keys, even ones that wait for deletion."""
    link, provider = open_link(ctx)
    provider.delete_key_store(link.region, link.custom_key_store_id)
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        before = snapshot(row, *AUDITED)
        row.state = State.GONE
        row.linked = False
        row.cloud_state = {"id": link.custom_key_store_id, "state": "NotFound"}
        row.cloud_state_at = timezone.now()
        write_link(tx, row, before, Action.STORE_LINK_DELETE, "deleted in AWS")


def look(ctx: StepContext) -> None:
    """What AWS says of the key store."""
    link, provider = open_link(ctx)
    store = find_store(link, provider)
    with ctx.commit() as tx:
        save_store(tx, ctx.target(lock=True), store, action=Action.STORE_LINK_REFRESH)
    ctx.operation.result = store.as_dict() if store is not None else {"state": "NotFound"}
    ctx.detail = store.state if store is not None else "AWS knows this key store no more"


LINK = Flow(run={"check_store": check_store, "adopt": adopt})
UPDATE = Flow(run={"wait_workers": wait_workers, "update_store": update_store})
DELETE = Flow(
    run={"disconnect": disconnect, "wait_disconnected": wait_disconnected, "delete_store": delete_store}
)
REFRESH = Flow(run={"look": look})
