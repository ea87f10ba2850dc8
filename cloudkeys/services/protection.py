"""Where key material comes from and what protects it: this process, a KEK that an HSM wraps, or the HSM itself.

*hsm-wrapped*: material is random bytes of the HSM and of the system, sealed under a KEK of the key set; the KEK is
encrypted as data in the HSM, and the result once more under the vault's KEK, so that destroying a vault's KEK makes
its keys unreadable wherever the HSM is.  *hsm-resident*: the key is made in the HSM and has no material here.

An HSM may be slow, so that nothing here that asks one belongs inside a transaction: material is got first
(:func:`material_for`), and the transaction only writes it down.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from uuid import UUID

from django.db.models import Count, F, Q, QuerySet

from cloudkeys.models import CloudKey, KeySet, KeyVersion
from cloudkeys.services.hsm_replication import DEVICE_BOUND, REPLICATED, check_replication, replication_of
from hsm import wire
from hsm.base import DataInvalid, HsmError, KeyWrapper
from hsm.pkcs11 import Pkcs11KeyWrapper
from hsm.software import KEY_BYTES, SoftwareKeyWrapper, new_key
from vault import hsm as hsms
from vault.changes import Change
from vault.errors import Conflict, ValidationFailed
from vault.fields import WrappedBlob
from vault.keys import associated_data, seal, unseal
from vault.models import GenerationChange, HsmConnection, HsmKey, Vault
from vault.secret import Secret

CALL_S = 5.0
"""What an HSM gets for one call that people or work in the background wait for."""
_KEPT = 256
_SOFTWARE = KeySet.Protection.SOFTWARE
_WRAPPED = KeySet.Protection.HSM_WRAPPED
_RESIDENT = KeySet.Protection.HSM_RESIDENT


@dataclass
class Material:
    """What a new version of a key will be, before it is written down."""

    protection: str
    plain: Secret | None = field(default=None, repr=False)
    wrapper: KeyWrapper | None = field(default=None, repr=False)
    hsm_key: HsmKey | None = None
    used: bool = False
    """Whether a version has taken it."""

    @classmethod
    def software(cls) -> Material:
        """32 bytes of the system's random generator."""
        return cls(_SOFTWARE, Secret(new_key()))

    def put(self, version: KeyVersion) -> None:
        """Set the columns of an unsaved or locked version."""
        version.protection = self.protection
        if self.hsm_key is not None:
            version.hsm_key = self.hsm_key
        elif self.plain is not None and self.wrapper is not None:
            place = associated_data(KeyVersion._meta.db_table, version.pk, "material")
            version.material = WrappedBlob(self.wrapper.encrypt(self.plain.reveal(), place))
        elif self.plain is not None:
            seal(version, "material", self.plain)
        self.used = True

    def check(self, key_set: KeySet) -> None:
        """Raise Conflict when a key set, its row locked, has changed its protection since this was got."""
        copied = self.hsm_key is not None and self.hsm_key.replication == REPLICATED
        if self.protection != key_set.protection or (copied and key_set.hsm_replication == DEVICE_BOUND):
            raise Conflict("The protection of this key set has just changed.", cure="Try again.")


def kek_place(key_set_id: UUID) -> bytes:
    """Associated data of a key set's KEK inside the HSM."""
    return associated_data(KeySet._meta.db_table, key_set_id, "hsm_kek")


# --- choosing a protection ---------------------------------------------------------------------------------------


def find_connection(vault: Vault, protection: str, connection_id: UUID | None) -> HsmConnection | None:
    """The HSM connection that a protection needs: the one named, or the only one that the vault may use.

    Raises ValidationFailed.
    """
    if protection not in KeySet.Protection.values:
        raise ValidationFailed(
            "This protection is unknown.",
            field="protection",
            cure=f"Give one of {', '.join(KeySet.Protection.values)}.",
        )
    if protection == _SOFTWARE:
        if connection_id is not None:
            raise ValidationFailed(
                "Software protection needs no HSM.", field="hsm_connection", cure="Leave the HSM out."
            )
        return None
    allowed = {connection.pk: connection for connection in hsms.connections_for(vault)}
    if not allowed:
        raise ValidationFailed(
            "This vault may use no HSM.",
            field="protection",
            cure="Ask an appliance admin to connect an HSM and to let this vault use it, or choose software.",
        )
    if connection_id is None and len(allowed) > 1:
        raise ValidationFailed(
            "This vault may use several HSMs.", field="hsm_connection", cure="Name one of them."
        )
    found = next(iter(allowed.values())) if connection_id is None else allowed.get(connection_id)
    if found is None:
        raise ValidationFailed(
            "There is no such HSM connection, or this vault may not use it.",
            field="hsm_connection",
            cure="Name one that this vault may use.",
        )
    return found


