"""A wrapping key in memory: AES-256-GCM by the ``cryptography`` package.

Nonces are random. SP 800-38D, 8.3, limits a key with random 96 bit nonces to 2^32 encryptions (collision chance below
2^-32). A wrapping key is used once for every key version, credential or secret that is *written*, never per data
operation: 100,000 keys rotated every day, all in one vault, reach the limit after 117 years; a root key wraps one KEK
per vault. So no counter is kept here. Data encryption under CloudKeys meets the limit by derived keys (``xks.aead``).
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hsm.base import BlobMalformed, DataInvalid, KeyNotFound, ResidentCiphertext, WrongWrappingKey
from hsm.blob import KEY_ID_BYTES, NONCE_BYTES, Algorithm, Blob, pack, parse

KEY_BYTES: Final = 32
_KEY_ID_LABEL: Final = b"keystead:v1:wrapping-key-id"


def new_key() -> bytes:
    """Return 32 random bytes of the operating system's generator, for an AES-256 key."""
    return os.urandom(KEY_BYTES)


def wrapping_key_id(key: bytes) -> str:
    """Return the id of a wrapping key as 32 hex digits: HKDF-SHA256 (RFC 5869) of the key under a fixed label.

    One way, so that it may stand in blobs, logs and backups; a function of the key, so that a foreign key is told
    apart from a corrupt blob wherever the key file comes from. Raises ValueError unless the key has 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a wrapping key has {KEY_BYTES} bytes, not {len(key)}")
    return HKDF(SHA256(), KEY_ID_BYTES, salt=None, info=_KEY_ID_LABEL).derive(key).hex()


class SoftwareKeyWrapper:
    """KeyWrapper over a 32 byte AES key held in this process. Thread-safe; repr shows the key id only."""

    __slots__ = ("_aead", "_key_id")

    def __init__(self, key: bytes) -> None:
        self._key_id = wrapping_key_id(key)
        self._aead = AESGCM(key)

    def __repr__(self) -> str:
        return f"SoftwareKeyWrapper(key_id={self._key_id!r})"

    def __reduce__(self) -> str:
        raise TypeError("a wrapping key is not serialised")

    @property
    def key_id(self) -> str:
        """See KeyWrapper."""
        return self._key_id

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """See KeyWrapper."""
        nonce = os.urandom(NONCE_BYTES)
        ciphertext = self._aead.encrypt(nonce, plaintext, associated_data)
        return pack(Blob(Algorithm.AES_256_GCM, self._key_id, nonce, ciphertext))

    def decrypt(self, blob: bytes, associated_data: bytes) -> bytes:
        """See KeyWrapper."""
        parts = parse(blob)
        # Ids are public, so an ordinary comparison tells nothing.
        if parts.key_id != self._key_id:
            raise WrongWrappingKey(named=parts.key_id, at_hand=self._key_id)
        if parts.algorithm is not Algorithm.AES_256_GCM:
            raise BlobMalformed("a blob of an HSM that names a key in software")
        try:
            return self._aead.decrypt(parts.nonce, parts.ciphertext, associated_data)
        except InvalidTag:
            raise DataInvalid("the blob does not authenticate: altered, or not of this place") from None


class SoftwareResidentKey:
    """ResidentKey over a key in this process: what an HSM does, without one. For tests and comparisons of behaviour."""

    __slots__ = ("_aead", "_key_id")

    def __init__(self) -> None:
        """Make a key."""
        self._key_id = os.urandom(KEY_ID_BYTES).hex()
        self._aead: AESGCM | None = AESGCM(new_key())

    def __repr__(self) -> str:
        return f"SoftwareResidentKey(key_id={self._key_id!r})"

    def __reduce__(self) -> str:
        raise TypeError("a resident key is not serialised")

    @property
    def key_id(self) -> str:
        """See ResidentKey."""
        return self._key_id

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> ResidentCiphertext:
        """See ResidentKey."""
        nonce = os.urandom(NONCE_BYTES)
        return ResidentCiphertext(nonce, self._held().encrypt(nonce, plaintext, associated_data))

    def decrypt(self, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
        """See ResidentKey."""
        aead = self._held()
        if len(nonce) < 8:
            raise DataInvalid(f"a nonce of {len(nonce)} bytes")
        try:
            return aead.decrypt(nonce, ciphertext, associated_data)
        except InvalidTag:
            raise DataInvalid(
                "the ciphertext does not authenticate: altered, or of another key or place"
            ) from None

    def destroy(self) -> None:
        """See ResidentKey."""
        self._held()
        self._aead = None

    def _held(self) -> AESGCM:
        if self._aead is None:
            raise KeyNotFound(f"no key {self._key_id}: it was destroyed")
        return self._aead
