"""Aliases of KMS keys: unique in an account and region, each naming one key."""

from __future__ import annotations

import sqlite3
from typing import Any

from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Simulator
from cloudkeys.simulators.aws.kms_access import authorize_account, authorize_key, refuse_pending_deletion
from cloudkeys.simulators.aws.kms_state import Key, page, resolve_key


def _arn(request: ApiRequest, name: str) -> str:
    return f"arn:aws:kms:{request.region}:{request.caller.account_id}:{name}"


def _checked_name(request: ApiRequest) -> str:
    name: str = request.params["AliasName"]
    if not name.startswith("alias/") or name == "alias/":
        raise AwsError("ValidationException", "Alias must start with the prefix 'alias/' followed by a name.")
    if ":" in name:
        raise AwsError("ValidationException", f"{name} contains invalid characters for an alias")
    if name.startswith("alias/aws/"):
        raise AwsError("NotAuthorizedException", "Aliases that begin with alias/aws/ are reserved for AWS.")
    return name


def _target(sim: Simulator, request: ApiRequest) -> Key:
    key, _ = resolve_key(sim, request.caller.account_id, request.region, request.params["TargetKeyId"])
    authorize_key(sim, request.caller, request.operation, key)
    if key.account_id != request.caller.account_id or key.manager == "AWS":
        raise AwsError(
            "AccessDeniedException", "An alias can name a customer managed key of its own account only."
        )
    refuse_pending_deletion(key)
    return key


def _not_found(request: ApiRequest, name: str) -> AwsError:
    return AwsError("NotFoundException", f"Alias {_arn(request, name)} is not found.")


def create_alias(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """CreateAlias; the name must be free in the account and region."""
    name = _checked_name(request)
    authorize_account(sim, request.caller, request.region, request.operation, _arn(request, name))
    key = _target(sim, request)
    now = sim.now()
    try:
        with sim.state.transaction() as db:
            db.execute(
                "INSERT INTO kms_aliases VALUES (?, ?, ?, ?, ?, ?)",
                (request.caller.account_id, request.region, name, key.key_id, now, now),
            )
    except sqlite3.IntegrityError:
        raise AwsError(
            "AlreadyExistsException", f"An alias with the name {_arn(request, name)} already exists"
        ) from None
    return {}


def update_alias(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """UpdateAlias: lets the alias name another key of the same kind."""
    name = _checked_name(request)
    authorize_account(sim, request.caller, request.region, request.operation, _arn(request, name))
    account_id, region = request.caller.account_id, request.region
    row = sim.state.row(
        "SELECT key_id FROM kms_aliases WHERE account_id = ? AND region = ? AND name = ?",
        (account_id, region, name),
    )
    if row is None:
        raise _not_found(request, name)
    before, _ = resolve_key(sim, account_id, region, row["key_id"])
    authorize_key(sim, request.caller, request.operation, before)
    key = _target(sim, request)
    with sim.state.transaction() as db:
        done = db.execute(
            "UPDATE kms_aliases SET key_id = ?, updated_at = ? WHERE account_id = ? AND region = ? AND name = ?",
            (key.key_id, sim.now(), account_id, region, name),
        )
    if done.rowcount != 1:
        raise _not_found(request, name)
    return {}


def delete_alias(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """DeleteAlias; the key is not touched."""
    name = _checked_name(request)
    authorize_account(sim, request.caller, request.region, request.operation, _arn(request, name))
    account_id, region = request.caller.account_id, request.region
    row = sim.state.row(
        "SELECT key_id FROM kms_aliases WHERE account_id = ? AND region = ? AND name = ?",
        (account_id, region, name),
    )
    if row is None:
        raise _not_found(request, name)
    key, _ = resolve_key(sim, account_id, region, row["key_id"])
    authorize_key(sim, request.caller, request.operation, key)
    with sim.state.transaction() as db:
        db.execute(
            "DELETE FROM kms_aliases WHERE account_id = ? AND region = ? AND name = ?",
            (account_id, region, name),
        )
    return {}


def list_aliases(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """ListAliases of the account and region, or of one key."""
    authorize_account(sim, request.caller, request.region, request.operation)
    account_id, region = request.caller.account_id, request.region
    rows = sim.state.rows(
        "SELECT name, key_id, created_at, updated_at FROM kms_aliases"
        " WHERE account_id = ? AND region = ? ORDER BY name",
        (account_id, region),
    )
    if "KeyId" in request.params:
        key, _ = resolve_key(sim, account_id, region, request.params["KeyId"])
        rows = [row for row in rows if row["key_id"] == key.key_id]
    aliases = [
        {
            "AliasName": row["name"],
            "AliasArn": _arn(request, row["name"]),
            "TargetKeyId": row["key_id"],
            "CreationDate": row["created_at"],
            "LastUpdatedDate": row["updated_at"],
        }
        for row in rows
    ]
    listed, more = page(aliases, request.params, "AliasName", 50)
    return {"Aliases": listed, **more}