@dataclass(frozen=True)
class Chosen:
    """A protection with all that it needs, got from the HSM; :meth:`put` writes it down."""

    protection: str
    connection: HsmConnection | None = None
    wrapping_key: HsmKey | None = None
    kek: bytes | None = field(default=None, repr=False)
    """The key set's KEK, encrypted as data in the HSM."""
    instead_of: bytes | None = field(default=None, repr=False)
    """What the row's KEK was when this was got."""
    replication: str = ""

    def put(self, key_set: KeySet) -> None:
        """Set the columns; the caller saves. Raises Conflict when somebody else has set the KEK meanwhile."""
        key_set.protection = self.protection
        key_set.hsm_connection = self.connection
        key_set.hsm_replication = self.replication
        if self.kek is not None:
            held = bytes(key_set.kek_blob) if key_set.kek_blob is not None else None
            if held != self.instead_of:
                raise Conflict("The protection of this key set is just being changed.", cure="Try again.")
            key_set.hsm_key = self.wrapping_key
            seal(key_set, "kek_blob", self.kek)


def choose_protection(
    key_set: KeySet, protection: str, connection_id: UUID | None, replication: str | None = None
) -> Chosen:
    """Check a protection for a key set (saved or not) and get what it needs. Outside any transaction.

    A key set that has a KEK already keeps it; on another HSM, or when it is to be device-bound or copied and the key that
    wraps it is not, it is wrapped anew, so that versions sealed under it stay readable. `replication` None keeps what the
    key set has. Raises ValidationFailed, Unavailable.
    """
    connection = find_connection(key_set.vault, protection, connection_id)
    if connection is None:
        check_replication(replication or "", protection, connection)
        return Chosen(protection)
    kept = key_set.hsm_replication
    wanted = kept if replication is None else replication
    if wanted != kept or connection.pk != key_set.hsm_connection_id:
        check_replication(wanted, protection, connection)
    if protection == _RESIDENT:
        return Chosen(protection, connection, replication=wanted)
    how = replication_of(wanted, connection)
    before = bytes(key_set.kek_blob) if key_set.kek_blob is not None else None
    held = key_set.hsm_key if before is not None else None
    fits = (
        held is not None and held.connection_id == connection.pk and (not wanted or held.replication == how)
    )
    if fits:
        return Chosen(protection, connection, replication=wanted)
    with hsms.asking(connection.name):
        wrapping = _wrapping_key(connection, key_set.vault, how, any_way=not wanted)
        wrapper = Pkcs11KeyWrapper(hsms.sync_group(connection.pk), bytes.fromhex(wrapping.cka_id))
        kek = _open_kek(key_set) if before is not None else _mixed_random(connection.pk)
        place = kek_place(key_set.pk)
        blob = wrapper.encrypt(kek, place)
        if Secret(wrapper.decrypt(blob, place)) != Secret(kek):
            raise DataInvalid("what the HSM has just wrapped opens to something else")
    return Chosen(protection, connection, wrapping, blob, before, wanted)


def _wrapping_key(connection: HsmConnection, vault: Vault, replication: str, *, any_way: bool) -> HsmKey:
    """The key in the HSM that wraps this vault's key sets' KEKs; made at the first need, one for each replication."""
    rows = HsmKey.objects.filter(
        connection=connection, vault=vault, purpose="wrapping", state=HsmKey.State.ACTIVE, adopted=False
    )
    found = (rows if any_way else rows.filter(replication=replication)).order_by("created_at").first()
    if found is not None:
        return found
    return hsms.create_hsm_key(
        connection,
        purpose="wrapping",
        vault=vault,
        label=f"keystead-wrapping-{vault.pk}",
        replication=replication,
    )


# --- material of a version ----------------------------------------------------------------------------------------


@contextmanager
def material_for(key_set: KeySet, label: str) -> Iterator[Material]:
    """Material for one new version under the key set's present protection; outside any transaction, where it can be.

    What no version has taken when the block ends is destroyed in the HSM again. `label` names the key there, for
    people. Raises Unavailable.
    """
    material = _new_material(key_set, label)
    try:
        yield material
    finally:
        if material.hsm_key is not None and not material.used:
            hsms.destroy_hsm_key(material.hsm_key)


