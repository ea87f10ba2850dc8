"""IAM's policies: inline ones of users, groups and roles, managed ones with versions, and attachments."""

from __future__ import annotations

import json
import re
import sqlite3
from typing import Any

from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Simulator
from cloudkeys.simulators.aws.iam_requests import (
    already_exists,
    check_document,
    document_out,
    get_principal,
    limit_exceeded,
    no_such_entity,
    page,
    tags_in,
    tags_out,
)
from cloudkeys.simulators.aws.iam_store import AWS_MANAGED_POLICIES
from cloudkeys.simulators.aws.state import new_id

# Characters without white space (IAM, "IAM and AWS STS quotas").
INLINE_LIMITS = {"user": 2048, "group": 5120, "role": 10240}
MANAGED_LIMIT = 6144
MAX_VERSIONS = 5
MAX_ATTACHED = 10
AWS_POLICY_DATE = 1423267200.0
Answer = dict[str, Any]


def policy_arn_in(sim: Simulator, request: ApiRequest) -> str:
    """The ARN that permissions for an operation on a managed policy are checked against."""
    given = request.params.get("PolicyArn")
    if given is not None:
        return str(given)
    path = request.params.get("Path") or "/"
    return f"arn:aws:iam::{request.caller.account_id}:policy{path}{request.params['PolicyName']}"


# --- inline
# -------------------------------------------------------------------------------------------------------


