"""STS: who am I, and sessions of roles.

Rules from the STS API reference, AssumeRole. A session is a row; its credentials end by the simulator's
clock.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from cloudkeys.simulators.aws import access, iam_store
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Simulator
from cloudkeys.simulators.aws.iam_requests import refuse_unsupported
from cloudkeys.simulators.aws.state import new_id, new_secret_access_key

SCHEMA = iam_store.STS_SCHEMA
DEFAULT_DURATION_S = 3600
CHAINED_LIMIT_S = 3600
FORGET_AFTER_S = 86400.0


def get_caller_identity(sim: Simulator, request: ApiRequest) -> Mapping[str, Any]:
    """GetCallerIdentity: needs no permission, and none can be taken away."""
    caller = request.caller
    return {"UserId": caller.principal_id, "Account": caller.account_id, "Arn": caller.principal_arn}


def assume_role(sim: Simulator, request: ApiRequest) -> Mapping[str, Any]:
    """AssumeRole: the trust policy (with sts:ExternalId) decides, across accounts the caller's policies as
    well."""
    refuse_unsupported(
        request,
        "Policy",
        "PolicyArns",
        "Tags",
        "TransitiveTagKeys",
        "SerialNumber",
        "TokenCode",
        "ProvidedContexts",
    )
    params, caller = request.params, request.caller
    arn, session_name = params["RoleArn"], params["RoleSessionName"]
    role = iam_store.find_principal_by_arn(sim, arn)
    context = {"sts:rolesessionname": session_name, "aws:requestedregion": request.region}
    if "ExternalId" in params:
        context["sts:externalid"] = params["ExternalId"]
    if role is None or role.kind != "role" or role.trust_policy is None or caller.is_root:
        # AWS does not tell a missing role from one that does not trust the caller.
        raise AwsError(
            "AccessDenied",
            f"User: {caller.principal_arn} is not authorized to perform: sts:AssumeRole on resource: {arn}",
            403,
        )
    access.authorize(sim, caller, "sts:AssumeRole", arn, context, role.trust_policy)
    duration = params.get("DurationSeconds", DEFAULT_DURATION_S)
    if duration > (role.max_session_duration or DEFAULT_DURATION_S):
        raise AwsError(
            "ValidationError",
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        )
    if caller.role_name is not None and duration > CHAINED_LIMIT_S:
        raise AwsError(
            "ValidationError",
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role"
            " chaining",
        )
    now = sim.now()
    access_key_id, secret = new_id("ASIA"), new_secret_access_key()
    token = base64.b64encode(secrets.token_bytes(192)).decode()
    with sim.state.transaction() as db:
        db.execute("DELETE FROM sts_sessions WHERE expires_at < ?", (now - FORGET_AFTER_S,))
        db.execute(
            "INSERT INTO sts_sessions VALUES (?, ?, ?, ?, ?, ?)",
            (access_key_id, role.id, session_name, secret, token, now + duration),
        )
    return {
        "Credentials": {
            "AccessKeyId": access_key_id,
            "SecretAccessKey": secret,
            "SessionToken": token,
            "Expiration": now + duration,
        },
        "AssumedRoleUser": {
            "AssumedRoleId": f"{role.id}:{session_name}",
            "Arn": f"arn:aws:sts::{role.account_id}:assumed-role/{role.name}/{session_name}",
        },
    }


OPERATIONS: dict[str, Callable[[Simulator, ApiRequest], Mapping[str, Any]]] = {
    "GetCallerIdentity": get_caller_identity,
    "AssumeRole": assume_role,
}


def handle(sim: Simulator, request: ApiRequest) -> Mapping[str, Any]:
    """Answer one STS request."""
    if request.operation not in OPERATIONS:
        raise AwsError("NotImplemented", f"The AWS simulator does not have sts:{request.operation}.", 501)
    return OPERATIONS[request.operation](sim, request)
