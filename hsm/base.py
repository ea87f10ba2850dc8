"""The two protocols of key protection, and the errors that every implementation raises.

A *wrapper* encrypts and decrypts keys as data; a *resident key* never leaves its device and is used in place.
``software.py`` implements the first in memory. A PKCS#11 implementation of both raises the same errors, so that a
caller never learns which one it talks to.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol, runtime_checkable


class HsmError(Exception):
    """Something went wrong between us and a key. ``permanent`` says that trying again cannot help.

    Messages name keys by their id and never hold key bytes, PINs, plaintext or ciphertext.
    """

    permanent: ClassVar[bool] = True
    code: int = 0
    """The CKR value of the PKCS#11 call that failed; 0 where none did."""


class HsmUnavailable(HsmError):
    """The device, its network or its helper process does not answer now; another member or a later try may."""

    permanent = False


class HsmTimeout(HsmUnavailable):
    """No answer came within the time that was left. The request may or may not have been carried out."""

    alive = False
    """The member has answered others meanwhile: it is well, only slower than the requests come."""


class HsmLate(HsmTimeout):
    """The asking process itself was held up until the time was over, which says nothing of the member."""


class HelperGone(HsmUnavailable):
    """The member's helper process is not there, or ended: no slow token, nothing to wait for until it is started again."""


class MemberUntrue(HsmUnavailable):
    """What the device returned was checked and is wrong (a ciphertext that does not decrypt to what went in)."""


class HsmBusy(HsmError):
    """More requests wait for the device than it can answer in time; this one was not begun."""

    permanent = False


class HsmAuthenticationFailed(HsmError):
    """The device refused our credential. Never tried again by itself: a token locks after a few wrong PINs."""


class KeyNotFound(HsmError):
    """No key with this id or label exists where it was looked for."""


class KeyAmbiguous(HsmError):
    """More than one key answers to an id or label that must be unique."""


class MechanismUnavailable(HsmError):
    """The device lacks the mechanism, or forbids it for this key."""


class DataInvalid(HsmError):
    """What was to be decrypted is not what was encrypted: altered, moved (other associated data) or cut short."""


class BlobMalformed(DataInvalid):
    """The bytes are no blob of a known format (see ``hsm.blob``); nothing was decrypted."""


class WrongWrappingKey(DataInvalid):
    """A well-formed blob that names another wrapping key than the one at hand: foreign, not corrupt."""

    def __init__(self, *, named: str, at_hand: str) -> None:
        super().__init__(f"the blob names wrapping key {named}, the key at hand is {at_hand}")
        self.named = named
        self.at_hand = at_hand


@runtime_checkable
class KeyWrapper(Protocol):
    """Encrypts and decrypts keys as data with associated data, in the blob format of ``hsm.blob``.

    Implementations may be called from several threads at once.
    """

    @property
    def key_id(self) -> str:
        """Id of the wrapping key: 32 lower-case hex digits, the same 16 bytes that its blobs carry."""
        ...

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """Return a blob that only this key opens, and only with the same associated data."""
        ...

    def decrypt(self, blob: bytes, associated_data: bytes) -> bytes:
        """Return the plaintext of ``blob``.

        Raises BlobMalformed, WrongWrappingKey, or DataInvalid when authentication fails; a device may raise any
        other HsmError.
        """
        ...


class ResidentCiphertext(NamedTuple):
    """What a resident key's encryption returns: the nonce that was really used, and ciphertext with its tag."""

    nonce: bytes
    ciphertext: bytes


@runtime_checkable
class ResidentKey(Protocol):
    """An AES-256 key that was made inside a device and never leaves it."""

    @property
    def key_id(self) -> str:
        """Id by which the device finds the key (CKA_ID), lower-case hex."""
        ...

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> ResidentCiphertext:
        """AES-256-GCM inside the device. The device or its profile chooses the 12 byte nonce."""
        ...

    def decrypt(self, nonce: bytes, ciphertext: bytes, associated_data: bytes) -> bytes:
        """Reverse of encrypt. Raises DataInvalid when authentication fails."""
        ...

    def destroy(self) -> None:
        """Destroy the key inside the device. What it encrypted is unreadable from then on."""
        ...
