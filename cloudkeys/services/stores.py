"""External key stores: the proxy face with its credentials, and the AWS store of each region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.utils import timezone

from cloudkeys import naming
from cloudkeys.models import AwsStoreLink, CloudKey, KeyVersion, Operation, XksKeyStore
from cloudkeys.operations import start_operation
from cloudkeys.services.credential_rotation import set_rotation_schedule
from cloudkeys.services.protection import Material
from cloudkeys.services.rows import require_live_vault, save_revision
from vault.actions import Action
from vault.actors import Actor
from vault.approvals import check_approval
from vault.changes import Change, change, snapshot
from vault.errors import Conflict, NotFound, ValidationFailed, check_revision
from vault.models import GenerationChange
from vault.permissions import Permission

HEALTH_CHECK_NAME = "health-check"
_STORE_AUDITED = ("max_staleness_s", "allowed_regions", "rotation_schedule")
_LINK_AUDITED = (
    "region", "name", "custom_key_store_id", "linked", "endpoint", "connectivity", "vpc_endpoint_service_name", "state",
)  # fmt: skip


@dataclass(frozen=True)
class LinkRequest:
    """What to make, or to note, in one AWS region."""

    region: str
    linked: bool = True
    name: str = ""
    endpoint: str = ""
    connectivity: str = AwsStoreLink.Connectivity.PUBLIC_ENDPOINT
    vpc_endpoint_service_name: str = ""


@dataclass(frozen=True)
class LinkAdded:
    """A store link, and the Operation that makes its AWS side when linked."""

    link: AwsStoreLink
    operation: Operation | None


def add_health_check_key(tx: Change, store: XksKeyStore) -> CloudKey:
    """The key that health uses: neither exportable nor deletable, usable for all, visible (CCKM's attributes)."""
    key = CloudKey(
        vault=store.vault, key_set=store.key_set, store=store, kind=CloudKey.Kind.HEALTH_CHECK, name=HEALTH_CHECK_NAME,
        description="Health checks of this store encrypt and decrypt with this key.",
        external_key_id=f"health-{uuid4().hex}", exportable=False, deletable=False, rotated_at=timezone.now(),
        permitted_uses=["ENCRYPT", "DECRYPT", "WRAP", "UNWRAP"],
    )  # fmt: skip
    key.save(force_insert=True)
    # It shows that this node's own cryptography works; the members of an HSM have health-check keys of their own.
    add_version(key, 1, Material.software())
    tx.audit(Action.CLOUD_KEY_CREATE, key, after=snapshot(key, "kind", "external_key_id", "permitted_uses"))
    tx.touch(GenerationChange.Kind.KEY, key.pk)
    return key


def add_version(
    key: CloudKey, number: int, material: Material | None, *, activated: bool = True
) -> KeyVersion:
    """A new version with this material; None for one that gets its material later, by work in the background."""
    version = KeyVersion(vault=key.vault, cloud_key=key, number=number, protection=key.key_set.protection)
    version.activated_at = timezone.now() if activated else None
    if material is not None:
        material.put(version)
    version.save(force_insert=True)
    return version


def update_xks_store(
    actor: Actor, store_id: UUID, changes: Mapping[str, Any], *, expected_revision: int | None = None
) -> XksKeyStore:
    """Change `max_staleness_s`, `allowed_regions` or `rotation_schedule` (of the credential).

    The path prefix is what AWS knows the store by, and stays.
    """
    with change(actor) as tx:
        store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_MANAGE, lock=True)
        require_live_vault(store.vault)
        check_revision(store, expected_revision)
        before = snapshot(store, *_STORE_AUDITED)
        for name, value in changes.items():
            if name == "max_staleness_s":
                most = settings.KEYSTEAD_XKS_MAX_STALENESS
                if value is not None and not 1 <= value <= most:
                    raise ValidationFailed(
                        f"A store's staleness is 1 to {most:g} seconds: workers are counted for no longer than that.",
                        field=name,
                        cure="Give less, or null for the installation's own (KEYSTEAD_XKS_MAX_STALENESS).",
                    )
                store.max_staleness_s = value
            elif name == "allowed_regions":
                store.allowed_regions = sorted({_check_signing_region(region) for region in value})
            elif name == "rotation_schedule":
                set_rotation_schedule(store, value)
            else:
                raise ValidationFailed(
                    "This cannot be changed.", field=name, cure="Make a new key set instead."
                )
        save_revision(store, *_STORE_AUDITED, "next_rotation_at")
        tx.audit(
            Action.XKS_STORE_UPDATE,
            store,
            before=before,
            after=snapshot(store, *_STORE_AUDITED),
        )
        tx.touch(GenerationChange.Kind.STORE, store.pk)
    return store


