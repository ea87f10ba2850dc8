"""External key stores: create, describe, update, connect, disconnect, delete, with AWS's rules on each.

Connecting goes on in the background, as at AWS: ConnectCustomKeyStore answers at once, DescribeCustomKeyStores tells
how it went. A store that was CONNECTING when the simulator was killed goes on connecting at the next start.
"""

from __future__ import annotations

import logging
import secrets
import threading
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Simulator
from cloudkeys.simulators.aws.kms_access import authorize_account
from cloudkeys.simulators.aws.kms_hosts import remember_credential
from cloudkeys.simulators.aws.kms_state import Store, find_store, page
from cloudkeys.simulators.aws.xks_client import Origin, XksError

log = logging.getLogger(__name__)
THREADS = "kms_stores.threads"
CLOUDHSM_PARAMETERS = ("CloudHsmClusterId", "TrustAnchorCertificate", "KeyStorePassword")
REQUIRED = (
    "XksProxyUriEndpoint",
    "XksProxyUriPath",
    "XksProxyAuthenticationCredential",
    "XksProxyConnectivity",
)
# What an external key store may change while it is connected; the rest asks for a disconnected one.
UPDATE_WHILE_CONNECTED = frozenset(
    ("NewCustomKeyStoreName", "XksProxyAuthenticationCredential", "XksProxyUriPath")
)

# From "ConnectionErrorCode" in the KMS API reference: what each thing that can go wrong is called there.
CODE_BY_KIND = {
    "timeout": "XKS_PROXY_TIMED_OUT",
    "unreachable": "XKS_PROXY_NOT_REACHABLE",
    "unavailable": "XKS_PROXY_NOT_REACHABLE",
    "tls": "XKS_PROXY_INVALID_TLS_CONFIGURATION",
    "invalid_response": "XKS_PROXY_INVALID_RESPONSE",
}
CODE_BY_NAME = {
    "AuthenticationFailedException": "INVALID_CREDENTIALS",
    "AccessDeniedException": "XKS_PROXY_ACCESS_DENIED",
    "InvalidUriPathException": "XKS_PROXY_INVALID_CONFIGURATION",
    "InvalidStateException": "XKS_PROXY_INVALID_CONFIGURATION",
    "ValidationException": "XKS_PROXY_INVALID_CONFIGURATION",
    "UnsupportedOperationException": "XKS_PROXY_INVALID_CONFIGURATION",
    "DependencyTimeoutException": "XKS_PROXY_TIMED_OUT",
    "ThrottlingException": "XKS_PROXY_NOT_REACHABLE",
    "InternalException": "XKS_PROXY_NOT_REACHABLE",
}
# Create and Update name the same failures as exceptions.
EXCEPTION_BY_CODE = {
    "INVALID_CREDENTIALS": "XksProxyIncorrectAuthenticationCredentialException",
    "XKS_PROXY_ACCESS_DENIED": "XksProxyInvalidConfigurationException",
    "XKS_PROXY_INVALID_CONFIGURATION": "XksProxyInvalidConfigurationException",
    "XKS_PROXY_INVALID_TLS_CONFIGURATION": "XksProxyInvalidConfigurationException",
    "XKS_PROXY_INVALID_RESPONSE": "XksProxyInvalidResponseException",
    "XKS_PROXY_NOT_REACHABLE": "XksProxyUriUnreachableException",
    "XKS_PROXY_TIMED_OUT": "XksProxyUriUnreachableException",
}


def connection_error_code(error: XksError) -> str:
    """AWS's ConnectionErrorCode for what went wrong with a proxy."""
    if error.kind == "error":
        return CODE_BY_NAME.get(error.name, "XKS_PROXY_INVALID_RESPONSE")
    return CODE_BY_KIND[error.kind]


def _as_exception(error: XksError) -> AwsError:
    said = f"{error.name} {error.message}".strip()
    return AwsError(
        EXCEPTION_BY_CODE[connection_error_code(error)],
        f"AWS KMS could not use the external key store proxy: {said}.",
    )


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)


