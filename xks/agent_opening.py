"""Opening what the database holds wrapped: vaults' KEKs, key sets' KEKs, secrets and versions of keys.

Part of a load (``xks.agent_loading``), in the reader's thread.  One row that does not open never stops the others: it
is left out and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Model, QuerySet

from cloudkeys.models import KeySet, KeyVersion, XksKeyStore
from cloudkeys.services.protection import kek_place
from hsm.base import DataInvalid, KeyWrapper
from hsm.software import KEY_BYTES
from vault.keys import (
    RootKeyForeign,
    SecretUnreadable,
    VaultKeyDestroyed,
    associated_data,
    root_wrapper,
    vault_wrapper,
)
from vault.models import Vault
from xks.agent_columns import Ids, as_text, dashed
from xks.agent_keks import Keks, Opened, WrappedKek
from xks.wire import ResidentRecord, VersionRecord

ROWS_AT_ONCE = 2000
"""Rows fetched at a time, so that a big load stays small in memory and lets other threads run."""


@dataclass(frozen=True)
class LeftOut:
    """A row that the data plane does not get. ``reason`` never holds secret bytes."""

    kind: str
    """key, credential, store or vault."""
    id: str
    vault_id: UUID
    reason: str


class Opening:
    """Of one load: each vault's KEK is opened once, and what does not open is noted."""

    def __init__(self, *, every_vault: bool, keks: Keks | None) -> None:
        """``every_vault``: read all vaults at once; ``keks`` opens the KEKs that HSMs wrap."""
        self.left_out: list[LeftOut] = []
        self._keks = keks
        self._opened: dict[UUID, Opened] | None = None
        self._vaults = {vault.pk: vault for vault in Vault.objects.all()} if every_vault else {}
        self._wrappers: dict[UUID, KeyWrapper | None] = {}

    def versions(self, rows: QuerySet[KeyVersion]) -> tuple[dict[str, list[VersionRecord]], dict[str, str]]:
        """Open these versions: what opened by key, and why a key must be refused.

        With one version altered nothing about a key can be trusted, so none of it is served.
        """
        opened: dict[str, list[VersionRecord]] = {}
        refused: dict[str, str] = {}
        vault_ids = Ids()
        software = rows.filter(protection=KeySet.Protection.SOFTWARE, material__isnull=False)
        for row, vault, key, number, blob in software.values_list(
            as_text("pk"), as_text("vault_id"), as_text("cloud_key_id"), "number", "material"
        ).iterator(ROWS_AT_ONCE):
            vault_id, key_id = vault_ids[vault], dashed(key)
            if self.is_destroyed(vault_id):
                continue
            try:
                plain = self.open(KeyVersion, "material", dashed(row), vault_id, blob)
            except Unreadable as error:
                refused[key_id] = f"version {number}: {error}"
            else:
                if len(plain) == KEY_BYTES:
                    opened.setdefault(key_id, []).append(VersionRecord(number=number, material=plain))
                else:
                    refused[key_id] = f"version {number} is no AES-256 key"
        self._versions_of_hsms(rows, opened, refused)
        return opened, refused

    def _versions_of_hsms(
        self, rows: QuerySet[KeyVersion], opened: dict[str, list[VersionRecord]], refused: dict[str, str]
    ) -> None:
        """Open versions whose key set's KEK an HSM wraps, and say where those are that live in one.

        Where a KEK is not open now, its versions are known all the same; one that is not made yet is nowhere.
        """
        vault_ids, set_ids, groups = Ids(), Ids(), Ids()
        for row, vault, key, number, protection, blob, key_set, adopted, group, cka_id in rows.exclude(
            protection=KeySet.Protection.SOFTWARE
        ).values_list(
            as_text("pk"), as_text("vault_id"), as_text("cloud_key_id"), "number", "protection", "material",
            as_text("cloud_key__key_set_id"), "adopted_metadata", as_text("hsm_key__connection_id"), "hsm_key__cka_id",
        ).iterator(ROWS_AT_ONCE):  # fmt: skip
            key_id = dashed(key)
            if self.is_destroyed(vault_ids[vault]):
                continue
            if protection == KeySet.Protection.HSM_RESIDENT:
                if cka_id is not None:
                    metadata = None if adopted is None else bytes(adopted)
                    record = ResidentRecord(groups.text(group), bytes.fromhex(cka_id), metadata)
                    opened.setdefault(key_id, []).append(VersionRecord(number=number, resident=record))
            elif protection == KeySet.Protection.HSM_WRAPPED:
                if blob is not None:
                    try:
                        plain = self._wrapped_material(set_ids[key_set], dashed(row), blob)
                    except Unreadable as error:
                        refused[key_id] = f"version {number}: {error}"
                    else:
                        opened.setdefault(key_id, []).append(VersionRecord(number=number, material=plain))
            else:
                refused[key_id] = f"version {number} is protected by {protection}, which this node cannot use"

    def _wrapped_material(self, key_set_id: UUID, row_id: str, blob: bytes | memoryview) -> bytes:
        """Return 32 bytes; none while the HSM that wraps the key set's KEK does not answer. Raises Unreadable."""
        kek = self._kek(key_set_id)
        if kek.broken:
            raise Unreadable(kek.broken)
        if kek.wrapper is None:
            return b""
        try:
            plain = kek.wrapper.decrypt(
                bytes(blob), associated_data(KeyVersion._meta.db_table, row_id, "material")
            )
        except DataInvalid as error:
            raise Unreadable(str(error)) from error
        if len(plain) != KEY_BYTES:
            raise Unreadable("it is no AES-256 key")
        return plain

    def _kek(self, key_set_id: UUID) -> Opened:
        """What is known of a key set's KEK; all of them are asked for at once, one call of the HSM each."""
        if self._opened is None:
            wanted: list[WrappedKek] = []
            self._opened = {}
            for row in KeySet.objects.exclude(kek_blob=None).select_related("hsm_key"):
                if row.hsm_key is None or self.is_destroyed(row.vault_id):
                    continue
                try:
                    inner = self.open(KeySet, "kek_blob", row.pk, row.vault_id, row.kek_blob)
                except Unreadable as error:
                    self._opened[row.pk] = Opened(None, f"its key set's key does not open: {error}")
                    continue
                key = bytes.fromhex(row.hsm_key.cka_id)
                wanted.append(WrappedKek(row.pk, row.hsm_key.connection_id, key, inner, kek_place(row.pk)))
            if self._keks is not None:
                self._opened.update(self._keks.get(wanted))
            else:
                self._opened.update((kek.key_set_id, Opened(None)) for kek in wanted)
        return self._opened.get(key_set_id) or Opened(None, "its key set has no key encryption key")

    def leave_out(self, kind: str, row_id: UUID | str, vault_id: UUID, reason: str) -> None:
        self.left_out.append(LeftOut(kind, str(row_id), vault_id, reason))

    def vault(self, vault_id: UUID) -> Vault:
        vault = self._vaults.get(vault_id)
        if vault is None:
            vault = self._vaults[vault_id] = Vault.objects.get(pk=vault_id)
        return vault

    def is_destroyed(self, vault_id: UUID) -> bool:
        return self.vault(vault_id).state == Vault.State.DESTROYED

    def _wrapper(self, vault_id: UUID) -> KeyWrapper | None:
        """The vault's KEK, opened once a load; None, reported once, when it does not open.

        Raises RootKeyError when it is the root key that is missing: then nothing can be said about
        any row, and what workers hold stays.
        """
        if vault_id not in self._wrappers:
            wrapper: KeyWrapper | None = None
            try:
                wrapper = vault_wrapper(self.vault(vault_id))
            except (SecretUnreadable, VaultKeyDestroyed) as error:
                self.leave_out("vault", vault_id, vault_id, str(error))
            except RootKeyForeign as error:
                # Raises when the installation's own root key is what is missing; else one altered row names another.
                root_wrapper()
                self.leave_out("vault", vault_id, vault_id, str(error))
            self._wrappers[vault_id] = wrapper
        return self._wrappers[vault_id]

    def open(
        self,
        model: type[Model],
        column: str,
        row_id: UUID | str,
        vault_id: UUID,
        blob: bytes | memoryview | None,
    ) -> bytes:
        """Return the secret of one row. Raises Unreadable."""
        wrapper = self._wrapper(vault_id)
        if wrapper is None:
            raise Unreadable("its vault's key does not open")
        if blob is None:
            raise Unreadable("it has no secret")
        try:
            return wrapper.decrypt(bytes(blob), associated_data(model._meta.db_table, row_id, column))
        except DataInvalid as error:
            raise Unreadable(str(error)) from error


def hsms_of(stores: Sequence[XksKeyStore]) -> tuple[dict[UUID, set[str]], dict[UUID, str]]:
    """Return the HSM connections that each store's keys depend on, and by key set the one that new versions need."""
    sets: dict[UUID, set[str]] = {}
    required: dict[UUID, str] = {}
    for key_set_id, protection, now, wrapping in KeySet.objects.exclude(
        hsm_connection=None, hsm_key=None
    ).values_list("pk", "protection", "hsm_connection_id", "hsm_key__connection_id"):
        sets[key_set_id] = {str(id) for id in (now, wrapping) if id is not None}
        if protection == KeySet.Protection.HSM_RESIDENT:
            required[key_set_id] = str(now)
    groups = {store.pk: set(sets[store.key_set_id]) for store in stores if store.key_set_id in sets}
    places = KeyVersion.objects.filter(destroyed_at=None, hsm_key__isnull=False)
    for store_id, connection in (
        places.order_by().values_list("cloud_key__store_id", "hsm_key__connection_id").distinct()
    ):
        groups.setdefault(store_id, set()).add(str(connection))
    return groups, required


class Unreadable(Exception):
    """A row's secret cannot be had; the message never holds secret bytes."""
