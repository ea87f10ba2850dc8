"""Keys inside HSMs that belong to CloudKeys: their end, and taking over keys that were there before."""

from __future__ import annotations

import logging
from base64 import b64decode
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from django.db import IntegrityError
from django.db.models import Q
from django.utils import timezone

from cloudkeys.models import CloudKey, KeySet, KeyVersion
from cloudkeys.services.cloud_keys import USES, prepare_cloud_key
from cloudkeys.services.due_dates import set_due_dates
from cloudkeys.services.invocations import MOST, ROTATE_AT
from cloudkeys.services.protection import Material, material_for, touch_store_of_hsm
from cloudkeys.services.stores import add_version
from hsm import wire
from vault import hsm as hsms
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change, snapshot
from vault.errors import Conflict, DomainError, NotFound, ValidationFailed
from vault.models import GenerationChange, HsmConnection, HsmKey, HsmKeyPlacement, Vault
from vault.permissions import Permission

log = logging.getLogger(__name__)

ORPHAN_AFTER: Final = timedelta(hours=1)
"""A key made for a version that was never written down is destroyed after so long."""
MAX_FIXED_METADATA: Final = 20
CALL_S: Final = 5.0
OUR_ID_BYTES: Final = 16
"""Length of the CKA_IDs that we give; another one was given by somebody else, to all copies."""


def destroy_unused_hsm_keys(limit: int = 50) -> int:
    """Destroy, in the HSM, keys whose version has been destroyed, or was never written. Returns how many.

    One that the HSM does not destroy now (it is away, say) is tried again at the next call.
    """
    dead = Q(key_version__destroyed_at__isnull=False) | Q(
        key_version=None, created_at__lt=timezone.now() - ORPHAN_AFTER
    )
    count = 0
    for key in HsmKey.objects.filter(dead, purpose="resident", state=HsmKey.State.ACTIVE).order_by(
        "created_at"
    )[:limit]:
        try:
            hsms.destroy_hsm_key(key)
            count += 1
        except DomainError as error:
            log.warning("key %s is not destroyed in its HSM yet: %s", key.pk, error.message)
    return count


# --- adopting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adopted:
    """A key that was taken over, what to know about it, and the generation that carries it."""

    key: CloudKey
    rotated: bool
    """Whether it encrypts with a new key from the start, since how often the old one was used is not known."""
    warnings: list[str] = field(default_factory=list)
    generation: int = 0


def adopt_cloud_key(
    actor: Actor,
    key_set_id: UUID,
    *,
    label: str,
    name: str,
    region: str,
    cka_id: str = "",
    fixed_metadata: str = "",
    prior_invocations: int | None = None,
    description: str = "",
) -> Adopted:
    """Take over an AES-256 key that AWS's reference proxy used, and what it encrypted with it.

    The external key id is the old label, so that the KMS key keeps its XksKeyId. `fixed_metadata` is the proxy's
    ciphertext_metadata_b64. How often the key has encrypted is declared, or counts as exhausted: then a new version is
    made at once and the old key only decrypts. An appliance admin's act. Raises ValidationFailed, Conflict, Unavailable.
    """
    key_set, connection, prior = _adopting(actor, key_set_id, prior_invocations)
    metadata = _fixed_metadata(fixed_metadata)
    wanted: dict[str, Any] = {
        "name": name, "region": region, "description": description, "external_key_id": label, "permitted_uses": USES,
    }  # fmt: skip
    prepare_cloud_key(key_set, **wanted)
    with hsms.asking(connection.name):
        found = _find(connection, label, cka_id)
        warnings = _check_attributes(connection, found)
    _refuse_used(connection, found.hex())
    if prior >= ROTATE_AT:
        with material_for(key_set, f"{name} v2") as material:
            return _take_over(actor, key_set_id, wanted, found, metadata, prior, warnings, material)
    return _take_over(actor, key_set_id, wanted, found, metadata, prior, warnings, None)


def _adopting(
    actor: Actor, key_set_id: UUID, prior_invocations: int | None
) -> tuple[KeySet, HsmConnection, int]:
    """The key set, its HSM, and how often the key counts as used. Raises PermissionDenied, NotFound, Conflict, ValidationFailed."""
    actor.require(Permission.APPLIANCE_MANAGE_HSMS)
    key_set = KeySet.objects.filter(pk=key_set_id, vault__state=Vault.State.ENABLED).first()
    if key_set is None:
        raise NotFound("There is no such key set.")
    if key_set.protection != KeySet.Protection.HSM_RESIDENT or key_set.hsm_connection is None:
        raise Conflict(
            "Only a key set whose keys live in an HSM takes keys over.",
            cure="Change its protection to hsm-resident first.",
        )
    if prior_invocations is not None and not 0 <= prior_invocations <= MOST:
        raise ValidationFailed(
            "How often the key has encrypted is a number up to 2^32.",
            field="prior_invocations",
            cure="Leave it out when it is not known: the key then rotates at once.",
        )
    return key_set, key_set.hsm_connection, MOST if prior_invocations is None else prior_invocations