def put_inline(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """PutUserPolicy, PutGroupPolicy, PutRolePolicy."""
    principal = get_principal(sim, request, kind)
    document = check_document(sim, request.params["PolicyDocument"], "identity", INLINE_LIMITS[kind])
    with sim.state.transaction() as db:
        db.execute(
            "INSERT INTO iam_inline_policies VALUES (?, ?, ?)"
            " ON CONFLICT (principal_id, name) DO UPDATE SET document = excluded.document",
            (principal.id, request.params["PolicyName"], document),
        )
    return {}


def get_inline(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """GetUserPolicy, GetGroupPolicy, GetRolePolicy."""
    principal = get_principal(sim, request, kind)
    row = sim.state.row(
        "SELECT * FROM iam_inline_policies WHERE principal_id = ? AND name = ?",
        (principal.id, request.params["PolicyName"]),
    )
    if row is None:
        raise _no_inline(kind, request)
    return {
        f"{kind.capitalize()}Name": principal.name,
        "PolicyName": row["name"],
        "PolicyDocument": document_out(row["document"]),
    }


def list_inline(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """ListUserPolicies, ListGroupPolicies, ListRolePolicies."""
    principal = get_principal(sim, request, kind)
    rows = sim.state.rows("SELECT name FROM iam_inline_policies WHERE principal_id = ?", (principal.id,))
    names, rest = page([str(row["name"]) for row in rows], request.params, str)
    return {"PolicyNames": names, **rest}


def delete_inline(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """DeleteUserPolicy, DeleteGroupPolicy, DeleteRolePolicy."""
    principal = get_principal(sim, request, kind)
    with sim.state.transaction() as db:
        gone = db.execute(
            "DELETE FROM iam_inline_policies WHERE principal_id = ? AND name = ?",
            (principal.id, request.params["PolicyName"]),
        )
    if gone.rowcount != 1:
        raise _no_inline(kind, request)
    return {}


def _no_inline(kind: str, request: ApiRequest) -> AwsError:
    return no_such_entity(f"The {kind} policy with name {request.params['PolicyName']} cannot be found.")


# --- managed
# ------------------------------------------------------------------------------------------------------


def _row(sim: Simulator, request: ApiRequest) -> sqlite3.Row:
    """The customer managed policy of the caller's account that the request names."""
    arn = request.params["PolicyArn"]
    row = sim.state.row(
        "SELECT p.*, (SELECT count(*) FROM iam_attachments a WHERE a.arn = p.arn) AS attached"
        " FROM iam_policies p WHERE arn = ? AND account_id = ?",
        (arn, request.caller.account_id),
    )
    if row is None:
        raise no_such_entity(f"Policy {arn} was not found.")
    return row


def _shape(row: sqlite3.Row) -> Answer:
    tags = json.loads(row["tags"])
    return {
        "PolicyName": row["name"],
        "PolicyId": row["id"],
        "Arn": row["arn"],
        "Path": row["path"],
        "DefaultVersionId": f"v{row['default_version']}",
        "AttachmentCount": row["attached"],
        "PermissionsBoundaryUsageCount": 0,
        "IsAttachable": True,
        "Description": row["description"],
        "CreateDate": row["created_at"],
        "UpdateDate": row["updated_at"],
        "Tags": tags_out(tags) if tags else None,
    }


def _aws_shape(sim: Simulator, arn: str) -> Answer:
    row = sim.state.row("SELECT count(*) AS n FROM iam_attachments WHERE arn = ?", (arn,))
    name = arn.rpartition("/")[2]
    return {
        "PolicyName": name,
        # AWS's own ids are fixed too; ours are made from the name, so that they stay the same.
        "PolicyId": "ANPA" + re.sub("[^A-Z]", "", name.upper()).ljust(17, "A")[:17],
        "Arn": arn,
        "Path": "/",
        "DefaultVersionId": "v1",
        "AttachmentCount": 0 if row is None else row["n"],
        "PermissionsBoundaryUsageCount": 0,
        "IsAttachable": True,
        "CreateDate": AWS_POLICY_DATE,
        "UpdateDate": AWS_POLICY_DATE,
    }


def create_policy(sim: Simulator, request: ApiRequest) -> Answer:
    """CreatePolicy."""
    name, now = request.params["PolicyName"], sim.now()
    document = check_document(sim, request.params["PolicyDocument"], "identity", MANAGED_LIMIT)
    arn, account = policy_arn_in(sim, request), request.caller.account_id
    if (
        sim.state.row("SELECT 1 FROM iam_policies WHERE account_id = ? AND name = ?", (account, name))
        is not None
    ):
        raise already_exists(f"A policy called {name} already exists. Duplicate names are not allowed.")
    with sim.state.transaction() as db:
        db.execute(
            "INSERT INTO iam_policies VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, 1, ?)",
            (
                arn, account, name, new_id("ANPA", 21), request.params.get("Path") or "/",
                request.params.get("Description"), now, now, json.dumps(tags_in(request.params)),
            ),
        )  # fmt: skip
        db.execute("INSERT INTO iam_policy_versions VALUES (?, 1, ?, ?)", (arn, document, now))
    request.params["PolicyArn"] = arn
    return {"Policy": _shape(_row(sim, request))}


def get_policy(sim: Simulator, request: ApiRequest) -> Answer:
    """GetPolicy."""
    if request.params["PolicyArn"] in AWS_MANAGED_POLICIES:
        return {"Policy": _aws_shape(sim, request.params["PolicyArn"])}
    return {"Policy": _shape(_row(sim, request))}


def list_policies(sim: Simulator, request: ApiRequest) -> Answer:
    """ListPolicies, by Scope (All, AWS, Local), OnlyAttached and PathPrefix."""
    scope, prefix = request.params.get("Scope", "All"), request.params.get("PathPrefix") or "/"
    found: list[Answer] = []
    if scope in ("All", "Local"):
        rows = sim.state.rows(
            "SELECT p.*, (SELECT count(*) FROM iam_attachments a WHERE a.arn = p.arn) AS attached"
            " FROM iam_policies p WHERE account_id = ?",
            (request.caller.account_id,),
        )
        found.extend({**_shape(row), "Tags": None, "Description": None} for row in rows)
    if scope in ("All", "AWS"):
        found.extend(_aws_shape(sim, arn) for arn in AWS_MANAGED_POLICIES)
    found = [one for one in found if one["Path"].startswith(prefix)]
    if request.params.get("OnlyAttached"):
        found = [one for one in found if one["AttachmentCount"]]
    shown, rest = page(found, request.params, lambda one: one["Arn"])
    return {"Policies": shown, **rest}


def delete_policy(sim: Simulator, request: ApiRequest) -> Answer:
    """DeletePolicy: only when nothing has it attached and one version is left."""
    row = _row(sim, request)
    if row["attached"]:
        raise AwsError("DeleteConflict", "Cannot delete a policy attached to entities.", 409)
    versions = sim.state.rows("SELECT version FROM iam_policy_versions WHERE arn = ?", (row["arn"],))
    if len(versions) > 1:
        raise AwsError(
            "DeleteConflict",
            "This policy has more than one version. Before you delete a policy, you must delete the policy's"
            " versions.",
            409,
        )
    with sim.state.transaction() as db:
        db.execute("DELETE FROM iam_policy_versions WHERE arn = ?", (row["arn"],))
        db.execute("DELETE FROM iam_policies WHERE arn = ?", (row["arn"],))
    return {}


# --- versions
# -----------------------------------------------------------------------------------------------------


def _version_shape(row: sqlite3.Row, default: int, *, document: bool) -> Answer:
    return {
        "VersionId": f"v{row['version']}",
        "IsDefaultVersion": row["version"] == default,
        "CreateDate": row["created_at"],
        "Document": document_out(row["document"]) if document else None,
    }


def _version(sim: Simulator, arn: str, name: str) -> sqlite3.Row:
    number = name.removeprefix("v").partition(".")[0]
    row = sim.state.row("SELECT * FROM iam_policy_versions WHERE arn = ? AND version = ?", (arn, number))
    if row is None:
        raise no_such_entity(f"Policy {arn} version {name} does not exist or is not attachable.")
    return row


def get_policy_version(sim: Simulator, request: ApiRequest) -> Answer:
    """GetPolicyVersion, the document with it."""
    arn, name = request.params["PolicyArn"], request.params["VersionId"]
    if arn in AWS_MANAGED_POLICIES:
        if name != "v1":
            raise no_such_entity(f"Policy {arn} version {name} does not exist or is not attachable.")
        return {
            "PolicyVersion": {
                "VersionId": "v1",
                "IsDefaultVersion": True,
                "CreateDate": AWS_POLICY_DATE,
                "Document": document_out(AWS_MANAGED_POLICIES[arn]),
            }
        }
    policy = _row(sim, request)
    return {
        "PolicyVersion": _version_shape(_version(sim, arn, name), policy["default_version"], document=True)
    }


def list_policy_versions(sim: Simulator, request: ApiRequest) -> Answer:
    """ListPolicyVersions."""
    policy = _row(sim, request)
    rows = sim.state.rows("SELECT * FROM iam_policy_versions WHERE arn = ?", (policy["arn"],))
    shown, rest = page(rows, request.params, lambda row: f"{row['version']:06}")
    return {
        "Versions": [_version_shape(row, policy["default_version"], document=False) for row in shown],
        **rest,
    }


def create_policy_version(sim: Simulator, request: ApiRequest) -> Answer:
    """CreatePolicyVersion: five at most; SetAsDefault makes it the one that counts."""
    policy = _row(sim, request)
    document = check_document(sim, request.params["PolicyDocument"], "identity", MANAGED_LIMIT)
    arn, now = policy["arn"], sim.now()
    if len(sim.state.rows("SELECT version FROM iam_policy_versions WHERE arn = ?", (arn,))) >= MAX_VERSIONS:
        raise limit_exceeded("VersionsPerPolicy", MAX_VERSIONS)
    number = policy["last_version"] + 1
    default = number if request.params.get("SetAsDefault") else policy["default_version"]
    with sim.state.transaction() as db:
        db.execute("INSERT INTO iam_policy_versions VALUES (?, ?, ?, ?)", (arn, number, document, now))
        db.execute(
            "UPDATE iam_policies SET last_version = ?, default_version = ?, updated_at = ? WHERE arn = ?",
            (number, default, now, arn),
        )
    return {"PolicyVersion": _version_shape(_version(sim, arn, f"v{number}"), default, document=False)}


def set_default_policy_version(sim: Simulator, request: ApiRequest) -> Answer:
    """SetDefaultPolicyVersion."""
    policy = _row(sim, request)
    version = _version(sim, policy["arn"], request.params["VersionId"])
    with sim.state.transaction() as db:
        db.execute(
            "UPDATE iam_policies SET default_version = ?, updated_at = ? WHERE arn = ?",
            (version["version"], sim.now(), policy["arn"]),
        )
    return {}


def delete_policy_version(sim: Simulator, request: ApiRequest) -> Answer:
    """DeletePolicyVersion: not the default one."""
    policy = _row(sim, request)
    version = _version(sim, policy["arn"], request.params["VersionId"])
    if version["version"] == policy["default_version"]:
        raise AwsError("DeleteConflict", "Cannot delete the default version of a policy.", 409)
    with sim.state.transaction() as db:
        db.execute(
            "DELETE FROM iam_policy_versions WHERE arn = ? AND version = ?",
            (policy["arn"], version["version"]),
        )
    return {}


# --- attachments
# --------------------------------------------------------------------------------------------------


def attach(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """AttachUserPolicy, AttachGroupPolicy, AttachRolePolicy; a second time changes nothing."""
    principal, arn = get_principal(sim, request, kind), request.params["PolicyArn"]
    if arn not in AWS_MANAGED_POLICIES:
        _row(sim, request)
    attached = {
        row["arn"]
        for row in sim.state.rows("SELECT arn FROM iam_attachments WHERE principal_id = ?", (principal.id,))
    }
    if arn not in attached and len(attached) >= MAX_ATTACHED:
        raise limit_exceeded(f"PoliciesPer{kind.capitalize()}", MAX_ATTACHED)
    with sim.state.transaction() as db:
        db.execute("INSERT OR IGNORE INTO iam_attachments VALUES (?, ?)", (principal.id, arn))
    return {}


def detach(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """DetachUserPolicy, DetachGroupPolicy, DetachRolePolicy."""
    principal, arn = get_principal(sim, request, kind), request.params["PolicyArn"]
    with sim.state.transaction() as db:
        gone = db.execute(
            "DELETE FROM iam_attachments WHERE principal_id = ? AND arn = ?", (principal.id, arn)
        )
    if gone.rowcount != 1:
        raise no_such_entity(f"Policy {arn} was not found.")
    return {}


def list_attached(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """ListAttachedUserPolicies, ListAttachedGroupPolicies, ListAttachedRolePolicies."""
    principal = get_principal(sim, request, kind)
    rows = sim.state.rows("SELECT arn FROM iam_attachments WHERE principal_id = ?", (principal.id,))
    shown, rest = page([str(row["arn"]) for row in rows], request.params, str)
    return {
        "AttachedPolicies": [{"PolicyName": arn.rpartition("/")[2], "PolicyArn": arn} for arn in shown],
        **rest,
    }
