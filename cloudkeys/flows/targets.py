"""What key flows need of their target: its account, its AWS key store, and a place for what AWS said."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount
from cloudkeys.operations.errors import OperationError
from cloudkeys.providers.base import PointerKey, Provider
from vault.actions import Action
from vault.changes import Change, snapshot

POINTER_FIELDS = ("pointer_state", "kms_key_id", "kms_key_arn")


def account_of_key(key: CloudKey) -> CspAccount:
    """The account whose AWS the key's pointer is in. Raises a permanent OperationError when there is none."""
    return _account(key.csp_account or key.key_set.csp_account, str(key))


def account_of_link(link: AwsStoreLink) -> CspAccount:
    """The account that the key store is in. Raises a permanent OperationError when there is none."""
    return _account(link.store.key_set.csp_account, str(link))


def _account(account: CspAccount | None, name: str) -> CspAccount:
    if account is None:
        raise OperationError(
            "no_account",
            f"{name} belongs to no CSP account, so AWS cannot be reached.",
            "Make the key set under a CSP account.",
            permanent=True,
        )
    return account


def linked_store(key: CloudKey) -> AwsStoreLink:
    """The AWS key store that the key's pointer belongs in. Raises a permanent OperationError when there is none."""
    if key.link is None or not key.link.linked:
        raise OperationError(
            "no_store_link",
            f"The external key store of {key} has no linked AWS key store in {key.region}.",
            "Link the key store of that region, then retry.",
            permanent=True,
        )
    return key.link


def require_own_account(provider: Provider, owner: str, what: str) -> None:
    """Raise a permanent OperationError when the credential speaks for another AWS account than `owner` ("": not known).

    To call when AWS says that it knows no such thing: every other account says so of a bare id. Taken for the truth, that
    would call a living KMS key or key store gone, and the end of a deletion window would then destroy the material that
    its data needs.
    """
    if not owner or (acting := provider.identity().account_id) == owner:
        return
    raise OperationError(
        "other_account",
        f"{what} is in AWS account {owner}, and the CSP account's credential is of {acting}.",
        f"Give the CSP account a credential of {owner}, then retry.",
        permanent=True,
    )


def account_in_arn(arn: str) -> str:
    """The account number in an ARN, "" when there is none."""
    parts = arn.split(":")
    return parts[4] if len(parts) > 5 else ""


def require_pointer(key: CloudKey) -> str:
    """The KMS key's id. Raises a permanent OperationError when the key has none."""
    if not key.kms_key_id:
        raise OperationError(
            "no_pointer", f"{key} has no KMS key.", "Link the CloudKey first.", permanent=True
        )
    return key.kms_key_id


def save_pointer(
    tx: Change,
    key: CloudKey,
    state: CloudKey.PointerState,
    pointer: PointerKey | None,
    *,
    managed_alias: str | None = None,
    detail: str = "",
) -> None:
    """Write pointer state and what AWS said on a locked row, and audit it when the pointer itself changed.

    Without `pointer` what AWS said last stays. No revision: what AWS says of a key is no edit of it, and must not
    upset somebody's If-Match.
    """
    before = snapshot(key, *POINTER_FIELDS)
    key.pointer_state = state
    if pointer is not None:
        key.kms_key_id = pointer.id
        key.kms_key_arn = pointer.arn
        _set_cloud_state(key, pointer.as_dict(), managed_alias)
    key.save(update_fields=[*POINTER_FIELDS, "cloud_state", "cloud_state_at", "updated_at"])
    after = snapshot(key, *POINTER_FIELDS)
    if before != after or detail:
        tx.audit(
            Action.CLOUD_KEY_POINTER,
            key,
            before=before,
            after=after,
            detail={"what": detail} if detail else None,
        )


def save_gone(tx: Change, key: CloudKey) -> None:
    """AWS knows the KMS key no more: GONE on a locked row; its id stays for the record."""
    _set_cloud_state(key, {"id": key.kms_key_id, "arn": key.kms_key_arn, "state": "NotFound"}, "")
    save_pointer(tx, key, CloudKey.PointerState.GONE, None)


def _set_cloud_state(key: CloudKey, said: dict[str, Any], managed_alias: str | None) -> None:
    """`managed_alias` is the alias that we made, among those that AWS knows; None keeps it."""
    kept = str(key.cloud_state.get("managed_alias", "")) if managed_alias is None else managed_alias
    key.cloud_state = {**said, "managed_alias": kept}
    key.cloud_state_at = timezone.now()
