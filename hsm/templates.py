"""Which attributes keys are made with, and the comparison of those that they have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hsm import ck
from hsm.wire import KeyKind

if TYPE_CHECKING:
    from hsm.cryptoki import Module, Template
    from hsm.profile import Profile

KINDS: Final[tuple[KeyKind, ...]] = ("wrapping", "resident", "replicable", "health")
_KEY_BYTES: Final = 32

_FLAGS: Final = {
    "sensitive": ck.CKA_SENSITIVE,
    "extractable": ck.CKA_EXTRACTABLE,
    "encrypt": ck.CKA_ENCRYPT,
    "decrypt": ck.CKA_DECRYPT,
    "wrap": ck.CKA_WRAP,
    "unwrap": ck.CKA_UNWRAP,
    "sign": ck.CKA_SIGN,
    "verify": ck.CKA_VERIFY,
    "derive": ck.CKA_DERIVE,
}
_OPTIONAL: Final = frozenset({ck.CKA_SIGN, ck.CKA_VERIFY, ck.CKA_DERIVE})
_READ_TOO: Final = {
    "token": ck.CKA_TOKEN,
    "private": ck.CKA_PRIVATE,
    "local": ck.CKA_LOCAL,
    "never_extractable": ck.CKA_NEVER_EXTRACTABLE,
    "always_sensitive": ck.CKA_ALWAYS_SENSITIVE,
}


def wanted(kind: KeyKind, profile: Profile) -> dict[str, bool]:
    """Return the flags of a kind of key. Nothing both wraps and decrypts, but for the health-check key.

    (That one wraps nothing of ours, and must have these attributes for other key managers to take it for theirs.)
    Without AES-GCM a wrapping key is for key wrap instead, by the functions that the token has for it.
    """
    flags = dict.fromkeys(_FLAGS, False) | {"sensitive": True, "extractable": kind == "replicable"}
    if kind == "health":
        return flags | dict.fromkeys(("encrypt", "decrypt", "wrap", "unwrap"), True)
    if (
        kind in ("wrapping", "replicable")
        and not profile.gcm.works
        and profile.kwp.works
        and profile.kwp.by == "wrap"
    ):
        return flags | {"wrap": True, "unwrap": True}
    return flags | {"encrypt": True, "decrypt": True}


def creation(flags: dict[str, bool], key: bytes, label: str, *, private: bool, length: bool) -> Template:
    """Return the template of C_GenerateKey (``length``) or C_UnwrapKey."""
    return [
        (ck.CKA_CLASS, ck.CKO_SECRET_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_AES),
        *([(ck.CKA_VALUE_LEN, _KEY_BYTES)] if length else []),
        (ck.CKA_ID, key),
        (ck.CKA_LABEL, label.encode()),
        (ck.CKA_TOKEN, True),
        (ck.CKA_PRIVATE, private),
        *[(_FLAGS[name], value) for name, value in flags.items()],
    ]


def without_optional(template: Template) -> Template:
    """Return the template without attributes that some tokens do not know."""
    return [each for each in template if each[0] not in _OPTIONAL]


def read(module: Module, session: int, handle: int) -> dict[str, Any]:
    """Return an object's attributes by our names; None for what it does not tell."""
    found: dict[str, Any] = {
        "class": module.number(session, handle, ck.CKA_CLASS),
        "key_type": module.number(session, handle, ck.CKA_KEY_TYPE),
        "value_len": module.number(session, handle, ck.CKA_VALUE_LEN),
        "id": (module.attribute(session, handle, ck.CKA_ID) or b"").hex(),
        "label": (module.attribute(session, handle, ck.CKA_LABEL) or b"").decode("utf-8", "replace"),
    }
    found |= {name: module.flag(session, handle, kind) for name, kind in (_FLAGS | _READ_TOO).items()}
    found["aes"] = found["class"] == ck.CKO_SECRET_KEY and found["key_type"] == ck.CKK_AES
    return found


def differences(found: dict[str, Any], flags: dict[str, bool], *, made_here: bool) -> list[str]:
    """Return what is wrong with a key, in words of PKCS#11; empty when nothing is.

    A flag that is to be false may be unknown to the token; one that is to be true must be told. ``made_here``: it was
    never outside either.
    """
    wrong = [
        f"CKA_{name.upper()} is {found[name]}"
        for name, value in flags.items()
        if (found[name] is not True if value else found[name] is True)
    ]
    if flags["extractable"] is False and found["extractable"] is not False:
        wrong.append("CKA_EXTRACTABLE is not told")
    lengths = (
        (_KEY_BYTES, None) if made_here else (_KEY_BYTES, None, 0)
    )  # SoftHSM tells 0 of what it unwrapped
    if not found["aes"] or found["value_len"] not in lengths:
        wrong.append("it is no AES-256 key")
    if found["token"] is not True:
        wrong.append("CKA_TOKEN is not true: it would not last")
    if made_here and not flags["extractable"]:
        wrong += [
            f"CKA_{name.upper()} is false"
            for name in ("never_extractable", "always_sensitive")  # NSS says false of CKA_LOCAL
            if found[name] is False
        ]
    return list(dict.fromkeys(wrong))


