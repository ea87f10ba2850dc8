"""What a token can really do: tried, not believed from a list. The result decides how it is used, and people see it.

:func:`measure` takes milliseconds and runs at every start of a helper; :func:`measure_oaep` makes RSA keys, so that it
runs when somebody asks (wire.Status with ``full``).
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from ctypes import byref, c_ulong
from typing import TYPE_CHECKING, Any, Final

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

from hsm import ck, documented, templates
from hsm.base import HsmUnavailable, MechanismUnavailable
from hsm.cryptoki import CkError, Module, TokenInfo, gcm, oaep, plain
from hsm.faults import LOST

if TYPE_CHECKING:
    from hsm.lane import Lane
    from hsm.token import Token

_KNOWN_KEY: Final = bytes(range(32))
_DATA: Final = b"keystead measures this token.."
_AAD: Final = b"associated data"
_ZEROS: Final = bytes(12)
_OUR_IV: Final = bytes(range(0xA0, 0xAC))
_LUNA_POLICY_NON_FIPS: Final = 12
"""HSM policy "Allow non-FIPS algorithms" (same source)."""
_LUNA_POLICY_FM: Final = 50
"""HSM policy "Allow Functionality Modules" (thalesdocs.com, Luna 7.4, FM Deployment Constraints)."""


class Gcm(msgspec.Struct, omit_defaults=False):
    """CKM_AES_GCM through C_Encrypt and C_Decrypt."""

    listed: bool = False
    works: bool = False
    """Both ways, with associated data; altered data is refused."""
    iv: str = ""
    """``ours``: the nonce we give is used. ``params``: the HSM makes it and writes it back. ``appended``: it makes it
    and appends it to the ciphertext."""
    nonce_bytes: int = 0
    long_iv: bool | None = None
    """Whether it decrypts under a nonce of 16 bytes; None where that could not be tried."""
    known_answer: bool | None = None
    """The result is that of AES-GCM elsewhere; None where the token takes no key whose value is known."""
    reason: str = ""
    """Why it does not work."""


class Kwp(msgspec.Struct, omit_defaults=False):
    """AES key wrap with padding (RFC 5649), over 32 bytes: we wrap AES-256 keys and nothing else by it."""

    works: bool = False
    mechanism: int = 0
    by: str = ""
    """``encrypt``: C_Encrypt takes it. ``wrap``: only C_WrapKey does."""
    known_answer: bool | None = None
    invalid_codes: list[int] = []
    reason: str = ""


class Profile(msgspec.Struct, omit_defaults=False):
    """What was found, and what follows from it."""

    vendor: str = ""
    """Entry of hsm.documented that was found fitting."""
    gcm: Gcm = msgspec.field(default_factory=Gcm)
    kwp: Kwp = msgspec.field(default_factory=Kwp)
    oaep: list[str] | None = None
    """Hashes with which RSA-OAEP wraps and unwraps; None: not tried yet."""
    random: bool = True
    fips: str = "unknown"
    functionality_modules: str = "not applicable"
    mechanisms: list[str] = []
    """Those that matter here, as the token lists them."""
    limits: dict[str, int] = {}
    errors: dict[str, str] = {}
    """What the module returns for what is wrong: "wrong tag", "wrong associated data", "short ciphertext"."""
    invalid_codes: list[int] = []
    """CKR values of C_Decrypt that (also) mean altered data here."""
    latency_ms: float = 0.0
    threads_ok: bool = True
    session_copies: bool = False
    """Keys are used through session copies, because the token would read them from a file at every call."""
    missing: list[str] = []
    possible: list[str] = []
    """Protections that this token can give: hsm-wrapped, hsm-resident, root-key."""
    proven: str = "measured on this token"
    notes: list[str] = []

    def advice(self) -> str:
        """Return the sentence on what is still possible."""
        if self.possible:
            return f"Still possible with this token: {', '.join(self.possible)}"
        return (
            "Neither wrapped nor resident keys are possible with this token; protection 'software' is, and another "
            "HSM or its other policy (FIPS mode, partition policy) may do"
        )


def refuse(module: Module, info: TokenInfo, vendor: documented.Vendor | None) -> str:
    """Refuse tokens that must not hold keys; returns what was found of Functionality Modules.

    On a Luna, firmware of the customer's own (FM) runs beside the keys: the vendor's external key store refuses such
    HSMs, and so do we. The policy is asked of the library's own function; where that is missing it stays unknown.

    Raises MechanismUnavailable.
    """
    if vendor is None or vendor.name != "luna":
        return "not applicable"
    allowed = _luna_policy(module, info.slot, _LUNA_POLICY_FM)
    if allowed is None:
        return "unknown: the library does not tell HSM policy 50; see `hsm showpolicies` in lunash or lunacm"
    if allowed:
        raise MechanismUnavailable(
            "this Luna allows Functionality Modules (HSM policy 50): other firmware may run beside the keys, so that it "
            "is refused. Use an HSM on which that policy has never been switched on"
        )
    return "off"


def measure(token: Token, lane: Lane) -> Profile:
    """Try the token out in ``lane``'s session. Raises HsmUnavailable where it stops answering meanwhile."""
    info = token.info
    assert info is not None  # noqa: S101 - the token has been opened
    module = token.module
    entry = token.vendor(info)
    listed = set(module.mechanisms(info.slot))
    found = Profile(
        vendor=entry.name if entry else "",
        functionality_modules=refuse(module, info, entry),
        mechanisms=[name for name, number in _interesting(token) if number in listed],
        limits=_limits(module, info, token.gcm_mechanism),
        threads_ok=module.threads_ok,
        session_copies=entry is not None and entry.session_copies and module.threads_ok,
    )
    try:
        found.random = _random_works(module, lane.session)
        found.gcm = _gcm(token, lane, found, listed)
        found.kwp = _kwp(token, lane, listed, entry)
    except CkError as error:
        if error.code in LOST:
            token.lost(lane.epoch)
        raise HsmUnavailable(f"the token stopped answering while it was tried out ({error})") from None
    found.fips = _fips(module, info, entry, found)
    if entry is not None:
        found.notes = [f"{fact.name}: {fact.value} ({fact.source})" for fact in entry.facts]
    _conclude(found, write_protected=bool(info.flags & ck.CKF_WRITE_PROTECTED))
    return found


