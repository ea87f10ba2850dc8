"""One token: its module, its login, its keys, and what is verified of them. Runs in the helper process only."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsm import ck, documented, profile, templates
from hsm.base import (
    DataInvalid,
    HsmAuthenticationFailed,
    HsmError,
    HsmUnavailable,
    KeyAmbiguous,
    KeyNotFound,
    MechanismUnavailable,
)
from hsm.cryptoki import CkError, Module, ModuleRefused, Template, TokenInfo, oaep
from hsm.faults import INVALID, LOST, hsm_error
from hsm.lane import Lane
from hsm.wire import HelperConfig, KeyKind

log = logging.getLogger("keystead.hsm")

_CANARY: Final = b"\x00keystead canary"
MAX_COPIES: Final = 256
"""Keys used through session copies at a time."""
_COPY: Final[Template] = (
    (ck.CKA_TOKEN, False),
    (ck.CKA_ID, _CANARY),
    (ck.CKA_LABEL, b"keystead session copy"),
)
_TRANSFER_BITS: Final = 3072
_TRANSFER_HASHES: Final = (ck.CKM_SHA256, ck.CKM_SHA_1)
"""OAEP's hash need not resist collisions, so that SHA-1 does no harm where a token has nothing else."""


class Token:
    """The token of a helper. ``lane()`` gives a session for each thread; keys are found by CKA_ID alone."""

    def __init__(self, config: HelperConfig) -> None:
        """Load the module. Raises HsmUnavailable."""
        self._config = config
        try:
            self.module = Module(config.module)
        except ModuleRefused as error:
            raise HsmUnavailable(
                f"{error}. Install the vendor's client on this host, for the user that Keystead runs as"
            ) from None
        self.info: TokenInfo | None = None
        self.epoch = 0
        self.handles: dict[bytes, int] = {}
        self.working: dict[bytes, int] = {}
        """What AES-GCM is called with: the key's handle, or that of its session copy (see find_working)."""
        self._copies: dict[bytes, int] = {}
        self._copying = False
        self.lock = threading.RLock()
        self.refused: str = ""
        self.lost_since = 0.0
        self.reopened = 0
        self.profile = profile.Profile()
        self.invalid_codes: frozenset[int] = INVALID
        self.iv_mode = ""
        self.has_random = True
        self.gcm_mechanism = config.mechanisms.get("AES_GCM", ck.CKM_AES_GCM)
        self.kwp_mechanism = config.mechanisms.get("AES_KEY_WRAP_PAD", 0)
        self._login_epoch = -1

    def __repr__(self) -> str:
        return f"Token({self._config!r})"

    # --- opening -------------------------------------------------------------------------------------------------

    def open(self) -> Lane:
        """Initialise the module, find the token, log in, and measure what it can do. Returns the first lane.

        Raises:
            HsmUnavailable: no such token here, or it does not answer.
            HsmAuthenticationFailed: the login was refused, or would be risky to try.
            MechanismUnavailable: the token is of a kind that is refused.
        """
        try:
            self.module.initialize()
        except CkError as error:
            raise HsmUnavailable(
                f"{self._config.module} does not start ({error}): its service or its configuration is missing on "
                "this host, or not readable for the user that Keystead runs as"
            ) from None
        self.info = self._find_token()
        profile.refuse(self.module, self.info, self.vendor(self.info))
        lane = Lane(self)
        lane.run("opening a session", lambda: None)
        measured = profile.measure(self, lane)
        self.use(measured)
        return lane

    def use(self, measured: profile.Profile) -> None:
        """Go by this profile from now on."""
        self.profile = measured
        self.iv_mode = measured.gcm.iv if measured.gcm.works else ""
        self.invalid_codes = INVALID | frozenset(measured.invalid_codes)
        self.has_random = measured.random
        self._copying = measured.session_copies

    def lane(self) -> Lane:
        """Return a session of its own for another thread; opened at its first call."""
        return Lane(self)

    def _find_token(self) -> TokenInfo:
        config = self._config
        try:
            present = [each for each in self.module.tokens() if each.flags & ck.CKF_TOKEN_INITIALIZED]
        except CkError as error:
            raise HsmUnavailable(f"{config.module} lists no tokens ({error})") from None
        found = [
            each
            for each in present
            if (
                each.serial == config.token_serial
                if config.token_serial
                else each.label == config.token_label
            )
        ]
        wanted = (
            f"serial number {config.token_serial!r}"
            if config.token_serial
            else f"label {config.token_label!r}"
        )
        if not found:
            shown = ", ".join(f"{each.serial} ({each.label})" for each in present) or "none at all"
            raise HsmUnavailable(
                f"no token with {wanted} is visible to this host; visible: {shown}. Is the partition assigned to it, "
                "and the vendor's client connected?"
            )
        if len(found) > 1:
            raise KeyAmbiguous(f"{len(found)} tokens have the {wanted}; name the member by its serial number")
        return found[0]

    def enter(self, lane: Lane) -> None:
        """Open a session for ``lane`` in the present epoch and see to the login. Raises CkError, HsmError."""
        with self.lock:
            if self.refused:
                raise HsmAuthenticationFailed(self.refused)
            if lane.session:
                with contextlib.suppress(CkError):
                    self.module.close_session(lane.session)
                lane.session = 0
            assert self.info is not None  # noqa: S101 - open() comes first
            session = self.module.open_session(self.info.slot, read_write=self._config.read_write)
            lane.session = session
            self._login(session)
            lane.epoch = self.epoch
            self.lost_since = 0.0

    def _login(self, session: int) -> None:
        config = self._config
        if config.login == "none" or self._login_epoch == self.epoch:
            return
        assert self.info is not None  # noqa: S101 - as above
        flags = self.module.token(self.info.slot).flags
        if flags & ck.CKF_USER_PIN_LOCKED:
            self._refuse("the PIN is locked. The token's security officer must set it anew")
        if flags & ck.CKF_USER_PIN_FINAL_TRY:
            self._refuse(
                "the next wrong PIN would lock the token (CKF_USER_PIN_FINAL_TRY), so ours was not tried. Log in once "
                "with the vendor's tool and the right PIN, then change the PIN in the connection's settings"
            )
        if flags & ck.CKF_LOGIN_REQUIRED and not flags & ck.CKF_USER_PIN_INITIALIZED:
            self._refuse("the token has no user PIN yet. Its security officer must set one")
        try:
            self.module.login(session, config.pin)
        except CkError as error:
            if error.code != ck.CKR_USER_ALREADY_LOGGED_IN:
                refusal = hsm_error(error, "the login")
                if isinstance(refusal, HsmAuthenticationFailed):
                    self.refused = str(refusal)
                    raise refusal from None
                raise
        self._login_epoch = self.epoch

    def _refuse(self, why: str) -> None:
        self.refused = f"the token does not take our login: {why}"
        raise HsmAuthenticationFailed(self.refused)

    def lost(self, epoch: int) -> None:
        """Take note that what was opened in ``epoch`` is no longer good; the first to say so decides for all."""
        with self.lock:
            if epoch == self.epoch:
                self.epoch += 1
                self.reopened += 1
                self.handles.clear()
                self.working.clear()
                self._copies.clear()
                log.warning(
                    "HSM token %s: session lost, opening another", self.info.serial if self.info else ""
                )
            if not self.lost_since:
                self.lost_since = time.monotonic()

    def vendor(self, info: TokenInfo) -> documented.Vendor | None:
        """Return what documents say of this kind of token: the configured entry, else the one that fits."""
        named = documented.by_name(self._config.vendor)
        return named or documented.find(info.manufacturer, info.model, self._config.module)

    # --- finding -------------------------------------------------------------------------------------------------

    def find(self, lane: Lane, key: bytes) -> int:
        """Return the handle of the secret key with this CKA_ID, and keep it. Raises KeyNotFound, KeyAmbiguous."""
        if not key:
            raise KeyNotFound("no key id was given")
        handles = self.module.find(
            lane.session, [(ck.CKA_CLASS, ck.CKO_SECRET_KEY), (ck.CKA_ID, key)], most=2
        )
        if not handles:
            raise KeyNotFound(f"the HSM has no secret key with CKA_ID {key.hex()}")
        if len(handles) > 1:
            raise KeyAmbiguous(
                f"the HSM has more than one secret key with CKA_ID {key.hex()}; keep one of them"
            )
        self.handles[key] = handles[0]
        return handles[0]

    def find_working(self, lane: Lane, key: bytes) -> int:
        """Return the handle to encrypt and decrypt with, and keep it. Raises as find does.

        A token that keeps its keys in files reads the file again at every call. There a non-extractable key is used
        through a copy of it as a session object, which PKCS#11 makes inside the token with the same protection;
        check_copies sees to it that a copy does not outlive its key.
        """
        handle = self.handles.get(key) or self.find(lane, key)
        if self._copying and len(self._copies) < MAX_COPIES and key != _CANARY:
            handle = self._copy(lane, key, handle)
        self.working[key] = handle
        return handle

    def _copy(self, lane: Lane, key: bytes, handle: int) -> int:
        session = lane.session
        try:
            if self.module.flag(session, handle, ck.CKA_EXTRACTABLE) is not False:
                return handle
            # Under another id and label: whoever looks the key up is to find the key.
            copy = self.module.copy_object(session, handle, _COPY)
        except CkError as error:
            if error.code in LOST:
                raise
            self._copying = False
            return handle
        wanted = ((ck.CKA_EXTRACTABLE, False), (ck.CKA_SENSITIVE, True), (ck.CKA_TOKEN, False))
        if any(self.module.flag(session, copy, kind) is not value for kind, value in wanted):
            self.module.destroy_object(session, copy)
            return handle
        self._copies[key] = copy
        return copy

    def _forget(self, lane: Lane, key: bytes) -> None:
        """Drop what is held of a key, its session copy first."""
        self.working.pop(key, None)
        copy = self._copies.pop(key, 0)
        if copy:
            with contextlib.suppress(CkError):
                self.module.destroy_object(lane.session, copy)
        self.handles.pop(key, None)

    def check_copies(self, lane: Lane) -> None:
        """Drop the copies of keys that are no longer there; called every second. Raises HsmError."""
        if not self._copies:
            return

        def work() -> None:
            for key in list(self._copies):
                handle = self.handles.get(key, 0)
                try:
                    if handle and self.module.flag(lane.session, handle, ck.CKA_TOKEN):
                        continue
                except CkError as error:
                    if error.code not in (ck.CKR_OBJECT_HANDLE_INVALID, ck.CKR_KEY_HANDLE_INVALID):
                        raise
                self._forget(lane, key)

        lane.run("looking whether keys are still there", work)

    def canary(self, lane: Lane) -> bytes:
        """Return the id of a key for finding out whether the token is well: a session key, or the health-check key."""
        if _CANARY not in self.handles:
            try:
                self.handles[_CANARY] = self.module.generate_key(
                    lane.session, ck.CKM_AES_KEY_GEN, templates.session_key()
                )
            except CkError:
                if not self._config.health_key:
                    raise
                return bytes.fromhex(self._config.health_key)
        return _CANARY

    def find_by_label(self, lane: Lane, label: str) -> list[str]:
        """Return the CKA_IDs (hex) of secret keys with this label; an object without CKA_ID counts as ''."""

        def work() -> list[str]:
            template: Template = [(ck.CKA_CLASS, ck.CKO_SECRET_KEY), (ck.CKA_LABEL, label.encode())]
            handles = self.module.find(lane.session, template, most=100)
            return [(self.module.attribute(lane.session, each, ck.CKA_ID) or b"").hex() for each in handles]

        return lane.run("looking up a label", work)

    def identify(self, lane: Lane, label: str, key: bytes) -> dict[str, Any]:
        """Give the one secret key with this label a CKA_ID: tools of others make keys without.

        Raises:
            KeyNotFound: no key has the label.
            KeyAmbiguous: more than one has it, or it has another CKA_ID, or another key has this one.
        """
        if not 8 <= len(key) <= 64:
            raise HsmError("a CKA_ID that we give has 8 to 64 bytes")

        def work() -> dict[str, Any]:
            handles = self.module.find(
                lane.session, [(ck.CKA_CLASS, ck.CKO_SECRET_KEY), (ck.CKA_LABEL, label.encode())], most=2
            )
            if not handles:
                raise KeyNotFound(f"the HSM has no secret key with the label {label!r}")
            if len(handles) > 1:
                raise KeyAmbiguous(f"the HSM has more than one secret key with the label {label!r}")
            held = self.module.attribute(lane.session, handles[0], ck.CKA_ID)
            if held != key:
                if held:
                    raise KeyAmbiguous(f"the key with the label {label!r} has a CKA_ID already: {held.hex()}")
                self._must_be_new(lane, key)
                self.module.set_attributes(lane.session, handles[0], [(ck.CKA_ID, key)])
            return self._describe(lane, self.find(lane, key))

        return lane.run("giving a key its CKA_ID", work)

    def describe(self, lane: Lane, key: bytes) -> dict[str, Any]:
        """Return what the token tells of a key: never its value, nor its check value (the head of E_K(0))."""
        return lane.run(
            "reading attributes", lambda: self._describe(lane, self.handles.get(key) or self.find(lane, key))
        )

    def _describe(self, lane: Lane, handle: int) -> dict[str, Any]:
        return templates.read(self.module, lane.session, handle)

    # --- making, destroying --------------------------------------------------------------------------------------

    def generate(self, lane: Lane, key: bytes, label: str, kind: KeyKind) -> dict[str, Any]:
        """Make a secret key in the token and verify what was made; a key that is not as asked is destroyed again.

        Raises:
            KeyAmbiguous: there is a key with this CKA_ID already.
            MechanismUnavailable: the token cannot, or made another key than asked for.
        """
        if kind not in templates.KINDS:
            raise HsmError(f"a key of kind {kind!r} is not made this way")
        wanted = templates.wanted(kind, self.profile)

        def work() -> dict[str, Any]:
            self._must_be_new(lane, key)
            handle = self._made(
                lambda template: self.module.generate_key(lane.session, ck.CKM_AES_KEY_GEN, template),
                templates.creation(wanted, key, label, private=self._config.login == "pin", length=True),
            )
            return self._keep_if_as(lane, key, handle, wanted, made_here=True)

        return lane.run("key generation", work)

    def _must_be_new(self, lane: Lane, key: bytes) -> None:
        try:
            self.find(lane, key)
        except KeyNotFound:
            return
        raise KeyAmbiguous(f"the HSM has a secret key with CKA_ID {key.hex()} already")

    def _made(self, make: Any, template: Template) -> int:
        try:
            return make(template)  # type: ignore[no-any-return]
        except CkError as error:
            if error.code not in (ck.CKR_ATTRIBUTE_TYPE_INVALID, 0x13, 0xD1):
                raise
        # Some tokens do not know all of the attributes that are to be false; reading them back decides.
        return make(templates.without_optional(template))  # type: ignore[no-any-return]

    def _keep_if_as(
        self, lane: Lane, key: bytes, handle: int, wanted: dict[str, bool], *, made_here: bool
    ) -> dict[str, Any]:
        found = self._describe(lane, handle)
        wrong = templates.differences(found, wanted, made_here=made_here)
        if wrong:
            with contextlib.suppress(CkError):
                self.module.destroy_object(lane.session, handle)
            raise MechanismUnavailable(
                f"the token made a key with other attributes than asked for, and it was destroyed again: {', '.join(wrong)}"
            )
        self.handles[key] = handle
        return found

    def destroy(self, lane: Lane, key: bytes) -> None:
        """Destroy a key and see that it is gone. Raises KeyNotFound."""

        def work() -> None:
            handle = self.handles.get(key) or self.find(lane, key)
            self._forget(lane, key)
            self.module.destroy_object(lane.session, handle)
            with contextlib.suppress(KeyNotFound):
                self.find(lane, key)
                self.handles.pop(key, None)
                raise HsmError(f"the HSM says that it destroyed the key {key.hex()}, and still has it")

        lane.run("destroying a key", work)

    def harden(self, lane: Lane, key: bytes) -> dict[str, Any]:
        """Make a key non-extractable for ever, and verify it."""

        def work() -> dict[str, Any]:
            handle = self.handles.get(key) or self.find(lane, key)
            if self.module.flag(lane.session, handle, ck.CKA_EXTRACTABLE) is not False:
                self.module.set_attributes(lane.session, handle, [(ck.CKA_EXTRACTABLE, False)])
            found = self._describe(lane, handle)
            if found["extractable"] is not False or found["sensitive"] is not True:
                raise MechanismUnavailable("the token did not make the key non-extractable")
            return found

        return lane.run("making a key non-extractable", work)

    # --- from token to token -------------------------------------------------------------------------------------

    def make_transfer_key(self, lane: Lane, key: bytes, label: str) -> bytes:
        """Make an RSA pair to receive keys with; gone with the session. Returns hash and public key for Export.

        The private key is non-extractable and can do nothing but unwrap. Raises MechanismUnavailable.
        """

        def work() -> bytes:
            public, private = self.module.generate_pair(
                lane.session,
                ck.CKM_RSA_PKCS_KEY_PAIR_GEN,
                templates.transfer_public(key, label, _TRANSFER_BITS),
                templates.transfer_private(key, label),
            )
            modulus = self.module.attribute(lane.session, public, ck.CKA_MODULUS)
            exponent = self.module.attribute(lane.session, public, ck.CKA_PUBLIC_EXPONENT)
            if not modulus or not exponent:
                raise MechanismUnavailable("the token does not tell the public key of the transfer key")
            chosen = self._transfer_hash(lane, public, private)
            numbers = RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
            spki = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            self.module.destroy_object(lane.session, public)
            return bytes((1, _TRANSFER_HASHES.index(chosen))) + spki

        return lane.run("making a transfer key", work)

    def _transfer_hash(self, lane: Lane, public: int, private: int) -> int:
        session = lane.session
        refused: list[str] = []
        for each in _TRANSFER_HASHES:
            how, _params = oaep(each)
            sample = self.module.generate_key(
                session, ck.CKM_AES_KEY_GEN, templates.session_key(extractable=True)
            )
            try:
                blob = self.module.wrap_key(session, how, public, sample)
                back = self.module.unwrap_key(session, how, private, blob, templates.unwrapped_session_key())
                self.module.destroy_object(session, back)
            except CkError as error:
                refused.append(str(error))
            else:
                return each
            finally:
                self.module.destroy_object(session, sample)
        raise MechanismUnavailable(
            f"the token does not wrap and unwrap with RSA-OAEP ({'; '.join(refused)}): keys cannot be replicated to it "
            "by Keystead. Use the vendor's replication, and device-bound keys"
        )

    def export(self, lane: Lane, key: bytes, under: bytes) -> bytes:
        """Wrap an extractable key for the token whose make_transfer_key returned ``under``."""
        hash_mechanism, public_key = _transfer_public_key(under)

        def work() -> bytes:
            handle = self.handles.get(key) or self.find(lane, key)
            numbers = public_key.public_numbers()
            public = self.module.create_object(lane.session, templates.foreign_public(numbers.n, numbers.e))
            try:
                how, _params = oaep(hash_mechanism)
                return under[:2] + self.module.wrap_key(lane.session, how, public, handle)
            finally:
                with contextlib.suppress(CkError):
                    self.module.destroy_object(lane.session, public)

        return lane.run("wrapping a key for another member", work)

    def import_key(
        self, lane: Lane, key: bytes, label: str, under: bytes, blob: bytes, kind: KeyKind
    ) -> dict[str, Any]:
        """Unwrap what export returned, with our transfer key ``under``; verified like a generated key."""
        if kind not in templates.KINDS:
            raise HsmError(f"a key of kind {kind!r} is not made this way")
        if len(blob) < 3 or blob[0] != 1 or blob[1] >= len(_TRANSFER_HASHES):
            raise DataInvalid("not a wrapped key of another member")
        wanted = templates.wanted(kind, self.profile)

        def work() -> dict[str, Any]:
            self._must_be_new(lane, key)
            private = self.module.find(
                lane.session, [(ck.CKA_CLASS, ck.CKO_PRIVATE_KEY), (ck.CKA_ID, under)], most=2
            )
            if len(private) != 1:
                raise KeyNotFound(
                    "the transfer key is not there (any more): it ends with the helper's session"
                )
            how, _params = oaep(_TRANSFER_HASHES[blob[1]])
            handle = self._made(
                lambda template: self.module.unwrap_key(lane.session, how, private[0], blob[2:], template),
                templates.creation(wanted, key, label, private=self._config.login == "pin", length=False),
            )
            return self._keep_if_as(lane, key, handle, wanted, made_here=False)

        return lane.run("unwrapping a key of another member", work)

    def forget_transfer_key(self, lane: Lane, key: bytes) -> bool:
        """Destroy a transfer key, if this is one."""

        def work() -> bool:
            found = self.module.find(
                lane.session, [(ck.CKA_CLASS, ck.CKO_PRIVATE_KEY), (ck.CKA_ID, key), (ck.CKA_TOKEN, False)]
            )
            for each in found:
                self.module.destroy_object(lane.session, each)
            return bool(found)

        return lane.run("destroying a transfer key", work)

    # --- key wrap with padding, where there is no GCM ------------------------------------------------------------

    def seal(self, lane: Lane, key: bytes, data: bytes) -> bytes:
        """KWP over ``data`` under the key. Raises MechanismUnavailable where the token has none that works."""
        kwp = self._kwp()

        def work() -> bytes:
            handle = self.handles.get(key) or self.find(lane, key)
            return profile.kwp_wrap(self.module, lane.session, kwp, handle, data)

        return lane.run("AES key wrap", work)

    def unseal(self, lane: Lane, key: bytes, data: bytes) -> bytes:
        """Reverse of seal. Raises DataInvalid."""
        kwp = self._kwp()

        def work() -> bytes:
            handle = self.handles.get(key) or self.find(lane, key)
            try:
                value = profile.kwp_unwrap(self.module, lane.session, kwp, handle, data)
            except CkError as error:
                if error.code in INVALID or (error.code in kwp.invalid_codes and self._wraps(lane, handle)):
                    raise DataInvalid(
                        "the wrapped key does not authenticate: altered, or of another key"
                    ) from None
                raise
            if value is None:
                raise MechanismUnavailable(
                    "the token does not give back what it unwrapped, even as plain data"
                )
            return value

        return lane.run("AES key unwrap", work)

    def _wraps(self, lane: Lane, handle: int) -> bool:
        """Say whether the token is well, where it has one code for altered data and for its own failures."""
        kwp = self.profile.kwp
        sample = os.urandom(32)
        try:
            blob = profile.kwp_wrap(self.module, lane.session, kwp, handle, sample)
            return profile.kwp_unwrap(self.module, lane.session, kwp, handle, blob) == sample
        except CkError:
            return False

    def _kwp(self) -> profile.Kwp:
        kwp = self.profile.kwp
        if not kwp.works:
            raise MechanismUnavailable(
                f"{kwp.reason or 'AES key wrap with padding does not work here'}. {self.profile.advice()}"
            )
        return kwp

    def why_no_gcm(self) -> str:
        """Return the message for whoever wants AES-GCM of a token that has none."""
        return f"{self.profile.gcm.reason or 'AES-GCM does not work on this token'}. {self.profile.advice()}"

    # --- telling -------------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, str]:
        """Return who this is, for people."""
        assert self.info is not None  # noqa: S101 - open() comes first
        module = self.module.info()
        return {
            "manufacturer": self.info.manufacturer,
            "model": self.info.model,
            "serial": self.info.serial,
            "label": self.info.label,
            "firmware": self.info.firmware,
            "hardware": self.info.hardware,
            "module": os.path.basename(self.module.path),
            "library": f"{module.description} {module.version}".strip(),
            "cryptoki": module.cryptoki,
        }


def _transfer_public_key(under: bytes) -> tuple[int, RSAPublicKey]:
    try:
        if under[0] != 1:
            raise ValueError
        hash_mechanism = _TRANSFER_HASHES[under[1]]
        key = load_der_public_key(under[2:])
    except (ValueError, IndexError, UnsupportedAlgorithm):
        raise DataInvalid("not the public half of a transfer key") from None
    if not isinstance(key, RSAPublicKey) or key.key_size < _TRANSFER_BITS:
        raise DataInvalid(f"a transfer key is RSA with {_TRANSFER_BITS} bits or more")
    return hash_mechanism, key
