"""What becomes of sealed segments: compressed once they have been counted, and after a stated time dropped.

A segment that is dropped is named in a seal first, so that its absence is not taken for tampering; when
it was sealed is read from its seal, not from the file, whose times anybody could set.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from django.db import transaction

from xks.audit_seals import add_seal
from xks.journal_recovery import segments_of
from xks.journal_writer import compressed_path, segment_path
from xks.models import AuditSeal, JournalChain, JournalShipment


def compress_segment(folder: Path, chain: str, segment: int) -> None:
    """Put a compressed file in the place of a segment's, durable before the plain one goes. Raises OSError."""
    plain, compressed = segment_path(folder, chain, segment), compressed_path(folder, chain, segment)
    unfinished = compressed.with_suffix(".tmp")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(plain, "rb") as source, os.fdopen(handle, "wb") as target:
        with gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0) as packed:
            shutil.copyfileobj(source, packed, 1024 * 1024)
        target.flush()
        os.fsync(target.fileno())
    os.rename(unfinished, compressed)
    directory = os.open(plain.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    plain.unlink()


def compress_one(node_name: str, folder: Path) -> bool:
    """Compress one segment that is sealed and counted; whether there was one. Raises OSError."""
    for row in JournalChain.objects.filter(node_name=node_name):
        chain = row.id.hex
        plain = [n for n in segments_of(folder, chain) if segment_path(folder, chain, n).exists()]
        counted = set(
            JournalShipment.objects.filter(chain=row, complete=True, segment__in=plain).values_list(
                "segment", flat=True
            )
        )
        for segment in plain:
            if segment < row.sealed_segments and segment in counted:
                compress_segment(folder, chain, segment)
                return True
    return False


def drop_old(node_name: str, folder: Path, *, now: datetime, keep: timedelta) -> int:
    """Drop compressed segments that were sealed longer ago than ``keep``; return how many. Raises OSError."""
    dropped = 0
    old = AuditSeal.objects.filter(created_at__lt=now - keep)
    for line in old.filter(line__contains='"kind":"segment"').values_list("line", flat=True).iterator():
        statement = json.loads(line)["statement"]
        chain, segment = statement["chain"], statement["segment"]
        path = compressed_path(folder, chain, segment)
        if statement["node"] != node_name or not path.exists():
            continue
        marker = f'"kind":"dropped","segment":{segment}}}'
        with transaction.atomic():
            named = AuditSeal.objects.filter(line__contains=f'"chain":"{chain}",{marker}').exists()
            if not named and JournalChain.objects.filter(pk=UUID(chain)).exists():
                add_seal({"kind": "dropped", "chain": chain, "segment": segment})
        path.unlink()
        dropped += 1
    return dropped
