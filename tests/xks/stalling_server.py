"""The data plane on a device that stalls while the file "stall" lies in the data folder (see test_journal_server.py).

Run as the server itself is: python tests/xks/stalling_server.py.  Writes and fdatasync then wait in a system call, as
they would in the kernel: opening a FIFO to which nobody writes yet.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from xks import journal_writer, server
from xks.journal_files import OsFiles

FOLDER = Path(os.environ["KEYSTEAD_DATA_DIR"])


class StallingFiles(OsFiles):
    """Real files, behind a gate."""

    def write(self, fd: int, data: bytes, /) -> int:  # type: ignore[override]
        _wait()
        return os.write(fd, data)

    def datasync(self, fd: int, /) -> None:  # type: ignore[override]
        _wait()
        os.fdatasync(fd)


def _wait() -> None:
    if (FOLDER / "stall").exists():
        os.close(os.open(FOLDER / "gate", os.O_RDONLY))


journal_writer.OsFiles = StallingFiles  # type: ignore[misc]

if __name__ == "__main__":
    server.main()