def _fips(module: Module, info: TokenInfo, vendor: documented.Vendor | None, found: Profile) -> str:
    """Return what can be known of a FIPS mode: PKCS#11 itself has no word for it."""
    if info.manufacturer.startswith("SoftHSM"):
        return "no: software, not validated"
    if vendor is not None and vendor.name == "luna":
        allowed = _luna_policy(module, info.slot, _LUNA_POLICY_NON_FIPS)
        if allowed is not None:
            return "no: HSM policy 12 allows other algorithms" if allowed else "yes: HSM policy 12"
    if "FIPS" in info.label or "FIPS" in info.model:
        return "yes: the token says so in its name"
    if found.gcm.works and found.gcm.known_answer:
        return "unlikely: keys of known value are accepted in clear"
    return "unknown"


def _luna_policy(module: Module, slot: int, policy: int) -> int | None:
    ask = module.vendor_function("CA_GetHSMPolicySetting", c_ulong, c_ulong, ctypes.c_void_p)
    value = c_ulong()
    if ask is None or ask(slot, policy, byref(value)) != ck.CKR_OK:
        return None
    return value.value


def _interesting(token: Token) -> list[tuple[str, int]]:
    return [
        ("AES_KEY_GEN", ck.CKM_AES_KEY_GEN),
        ("AES_GCM", token.gcm_mechanism),
        ("AES_KEY_WRAP", ck.CKM_AES_KEY_WRAP),
        ("AES_KEY_WRAP_PAD", ck.CKM_AES_KEY_WRAP_PAD),
        ("AES_KEY_WRAP_KWP", ck.CKM_AES_KEY_WRAP_KWP),
        ("AES_CBC_PAD", ck.CKM_AES_CBC_PAD),
        ("RSA_PKCS_KEY_PAIR_GEN", ck.CKM_RSA_PKCS_KEY_PAIR_GEN),
        ("RSA_PKCS_OAEP", ck.CKM_RSA_PKCS_OAEP),
    ]


def _limits(module: Module, info: TokenInfo, gcm_mechanism: int) -> dict[str, int]:
    limits: dict[str, int] = {}
    if 0 < info.max_sessions < ck.UNAVAILABLE:
        limits["sessions"] = info.max_sessions
    if 0 < info.max_rw_sessions < ck.UNAVAILABLE:
        limits["read-write sessions"] = info.max_rw_sessions
    with contextlib.suppress(CkError):
        limits["AES-GCM key size as told"] = module.mechanism_info(info.slot, gcm_mechanism).max_size
    return limits