def block_xks_store(actor: Actor, store_id: UUID, *, reason: str) -> tuple[XksKeyStore, int]:
    """Refuse every call for this store in the data plane, health too; returns the generation to wait for."""
    with change(actor) as tx:
        store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_BLOCK, lock=True)
        _set_blocked(tx, store, True, Action.XKS_STORE_BLOCK, reason)
    return store, tx.generation or 0


def unblock_xks_store(actor: Actor, store_id: UUID, *, reason: str = "") -> tuple[XksKeyStore, int]:
    """Serve the store again. May raise NeedsApproval."""
    with change(actor) as tx:
        store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_UNBLOCK, lock=True)
        check_approval(actor, Action.XKS_STORE_UNBLOCK, store)
        _set_blocked(tx, store, False, Action.XKS_STORE_UNBLOCK, reason)
    return store, tx.generation or 0


def create_store_link(actor: Actor, store_id: UUID, request: LinkRequest) -> LinkAdded:
    """Add the AWS store of one more region: linked (Keystead makes it) or not (the admin does, in the console)."""
    with change(actor) as tx:
        store: XksKeyStore = actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_MANAGE, lock=True)
        require_live_vault(store.vault)
        return add_link(actor, tx, store, request)


def add_link(
    actor: Actor, tx: Change, store: XksKeyStore, request: LinkRequest, *, field: str = ""
) -> LinkAdded:
    """As `create_store_link`, inside a running change; `field` names the place of the request in the caller's input."""
    at = f"{field}." if field else ""
    account = store.key_set.csp_account
    if request.linked and account is None:
        raise ValidationFailed(
            "A linked store needs a CSP account on its key set.",
            field=f"{at}linked",
            cure="Choose a CSP account, or unlinked.",
        )
    partition = account.partition if account is not None else "aws"
    link = AwsStoreLink(
        vault=store.vault, store=store, region=naming.check_region(request.region, partition, field=f"{at}region"),
        name=naming.check_name(request.name or store.key_set.name, field=f"{at}name", limit=256),
        endpoint=naming.check_endpoint(
            request.endpoint or settings.KEYSTEAD_XKS_PUBLIC_ENDPOINT, field=f"{at}endpoint"
        ),
        connectivity=request.connectivity, vpc_endpoint_service_name=request.vpc_endpoint_service_name,
        linked=request.linked, state=AwsStoreLink.State.PENDING if request.linked else AwsStoreLink.State.NOT_LINKED,
    )  # fmt: skip
    _check_connectivity(link, at)
    existing = AwsStoreLink.objects.filter(store=store, region=link.region).first()
    if existing is not None and existing.state != AwsStoreLink.State.GONE:
        raise ValidationFailed(
            f"This store has an AWS key store in {link.region} already.",
            field=f"{at}region",
            cure="Choose another region.",
        )
    keys: list[UUID] = []
    if existing is not None:
        # Keys of the store that is gone name its row; they belong to the new one now.
        keys = list(existing.cloud_keys.values_list("pk", flat=True))
        existing.cloud_keys.update(link=None)
        existing.delete()
    link.save(force_insert=True)
    if keys:
        _give_keys(link, keys)
    operation = start_operation(actor, "store_link.create", link) if link.linked else None
    tx.audit(
        Action.STORE_LINK_CREATE, link, after=snapshot(link, *_LINK_AUDITED),
        detail={"operation": str(operation.pk)} if operation is not None else {},
    )  # fmt: skip
    return LinkAdded(link, operation)


