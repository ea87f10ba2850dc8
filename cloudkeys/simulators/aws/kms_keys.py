"""KMS keys: create, describe, list, enable, disable, describe anew, schedule and cancel deletion."""

from __future__ import annotations

import json
import secrets
import sqlite3
import uuid
from typing import Any

from cloudkeys.simulators.aws import kms_policies, kms_tags
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Simulator
from cloudkeys.simulators.aws.kms_access import (
    authorize_account,
    authorize_key,
    customer_key,
    refuse_pending_deletion,
    unsupported,
)
from cloudkeys.simulators.aws.kms_state import (
    KEY_COLUMNS,
    Key,
    Store,
    find_key,
    find_store,
    key_from,
    page,
    resolve_key,
)
from cloudkeys.simulators.aws.kms_stores import connection_error_code
from cloudkeys.simulators.aws.xks_client import Origin, XksError

MATERIAL_BYTES = 32
DAY_S = 86400.0
MIN_WINDOW_DAYS, MAX_WINDOW_DAYS = 7, 30
STATE_WORDS = {"PendingDeletion": "pending deletion", "PendingImport": "pending import"}


def create_key(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """CreateKey of origin AWS_KMS, EXTERNAL or EXTERNAL_KEY_STORE; the last asks the proxy for the key's metadata."""
    params, caller = request.params, request.caller
    authorize_account(sim, caller, request.region, "CreateKey")
    tags = kms_tags.check_tags(params.get("Tags", ()))
    if tags:
        authorize_account(sim, caller, request.region, "TagResource")
    origin = params.get("Origin", "AWS_KMS")
    _check_shape(params, origin)
    key_id = str(uuid.uuid4())
    policy = params.get("Policy") or kms_policies.default_policy(caller.account_id)
    store: Store | None = None
    if origin == "EXTERNAL_KEY_STORE":
        store = find_store(sim, caller.account_id, request.region, params["CustomKeyStoreId"])
        _check_external_key(sim, request, store)
    key = Key(
        key_id=key_id,
        account_id=caller.account_id,
        region=request.region,
        description=params.get("Description", ""),
        origin=origin,
        manager="CUSTOMER",
        state="PendingImport" if origin == "EXTERNAL" else "Enabled",
        policy=policy,
        material=None if origin == "EXTERNAL" else secrets.token_bytes(MATERIAL_BYTES),
        store_id=None if store is None else store.store_id,
        xks_key_id=params.get("XksKeyId"),
        created_at=sim.now(),
        deletion_at=None,
        store_state=None if store is None else "CONNECTED",
    )
    kms_policies.check_policy(
        sim, caller, key, policy, bypass=params.get("BypassPolicyLockoutSafetyCheck", False)
    )
    with sim.state.transaction() as db:
        if (
            store is not None
            and find_store(sim, store.account_id, store.region, store.store_id).state != "CONNECTED"
        ):
            raise _not_connected(store)
        insert_key(db, key)
        for name, value in tags.items():
            db.execute("INSERT INTO kms_tags VALUES (?, ?, ?)", (key_id, name, value))
    return {"KeyMetadata": key_metadata(sim, key)}


def insert_key(db: sqlite3.Connection, key: Key) -> None:
    """Write a new key. Raises AwsError XksKeyAlreadyInUseException."""
    try:
        db.execute(
            "INSERT INTO kms_keys (key_id, account_id, region, description, origin, manager, state, policy, material,"
            " store_id, xks_key_id, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key.key_id,
                key.account_id,
                key.region,
                key.description,
                key.origin,
                key.manager,
                key.state,
                key.policy,
                key.material,
                key.store_id,
                key.xks_key_id,
                key.created_at,
            ),
        )
    except sqlite3.IntegrityError as error:
        if "xks_key_id" not in str(error):
            raise
        raise _in_use(key.xks_key_id) from None


def _in_use(xks_key_id: str | None) -> AwsError:
    return AwsError(
        "XksKeyAlreadyInUseException",
        f"The external key {xks_key_id} is already associated with another KMS key in this external key store.",
    )


def _not_connected(store: Store) -> AwsError:
    return AwsError(
        "CustomKeyStoreInvalidStateException", f"Custom key store {store.store_id} is not connected."
    )


def _check_shape(params: dict[str, Any], origin: str) -> None:
    """What the combination of parameters must be. Raises AwsError."""
    spec = params.get("KeySpec", params.get("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT"))
    if spec != "SYMMETRIC_DEFAULT" or params.get("KeyUsage", "ENCRYPT_DECRYPT") != "ENCRYPT_DECRYPT":
        raise unsupported(
            "The simulator has symmetric encryption keys (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT) only."
        )
    if params.get("MultiRegion"):
        raise unsupported("The simulator has no multi-Region keys, and AWS none in custom key stores.")
    if origin == "AWS_CLOUDHSM":
        raise unsupported("The simulator has no AWS CloudHSM key stores.")
    if origin == "EXTERNAL_KEY_STORE":
        if "CustomKeyStoreId" not in params or "XksKeyId" not in params:
            raise AwsError(
                "ValidationException",
                "CustomKeyStoreId and XksKeyId must be given with origin EXTERNAL_KEY_STORE.",
            )
    elif "CustomKeyStoreId" in params or "XksKeyId" in params:
        raise AwsError(
            "ValidationException",
            "CustomKeyStoreId and XksKeyId can be given with origin EXTERNAL_KEY_STORE only.",
        )


