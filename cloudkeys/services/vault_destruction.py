"""The end of a vault: its KEK goes, and with it everything that was wrapped under it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySet, KeyVersion, Operation, XksCredential
from cloudkeys.services.lifecycle import require_typed_name
from cloudkeys.services.rows import save_revision
from vault.actions import Action
from vault.actors import Actor
from vault.approvals import check_approval
from vault.changes import change, snapshot
from vault.errors import Conflict, NotFound, check_revision
from vault.keys import forget_vault
from vault.models import GenerationChange, Vault
from vault.permissions import Permission


@dataclass(frozen=True)
class Destruction:
    """What destroying a vault takes away: numbers by kind, and the AWS key stores that would be left without keys."""

    cloud_keys: int
    key_versions: int
    key_sets: int
    csp_accounts: int
    credentials: int
    members: int
    aws_key_stores: list[str]
    unfinished_operations: int

    def as_json(self) -> dict[str, Any]:
        """For the answer and the audit record."""
        return asdict(self)


def describe_destruction(actor: Actor, vault_id: UUID) -> Destruction:
    """What `destroy_vault` would take away now."""
    actor.require(Permission.APPLIANCE_MANAGE_VAULTS)
    return _count(_find(vault_id))


def destroy_vault(
    actor: Actor, vault_id: UUID, *, confirm_name: str, reason: str = "", expected_revision: int | None = None
) -> tuple[Vault, int]:
    """Destroy a disabled vault's KEK and with it every key, credential and secret in it, for good.

    The rows stay as record; returns the vault and the generation to wait for. Raises Conflict unless it is disabled.
    """
    actor.require(Permission.APPLIANCE_MANAGE_VAULTS)
    with change(actor) as tx:
        vault = Vault.objects.select_for_update().filter(pk=vault_id).first()
        if vault is None or vault.state == Vault.State.DESTROYED:
            raise NotFound("There is no such vault.")
        check_revision(vault, expected_revision)
        require_typed_name(confirm_name, vault.name)
        if vault.state != Vault.State.DISABLED:
            raise Conflict(
                "Only a disabled vault is destroyed.",
                cure="Disable it first and see who misses it; enabling brings everything back, destroying nothing.",
            )
        check_approval(actor, Action.VAULT_DESTROY, vault)
        lost = _count(vault)
        now = timezone.now()
        before = snapshot(vault, "name", "state")
        KeyVersion.objects.filter(vault=vault).update(material=None, destroyed_at=now)
        CloudKey.objects.filter(vault=vault).exclude(state=CloudKey.State.DESTROYED).update(
            state=CloudKey.State.DESTROYED,
            destroyed_at=now,
            next_rotation_at=None,
            expires_at=None,
            delete_after=None,
        )
        XksCredential.objects.filter(vault=vault).update(
            state=XksCredential.State.RETIRED, retired_at=now, secret_access_key=None
        )
        CspAccount.objects.filter(vault=vault).update(
            secret_access_key=None, pending_secret_access_key=None, next_rotation_at=None
        )
        Operation.objects.filter(vault=vault, state__in=Operation.UNFINISHED).update(
            state=Operation.State.CANCELLED, finished_at=now, lease_owner="", lease_until=None
        )
        vault.kek_blob = None
        vault.state = Vault.State.DESTROYED
        vault.destroyed_at = now
        save_revision(vault, "kek_blob", "state", "destroyed_at")
        tx.audit(
            Action.VAULT_DESTROY,
            vault,
            before=before,
            after=snapshot(vault, "state"),
            reason=reason,
            detail=lost.as_json(),
        )
        tx.touch(GenerationChange.Kind.VAULT, vault.pk)
        # Other processes drop theirs when they next ask: an unwrapped KEK is cached by the blob that is gone now.
        transaction.on_commit(lambda: forget_vault(vault.pk))
    return vault, tx.generation or 0


def _find(vault_id: UUID) -> Vault:
    vault = Vault.objects.filter(pk=vault_id).exclude(state=Vault.State.DESTROYED).first()
    if vault is None:
        raise NotFound("There is no such vault.")
    return vault


def _count(vault: Vault) -> Destruction:
    links = AwsStoreLink.objects.filter(vault=vault, linked=True).exclude(state=AwsStoreLink.State.GONE)
    live = CloudKey.objects.filter(vault=vault).exclude(state=CloudKey.State.DESTROYED)
    return Destruction(
        cloud_keys=live.filter(kind=CloudKey.Kind.USER).count(),
        key_versions=KeyVersion.objects.filter(vault=vault, destroyed_at=None).count(),
        key_sets=KeySet.objects.filter(vault=vault).count(),
        csp_accounts=CspAccount.objects.filter(vault=vault).count(),
        credentials=XksCredential.objects.filter(vault=vault, state=XksCredential.State.ACTIVE).count(),
        members=vault.memberships.count(),
        aws_key_stores=[f"{link.name} ({link.region})" for link in links],
        unfinished_operations=Operation.objects.filter(vault=vault, state__in=Operation.UNFINISHED).count(),
    )