def _random_works(module: Module, session: int) -> bool:
    try:
        one, other = module.random(session, 32), module.random(session, 32)
    except CkError as error:
        if error.code in LOST:
            raise
        return False
    return one != other and any(one)


# --- AES-GCM --------------------------------------------------------------------------------------------------------


def _gcm(token: Token, lane: Lane, found: Profile, listed: set[int]) -> Gcm:
    module, session, number = token.module, lane.session, token.gcm_mechanism
    made = Gcm(listed=number in listed)
    if not made.listed:
        made.reason = "the token has no AES-GCM (CKM_AES_GCM is not in its list of mechanisms)"
        return made
    try:
        key = module.generate_key(session, ck.CKM_AES_KEY_GEN, templates.session_key())
    except CkError as error:
        if error.code in LOST:
            raise
        made.reason = f"the token makes no AES-256 key for encryption ({error})"
        return made
    refused = []
    for mode, given in (("ours", _OUR_IV), ("params", _ZEROS), ("appended", b"")):
        try:
            if _gcm_mode(module, session, key, number, made, mode, given):
                break
        except CkError as error:
            if error.code in LOST:
                raise
            refused.append(str(error))
    else:
        said = ", ".join(dict.fromkeys(refused)) or "it does not decrypt what it encrypted"
        made.reason = f"AES-GCM is in the token's list, but does not work ({said})"
        return made
    _gcm_refusals(module, session, key, number, made, found)
    if made.works:
        made.known_answer, made.long_iv = _gcm_known_answer(module, session, number, made.iv)
        if made.known_answer is False:
            made.works = False
            made.reason = "the token's AES-GCM gives other results than the standard's"
    if made.works:
        found.latency_ms = _latency(module, session, key, number, made.iv)
    with contextlib.suppress(CkError):
        module.destroy_object(session, key)
    return made


def _encrypt(
    module: Module, session: int, key: int, number: int, given: bytes, data: bytes
) -> tuple[bytes, bytes]:
    """Return (IV as the module left it in the parameters, result)."""
    iv = ctypes.create_string_buffer(64)
    memoryview(iv).cast("B")[: len(given)] = given
    how, params = gcm(iv, len(given), _AAD, mechanism=number)
    result = module.encrypt(session, how, key, data)
    return (iv.raw[: params.iv_len] if params.iv_len <= len(iv) else b""), result


def _decrypt(
    module: Module, session: int, key: int, number: int, nonce: bytes, data: bytes, aad: bytes = _AAD
) -> bytes:
    iv = ctypes.create_string_buffer(nonce, max(64, len(nonce)))
    how, _params = gcm(iv, len(nonce), aad, mechanism=number)
    return module.decrypt(session, how, key, data)


def _gcm_mode(
    module: Module, session: int, key: int, number: int, made: Gcm, mode: str, given: bytes
) -> bool:
    left, result = _encrypt(module, session, key, number, given, _DATA)
    exact = len(_DATA) + 16
    if len(result) > exact:
        nonce, iv = result[exact:], "appended"
    elif left != given and left and any(left):
        nonce, iv = left, "params"
    elif mode == "ours":
        nonce, iv = given, "ours"
    else:
        # Zeros were accepted and used: the token does not make nonces, and would repeat this one.
        return False
    if _decrypt(module, session, key, number, nonce, result[:exact]) != _DATA:
        return False
    if iv != "ours":
        again, other = _encrypt(module, session, key, number, b"" if iv == "appended" else _ZEROS, _DATA)
        if (other[exact:] if iv == "appended" else again) == nonce:
            return False  # made by the HSM, and the same twice: no nonce at all
    made.iv, made.nonce_bytes, made.works = iv, len(nonce), True
    return True


