"""The part of PKCS#11 (Cryptoki 2.40) that we use, bound by ctypes. Numbers, structures and calls; no policy.

Our own binding and not a package's, because these matter here: the module is told of threads (CKF_OS_LOCKING_OK), an IV
that the HSM made is read back out of the parameters, mechanism numbers and error codes of vendors pass through, and a call
whose result has a known length is made once. ctypes releases the interpreter's lock in every call.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, byref, c_byte, c_char, c_char_p, c_ubyte, c_ulong, c_void_p
from typing import Any, Final, NamedTuple

from hsm.ck import (
    CKF_OS_LOCKING_OK,
    CKF_RW_SESSION,
    CKF_SERIAL_SESSION,
    CKG_MGF1,
    CKM_AES_GCM,
    CKM_RSA_PKCS_OAEP,
    CKR_ATTRIBUTE_SENSITIVE,
    CKR_ATTRIBUTE_TYPE_INVALID,
    CKR_CANT_LOCK,
    CKR_CRYPTOKI_ALREADY_INITIALIZED,
    CKR_FUNCTION_NOT_SUPPORTED,
    CKR_OK,
    CKU_USER,
    UNAVAILABLE,
    code_name,
)


class CkError(Exception):
    """A PKCS#11 function returned something else than CKR_OK."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function}: {code_name(code)}")
        self.function = function
        self.code = code


class ModuleRefused(Exception):
    """The file is no PKCS#11 module that can be used in this process."""


# --- structures -----------------------------------------------------------------------------------------------------


class _Version(Structure):
    _fields_ = (("major", c_ubyte), ("minor", c_ubyte))


class _Info(Structure):
    _fields_ = (
        ("cryptoki", _Version),
        ("manufacturer", c_char * 32),
        ("flags", c_ulong),
        ("description", c_char * 32),
        ("version", _Version),
    )


class _TokenInfo(Structure):
    _fields_ = (
        ("label", c_char * 32),
        ("manufacturer", c_char * 32),
        ("model", c_char * 16),
        ("serial", c_char * 16),
        ("flags", c_ulong),
        ("max_sessions", c_ulong),
        ("sessions", c_ulong),
        ("max_rw_sessions", c_ulong),
        ("rw_sessions", c_ulong),
        ("max_pin", c_ulong),
        ("min_pin", c_ulong),
        ("total_public", c_ulong),
        ("free_public", c_ulong),
        ("total_private", c_ulong),
        ("free_private", c_ulong),
        ("hardware", _Version),
        ("firmware", _Version),
        ("time", c_char * 16),
    )


class _MechanismInfo(Structure):
    _fields_ = (("min_size", c_ulong), ("max_size", c_ulong), ("flags", c_ulong))


