"""A PKCS#11 module that stands before SoftHSM and behaves as it is told: as another vendor's, or as broken hardware.

``build()`` compiles ``shim.c`` with the system's C compiler; a :class:`Shim` is one token behind it, with a control file
of its own that a running helper reads again whenever it changes.  What can be said in it, a line each:

==================  ================================================================================================
slow_us 5000        each C_Encrypt, C_Decrypt and C_GenerateRandom that returns data takes so much longer; Init and
                    length queries do not
hang                such a call does not return, for as long as this holds
crash               such a call ends the process with SIGSEGV
corrupt             C_Encrypt returns a ciphertext of which one bit is wrong
error 0x30 2 NAME   such a call returns this; at most so often (default: always), only this function (default: those)
lose                once: the token closes all sessions, as after a restart (CKR_SESSION_HANDLE_INVALID from then on)
gone                the token is not there (CKR_TOKEN_NOT_PRESENT)
map 0x5 0x40        whatever function returns the one code returns the other
iv params           the HSM makes the nonces and writes them into CK_GCM_PARAMS (as AWS CloudHSM)
iv appended         the HSM makes the nonces, refuses others, and appends them to the ciphertext (as Luna in FIPS mode)
kwp 0x80000171      AES key wrap with padding has this number, and only this
missing 0x1087      the token has no such mechanism
final_try           CKF_USER_PIN_FINAL_TRY
sessions 2          the token has so many sessions, and no more
manufacturer NAME, model NAME, firmware 7.4
fm 1                CA_GetHSMPolicySetting (Luna) answers this to policy 50
==================  ================================================================================================
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
_FLAGS = [
    "-std=gnu11",
    "-shared",
    "-fPIC",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fvisibility=hidden",
    "-pthread",
]


def build(folder: Path) -> Path:
    """Compile the shim into ``folder`` and return its path. Raises CalledProcessError, FileNotFoundError."""
    target = folder / "keystead-shim.so"
    subprocess.run(["gcc", *_FLAGS, "-o", str(target), str(SOURCE), "-ldl"], check=True, timeout=60)
    return target


@dataclass(frozen=True)
class Shim:
    """One token behind a shim of its own."""

    library: Path
    module: str
    """What it forwards to."""
    control: Path
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the process that loads it needs."""
        return {
            "KEYSTEAD_SHIM_MODULE": self.module,
            "KEYSTEAD_SHIM_CONTROL": str(self.control),
            "KEYSTEAD_SHIM_LOG": str(self.log),
        }

    def tell(self, *orders: str) -> None:
        """Behave like this from the next call on; nothing said: as the module behind it does."""
        written = self.control.with_suffix(".new")
        written.write_text("".join(f"{each}\n" for each in orders))
        os.replace(written, self.control)

    def calls(self, name: str) -> list[str]:
        """Return the results of the noted calls of this function (C_Initialize, C_OpenSession, C_Login), as hex."""
        if not self.log.exists():
            return []
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [result for function, result, _ in lines if function == name]