def _gcm_refusals(module: Module, session: int, key: int, number: int, made: Gcm, found: Profile) -> None:
    """See that altered data is refused, and by which codes."""
    given = _OUR_IV if made.iv == "ours" else _ZEROS if made.iv == "params" else b""
    left, result = _encrypt(module, session, key, number, given, _DATA)
    exact = len(_DATA) + 16
    nonce = result[exact:] if made.iv == "appended" else left
    good = result[:exact]
    wrong = {
        "wrong tag": (nonce, good[:-1] + bytes((good[-1] ^ 1,)), _AAD),
        "wrong associated data": (nonce, good, _AAD + b"."),
        "wrong nonce": (nonce[:-1] + bytes((nonce[-1] ^ 1,)), good, _AAD),
        "short ciphertext": (nonce, good[:-1], _AAD),
    }
    codes = set()
    for name, (iv, data, aad) in wrong.items():
        try:
            _decrypt(module, session, key, number, iv, data, aad)
        except CkError as error:
            if error.code in LOST:
                raise
            found.errors[name] = f"{error.function}: {ck.code_name(error.code)}"
            if error.function == "C_Decrypt":
                codes.add(error.code)
        else:
            made.works = False
            made.reason = f"the token decrypts altered data ({name}): its AES-GCM is not to be trusted"
    found.invalid_codes = sorted(codes)


def _gcm_known_answer(
    module: Module, session: int, number: int, mode: str
) -> tuple[bool | None, bool | None]:
    try:
        key = module.create_object(session, templates.known_key(_KNOWN_KEY, wrap=False))
    except CkError as error:
        if error.code in LOST:
            raise
        return None, None  # no keys in clear: FIPS mode, say
    known = AESGCM(_KNOWN_KEY)
    try:
        right = _decrypt(module, session, key, number, _OUR_IV, known.encrypt(_OUR_IV, _DATA, _AAD)) == _DATA
        if right and mode == "ours":
            _, result = _encrypt(module, session, key, number, _OUR_IV, _DATA)
            right = result == known.encrypt(_OUR_IV, _DATA, _AAD)
        sixteen = _OUR_IV + b"long"
        try:
            long_iv = (
                _decrypt(module, session, key, number, sixteen, known.encrypt(sixteen, _DATA, _AAD)) == _DATA
            )
        except CkError as error:
            if error.code in LOST:
                raise
            long_iv = False
    except CkError as error:
        if error.code in LOST:
            raise
        return False, None
    finally:
        with contextlib.suppress(CkError):
            module.destroy_object(session, key)
    return right, long_iv


