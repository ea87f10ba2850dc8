"""Key policies: get, put, list, and the checks that AWS makes before it takes one."""

from __future__ import annotations

import json
from typing import Any

from cloudkeys.simulators.aws import access
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Caller, Simulator
from cloudkeys.simulators.aws.kms_access import authorized_key, condition_context, customer_key
from cloudkeys.simulators.aws.kms_state import Key
from cloudkeys.simulators.aws.policy import PolicySyntaxError, parse_policy

MAX_POLICY_BYTES = 32 * 1024


def default_policy(account_id: str) -> str:
    """The key policy of a key made without one: the account decides through IAM."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{account_id}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]}, indent=2)


def check_policy(sim: Simulator, caller: Caller, key: Key, policy: str, *, bypass: bool) -> None:
    """Raise AwsError MalformedPolicyDocumentException when AWS would not take the policy for this key.

    ``bypass`` leaves the lockout safety check away: that the caller may still put a key policy afterwards.
    """
    if len(policy.encode()) > MAX_POLICY_BYTES:
        raise AwsError("LimitExceededException", f"A key policy is {MAX_POLICY_BYTES} bytes at most.")
    try:
        parse_policy(policy, "resource")
    except PolicySyntaxError as error:
        raise AwsError("MalformedPolicyDocumentException", str(error)) from None
    if access.unknown_principals(sim, policy):
        raise AwsError(
            "MalformedPolicyDocumentException",
            "Policy contains a statement with one or more invalid principals.",
        )
    if bypass:
        return
    context = condition_context(sim, caller, key, key.region)
    if not access.is_allowed(sim, caller, "kms:PutKeyPolicy", key.arn, context, policy):
        raise AwsError(
            "MalformedPolicyDocumentException",
            "The new key policy will not allow you to update the key policy in the future.",
        )


def _check_name(request: ApiRequest) -> None:
    if request.params.get("PolicyName", "default") != "default":
        raise AwsError("NotFoundException", "No such policy exists")


def get_key_policy(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """GetKeyPolicy; the only policy is called ``default``."""
    key = authorized_key(sim, request)
    _check_name(request)
    return {"Policy": key.policy, "PolicyName": "default"}


def put_key_policy(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """PutKeyPolicy, after the checks of ``check_policy``."""
    key = customer_key(sim, request)
    _check_name(request)
    policy = request.params["Policy"]
    check_policy(
        sim, request.caller, key, policy, bypass=request.params.get("BypassPolicyLockoutSafetyCheck", False)
    )
    with sim.state.transaction() as db:
        db.execute("UPDATE kms_keys SET policy = ? WHERE key_id = ?", (policy, key.key_id))
    return {}


def list_key_policies(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """ListKeyPolicies: always the one called ``default``."""
    authorized_key(sim, request)
    return {"PolicyNames": ["default"], "Truncated": False}