def session_key(*, extractable: bool = False) -> Template:
    """Return the template of an AES-256 key that is gone with the session."""
    return [
        (ck.CKA_CLASS, ck.CKO_SECRET_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_AES),
        (ck.CKA_VALUE_LEN, _KEY_BYTES),
        (ck.CKA_TOKEN, False),
        (ck.CKA_SENSITIVE, True),
        (ck.CKA_EXTRACTABLE, extractable),
        (ck.CKA_ENCRYPT, True),
        (ck.CKA_DECRYPT, True),
    ]


def session_wrapping_key() -> Template:
    """The same for trying key wrap."""
    return [*session_key()[:-2], (ck.CKA_WRAP, True), (ck.CKA_UNWRAP, True)]


def known_key(value: bytes, *, wrap: bool) -> Template:
    """Return the template of a session key whose value is public, to compare the token's results with a known one."""
    uses = (
        [(ck.CKA_WRAP, True), (ck.CKA_UNWRAP, True)]
        if wrap
        else [(ck.CKA_ENCRYPT, True), (ck.CKA_DECRYPT, True)]
    )
    return [
        (ck.CKA_CLASS, ck.CKO_SECRET_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_AES),
        (ck.CKA_VALUE, value),
        (ck.CKA_TOKEN, False),
        *uses,
    ]


def data_as_key(data: bytes) -> Template:
    """Return the template under which data is wrapped by tokens that wrap objects only."""
    return [
        (ck.CKA_CLASS, ck.CKO_SECRET_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_GENERIC_SECRET),
        (ck.CKA_VALUE, data),
        (ck.CKA_TOKEN, False),
        (ck.CKA_SENSITIVE, False),
        (ck.CKA_EXTRACTABLE, True),
    ]


def unwrapped_data() -> Template:
    """Return the template of what such tokens unwrap: plain data again, for this session."""
    return [
        (ck.CKA_CLASS, ck.CKO_SECRET_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_GENERIC_SECRET),
        (ck.CKA_TOKEN, False),
        (ck.CKA_SENSITIVE, False),
        (ck.CKA_EXTRACTABLE, True),
    ]


def unwrapped_session_key() -> Template:
    """Return the template of an AES key that is unwrapped to see whether it works."""
    return [
        (ck.CKA_CLASS, ck.CKO_SECRET_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_AES),
        (ck.CKA_TOKEN, False),
        (ck.CKA_SENSITIVE, True),
        (ck.CKA_EXTRACTABLE, False),
        (ck.CKA_ENCRYPT, True),
    ]


def transfer_public(key: bytes, label: str, bits: int) -> Template:
    """Return the template of a transfer key's public half."""
    return [
        (ck.CKA_TOKEN, False),
        (ck.CKA_ID, key),
        (ck.CKA_LABEL, label.encode()),
        (ck.CKA_WRAP, True),
        (ck.CKA_ENCRYPT, False),
        (ck.CKA_VERIFY, False),
        (ck.CKA_MODULUS_BITS, bits),
        (ck.CKA_PUBLIC_EXPONENT, b"\x01\x00\x01"),
    ]


def transfer_private(key: bytes, label: str) -> Template:
    """Return the template of a transfer key's private half: it unwraps, and nothing else."""
    return [
        (ck.CKA_TOKEN, False),
        (ck.CKA_PRIVATE, True),
        (ck.CKA_ID, key),
        (ck.CKA_LABEL, label.encode()),
        (ck.CKA_SENSITIVE, True),
        (ck.CKA_EXTRACTABLE, False),
        (ck.CKA_UNWRAP, True),
        (ck.CKA_DECRYPT, False),
        (ck.CKA_SIGN, False),
    ]


def foreign_public(modulus: int, exponent: int) -> Template:
    """Return the template of another member's public transfer key, for this session."""
    return [
        (ck.CKA_CLASS, ck.CKO_PUBLIC_KEY),
        (ck.CKA_KEY_TYPE, ck.CKK_RSA),
        (ck.CKA_TOKEN, False),
        (ck.CKA_WRAP, True),
        (ck.CKA_MODULUS, modulus.to_bytes((modulus.bit_length() + 7) // 8, "big")),
        (ck.CKA_PUBLIC_EXPONENT, exponent.to_bytes((exponent.bit_length() + 7) // 8, "big")),
    ]
