"""May this principal do this? The policy evaluation of IAM, for every service of the simulator.

Rules from the IAM User Guide, "Policy evaluation logic": an explicit deny wins; within one account either an
identity policy or a resource policy that names the principal allows; across accounts both must. A key policy
and a role's trust policy are stricter: they alone decide, and identity policies count only where they name
the account (KMS Developer Guide, "Default key policy"; IAM, "How to use trust policies").
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cloudkeys.simulators.aws import iam_store
from cloudkeys.simulators.aws.conditions import ContextValue
from cloudkeys.simulators.aws.context import AwsError, Caller, Simulator
from cloudkeys.simulators.aws.iam_store import PolicySource
from cloudkeys.simulators.aws.policy import ACCOUNT_ID, Statement, parse_policy, principal_names

ALLOWED, EXPLICIT_DENY, IMPLICIT_DENY = "allowed", "explicitDeny", "implicitDeny"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as policies see it.

    ``arns`` are all names under which a resource policy may mean this principal (a session also goes by its
    role). ``is_root`` is the account itself: no identity policy limits it.
    """

    account_id: str
    arn: str
    arns: tuple[str, ...]
    policies: tuple[PolicySource, ...] = ()
    is_root: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """``verdict`` is allowed, explicitDeny or implicitDeny; ``reason`` is the end of AWS's denial
    sentence."""

    verdict: str
    reason: str = ""
    matched: tuple[PolicySource, ...] = ()


@dataclass(slots=True)
class _Findings:
    """What one set of statements says: the sources that allow and deny, and how a resource policy allowed."""

    allows: list[PolicySource] = field(default_factory=list)
    denies: list[PolicySource] = field(default_factory=list)
    account_allows: list[PolicySource] = field(default_factory=list)


def _identity_findings(
    identity: Identity, action: str, resource: str, context: Mapping[str, ContextValue]
) -> _Findings:
    found = _Findings()
    for source in identity.policies:
        for statement in parse_policy(source.document, "identity").statements:
            if statement.covers(action, resource, context):
                (found.allows if statement.allow else found.denies).append(source)
    return found


def _named(statement: Statement, identity: Identity) -> str:
    """How a resource policy's statement means the caller: "principal", "account" or "" (not at all)."""
    if statement.principals is None:
        return ""
    directly = statement.principals.matches_directly(identity.arns)
    if statement.not_principals:
        return "" if directly else "principal"
    if directly:
        return "principal"
    return "account" if statement.principals.matches_account(identity.account_id) else ""


def _resource_findings(
    identity: Identity,
    source: PolicySource,
    kind: str,
    action: str,
    resource: str,
    context: Mapping[str, ContextValue],
) -> _Findings:
    found = _Findings()
    for statement in parse_policy(source.document, kind).statements:
        how = _named(statement, identity)
        if not how or not statement.covers(action, resource, context):
            continue
        if not statement.allow:
            # A denial of the account is a denial of everybody in it.
            found.denies.append(source)
        elif how == "principal" or identity.is_root:
            found.allows.append(source)
        else:
            found.account_allows.append(source)
    return found


def decide(
    identity: Identity,
    action: str,
    resource: str,
    context: Mapping[str, ContextValue],
    *,
    resource_policy: str | None = None,
    resource_account: str | None = None,
    resource_policy_decides: bool = False,
) -> Decision:
    """What the policies say, without any look at the simulator's state.

    ``context`` keys are lower case. ``resource_account`` None means the caller's own.
    ``resource_policy_decides`` is the rule of key policies and trust policies.
    """
    by_identity = _identity_findings(identity, action, resource, context)
    if by_identity.denies:
        return Decision(
            EXPLICIT_DENY, "with an explicit deny in an identity-based policy", tuple(by_identity.denies)
        )
    identity_allows = bool(by_identity.allows) or identity.is_root
    by_resource = _Findings()
    if resource_policy is not None:
        source = PolicySource("ResourcePolicy", "resource", resource_policy)
        kind = "trust" if action.lower().startswith("sts:assumerole") else "resource"
        by_resource = _resource_findings(identity, source, kind, action, resource, context)
    if by_resource.denies:
        return Decision(
            EXPLICIT_DENY, "with an explicit deny in a resource-based policy", tuple(by_resource.denies)
        )
    no_identity = f"because no identity-based policy allows the {action} action"
    no_resource = f"because no resource-based policy allows the {action} action"
    matched = tuple(by_identity.allows + by_resource.allows + by_resource.account_allows)
    if resource_account is not None and resource_account != identity.account_id:
        if not (by_resource.allows or by_resource.account_allows):
            return Decision(IMPLICIT_DENY, no_resource, matched)
        return (
            Decision(ALLOWED, "", matched)
            if identity_allows
            else Decision(IMPLICIT_DENY, no_identity, matched)
        )
    if by_resource.allows:
        return Decision(ALLOWED, "", matched)
    if resource_policy_decides and not by_resource.account_allows:
        return Decision(IMPLICIT_DENY, no_resource, matched)
    return (
        Decision(ALLOWED, "", matched) if identity_allows else Decision(IMPLICIT_DENY, no_identity, matched)
    )


def identity_of(sim: Simulator, caller: Caller) -> Identity:
    """The caller with every policy that speaks for it. A principal that was deleted meanwhile has none."""
    principal = None
    if caller.user_name is not None:
        principal = iam_store.find_principal(sim, caller.account_id, "user", caller.user_name)
    elif caller.role_name is not None:
        principal = iam_store.find_principal(sim, caller.account_id, "role", caller.role_name)
    if principal is None or caller.principal_id.partition(":")[0] != principal.id:
        return Identity(caller.account_id, caller.principal_arn, (caller.principal_arn,), (), caller.is_root)
    return Identity(
        caller.account_id,
        caller.principal_arn,
        tuple(dict.fromkeys((caller.principal_arn, principal.arn))),
        tuple(iam_store.identity_policies(sim, principal)),
        caller.is_root,
    )