@dataclass(frozen=True)
class AdoptionCheck:
    """What was found of a key before it is taken over; nothing was changed."""

    cka_id: str
    """Hex; empty for a key without one, which is given one when it is taken over, and looked at then."""
    members: list[str]
    rotates: bool
    warnings: list[str]


def check_adoption(
    actor: Actor,
    key_set_id: UUID,
    *,
    label: str,
    name: str,
    region: str,
    cka_id: str = "",
    fixed_metadata: str = "",
    prior_invocations: int | None = None,
    description: str = "",
) -> AdoptionCheck:
    """Do all checks of `adopt_cloud_key` that change nothing, and say what would be done. Raises what that raises."""
    key_set, connection, prior = _adopting(actor, key_set_id, prior_invocations)
    _fixed_metadata(fixed_metadata)
    prepare_cloud_key(
        key_set, name=name, region=region, description=description, external_key_id=label, permitted_uses=USES
    )
    warnings: list[str] = []
    with hsms.asking(connection.name):
        found = _look_up(connection, label, cka_id)
        if found:
            warnings = _check_attributes(connection, found)
    if found:
        _refuse_used(connection, found.hex())
    members = [str(each) for each in connection.members.order_by("position")]  # type: ignore[attr-defined]
    return AdoptionCheck(found.hex(), members, prior >= ROTATE_AT, warnings)


def adopting_key_sets(connection: HsmConnection) -> list[KeySet]:
    """The key sets that may take over keys of this HSM, by vault and name."""
    rows = KeySet.objects.filter(
        hsm_connection=connection,
        protection=KeySet.Protection.HSM_RESIDENT,
        vault__state=Vault.State.ENABLED,
        xks_key_store__isnull=False,
    )
    return list(rows.select_related("vault").order_by("vault__name", "name"))


def _take_over(
    actor: Actor, key_set_id: UUID, wanted: dict[str, Any], found: bytes, metadata: bytes, prior: int,
    warnings: list[str], fresh: Material | None,
) -> Adopted:  # fmt: skip
    with change(actor) as tx:
        key_set = KeySet.objects.select_for_update().get(pk=key_set_id)
        connection = key_set.hsm_connection
        if key_set.protection != KeySet.Protection.HSM_RESIDENT or connection is None:
            raise Conflict("The protection of this key set has just changed.", cure="Try again.")
        _refuse_used(connection, found.hex())
        key = prepare_cloud_key(key_set, **wanted)
        # Its KMS key exists: it is linked to it afterwards, and none is made.
        key.pointer_state = CloudKey.PointerState.NOT_LINKED
        try:
            key.save(force_insert=True)
        except IntegrityError:
            raise ValidationFailed(
                "Another key has this name or this external key id.",
                field="key_label",
                cure="Choose another name.",
            ) from None
        placed = HsmKey.objects.create(
            connection=connection, vault=key_set.vault, purpose="resident", label=wanted["external_key_id"],
            cka_id=found.hex(), replication="device-bound", adopted=True, state=HsmKey.State.ACTIVE,
        )  # fmt: skip
        HsmKeyPlacement.objects.bulk_create(
            HsmKeyPlacement(key=placed, member=member, verified_at=timezone.now())
            for member in connection.members.all()
        )
        version = KeyVersion(
            vault=key.vault, cloud_key=key, number=1, protection=key_set.protection, hsm_key=placed,
            adopted_metadata=metadata, reserved_invocations=prior,
        )  # fmt: skip
        version.activated_at = key.rotated_at
        version.save(force_insert=True)
        if fresh is not None:
            # No worker knows the key yet, so nothing has to be waited for between the two versions.
            add_version(key, 2, fresh)
            key.current_version = 2
            set_due_dates(key)
            key.save(update_fields=["current_version", "next_rotation_at", "expires_at"])
        tx.audit(
            Action.CLOUD_KEY_ADOPT,
            key,
            after=snapshot(key, "name", "external_key_id", "region", "permitted_uses", "current_version"),
            detail={
                "hsm_connection": connection.name,
                "cka_id": found.hex(),
                "prior_invocations": None if prior == MOST else prior,
                "warnings": warnings,
            },
        )
        tx.touch(GenerationChange.Kind.KEY, key.pk)
        touch_store_of_hsm(tx, key)
    return Adopted(key, fresh is not None, warnings, tx.generation or 0)


