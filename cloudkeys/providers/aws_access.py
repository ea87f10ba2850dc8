"""What a credential may do: SimulatePrincipalPolicy where it may ask that, otherwise calls that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloudkeys.providers.aws_connection import Connection
from cloudkeys.providers.aws_errors import translated
from cloudkeys.providers.aws_policy import NEEDS, Need
from cloudkeys.providers.base import AccountReport, ActionCheck, ErrorCode, Identity, ProviderError

# Stands for any key of the account in a simulation; no such key exists.
SOME_KEY = "00000000-0000-0000-0000-000000000000"
_WORDS = {"allowed": "allowed", "explicitDeny": "denied", "implicitDeny": "denied"}


def probe_access(connection: Connection, role_arn: str) -> AccountReport:
    """Ask about every action of NEEDS. Raises ProviderError only when the credential does not work at all."""
    acting = connection.identity(fresh=True)
    user = _direct_identity(connection) if role_arn else acting
    checks: list[ActionCheck] = []
    for need in NEEDS:
        identity = user if need.whose == "user" else acting
        checks += _check(connection, need, identity, user, role_arn)
    return AccountReport(acting, tuple(checks))


def _direct_identity(connection: Connection) -> Identity:
    client = connection.client("sts", direct=True)
    with translated(connection.where):
        said = client.get_caller_identity()
    return Identity(said["Account"], said["Arn"])


def _check(
    connection: Connection, need: Need, identity: Identity, user: Identity, role_arn: str
) -> list[ActionCheck]:
    direct = need.whose == "user"
    source = identity.arn if direct or not role_arn else role_arn
    if source.endswith(":root"):
        return [
            ActionCheck(a, need.feature, "allowed", "the account's root may do everything")
            for a in need.actions
        ]
    names = {
        "partition": connection.partition,
        "account": identity.account_id,
        "user": user.arn,
        "acting": source,
    }
    resources = [
        resource.format(**names).replace("*:" + identity.account_id, f"eu-west-1:{identity.account_id}")
        if resource != "*"
        else resource
        for resource in need.resources
    ]
    resources = [
        each.replace("key/*", f"key/{SOME_KEY}").replace("alias/*", "alias/keystead-test")
        for each in resources
    ]
    try:
        return _simulate(connection, need, source, resources, direct)
    except ProviderError as error:
        if error.code not in (ErrorCode.ACCESS_DENIED, ErrorCode.NOT_FOUND, ErrorCode.INVALID_REQUEST):
            raise
    return [_try(connection, need, action, direct) for action in need.actions]


def _simulate(
    connection: Connection, need: Need, source: str, resources: list[str], direct: bool
) -> list[ActionCheck]:
    client = connection.client("iam", direct=direct)
    request: dict[str, Any] = {
        "PolicySourceArn": source,
        "ActionNames": list(need.actions),
        "ResourceArns": resources,
    }
    found: dict[str, str] = {}
    while True:
        with translated(connection.where):
            page = client.simulate_principal_policy(**request)
        for result in page["EvaluationResults"]:
            word = _WORDS.get(result["EvalDecision"], "unknown")
            # An action on two resources is allowed when it is on both.
            if found.get(result["EvalActionName"]) != "denied":
                found[result["EvalActionName"]] = word
        if not page.get("IsTruncated"):
            break
        request["Marker"] = page["Marker"]
    return [
        ActionCheck(action, need.feature, found.get(action, "unknown"), "by policy simulation")
        for action in need.actions
    ]


_TRIALS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "kms:DescribeCustomKeyStores": ("kms", "describe_custom_key_stores", {"Limit": 1}),
    "kms:ListKeys": ("kms", "list_keys", {"Limit": 1}),
    "kms:ListAliases": ("kms", "list_aliases", {"Limit": 1}),
    "iam:ListUsers": ("iam", "list_users", {"MaxItems": 1}),
    "iam:ListRoles": ("iam", "list_roles", {"MaxItems": 1}),
    "iam:ListAccessKeys": ("iam", "list_access_keys", {"MaxItems": 1}),
}


def _try(connection: Connection, need: Need, action: str, direct: bool) -> ActionCheck:
    """Call what only reads; everything else stays unknown, since finding out would change something."""
    if action == "iam:SimulatePrincipalPolicy":
        return ActionCheck(action, need.feature, "denied", "tried")
    trial = _TRIALS.get(action)
    if trial is None:
        return ActionCheck(action, need.feature, "unknown", "not tried: it would change something")
    service, operation, request = trial
    call: Callable[..., object] = getattr(connection.client(service, direct=direct), operation)
    try:
        with translated(connection.where):
            call(**request)
    except ProviderError as error:
        if error.code == ErrorCode.ACCESS_DENIED:
            return ActionCheck(action, need.feature, "denied", "tried")
        return ActionCheck(action, need.feature, "unknown", error.cause)
    return ActionCheck(action, need.feature, "allowed", "tried")