class Mechanism(Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", c_ulong), ("parameter", c_void_p), ("length", c_ulong))


class GcmParams(Structure):
    """CK_GCM_PARAMS as the headers have it (with ulIvBits)."""

    _fields_ = (
        ("iv", c_void_p),
        ("iv_len", c_ulong),
        ("iv_bits", c_ulong),
        ("aad", c_char_p),
        ("aad_len", c_ulong),
        ("tag_bits", c_ulong),
    )


class OaepParams(Structure):
    """CK_RSA_PKCS_OAEP_PARAMS."""

    _fields_ = (
        ("hash", c_ulong),
        ("mgf", c_ulong),
        ("source", c_ulong),
        ("source_data", c_void_p),
        ("source_len", c_ulong),
    )


class _Attribute(Structure):
    _fields_ = (("type", c_ulong), ("value", c_void_p), ("length", c_ulong))


class _InitializeArgs(Structure):
    _fields_ = (
        ("create_mutex", c_void_p),
        ("destroy_mutex", c_void_p),
        ("lock_mutex", c_void_p),
        ("unlock_mutex", c_void_p),
        ("flags", c_ulong),
        ("reserved", c_void_p),
    )


class _NssInitializeArgs(Structure):
    # NSS's softoken has a field of its own between flags and pReserved, and does not start without it.
    _fields_ = (*_InitializeArgs._fields_[:5], ("parameters", c_char_p), ("reserved", c_void_p))


# The order of CK_FUNCTION_LIST.
_ORDER: Final = (
    "C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo "
    "C_GetMechanismList C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession "
    "C_CloseAllSessions C_GetSessionInfo C_GetOperationState C_SetOperationState C_Login C_Logout "
    "C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize C_GetAttributeValue C_SetAttributeValue "
    "C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt C_EncryptUpdate "
    "C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest "
    "C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal "
    "C_SignRecoverInit C_SignRecover C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal "
    "C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate "
    "C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_SeedRandom "
    "C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent "
)
_FUNCTIONS: Final = _ORDER.split()


class _FunctionList(Structure):
    _fields_ = (("version", _Version), *[(name, c_void_p) for name in _FUNCTIONS])


_ARGUMENTS: Final[dict[str, tuple[Any, ...]]] = {
    "C_Initialize": (c_void_p,),
    "C_Finalize": (c_void_p,),
    "C_GetInfo": (c_void_p,),
    "C_GetSlotList": (c_byte, c_void_p, c_void_p),
    "C_GetTokenInfo": (c_ulong, c_void_p),
    "C_GetMechanismList": (c_ulong, c_void_p, c_void_p),
    "C_GetMechanismInfo": (c_ulong, c_ulong, c_void_p),
    "C_InitToken": (c_ulong, c_char_p, c_ulong, c_char_p),
    "C_InitPIN": (c_ulong, c_char_p, c_ulong),
    "C_OpenSession": (c_ulong, c_ulong, c_void_p, c_void_p, c_void_p),
    "C_CloseSession": (c_ulong,),
    "C_CloseAllSessions": (c_ulong,),
    "C_Login": (c_ulong, c_ulong, c_char_p, c_ulong),
    "C_Logout": (c_ulong,),
    "C_CreateObject": (c_ulong, c_void_p, c_ulong, c_void_p),
    "C_CopyObject": (c_ulong, c_ulong, c_void_p, c_ulong, c_void_p),
    "C_DestroyObject": (c_ulong, c_ulong),
    "C_GetAttributeValue": (c_ulong, c_ulong, c_void_p, c_ulong),
    "C_SetAttributeValue": (c_ulong, c_ulong, c_void_p, c_ulong),
    "C_FindObjectsInit": (c_ulong, c_void_p, c_ulong),
    "C_FindObjects": (c_ulong, c_void_p, c_ulong, c_void_p),
    "C_FindObjectsFinal": (c_ulong,),
    "C_EncryptInit": (c_ulong, c_void_p, c_ulong),
    "C_Encrypt": (c_ulong, c_char_p, c_ulong, c_void_p, c_void_p),
    "C_DecryptInit": (c_ulong, c_void_p, c_ulong),
    "C_Decrypt": (c_ulong, c_char_p, c_ulong, c_void_p, c_void_p),
    "C_GenerateKey": (c_ulong, c_void_p, c_void_p, c_ulong, c_void_p),
    "C_GenerateKeyPair": (c_ulong, c_void_p, c_void_p, c_ulong, c_void_p, c_ulong, c_void_p, c_void_p),
    "C_WrapKey": (c_ulong, c_void_p, c_ulong, c_ulong, c_void_p, c_void_p),
    "C_UnwrapKey": (c_ulong, c_void_p, c_ulong, c_char_p, c_ulong, c_void_p, c_ulong, c_void_p),
    "C_GenerateRandom": (c_ulong, c_void_p, c_ulong),
}

Template = Sequence[tuple[int, "bool | int | bytes"]]


class ModuleInfo(NamedTuple):
    """CK_INFO."""

    manufacturer: str
    description: str
    version: str
    cryptoki: str


class TokenInfo(NamedTuple):
    """CK_TOKEN_INFO, without what changes all the time."""

    slot: int
    label: str
    manufacturer: str
    model: str
    serial: str
    flags: int
    max_sessions: int
    max_rw_sessions: int
    hardware: str
    firmware: str


class MechanismInfo(NamedTuple):
    """CK_MECHANISM_INFO."""

    min_size: int
    max_size: int
    flags: int


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").rstrip(" \0")


def _version(value: Any) -> str:
    return f"{value.major}.{value.minor}"


class _Attributes:
    """A template as C wants it; holds the buffers for as long as it lives."""

    def __init__(self, template: Template) -> None:
        self.count = len(template)
        self.array = (_Attribute * self.count)()
        self._held: list[Any] = []
        for slot, (kind, value) in zip(self.array, template, strict=True):
            buffer: Any
            if isinstance(value, bool):
                buffer = c_ubyte(value)
            elif isinstance(value, int):
                buffer = c_ulong(value)
            else:
                buffer = ctypes.create_string_buffer(value, len(value)) if value else (c_char * 0)()
            self._held.append(buffer)
            slot.type = kind
            slot.value = ctypes.addressof(buffer)
            slot.length = ctypes.sizeof(buffer)


class Module:
    """A loaded PKCS#11 module. Methods raise CkError; the raw functions stand in ``raw``."""

    def __init__(self, path: str) -> None:
        """Load the shared library. Nothing is initialised. Raises ModuleRefused."""
        self.path = path
        self.threads_ok = False
        try:
            # RTLD_NOW: a module that lacks a library says so here, and not in the middle of a call.
            self._library = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
            get_list = self._library.C_GetFunctionList
        except OSError as error:
            raise ModuleRefused(f"{path} cannot be loaded: {error}") from None
        except AttributeError:
            raise ModuleRefused(f"{path} is no PKCS#11 module: it has no C_GetFunctionList") from None
        get_list.argtypes = [c_void_p]
        get_list.restype = c_ulong
        pointer = POINTER(_FunctionList)()
        code = get_list(byref(pointer))
        if code != CKR_OK:
            raise ModuleRefused(f"{path} gives no list of functions: {code_name(code)}")
        self._list = pointer.contents
        self.raw: dict[str, Callable[..., int]] = {}
        for name, arguments in _ARGUMENTS.items():
            address = getattr(self._list, name)
            if address:
                self.raw[name] = ctypes.CFUNCTYPE(c_ulong, *arguments)(address)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function by its name. Raises CkError."""
        function = self.raw.get(name)
        code = CKR_FUNCTION_NOT_SUPPORTED if function is None else function(*arguments)
        if code != CKR_OK:
            raise CkError(name, code)

    def vendor_function(self, name: str, *arguments: Any) -> Callable[..., int] | None:
        """Return a function that only this vendor's library has, or None; ``arguments`` are its ctypes types."""
        try:
            function = getattr(self._library, name)
        except AttributeError:
            return None
        function.argtypes = list(arguments)
        function.restype = c_ulong
        return function  # type: ignore[no-any-return]

    # --- module, slots -------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """C_Initialize, telling of threads; without, where the module cannot lock (then ``threads_ok`` is false)."""
        arguments: Structure
        if "softokn" in os.path.basename(self.path):
            parameters = os.environ.get(
                "NSS_LIB_PARAMS", "configdir='' flags=noCertDB,noModDB,readOnly,forceOpen"
            )
            arguments = _NssInitializeArgs(flags=CKF_OS_LOCKING_OK, parameters=parameters.encode())
        else:
            arguments = _InitializeArgs(flags=CKF_OS_LOCKING_OK)
        self.threads_ok = True
        try:
            self.call("C_Initialize", byref(arguments))
        except CkError as error:
            if error.code == CKR_CRYPTOKI_ALREADY_INITIALIZED:
                return
            if error.code != CKR_CANT_LOCK:
                raise
            self.threads_ok = False
            self.call("C_Initialize", None)

    def finalize(self) -> None:
        """C_Finalize."""
        self.call("C_Finalize", None)

    def info(self) -> ModuleInfo:
        """C_GetInfo."""
        info = _Info()
        self.call("C_GetInfo", byref(info))
        return ModuleInfo(
            _text(info.manufacturer), _text(info.description), _version(info.version), _version(info.cryptoki)
        )

    def tokens(self) -> list[TokenInfo]:
        """Return the tokens that are present; one that cannot be read is left out."""
        count = c_ulong()
        self.call("C_GetSlotList", 1, None, byref(count))
        slots = (c_ulong * (count.value or 1))()
        self.call("C_GetSlotList", 1, slots, byref(count))
        found = []
        for slot in slots[: count.value]:
            try:
                found.append(self.token(slot))
            except CkError:
                continue  # pulled out between the two calls, or of a kind that the module does not recognise
        return found

    def token(self, slot: int) -> TokenInfo:
        """C_GetTokenInfo."""
        info = _TokenInfo()
        self.call("C_GetTokenInfo", slot, byref(info))
        return TokenInfo(
            slot,
            _text(info.label),
            _text(info.manufacturer),
            _text(info.model),
            _text(info.serial),
            info.flags,
            info.max_sessions,
            info.max_rw_sessions,
            _version(info.hardware),
            _version(info.firmware),
        )

    def mechanisms(self, slot: int) -> list[int]:
        """C_GetMechanismList."""
        count = c_ulong()
        self.call("C_GetMechanismList", slot, None, byref(count))
        numbers = (c_ulong * (count.value or 1))()
        self.call("C_GetMechanismList", slot, numbers, byref(count))
        return list(numbers[: count.value])

    def mechanism_info(self, slot: int, mechanism: int) -> MechanismInfo:
        """C_GetMechanismInfo."""
        info = _MechanismInfo()
        self.call("C_GetMechanismInfo", slot, mechanism, byref(info))
        return MechanismInfo(info.min_size, info.max_size, info.flags)

    def init_token(self, slot: int, so_pin: bytes, label: str) -> None:
        """C_InitToken; what the token held is gone."""
        self.call("C_InitToken", slot, so_pin, len(so_pin), label.encode().ljust(32)[:32])

    def init_pin(self, session: int, pin: bytes) -> None:
        """C_InitPIN, in a session of the security officer."""
        self.call("C_InitPIN", session, pin, len(pin))

    # --- sessions ------------------------------------------------------------------------------------------------

    def open_session(self, slot: int, *, read_write: bool) -> int:
        """C_OpenSession."""
        session = c_ulong()
        flags = CKF_SERIAL_SESSION | (CKF_RW_SESSION if read_write else 0)
        self.call("C_OpenSession", slot, flags, None, None, byref(session))
        return session.value

    def close_session(self, session: int) -> None:
        """C_CloseSession."""
        self.call("C_CloseSession", session)

    def login(self, session: int, pin: bytes | None, *, user: int = CKU_USER) -> None:
        """C_Login; None: by the device's own means (protected authentication path)."""
        self.call("C_Login", session, user, pin, len(pin or b""))

    # --- objects -------------------------------------------------------------------------------------------------

    def find(self, session: int, template: Template, *, most: int = 16) -> list[int]:
        """Return the handles of objects that match, at most ``most``."""
        attributes = _Attributes(template)
        self.call("C_FindObjectsInit", session, attributes.array, attributes.count)
        found: list[int] = []
        handles = (c_ulong * most)()
        count = c_ulong()
        try:
            while len(found) < most:
                self.call("C_FindObjects", session, handles, most - len(found), byref(count))
                if not count.value:
                    break
                found += handles[: count.value]
        finally:
            self.raw["C_FindObjectsFinal"](session)
        return found

    def attribute(self, session: int, handle: int, kind: int, *, size: int = 0) -> bytes | None:
        """Return an attribute's bytes; None where the object has no such attribute or does not tell it.

        ``size``: where it is known; NSS answers CKR_BUFFER_TOO_SMALL to a number in a buffer of another size.
        """
        one = _Attribute(kind, None, 0)
        if not size:
            if not self._ask(session, handle, one):
                return None
            size = one.length
        buffer = ctypes.create_string_buffer(size or 1)
        one = _Attribute(kind, ctypes.addressof(buffer), size)
        return buffer.raw[: one.length] if self._ask(session, handle, one) else None

    def _ask(self, session: int, handle: int, one: _Attribute) -> bool:
        code = self.raw["C_GetAttributeValue"](session, handle, byref(one), 1)
        if code in (CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID):
            return False
        if code != CKR_OK:
            raise CkError("C_GetAttributeValue", code)
        return bool(one.length != UNAVAILABLE)

    def number(self, session: int, handle: int, kind: int) -> int | None:
        """Return an attribute that is a CK_ULONG."""
        value = self.attribute(session, handle, kind, size=ctypes.sizeof(c_ulong))
        return (
            None
            if value is None or len(value) != ctypes.sizeof(c_ulong)
            else c_ulong.from_buffer_copy(value).value
        )

    def flag(self, session: int, handle: int, kind: int) -> bool | None:
        """Return an attribute that is a CK_BBOOL."""
        value = self.attribute(session, handle, kind, size=1)
        return None if not value else value[0] != 0

    def set_attributes(self, session: int, handle: int, template: Template) -> None:
        """C_SetAttributeValue."""
        attributes = _Attributes(template)
        self.call("C_SetAttributeValue", session, handle, attributes.array, attributes.count)

    def create_object(self, session: int, template: Template) -> int:
        """C_CreateObject."""
        attributes = _Attributes(template)
        handle = c_ulong()
        self.call("C_CreateObject", session, attributes.array, attributes.count, byref(handle))
        return handle.value

    def copy_object(self, session: int, handle: int, template: Template) -> int:
        """C_CopyObject."""
        attributes = _Attributes(template)
        copy = c_ulong()
        self.call("C_CopyObject", session, handle, attributes.array, attributes.count, byref(copy))
        return copy.value

    def destroy_object(self, session: int, handle: int) -> None:
        """C_DestroyObject."""
        self.call("C_DestroyObject", session, handle)

    # --- keys ----------------------------------------------------------------------------------------------------

    def generate_key(self, session: int, mechanism: int, template: Template) -> int:
        """C_GenerateKey with a mechanism that has no parameter."""
        attributes = _Attributes(template)
        handle = c_ulong()
        how = Mechanism(mechanism, None, 0)
        self.call("C_GenerateKey", session, byref(how), attributes.array, attributes.count, byref(handle))
        return handle.value

    def generate_pair(
        self, session: int, mechanism: int, public: Template, private: Template
    ) -> tuple[int, int]:
        """C_GenerateKeyPair: handles of the public and the private key."""
        ours, theirs = _Attributes(public), _Attributes(private)
        handles = (c_ulong(), c_ulong())
        how = Mechanism(mechanism, None, 0)
        self.call(
            "C_GenerateKeyPair", session, byref(how), ours.array, ours.count, theirs.array, theirs.count,
            byref(handles[0]), byref(handles[1]),
        )  # fmt: skip
        return handles[0].value, handles[1].value

    def wrap_key(self, session: int, how: Mechanism, wrapping: int, key: int, *, size: int = 4096) -> bytes:
        """C_WrapKey."""
        out = ctypes.create_string_buffer(size)
        length = c_ulong(size)
        self.call("C_WrapKey", session, byref(how), wrapping, key, out, byref(length))
        return out.raw[: length.value]

    def unwrap_key(self, session: int, how: Mechanism, wrapping: int, blob: bytes, template: Template) -> int:
        """C_UnwrapKey."""
        attributes = _Attributes(template)
        handle = c_ulong()
        self.call(
            "C_UnwrapKey", session, byref(how), wrapping, blob, len(blob), attributes.array, attributes.count,
            byref(handle),
        )  # fmt: skip
        return handle.value

    def encrypt(self, session: int, how: Mechanism, key: int, data: bytes, *, size: int = 0) -> bytes:
        """C_EncryptInit and C_Encrypt, for what is not in a hurry (see hsm.lane for what is)."""
        return self._crypt("C_Encrypt", session, how, key, data, size)

    def decrypt(self, session: int, how: Mechanism, key: int, data: bytes, *, size: int = 0) -> bytes:
        """C_DecryptInit and C_Decrypt."""
        return self._crypt("C_Decrypt", session, how, key, data, size)

    def _crypt(self, name: str, session: int, how: Mechanism, key: int, data: bytes, size: int) -> bytes:
        size = size or len(data) + 1024
        out = ctypes.create_string_buffer(size)
        length = c_ulong(size)
        self.call(f"{name}Init", session, byref(how), key)
        self.call(name, session, data, len(data), out, byref(length))
        return out.raw[: length.value]

    def random(self, session: int, count: int) -> bytes:
        """C_GenerateRandom."""
        out = ctypes.create_string_buffer(count)
        self.call("C_GenerateRandom", session, out, count)
        return out.raw


def gcm(
    iv: ctypes.Array[c_char], iv_len: int, aad: bytes, *, mechanism: int = CKM_AES_GCM
) -> tuple[Mechanism, GcmParams]:
    """Return a GCM mechanism with a 16 byte tag; the caller keeps both results and ``iv`` alive."""
    params = GcmParams(
        ctypes.addressof(iv) if iv_len else None, iv_len, iv_len * 8, aad or None, len(aad), 128
    )
    return Mechanism(mechanism, ctypes.addressof(params), ctypes.sizeof(params)), params


def oaep(hash_mechanism: int) -> tuple[Mechanism, OaepParams]:
    """Return an RSA-OAEP mechanism with MGF1 over the same hash; the caller keeps both alive."""
    params = OaepParams(hash_mechanism, CKG_MGF1[hash_mechanism], 1, None, 0)
    return Mechanism(CKM_RSA_PKCS_OAEP, ctypes.addressof(params), ctypes.sizeof(params)), params


def plain(mechanism: int) -> Mechanism:
    """Return a mechanism without parameter."""
    return Mechanism(mechanism, None, 0)
