"""Journals that were begun between a backup and its restore: the database that was put back knows nothing of them.

Their rows, their seals and the keys of their MACs went with the newer database, so nobody can prove any more who wrote
them.  What can be done is done once by each node, at the first look after the restore: what lies there is signed as it
is found.  From then on it cannot be changed unseen, and what is put there later is not taken for it.

A journal counts as such only when it says of itself that it is of this node and was begun between the last seal of the
backup and the restore.  Everything else that no seal knows stays a finding.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
from django.db import transaction
from django.db.models import F

from xks import journal_format as form
from xks.audit_seals import add_seal, ensure_key
from xks.journal_recovery import segments_of
from xks.journal_writer import read_segment
from xks.models import AuditKey, AuditSeal, JournalChain

log = structlog.get_logger("keystead.agent")

SLACK_US: Final = 300 * 1_000_000
"""Clocks of node and agent may differ by so many microseconds."""


class _Lost(NamedTuple):
    """The time of which the database knows nothing, microseconds since the epoch."""

    epoch: int
    begin: int
    end: int


def seal_strays(node_name: str, folder: Path) -> list[str] | None:
    """Sign what this node finds of journals of the time that a restore lost; None when there was none, or it has looked.

    Returns:
        The chains that were signed.

    Raises:
        RootKeyError: the signing key cannot be read.
        OSError: a journal is there and cannot be read.
    """
    lost = _lost()
    if lost is None or _has_looked(node_name, lost.epoch):
        return None
    found = _find(node_name, folder, lost)
    with transaction.atomic():
        ensure_key()
        AuditKey.objects.filter(pk=1).update(seals=F("seals"))  # the lock
        if _has_looked(node_name, lost.epoch):
            return None
        for chain, segments in found.items():
            add_seal({"kind": "stray", "chain": chain, "node": node_name, "segments": segments})
        add_seal({"kind": "strays", "node": node_name, "epoch": lost.epoch, "chains": sorted(found)})
    if found:
        log.warning("journals of the time that the restore lost were found and signed", chains=sorted(found))
    return sorted(found)


def _lost() -> _Lost | None:
    restored = AuditSeal.objects.filter(line__contains='"kind":"restored"').order_by("-number").first()
    if restored is None:
        return None
    before = AuditSeal.objects.filter(number=restored.number - 1).first()
    epoch = int(json.loads(restored.line)["statement"]["epoch"])
    return _Lost(
        epoch, (_time_of(before) if before is not None else 0) - SLACK_US, _time_of(restored) + SLACK_US
    )


def _time_of(seal: AuditSeal) -> int:
    at = datetime.fromisoformat(json.loads(seal.line)["at"])
    return int(at.timestamp() * 1_000_000)


def _has_looked(node_name: str, epoch: int) -> bool:
    # The name as it stands in a seal's line; what merely contains it is compared in full.
    seals = AuditSeal.objects.filter(line__contains='"kind":"strays"').values_list("line", flat=True)
    told = [json.loads(line)["statement"] for line in seals]
    return any((one["node"], one["epoch"]) == (node_name, epoch) for one in told)


def _find(node_name: str, folder: Path, lost: _Lost) -> dict[str, list[dict[str, Any]]]:
    known = {pk.hex for pk in JournalChain.objects.filter(node_name=node_name).values_list("pk", flat=True)}
    found: dict[str, list[dict[str, Any]]] = {}
    if not folder.is_dir():
        return found
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in known:
            segments = _segments(node_name, folder, path.name, lost)
            if segments is None:
                log.critical(
                    "a journal that nobody knows is not of the time that the restore lost",
                    alarm=True,
                    chain=path.name,
                )
            else:
                found[path.name] = segments
    return found


def _segments(node_name: str, folder: Path, chain: str, lost: _Lost) -> list[dict[str, Any]] | None:
    """Return what there is of a journal, segment by segment; None when it cannot be one of the lost time."""
    told: list[dict[str, Any]] = []
    for number in segments_of(folder, chain):
        data = read_segment(folder, chain, number)
        entries = records = 0
        size = 0
        header: form.Header | None = None
        try:
            for entry in form.read_entries(data):
                if header is None:
                    header = form.header_of(entry)
                entries, size = entry.sequence + 1, entry.end
                records += entry.kind == form.RECORD
        except form.SegmentDamaged:
            return None
        if header is None or (header.node, header.chain, header.segment) != (node_name, chain, number):
            return None
        if number != len(told) or not lost.begin <= header.opened_at:
            return None
        if number == 0 and header.opened_at > lost.end:
            return None
        told.append(
            {
                "segment": number,
                "entries": entries,
                "records": records,
                "bytes": size,
                "sha256": hashlib.sha256(data[:size]).hexdigest(),
            }
        )
    return told or None
