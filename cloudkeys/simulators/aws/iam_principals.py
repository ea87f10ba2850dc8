"""IAM's users, groups, roles and access keys."""

from __future__ import annotations

import json
from typing import Any

from cloudkeys.simulators.aws import iam_store
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Simulator
from cloudkeys.simulators.aws.iam_requests import (
    already_exists,
    check_document,
    delete_conflict,
    document_out,
    get_principal,
    limit_exceeded,
    name_in,
    no_such_entity,
    page,
    refuse_unsupported,
    tags_in,
    tags_out,
)
from cloudkeys.simulators.aws.iam_store import Principal
from cloudkeys.simulators.aws.state import new_id, new_secret_access_key

ID_PREFIXES = {"user": "AIDA", "group": "AGPA", "role": "AROA"}
ID_LENGTH = 21
MAX_ACCESS_KEYS = 2
TRUST_POLICY_LIMIT = 2048
DEFAULT_SESSION_S, LONGEST_SESSION_S = 3600, 43200
Answer = dict[str, Any]


def _shape(principal: Principal, *, tags: bool = True) -> Answer:
    """The principal in the shape of botocore's User, Group or Role."""
    kind = principal.kind.capitalize()
    shown: Answer = {
        "Path": principal.path,
        f"{kind}Name": principal.name,
        f"{kind}Id": principal.id,
        "Arn": principal.arn,
        "CreateDate": principal.created_at,
    }
    if principal.kind == "role":
        shown["AssumeRolePolicyDocument"] = document_out(principal.trust_policy or "")
        shown["Description"] = principal.description
        shown["MaxSessionDuration"] = principal.max_session_duration
    if tags and principal.kind != "group" and principal.tags:
        shown["Tags"] = tags_out(principal.tags)
    return shown


def _insert(sim: Simulator, request: ApiRequest, kind: str, **role: Any) -> Principal:
    name = name_in(request, kind)
    account = request.caller.account_id
    if iam_store.find_principal(sim, account, kind, name) is not None:
        raise already_exists(f"{kind.capitalize()} with name {name} already exists.")
    made = Principal(
        account_id=account,
        kind=kind,
        name=name,
        id=new_id(ID_PREFIXES[kind], ID_LENGTH),
        path=request.params.get("Path") or "/",
        created_at=sim.now(),
        tags=tags_in(request.params),
        trust_policy=role.get("trust_policy"),
        description=role.get("description"),
        max_session_duration=role.get("max_session_duration"),
    )
    store_principal(sim, made)
    return made


def store_principal(sim: Simulator, made: Principal) -> None:
    """Write a new principal's row."""
    with sim.state.transaction() as db:
        db.execute(
            "INSERT INTO iam_principals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                made.account_id, made.kind, made.name, made.id, made.path, made.created_at,
                json.dumps(dict(made.tags)), made.trust_policy, made.description, made.max_session_duration,
            ),
        )  # fmt: skip


HAS_ATTACHED = "SELECT 1 FROM iam_attachments WHERE principal_id = ?"
HAS_INLINE = "SELECT 1 FROM iam_inline_policies WHERE principal_id = ?"
HAS_ACCESS_KEYS = "SELECT 1 FROM iam_access_keys WHERE user_id = ?"
HAS_GROUPS = "SELECT 1 FROM iam_memberships WHERE user_id = ?"
HAS_MEMBERS = "SELECT 1 FROM iam_memberships WHERE group_id = ?"


def _count(sim: Simulator, sql: str, principal: Principal) -> int:
    return len(sim.state.rows(sql, (principal.id,)))


def _delete(sim: Simulator, principal: Principal) -> Answer:
    if _count(sim, HAS_ATTACHED, principal):
        raise delete_conflict("detach all policies")
    if _count(sim, HAS_INLINE, principal):
        raise delete_conflict("delete policies")
    with sim.state.transaction() as db:
        db.execute("DELETE FROM iam_principals WHERE id = ?", (principal.id,))
    return {}