def _give_keys(link: AwsStoreLink, ids: list[UUID], at_once: int = 500) -> None:
    # In portions: databases limit the length of IN (...).
    for start in range(0, len(ids), at_once):
        CloudKey.objects.filter(pk__in=ids[start : start + at_once]).update(link=link)


def link_store(actor: Actor, link_id: UUID, *, custom_key_store_id: str = "") -> LinkAdded:
    """Link an unlinked store: adopt the given AWS key store after AWS confirms it, or make what is missing."""
    with change(actor) as tx:
        link = _locked_link(actor, link_id)
        if link.linked and link.state not in (AwsStoreLink.State.FAILED, AwsStoreLink.State.GONE):
            raise Conflict("This store is linked already.")
        if link.store.key_set.csp_account is None:
            raise Conflict(
                "This key set has no CSP account to reach AWS with.",
                cure="Make the key set under a CSP account.",
            )
        kind = "store_link.link" if custom_key_store_id else "store_link.create"
        operation = start_operation(
            actor,
            kind,
            link,
            input={"custom_key_store_id": custom_key_store_id} if custom_key_store_id else None,
        )
        tx.audit(Action.STORE_LINK_LINK, link, detail={"custom_key_store_id": custom_key_store_id})
    return LinkAdded(link, operation)


def connect_store(actor: Actor, link_id: UUID) -> Operation:
    """Have AWS connect to the store; CONNECTED or the connection error code ends the Operation."""
    return _start(actor, link_id, "store_link.connect", Action.STORE_LINK_CONNECT)


def disconnect_store(actor: Actor, link_id: UUID) -> Operation:
    """Have AWS disconnect: its KMS keys become Unavailable until it is connected again."""
    return _start(actor, link_id, "store_link.disconnect", Action.STORE_LINK_DISCONNECT)


def refresh_store(actor: Actor, link_id: UUID) -> Operation:
    """Read what AWS says of the store into `cloud_state`."""
    return _start(actor, link_id, "store_link.refresh", Action.STORE_LINK_REFRESH)


def delete_store_link(
    actor: Actor, link_id: UUID, *, expected_revision: int | None = None
) -> Operation | None:
    """Delete the AWS key store (disconnected and empty of KMS keys), or forget an unlinked one. Raises Conflict."""
    with change(actor) as tx:
        link = _locked_link(actor, link_id)
        check_revision(link, expected_revision)
        pointers = (
            link.cloud_keys.filter(pointer_state__in=["PENDING", "LINKED", "FAILED"])
            .exclude(state="DESTROYED")
            .count()
        )
        if link.linked and pointers:
            raise Conflict(
                f"KMS keys of this store are still in AWS: {pointers}.",
                cure="Schedule their deletion and wait for its end.",
            )
        tx.audit(Action.STORE_LINK_DELETE, link, before=snapshot(link, *_LINK_AUDITED))
        if link.linked and link.custom_key_store_id:
            return start_operation(actor, "store_link.delete", link)
        busy = Operation.objects.filter(target_id=link.pk, state__in=Operation.UNFINISHED).first()
        if busy is not None:
            # It may have made an AWS key store already, which nobody would know of any more.
            raise Conflict(
                "Work on this store is still under way in AWS.",
                cure=f"Wait until it is done, or cancel operation {busy.pk}.",
                operation=str(busy.pk),
            )
        link.cloud_keys.update(link=None)
        link.delete()
    return None


