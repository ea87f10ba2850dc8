"""One session of a token, and the hot path in it: AES-GCM with buffers that are made once.

A lane is used by one thread at a time. Structures, output buffer and references live as long as it does, so that a call
costs the module's work and little more.
"""

from __future__ import annotations

import ctypes
import hmac
import os
import time
from collections.abc import Callable
from ctypes import byref, c_ulong
from typing import TYPE_CHECKING, Final, TypeVar

from hsm import ck
from hsm.base import DataInvalid, HsmError, HsmUnavailable, MechanismUnavailable, MemberUntrue
from hsm.cryptoki import CkError, GcmParams, Mechanism
from hsm.faults import AMBIGUOUS, INVALID, LOST, hsm_error

if TYPE_CHECKING:
    from hsm.token import Token

T = TypeVar("T")

NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
MAX_DATA_BYTES: Final = 256 * 1024
_LONGEST_IV: Final = 64
_BLOCK_BYTES: Final = 4080
"""Asked of the HSM's generator at a time: 340 nonces."""


class Nonces:
    """96-bit nonces from the HSM's generator, a block at a time, each XORed with the system's randomness of its moment.

    Either half alone is random. The block would come again in the clone of a running machine, the system's half does
    not; the system's half is as good as the host's generator, the block does not depend on it.
    """

    __slots__ = ("_at", "_block", "_draw")

    def __init__(self, draw: Callable[[int], bytes] | None) -> None:
        """``draw``: C_GenerateRandom; None where the HSM has no generator."""
        self._draw = draw
        self._block = b""
        self._at = 0

    def next(self) -> bytes:
        """Return a nonce. Raises CkError."""
        ours = os.urandom(NONCE_BYTES)
        if self._draw is None:
            return ours
        at = self._at
        block = self._block
        if at + NONCE_BYTES > len(block):
            block = self._block = self._draw(_BLOCK_BYTES)
            at = 0
        self._at = at + NONCE_BYTES
        mixed = int.from_bytes(ours, "big") ^ int.from_bytes(block[at : at + NONCE_BYTES], "big")
        return mixed.to_bytes(NONCE_BYTES, "big")


