"""What the journal needs of the operating system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """Files; every method raises OSError."""

    def create(self, path: Path, /) -> int:
        """Make a file that must be new, for appending, mode 0600; return its descriptor."""

    def write(self, fd: int, data: bytes, /) -> int:
        """Append; return how much of ``data`` was written."""

    def truncate(self, fd: int, size: int, /) -> None:
        """Cut the file to ``size`` bytes."""

    def datasync(self, fd: int, /) -> None:
        """Return once what was written is on the disk."""

    def sync_folder(self, path: Path, /) -> None:
        """Return once the names in a folder are on the disk."""

    def close(self, fd: int, /) -> None:
        """Let go of the descriptor."""


class OsFiles:
    """Files as they are."""

    def create(self, path: Path) -> int:
        """Make a file that must be new, for appending, mode 0600."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    write = staticmethod(os.write)
    truncate = staticmethod(os.ftruncate)
    datasync = staticmethod(os.fdatasync)
    close = staticmethod(os.close)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
