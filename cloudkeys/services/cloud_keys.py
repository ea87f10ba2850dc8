"""CloudKeys: made with their pointer in AWS, changed, linked later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import IntegrityError
from django.utils import timezone

from cloudkeys import naming
from cloudkeys.models import AwsStoreLink, CloudKey, KeySet, Operation, XksKeyStore
from cloudkeys.operations import start_operation
from cloudkeys.schedules import parse_expiration, parse_schedule
from cloudkeys.services.due_dates import lock_schedules, set_due_dates
from cloudkeys.services.protection import material_for, touch_store_of_hsm
from cloudkeys.services.rows import is_constraint, require_live_vault, save_revision
from cloudkeys.services.stores import add_version
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change, snapshot
from vault.errors import Conflict, ValidationFailed, check_revision
from vault.models import GenerationChange
from vault.permissions import Permission

USES = ("ENCRYPT", "DECRYPT")
_AUDITED = (
    "name", "description", "region", "external_key_id", "state", "pointer_state", "permitted_uses", "administrators",
    "users", "tags", "rotation_schedule", "expiration",
)  # fmt: skip
_AT_AWS = frozenset({"name", "description", "administrators", "users", "tags"})


@dataclass(frozen=True)
class CloudKeyMade:
    """A key, the Operation that makes (or finds) its KMS key when linked, and the generation that carries it."""

    key: CloudKey
    operation: Operation | None
    generation: int


def create_cloud_key(
    actor: Actor,
    key_set_id: UUID,
    *,
    name: str,
    region: str,
    description: str = "",
    external_key_id: str = "",
    permitted_uses: Sequence[str] = USES,
    administrators: Sequence[str] = (),
    users: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    rotation_schedule: Mapping[str, Any] | None = None,
    expiration: Mapping[str, Any] | None = None,
) -> CloudKeyMade:
    """Generate a key. It is ENABLED for the data plane at once; in a linked store its KMS key follows by Operation.

    Raises ValidationFailed (field named), Conflict, NotFound, PermissionDenied, and Unavailable when the HSM of its
    key set does not answer.
    """
    asked: KeySet = actor.fetch(KeySet, key_set_id, Permission.CLOUD_KEYS_CREATE)
    if asked.protection != KeySet.Protection.SOFTWARE:
        # All that can be wrong with it is said before a key is made in an HSM.
        prepare_cloud_key(
            asked, name=name, region=region, description=description, external_key_id=external_key_id,
            permitted_uses=permitted_uses, administrators=administrators, users=users, tags=tags,
            rotation_schedule=rotation_schedule, expiration=expiration,
        )  # fmt: skip
    with material_for(asked, name) as material, change(actor) as tx:
        # Locking the key set makes a change of its schedule and a new inheriting key take turns.
        key_set: KeySet = actor.fetch(KeySet, key_set_id, Permission.CLOUD_KEYS_CREATE, lock=True)
        key = prepare_cloud_key(
            key_set, name=name, region=region, description=description, external_key_id=external_key_id,
            permitted_uses=permitted_uses, administrators=administrators, users=users, tags=tags,
            rotation_schedule=rotation_schedule, expiration=expiration,
        )  # fmt: skip
        material.check(key_set)
        linked = key.pointer_state == CloudKey.PointerState.PENDING
        try:
            key.save(force_insert=True)
        except IntegrityError as error:
            raise _taken(error) from None
        add_version(key, 1, material)
        touch_store_of_hsm(tx, key)
        operation = start_operation(actor, "cloud_key.provision", key) if linked else None
        tx.audit(
            Action.CLOUD_KEY_CREATE, key, after=snapshot(key, *_AUDITED),
            detail={"operation": str(operation.pk)} if operation is not None else {},
        )  # fmt: skip
        tx.touch(GenerationChange.Kind.KEY, key.pk)
    return CloudKeyMade(key, operation, tx.generation or 0)


def prepare_cloud_key(
    key_set: KeySet,
    *,
    name: str,
    region: str,
    description: str = "",
    external_key_id: str = "",
    permitted_uses: Sequence[str] = USES,
    administrators: Sequence[str] = (),
    users: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    rotation_schedule: Mapping[str, Any] | None = None,
    expiration: Mapping[str, Any] | None = None,
) -> CloudKey:
    """The row that `create_cloud_key` would save, fully checked; it writes and locks nothing.

    Raises ValidationFailed (field named), Conflict, NotFound.
    """
    require_live_vault(key_set.vault)
    store = XksKeyStore.objects.filter(key_set=key_set).first()
    if store is None:
        raise Conflict(
            "This key set is not used as external key store, and import into AWS (BYOK) is not offered yet.",
            cure="Use the key set as external key store first.",
        )
    account = key_set.csp_account
    partition = account.partition if account is not None else "aws"
    link = (
        AwsStoreLink.objects.filter(store=store, region=region).exclude(state=AwsStoreLink.State.GONE).first()
    )
    key = CloudKey(
        vault=key_set.vault, key_set=key_set, csp_account=account, store=store, link=link,
        name=naming.check_alias_name(name), description=_description(description),
        region=naming.check_region(region, partition), permitted_uses=check_uses(permitted_uses),
        tags=naming.check_tags(dict(tags or {})), rotated_at=timezone.now(),
    )  # fmt: skip
    endpoint = link.endpoint if link is not None else settings.KEYSTEAD_XKS_PUBLIC_ENDPOINT
    key.external_key_id = naming.check_external_key_id(
        external_key_id or str(uuid4()), store.path_prefix, endpoint
    )
    _set_principals(key, administrators, users)
    key.rotation_schedule = _own_schedule(rotation_schedule)
    key.expiration = _own_expiration(expiration)
    linked = link is not None and link.linked
    key.pointer_state = CloudKey.PointerState.PENDING if linked else CloudKey.PointerState.NOT_LINKED
    if linked and link is not None and link.state == AwsStoreLink.State.FAILED:
        raise Conflict(
            f"The AWS key store of this key set in {region} has failed"
            f" ({link.connection_error_code or 'see its Operation'}).",
            field="region",
            cure="Mend or reconnect the store first, or choose another region.",
        )
    _require_free(key)
    key.created_at = timezone.now()
    set_due_dates(key)
    return key


def update_cloud_key(
    actor: Actor, key_id: UUID, changes: Mapping[str, Any], *, expected_revision: int | None = None
) -> CloudKeyMade:
    """Change named fields; what AWS knows too (alias, description, policy, tags) follows by Operation when linked."""
    with change(actor) as tx:
        lock_schedules(actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_UPDATE).key_set_id)
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_UPDATE, lock=True)
        require_user_key(key)
        check_revision(key, expected_revision)
        before = snapshot(key, *_AUDITED)
        for name, value in changes.items():
            match name:
                case "name":
                    key.name = naming.check_alias_name(value)
                case "description":
                    key.description = _description(value)
                case "tags":
                    key.tags = naming.check_tags(dict(value))
                case "administrators" | "users":
                    pass
                case "rotation_schedule":
                    key.rotation_schedule = _own_schedule(value)
                case "expiration":
                    key.expiration = _own_expiration(value)
                    key.expired_at = None
                case _:
                    raise ValidationFailed(
                        "This cannot be changed.", field=name, cure="Make a new CloudKey instead."
                    )
        if "administrators" in changes or "users" in changes:
            _set_principals(
                key, changes.get("administrators", key.administrators), changes.get("users", key.users)
            )
        if key.name != before["name"]:
            _require_free(key)
        set_due_dates(key)
        try:
            save_revision(
                key, "name", "description", "tags", "administrators", "users", "rotation_schedule", "expiration",
                "expired_at",
                "next_rotation_at", "expires_at",
            )  # fmt: skip
        except IntegrityError as error:
            raise _taken(error) from None
        if key.tags != before["tags"]:
            tx.touch(GenerationChange.Kind.KEY, key.pk)  # access rules may look at them
        linked = key.pointer_state == CloudKey.PointerState.LINKED and bool(_AT_AWS & set(changes))
        operation = start_operation(actor, "cloud_key.update_pointer", key) if linked else None
        tx.audit(Action.CLOUD_KEY_UPDATE, key, before=before, after=snapshot(key, *_AUDITED))
    return CloudKeyMade(key, operation, 0)


def tag_cloud_key(
    actor: Actor, key_id: UUID, *, add: Mapping[str, str] | None = None, remove: Sequence[str] = ()
) -> CloudKeyMade:
    """Add and remove single tags; the others stay, whoever sets them meanwhile. A key that has it so already stays untouched."""
    with change(actor):
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_UPDATE)
        # The order in which update_cloud_key locks: the key set, then the key.
        lock_schedules(key.key_set_id)
        key = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_UPDATE, lock=True)
        tags = {name: value for name, value in key.tags.items() if name not in set(remove)} | dict(add or {})
        if tags == key.tags:
            return CloudKeyMade(key, None, 0)
        return update_cloud_key(actor, key_id, {"tags": tags})


def link_cloud_key(actor: Actor, key_id: UUID, *, kms_key_id: str = "") -> CloudKeyMade:
    """Give an unlinked key its KMS key: adopt the given id or ARN once AWS confirms it, or make one."""
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_UPDATE, lock=True)
        require_user_key(key)
        if key.pointer_state in (CloudKey.PointerState.LINKED, CloudKey.PointerState.PENDING):
            raise Conflict("This key is linked already, or just being linked.")
        link = (
            AwsStoreLink.objects.filter(store=key.store, region=key.region)
            .exclude(state=AwsStoreLink.State.GONE)
            .first()
        )
        if link is None or not link.linked:
            raise Conflict(
                f"The external key store has no linked AWS key store in {key.region}.",
                cure="Link the store of that region first.",
            )
        key.link = link
        key.pointer_state = CloudKey.PointerState.PENDING
        save_revision(key, "link", "pointer_state")
        kind = "cloud_key.link" if kms_key_id else "cloud_key.provision"
        operation = start_operation(
            actor, kind, key, input={"kms_key_id": kms_key_id} if kms_key_id else None
        )
        tx.audit(
            Action.CLOUD_KEY_LINK, key, detail={"kms_key_id": kms_key_id, "operation": str(operation.pk)}
        )
    return CloudKeyMade(key, operation, 0)


def refresh_cloud_key(actor: Actor, key_id: UUID) -> Operation:
    """Read what AWS says of the KMS key into `cloud_state`; our state never changes by it."""
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_UPDATE, lock=True)
        require_live_vault(key.vault)
        if not key.kms_key_id:
            raise Conflict("This key has no KMS key to ask AWS about.", cure="Link it first.")
        operation = start_operation(actor, "cloud_key.refresh", key)
        tx.audit(Action.CLOUD_KEY_REFRESH, key, detail={"operation": str(operation.pk)})
    return operation


def create_key_step(key: CloudKey) -> dict[str, str]:
    """What the admin of an unlinked store does in AWS to make the KMS key: as a command, and value by value."""
    store_id = key.link.custom_key_store_id if key.link is not None else ""
    store_id = store_id or "<custom key store id>"
    return {
        "region": key.region,
        "origin": "EXTERNAL_KEY_STORE",
        "custom_key_store_id": store_id,
        "xks_key_id": key.external_key_id,
        "alias": key.alias,
        "command": (
            f"aws kms create-key --region {key.region} --origin EXTERNAL_KEY_STORE --custom-key-store-id {store_id}"
            f" --xks-key-id {key.external_key_id}"
        ),
        "alias_command": (
            f"aws kms create-alias --region {key.region} --alias-name {key.alias}"
            " --target-key-id <key id from create-key>"
        ),
    }


def check_uses(values: Sequence[str], *, field: str = "permitted_uses") -> list[str]:
    """ENCRYPT, DECRYPT, both or neither, in the order of the specification. Raises ValidationFailed."""
    for index, value in enumerate(values):
        if value not in USES:
            raise ValidationFailed(
                "A key may ENCRYPT and DECRYPT.", field=f"{field}[{index}]", cure="Give one of these."
            )
    return [use for use in USES if use in values]


def require_user_key(key: CloudKey) -> None:
    """Refuse acts that a health-check key, a destroyed key or a disabled vault does not allow. Raises Conflict."""
    require_live_vault(key.vault)
    if key.kind == CloudKey.Kind.HEALTH_CHECK:
        raise Conflict(
            "This is the store's health-check key: AWS would lose its connection without it.",
            cure="It goes when the key set is deleted.",
        )
    if key.state == CloudKey.State.DESTROYED:
        raise Conflict("This key is destroyed; nothing brings its material back.")


def _set_principals(key: CloudKey, administrators: Sequence[str], users: Sequence[str]) -> None:
    account = key.csp_account
    if (administrators or users) and account is None:
        raise ValidationFailed(
            "Administrators and users are principals of a CSP account; this key set has none.",
            field="administrators" if administrators else "users",
            cure="Leave them out.",
        )
    if account is None:
        key.administrators, key.users = [], []
        return
    known = account.cloud_account_id
    key.administrators = naming.check_principals(
        list(administrators), account.partition, known, field="administrators"
    )
    key.users = naming.check_principals(list(users), account.partition, known, field="users")


def _own_schedule(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if value is None or value.get("kind") == "inherited":
        return None
    schedule = parse_schedule(value)
    return schedule.as_json() if schedule is not None else {"kind": "none"}


def _own_expiration(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if value is None or value.get("kind") == "inherited":
        return None
    expiration = parse_expiration(value)
    return expiration.as_json() if expiration is not None else {"kind": "never"}


def _description(value: str) -> str:
    if len(value) > 1000:
        raise ValidationFailed(
            "A description has at most 1,000 characters.", field="description", cure="Shorten it."
        )
    return value


def _require_free(key: CloudKey) -> None:
    taken = CloudKey.objects.filter(
        csp_account=key.csp_account, region=key.region, name=key.name, kind=CloudKey.Kind.USER
    ).exclude(state=CloudKey.State.DESTROYED)
    if key.csp_account_id is None:
        taken = taken.filter(key_set=key.key_set)
    if taken.exclude(pk=key.pk).exists():
        raise name_is_taken()
    if (
        CloudKey.objects.filter(store=key.store, external_key_id=key.external_key_id)
        .exclude(pk=key.pk)
        .exists()
    ):
        raise id_is_taken()


def _taken(error: IntegrityError) -> Exception:
    if is_constraint(error, "alias_free_in_account_and_region", ".csp_account_id", ".name"):
        return name_is_taken()
    if is_constraint(error, "external_key_id_once_and_for_all", ".store_id", ".external_key_id"):
        return id_is_taken()
    return error


def name_is_taken() -> ValidationFailed:
    """The error for a name that another CloudKey of the account and region has."""
    return ValidationFailed(
        "Another CloudKey has this name, which is its alias, in this account and region.",
        field="name",
        cure="Choose another name.",
    )


def id_is_taken() -> ValidationFailed:
    """The error for an external key id that the store knows already."""
    return ValidationFailed(
        "This external key id is, or was once, in use in this store; an id is never used twice.",
        field="external_key_id",
        cure="Choose another, or leave it out.",
    )
