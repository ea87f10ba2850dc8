"""May this caller do this to this key? Policies first (``access``), then grants."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cloudkeys.simulators.aws import access
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Caller, Simulator
from cloudkeys.simulators.aws.kms_state import Key, resolve_key, tags_of

GRANT_OPERATIONS = frozenset(
    {
        "Decrypt",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "ReEncryptFrom",
        "ReEncryptTo",
        "CreateGrant",
        "RetireGrant",
        "DescribeKey",
    }
)


def condition_context(
    sim: Simulator,
    caller: Caller,
    key: Key | None,
    region: str,
    *,
    encryption_context: Mapping[str, str] | None = None,
    alias: str | None = None,
    extra: Mapping[str, str | Sequence[str]] | None = None,
) -> dict[str, str | list[str]]:
    """The condition keys of KMS for one call ("AWS KMS condition keys" in its developer guide)."""
    context: dict[str, str | list[str]] = {"aws:RequestedRegion": region}
    if caller.source is not None:
        context["kms:ViaService"] = caller.source
    if key is not None:
        context["kms:KeyOrigin"] = key.origin
        context["kms:KeySpec"] = "SYMMETRIC_DEFAULT"
        context["kms:KeyUsage"] = "ENCRYPT_DECRYPT"
        context["kms:MultiRegion"] = "false"
        aliases = sim.state.rows("SELECT name FROM kms_aliases WHERE key_id = ?", (key.key_id,))
        context["kms:ResourceAliases"] = [row["name"] for row in aliases]
        context.update({f"aws:ResourceTag/{name}": value for name, value in tags_of(sim, key.key_id).items()})
    if alias is not None:
        context["kms:RequestAlias"] = alias
    if encryption_context:
        context["kms:EncryptionContextKeys"] = list(encryption_context)
        context.update({f"kms:EncryptionContext:{name}": value for name, value in encryption_context.items()})
    for name, value in (extra or {}).items():
        context[name] = value if isinstance(value, str) else list(value)
    return context


def authorize_account(
    sim: Simulator, caller: Caller, region: str, operation: str, resource: str = "*"
) -> None:
    """For operations on no key: identity policies alone decide. Raises AwsError AccessDeniedException."""
    context = condition_context(sim, caller, None, region)
    access.authorize(sim, caller, f"kms:{operation}", resource, context, resource_account=caller.account_id)


def authorize_key(
    sim: Simulator,
    caller: Caller,
    operation: str,
    key: Key,
    *,
    encryption_context: Mapping[str, str] | None = None,
    alias: str | None = None,
    extra: Mapping[str, str | Sequence[str]] | None = None,
) -> None:
    """Return when the key policy, the caller's own policies or a grant allow ``operation`` on the key.

    Raises AwsError AccessDeniedException; an explicit deny wins over any grant.
    """
    context = condition_context(
        sim, caller, key, key.region, encryption_context=encryption_context, alias=alias, extra=extra
    )
    try:
        access.authorize(sim, caller, f"kms:{operation}", key.arn, context, key.policy)
    except AwsError as error:
        if error.extra.get("explicit_deny") or not grant_allows(
            sim, caller, operation, key, encryption_context
        ):
            raise


def grant_allows(
    sim: Simulator, caller: Caller, operation: str, key: Key, encryption_context: Mapping[str, str] | None
) -> bool:
    """Whether a grant on the key gives ``operation`` to the caller under this encryption context."""
    if operation not in GRANT_OPERATIONS:
        return False
    names = access.identity_of(sim, caller).arns
    given = encryption_context or {}
    for row in sim.state.rows("SELECT * FROM kms_grants WHERE key_id = ?", (key.key_id,)):
        if row["grantee"] not in names or operation not in json.loads(row["operations"]):
            continue
        constraints = json.loads(row["constraints"])
        equals, subset = (
            constraints.get("EncryptionContextEquals"),
            constraints.get("EncryptionContextSubset"),
        )
        if operation in ("CreateGrant", "RetireGrant", "DescribeKey"):
            return True
        if equals is not None and dict(given) != equals:
            continue
        if subset is not None and not subset.items() <= given.items():
            continue
        return True
    return False


def unsupported(message: str) -> AwsError:
    """AWS's error for what a service, or this simulator, does not offer."""
    return AwsError("UnsupportedOperationException", message)


def authorized_key(sim: Simulator, request: ApiRequest, *, own_account: bool = True) -> Key:
    """The key of the request's KeyId when the caller may do the operation on it. Raises AwsError."""
    key, _ = resolve_key(sim, request.caller.account_id, request.region, request.params["KeyId"])
    authorize_key(sim, request.caller, request.operation, key)
    if own_account and key.account_id != request.caller.account_id:
        raise AwsError(
            "AccessDeniedException", f"{request.operation} is not possible on a key of another account."
        )
    return key


def customer_key(sim: Simulator, request: ApiRequest) -> Key:
    """As ``authorized_key``, for what is not possible with keys that AWS manages."""
    key = authorized_key(sim, request)
    if key.manager == "AWS":
        raise AwsError("AccessDeniedException", f"{request.operation} is not possible on an AWS managed key.")
    return key


def refuse_pending_deletion(key: Key) -> None:
    """Raise AwsError KMSInvalidStateException when the key waits for its deletion."""
    if key.state == "PendingDeletion":
        raise AwsError("KMSInvalidStateException", f"{key.arn} is pending deletion.")


def refuse_unusable(key: Key) -> None:
    """Raise AwsError when the key is in no state to be used or granted."""
    if key.state == "Disabled":
        raise AwsError("DisabledException", f"{key.arn} is disabled.")
    if key.shown_state != "Enabled":
        word = {
            "PendingDeletion": "pending deletion",
            "PendingImport": "pending import",
            "Unavailable": f"unavailable because custom key store {key.store_id} is not connected",
        }[key.shown_state]
        raise AwsError("KMSInvalidStateException", f"{key.arn} is {word}.")
