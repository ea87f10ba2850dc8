"""CSP accounts: how Keystead signs in at a cloud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import ProtectedError
from django.utils import timezone

from cloudkeys import naming, providers
from cloudkeys.models import CspAccount, Operation
from cloudkeys.operations import start_operation
from cloudkeys.providers import PROVIDERS, ProviderError
from cloudkeys.providers.base import AccountReport, Principal
from cloudkeys.schedules import parse_schedule
from cloudkeys.services.rows import find_group, require_free_name, require_live_vault, save_revision
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change, snapshot
from vault.errors import Conflict, ValidationFailed, check_revision
from vault.keys import seal
from vault.models import AuditEvent, Vault
from vault.permissions import Permission
from vault.secret import Secret

_AUDITED = (
    "name", "description", "group", "partition", "auth_method", "access_key_id", "role_arn", "external_id",
    "default_region", "rotation_schedule",
)  # fmt: skip


def create_csp_account(
    actor: Actor,
    vault: Vault,
    *,
    name: str,
    access_key_id: str,
    secret_access_key: Secret,
    default_region: str,
    description: str = "",
    group: UUID | None = None,
    provider: str = CspAccount.Provider.AWS,
    partition: str = CspAccount.Partition.AWS,
    auth_method: str = CspAccount.AuthMethod.ACCESS_KEY,
    role_arn: str = "",
    external_id: str = "",
    rotation_schedule: Mapping[str, Any] | None = None,
) -> CspAccount:
    """Store a credential, sealed. It is not tried here: `probe_csp_account` does that. Raises ValidationFailed."""
    actor.require(Permission.CSP_ACCOUNTS_MANAGE, vault)
    require_live_vault(vault)
    if provider not in PROVIDERS:
        raise ValidationFailed(
            "This provider is not offered.", field="provider", cure=f"Give one of {', '.join(PROVIDERS)}."
        )
    account = CspAccount(
        vault=vault, provider=provider, name=name, description=description, group=find_group(vault, group),
        partition=partition, auth_method=auth_method, access_key_id=access_key_id, role_arn=role_arn,
        external_id=external_id, default_region=default_region,
    )  # fmt: skip
    _check(account)
    _check_secret(secret_access_key)
    seal(account, "secret_access_key", secret_access_key)
    account.credential_created_at = timezone.now()
    _set_schedule(account, rotation_schedule or {"kind": "none"})
    with change(actor) as tx:
        require_free_name(CspAccount, vault, account.name)
        account.save(force_insert=True)
        tx.audit(Action.CSP_ACCOUNT_CREATE, account, after=snapshot(account, *_AUDITED))
    return account


def update_csp_account(
    actor: Actor,
    account_id: UUID,
    changes: Mapping[str, Any],
    *,
    secret_access_key: Secret | None = None,
    expected_revision: int | None = None,
) -> CspAccount:
    """Change named fields; a new access key needs its secret too. Raises ValidationFailed, Conflict, StaleRevision."""
    with change(actor) as tx:
        account: CspAccount = actor.fetch(CspAccount, account_id, Permission.CSP_ACCOUNTS_MANAGE, lock=True)
        require_live_vault(account.vault)
        check_revision(account, expected_revision)
        before = snapshot(account, *_AUDITED)
        for name, value in changes.items():
            if name == "group":
                account.group = find_group(account.vault, value)
            elif name == "rotation_schedule":
                _set_schedule(account, value)
            elif name in (
                "name",
                "description",
                "access_key_id",
                "role_arn",
                "external_id",
                "default_region",
                "auth_method",
            ):
                setattr(account, name, value)
            else:
                raise ValidationFailed(
                    "This cannot be changed.", field=name, cure="Make a new CSP account instead."
                )
        if account.access_key_id != before["access_key_id"] and secret_access_key is None:
            raise ValidationFailed(
                "A new access key id needs its secret.",
                field="secret_access_key",
                cure="Give both, or neither.",
            )
        if secret_access_key is not None:
            if account.rotation_state != CspAccount.Rotation.IDLE:
                raise Conflict(
                    "This credential is being rotated just now.",
                    field="secret_access_key",
                    cure="Wait until the rotation has ended.",
                )
            _check_secret(secret_access_key)
            seal(account, "secret_access_key", secret_access_key)
            account.credential_created_at = timezone.now()
            account.health = CspAccount.Health.UNKNOWN
            _set_schedule(account, account.rotation_schedule)
        _check(account)
        require_free_name(CspAccount, account.vault, account.name, but=account.pk)
        save_revision(
            account, "name", "description", "group", "access_key_id", "secret_access_key", "role_arn", "external_id",
            "default_region", "auth_method", "rotation_schedule", "next_rotation_at", "credential_created_at", "health",
        )  # fmt: skip
        tx.audit(
            Action.CSP_ACCOUNT_UPDATE, account, before=before, after=snapshot(account, *_AUDITED),
            detail={"secret_replaced": secret_access_key is not None},
        )  # fmt: skip
    return account


def delete_csp_account(actor: Actor, account_id: UUID, *, expected_revision: int | None = None) -> None:
    """Forget a credential that nothing uses any more. Raises Conflict naming what does."""
    with change(actor) as tx:
        account: CspAccount = actor.fetch(CspAccount, account_id, Permission.CSP_ACCOUNTS_MANAGE, lock=True)
        check_revision(account, expected_revision)
        _refuse_while_used(account)
        tx.audit(Action.CSP_ACCOUNT_DELETE, account, before=snapshot(account, *_AUDITED))
        try:
            account.delete()
        except ProtectedError:
            raise Conflict("This CSP account is still used.", cure="Delete its key sets first.") from None


def probe_csp_account(actor: Actor, account_id: UUID) -> CspAccount:
    """Ask the cloud who we are and, action by action, what we may do; the outcome is kept as the account's health.

    A credential that does not work is an outcome, not an error: `health` FAILING with cause and cure in the detail.
    """
    account: CspAccount = actor.fetch(CspAccount, account_id, Permission.CSP_ACCOUNTS_MANAGE)
    try:
        outcome: AccountReport | ProviderError = providers.probe_account(account)
    except ProviderError as error:
        outcome = error
    return record_account_health(actor, account.pk, outcome)


def record_account_health(
    actor: Actor, account_id: UUID, outcome: AccountReport | ProviderError
) -> CspAccount:
    """Keep what a test found; a later one replaces it. Audited when a person asked or something changed."""
    with change(actor) as tx:
        account = CspAccount.objects.select_for_update().get(pk=account_id)
        before = snapshot(account, "health", "cloud_account_id", "principal_arn")
        account.health_checked_at = timezone.now()
        if isinstance(outcome, ProviderError):
            account.health = CspAccount.Health.FAILING
            account.health_detail = {
                "error": {"code": str(outcome.code), "cause": outcome.cause, "cure": outcome.cure}, "checks": [],
            }  # fmt: skip
        else:
            account.health = CspAccount.Health.OK if outcome.ok else CspAccount.Health.DEGRADED
            account.cloud_account_id = outcome.identity.account_id
            account.principal_arn = outcome.identity.arn
            account.health_detail = {"error": None, "checks": [asdict(check) for check in outcome.checks]}
        # No revision: what the cloud says of an account is no edit of it, and must not upset somebody's If-Match.
        account.save(
            update_fields=[
                "health",
                "health_checked_at",
                "health_detail",
                "cloud_account_id",
                "principal_arn",
                "updated_at",
            ]
        )
        after = snapshot(account, "health", "cloud_account_id", "principal_arn")
        if actor.user is not None or before != after:
            failing = account.health == CspAccount.Health.FAILING
            tx.audit(
                Action.CSP_ACCOUNT_TEST, account, before=before, after=after,
                outcome=AuditEvent.Outcome.FAILURE if failing else AuditEvent.Outcome.SUCCESS,
            )  # fmt: skip
    return account


def least_privilege_policy(actor: Actor, account_id: UUID) -> dict[str, Any]:
    """The least IAM policy that the account's credential needs for all that Keystead does."""
    account: CspAccount = actor.fetch(CspAccount, account_id, Permission.CSP_ACCOUNTS_VIEW)
    return providers.least_privilege_policy(account)


