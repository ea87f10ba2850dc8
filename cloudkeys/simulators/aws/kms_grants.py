"""Grants on KMS keys: permission for one principal, given beside the key policy."""

from __future__ import annotations

import json
import secrets
import sqlite3
from typing import Any

from cloudkeys.simulators.aws import access
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Caller, Simulator
from cloudkeys.simulators.aws.kms_access import (
    GRANT_OPERATIONS,
    authorize_account,
    authorize_key,
    authorized_key,
    refuse_unusable,
    unsupported,
)
from cloudkeys.simulators.aws.kms_state import Key, find_key, page, resolve_key


def _check_dry_run(request: ApiRequest) -> None:
    if request.params.get("DryRun"):
        raise AwsError(
            "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.", 412
        )


def create_grant(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """CreateGrant; the same request under the same name gives the grant that is there."""
    params, caller = request.params, request.caller
    key, _ = resolve_key(sim, caller.account_id, request.region, params["KeyId"])
    operations, constraints = params["Operations"], params.get("Constraints", {})
    extra = {"kms:GrantOperations": operations, "kms:GranteePrincipal": params.get("GranteePrincipal", "")}
    authorize_key(sim, caller, "CreateGrant", key, extra=extra)
    if "GranteeServicePrincipal" in params or "RetiringServicePrincipal" in params:
        raise unsupported("The simulator's grants name IAM principals only.")
    if "GranteePrincipal" not in params:
        raise AwsError("ValidationException", "GranteePrincipal must be given.")
    refused = set(operations) - GRANT_OPERATIONS
    if refused or not operations:
        raise AwsError(
            "ValidationException", "Operations must be some that a symmetric encryption key supports."
        )
    for name in ("GranteePrincipal", "RetiringPrincipal"):
        if name in params:
            _check_principal(sim, params[name])
    refuse_unusable(key)
    _check_dry_run(request)
    wanted = {
        "grantee": params["GranteePrincipal"],
        "retiring": params.get("RetiringPrincipal"),
        "operations": json.dumps(sorted(set(operations))),
        "constraints": json.dumps(constraints, sort_keys=True),
    }
    with sim.state.transaction() as db:
        if "Name" in params:
            for row in db.execute(
                "SELECT * FROM kms_grants WHERE key_id = ? AND name = ?", (key.key_id, params["Name"])
            ):
                if all(row[column] == value for column, value in wanted.items()):
                    return {"GrantToken": row["token"], "GrantId": row["grant_id"]}
        grant_id, token = secrets.token_hex(32), secrets.token_urlsafe(96)
        db.execute(
            "INSERT INTO kms_grants (grant_id, key_id, token, name, grantee, retiring, operations, constraints,"
            " issuing_account, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                grant_id,
                key.key_id,
                token,
                params.get("Name"),
                *wanted.values(),
                f"arn:aws:iam::{caller.account_id}:root",
                sim.now(),
            ),
        )
    return {"GrantToken": token, "GrantId": grant_id}


def _check_principal(sim: Simulator, arn: str) -> None:
    statement = {"Effect": "Allow", "Principal": {"AWS": arn}, "Action": "kms:*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    if not arn.startswith("arn:aws:") or access.unknown_principals(sim, document):
        raise AwsError("InvalidArnException", f"{arn} is not a principal that exists.")


def _entry(row: sqlite3.Row, key: Key) -> dict[str, Any]:
    entry = {
        "KeyId": key.arn,
        "GrantId": row["grant_id"],
        "Name": row["name"] or "",
        "CreationDate": row["created_at"],
        "GranteePrincipal": row["grantee"],
        "RetiringPrincipal": row["retiring"],
        "IssuingAccount": row["issuing_account"],
        "Operations": json.loads(row["operations"]),
        "Constraints": json.loads(row["constraints"]) or None,
    }
    return {name: value for name, value in entry.items() if value is not None}


def list_grants(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """ListGrants of one key, by id or grantee where given."""
    key = authorized_key(sim, request, own_account=False)
    params = request.params
    entries = [
        _entry(row, key)
        for row in sim.state.rows(
            "SELECT * FROM kms_grants WHERE key_id = ? ORDER BY grant_id", (key.key_id,)
        )
        if params.get("GrantId", row["grant_id"]) == row["grant_id"]
        and params.get("GranteePrincipal", row["grantee"]) == row["grantee"]
    ]
    listed, more = page(entries, params, "GrantId", 50)
    return {"Grants": listed, **more}


def list_retirable_grants(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """ListRetirableGrants: those that a principal may retire."""
    caller, params = request.caller, request.params
    authorize_account(sim, caller, request.region, request.operation)
    entries = []
    for row in sim.state.rows(
        "SELECT * FROM kms_grants WHERE retiring = ? ORDER BY grant_id",
        (params.get("RetiringPrincipal", ""),),
    ):
        key = find_key(sim, row["key_id"])
        if key is not None and (key.account_id, key.region) == (caller.account_id, request.region):
            entries.append(_entry(row, key))
    listed, more = page(entries, params, "GrantId", 50)
    return {"Grants": listed, **more}


def revoke_grant(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """RevokeGrant, by whom the key policy lets."""
    key = authorized_key(sim, request, own_account=False)
    row = sim.state.row(
        "SELECT 1 FROM kms_grants WHERE key_id = ? AND grant_id = ?", (key.key_id, request.params["GrantId"])
    )
    if row is None:
        raise AwsError("NotFoundException", f"Grant ID {request.params['GrantId']} not found")
    _check_dry_run(request)
    with sim.state.transaction() as db:
        db.execute("DELETE FROM kms_grants WHERE grant_id = ?", (request.params["GrantId"],))
    return {}


def retire_grant(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """RetireGrant: by the retiring principal, by a grantee who was given RetireGrant, or by whom policies let."""
    caller = request.caller
    row = _named_grant(sim, request)
    key = None if row is None else find_key(sim, row["key_id"])
    if row is None or key is None:
        raise AwsError("NotFoundException", "The grant is not found.")
    if not _may_retire(sim, caller, row):
        authorize_key(sim, caller, "RetireGrant", key)
    _check_dry_run(request)
    with sim.state.transaction() as db:
        db.execute("DELETE FROM kms_grants WHERE grant_id = ?", (row["grant_id"],))
    return {}


def _named_grant(sim: Simulator, request: ApiRequest) -> sqlite3.Row | None:
    params = request.params
    if "GrantToken" in params:
        return sim.state.row("SELECT * FROM kms_grants WHERE token = ?", (params["GrantToken"],))
    if "KeyId" not in params or "GrantId" not in params:
        raise AwsError("ValidationException", "Give GrantToken, or both KeyId and GrantId.")
    key, _ = resolve_key(sim, request.caller.account_id, request.region, params["KeyId"])
    return sim.state.row(
        "SELECT * FROM kms_grants WHERE grant_id = ? AND key_id = ?", (params["GrantId"], key.key_id)
    )


def _may_retire(sim: Simulator, caller: Caller, row: sqlite3.Row) -> bool:
    names = access.identity_of(sim, caller).arns
    granted = row["grantee"] in names and "RetireGrant" in json.loads(row["operations"])
    return row["retiring"] in names or granted
