"""What a PKCS#11 error code means for us: which error of ``hsm.base``, whether the session is lost, what to do."""

from __future__ import annotations

from typing import Final

from hsm.base import (
    DataInvalid,
    HsmAuthenticationFailed,
    HsmError,
    HsmUnavailable,
    KeyNotFound,
    MechanismUnavailable,
)
from hsm.ck import code_name
from hsm.cryptoki import CkError

LOST: Final = frozenset(
    {
        0x03,  # SLOT_ID_INVALID: slots were numbered anew
        0x32,  # DEVICE_REMOVED
        0x60,  # KEY_HANDLE_INVALID
        0x82,  # OBJECT_HANDLE_INVALID
        0x90,  # OPERATION_ACTIVE: what an earlier failure has left behind
        0xB0,  # SESSION_CLOSED
        0xB3,  # SESSION_HANDLE_INVALID
        0xE0,  # TOKEN_NOT_PRESENT
        0xE1,  # TOKEN_NOT_RECOGNIZED
        0x101,  # USER_NOT_LOGGED_IN
        0x190,  # CRYPTOKI_NOT_INITIALIZED
    }
)
"""The session, or handles in it, are no longer good: everything is opened again, and the call made once more."""

AMBIGUOUS: Final = frozenset({0x05, 0x06, 0x07, 0x30})
"""GENERAL_ERROR, FUNCTION_FAILED, ARGUMENTS_BAD, DEVICE_ERROR: of one module a wrong tag, of another a broken device."""

INVALID: Final = frozenset({0x20, 0x21, 0x35, 0x40, 0x41, 0xC0, 0xC1, 0x110, 0x112})
"""The data is wrong, and nothing else."""

REFUSED: Final = frozenset({0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0x102, 0x103, 0x104})
"""The token does not take our login."""

MECHANISM: Final = frozenset({0x54, 0x62, 0x63, 0x68, 0x69, 0x6A, 0x70, 0x71, 0x13, 0x1B, 0xD1})
"""The token cannot do this, or not with this key."""


_LOGIN_CURES: Final = {
    0xA0: "the PIN is wrong. Change it in the connection's settings; it is not tried again before",
    0xA1: "the PIN has characters that the token does not take",
    0xA2: "the PIN is too long or too short for the token",
    0xA3: "the PIN has expired. Change it with the vendor's tool, then in the connection's settings",
    0xA4: "the PIN is locked after wrong tries. The token's security officer must set it anew",
    0x102: "the token has no user PIN yet. Its security officer must set one (C_InitPIN)",
    0x103: "the token does not know this kind of user",
    0x104: "another user is logged in, by the same process",
}


def hsm_error(error: CkError, doing: str) -> HsmError:
    """Return the error that callers see. ``doing`` completes "the HSM failed at ..."."""
    code = error.code
    found: HsmError
    if code in REFUSED:
        found = HsmAuthenticationFailed(
            f"the token refused the login ({code_name(code)}): {_LOGIN_CURES.get(code, 'see its documentation')}"
        )
    elif code in INVALID:
        found = DataInvalid(
            f"the HSM refused the data at {doing} ({code_name(code)}): altered, or of another key"
        )
    elif code in MECHANISM:
        found = MechanismUnavailable(
            f"the HSM cannot do {doing} ({error.function}: {code_name(code)}): the mechanism is missing, or forbidden "
            "for this key or by the token's policy; the member's capability profile says what is possible"
        )
    elif code in LOST:
        found = HsmUnavailable(
            f"the HSM lost the session at {doing} ({error.function}: {code_name(code)}), after a new one too. "
            "Look at the device and its network; requests are tried again by themselves"
        )
    elif code == 0x11:
        found = MechanismUnavailable(f"the HSM does not tell this attribute ({code_name(code)})")
    elif code == 0xE2 or code == 0xB5:
        found = MechanismUnavailable(
            f"the token is read-only ({code_name(code)}): keys cannot be made or destroyed through this connection"
        )
    elif code == 0xF0:
        found = KeyNotFound(f"the transfer key is no longer there ({code_name(code)}); make another")
    else:
        found = HsmUnavailable(
            f"the HSM failed at {doing} ({error.function}: {code_name(code)}). Look at the device's own log"
        )
    found.code = code
    return found
