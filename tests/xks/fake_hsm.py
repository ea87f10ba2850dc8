"""An HSM connection in memory: AES-GCM under keys named by CKA_ID, slow, full, hung or gone as a test wants it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsm.base import DataInvalid, HsmError, HsmUnavailable, KeyNotFound, ResidentCiphertext
from hsm.group import MemberState
from xks import wire
from xks.resident import Group, Member


class FakeHsm:
    """One token; it is its own group and its own member."""

    def __init__(self) -> None:
        self.keys: dict[bytes, bytes] = {}
        self.calls: list[tuple[str, bytes, bool]] = []
        self.failure: HsmError | None = None
        """What every call ends with; None: they succeed."""
        self.before: Callable[[], None] = lambda: None
        """Called at the beginning of each call."""
        self.gate: asyncio.Event | None = None
        """Calls wait for it."""
        self.closed = False

    def new_key(self, key: bytes, material: bytes | None = None) -> None:
        """Make a key with this CKA_ID."""
        self.keys[key] = material or os.urandom(32)

    def connect(self, record: wire.HsmGroupRecord) -> tuple[Group, dict[str, Member]]:
        """See xks.resident.Connect."""
        return self, {member.id: self for member in record.members}

    async def _enter(self, name: str, key: bytes, verify: bool, wait_s: float) -> AESGCM:
        self.calls.append((name, key, verify))
        self.before()
        if self.gate is not None:
            try:
                async with asyncio.timeout(max(0, wait_s)):
                    await self.gate.wait()
            except TimeoutError:
                raise HsmUnavailable("no answer in time") from None
        if self.failure is not None:
            raise self.failure
        if key not in self.keys:
            raise KeyNotFound(key.hex())
        return AESGCM(self.keys[key])

    async def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool, deadline: float = 0, timeout_s: float = 0
    ) -> ResidentCiphertext:
        """See Group and Member."""
        aead = await self._enter("encrypt", key, verify, timeout_s or deadline - wire.boot_clock())
        nonce = os.urandom(12)
        return ResidentCiphertext(nonce, aead.encrypt(nonce, data, aad))

    async def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, deadline: float) -> bytes:
        """See Group."""
        aead = await self._enter("decrypt", key, False, deadline - wire.boot_clock())
        try:
            return aead.decrypt(nonce, data, aad)
        except InvalidTag:
            raise DataInvalid("does not authenticate") from None

    def states(self) -> list[MemberState]:
        """See Group."""
        return []

    async def close(self) -> None:
        """See Member."""
        self.closed = True
