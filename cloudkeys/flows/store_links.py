"""External key stores on AWS's side: made, connected, disconnected. The rest is in store_link_changes."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from cloudkeys import naming
from cloudkeys.flows.data_plane import wait_workers
from cloudkeys.flows.targets import account_of_link, require_own_account
from cloudkeys.models import AwsStoreLink, XksCredential
from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.steps import Flow, Later, StepContext
from cloudkeys.preflight import check_endpoint
from cloudkeys.providers.base import (
    ErrorCode,
    KeyStore,
    KeyStoreSpec,
    Provider,
    ProviderError,
)
from cloudkeys.providers.connection_errors import cause_and_cure
from vault.actions import Action
from vault.changes import Change, snapshot
from vault.keys import unseal

State = AwsStoreLink.State
AUDITED = ("custom_key_store_id", "linked", "state", "connection_error_code")
# AWS needs seconds for a public endpoint and up to some 20 minutes with a VPC endpoint service.
CONNECT_LIMIT_S = 1800.0
RECONNECTS = 3


def uri_path(link: AwsStoreLink) -> str:
    """XksProxyUriPath of the store."""
    return f"{link.store.path_prefix}{naming.XKS_API_PATH}"


def open_link(ctx: StepContext) -> tuple[AwsStoreLink, Provider]:
    link: AwsStoreLink = ctx.target()
    return link, ctx.provider(account_of_link(link))


def live_credential(link: AwsStoreLink, wanted: str | None = None) -> XksCredential:
    """The store's newest live credential, or that one. Raises a permanent OperationError."""
    live = link.store.credentials.filter(state=XksCredential.State.ACTIVE)
    found = (live.filter(pk=wanted) if wanted else live.order_by("-created_at")).first()
    if found is None:
        raise OperationError(
            "no_credential",
            "The external key store has no live credential that AWS could sign with.",
            "Make a credential for the store, then retry.",
            permanent=True,
        )
    return found


def find_store(link: AwsStoreLink, provider: Provider) -> KeyStore | None:
    """The link's key store as AWS describes it, None when it is gone.

    Raises a permanent OperationError when the credential speaks for another AWS account than the one that the store was
    last seen in: every other account knows nothing of it, which must not be taken for its end.
    """
    store = provider.find_key_store(link.region, id=link.custom_key_store_id)
    if store is None:
        require_own_account(provider, link.cloud_state.get("account_id", ""), link.custom_key_store_id)
    return store


def save_store(
    tx: Change,
    link: AwsStoreLink,
    store: KeyStore | None,
    *,
    action: Action,
    detail: str = "",
    account_id: str = "",
) -> None:
    """Write what AWS said on a locked row; audited when anything but the time changed. No revision, as for pointers."""
    before = snapshot(link, *AUDITED)
    seen_in = {"account_id": account_id or link.cloud_state.get("account_id", "")}
    if store is None:
        link.state = State.GONE
        link.cloud_state = {"id": link.custom_key_store_id, "state": "NotFound", **seen_in}
    else:
        link.custom_key_store_id = store.id
        link.state = State(store.state)
        link.connection_error_code = store.error_code if store.state == "FAILED" else ""
        link.cloud_state = {**store.as_dict(), **seen_in}
    link.cloud_state_at = timezone.now()
    write_link(tx, link, before, action, detail)


def write_link(
    tx: Change, link: AwsStoreLink, before: dict[str, Any], action: Action, detail: str = ""
) -> None:
    link.save(update_fields=[*AUDITED, "cloud_state", "cloud_state_at", "updated_at"])
    after = snapshot(link, *AUDITED)
    if before != after:
        tx.audit(action, link, before=before, after=after, detail={"what": detail} if detail else None)


# --- creating -----------------------------------------------------------------------------------------------------


def preflight(ctx: StepContext) -> None:
    """Our own health and TLS checks, before AWS makes anything: its errors name a class, ours name the cause."""
    link: AwsStoreLink = ctx.target()
    if link.connectivity == AwsStoreLink.Connectivity.VPC_ENDPOINT_SERVICE:
        ctx.detail = "left out: the private DNS name of a VPC endpoint service is not to be reached from here"
        return
    credential = live_credential(link)
    ctx.detail = check_endpoint(
        link.endpoint,
        uri_path(link),
        credential.access_key_id,
        unseal(credential, "secret_access_key"),
        region=link.region,
        simulated=account_of_link(link).is_simulated,
    ).summary