def _latency(module: Module, session: int, key: int, number: int, mode: str) -> float:
    """Return the median of a few encryptions, in milliseconds."""
    taken = []
    for turn in range(9):
        given = turn.to_bytes(12, "big")[::-1] if mode == "ours" else _ZEROS if mode == "params" else b""
        began = time.perf_counter()
        _encrypt(module, session, key, number, given, _DATA)
        taken.append(time.perf_counter() - began)
        if sum(taken) > 0.5:
            break
    return round(sorted(taken)[len(taken) // 2] * 1000, 3)


# --- key wrap -------------------------------------------------------------------------------------------------------


def _kwp(token: Token, lane: Lane, listed: set[int], entry: documented.Vendor | None) -> Kwp:
    named = token.kwp_mechanism
    numbers = [named] if named else [ck.CKM_AES_KEY_WRAP_KWP, ck.CKM_AES_KEY_WRAP_PAD]
    if not named and entry is not None:
        numbers += entry.kwp_numbers
    reasons = []
    for number in numbers:
        if number not in listed and number != named:
            continue
        for by in ("encrypt", "wrap"):
            kwp = Kwp(mechanism=number, by=by)
            try:
                if _kwp_works(token.module, lane.session, kwp):
                    return kwp
                reasons.append(f"0x{number:X} by C_{by.title()} is not RFC 5649")
            except CkError as error:
                if error.code in LOST:
                    raise
                reasons.append(f"0x{number:X}: {error}")
    why = "; ".join(dict.fromkeys(reasons)) or "no mechanism for it is in the token's list"
    return Kwp(reason=f"AES key wrap with padding (RFC 5649) does not work ({why})")


def _kwp_works(module: Module, session: int, kwp: Kwp) -> bool:
    value = bytes(range(64, 96))
    known = True
    uses = templates.known_key(_KNOWN_KEY, wrap=kwp.by == "wrap")
    try:
        key = module.create_object(session, uses)
    except CkError as error:
        if error.code in LOST:
            raise
        known = False
        template = templates.session_wrapping_key() if kwp.by == "wrap" else templates.session_key()
        key = module.generate_key(session, ck.CKM_AES_KEY_GEN, template)
    try:
        blob = kwp_wrap(module, session, kwp, key, value)
        # PKCS#7 padding before the plain key wrap, which some take for this mechanism, makes 48 bytes of 32.
        if len(blob) != len(value) + 8 or kwp_unwrap(module, session, kwp, key, blob) != value:
            return False
        if known and blob != aes_key_wrap_with_padding(_KNOWN_KEY, value):
            return False
        kwp.known_answer = known or None
        try:
            kwp_unwrap(module, session, kwp, key, blob[:-1] + bytes((blob[-1] ^ 1,)))
        except CkError as error:
            if error.code in LOST:
                raise
            kwp.invalid_codes = [error.code]
        else:
            return False
    finally:
        with contextlib.suppress(CkError):
            module.destroy_object(session, key)
    kwp.works = True
    return True


def kwp_wrap(module: Module, session: int, kwp: Kwp, key: int, data: bytes) -> bytes:
    """Wrap data by this mechanism and these functions. Raises CkError."""
    if kwp.by == "encrypt":
        return module.encrypt(session, plain(kwp.mechanism), key, data)
    held = module.create_object(session, templates.data_as_key(data))
    try:
        return module.wrap_key(session, plain(kwp.mechanism), key, held)
    finally:
        module.destroy_object(session, held)


def kwp_unwrap(module: Module, session: int, kwp: Kwp, key: int, blob: bytes) -> bytes | None:
    """Reverse of kwp_wrap; None where the token does not tell what it unwrapped. Raises CkError."""
    if kwp.by == "encrypt":
        return module.decrypt(session, plain(kwp.mechanism), key, blob)
    held = module.unwrap_key(session, plain(kwp.mechanism), key, blob, templates.unwrapped_data())
    try:
        return module.attribute(session, held, ck.CKA_VALUE)
    finally:
        module.destroy_object(session, held)


# --- RSA-OAEP -------------------------------------------------------------------------------------------------------

_HASHES: Final = {
    "SHA-1": ck.CKM_SHA_1,
    "SHA-256": ck.CKM_SHA256,
    "SHA-384": ck.CKM_SHA384,
    "SHA-512": ck.CKM_SHA512,
}


def measure_oaep(token: Token, lane: Lane) -> list[str]:
    """Return the hashes with which RSA-OAEP wraps a session key and unwraps it again. Makes one RSA-3072 key."""
    module = token.module

    def work() -> list[str]:
        session = lane.session
        works: list[str] = []
        try:
            public, private = module.generate_pair(
                session,
                ck.CKM_RSA_PKCS_KEY_PAIR_GEN,
                templates.transfer_public(b"probe", "keystead probe", 3072),
                templates.transfer_private(b"probe", "keystead probe"),
            )
            sample = module.generate_key(session, ck.CKM_AES_KEY_GEN, templates.session_key(extractable=True))
        except CkError as error:
            if error.code in LOST:
                raise
            return []
        held = [public, private, sample]
        for name, number in _HASHES.items():
            how, _params = oaep(number)
            try:
                blob = module.wrap_key(session, how, public, sample)
                held.append(module.unwrap_key(session, how, private, blob, templates.unwrapped_session_key()))
            except CkError as error:
                if error.code in LOST:
                    raise
            else:
                works.append(name)
        for each in held:
            with contextlib.suppress(CkError):
                module.destroy_object(session, each)
        return works

    return lane.run("trying RSA-OAEP", work)


# --- conclusions ----------------------------------------------------------------------------------------------------


def _conclude(found: Profile, *, write_protected: bool) -> None:
    if found.gcm.works:
        twelve = found.gcm.nonce_bytes == 12
        found.possible = ["root-key", "hsm-wrapped", "hsm-resident"] if twelve else []
        if not twelve:
            found.missing.append(
                f"nonces of 12 bytes: the HSM makes its own of {found.gcm.nonce_bytes}, which neither AWS's protocol nor our "
                "blobs carry"
            )
    else:
        found.missing.append(found.gcm.reason)
    if found.kwp.works:
        if not found.possible:
            found.possible = ["root-key", "hsm-wrapped"]
    else:
        found.missing.append(found.kwp.reason)
    if write_protected:
        found.possible = []
        found.missing.append("room for keys: the token is write-protected, no key can be made in it")
    if not found.random:
        found.missing.append(
            "a random generator for callers (C_GenerateRandom): nonces are the system's alone"
        )
    if not found.threads_ok:
        found.missing.append("locking for threads (CKF_OS_LOCKING_OK): one call at a time")


def as_dict(found: Profile) -> dict[str, Any]:
    """Return the profile in plain types, for Status and for the database."""
    result: dict[str, Any] = msgspec.to_builtins(found)
    return result
