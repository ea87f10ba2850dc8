"""Journals for tests: records, folders, and files that fail, stall or are kept."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

from xks.journal import Record
from xks.journal_files import OsFiles
from xks.journal_writer import FileJournal, segment_path

CHAIN = "5f0c2e9a0d6b4f57a1f1f6a0c0ffee00"
STATE = bytes(range(32))


def record(**changes: Any) -> Record:
    """Return a record of an Encrypt as KMS asks for it, with ``changes``."""
    fields: dict[str, Any] = {
        "at": 1_800_000_000.25,
        "generation": 12,
        "store_id": "7f0c2e9a-0d6b-4f57-a1f1-f6a0c0ffee01",
        "access_key_id": "BETWEEN2TENAND3TENCHARACTERS",
        "region": "eu-west-1",
        "operation": "encrypt",
        "outcome": "OK",
        "microseconds": 187,
        "external_key_id": "6f0c91be-1111-4222-8333-444455556666",
        "key_id": "0a0c2e9a-0d6b-4f57-a1f1-f6a0c0ffee02",
        "version": 3,
        "principal_arn": "arn:aws:sts::123456789012:assumed-role/app-prod/i-0123456789abcdef0",
        "kms_key_arn": "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kms_operation": "GenerateDataKey",
        "kms_request_id": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
        "kms_via_service": "s3.eu-west-1.amazonaws.com",
        "source_vpc": "vpc-0123456789abcdef0",
        "source_vpce": "vpce-0123456789abcdef0",
    }
    return Record(**{**fields, **changes})


class FaultyFiles(OsFiles):
    """Real files on a device that can be full and can stall."""

    def __init__(self) -> None:
        self.room: int | None = None
        """Bytes that still fit; None: as many as one likes."""
        self.go = threading.Event()
        """Cleared, writes and fdatasync wait for it."""
        self.go.set()
        self.waiting = threading.Event()
        self.sizes: list[int] = []
        self.synced = 0

    def create(self, path: Path, /) -> int:
        if self.room is not None and self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().create(path)

    def write(self, fd: int, data: bytes, /) -> int:  # type: ignore[override]
        self._wait()
        if self.room is not None:
            if self.room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[: self.room]
            self.room -= len(data)
        self.sizes.append(len(data))
        return os.write(fd, data)

    def datasync(self, fd: int, /) -> None:  # type: ignore[override]
        self._wait()
        os.fdatasync(fd)
        self.synced += 1

    def _wait(self) -> None:
        if not self.go.is_set():
            self.waiting.set()
            assert self.go.wait(20)


def make_journal(folder: Path, *, started: bool = True, **settings: Any) -> FileJournal:
    """Return a journal in ``folder`` that is not run on a loop."""
    journal = FileJournal(folder, node="node-1", boot_id="boot-1", **settings)
    if started:
        journal.start(CHAIN, STATE)
    return journal


def segment(folder: Path, number: int = 0) -> Path:
    """Return the path of a segment of the one chain."""
    return segment_path(folder, CHAIN, number)
