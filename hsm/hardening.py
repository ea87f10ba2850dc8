"""Keeps key bytes of this process out of core dumps and away from debuggers.

It lives in this room, not in vault/, because xks workers hold keys too and import neither Django nor vault/.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from dataclasses import dataclass

_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4


class HardeningFailed(Exception):
    """The operating system refused a protection that this platform is known to have."""


@dataclass(frozen=True, slots=True)
class Hardening:
    """What holds now for this process."""

    core_dumps_off: bool
    untraceable: bool


def harden_process() -> Hardening:
    """Turn core dumps off and, on Linux, deny tracing and /proc/<pid>/mem to other processes of the same user.

    RLIMIT_CORE 0 alone does not stop a core *pipe* (core(5)), and does nothing against ptrace; PR_SET_DUMPABLE 0
    (prctl(2)) does both. The kernel sets it back at execve, so every program that holds keys calls this itself, after
    its last exec and before its first key. Children by fork inherit it. Root, and holders of CAP_SYS_PTRACE, are not
    stopped. Elsewhere than on Linux ``untraceable`` is False. Raises HardeningFailed.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        raise HardeningFailed(f"core dumps cannot be turned off: {error}") from error
    if not sys.platform.startswith("linux"):
        return Hardening(core_dumps_off=True, untraceable=False)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise HardeningFailed(f"PR_SET_DUMPABLE was refused: {os.strerror(ctypes.get_errno())}")
    return Hardening(core_dumps_off=True, untraceable=True)