def update_store_link(
    actor: Actor, link_id: UUID, changes: Mapping[str, Any], *, expected_revision: int | None = None
) -> LinkAdded:
    """Change name, endpoint or connectivity; a linked store is brought in line in AWS by Operation."""
    with change(actor) as tx:
        link = _locked_link(actor, link_id)
        check_revision(link, expected_revision)
        before = snapshot(link, *_LINK_AUDITED)
        for name, value in changes.items():
            match name:
                case "name":
                    link.name = naming.check_name(value, limit=256)
                case "endpoint":
                    link.endpoint = naming.check_endpoint(value)
                case "connectivity" | "vpc_endpoint_service_name":
                    setattr(link, name, value)
                case "custom_key_store_id" if not link.linked:
                    link.custom_key_store_id = naming.check_custom_key_store_id(value)
                case _:
                    raise ValidationFailed(
                        "This cannot be changed.", field=name, cure="Delete the store and make another."
                    )
        _check_connectivity(link, "")
        save_revision(
            link, "name", "endpoint", "connectivity", "vpc_endpoint_service_name", "custom_key_store_id"
        )
        tx.audit(Action.STORE_LINK_UPDATE, link, before=before, after=snapshot(link, *_LINK_AUDITED))
        operation = (
            start_operation(actor, "store_link.update", link)
            if link.linked and link.custom_key_store_id
            else None
        )
    return LinkAdded(link, operation)


def _start(actor: Actor, link_id: UUID, kind: str, action: Action) -> Operation:
    with change(actor) as tx:
        link = _locked_link(actor, link_id)
        if not link.linked or not link.custom_key_store_id:
            raise Conflict(
                "Keystead does not drive this AWS key store.",
                cure="Do it in the AWS console, or link the store first.",
            )
        operation = start_operation(actor, kind, link)
        tx.audit(action, link, detail={"operation": str(operation.pk)})
    return operation


def _locked_link(actor: Actor, link_id: UUID) -> AwsStoreLink:
    link: AwsStoreLink = actor.fetch(AwsStoreLink, link_id, Permission.XKS_STORES_MANAGE, lock=True)
    require_live_vault(link.vault)
    return link


def _set_blocked(tx: Change, store: XksKeyStore, blocked: bool, action: Action, reason: str) -> None:
    before = snapshot(store, "blocked")
    store.blocked = blocked
    store.blocked_reason = reason[:1000] if blocked else ""
    save_revision(store, "blocked", "blocked_reason")
    tx.audit(
        action,
        store,
        before=before,
        after=snapshot(store, "blocked"),
        reason=reason,
        target_name=store.key_set.name,
    )
    tx.touch(GenerationChange.Kind.STORE, store.pk)


def _check_connectivity(link: AwsStoreLink, at: str) -> None:
    if link.connectivity not in AwsStoreLink.Connectivity.values:
        raise ValidationFailed(
            "This connectivity is unknown.",
            field=f"{at}connectivity",
            cure=f"Give one of {', '.join(AwsStoreLink.Connectivity.values)}.",
        )
    if link.connectivity == AwsStoreLink.Connectivity.VPC_ENDPOINT_SERVICE:
        naming.check_vpc_service_name(link.vpc_endpoint_service_name, field=f"{at}vpc_endpoint_service_name")
    elif link.vpc_endpoint_service_name:
        raise ValidationFailed(
            "A public endpoint has no VPC endpoint service.",
            field=f"{at}vpc_endpoint_service_name",
            cure="Leave it out, or choose VPC_ENDPOINT_SERVICE.",
        )


def _check_signing_region(region: Any) -> str:
    if (
        not isinstance(region, str)
        or not 1 <= len(region) <= 32
        or not region.replace("-", "").isalnum()
        or region != region.lower()
    ):
        raise ValidationFailed(
            "A signing region has 1 to 32 small letters, digits and '-'.",
            field="allowed_regions",
            cure="Take eu-west-1, for example.",
        )
    return region


def prefix_taken() -> ValidationFailed:
    """The error for a path prefix that another store of this installation has."""
    return ValidationFailed(
        "Another store of this installation has this path prefix.",
        field="path_prefix",
        cure="Choose another, or leave it out and one is made.",
    )


def find_health_check_key(store: XksKeyStore) -> CloudKey:
    """The store's health-check key. Raises NotFound."""
    key = store.cloud_keys.filter(kind=CloudKey.Kind.HEALTH_CHECK).first()
    if key is None:
        raise NotFound("This store has no health-check key.")
    return key