def _check_external_key(sim: Simulator, request: ApiRequest, store: Store) -> None:
    """Ask the proxy whether the external key can back a KMS key. Raises AwsError."""
    xks_key_id = request.params["XksKeyId"]
    if store.state != "CONNECTED":
        raise _not_connected(store)
    if sim.state.row(
        "SELECT 1 FROM kms_keys WHERE store_id = ? AND xks_key_id = ?", (store.store_id, xks_key_id)
    ):
        raise _in_use(xks_key_id)
    origin = Origin(request.request_id, "CreateKey", request.caller.principal_arn)
    try:
        found = sim.xks.metadata(store.proxy, xks_key_id, origin)
    except XksError as error:
        if error.name == "KeyNotFoundException":
            raise AwsError(
                "XksKeyNotFoundException", f"The external key store proxy has no external key {xks_key_id}."
            ) from None
        if error.kind in ("timeout", "unreachable") or error.name == "DependencyTimeoutException":
            raise AwsError(
                "DependencyTimeoutException",
                f"The external key store proxy did not answer in time: {error.message}.",
                503,
            ) from None
        code = connection_error_code(error)
        raise AwsError(
            "CustomKeyStoreInvalidStateException",
            f"AWS KMS could not use the external key store proxy ({code}): {error.name} {error.message}",
        ) from None
    wrong = []
    if found.key_spec != "AES_256":
        wrong.append(f"its key spec is {found.key_spec}, not AES_256")
    if not {"ENCRYPT", "DECRYPT"} <= set(found.key_usage):
        wrong.append("its key usage does not include both ENCRYPT and DECRYPT")
    if found.key_status != "ENABLED":
        wrong.append(f"its status is {found.key_status}, not ENABLED")
    if wrong:
        raise AwsError(
            "XksKeyInvalidConfigurationException",
            f"The external key {xks_key_id} cannot back a KMS key: {'; '.join(wrong)}.",
        )


def key_metadata(sim: Simulator, key: Key) -> dict[str, Any]:
    """The KeyMetadata of a key as DescribeKey shows it."""
    metadata: dict[str, Any] = {
        "AWSAccountId": key.account_id,
        "KeyId": key.key_id,
        "Arn": key.arn,
        "CreationDate": key.created_at,
        "Enabled": key.shown_state == "Enabled",
        "Description": key.description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": key.shown_state,
        "Origin": key.origin,
        "KeyManager": key.manager,
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
    }
    if key.store_id is not None:
        metadata["CustomKeyStoreId"] = key.store_id
        metadata["XksKeyConfiguration"] = {"Id": key.xks_key_id}
    if key.deletion_at is not None:
        metadata["DeletionDate"] = key.deletion_at
    return metadata