def create_store(ctx: StepContext) -> None:
    """CreateCustomKeyStore, or find the one that an earlier try made: names are unique in an account and region."""
    link, provider = open_link(ctx)
    store = _find_made(ctx, link, provider)
    if store is None:
        # Known before it is made: a try that is cut off must know that the store it finds is its own.
        credential = live_credential(link)
        ctx.remember(store_name=link.name, proxy_access_key_id=credential.access_key_id)
        try:
            made = provider.create_key_store(
                link.region,
                KeyStoreSpec(
                    name=link.name,
                    endpoint=link.endpoint,
                    uri_path=uri_path(link),
                    connectivity=link.connectivity,
                    vpc_endpoint_service_name=link.vpc_endpoint_service_name,
                    proxy_access_key_id=credential.access_key_id,
                    proxy_secret=unseal(credential, "secret_access_key"),
                ),
            )
            store = provider.find_key_store(link.region, id=made)
        except ProviderError as error:
            if error.code != ErrorCode.ALREADY_EXISTS:
                raise
            # An answer was lost and the request sent again, or the name, endpoint or path is another store's.
            store = _find_made(ctx, link, provider)
            if store is None:
                raise
    if store is None:
        raise OperationError("not_seen_yet", "AWS does not show the new key store yet.", permanent=False)
    acting = provider.identity().account_id
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        row.linked = True
        save_store(tx, row, store, action=Action.STORE_LINK_CREATE, detail="made in AWS", account_id=acting)
        ctx.memo["custom_key_store_id"] = store.id
    ctx.detail = store.id


def _find_made(ctx: StepContext, link: AwsStoreLink, provider: Provider) -> KeyStore | None:
    """The store that an earlier try of this operation made. Raises when the name belongs to another one."""
    known = str(ctx.memo.get("custom_key_store_id", ""))
    store = provider.find_key_store(link.region, id=known) if known else None
    if store is None:
        store = provider.find_key_store(link.region, name=str(ctx.memo.get("store_name") or link.name))
    if store is None:
        return None
    ours = bool(ctx.memo.get("store_name")) and store.proxy_access_key_id == ctx.memo.get(
        "proxy_access_key_id"
    )
    if not ours:
        raise OperationError(
            "name_taken",
            f"Another custom key store in {link.region} has the name {store.name} ({store.id}).",
            f"Link to {store.id} instead, or choose another name.",
            permanent=True,
        )
    return store


def undo_create_store(ctx: StepContext) -> Later | None:
    """DeleteCustomKeyStore, disconnected first."""
    link, provider = open_link(ctx)
    if not ctx.memo.get("store_name"):
        ctx.detail = "nothing was made"
        return None
    store = _find_made(ctx, link, provider)
    if store is not None:
        if store.state == "DISCONNECTING":
            return Later(_poll_s(ctx), "AWS is disconnecting it")
        if store.state != "DISCONNECTED":
            _begin_disconnect(provider, link.region, store.id)
            return Later(_poll_s(ctx), "AWS is disconnecting it")
        provider.delete_key_store(link.region, store.id)
    with ctx.commit() as tx:
        row = ctx.target(lock=True)
        before = snapshot(row, *AUDITED)
        row.custom_key_store_id = ""
        row.cloud_state = {}
        write_link(tx, row, before, Action.STORE_LINK_DELETE, "undone")
        for name in ("custom_key_store_id", "store_name", "proxy_access_key_id", "reconnects"):
            ctx.memo.pop(name, None)
    ctx.detail = "deleted again" if store is not None else "it was gone"
    return None


def _poll_s(ctx: StepContext) -> float:
    """Seconds until AWS is asked again: quick at first, then patient."""
    return float(min(10.0, 0.25 * 1.5 ** min(int(ctx.entry["polls"]), 20)))


# --- connecting ---------------------------------------------------------------------------------------------------


def connect(ctx: StepContext) -> Later | None:
    """ConnectCustomKeyStore; a FAILED store has to be disconnected first."""
    link, provider = open_link(ctx)
    store = describe_store(link, provider)
    if store.state == "DISCONNECTING":
        return Later(_poll_s(ctx), "AWS is still disconnecting it")
    if store.state == "FAILED":
        _begin_disconnect(provider, link.region, store.id)
        return Later(_poll_s(ctx), "AWS is clearing the failed connection")
    if store.state == "DISCONNECTED":
        provider.connect_key_store(link.region, store.id)
    look_at_store(ctx, link, provider)
    return None


def wait_connected(ctx: StepContext) -> Later | None:
    """Until AWS says CONNECTED, or FAILED with its code, whose cause and cure we tell."""
    link, provider = open_link(ctx)
    store = look_at_store(ctx, link, provider)
    if store.state == "CONNECTED":
        ctx.operation.result = {"custom_key_store_id": store.id, "state": store.state}
        return None
    if store.state == "CONNECTING" and ctx.step_age_s < CONNECT_LIMIT_S:
        return Later(_poll_s(ctx), "AWS is connecting it")
    if store.state == "FAILED":
        return _connection_failed(ctx, link, provider, store)
    if ctx.memo.get("reconnects") and store.state in ("DISCONNECTING", "DISCONNECTED"):
        if store.state == "DISCONNECTED":
            provider.connect_key_store(link.region, store.id)
        return Later(_poll_s(ctx), "connecting once more")
    raise OperationError(
        "not_connected",
        f"AWS reports the key store {store.state}, not CONNECTED.",
        "Look at the key store in AWS, then retry.",
        permanent=True,
    )


