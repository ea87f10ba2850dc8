"""The node's Unix socket as a file: claimed by one agent, closed to other users, and who is at its other end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
import struct
from pathlib import Path
from typing import IO


class SocketUnusable(Exception):
    """The socket cannot be served. One line: what is wrong, and what to do."""


def peer_of(writer: asyncio.StreamWriter) -> tuple[int, int | None]:
    """Return (pid, uid) of the process that connected, by the kernel's word (unix(7), SO_PEERCRED).

    pid 0: not visible from this pid namespace. uid None: this system does not say; the modes of
    socket and folder are then all that keeps strangers out.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    own: socket.socket = writer.get_extra_info("socket")
    if option is None:
        return 0, None
    pid, uid, _ = struct.unpack("3i", own.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return pid, uid


def claim_socket(path: Path) -> IO[str]:
    """Make the socket's folder fit for it and make sure that no other agent serves it.

    Returns the lock; it is held while the file is open. Raises SocketUnusable.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.parent.stat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise SocketUnusable(
                f"Others than this process's user may enter {path.parent}, where the agent's socket is to be. "
                f"Run: chmod 700 {path.parent} (or give another folder with KEYSTEAD_XKS_SOCKET)."
            )
        handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SocketUnusable(
            f"The folder of the agent's socket {path} cannot be used: {error.strerror}. Check KEYSTEAD_XKS_SOCKET."
        ) from error
    lock = os.fdopen(handle, "r+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise SocketUnusable(
            f"Another agent serves {path}. Stop it, or give another path with KEYSTEAD_XKS_SOCKET."
        ) from None
    return lock


def bind_socket(path: Path) -> socket.socket:
    """Make the socket, mode 0600 from its first moment. Call with the lock held. Raises SocketUnusable."""
    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        own.bind(str(path))
    except OSError as error:
        own.close()
        raise SocketUnusable(
            f"The agent's socket {path} cannot be made: {error}. Check KEYSTEAD_XKS_SOCKET."
        ) from error
    finally:
        os.umask(before)
    return own
