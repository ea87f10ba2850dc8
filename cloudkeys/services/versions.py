"""Rotation: a new version inside the same external key. Old ciphertext names its version and stays readable.

Two steps, because worker processes learn of a version one after the other: first every worker gets the new version to
decrypt with, and only when all that are counted have confirmed does it become the one that encrypts. Otherwise AWS
could be given a ciphertext by one worker that the next does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db.models import F, QuerySet
from django.utils import timezone

from cloudkeys.models import CloudKey, KeySet, KeyVersion, Operation
from cloudkeys.operations import start_operation
from cloudkeys.services.cloud_keys import require_user_key
from cloudkeys.services.due_dates import set_due_dates
from cloudkeys.services.invocations import ROTATE_AT
from cloudkeys.services.protection import Material, touch_store_of_hsm
from cloudkeys.services.rows import save_revision
from cloudkeys.services.stores import add_version
from vault.actions import Action
from vault.actors import Actor
from vault.changes import Change, change
from vault.errors import Conflict, check_revision
from vault.models import GenerationChange
from vault.permissions import Permission


@dataclass(frozen=True)
class Rotation:
    """A rotation that has begun: its new version encrypts once the Operation has ended."""

    key: CloudKey
    version: KeyVersion
    operation: Operation
    generation: int


def rotate_cloud_key(actor: Actor, key_id: UUID, *, expected_revision: int | None = None) -> Rotation:
    """Make the next version and hand it to the data plane. Raises Conflict unless the key is enabled and encrypts."""
    with change(actor) as tx:
        key: CloudKey = actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_ROTATE, lock=True)
        require_user_key(key)
        check_revision(key, expected_revision)
        if key.state != CloudKey.State.ENABLED:
            raise Conflict("Only an enabled key rotates.", cure="Enable the key first.")
        if key.retired_at is not None or "ENCRYPT" not in key.permitted_uses:
            raise Conflict("This key does not encrypt any more, so there is nothing to rotate.")
        version, operation = _begin(actor, tx, key)
    return Rotation(key, version, operation, tx.generation or 0)


def activate_version(tx: Change, key: CloudKey, number: int) -> None:
    """Let a version encrypt, on a locked row, once every counted worker can decrypt with it. May be repeated."""
    version = key.versions.get(number=number)
    if version.activated_at is not None or version.destroyed_at is not None:
        return
    before = {"current_version": key.current_version}
    version.activated_at = key.rotated_at = timezone.now()
    version.save(update_fields=["activated_at"])
    key.current_version = number
    set_due_dates(key)
    save_revision(key, "current_version", "rotated_at", "next_rotation_at", "expires_at")
    tx.audit(Action.CLOUD_KEY_ROTATE, key, before=before, after={"current_version": number})
    tx.touch(GenerationChange.Kind.KEY, key.pk)


def rotate_due_keys(actor: Actor, limit: int = 100) -> int:
    """Begin the rotation of enabled keys whose date has come. Returns how many; run it again for more."""
    count = 0
    due = CloudKey.objects.filter(
        state=CloudKey.State.ENABLED, retired_at=None, kind=CloudKey.Kind.USER, vault__state="ENABLED",
    )  # fmt: skip
    busy = Operation.objects.filter(state__in=Operation.UNFINISHED, kind="cloud_key.rotate").values(
        "target_id"
    )
    by_date = due.filter(next_rotation_at__lte=timezone.now())
    ids = list(by_date.exclude(pk__in=busy).order_by("next_rotation_at").values_list("pk", flat=True)[:limit])
    worn = set(_worn_versions().values_list("cloud_key_id", flat=True)[:limit])
    # Failed rotations are begun again each time: an HSM key that goes on encrypting comes to its hard stop.
    ids += due.filter(pk__in=worn - set(ids)).exclude(pk__in=busy).values_list("pk", flat=True)
    for key_id in ids:
        with change(actor) as tx:
            key = CloudKey.objects.select_for_update().get(pk=key_id)
            rotates = (
                key.state == CloudKey.State.ENABLED
                and key.retired_at is None
                and "ENCRYPT" in key.permitted_uses
            )
            is_due = key.next_rotation_at is not None and key.next_rotation_at <= timezone.now()
            if rotates and (is_due or _worn_versions().filter(cloud_key=key).exists()):
                _begin(actor, tx, key)
                count += 1
    return count


def lacks_material(version: KeyVersion) -> bool:
    """Whether a version still waits for what an HSM has to give."""
    return version.material is None and version.hsm_key_id is None and version.destroyed_at is None


def give_material(tx: Change, key: CloudKey, number: int, material: Material) -> None:
    """Write down the material of a version that lacks it, on a locked row; every worker is told of it."""
    version = key.versions.select_related("cloud_key__key_set").get(number=number)
    if not lacks_material(version):
        return
    if version.protection != material.protection:
        raise Conflict("The protection of this key set has just changed.", cure="Rotate the key again.")
    material.put(version)
    version.save(update_fields=["material", "hsm_key", "protection"])
    tx.touch(GenerationChange.Kind.KEY, key.pk)
    touch_store_of_hsm(tx, key)


def _worn_versions() -> QuerySet[KeyVersion]:
    """Current versions in HSMs that have been handed out half of what AES-GCM allows one key."""
    return KeyVersion.objects.filter(
        reserved_invocations__gte=ROTATE_AT, number=F("cloud_key__current_version"), destroyed_at=None
    )


def _begin(actor: Actor, tx: Change, key: CloudKey) -> tuple[KeyVersion, Operation]:
    # A version left over by a rotation that failed half-way is used rather than piled upon, if it is what is wanted now.
    left_over = key.versions.filter(number__gt=key.current_version, activated_at=None, destroyed_at=None)
    left_over.exclude(protection=key.key_set.protection).update(material=None, destroyed_at=timezone.now())
    version = left_over.first()
    if version is None:
        last = key.versions.order_by("-number").values_list("number", flat=True).first() or 0
        software = key.key_set.protection == KeySet.Protection.SOFTWARE
        # An HSM is asked by the operation, and for as long as it takes: never with rows locked.
        version = add_version(key, last + 1, Material.software() if software else None, activated=False)
    operation = start_operation(actor, "cloud_key.rotate", key, input={"version": version.number})
    tx.audit(
        Action.CLOUD_KEY_ROTATE,
        key,
        detail={"asked": True, "version": version.number, "operation": str(operation.pk)},
    )
    tx.touch(GenerationChange.Kind.KEY, key.pk)
    return version, operation