def describe_key(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """DescribeKey, by id, ARN or alias."""
    params, caller = request.params, request.caller
    name = params["KeyId"]
    if name in ("alias/aws/s3", f"arn:aws:kms:{request.region}:{caller.account_id}:alias/aws/s3"):
        aws_managed_key(sim, caller.account_id, request.region, "s3")
    key, alias = resolve_key(sim, caller.account_id, request.region, name, alias_allowed=True)
    authorize_key(sim, caller, "DescribeKey", key, alias=alias)
    return {"KeyMetadata": key_metadata(sim, key)}


def list_keys(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """ListKeys of the account and region."""
    authorize_account(sim, request.caller, request.region, request.operation)
    rows = sim.state.rows(
        "SELECT key_id FROM kms_keys WHERE account_id = ? AND region = ? ORDER BY key_id",
        (request.caller.account_id, request.region),
    )
    prefix = f"arn:aws:kms:{request.region}:{request.caller.account_id}:key/"
    keys = [{"KeyId": row["key_id"], "KeyArn": prefix + row["key_id"]} for row in rows]
    listed, more = page(keys, request.params, "KeyId", 100)
    return {"Keys": listed, **more}


def _switch(sim: Simulator, key: Key, state: str) -> None:
    """Make an enabled or disabled key the one or the other. Raises AwsError KMSInvalidStateException."""
    with sim.state.transaction() as db:
        done = db.execute(
            "UPDATE kms_keys SET state = ? WHERE key_id = ? AND state IN ('Enabled', 'Disabled')",
            (state, key.key_id),
        )
        if done.rowcount != 1:
            now = find_key(sim, key.key_id)
            word = "gone" if now is None else STATE_WORDS.get(now.state, now.state)
            raise AwsError("KMSInvalidStateException", f"{key.arn} is {word}.")


def enable_key(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """EnableKey; nothing changes when it is enabled."""
    _switch(sim, customer_key(sim, request), "Enabled")
    return {}


def disable_key(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """DisableKey; nothing changes when it is disabled."""
    _switch(sim, customer_key(sim, request), "Disabled")
    return {}


def update_key_description(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """UpdateKeyDescription."""
    key = customer_key(sim, request)
    refuse_pending_deletion(key)
    with sim.state.transaction() as db:
        db.execute(
            "UPDATE kms_keys SET description = ? WHERE key_id = ?",
            (request.params["Description"], key.key_id),
        )
    return {}


def schedule_key_deletion(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """ScheduleKeyDeletion in 7 to 30 days, 30 unless given."""
    days = request.params.get("PendingWindowInDays", MAX_WINDOW_DAYS)
    if not MIN_WINDOW_DAYS <= days <= MAX_WINDOW_DAYS:
        raise AwsError(
            "ValidationException",
            f"PendingWindowInDays must be between {MIN_WINDOW_DAYS} and {MAX_WINDOW_DAYS}, not {days}.",
        )
    key = customer_key(sim, request)
    deletion_at = sim.now() + days * DAY_S
    with sim.state.transaction() as db:
        done = db.execute(
            "UPDATE kms_keys SET state = 'PendingDeletion', deletion_at = ? WHERE key_id = ? AND state <> ?",
            (deletion_at, key.key_id, "PendingDeletion"),
        )
        if done.rowcount != 1:
            raise AwsError("KMSInvalidStateException", f"{key.arn} is pending deletion.")
    return {
        "KeyId": key.arn,
        "DeletionDate": deletion_at,
        "KeyState": "PendingDeletion",
        "PendingWindowInDays": days,
    }


def cancel_key_deletion(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """CancelKeyDeletion; the key is disabled afterwards (waiting for its import when it never had material)."""
    key = customer_key(sim, request)
    with sim.state.transaction() as db:
        done = db.execute(
            "UPDATE kms_keys SET state = CASE WHEN material IS NULL THEN 'PendingImport' ELSE 'Disabled' END,"
            " deletion_at = NULL WHERE key_id = ? AND state = 'PendingDeletion'",
            (key.key_id,),
        )
        if done.rowcount != 1:
            raise AwsError("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
    return {"KeyId": key.arn}


def destroy_due_keys(sim: Simulator) -> int:
    """Destroy the keys whose waiting period is over on the simulator's clock; returns how many."""
    # Asked before every request: no write lock unless there is something to do.
    if sim.state.row("SELECT 1 FROM kms_keys WHERE deletion_at <= ?", (sim.now(),)) is None:
        return 0
    with sim.state.transaction() as db:
        return db.execute("DELETE FROM kms_keys WHERE deletion_at <= ?", (sim.now(),)).rowcount


def aws_managed_key(sim: Simulator, account_id: str, region: str, service: str) -> Key:
    """The key that AWS manages for a service in an account and region (``alias/aws/s3``), made at its first use.

    Its policy lets every principal of the account use it, through that service only.
    """
    name = f"alias/aws/{service}"
    with sim.state.transaction() as db:
        row = db.execute(
            f"{KEY_COLUMNS} JOIN kms_aliases a ON a.key_id = k.key_id"
            " WHERE a.account_id = ? AND a.region = ? AND a.name = ?",
            (account_id, region, name),
        ).fetchone()
        if row is not None:
            return key_from(row)
        use = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:CreateGrant"]
        via = {"kms:CallerAccount": account_id, "kms:ViaService": f"{service}.{region}.amazonaws.com"}
        statements = [
            {
                "Sid": "Allow access through the service for all principals of the account",
                "Effect": "Allow",
                "Principal": {"AWS": "*"},
                "Action": [*use, "kms:DescribeKey"],
                "Resource": "*",
                "Condition": {"StringEquals": via},
            },
            {
                "Sid": "Allow the account to see the key",
                "Effect": "Allow",
                "Principal": {"AWS": f"arn:aws:iam::{account_id}:root"},
                "Action": ["kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant"],
                "Resource": "*",
            },
        ]
        key = Key(
            key_id=str(uuid.uuid4()),
            account_id=account_id,
            region=region,
            description=f"Default key that protects my {service.upper()} data when no other key is defined",
            origin="AWS_KMS",
            manager="AWS",
            state="Enabled",
            policy=json.dumps({"Version": "2012-10-17", "Id": f"auto-{service}-1", "Statement": statements}),
            material=secrets.token_bytes(MATERIAL_BYTES),
            store_id=None,
            xks_key_id=None,
            created_at=sim.now(),
            deletion_at=None,
            store_state=None,
        )
        insert_key(db, key)
        db.execute(
            "INSERT INTO kms_aliases VALUES (?, ?, ?, ?, ?, ?)",
            (account_id, region, name, key.key_id, key.created_at, key.created_at),
        )
    return key
