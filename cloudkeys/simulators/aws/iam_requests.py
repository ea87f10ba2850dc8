"""What the IAM operations share: whom a request is about, AWS's errors, pages, and documents on the wire."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from cloudkeys.simulators.aws import access, iam_store
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Simulator
from cloudkeys.simulators.aws.iam_store import Principal
from cloudkeys.simulators.aws.policy import PolicySyntaxError, parse_policy

Item = TypeVar("Item")
NAME_PARAMETERS = {"user": "UserName", "group": "GroupName", "role": "RoleName"}
DEFAULT_PAGE = 100


def no_such_entity(message: str) -> AwsError:
    """IAM's 404."""
    return AwsError("NoSuchEntity", message, 404)


def already_exists(message: str) -> AwsError:
    """IAM's answer to a second one of the same name."""
    return AwsError("EntityAlreadyExists", message, 409)


def delete_conflict(what: str) -> AwsError:
    """IAM deletes only what is empty."""
    return AwsError("DeleteConflict", f"Cannot delete entity, must {what} first.", 409)


def limit_exceeded(quota: str, limit: int) -> AwsError:
    """A quota of IAM is reached."""
    return AwsError("LimitExceeded", f"Cannot exceed quota for {quota}: {limit}", 409)


def name_in(request: ApiRequest, kind: str) -> str:
    """The name of the user, group or role that the request is about; a user may leave its own name away."""
    name = request.params.get(NAME_PARAMETERS[kind])
    if name is not None:
        return str(name)
    if kind == "user" and request.caller.user_name is not None:
        return request.caller.user_name
    raise AwsError("ValidationError", "Must specify userName when calling with non-User credentials")


def get_principal(sim: Simulator, request: ApiRequest, kind: str) -> Principal:
    """The user, group or role that the request names, NoSuchEntity when there is none."""
    name = name_in(request, kind)
    found = iam_store.find_principal(sim, request.caller.account_id, kind, name)
    if found is None:
        raise no_such_entity(f"The {kind} with name {name} cannot be found.")
    return found


def principal_arn(sim: Simulator, request: ApiRequest, kind: str) -> str:
    """The ARN that permissions for an operation on that principal are checked against; it need not exist."""
    name = name_in(request, kind)
    found = iam_store.find_principal(sim, request.caller.account_id, kind, name)
    path = request.params.get("Path") or "/"
    return found.arn if found else f"arn:aws:iam::{request.caller.account_id}:{kind}{path}{name}"


def page(
    items: Sequence[Item], params: Mapping[str, Any], key: Callable[[Item], str]
) -> tuple[list[Item], dict[str, Any]]:
    """One page of ``items``, sorted by ``key`` without regard to case, and the members that say whether more
    follow."""
    ordered = sorted(items, key=lambda item: key(item).lower())
    after = params.get("Marker")
    if after is not None:
        try:
            last = base64.b64decode(after, altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise AwsError("ValidationError", "Invalid Marker.") from error
        ordered = [item for item in ordered if key(item).lower() > last]
    size = int(params.get("MaxItems") or DEFAULT_PAGE)
    rest: dict[str, Any] = {"IsTruncated": len(ordered) > size}
    if rest["IsTruncated"]:
        rest["Marker"] = base64.urlsafe_b64encode(key(ordered[size - 1]).lower().encode()).decode()
    return ordered[:size], rest


def check_document(sim: Simulator, text: str, kind: str, limit: int) -> str:
    """The document when it is a policy of that kind of ``limit`` characters at most (white space not
    counted).

    Raises MalformedPolicyDocument or LimitExceeded.
    """
    if len("".join(text.split())) > limit:
        raise limit_exceeded("ACLSizePerRole" if kind == "trust" else "PolicySize", limit)
    try:
        parse_policy(text, kind)
        unknown = access.unknown_principals(sim, text, kind) if kind != "identity" else []
    except PolicySyntaxError as error:
        raise AwsError("MalformedPolicyDocument", str(error)) from error
    if unknown:
        raise AwsError("MalformedPolicyDocument", f'Invalid principal in policy: "AWS":"{unknown[0]}"')
    return text


def document_out(text: str) -> str:
    """A policy document as IAM answers it: percent-encoded (RFC 3986)."""
    return quote(text, safe="~")


def tags_in(params: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a request, by key. Two of the same key are refused, keys compared without regard to
    case."""
    tags = {tag["Key"]: tag["Value"] for tag in params.get("Tags") or ()}
    if len({key.lower() for key in tags}) != len(params.get("Tags") or ()):
        raise AwsError(
            "InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive."
        )
    if len(tags) > 50:
        raise limit_exceeded("TagsPerEntity", 50)
    return tags


def tags_out(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags in IAM's shape, by key."""
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def refuse_unsupported(request: ApiRequest, *names: str) -> None:
    """Say so when a request uses a feature that the simulator lacks, instead of passing over it."""
    for name in names:
        if request.params.get(name) is not None:
            raise AwsError("NotImplemented", f"The AWS simulator does not support {name}.", 501)
