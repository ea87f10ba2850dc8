"""Which PKCS#11 modules may be loaded, and which variables they may be given: a module runs code in Keystead's name."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vault import env
from vault.errors import ValidationFailed

ALLOWED_VARIABLES: Final = frozenset(
    {
        "SOFTHSM2_CONF",
        "CKNFAST_ASSUME_SINGLE_PROCESS",
        "CKNFAST_DEBUG",
        "CKNFAST_DEBUGFILE",
        "CKNFAST_FAKE_ACCELERATOR_LOGIN",
        "CKNFAST_FAKE_OCS_LOGIN",
        "CKNFAST_JCE_COMPATIBILITY",
        "CKNFAST_LOADSHARING",
        "CKNFAST_NO_ACCELERATOR_SLOTS",
        "CKNFAST_NO_SYMMETRIC",
        "CKNFAST_NO_UNWRAP",
        "CKNFAST_NVRAM_KEY_STORAGE",
        "CKNFAST_OVERRIDE_SECURITY_ASSURANCES",
        "CKNFAST_SEED_MAC_ZERO",
        "CKNFAST_SESSION_TO_TOKEN",
        "CKNFAST_SHARE_SESSION_KEYS",
        "CKNFAST_WRITE_PROTECTED",
        "NFAST_HOME",
        "NFAST_KMDATA",
        "NFAST_NFKM_TOKENSFILE",
        "NFAST_NFKM_TOKENSSELECT",
        "ChrystokiConfigurationPath",
        "CLOUDHSM_PIN_FILE",
        "YUBIHSM_PKCS11_CONF",
        "OPENCRYPTOKI_TRACE_LEVEL",
        "NSS_LIB_PARAMS",
    }
)
"""Variables of vendors that choose configuration, none of which names code to be loaded. KEYSTEAD_HSM_VARIABLES adds more."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_NEVER: Final = re.compile(
    r"LD_.*|PYTHON.*|PATH|KEYSTEAD_.*|GCONV_PATH|MALLOC_.*|BASH_ENV|IFS", re.IGNORECASE
)
MAX_VALUE: Final = 1000


def allowed_variables() -> frozenset[str]:
    """Return the names that a connection's environment may have."""
    return ALLOWED_VARIABLES | frozenset(env.get("KEYSTEAD_HSM_VARIABLES"))


def module_folders() -> list[Path]:
    """Return the folders (KEYSTEAD_HSM_MODULE_DIRS) in which modules may lie."""
    folders: list[Path] = env.get("KEYSTEAD_HSM_MODULE_DIRS")
    return folders


def check_module(path: str, *, must_exist: bool = False) -> str:
    """Return the module's path when it may be loaded.

    The web's host may lack the vendor's client, so that a missing file is no error unless ``must_exist``; whoever loads it
    checks again. Raises ValidationFailed.
    """
    given = Path(path)
    if not given.is_absolute() or ".." in given.parts or "\0" in path:
        raise ValidationFailed(
            "The module is not given as an absolute path.",
            field="module_path",
            cure="Give the whole path, such as /usr/lib/softhsm/libsofthsm2.so.",
        )
    folders = module_folders()
    real = Path(os.path.realpath(given))
    real_folders = [Path(os.path.realpath(each)) for each in folders]
    inside = any(given.is_relative_to(each) for each in [*folders, *real_folders])
    if not inside or not any(real.is_relative_to(each) for each in real_folders):
        raise ValidationFailed(
            f"The module is not allowed: {real} lies in none of the folders of KEYSTEAD_HSM_MODULE_DIRS.",
            field="module_path",
            cure=f"Use a module in {', '.join(str(each) for each in folders)}, or have the setting extended on every host.",
        )
    try:
        about = real.stat()
    except OSError as error:
        if must_exist:
            raise ValidationFailed(
                f"The module {path} is not on this host ({error.strerror}).",
                field="module_path",
                cure="Install the vendor's client on every host that runs Keystead, or correct the path.",
            ) from None
        return str(given)
    if not stat.S_ISREG(about.st_mode):
        raise ValidationFailed("The module is no file.", field="module_path", cure="Give the library's path.")
    if about.st_mode & stat.S_IWOTH:
        raise ValidationFailed(
            f"The module is not allowed: everybody may write to {real}.",
            field="module_path",
            cure="Make it writable for root alone: chmod go-w.",
        )
    return str(given)


def check_environment(values: Mapping[str, str]) -> dict[str, str]:
    """Return the variables when all are allowed. Raises ValidationFailed naming the first that is not."""
    allowed = allowed_variables()
    for name, value in values.items():
        if not isinstance(value, str) or len(value) > MAX_VALUE or any(ord(char) < 32 for char in value):
            raise ValidationFailed(
                f"The value of {name[:100]} is no line of text.",
                field="environment",
                cure="Write NAME=VALUE.",
            )
        if name not in allowed or not _NAME.fullmatch(name) or _NEVER.fullmatch(name):
            raise ValidationFailed(
                f"The variable {name[:100]} is not allowed for a module.",
                field="environment",
                cure=f"Allowed are {', '.join(sorted(allowed))}; KEYSTEAD_HSM_VARIABLES adds others.",
            )
    return dict(values)