def global_context(sim: Simulator, caller: Caller) -> dict[str, ContextValue]:
    """The context keys that every request has, in lower case (IAM, "AWS global condition context keys")."""
    now = sim.now()
    context: dict[str, ContextValue] = {
        "aws:principalarn": caller.principal_arn,
        "aws:principalaccount": caller.account_id,
        "aws:principaltype": "AssumedRole" if caller.role_name else "Account" if caller.is_root else "User",
        "aws:userid": caller.principal_id,
        "aws:currenttime": dt.datetime.fromtimestamp(now, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "aws:epochtime": str(int(now)),
        "aws:securetransport": "false",
        "aws:sourceip": "127.0.0.1",
        "kms:calleraccount": caller.account_id,
    }
    if caller.source is not None:
        context["aws:viaawsservice"] = "true"
    else:
        context["aws:viaawsservice"] = "false"
    principal = None
    if caller.user_name is not None:
        context["aws:username"] = caller.user_name
        principal = iam_store.find_principal(sim, caller.account_id, "user", caller.user_name)
    elif caller.role_name is not None:
        principal = iam_store.find_principal(sim, caller.account_id, "role", caller.role_name)
        if principal is not None:
            # For a session aws:PrincipalArn is the role, path included, not the session.
            context["aws:principalarn"] = principal.arn
    if principal is not None:
        context.update({f"aws:principaltag/{name.lower()}": value for name, value in principal.tags.items()})
    return context


def _account_in(arn: str) -> str | None:
    """The account of an ARN, None where there is none: S3's, and the policies that AWS keeps ("aws")."""
    parts = arn.split(":", 5)
    return parts[4] if len(parts) == 6 and ACCOUNT_ID.fullmatch(parts[4]) else None


def _denied(caller: Caller, action: str, resource: str, decision: Decision) -> AwsError:
    service = action.partition(":")[0]
    shown = f'"{resource}"' if service == "s3" else resource
    message = f"User: {caller.principal_arn} is not authorized to perform: {action} on resource: {shown}"
    explicit = decision.verdict == EXPLICIT_DENY
    if not (service == "sts" and not explicit):
        message += f" {decision.reason}"
    code, status = ("AccessDeniedException", 400) if service == "kms" else ("AccessDenied", 403)
    return AwsError(code, message, status, {"explicit_deny": explicit})


def authorize(
    sim: Simulator,
    caller: Caller,
    action: str,
    resource_arn: str,
    context: Mapping[str, ContextValue],
    resource_policy: str | None = None,
    *,
    resource_account: str | None = None,
) -> None:
    """Return when the caller may do ``action`` on ``resource_arn``, else raise AwsError as AWS does.

    ``context`` holds the service's own condition keys (any case); the global ones are added here.
    ``resource_policy`` is the text of the key, bucket or trust policy. ``resource_account`` is needed only
    where the ARN has no account (S3). The error is AccessDeniedException (400) for KMS and AccessDenied
    (403) for the others, with ``extra["explicit_deny"]``: after an implicit denial KMS may still find a grant.
    """
    merged = global_context(sim, caller)
    merged.update({name.lower(): value for name, value in context.items()})
    decision = decide(
        identity_of(sim, caller),
        action,
        resource_arn,
        merged,
        resource_policy=resource_policy,
        resource_account=resource_account or _account_in(resource_arn),
        resource_policy_decides=resource_policy is not None and action.partition(":")[0] in ("kms", "sts"),
    )
    if decision.verdict != ALLOWED:
        raise _denied(caller, action, resource_arn, decision)


def is_allowed(
    sim: Simulator,
    caller: Caller,
    action: str,
    resource_arn: str,
    context: Mapping[str, ContextValue],
    resource_policy: str | None = None,
) -> bool:
    """As ``authorize``, as an answer."""
    try:
        authorize(sim, caller, action, resource_arn, context, resource_policy)
    except AwsError as error:
        if error.code not in ("AccessDenied", "AccessDeniedException"):
            raise
        return False
    return True


def unknown_principals(sim: Simulator, document: str, kind: str = "resource") -> list[str]:
    """The users and roles that a resource or trust policy names and that do not exist, in its order.

    AWS refuses such a policy. Accounts are not looked up: the simulator knows only its own.
    """
    unknown = []
    for name in principal_names(parse_policy(document, kind)):
        parts = name.split(":", 5)
        if len(parts) != 6 or parts[5] == "root" or parts[4] not in sim.settings.accounts:
            continue
        if parts[2] == "sts":
            role = parts[5].split("/")[1:2]
            known = bool(role) and iam_store.find_principal(sim, parts[4], "role", role[0]) is not None
        else:
            known = iam_store.find_principal_by_arn(sim, name) is not None
        if not known:
            unknown.append(name)
    return unknown


def simulated_identity(sim: Simulator, principal: iam_store.Principal, extra: Iterable[str] = ()) -> Identity:
    """The identity that SimulatePrincipalPolicy asks about, with additional policy documents."""
    policies: Sequence[PolicySource] = iam_store.identity_policies(sim, principal)
    added = [PolicySource(f"PolicyInputList.{n}", "none", text) for n, text in enumerate(extra, start=1)]
    return Identity(principal.account_id, principal.arn, (principal.arn,), (*policies, *added))
