"""Keys in an HSM behind the two protocols of ``hsm.base``: a wrapping key, and a resident key.

Both speak to helper processes through a group of members; no PKCS#11 module is loaded here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsm import wire
from hsm.base import (
    BlobMalformed,
    DataInvalid,
    HsmError,
    KeyNotFound,
    MechanismUnavailable,
    MemberUntrue,
    ResidentCiphertext,
    WrongWrappingKey,
)
from hsm.blob import KEY_ID_BYTES, NONCE_BYTES, SEALED_KEY_BYTES, Algorithm, Blob, pack, parse

DEFAULT_TIMEOUT_S: Final = 5.0
_DATA_KEY_BYTES: Final = 32


class Group(Protocol):
    """What is needed of hsm.group.SyncGroup."""

    def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool, deadline: float
    ) -> ResidentCiphertext:
        """AES-256-GCM inside an HSM. Raises HsmError."""
        ...

    def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, deadline: float) -> bytes:
        """Reverse of encrypt. Raises HsmError."""
        ...

    def call(self, request: wire.Request, *, deadline: float) -> wire.Done:
        """Any request that changes nothing. Raises HsmError."""
        ...


class Pkcs11KeyWrapper:
    """KeyWrapper under an AES-256 key in an HSM: keys are encrypted as data, with associated data.

    Algorithm 1 is AES-GCM inside the HSM, under a key that has ENCRYPT and DECRYPT only. Where the HSM has no AES-GCM, algorithm 2:
    a fresh data key for each blob, wrapped by the HSM (KWP, SP 800-38F), and AES-GCM under that data key in this
    process; its tag binds the blob to its place, which key wrap alone cannot. Every blob is opened inside the HSM
    before it is returned. May be used by several threads at once.
    """

    __slots__ = ("_algorithm", "_group", "_key", "_timeout_s")

    def __init__(
        self,
        group: Group,
        key: bytes,
        *,
        algorithm: Algorithm | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """``key``: its CKA_ID (16 bytes), which blobs carry. ``algorithm``: None finds out at the first encryption.

        ``timeout_s``: for each call, other members included. Raises ValueError for an id of another length.
        """
        if len(key) != KEY_ID_BYTES:
            raise ValueError(f"the CKA_ID of a wrapping key has {KEY_ID_BYTES} bytes, not {len(key)}")
        self._group = group
        self._key = key
        self._algorithm = algorithm
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"Pkcs11KeyWrapper(key_id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """See KeyWrapper."""
        return self._key.hex()

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """See KeyWrapper."""
        chosen = self._algorithm  # another thread may find out meanwhile
        if chosen is Algorithm.KWP_AES_256_GCM:
            return self._encrypt_by_data_key(plaintext, associated_data)
        try:
            made = self._group.encrypt(
                self._key, plaintext, associated_data, verify=True, deadline=self._deadline()
            )
        except MechanismUnavailable as no_gcm:
            if chosen is not None:
                raise
            try:
                blob = self._encrypt_by_data_key(plaintext, associated_data)
            except MechanismUnavailable:
                raise no_gcm from None
            self._algorithm = Algorithm.KWP_AES_256_GCM
            return blob
        self._algorithm = Algorithm.AES_256_GCM
        if len(made.nonce) != NONCE_BYTES:
            raise MechanismUnavailable(
                f"this HSM makes nonces of {len(made.nonce)} bytes; wrapped keys have room for {NONCE_BYTES}"
            )
        return pack(Blob(Algorithm.AES_256_GCM, self.key_id, made.nonce, made.ciphertext))

    def decrypt(self, blob: bytes, associated_data: bytes) -> bytes:
        """See KeyWrapper."""
        parts = parse(blob)
        if parts.key_id != self.key_id:
            raise WrongWrappingKey(named=parts.key_id, at_hand=self.key_id)
        if parts.algorithm is Algorithm.KWP_AES_256_GCM:
            sealed, ciphertext = parts.ciphertext[:SEALED_KEY_BYTES], parts.ciphertext[SEALED_KEY_BYTES:]
            data_key = self._group.call(wire.Unseal(0, self._key, sealed), deadline=self._deadline()).data
            return _open(data_key, parts.nonce, ciphertext, associated_data)
        return self._group.decrypt(
            self._key, parts.nonce, parts.ciphertext, associated_data, deadline=self._deadline()
        )

    def _encrypt_by_data_key(self, plaintext: bytes, associated_data: bytes) -> bytes:
        data_key, nonce = os.urandom(_DATA_KEY_BYTES), os.urandom(NONCE_BYTES)
        sealed = self._group.call(wire.Seal(0, self._key, data_key), deadline=self._deadline()).data
        if len(sealed) != SEALED_KEY_BYTES:
            raise MemberUntrue("the HSM's key wrap has not the length of RFC 5649")
        back = self._group.call(wire.Unseal(0, self._key, sealed), deadline=self._deadline()).data
        if back != data_key:
            raise MemberUntrue("the HSM does not unwrap what it has just wrapped")
        ciphertext = AESGCM(data_key).encrypt(nonce, plaintext, associated_data)
        return pack(Blob(Algorithm.KWP_AES_256_GCM, self.key_id, nonce, sealed + ciphertext))

    def _deadline(self) -> float:
        return wire.boot_clock() + self._timeout_s


def _open(data_key: bytes, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
    if len(data_key) != _DATA_KEY_BYTES:
        raise BlobMalformed("the blob's data key is not of AES-256")
    try:
        return AESGCM(data_key).decrypt(nonce, ciphertext, associated_data)
    except InvalidTag:
        raise DataInvalid("the blob does not authenticate: altered, or not of this place") from None


class Member(Protocol):
    """What is needed of hsm.client.SyncMember."""

    def call(self, request: wire.Request, *, timeout_s: float) -> wire.Done:
        """Any request. Raises HsmError."""
        ...


class Pkcs11ResidentKey:
    """ResidentKey: an AES-256 key that was made inside an HSM and is used there.

    ``members`` are all that hold it, for destruction: failing over is for use, while destruction must reach every one.
    """

    __slots__ = ("_group", "_key", "_members", "_timeout_s")

    def __init__(
        self,
        group: Group,
        key: bytes,
        *,
        members: Sequence[Member] = (),
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """``key``: its CKA_ID."""
        self._group = group
        self._key = key
        self._members = tuple(members)
        self._timeout_s = timeout_s

    @classmethod
    def generate(
        cls, group: Group, member: Member, *, label: str, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> Pkcs11ResidentKey:
        """Make a key on one member, never extractable and verified to be so. Raises HsmError."""
        key = os.urandom(KEY_ID_BYTES)
        member.call(wire.Generate(0, key, label, "resident"), timeout_s=timeout_s)
        return cls(group, key, members=[member], timeout_s=timeout_s)

    def __repr__(self) -> str:
        return f"Pkcs11ResidentKey(key_id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """See ResidentKey."""
        return self._key.hex()

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> ResidentCiphertext:
        """See ResidentKey; decrypted and compared inside the HSM before it is returned."""
        return self._group.encrypt(
            self._key, plaintext, associated_data, verify=True, deadline=wire.boot_clock() + self._timeout_s
        )

    def decrypt(self, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
        """See ResidentKey."""
        return self._group.decrypt(
            self._key, nonce, ciphertext, associated_data, deadline=wire.boot_clock() + self._timeout_s
        )

    def destroy(self) -> None:
        """See ResidentKey. A member that does not hold it (any more) is no fault, but one must.

        Raises HsmError where a member could not be reached: the key is still there then; call it again.
        """
        if not self._members:
            raise HsmError("the members that hold the key are not known here")
        found = 0
        failures: list[HsmError] = []
        for member in self._members:
            try:
                member.call(wire.Destroy(0, self._key), timeout_s=self._timeout_s)
                found += 1
            except KeyNotFound:
                continue
            except HsmError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        if not found:
            raise KeyNotFound(f"no member holds the key {self.key_id}")
