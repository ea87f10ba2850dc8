"""IAM, as far as the product needs it: principals, access keys, policies, and what a policy would decide.

The stores are the simulator's own (docs/decisions/0003-simulator-own-stores.md). The operations are in
``iam_principals``, ``iam_policies`` and ``iam_simulation``; here is which operation is which function and
which resource its permission is checked against, and what the frame asks for: access keys and the first
administrator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from cloudkeys.simulators.aws import access, iam_policies, iam_principals, iam_simulation, iam_store
from cloudkeys.simulators.aws.context import Administrator, ApiRequest, AwsError, Caller, Simulator
from cloudkeys.simulators.aws.iam_requests import principal_arn
from cloudkeys.simulators.aws.iam_store import Principal

SCHEMA = iam_store.SCHEMA
ADMINISTRATOR_POLICY = "arn:aws:iam::aws:policy/AdministratorAccess"
# AWS tells the last use of a key with a delay of minutes; within this many seconds of the same use nothing
# is written.
LAST_USED_RESOLUTION_S = 60.0

Operation = Callable[[Simulator, ApiRequest], Mapping[str, Any]]
Target = Callable[[Simulator, ApiRequest], str]


def _user(sim: Simulator, request: ApiRequest) -> str:
    return principal_arn(sim, request, "user")


def _group(sim: Simulator, request: ApiRequest) -> str:
    return principal_arn(sim, request, "group")


def _role(sim: Simulator, request: ApiRequest) -> str:
    return principal_arn(sim, request, "role")


def _any(kind: str, sim: Simulator, request: ApiRequest) -> str:
    return f"arn:aws:iam::{request.caller.account_id}:{kind}{request.params.get('PathPrefix') or '/'}"


def _everything(sim: Simulator, request: ApiRequest) -> str:
    return "*"


def _source(sim: Simulator, request: ApiRequest) -> str:
    return str(request.params["PolicySourceArn"])


def _key_owner(sim: Simulator, request: ApiRequest) -> str:
    row = sim.state.row(
        "SELECT p.* FROM iam_access_keys k JOIN iam_principals p ON p.id = k.user_id"
        " WHERE k.access_key_id = ?",
        (request.params["AccessKeyId"],),
    )
    return (
        f"arn:aws:iam::{request.caller.account_id}:user/*"
        if row is None
        else iam_store.principal_from(row).arn
    )


_policy: Target = iam_policies.policy_arn_in
_on = {"User": _user, "Group": _group, "Role": _role}

OPERATIONS: dict[str, tuple[Operation, Target]] = {
    "CreateUser": (iam_principals.create_user, _user),
    "GetUser": (partial(iam_principals.get, "user"), _user),
    "ListUsers": (partial(iam_principals.list_all, "user"), partial(_any, "user")),
    "DeleteUser": (iam_principals.delete_user, _user),
    "TagUser": (partial(iam_principals.tag, "user"), _user),
    "UntagUser": (partial(iam_principals.untag, "user"), _user),
    "ListUserTags": (partial(iam_principals.list_tags, "user"), _user),
    "CreateGroup": (iam_principals.create_group, _group),
    "GetGroup": (iam_principals.get_group, _group),
    "ListGroups": (partial(iam_principals.list_all, "group"), partial(_any, "group")),
    "ListGroupsForUser": (iam_principals.list_groups_for_user, _user),
    "AddUserToGroup": (iam_principals.add_user_to_group, _group),
    "RemoveUserFromGroup": (iam_principals.remove_user_from_group, _group),
    "DeleteGroup": (iam_principals.delete_group, _group),
    "CreateRole": (iam_principals.create_role, _role),
    "GetRole": (partial(iam_principals.get, "role"), _role),
    "ListRoles": (partial(iam_principals.list_all, "role"), partial(_any, "role")),
    "UpdateRole": (iam_principals.update_role, _role),
    "UpdateAssumeRolePolicy": (iam_principals.update_assume_role_policy, _role),
    "DeleteRole": (iam_principals.delete_role, _role),
    "TagRole": (partial(iam_principals.tag, "role"), _role),
    "UntagRole": (partial(iam_principals.untag, "role"), _role),
    "ListRoleTags": (partial(iam_principals.list_tags, "role"), _role),
    "CreateAccessKey": (iam_principals.create_access_key, _user),
    "ListAccessKeys": (iam_principals.list_access_keys, _user),
    "UpdateAccessKey": (iam_principals.update_access_key, _user),
    "DeleteAccessKey": (iam_principals.delete_access_key, _user),
    "GetAccessKeyLastUsed": (iam_principals.get_access_key_last_used, _key_owner),
    "GetAccountSummary": (iam_principals.get_account_summary, _everything),
    "CreatePolicy": (iam_policies.create_policy, _policy),
    "GetPolicy": (iam_policies.get_policy, _policy),
    "ListPolicies": (iam_policies.list_policies, _everything),
    "DeletePolicy": (iam_policies.delete_policy, _policy),
    "CreatePolicyVersion": (iam_policies.create_policy_version, _policy),
    "GetPolicyVersion": (iam_policies.get_policy_version, _policy),
    "ListPolicyVersions": (iam_policies.list_policy_versions, _policy),
    "SetDefaultPolicyVersion": (iam_policies.set_default_policy_version, _policy),
    "DeletePolicyVersion": (iam_policies.delete_policy_version, _policy),
    "SimulatePrincipalPolicy": (iam_simulation.simulate_principal_policy, _source),
}
for _name, _target in _on.items():
    _kind = _name.lower()
    OPERATIONS |= {
        f"Put{_name}Policy": (partial(iam_policies.put_inline, _kind), _target),
        f"Get{_name}Policy": (partial(iam_policies.get_inline, _kind), _target),
        f"List{_name}Policies": (partial(iam_policies.list_inline, _kind), _target),
        f"Delete{_name}Policy": (partial(iam_policies.delete_inline, _kind), _target),
        f"Attach{_name}Policy": (partial(iam_policies.attach, _kind), _target),
        f"Detach{_name}Policy": (partial(iam_policies.detach, _kind), _target),
        f"ListAttached{_name}Policies": (partial(iam_policies.list_attached, _kind), _target),
    }


def handle(sim: Simulator, request: ApiRequest) -> Mapping[str, Any]:
    """Answer one IAM request: permission first, then the operation, in one transaction."""
    if request.operation not in OPERATIONS:
        raise AwsError("NotImplemented", f"The AWS simulator does not have iam:{request.operation}.", 501)
    operation, target = OPERATIONS[request.operation]
    with sim.state.transaction():
        context = {"iam:policyarn": request.params["PolicyArn"]} if "PolicyArn" in request.params else {}
        context["aws:requestedregion"] = request.region
        access.authorize(sim, request.caller, f"iam:{request.operation}", target(sim, request), context)
        return operation(sim, request)


def find_access_key(sim: Simulator, access_key_id: str) -> tuple[str, Caller, bool, str | None] | None:
    """The secret of an access key, whose it is, whether it may be used, and the session token that must come
    with it.

    None when there is no such key, when the fault ``late_key`` still hides it, or when the role of a session
    is gone. A session that has expired is not active.
    """
    row = sim.state.row("SELECT * FROM iam_access_keys WHERE access_key_id = ?", (access_key_id,))
    if row is None:
        return _find_session(sim, access_key_id)
    if row["unknown_for"] > 0:
        with sim.state.transaction() as db:
            db.execute(
                "UPDATE iam_access_keys SET unknown_for = unknown_for - 1 WHERE access_key_id = ?",
                (access_key_id,),
            )
        return None
    user = iam_store.find_principal_by_id(sim, row["user_id"])
    if user is None:
        return None
    caller = Caller(
        account_id=user.account_id,
        principal_arn=user.arn,
        principal_id=user.id,
        access_key_id=access_key_id,
        user_name=user.name,
    )
    return row["secret"], caller, bool(row["active"]), None


def _find_session(sim: Simulator, access_key_id: str) -> tuple[str, Caller, bool, str | None] | None:
    row = sim.state.row("SELECT * FROM sts_sessions WHERE access_key_id = ?", (access_key_id,))
    role = None if row is None else iam_store.find_principal_by_id(sim, row["role_id"])
    if row is None or role is None:
        return None
    caller = Caller(
        account_id=role.account_id,
        principal_arn=f"arn:aws:sts::{role.account_id}:assumed-role/{role.name}/{row['session_name']}",
        principal_id=f"{role.id}:{row['session_name']}",
        access_key_id=access_key_id,
        role_name=role.name,
        session_name=row["session_name"],
    )
    return row["secret"], caller, sim.now() < row["expires_at"], row["token"]


def record_use(sim: Simulator, caller: Caller, service: str, region: str) -> None:
    """Note for GetAccessKeyLastUsed that an authenticated request came with the caller's access key."""
    if caller.user_name is None:
        return
    noted: dict[str, tuple[str, str, float]] = sim.slots.setdefault("iam", {})
    before, now = noted.get(caller.access_key_id), sim.now()
    if before is not None and before[:2] == (service, region) and now - before[2] < LAST_USED_RESOLUTION_S:
        return
    with sim.state.transaction() as db:
        db.execute(
            "UPDATE iam_access_keys SET last_used_at = ?, last_used_service = ?, last_used_region = ?"
            " WHERE access_key_id = ?",
            (now, service, region, caller.access_key_id),
        )
    noted[caller.access_key_id] = (service, region, now)


def ensure_administrator(sim: Simulator, administrator: Administrator) -> None:
    """Make the IAM user of an account's first administrator, with its key and all permissions; once."""
    with sim.state.transaction() as db:
        if iam_store.find_principal_by_id(sim, administrator.user_id) is not None:
            return
        now = sim.now()
        iam_principals.store_principal(
            sim,
            Principal(
                administrator.account_id, "user", administrator.user_name, administrator.user_id, "/", now,
                {}, None, None, None,
            ),
        )  # fmt: skip
        iam_principals.store_access_key(
            sim, administrator.access_key_id, administrator.user_id, administrator.secret_access_key, now
        )
        db.execute("INSERT INTO iam_attachments VALUES (?, ?)", (administrator.user_id, ADMINISTRATOR_POLICY))
