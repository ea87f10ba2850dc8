"""The root key's file: 32 bytes that wrap every vault's KEK (DESIGN.md, "Keys at rest").

Beside the file itself up to three neighbours are read, so that a re-wrap can go on under running processes:
``<file>.next`` (the root that is being moved to), ``<file>.previous`` (the one before) and ``<file>.previous-<id>``
(older ones, kept until the operator removes them because old backups need them). A key is always picked by its id,
never by the name of its file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hsm.software import KEY_BYTES, new_key, wrapping_key_id
from vault import env
from vault.secret import Secret


class RootKeyError(Exception):
    """The root key cannot be used. One line: cause, then cure. Never holds key bytes."""

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause} {cure}")
        self.cause = cause
        self.cure = cure


class RootKeyMissing(RootKeyError):
    """There is no root key file where one is needed."""


class RootKeyForeign(RootKeyError):
    """There is a root key, but not the one that this database was wrapped under."""


class RootKeyUnsafe(RootKeyError):
    """Others than the process's user may read or replace the root key file."""


class RootKeyUnusable(RootKeyError):
    """The file cannot be read or written, or is not 32 bytes long."""


def root_key_path() -> Path:
    """Return KEYSTEAD_ROOT_KEY_FILE, or root.key in the data folder. The file may not exist."""
    path: Path = env.get("KEYSTEAD_ROOT_KEY_FILE")
    return path


def next_path(path: Path) -> Path:
    """Return where the root key stands that an unfinished re-wrap is moving to."""
    return path.with_name(f"{path.name}.next")


def previous_path(path: Path) -> Path:
    """Return where the root key stands that the last re-wrap moved away from."""
    return path.with_name(f"{path.name}.previous")


def retired_path(path: Path, key_id: str) -> Path:
    """Return where an older previous root key goes when ``<file>.previous`` is needed again."""
    return path.with_name(f"{path.name}.previous-{key_id[:8]}")


def candidate_paths(path: Path) -> list[Path]:
    """Return the existing files that may hold a root key of this installation, the current one first."""
    older = sorted(path.parent.glob(f"{path.name}.previous-*")) if path.parent.is_dir() else []
    return [file for file in (path, next_path(path), previous_path(path), *older) if os.path.lexists(file)]


def read_key_file(path: Path) -> Secret:
    """Return the 32 bytes of a root key file.

    Raises RootKeyMissing, RootKeyUnsafe (mode or owner) or RootKeyUnusable. Judged and read through one descriptor,
    so that the file that was judged is the file that is read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise RootKeyMissing(
            f"The root key file {path} does not exist.",
            "Put the root key there (mode 0600), or rebuild it with 'keystead keys import-root'.",
        ) from None
    except OSError as error:
        raise RootKeyUnusable(
            f"The root key file {path} cannot be read: {error.strerror}.",
            "Make it readable for the user that runs Keystead, and for nobody else.",
        ) from error
    try:
        _refuse_unsafe(path, os.fstat(handle))
        content = os.read(handle, KEY_BYTES + 1)
    finally:
        os.close(handle)
    if len(content) != KEY_BYTES:
        size = f"{len(content)} bytes" if len(content) < KEY_BYTES else f"more than {KEY_BYTES} bytes"
        raise RootKeyUnusable(
            f"The root key file {path} holds {size}; a root key is {KEY_BYTES} raw bytes.",
            "Put the right file there, or rebuild it with 'keystead keys import-root'.",
        )
    return Secret(content)


def _refuse_unsafe(path: Path, found: os.stat_result) -> None:
    """Raise RootKeyUnsafe unless only our user can read the file.

    One exception, the one that PostgreSQL makes for its TLS key: a file of root that our group may read. Kubernetes
    mounts secrets for a non-root user in no other way.
    """
    mode = stat.S_IMODE(found.st_mode)
    user = os.geteuid()
    if not stat.S_ISREG(found.st_mode):
        raise RootKeyUnsafe(f"The root key {path} is no ordinary file.", "Put a file of 32 bytes there.")
    if user != 0 and found.st_uid not in (user, 0):
        raise RootKeyUnsafe(
            f"The root key file {path} belongs to user id {found.st_uid}, who could replace it.",
            f"Give it to the user that runs Keystead: chown {user} {path}",
        )
    allowed = 0o740 if user != 0 and found.st_uid == 0 else 0o700
    if mode & ~allowed:
        raise RootKeyUnsafe(
            f"The root key file {path} has mode {mode:04o}: others than its user have access.",
            f"Run: chmod 600 {path} (and think about who may have read it).",
        )


def write_key_file(path: Path, key: Secret) -> bool:
    """Create ``path`` with the key, mode 0600, whole or not at all, on disk before it returns.

    Returns False, having changed nothing, when the file exists. Raises RootKeyUnusable.
    """
    try:
        return env.create_private_file(path, key.reveal())
    except OSError as error:
        raise RootKeyUnusable(
            f"The root key file {path} cannot be written: {error.strerror}.",
            "Make its folder writable, or put the file there yourself (32 bytes, mode 0600).",
        ) from error


def sync_folder(folder: Path) -> None:
    """Put the names in ``folder`` on disk, after a rename or a removal. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def create_key_file(path: Path) -> bool:
    """Create a new root key at ``path``; see write_key_file. Folders that are missing are made with mode 0700."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RootKeyUnusable(
            f"The folder {path.parent} cannot be made: {error.strerror}.",
            "Make it, or set KEYSTEAD_DATA_DIR.",
        ) from error
    return write_key_file(path, Secret(new_key()))


def key_id(key: Secret) -> str:
    """Return the public id of a root key (32 hex digits)."""
    return wrapping_key_id(key.reveal())


def load_candidates(path: Path) -> dict[str, Secret]:
    """Return every root key that can be had, by id, the current file's first. Raises RootKeyUnsafe, RootKeyUnusable."""
    found: dict[str, Secret] = {}
    for file in candidate_paths(path):
        try:
            key = read_key_file(file)
        except RootKeyMissing:
            # Renamed between listing and reading: a re-wrap is finishing. It has another name now, or is a
            # link to nowhere, which is as good as missing.
            continue
        found.setdefault(key_id(key), key)
    return found
