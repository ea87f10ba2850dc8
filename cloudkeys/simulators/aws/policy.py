"""IAM's policy language: a document is read once, checked as AWS checks it, and then asked about requests.

Pure functions and values; ``access`` joins them with the principals and policies of the simulator. Grammar
from the IAM User Guide, "Grammar of the IAM JSON policy language".
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cloudkeys.simulators.aws.conditions import (
    Condition,
    ContextValue,
    glob,
    matches,
    parse_condition,
    tokens,
)

ACCOUNT_ID = re.compile(r"[0-9]{12}")
ACTION = re.compile(r"[A-Za-z0-9-]+:[A-Za-z0-9*?]+")
PRINCIPAL_TYPES = ("AWS", "Service", "Federated", "CanonicalUser")
VERSIONS = ("2012-10-17", "2008-10-17")
STATEMENT_MEMBERS = frozenset(
    (
        "Sid",
        "Effect",
        "Principal",
        "NotPrincipal",
        "Action",
        "NotAction",
        "Resource",
        "NotResource",
        "Condition",
    )
)


class PolicySyntaxError(ValueError):
    """The document is not a policy; the message is AWS's for MalformedPolicyDocument."""


@dataclass(frozen=True, slots=True)
class Principals:
    """A Principal or NotPrincipal element: ``everyone`` for "*", else names by type."""

    everyone: bool
    names: Mapping[str, tuple[str, ...]]

    def matches_directly(self, arns: Iterable[str], services: Iterable[str] = ()) -> bool:
        """Is one of ``arns`` (user, role or session) or ``services`` named, or everyone?"""
        if self.everyone:
            return True
        named = self.names.get("AWS", ())
        return any(arn in named for arn in arns) or any(s in self.names.get("Service", ()) for s in services)

    def matches_account(self, account_id: str) -> bool:
        """Is the account as such named, by its id or its root's ARN?"""
        named = self.names.get("AWS", ())
        return account_id in named or any(
            name.startswith("arn:") and name.endswith(f":iam::{account_id}:root") for name in named
        )


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. ``actions`` and ``resources`` are patterns; ``not_...`` says that they are the
    exceptions."""

    sid: str
    allow: bool
    actions: tuple[str, ...]
    not_actions: bool
    resources: tuple[str, ...]
    not_resources: bool
    principals: Principals | None
    not_principals: bool
    conditions: tuple[Condition, ...]
    variables: bool

    def covers(self, action: str, resource: str, context: Mapping[str, ContextValue]) -> bool:
        """Do action, resource and conditions match? The principal is the business of the caller."""
        return self.concerns(action, resource, context) and all(
            condition.holds(context, self.variables) for condition in self.conditions
        )

    def concerns(self, action: str, resource: str, context: Mapping[str, ContextValue]) -> bool:
        """Do action and resource match, whatever the conditions say?"""
        lowered = action.lower()
        if any(glob(pattern.lower(), lowered) for pattern in self.actions) == self.not_actions:
            return False
        if self.resources:
            cuts = (tokens(pattern, context if self.variables else None) for pattern in self.resources)
            if any(cut is not None and matches(cut, resource) for cut in cuts) == self.not_resources:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Policy:
    """A document that was read and checked."""

    version: str
    statements: tuple[Statement, ...]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise PolicySyntaxError("Syntax errors in policy.")
    return document


def _strings(value: Any) -> tuple[str, ...]:
    """A string or a list of strings; conditions also take booleans and numbers."""
    listed = value if isinstance(value, list) else [value]
    result = []
    for one in listed:
        if isinstance(one, bool):
            result.append("true" if one else "false")
        elif isinstance(one, str | int | float):
            result.append(str(one))
        else:
            raise PolicySyntaxError("Syntax errors in policy.")
    return tuple(result)


def _names(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(one, str) and one for one in listed):
        raise PolicySyntaxError("Syntax errors in policy.")
    return tuple(listed)


def _principals(value: Any) -> Principals:
    if value == "*":
        return Principals(True, {})
    if not isinstance(value, dict) or not value:
        raise PolicySyntaxError("Syntax errors in policy.")
    unknown = [name for name in value if name not in PRINCIPAL_TYPES]
    if unknown:
        raise PolicySyntaxError(f"Invalid principal in policy: {unknown[0]!r}.")
    names = {name: _names(listed) for name, listed in value.items()}
    for name in names.get("AWS", ()):
        if (
            name == "*"
            or ACCOUNT_ID.fullmatch(name)
            or re.fullmatch(r"arn:aws[a-z-]*:(iam|sts)::[0-9]{12}:.+", name)
        ):
            if "*" in name and name != "*":
                raise PolicySyntaxError(f'Invalid principal in policy: "AWS":"{name}"')
            continue
        raise PolicySyntaxError(f'Invalid principal in policy: "AWS":"{name}"')
    return Principals("*" in names.get("AWS", ()), names)


def _either(statement: Mapping[str, Any], name: str) -> tuple[Any, bool] | None:
    """The element ``name`` or its opposite, and whether it is the opposite; None when there is neither."""
    if name in statement and f"Not{name}" in statement:
        raise PolicySyntaxError(f"Statement cannot contain both {name} and Not{name}.")
    if name in statement:
        return statement[name], False
    if f"Not{name}" in statement:
        return statement[f"Not{name}"], True
    return None


def _conditions(block: Any) -> tuple[Condition, ...]:
    if not isinstance(block, dict):
        raise PolicySyntaxError("Syntax errors in policy.")
    found = []
    for operator, lines in block.items():
        if not isinstance(lines, dict):
            raise PolicySyntaxError("Syntax errors in policy.")
        for key, values in lines.items():
            try:
                found.append(parse_condition(operator, key, _strings(values)))
            except PolicySyntaxError:
                raise
            except ValueError as error:
                raise PolicySyntaxError(str(error)) from error
    return tuple(found)


def _statement(statement: Any, kind: str, variables: bool) -> Statement:
    if not isinstance(statement, dict) or set(statement) - STATEMENT_MEMBERS:
        raise PolicySyntaxError("Syntax errors in policy.")
    if statement.get("Effect") not in ("Allow", "Deny"):
        raise PolicySyntaxError(
            "Syntax errors in policy." if "Effect" in statement else "Missing required field Effect"
        )
    action = _either(statement, "Action")
    if action is None:
        raise PolicySyntaxError("Policy statement must contain actions.")
    actions = _names(action[0])
    for name in actions:
        if name != "*" and not ACTION.fullmatch(name):
            raise PolicySyntaxError(
                "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."
                if ":" not in name
                else "Action vendors and action names must not contain special characters."
            )
    resource, principal = _either(statement, "Resource"), _either(statement, "Principal")
    if kind == "identity":
        if principal is not None:
            raise PolicySyntaxError("Policy document should not specify a principal.")
        if resource is None:
            raise PolicySyntaxError("Policy statement must contain resources.")
    elif principal is None:
        raise PolicySyntaxError("Missing required field Principal")
    if kind == "trust" and resource is not None:
        raise PolicySyntaxError("Has prohibited field Resource")
    if kind == "resource" and resource is None:
        raise PolicySyntaxError("Missing required field Resource")
    resources = () if resource is None else _names(resource[0])
    for name in resources:
        if name != "*" and (not name.startswith("arn:") or name.count(":") < 5) and "${" not in name:
            raise PolicySyntaxError(f'Resource {name} must be in ARN format or "*".')
    sid = statement.get("Sid", "")
    if not isinstance(sid, str) or (kind == "identity" and not re.fullmatch(r"[A-Za-z0-9]*", sid)):
        raise PolicySyntaxError(
            "Statement IDs (SID) must be alpha-numeric. Check that your input satisfies the regular"
            " expression [0-9A-Za-z]*"
        )
    return Statement(
        sid=sid,
        allow=statement["Effect"] == "Allow",
        actions=actions,
        not_actions=action[1],
        resources=resources,
        not_resources=resource is not None and resource[1],
        principals=None if principal is None else _principals(principal[0]),
        not_principals=principal is not None and principal[1],
        conditions=_conditions(statement.get("Condition", {})),
        variables=variables,
    )


@functools.lru_cache(maxsize=1024)
def parse_policy(text: str, kind: str) -> Policy:
    """Read and check a policy document.

    ``kind`` is "identity" (no principal), "resource" (principal and resource, as key and bucket policies) or
    "trust" (principal and no resource, of a role). Raises PolicySyntaxError with AWS's words.
    """
    try:
        document = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise PolicySyntaxError(
            str(error) if isinstance(error, PolicySyntaxError) else "Syntax errors in policy."
        ) from error
    if not isinstance(document, dict) or set(document) - {"Version", "Id", "Statement"}:
        raise PolicySyntaxError("Syntax errors in policy.")
    version = document.get("Version", "2008-10-17")
    if version not in VERSIONS:
        raise PolicySyntaxError("The policy failed legacy parsing")
    listed = document.get("Statement")
    listed = [listed] if isinstance(listed, dict) else listed
    if not isinstance(listed, list) or not listed:
        raise PolicySyntaxError("Syntax errors in policy.")
    statements = tuple(_statement(one, kind, version == "2012-10-17") for one in listed)
    sids = [one.sid for one in statements if one.sid]
    if len(sids) != len(set(sids)):
        raise PolicySyntaxError("Statement IDs (SID) in a single policy must be unique.")
    return Policy(version, statements)


def principal_names(policy: Policy) -> list[str]:
    """Every name of type AWS in Principal and NotPrincipal elements, "*" left out."""
    return [
        name
        for statement in policy.statements
        if statement.principals is not None
        for name in statement.principals.names.get("AWS", ())
        if name != "*"
    ]