def _connection_failed(ctx: StepContext, link: AwsStoreLink, provider: Provider, store: KeyStore) -> Later:
    reason = cause_and_cure(store.error_code)
    tries = int(ctx.memo.get("reconnects", 0))
    if reason.permanent or tries >= RECONNECTS:
        raise OperationError(
            f"connection_{store.error_code.lower()}",
            f"{store.error_code}: {reason.cause}",
            reason.cure,
            permanent=True,
        )
    # AWS's own trouble: clear the connection and begin once more. Counted first, so that a crash cannot loop.
    ctx.remember(reconnects=tries + 1)
    _begin_disconnect(provider, link.region, store.id)
    return Later(_poll_s(ctx), f"{store.error_code}: {reason.cause} Connecting once more.")


def undo_connect(ctx: StepContext) -> None:
    """DisconnectCustomKeyStore; the store itself is undone by the step that made it."""
    link, provider = open_link(ctx)
    known = str(ctx.memo.get("custom_key_store_id") or link.custom_key_store_id)
    store = provider.find_key_store(link.region, id=known) if known else None
    if store is not None and store.state in ("CONNECTED", "CONNECTING"):
        _begin_disconnect(provider, link.region, store.id)
        look_at_store(ctx, link, provider)


def _begin_disconnect(provider: Provider, region: str, store_id: str) -> None:
    try:
        provider.disconnect_key_store(region, store_id)
    except ProviderError as error:
        # Disconnecting or disconnected already; whoever waits looks again.
        if error.code != ErrorCode.WRONG_STATE:
            raise


def disconnect(ctx: StepContext) -> None:
    """DisconnectCustomKeyStore: its KMS keys become Unavailable."""
    link, provider = open_link(ctx)
    store = find_store(link, provider)
    if store is not None and store.state not in ("DISCONNECTED", "DISCONNECTING"):
        _begin_disconnect(provider, link.region, store.id)


def wait_disconnected(ctx: StepContext) -> Later | None:
    """Until AWS says DISCONNECTED."""
    link, provider = open_link(ctx)
    store = find_store(link, provider)
    with ctx.commit() as tx:
        save_store(tx, ctx.target(lock=True), store, action=Action.STORE_LINK_DISCONNECT)
    ctx.detail = store.state if store is not None else "AWS knows this key store no more"
    if store is None or store.state == "DISCONNECTED":
        return None
    if ctx.step_age_s > CONNECT_LIMIT_S:
        raise OperationError(
            "not_disconnected",
            f"AWS still reports the key store {store.state}.",
            "Look at the key store in AWS, then retry.",
            permanent=True,
        )
    return Later(_poll_s(ctx), f"AWS reports it {store.state}")


def describe_store(link: AwsStoreLink, provider: Provider) -> KeyStore:
    store = (
        provider.find_key_store(link.region, id=link.custom_key_store_id)
        if link.custom_key_store_id
        else None
    )
    if store is None:
        raise OperationError(
            "store_missing",
            f"AWS knows no custom key store {link.custom_key_store_id or '(no id)'} in {link.region}.",
            "Check the id and the region; if it was deleted in AWS, make it anew.",
            permanent=True,
        )
    return store


def look_at_store(ctx: StepContext, link: AwsStoreLink, provider: Provider) -> KeyStore:
    store = describe_store(link, provider)
    with ctx.commit() as tx:
        save_store(tx, ctx.target(lock=True), store, action=Action.STORE_LINK_CONNECT)
    ctx.detail = f"{store.state}{f' ({store.error_code})' if store.error_code else ''}"
    return store


# --- how the row ends ---------------------------------------------------------------------------------------------


def _end(state: AwsStoreLink.State) -> Any:
    def end(ctx: StepContext, tx: Change, error: dict[str, Any] | None) -> None:
        row = ctx.target(lock=True)
        before = snapshot(row, *AUDITED)
        row.state = state
        code = (error or {}).get("code", "")
        row.connection_error_code = (
            code.removeprefix("connection_").upper() if code.startswith("connection_") else ""
        )
        write_link(tx, row, before, Action.STORE_LINK_CREATE, (error or {}).get("cause", ""))

    return end


CREATE = Flow(
    run={
        "wait_workers": wait_workers,
        "preflight": preflight,
        "create_store": create_store,
        "connect": connect,
        "confirm": wait_connected,
    },
    undo={"create_store": undo_create_store, "connect": undo_connect},
    undo_on_failure=True,
    on_failed=_end(State.FAILED),
    on_cancelled=_end(State.NOT_LINKED),
)
CONNECT = Flow(
    run={"wait_workers": wait_workers, "connect": connect, "confirm": wait_connected},
    undo={"connect": undo_connect},
)
DISCONNECT = Flow(run={"disconnect": disconnect, "confirm": wait_disconnected})
