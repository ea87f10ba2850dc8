"""SimulatePrincipalPolicy: the evaluator that really decides is asked, so that its answers are true."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping
from typing import Any

from cloudkeys.simulators.aws import access, iam_store
from cloudkeys.simulators.aws.conditions import ContextValue
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Simulator
from cloudkeys.simulators.aws.iam_requests import no_such_entity, page, refuse_unsupported
from cloudkeys.simulators.aws.iam_store import Principal
from cloudkeys.simulators.aws.policy import ACTION, PolicySyntaxError, parse_policy

Answer = dict[str, Any]


def simulate_principal_policy(sim: Simulator, request: ApiRequest) -> Answer:
    """SimulatePrincipalPolicy: one result for each action and resource, in pages."""
    refuse_unsupported(
        request,
        "PermissionsBoundaryPolicyInputList",
        "ResourceHandlingOption",
        "CallerArn",
        "PolicyExclusionList",
    )
    params = request.params
    source = iam_store.find_principal_by_arn(sim, params["PolicySourceArn"])
    if source is None or source.account_id != request.caller.account_id:
        raise no_such_entity(f"The entity with name {params['PolicySourceArn']} cannot be found.")
    for action in params["ActionNames"]:
        if not ACTION.fullmatch(action) or "*" in action or "?" in action:
            raise AwsError("InvalidInput", f"Invalid Action name: {action}")
    for text, kind in itertools.chain(
        ((text, "identity") for text in params.get("PolicyInputList") or ()),
        ((text, "resource") for text in (params.get("ResourcePolicy"),) if text is not None),
    ):
        try:
            parse_policy(text, kind)
        except PolicySyntaxError as error:
            raise AwsError("InvalidInput", f"Invalid policy: {error}") from error
    identity = access.simulated_identity(sim, source, params.get("PolicyInputList") or ())
    context = _context(sim, source, params)
    resources = params.get("ResourceArns") or ["*"]
    numbered = list(enumerate(itertools.product(params["ActionNames"], resources)))
    shown, rest = page(numbered, params, lambda pair: f"{pair[0]:08}")
    results = [_result(identity, action, resource, context, params) for _, (action, resource) in shown]
    return {"EvaluationResults": results, **rest}


def _context(sim: Simulator, source: Principal, params: Mapping[str, Any]) -> dict[str, ContextValue]:
    """The context keys that follow from the principal, and over them those that the request gives."""
    now = sim.now()
    context: dict[str, ContextValue] = {
        "aws:principalarn": source.arn,
        "aws:principalaccount": source.account_id,
        "aws:principaltype": source.kind.capitalize(),
        "aws:userid": source.id,
        "aws:currenttime": dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "aws:epochtime": str(int(now)),
    }
    if source.kind == "user":
        context["aws:username"] = source.name
    for entry in params.get("ContextEntries") or ():
        values = [str(value) for value in entry.get("ContextKeyValues") or ()]
        listed = str(entry.get("ContextKeyType", "string")).endswith("List")
        context[str(entry["ContextKeyName"]).lower()] = values if listed or len(values) != 1 else values[0]
    return context


def _result(
    identity: access.Identity,
    action: str,
    resource: str,
    context: Mapping[str, ContextValue],
    params: Mapping[str, Any],
) -> Answer:
    owner = params.get("ResourceOwner") or ""
    decision = access.decide(
        identity,
        action,
        resource,
        context,
        resource_policy=params.get("ResourcePolicy"),
        resource_account=owner.split(":")[4] if owner.count(":") >= 5 else None,
        resource_policy_decides=params.get("ResourcePolicy") is not None
        and action.lower().startswith("kms:"),
    )
    matched = [
        {"SourcePolicyId": policy.id, "SourcePolicyType": policy.type}
        for policy in dict.fromkeys(decision.matched)
    ]
    missing = _missing_keys(identity, action, resource, context)
    shown: Answer = {
        "EvalActionName": action,
        "EvalResourceName": resource,
        "EvalDecision": decision.verdict,
        "MatchedStatements": matched,
        "MissingContextValues": missing,
    }
    if params.get("ResourceArns"):
        shown["ResourceSpecificResults"] = [
            {
                "EvalResourceName": resource,
                "EvalResourceDecision": decision.verdict,
                "MatchedStatements": matched,
                "MissingContextValues": missing,
            }
        ]
    return shown


def _missing_keys(
    identity: access.Identity, action: str, resource: str, context: Mapping[str, ContextValue]
) -> list[str]:
    """The context keys that statements about this action and resource ask for and the request did not
    give."""
    missing: dict[str, None] = {}
    for source in identity.policies:
        for statement in parse_policy(source.document, "identity").statements:
            if statement.concerns(action, resource, context):
                missing.update({line.key: None for line in statement.conditions if line.key not in context})
    return list(missing)
