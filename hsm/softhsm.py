"""SoftHSM tokens for trying out and for tests. **Not for production**: keys lie in files, under a PIN.

Tokens are made by PKCS#11 itself, in a process of its own, because a module reads its configuration once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hsm import ck
from hsm.base import HsmUnavailable
from hsm.cryptoki import CkError, Module, ModuleRefused

PLACES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
"""Where distributions put the module."""
CONFIGURATION: Final = "SOFTHSM2_CONF"
_ENVIRONMENT: Final = "KEYSTEAD_SOFTHSM_MODULE"


@dataclass(frozen=True, slots=True)
class SoftToken:
    """A token that was made: how to name it in a connection."""

    label: str
    serial: str
    pin: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenFolder:
    """A SoftHSM of its own: its configuration file and its tokens."""

    module: str
    configuration: str
    tokens: tuple[SoftToken, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What a helper's environment needs."""
        return {CONFIGURATION: self.configuration}


def find_module() -> str | None:
    """Return the path of SoftHSM's module on this host, or None (Debian: package softhsm2)."""
    named = os.environ.get(_ENVIRONMENT)
    for place in (named,) if named else PLACES:
        if os.path.isfile(place):
            return os.path.realpath(place)
    return None


def make_tokens(
    folder: str | os.PathLike[str],
    labels: Sequence[str],
    *,
    pin: str,
    so_pin: str = "",
    module: str | None = None,
) -> TokenFolder:
    """Make a folder (0700) with a SoftHSM configuration and these tokens; tokens that are there already are kept.

    Raises HsmUnavailable where SoftHSM is not installed or refuses.
    """
    path = module or find_module()
    if path is None:
        raise HsmUnavailable("SoftHSM is not installed on this host (Debian, Ubuntu: apt install softhsm2)")
    root = Path(folder)
    tokens = root / "tokens"
    tokens.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(root, 0o700)
    configuration = root / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
    )
    work = {"module": path, "labels": list(labels), "pin": pin, "so_pin": so_pin or pin}
    done = subprocess.run(
        [sys.executable, "-m", "hsm.softhsm"],
        input=json.dumps(work).encode(),
        capture_output=True,
        env=os.environ | {CONFIGURATION: str(configuration)} | _importable(),
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise HsmUnavailable(f"SoftHSM made no tokens: {done.stderr.decode(errors='replace').strip()[-300:]}")
    serials = json.loads(done.stdout)
    return TokenFolder(
        path, str(configuration), tuple(SoftToken(each, serials[each], pin) for each in labels)
    )


def clone(folder: TokenFolder, into: str | os.PathLike[str]) -> TokenFolder:
    """Copy a token folder: two devices with the same keys, as after a vendor's own replication."""
    root = Path(into)
    source = Path(folder.configuration).parent
    shutil.copytree(source / "tokens", root / "tokens")
    os.chmod(root, 0o700)
    configuration = root / "softhsm2.conf"
    configuration.write_text(
        Path(folder.configuration).read_text().replace(str(source / "tokens"), str(root / "tokens"))
    )
    return TokenFolder(folder.module, str(configuration), folder.tokens)


def _importable() -> dict[str, str]:
    """Return the environment in which a child imports this package from where we have it."""
    here = str(Path(__file__).resolve().parents[1])
    held = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": f"{here}{os.pathsep}{held}" if held else here}


def _make(path: str, labels: list[str], pin: bytes, so_pin: bytes) -> dict[str, str]:
    module = Module(path)
    module.initialize()
    for label in labels:
        present = module.tokens()
        if any(each.label == label for each in present if each.flags & ck.CKF_TOKEN_INITIALIZED):
            continue
        free = [each.slot for each in present if not each.flags & ck.CKF_TOKEN_INITIALIZED]
        if not free:
            raise CkError("C_InitToken", 0x03)
        module.init_token(free[0], so_pin, label)
        # SoftHSM numbers the slot anew; the token is found by its label.
        slot = next(each.slot for each in module.tokens() if each.label == label)
        session = module.open_session(slot, read_write=True)
        module.login(session, so_pin, user=ck.CKU_SO)
        module.init_pin(session, pin)
        module.close_session(session)
    return {each.label: each.serial for each in module.tokens() if each.label in labels}


def _main() -> int:
    work = json.load(sys.stdin)
    try:
        serials = _make(work["module"], work["labels"], work["pin"].encode(), work["so_pin"].encode())
    except (CkError, ModuleRefused) as error:
        print(error, file=sys.stderr)
        return 1
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(serials))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