def _new_material(key_set: KeySet, label: str) -> Material:
    if key_set.protection == _SOFTWARE:
        return Material.software()
    connection = key_set.hsm_connection
    if connection is None:
        raise Conflict("This key set has no HSM.", cure="Choose its protection again.")
    with hsms.asking(connection.name):
        if key_set.protection == _RESIDENT:
            # On every member before this returns, and verified there.
            key = hsms.create_hsm_key(
                connection,
                purpose="resident",
                vault=key_set.vault,
                label=label,
                replication=replication_of(key_set.hsm_replication, connection),
            )
            return Material(_RESIDENT, hsm_key=key)
        return Material(_WRAPPED, Secret(_mixed_random(connection.pk)), wrapper=key_set_wrapper(key_set))


def touch_store_of_hsm(tx: Change, key: CloudKey) -> None:
    """Let the data plane see anew which HSMs a store depends on, when a key's versions may have changed that."""
    if key.key_set.protection != _SOFTWARE:
        tx.touch(GenerationChange.Kind.STORE, key.store_id)


def _mixed_random(connection_id: UUID) -> bytes:
    """32 bytes that are random as long as either the HSM's generator or the system's is."""
    deadline = wire.boot_clock() + CALL_S
    theirs = hsms.sync_group(connection_id).call(wire.Random(0, KEY_BYTES), deadline=deadline).data
    if len(theirs) != KEY_BYTES:
        raise HsmError("the HSM's random generator did not give what was asked for")
    return bytes(a ^ b for a, b in zip(theirs, os.urandom(KEY_BYTES), strict=True))


_lock = threading.Lock()
_keks: OrderedDict[UUID, tuple[bytes, KeyWrapper]] = OrderedDict()


def forget_keks() -> None:
    """Drop every key set's KEK from this process's memory."""
    with _lock:
        _keks.clear()


def key_set_wrapper(key_set: KeySet) -> KeyWrapper:
    """The key set's KEK, opened by one call of the HSM for as long as its blob stays the same. Raises HsmError."""
    digest = sha256(bytes(key_set.kek_blob or b"")).digest()
    with _lock:
        known = _keks.get(key_set.pk)
        if known is not None and known[0] == digest:
            _keks.move_to_end(key_set.pk)
            return known[1]
    wrapper = SoftwareKeyWrapper(_open_kek(key_set))
    with _lock:
        _keks[key_set.pk] = (digest, wrapper)
        while len(_keks) > _KEPT:
            _keks.popitem(last=False)
    return wrapper


def _open_kek(key_set: KeySet) -> bytes:
    if key_set.hsm_key is None:
        raise HsmError("the key set has no key encryption key")
    inner = unseal(key_set, "kek_blob").reveal()
    wrapper = Pkcs11KeyWrapper(
        hsms.sync_group(key_set.hsm_key.connection_id), bytes.fromhex(key_set.hsm_key.cka_id)
    )
    return wrapper.decrypt(inner, kek_place(key_set.pk))


# --- what is left of older protections -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Protections:
    """How the live versions of a key set are protected, and which keys still have versions of another protection."""

    protection: str
    versions: dict[str, int]
    keys_behind: int
    """Keys whose current version is of another protection: they encrypt as before until they are rotated."""
    keys_with_old: int
    """Keys that keep such a version for what it encrypted, current or not."""


def protections_of(key_set: KeySet) -> Protections:
    """Count by protection; the keys themselves are those of :func:`keys_with_old_versions`."""
    live = KeyVersion.objects.filter(cloud_key__key_set=key_set, destroyed_at=None)
    live = live.filter(cloud_key__kind=CloudKey.Kind.USER)
    # One pass for both counts: a set may have 100,000 keys.
    is_current = Q(number=F("cloud_key__current_version"))
    counted = (
        live.order_by()
        .values_list("protection")
        .annotate(all=Count("pk"), current=Count("pk", filter=is_current))
    )
    versions, current = {}, {}
    for name, number, in_use in counted:
        versions[name], current[name] = number, in_use
    behind = sum(number for name, number in current.items() if name != key_set.protection)
    return Protections(key_set.protection, versions, behind, keys_with_old_versions(key_set).count())


def keys_with_old_versions(key_set: KeySet) -> QuerySet[CloudKey]:
    """Keys of the set that still have a version of another protection than new ones get."""
    old = KeyVersion.objects.filter(~Q(protection=key_set.protection), destroyed_at=None)
    return CloudKey.objects.filter(
        key_set=key_set, kind=CloudKey.Kind.USER, pk__in=old.values("cloud_key_id")
    )