def create_custom_key_store(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """CreateCustomKeyStore for EXTERNAL_KEY_STORE; asks the proxy's health unless it is behind a VPC endpoint."""
    authorize_account(sim, request.caller, request.region, request.operation)
    params = request.params
    if params.get("CustomKeyStoreType", "AWS_CLOUDHSM") != "EXTERNAL_KEY_STORE":
        raise AwsError(
            "UnsupportedOperationException",
            "The simulator has custom key stores of type EXTERNAL_KEY_STORE only.",
        )
    _refuse_cloudhsm(params)
    missing = [name for name in REQUIRED if name not in params]
    if missing:
        raise _invalid(f"{', '.join(missing)} must be given for an external key store.")
    store = Store(
        store_id="cks-" + secrets.token_hex(9)[:17],
        account_id=request.caller.account_id,
        region=request.region,
        name=params["CustomKeyStoreName"],
        endpoint=params["XksProxyUriEndpoint"],
        path=params["XksProxyUriPath"],
        connectivity=params["XksProxyConnectivity"],
        vpc_service=params.get("XksProxyVpcEndpointServiceName"),
        vpc_owner=_vpc_owner(request),
        access_key_id=params["XksProxyAuthenticationCredential"]["AccessKeyId"],
        secret_access_key=params["XksProxyAuthenticationCredential"]["RawSecretAccessKey"],
        state="DISCONNECTED",
        error_code=None,
        attempt=0,
        created_at=sim.now(),
    )
    _check_store(sim, store)
    if store.connectivity == "PUBLIC_ENDPOINT":
        _check_health(sim, store, request)
    with sim.state.transaction() as db:
        # Again, in the transaction that writes: two requests may have passed the check together.
        _check_store(sim, store)
        db.execute(
            "INSERT INTO kms_stores (store_id, account_id, region, name, endpoint, path, connectivity, vpc_service,"
            " vpc_owner, access_key_id, secret_access_key, state, error_code, attempt, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                store.store_id,
                store.account_id,
                store.region,
                store.name,
                store.endpoint,
                store.path,
                store.connectivity,
                store.vpc_service,
                store.vpc_owner,
                store.access_key_id,
                store.secret_access_key,
                store.state,
                store.error_code,
                store.attempt,
                store.created_at,
            ),
        )
    return {"CustomKeyStoreId": store.store_id}


def _refuse_cloudhsm(params: Mapping[str, Any]) -> None:
    foreign = [name for name in CLOUDHSM_PARAMETERS if name in params]
    if foreign:
        raise _invalid(f"{', '.join(foreign)} cannot be given for an external key store.")


def _vpc_owner(request: ApiRequest) -> str | None:
    if request.params.get("XksProxyConnectivity") != "VPC_ENDPOINT_SERVICE":
        return request.params.get("XksProxyVpcEndpointServiceOwner")
    return str(request.params.get("XksProxyVpcEndpointServiceOwner", request.caller.account_id))


def _check_store(sim: Simulator, store: Store) -> None:
    """The rules between the stores of one account and region. Raises AwsError."""
    if store.connectivity == "PUBLIC_ENDPOINT" and (store.vpc_service or store.vpc_owner):
        raise _invalid("A VPC endpoint service cannot be given with connectivity PUBLIC_ENDPOINT.")
    if store.connectivity == "VPC_ENDPOINT_SERVICE":
        if not store.vpc_service:
            raise _invalid(
                "XksProxyVpcEndpointServiceName must be given with connectivity VPC_ENDPOINT_SERVICE."
            )
        if f".{store.region}." not in store.vpc_service:
            raise AwsError(
                "XksProxyVpcEndpointServiceInvalidConfigurationException",
                "The VPC endpoint service must be in the Region of the external key store.",
            )
    others = [
        Store(**dict(row))
        for row in sim.state.rows(
            "SELECT * FROM kms_stores WHERE account_id = ? AND region = ? AND store_id <> ?",
            (store.account_id, store.region, store.store_id),
        )
    ]
    if len(others) >= sim.settings.max_custom_key_stores:
        raise AwsError(
            "LimitExceededException", "The quota of custom key stores of this account and Region is used up."
        )
    for other in others:
        if other.name == store.name:
            raise AwsError(
                "CustomKeyStoreNameInUseException", f"Custom key store name {store.name} is already in use."
            )
        if (other.endpoint.lower(), other.path) == (store.endpoint.lower(), store.path):
            raise AwsError(
                "XksProxyUriInUseException",
                f"The proxy URI {store.endpoint}{store.path} is already in use by {other.store_id}.",
            )
        if other.endpoint.lower() == store.endpoint.lower() and "VPC_ENDPOINT_SERVICE" in (
            other.connectivity,
            store.connectivity,
        ):
            raise AwsError(
                "XksProxyUriEndpointInUseException",
                f"The proxy URI endpoint {store.endpoint} is already in use by {other.store_id}.",
            )
        if store.vpc_service is not None and other.vpc_service == store.vpc_service:
            raise AwsError(
                "XksProxyVpcEndpointServiceInUseException",
                f"The VPC endpoint service {store.vpc_service} is already in use by {other.store_id}.",
            )