class Lane:
    """A session and what belongs to it. Methods raise errors of hsm.base; nothing is tried more than twice."""

    def __init__(self, token: Token) -> None:
        """Nothing is opened yet; the first call does it."""
        self.token = token
        self.session = 0
        self.epoch = -1
        self.busy_since = 0.0
        """When the call that runs now began (time.monotonic), 0 while idle: what a watchdog looks at."""
        self.patience = 1.0
        """How much longer than other lanes' a call here may take before it counts as hung."""
        raw = token.module.raw
        self._encrypt_init = raw["C_EncryptInit"]
        self._encrypt_data = raw["C_Encrypt"]
        self._decrypt_init = raw["C_DecryptInit"]
        self._decrypt_data = raw["C_Decrypt"]
        self._iv = ctypes.create_string_buffer(_LONGEST_IV)
        self._iv_view = memoryview(self._iv).cast("B")
        self._params = GcmParams(
            ctypes.addressof(self._iv), NONCE_BYTES, NONCE_BYTES * 8, None, 0, TAG_BYTES * 8
        )
        self._how = Mechanism(
            token.gcm_mechanism, ctypes.addressof(self._params), ctypes.sizeof(self._params)
        )
        self._how_ref = byref(self._how)
        self._size = 16 * 1024
        self._make_output()
        self._length = c_ulong()
        self._length_ref = byref(self._length)
        self._nonces = Nonces(self._random if token.has_random else None)

    def _make_output(self) -> None:
        self._out = ctypes.create_string_buffer(self._size)
        self._out_ref = ctypes.c_void_p(ctypes.addressof(self._out))
        self._view = memoryview(self._out).cast("B")

    def _random(self, count: int) -> bytes:
        return self.token.module.random(self.session, count)

    # --- running, and once more after a loss -------------------------------------------------------------------

    def run(self, doing: str, work: Callable[[], T]) -> T:
        """Do ``work`` in an open session; after the loss of the session open a new one, and do it exactly once more.

        Raises HsmError; the CKR code stands in ``code``.
        """
        self.busy_since = time.monotonic()
        try:
            try:
                if self.epoch != self.token.epoch:
                    self.token.enter(self)
                return work()
            except CkError as error:
                if error.code not in LOST:
                    raise hsm_error(error, doing) from None
                self.token.lost(self.epoch)
            try:
                self.busy_since = time.monotonic()
                self.token.enter(self)
                return work()
            except CkError as error:
                if error.code in LOST:
                    self.token.lost(self.epoch)
                raise hsm_error(error, doing) from None
        finally:
            self.busy_since = 0.0

    def draw(self, count: int) -> bytes:
        """Return bytes of the HSM's random generator; to be called in run()."""
        return self._random(count)

    # --- AES-GCM -------------------------------------------------------------------------------------------------

    def encrypt(self, key: bytes, data: bytes, aad: bytes, verify: bool) -> tuple[bytes, bytes]:
        """Return (nonce, ciphertext and tag); ``verify``: it was decrypted and compared inside the HSM.

        Raises:
            MemberUntrue: it does not decrypt to what went in.
            MechanismUnavailable: no working AES-GCM here; the message says what is possible.
            HsmError: any other.
        """
        self.busy_since = time.monotonic()
        if self.epoch == self.token.epoch:
            try:
                # The way of nearly every request; the loss of the session goes the long way below.
                return self._encrypt(key, data, aad, verify)
            except CkError as error:
                if error.code not in LOST:
                    raise hsm_error(error, "AES-GCM encryption") from None
                self.token.lost(self.epoch)
                # Counted as the first of the two tries.
                return self._again("AES-GCM encryption", lambda: self._encrypt(key, data, aad, verify))
            finally:
                self.busy_since = 0.0
        return self.run("AES-GCM encryption", lambda: self._encrypt(key, data, aad, verify))

    def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        """Reverse of encrypt. Raises DataInvalid where it does not authenticate, and HsmError."""
        self.busy_since = time.monotonic()
        if self.epoch == self.token.epoch:
            try:
                return self._decrypt(key, nonce, data, aad)
            except CkError as error:
                if error.code not in LOST:
                    raise self._decryption_error(error) from None
                self.token.lost(self.epoch)
                return self._again("AES-GCM decryption", lambda: self._open(key, nonce, data, aad))
            finally:
                self.busy_since = 0.0
        return self.run("AES-GCM decryption", lambda: self._open(key, nonce, data, aad))

    def _again(self, doing: str, work: Callable[[], T]) -> T:
        self.busy_since = time.monotonic()
        try:
            self.token.enter(self)
            return work()
        except CkError as error:
            if error.code in LOST:
                self.token.lost(self.epoch)
            raise hsm_error(error, doing) from None

    def _open(self, key: bytes, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        try:
            return self._decrypt(key, nonce, data, aad)
        except CkError as error:
            if error.code in LOST:
                raise
            raise self._decryption_error(error) from None

    def _encrypt(self, key: bytes, data: bytes, aad: bytes, verify: bool) -> tuple[bytes, bytes]:
        token = self.token
        handle = token.working.get(key) or token.find_working(self, key)
        mode = token.iv_mode
        params = self._params
        size = len(data)
        if mode == "ours":
            nonce = self._nonces.next()
            self._iv_view[:NONCE_BYTES] = nonce
            params.iv_len = NONCE_BYTES
            params.iv_bits = 96
        elif mode == "":
            raise MechanismUnavailable(token.why_no_gcm())
        else:
            nonce = b""
            self._ask_for_iv(mode)
        params.aad = aad or None
        params.aad_len = len(aad)
        if size + 64 > self._size:
            self._grow(size + 64)
        session = self.session
        code = self._encrypt_init(session, self._how_ref, handle)
        if code:
            raise CkError("C_EncryptInit", code)
        length = self._length
        length.value = self._size
        code = self._encrypt_data(session, data, size, self._out_ref, self._length_ref)
        if code:
            raise CkError("C_Encrypt", code)
        made = length.value
        if mode == "appended":
            if not NONCE_BYTES <= made - size - TAG_BYTES <= _LONGEST_IV:
                raise MemberUntrue("the HSM did not append the nonce that it made")
            nonce = self._view[size + TAG_BYTES : made].tobytes()
            made = size + TAG_BYTES
        elif mode == "params":
            nonce = self._iv.raw[: params.iv_len]
            if not any(nonce):
                raise MemberUntrue("the HSM made no nonce of its own")
        elif made != size + TAG_BYTES:
            raise MemberUntrue("the HSM's answer has not the length of AES-GCM")
        ciphertext = self._view[:made].tobytes()
        if verify:
            try:
                back = self._decrypt(key, nonce, ciphertext, aad)
            except CkError as error:
                if error.code in LOST:
                    raise
                raise MemberUntrue(
                    f"the HSM does not decrypt what it has just encrypted ({ck.code_name(error.code)})"
                ) from None
            if not hmac.compare_digest(back, data):
                raise MemberUntrue("what the HSM encrypted does not decrypt to what it was given")
        return nonce, ciphertext

    def _ask_for_iv(self, mode: str) -> None:
        # What documents ask of the caller: zeros for modules that write the IV back, nothing for those that append it.
        params = self._params
        if mode == "params":
            self._iv_view[:NONCE_BYTES] = bytes(NONCE_BYTES)
            params.iv = ctypes.addressof(self._iv)
            params.iv_len = NONCE_BYTES
            params.iv_bits = 96
        else:
            params.iv = None
            params.iv_len = 0
            params.iv_bits = 0

    def _decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        token = self.token
        handle = token.working.get(key) or token.find_working(self, key)
        params = self._params
        size = len(nonce)
        if not 0 < size <= _LONGEST_IV:
            raise DataInvalid(f"a nonce of {size} bytes")
        if len(data) < TAG_BYTES:
            raise DataInvalid("the ciphertext is shorter than its tag")
        if token.iv_mode == "":
            raise MechanismUnavailable(token.why_no_gcm())
        self._iv_view[:size] = nonce
        params.iv = ctypes.addressof(self._iv)
        params.iv_len = size
        params.iv_bits = size * 8
        params.aad = aad or None
        params.aad_len = len(aad)
        if len(data) + 64 > self._size:
            self._grow(len(data) + 64)
        session = self.session
        code = self._decrypt_init(session, self._how_ref, handle)
        if code:
            raise CkError("C_DecryptInit", code)
        length = self._length
        length.value = self._size
        code = self._decrypt_data(session, data, len(data), self._out_ref, self._length_ref)
        if code:
            raise CkError("C_Decrypt", code)
        if length.value != len(data) - TAG_BYTES:
            raise MemberUntrue("the HSM's answer has not the length of AES-GCM")
        return self._view[: length.value].tobytes()

    def _grow(self, size: int) -> None:
        if size > MAX_DATA_BYTES + 64:
            raise HsmError(f"data of more than {MAX_DATA_BYTES} bytes is not sent to an HSM")
        self._size = size
        self._view.release()
        self._make_output()

    def _decryption_error(self, error: CkError) -> HsmError:
        """Tell data that does not authenticate from a device that fails, where the module says both with one code."""
        code = error.code
        ours = code in self.token.invalid_codes
        if error.function == "C_Decrypt" and ours and (code not in AMBIGUOUS or self._well()):
            found: HsmError = DataInvalid(
                "the ciphertext does not authenticate: altered, or of another key or place"
            )
            found.code = code
            return found
        if error.function == "C_DecryptInit" and code in INVALID:
            return HsmUnavailable(f"the HSM failed at AES-GCM decryption ({error})")
        return hsm_error(error, "AES-GCM decryption")

    def _well(self) -> bool:
        """Say whether the token encrypts and decrypts now, under a session key of our own."""
        try:
            key = self.token.canary(self)
            nonce, made = self._encrypt(key, bytes(16), b"", False)
            return self._decrypt(key, nonce, made, b"") == bytes(16)
        except (CkError, HsmError):
            return False