def _fixed_metadata(text: str) -> bytes:
    try:
        metadata = b64decode(text, validate=True)
    except ValueError:
        metadata = None
    if metadata is None or len(metadata) > MAX_FIXED_METADATA:
        raise ValidationFailed(
            f"The fixed ciphertextMetadata is base64 of at most {MAX_FIXED_METADATA} bytes.",
            field="fixed_metadata",
            cure="Copy ciphertext_metadata_b64 of the proxy's settings; leave it out where that is commented out.",
        )
    # The lengths and first bytes of formats 1 and 2 (xks/aead.py): it would not be known whose a ciphertext is.
    if (len(metadata), metadata[:1]) in ((17, b"\x01"), (5, b"\x02")):
        raise ValidationFailed(
            "This fixed ciphertextMetadata looks like our own.",
            field="fixed_metadata",
            cure="Such a key cannot be taken over; re-encrypt its data under a new key.",
        )
    return metadata


def _look_up(connection: HsmConnection, label: str, cka_id: str) -> bytes:
    """The CKA_ID of the one key with this label; empty where it has none."""
    group = hsms.sync_group(connection.pk)
    answer = group.call(wire.FindByLabel(0, label), deadline=wire.boot_clock() + CALL_S)
    ids: list[str] = [str(each).lower() for each in (answer.info or {}).get("keys", [])]
    if cka_id:
        ids = [each for each in ids if each == cka_id.lower()]
    if not ids:
        raise ValidationFailed(
            "The HSM has no secret key with this label.",
            field="key_label",
            cure="Copy the label, and look that the HSM connection is the right one.",
        )
    if len(ids) > 1:
        raise ValidationFailed(
            f"The HSM has {len(ids)} keys with this label.",
            field="cka_id",
            cure=f"Give one of {', '.join(ids)}.",
        )
    return bytes.fromhex(ids[0])


def _find(connection: HsmConnection, label: str, cka_id: str) -> bytes:
    # AWS's instructions make keys without CKA_ID: such a key is given one. Again where an earlier try got half way.
    found = _look_up(connection, label, cka_id) or uuid4().bytes
    group = hsms.sync_group(connection.pk)
    if len(found) == OUR_ID_BYTES and not cka_id:
        for member in connection.members.order_by("position"):
            group.hold({str(member.pk)}).call(
                wire.Identify(0, label, found), deadline=wire.boot_clock() + CALL_S
            )
    return found


def _check_attributes(connection: HsmConnection, key: bytes) -> list[str]:
    """Refuse what is no AES-256 key that encrypts and stays inside, on any member; return what a person should know."""
    warnings: list[str] = []
    group = hsms.sync_group(connection.pk)
    for member in connection.members.order_by("position"):
        told = group.hold({str(member.pk)}).call(wire.Describe(0, key), deadline=wire.boot_clock() + CALL_S)
        found = told.info or {}
        wrong = [
            text
            for text, right in (
                # Some tokens do not tell the length of a key that was brought in.
                (
                    "it is no AES-256 key",
                    found.get("aes") is True and found.get("value_len") in (32, 0, None),
                ),
                ("CKA_ENCRYPT is not true", found.get("encrypt") is True),
                ("CKA_DECRYPT is not true", found.get("decrypt") is True),
                ("CKA_TOKEN is not true: it would not last", found.get("token") is True),
                ("CKA_SENSITIVE is not true: its value can be read", found.get("sensitive") is True),
                ("CKA_EXTRACTABLE is not false: it can be taken out", found.get("extractable") is False),
            )
            if not right
        ]
        if wrong:
            raise ValidationFailed(
                f"This key cannot be taken over: {'; '.join(wrong)} (member {member}).",
                field="key_label",
                cure="Set CKA_SENSITIVE to true and CKA_EXTRACTABLE to false with the vendor's tool, where that is what is wrong.",
            )
        if found.get("wrap") or found.get("unwrap"):
            warnings.append(
                f"On {member} the key may also wrap or unwrap other keys: whoever has the PIN can use that"
                " together with CKA_DECRYPT to take keys out."
            )
        if found.get("value_len") != 32:
            warnings.append(f"{member} does not tell the key's length: look that it has 256 bits.")
    return warnings


def _refuse_used(connection: HsmConnection, cka_id: str) -> None:
    """Refuse a key that is anything to us already: root, wrapping, health-check or a CloudKey's."""
    used = HsmKey.objects.filter(connection=connection, cka_id__iexact=cka_id).first()
    if used is not None or connection.health_key.lower() == cka_id:
        purpose = used.purpose if used is not None else "health"
        raise Conflict(
            f"This key is in use already ({purpose}).", cure="Take over a key that Keystead does not use yet."
        )