def _check_health(sim: Simulator, store: Store, request: ApiRequest) -> None:
    try:
        sim.xks.health(store.proxy, Origin(request.request_id, request.operation))
    except XksError as error:
        raise _as_exception(error) from None


def describe_custom_key_stores(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """DescribeCustomKeyStores: all of the account and region, or the one of that id or name."""
    authorize_account(sim, request.caller, request.region, request.operation)
    params = request.params
    if "CustomKeyStoreId" in params and "CustomKeyStoreName" in params:
        raise _invalid("Give CustomKeyStoreId or CustomKeyStoreName, not both.")
    stores = [
        Store(**dict(row))
        for row in sim.state.rows(
            "SELECT * FROM kms_stores WHERE account_id = ? AND region = ? ORDER BY store_id",
            (request.caller.account_id, request.region),
        )
    ]
    for name, attribute in (("CustomKeyStoreId", "store_id"), ("CustomKeyStoreName", "name")):
        if name in params:
            stores = [store for store in stores if getattr(store, attribute) == params[name]]
            if not stores:
                raise AwsError(
                    "CustomKeyStoreNotFoundException", f"Custom key store {params[name]} is not found."
                )
    listed, more = page([_entry(store) for store in stores], params, "CustomKeyStoreId", 1000)
    return {"CustomKeyStores": listed, **more}


def _entry(store: Store) -> dict[str, Any]:
    proxy: dict[str, Any] = {
        "Connectivity": store.connectivity,
        "AccessKeyId": store.access_key_id,
        "UriEndpoint": store.endpoint,
        "UriPath": store.path,
        "VpcEndpointServiceName": store.vpc_service,
        "VpcEndpointServiceOwner": store.vpc_owner,
    }
    return {
        "CustomKeyStoreId": store.store_id,
        "CustomKeyStoreName": store.name,
        "ConnectionState": store.state,
        "ConnectionErrorCode": store.error_code,
        "CreationDate": store.created_at,
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyConfiguration": {name: value for name, value in proxy.items() if value is not None},
    }


def update_custom_key_store(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """UpdateCustomKeyStore; asks the proxy's health with the new values before it takes them."""
    store = _authorized_store(sim, request)
    params = request.params
    _refuse_cloudhsm(params)
    changes = set(params) - {"CustomKeyStoreId"}
    if not changes:
        raise _invalid("At least one property to update must be given.")
    if store.state != "DISCONNECTED" and not (
        store.state == "CONNECTED" and changes <= UPDATE_WHILE_CONNECTED
    ):
        raise _wrong_state(store, "DISCONNECTED")
    credential = params.get("XksProxyAuthenticationCredential", {})
    connectivity = params.get("XksProxyConnectivity", store.connectivity)
    to_public = connectivity == "PUBLIC_ENDPOINT" and store.connectivity != connectivity
    changed = replace(
        store,
        name=params.get("NewCustomKeyStoreName", store.name),
        endpoint=params.get("XksProxyUriEndpoint", store.endpoint),
        path=params.get("XksProxyUriPath", store.path),
        connectivity=connectivity,
        vpc_service=params.get("XksProxyVpcEndpointServiceName", None if to_public else store.vpc_service),
        vpc_owner=_vpc_owner(request) if "XksProxyConnectivity" in params else store.vpc_owner,
        access_key_id=credential.get("AccessKeyId", store.access_key_id),
        secret_access_key=credential.get("RawSecretAccessKey", store.secret_access_key),
    )
    _check_store(sim, changed)
    asks = changes != {"NewCustomKeyStoreName"} and (
        changed.connectivity == "PUBLIC_ENDPOINT" or store.state == "CONNECTED"
    )
    if asks:
        _check_health(sim, changed, request)
    with sim.state.transaction() as db:
        _check_store(sim, changed)
        done = db.execute(
            "UPDATE kms_stores SET name = ?, endpoint = ?, path = ?, connectivity = ?, vpc_service = ?, vpc_owner = ?,"
            " access_key_id = ?, secret_access_key = ? WHERE store_id = ? AND state = ?",
            (
                changed.name,
                changed.endpoint,
                changed.path,
                changed.connectivity,
                changed.vpc_service,
                changed.vpc_owner,
                changed.access_key_id,
                changed.secret_access_key,
                store.store_id,
                store.state,
            ),
        )
        if done.rowcount != 1:
            raise _wrong_state(find_store(sim, store.account_id, store.region, store.store_id), store.state)
    if changed.access_key_id != store.access_key_id and (seconds := sim.faults.take_old_credential()):
        remember_credential(sim, store, seconds)
    return {}


def _authorized_store(sim: Simulator, request: ApiRequest) -> Store:
    caller, store_id = request.caller, request.params["CustomKeyStoreId"]
    authorize_account(sim, caller, request.region, request.operation)
    return find_store(sim, caller.account_id, request.region, store_id)


def _wrong_state(store: Store, wanted: str) -> AwsError:
    return AwsError(
        "CustomKeyStoreInvalidStateException",
        f"Custom key store {store.store_id} is {store.state}; this operation needs it to be {wanted}.",
    )


def connect_custom_key_store(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """ConnectCustomKeyStore: answers at once, connects in the background."""
    store = _authorized_store(sim, request)
    with sim.state.transaction() as db:
        store = find_store(sim, store.account_id, store.region, store.store_id)
        if store.state in ("CONNECTED", "CONNECTING"):
            return {}
        if store.state != "DISCONNECTED":
            raise _wrong_state(store, "DISCONNECTED")
        db.execute(
            "UPDATE kms_stores SET state = 'CONNECTING', error_code = NULL, attempt = attempt + 1 WHERE store_id = ?",
            (store.store_id,),
        )
        store = replace(store, state="CONNECTING", attempt=store.attempt + 1)
    _connect_in_background(sim, store, Origin(request.request_id, "ConnectCustomKeyStore"))
    return {}


def _connect_in_background(sim: Simulator, store: Store, origin: Origin) -> None:
    thread = threading.Thread(target=_connect, args=(sim, store, origin), name=f"connect-{store.store_id}")
    running = [other for other in sim.slots.get(THREADS, ()) if other.is_alive()]
    sim.slots[THREADS] = [*running, thread]
    thread.start()


def _connect(sim: Simulator, store: Store, origin: Origin) -> None:
    code: str | None = None
    try:
        if store.connectivity == "VPC_ENDPOINT_SERVICE" and not sim.xks.knows(store.proxy):
            code = "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND"
        else:
            sim.xks.health(store.proxy, origin)
    except XksError as error:
        code = connection_error_code(error)
        log.info("connecting %s failed: %s (%s)", store.store_id, code, error.message)
    except Exception:
        # Whatever it was, the store must not stay CONNECTING for ever.
        log.exception("connecting %s failed", store.store_id)
        code = "INTERNAL_ERROR"
    with sim.state.transaction() as db:
        # A disconnection in the meantime, or a later attempt, wins.
        db.execute(
            "UPDATE kms_stores SET state = ?, error_code = ?"
            " WHERE store_id = ? AND state = 'CONNECTING' AND attempt = ?",
            ("FAILED" if code else "CONNECTED", code, store.store_id, store.attempt),
        )


def recover(sim: Simulator) -> None:
    """Go on with what a killed simulator was connecting."""
    for row in sim.state.rows("SELECT * FROM kms_stores WHERE state = 'CONNECTING'"):
        _connect_in_background(sim, Store(**dict(row)), Origin(str(uuid.uuid4()), "ConnectCustomKeyStore"))


def wait_for_connections(sim: Simulator) -> None:
    """Return when no store is being connected any more."""
    for thread in sim.slots.get(THREADS, ()):
        thread.join()


def disconnect_custom_key_store(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """DisconnectCustomKeyStore; from now on the keys of the store are Unavailable."""
    store = _authorized_store(sim, request)
    with sim.state.transaction() as db:
        done = db.execute(
            "UPDATE kms_stores SET state = 'DISCONNECTED', error_code = NULL"
            " WHERE store_id = ? AND state IN ('CONNECTED', 'CONNECTING', 'FAILED')",
            (store.store_id,),
        )
    if done.rowcount != 1:
        raise _wrong_state(store, "CONNECTED or FAILED")
    return {}


def delete_custom_key_store(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """DeleteCustomKeyStore: only a disconnected one without keys, those waiting for their deletion included."""
    store = _authorized_store(sim, request)
    with sim.state.transaction() as db:
        store = find_store(sim, store.account_id, store.region, store.store_id)
        if db.execute("SELECT 1 FROM kms_keys WHERE store_id = ?", (store.store_id,)).fetchone():
            raise AwsError(
                "CustomKeyStoreHasCMKsException", f"Custom key store {store.store_id} contains KMS keys."
            )
        if store.state != "DISCONNECTED":
            raise _wrong_state(store, "DISCONNECTED")
        db.execute("DELETE FROM kms_stores WHERE store_id = ?", (store.store_id,))
    return {}