def list_iam_principals(actor: Actor, account_id: UUID, *, search: str = "") -> list[Principal]:
    """The account's IAM users and roles, to pick administrators and users of keys from. Raises ProviderError."""
    account: CspAccount = actor.fetch(CspAccount, account_id, Permission.CSP_ACCOUNTS_VIEW)
    principals = providers.list_principals(account)
    wanted = search.lower()
    return [principal for principal in principals if wanted in principal.arn.lower()]


def rotate_csp_credential(actor: Actor, account_id: UUID) -> Operation:
    """Begin the rotation of the access key. Raises Conflict while one is under way."""
    with change(actor) as tx:
        account: CspAccount = actor.fetch(CspAccount, account_id, Permission.CSP_ACCOUNTS_MANAGE, lock=True)
        require_live_vault(account.vault)
        operation = start_operation(actor, "csp_account.rotate_credential", account)
        tx.audit(Action.CSP_CREDENTIAL_ROTATE, account, detail={"operation": str(operation.pk)})
    return operation


def _check(account: CspAccount) -> None:
    account.name = naming.check_name(account.name)
    if len(account.description) > 1000:
        raise ValidationFailed(
            "A description has at most 1,000 characters.", field="description", cure="Shorten it."
        )
    if account.partition not in CspAccount.Partition.values:
        raise ValidationFailed(
            "This partition is unknown.",
            field="partition",
            cure=f"Give one of {', '.join(CspAccount.Partition.values)}.",
        )
    if account.is_simulated and not settings.KEYSTEAD_SIMULATOR:
        raise ValidationFailed(
            "The bundled simulator is switched off here.",
            field="partition",
            cure="Set KEYSTEAD_SIMULATOR=on for a trial installation, or use a real account.",
        )
    if account.auth_method not in CspAccount.AuthMethod.values:
        raise ValidationFailed(
            "This way to sign in is unknown.",
            field="auth_method",
            cure=f"Give one of {', '.join(CspAccount.AuthMethod.values)}.",
        )
    naming.check_access_key_id(account.access_key_id)
    naming.check_region(account.default_region, account.partition, field="default_region")
    if account.auth_method == CspAccount.AuthMethod.ASSUME_ROLE:
        naming.check_role_arn(account.role_arn, account.partition)
    elif account.role_arn or account.external_id:
        raise ValidationFailed(
            "A role is assumed only with auth_method ASSUME_ROLE.",
            field="role_arn" if account.role_arn else "external_id",
            cure="Leave it out, or choose ASSUME_ROLE.",
        )


def _check_secret(secret: Secret) -> None:
    raw = secret.reveal()
    if not 16 <= len(raw) <= 128 or not raw.isascii() or any(byte <= 32 for byte in raw):
        raise ValidationFailed(
            "This is no AWS secret access key.",
            field="secret_access_key",
            cure="Copy it whole from IAM (40 characters); if it is lost, make a new access key.",
        )


def _set_schedule(account: CspAccount, value: Mapping[str, Any]) -> None:
    schedule = parse_schedule(value)
    account.rotation_schedule = schedule.as_json() if schedule else {"kind": "none"}
    began = account.credential_created_at or timezone.now()
    account.next_rotation_at = schedule.next_after(began) if schedule else None


def _refuse_while_used(account: CspAccount) -> None:
    used_by = list(account.key_sets.values_list("name", flat=True)[:5])
    if used_by:
        raise Conflict(
            f"Key sets use this CSP account: {', '.join(used_by)}.", cure="Delete those key sets first."
        )
    unfinished = Operation.objects.filter(target_id=account.pk, state__in=Operation.UNFINISHED).first()
    if unfinished is not None:
        raise Conflict(
            "Work on this CSP account is under way.",
            cure="Wait for it, or cancel it.",
            operation=str(unfinished.pk),
        )
