"""HSMs in memory in the place of vault.hsm: connections, members and keys are rows, what is inside is here."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.db import transaction
from django.utils import timezone

from cloudkeys.services import protection
from hsm import wire
from hsm.base import DataInvalid, HsmError, HsmUnavailable, KeyAmbiguous, KeyNotFound, ResidentCiphertext
from vault import hsm as hsms
from vault.models import HsmConnection, HsmKey, HsmKeyPlacement, HsmMember, Vault

GOOD: dict[str, Any] = {
    "aes": True, "value_len": 32, "encrypt": True, "decrypt": True, "token": True, "sensitive": True,
    "extractable": False, "wrap": False, "unwrap": False,
}  # fmt: skip


@dataclass
class FakeHsms:
    """What all connections do; `failure` ends every call, `calls` counts them by what was asked."""

    keys: dict[bytes, bytes] = field(default_factory=dict)
    labels: dict[str, list[bytes]] = field(default_factory=dict)
    attributes: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    failure: HsmError | None = None
    calls: list[str] = field(default_factory=list)
    in_transaction: int = 0

    def connect(self, vault: Vault | None, name: str = "hsm") -> HsmConnection:
        """A connection of one member that the vault may use."""
        made = HsmConnection.objects.create(name=name, module_path="/usr/lib/fake.so")
        HsmMember.objects.create(
            connection=made, token_label=f"{name}-1", state="ACTIVE", identity={"model": "Fake"}
        )
        if vault is not None:
            made.vaults.add(vault)
        return made

    def put(self, label: str, *, nameless: bool = False, **attributes: Any) -> bytes:
        """A key that somebody else made; returns its CKA_ID, of which a nameless one has none."""
        key = b"" if nameless else os.urandom(16)
        self.keys[key] = os.urandom(32)
        self.labels.setdefault(label, []).append(key)
        self.attributes[key] = {**GOOD, **attributes}
        return key

    # --- vault.hsm ---------------------------------------------------------------------------------------------------

    def sync_group(self, connection_id: UUID) -> FakeHsms:
        """See vault.hsm."""
        return self

    def create_hsm_key(
        self, connection: HsmConnection, *, purpose: str, vault: Vault | None, label: str, replication: str
    ) -> HsmKey:
        """See vault.hsm."""
        self._called("create")
        row = HsmKey(
            connection=connection, purpose=purpose, vault=vault, label=label, replication=replication
        )
        row.cka_id = row.id.hex
        row.state = HsmKey.State.ACTIVE
        row.save()
        for member in connection.members.all():
            HsmKeyPlacement.objects.create(key=row, member=member, verified_at=timezone.now())
        self.keys[row.id.bytes] = os.urandom(32)
        return row

    def destroy_hsm_key(self, key: HsmKey) -> None:
        """See vault.hsm."""
        self._called("destroy")
        self.keys.pop(bytes.fromhex(key.cka_id), None)
        key.state, key.destroyed_at = HsmKey.State.DESTROYED, timezone.now()
        key.save(update_fields=["state", "destroyed_at"])

    # --- hsm.group.SyncGroup -----------------------------------------------------------------------------------------

    def hold(self, members: Collection[str]) -> FakeHsms:
        """See SyncGroup."""
        return self

    def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool = True, deadline: float
    ) -> ResidentCiphertext:
        """See SyncGroup."""
        aead = self._key("encrypt", key)
        nonce = os.urandom(12)
        return ResidentCiphertext(nonce, aead.encrypt(nonce, data, aad))

    def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, deadline: float) -> bytes:
        """See SyncGroup."""
        try:
            return self._key("decrypt", key).decrypt(nonce, data, aad)
        except InvalidTag:
            raise DataInvalid("does not authenticate") from None

    def call(self, request: wire.Request, *, deadline: float) -> wire.Done:
        """See SyncGroup."""
        self._called(type(request).__name__.lower())
        match request:
            case wire.Random(count=count):
                return wire.Done(0, data=os.urandom(count))
            case wire.FindByLabel(label=label):
                return wire.Done(0, info={"keys": [key.hex() for key in self.labels.get(label, [])]})
            case wire.Identify(label=label, key=key) if len(self.labels.get(label, [])) == 1:
                [held] = self.labels[label]
                if held not in (b"", key):
                    raise KeyAmbiguous("it has a CKA_ID already")
                self.labels[label] = [key]
                self.keys[key], self.attributes[key] = self.keys.pop(held), self.attributes.pop(held)
                return wire.Done(0, info=self.attributes[key])
            case wire.Describe(key=key) if key in self.attributes:
                return wire.Done(0, info=self.attributes[key])
        raise KeyNotFound("no such key")

    def _key(self, name: str, key: bytes) -> AESGCM:
        self._called(name)
        if key not in self.keys:
            raise KeyNotFound(key.hex())
        return AESGCM(self.keys[key])

    def _called(self, name: str) -> None:
        self.calls.append(name)
        # Tests run in one transaction of their own; savepoints inside it are what services open.
        if transaction.get_connection().savepoint_ids:
            self.in_transaction += 1
        if self.failure is not None:
            raise self.failure


def install(monkeypatch: pytest.MonkeyPatch) -> FakeHsms:
    """Put these HSMs in the place of real ones."""
    fake = FakeHsms()
    for name in ("sync_group", "create_hsm_key", "destroy_hsm_key"):
        monkeypatch.setattr(hsms, name, getattr(fake, name))
    monkeypatch.setattr(hsms, "connections_for", lambda vault: HsmConnection.objects.filter(vaults=vault))
    protection.forget_keks()
    return fake


GONE = HsmUnavailable("no member of the HSM works")