def get(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """GetUser, GetRole."""
    return {kind.capitalize(): _shape(get_principal(sim, request, kind))}


def list_all(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """ListUsers, ListGroups, ListRoles: below PathPrefix, by name; tags are not listed."""
    found = iam_store.list_principals(
        sim, request.caller.account_id, kind, request.params.get("PathPrefix") or "/"
    )
    shown, rest = page(found, request.params, lambda principal: principal.name)
    return {f"{kind.capitalize()}s": [_shape(principal, tags=False) for principal in shown], **rest}


def create_user(sim: Simulator, request: ApiRequest) -> Answer:
    """CreateUser."""
    refuse_unsupported(request, "PermissionsBoundary")
    return {"User": _shape(_insert(sim, request, "user"))}


def delete_user(sim: Simulator, request: ApiRequest) -> Answer:
    """DeleteUser: only without keys, policies and groups."""
    user = get_principal(sim, request, "user")
    if _count(sim, HAS_ACCESS_KEYS, user):
        raise delete_conflict("delete access keys")
    if _count(sim, HAS_GROUPS, user):
        raise delete_conflict("remove users from group")
    return _delete(sim, user)


def create_group(sim: Simulator, request: ApiRequest) -> Answer:
    """CreateGroup."""
    return {"Group": _shape(_insert(sim, request, "group"))}


def delete_group(sim: Simulator, request: ApiRequest) -> Answer:
    """DeleteGroup: only when it is empty."""
    group = get_principal(sim, request, "group")
    if _count(sim, HAS_MEMBERS, group):
        raise delete_conflict("remove users from group")
    return _delete(sim, group)


def get_group(sim: Simulator, request: ApiRequest) -> Answer:
    """GetGroup: the group and a page of its users."""
    group = get_principal(sim, request, "group")
    rows = sim.state.rows(
        "SELECT p.* FROM iam_principals p JOIN iam_memberships m ON m.user_id = p.id WHERE m.group_id = ?",
        (group.id,),
    )
    users, rest = page(
        [iam_store.principal_from(row) for row in rows], request.params, lambda user: user.name
    )
    return {"Group": _shape(group), "Users": [_shape(user, tags=False) for user in users], **rest}


def add_user_to_group(sim: Simulator, request: ApiRequest) -> Answer:
    """AddUserToGroup; a second time changes nothing."""
    group, user = get_principal(sim, request, "group"), get_principal(sim, request, "user")
    with sim.state.transaction() as db:
        db.execute(
            "INSERT OR IGNORE INTO iam_memberships VALUES (?, ?, ?)", (group.account_id, group.id, user.id)
        )
    return {}


def remove_user_from_group(sim: Simulator, request: ApiRequest) -> Answer:
    """RemoveUserFromGroup."""
    group, user = get_principal(sim, request, "group"), get_principal(sim, request, "user")
    with sim.state.transaction() as db:
        gone = db.execute(
            "DELETE FROM iam_memberships WHERE group_id = ? AND user_id = ?", (group.id, user.id)
        )
    if gone.rowcount != 1:
        raise no_such_entity(f"User {user.name} is not in the group {group.name}.")
    return {}


def list_groups_for_user(sim: Simulator, request: ApiRequest) -> Answer:
    """ListGroupsForUser."""
    found = iam_store.groups_of(sim, get_principal(sim, request, "user"))
    groups, rest = page(found, request.params, lambda group: group.name)
    return {"Groups": [_shape(group) for group in groups], **rest}


def create_role(sim: Simulator, request: ApiRequest) -> Answer:
    """CreateRole, with its trust policy checked."""
    refuse_unsupported(request, "PermissionsBoundary")
    trust = check_document(sim, request.params["AssumeRolePolicyDocument"], "trust", TRUST_POLICY_LIMIT)
    role = _insert(
        sim,
        request,
        "role",
        trust_policy=trust,
        description=request.params.get("Description"),
        max_session_duration=request.params.get("MaxSessionDuration", DEFAULT_SESSION_S),
    )
    return {"Role": _shape(role)}


def update_role(sim: Simulator, request: ApiRequest) -> Answer:
    """UpdateRole: description and longest session."""
    role = get_principal(sim, request, "role")
    with sim.state.transaction() as db:
        db.execute(
            "UPDATE iam_principals SET description = ?, max_session_duration = ? WHERE id = ?",
            (
                request.params.get("Description", role.description),
                request.params.get("MaxSessionDuration", role.max_session_duration),
                role.id,
            ),
        )
    return {}


def update_assume_role_policy(sim: Simulator, request: ApiRequest) -> Answer:
    """UpdateAssumeRolePolicy: sessions that exist go on."""
    role = get_principal(sim, request, "role")
    trust = check_document(sim, request.params["PolicyDocument"], "trust", TRUST_POLICY_LIMIT)
    with sim.state.transaction() as db:
        db.execute("UPDATE iam_principals SET trust_policy = ? WHERE id = ?", (trust, role.id))
    return {}


def delete_role(sim: Simulator, request: ApiRequest) -> Answer:
    """DeleteRole: only without policies. Its sessions end with it."""
    return _delete(sim, get_principal(sim, request, "role"))


def tag(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """TagUser, TagRole."""
    principal = get_principal(sim, request, kind)
    return _set_tags(sim, principal, {**principal.tags, **tags_in(request.params)})


def untag(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """UntagUser, UntagRole."""
    principal = get_principal(sim, request, kind)
    gone = {key.lower() for key in request.params["TagKeys"]}
    return _set_tags(
        sim, principal, {key: value for key, value in principal.tags.items() if key.lower() not in gone}
    )


def _set_tags(sim: Simulator, principal: Principal, tags: dict[str, str]) -> Answer:
    if len(tags) > 50:
        raise limit_exceeded("TagsPerEntity", 50)
    with sim.state.transaction() as db:
        db.execute("UPDATE iam_principals SET tags = ? WHERE id = ?", (json.dumps(tags), principal.id))
    return {}


def list_tags(kind: str, sim: Simulator, request: ApiRequest) -> Answer:
    """ListUserTags, ListRoleTags."""
    shown, rest = page(
        tags_out(get_principal(sim, request, kind).tags), request.params, lambda one: one["Key"]
    )
    return {"Tags": shown, **rest}


# --- access keys
# --------------------------------------------------------------------------------------------------


def create_access_key(sim: Simulator, request: ApiRequest) -> Answer:
    """CreateAccessKey: two for a user at most, inactive ones included. The secret is told this once."""
    user = get_principal(sim, request, "user")
    if _count(sim, HAS_ACCESS_KEYS, user) >= MAX_ACCESS_KEYS:
        raise limit_exceeded("AccessKeysPerUser", MAX_ACCESS_KEYS)
    access_key_id, secret, now = new_id("AKIA"), new_secret_access_key(), sim.now()
    store_access_key(sim, access_key_id, user.id, secret, now, unknown_for=sim.faults.take_late_key())
    return {
        "AccessKey": {
            "UserName": user.name,
            "AccessKeyId": access_key_id,
            "Status": "Active",
            "SecretAccessKey": secret,
            "CreateDate": now,
        }
    }


def store_access_key(
    sim: Simulator, access_key_id: str, user_id: str, secret: str, now: float, unknown_for: int = 0
) -> None:
    """Write a new access key's row; it is unknown to its first ``unknown_for`` requests."""
    with sim.state.transaction() as db:
        db.execute(
            "INSERT INTO iam_access_keys (access_key_id, user_id, secret, active, created_at, unknown_for)"
            " VALUES (?, ?, ?, 1, ?, ?)",
            (access_key_id, user_id, secret, now, unknown_for),
        )


def list_access_keys(sim: Simulator, request: ApiRequest) -> Answer:
    """ListAccessKeys, without secrets."""
    user = get_principal(sim, request, "user")
    rows = sim.state.rows("SELECT * FROM iam_access_keys WHERE user_id = ?", (user.id,))
    shown, rest = page(rows, request.params, lambda row: str(row["access_key_id"]))
    return {
        "AccessKeyMetadata": [
            {
                "UserName": user.name,
                "AccessKeyId": row["access_key_id"],
                "Status": "Active" if row["active"] else "Inactive",
                "CreateDate": row["created_at"],
            }
            for row in shown
        ],
        **rest,
    }


def update_access_key(sim: Simulator, request: ApiRequest) -> Answer:
    """UpdateAccessKey: Active or Inactive."""
    user, status = get_principal(sim, request, "user"), request.params["Status"]
    if status not in ("Active", "Inactive"):
        raise AwsError("ValidationError", f"Status {status} cannot be set.")
    with sim.state.transaction() as db:
        changed = db.execute(
            "UPDATE iam_access_keys SET active = ? WHERE access_key_id = ? AND user_id = ?",
            (int(status == "Active"), request.params["AccessKeyId"], user.id),
        )
    return _one_key(changed.rowcount, request)


def delete_access_key(sim: Simulator, request: ApiRequest) -> Answer:
    """DeleteAccessKey."""
    user = get_principal(sim, request, "user")
    with sim.state.transaction() as db:
        gone = db.execute(
            "DELETE FROM iam_access_keys WHERE access_key_id = ? AND user_id = ?",
            (request.params["AccessKeyId"], user.id),
        )
    return _one_key(gone.rowcount, request)


def _one_key(rowcount: int, request: ApiRequest) -> Answer:
    if rowcount != 1:
        raise no_such_entity(f"The Access Key with id {request.params['AccessKeyId']} cannot be found.")
    return {}


def get_access_key_last_used(sim: Simulator, request: ApiRequest) -> Answer:
    """GetAccessKeyLastUsed: when, for which service and in which region; N/A when never."""
    row = sim.state.row(
        "SELECT k.*, p.name, p.account_id FROM iam_access_keys k JOIN iam_principals p ON p.id = k.user_id"
        " WHERE k.access_key_id = ? AND p.account_id = ?",
        (request.params["AccessKeyId"], request.caller.account_id),
    )
    if row is None:
        raise no_such_entity(f"The Access Key with id {request.params['AccessKeyId']} cannot be found.")
    return {
        "UserName": row["name"],
        "AccessKeyLastUsed": {
            "LastUsedDate": row["last_used_at"],
            "ServiceName": row["last_used_service"] or "N/A",
            "Region": row["last_used_region"] or "N/A",
        },
    }


def get_account_summary(sim: Simulator, request: ApiRequest) -> Answer:
    """GetAccountSummary: the counts and quotas of what the simulator has."""
    account = request.caller.account_id
    counts = {
        row["kind"]: row["n"]
        for row in sim.state.rows(
            "SELECT kind, count(*) AS n FROM iam_principals WHERE account_id = ? GROUP BY kind", (account,)
        )
    }
    policies = sim.state.row("SELECT count(*) AS n FROM iam_policies WHERE account_id = ?", (account,))
    return {
        "SummaryMap": {
            "Users": counts.get("user", 0),
            "Groups": counts.get("group", 0),
            "Roles": counts.get("role", 0),
            "Policies": 0 if policies is None else policies["n"],
            "AccessKeysPerUserQuota": MAX_ACCESS_KEYS,
            "AssumeRolePolicySizeQuota": TRUST_POLICY_LIMIT,
        }
    }
