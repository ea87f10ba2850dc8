"""Authenticated encryption of the data plane: one derived AES-256-GCM key for each message.

Random 96-bit nonces allow a key 2**32 messages (NIST SP 800-38D, 8.3), 27 days at 1,800 requests a
second.  So software keys go through the XAES-256-GCM construction (c2sp.org/XAES-256-GCM: an SP
800-108 counter KDF over CMAC-AES256, then AES-256-GCM) with 192 random bits for each message.
Twelve bytes of them derive the message's key and travel in ciphertextMetadata, twelve are the IV.

ciphertextMetadata, format 1, 17 bytes: 1 byte format, 4 bytes key version (big-endian), 12 bytes
derivation nonce.

Format 2, for keys that live in an HSM, 5 bytes: 1 byte format, 4 bytes key version.  The key itself
encrypts, with the 12-byte IV that the HSM's profile provides, so its invocations are counted
(xks/resident.py).

Format 0 is what AWS's reference proxy wrote with a key that was adopted from it, and is only read:
its ciphertextMetadata is absent or one fixed value, and it authenticates a digest of the AAD.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT_SOFTWARE = 1
FORMAT_RESIDENT = 2
METADATA_BYTES = 17
RESIDENT_METADATA_BYTES = 5
MAX_METADATA_BYTES = 20
"""The most ciphertextMetadata that the XKS specification allows."""
KEY_BYTES = 32
IV_BYTES = 12
DERIVATION_BYTES = 12
TAG_BYTES = 16
NONCE_BYTES = DERIVATION_BYTES + IV_BYTES
MAX_PREPARED = 16_384
"""Keys that keep their key schedule at one time, about 1 KiB each; making one anew takes some 6 us."""

_BLOCK_BITS = 128
_BLOCK_MASK = (1 << _BLOCK_BITS) - 1
_TWICE = 1 << _BLOCK_BITS | 1
_CMAC_RB = 0x87  # NIST SP 800-38B, 5.3
# Counter (16 bits), label "X", separator, then 96 bits of context: the two blocks fed to CMAC.
_M1 = int.from_bytes(b"\x00\x01X\x00", "big") << 96
_M2 = int.from_bytes(b"\x00\x02X\x00", "big") << 96


class CiphertextInvalid(Exception):
    """The ciphertext does not open.  Deliberately silent about which part of it is wrong."""


class Xaes256Gcm:
    """One 256-bit key in the XAES-256-GCM construction.

    Key schedule and CMAC subkey are made at the first use and kept for the MAX_PREPARED keys that came
    last, so that keys cost little memory however many have been used.  Not to be shared between
    threads: the kept AES context is one.
    """

    __slots__ = ("__weakref__", "_base", "_block", "_material")

    def __init__(self, material: bytes) -> None:
        """Take a key of 32 bytes.

        Raises:
            ValueError: another length.
        """
        if len(material) != KEY_BYTES:
            raise ValueError(f"an AES-256 key has {KEY_BYTES} bytes, not {len(material)}")
        self._material = material
        self._block: Any = None
        self._base = 0

    def __repr__(self) -> str:
        return "Xaes256Gcm(***)"

    def _prepare(self) -> Any:
        # ECB over whole blocks is the bare block cipher that CMAC needs: each block of input here is
        # a CMAC message of its own (SP 800-38B with one complete block), never data.
        block = Cipher(algorithms.AES(self._material), modes.ECB()).encryptor()  # noqa: S305
        subkey = int.from_bytes(block.update(bytes(16)), "big") << 1
        if subkey >> _BLOCK_BITS:
            subkey = (subkey & _BLOCK_MASK) ^ _CMAC_RB
        self._base = ((_M1 ^ subkey) << _BLOCK_BITS) | (_M2 ^ subkey)
        self._block = block
        _prepared.append(weakref.ref(self))
        if len(_prepared) > MAX_PREPARED:
            oldest = _prepared.popleft()()
            if oldest is not None and oldest is not self:
                oldest._block, oldest._base = None, 0
        return block

    def derive(self, derivation_nonce: bytes) -> bytes:
        """Return the 32-byte AES-256-GCM key for a 12-byte derivation nonce."""
        block = self._block or self._prepare()
        # The same 96 bits at the end of both blocks.
        blocks = self._base ^ int.from_bytes(derivation_nonce, "big") * _TWICE
        derived: bytes = block.update(blocks.to_bytes(32, "big"))
        return derived

    def encrypt(self, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        """Return ciphertext || tag under the 24-byte ``nonce``, which must never be used again."""
        key = self.derive(nonce[:DERIVATION_BYTES])
        return AESGCM(key).encrypt(nonce[DERIVATION_BYTES:], plaintext, associated_data)

    def decrypt(self, nonce: bytes, ciphertext_and_tag: bytes, associated_data: bytes) -> bytes:
        """Return the plaintext.

        ``nonce`` is 12 bytes of derivation nonce and then the IV (12 bytes; 8 to 128 are possible).

        Raises:
            CiphertextInvalid: it does not open.
        """
        key = self.derive(nonce[:DERIVATION_BYTES])
        try:
            return AESGCM(key).decrypt(nonce[DERIVATION_BYTES:], ciphertext_and_tag, associated_data)
        except InvalidTag:
            raise CiphertextInvalid from None


# Keys that keep a key schedule, the oldest first.  Weak: a key that is removed is gone at once, schedule and all.
_prepared: deque[weakref.ref[Xaes256Gcm]] = deque()


class Sealed(NamedTuple):
    """What encrypt answers, each part apart."""

    ciphertext: bytes
    metadata: bytes
    iv: bytes
    tag: bytes


def associated_data(aad: bytes, metadata: bytes) -> bytes:
    """Return what is authenticated besides the data.

    Both lengths are written out (2 bytes and 1 byte, big-endian), so that what was given as AAD
    cannot be passed off as metadata (XKS specification, Encrypt, ciphertextMetadata).
    """
    return b"".join((len(aad).to_bytes(2, "big"), aad, len(metadata).to_bytes(1, "big"), metadata))


def reference_associated_data(aad: bytes | None, metadata: bytes) -> bytes:
    """Return what AWS's reference proxy authenticates besides the data (format 0; its build_full_aad).

    The length of the AAD, then its SHA-256 where there is one, then the metadata's length and the metadata: an
    absent AAD (None) and an empty one are different.
    """
    digest = b"" if aad is None else hashlib.sha256(aad).digest()
    length = 0 if aad is None else len(aad)
    return b"".join((length.to_bytes(2, "big"), digest, len(metadata).to_bytes(1, "big"), metadata))


def resident_metadata(version: int) -> bytes:
    """Return the ciphertextMetadata of format 2."""
    return b"\x02" + version.to_bytes(4, "big")


def looks_like_ours(metadata: bytes) -> bool:
    """Say whether fixed metadata of another proxy could be taken for that of format 1 or 2."""
    return (metadata[:1] == b"\x01" and len(metadata) == METADATA_BYTES) or (
        metadata[:1] == b"\x02" and len(metadata) == RESIDENT_METADATA_BYTES
    )


def integrity_value(aad: bytes, sealed: Sealed) -> bytes:
    """Return the ciphertextDataIntegrityValue (CDIV): SHA-256, 32 bytes, AAD without its length."""
    return hashlib.sha256(b"".join((aad, sealed.metadata, sealed.iv, sealed.ciphertext, sealed.tag))).digest()


def seal(key: Xaes256Gcm, version: int, plaintext: bytes, aad: bytes) -> Sealed:
    """Encrypt one message under version number ``version`` of a software key."""
    # From the kernel each time: what is kept in a buffer comes twice when a virtual machine is cloned.
    nonce = os.urandom(NONCE_BYTES)
    metadata = b"\x01" + version.to_bytes(4, "big") + nonce[:DERIVATION_BYTES]
    whole = key.encrypt(nonce, plaintext, associated_data(aad, metadata))
    return Sealed(whole[:-TAG_BYTES], metadata, nonce[DERIVATION_BYTES:], whole[-TAG_BYTES:])


def unseal(versions: Mapping[int, Xaes256Gcm], sealed: Sealed, aad: bytes) -> bytes:
    """Decrypt what :func:`seal` made under any of ``versions`` (by number).

    Raises:
        CiphertextInvalid: metadata of no known format or version, a part of the wrong length, or
            anything at all different from what was sealed.
    """
    metadata = sealed.metadata
    if len(metadata) != METADATA_BYTES or metadata[0] != FORMAT_SOFTWARE:
        raise CiphertextInvalid
    # The specification's other length, 16, was never an IV of ours: it could only fail to open.
    if len(sealed.iv) != IV_BYTES or len(sealed.tag) != TAG_BYTES:
        raise CiphertextInvalid
    key = versions.get(int.from_bytes(metadata[1:5], "big"))
    if key is None:
        raise CiphertextInvalid
    nonce = metadata[5:] + sealed.iv
    return key.decrypt(nonce, sealed.ciphertext + sealed.tag, associated_data(aad, metadata))
