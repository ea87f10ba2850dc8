"""`keystead audit verify`: seals, journals, audit store and audit events against the public key (docs/journal.md).

Needs no secret.  A *finding* is something that is not what was written.  A *gap* is something that was written and is
not, or not yet, in the database, perhaps lost with its node.  A *note* is worth knowing and is neither: a worker that was
killed, what is not sealed yet, journals of other nodes that are not here, a database that was restored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from vault.event_chain import EventsBroken, check_events
from xks import journal_format as form
from xks.audit_seals import stored_seals
from xks.audit_store_check import check_store
from xks.journal_recovery import segments_of
from xks.journal_writer import node_folder_name, read_segment, segment_path
from xks.models import AuditKey, JournalChain
from xks.seals import FIRST_PREVIOUS, Seal, SealBroken, open_seal


@dataclass
class Report:
    """What a verification found. ``findings`` empty means that everything holds, as far as it goes."""

    findings: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seals: int = 0
    head: str = FIRST_PREVIOUS
    """SHA-256 of the last seal: keep it elsewhere, and give it to a later verification."""
    chains: int = 0
    segments: int = 0
    records: int = 0
    stored: int = 0
    """Records of the database that were compared."""
    events: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


@dataclass
class _Chain:
    """What the seals say of one chain."""

    node: str
    segments: list[dict[str, Any]] = field(default_factory=list)
    ended_after: int | None = None
    dropped: set[int] = field(default_factory=set)
    stray: bool = False
    """It was found after a restore, without its key."""


@dataclass
class _Signed:
    """What the seals say."""

    chains: dict[str, _Chain] = field(default_factory=dict)
    events: dict[int, str] = field(default_factory=dict)
    kept_from: datetime | None = None
    restored: bool = False
    looked: set[str] = field(default_factory=set)
    """Folders of nodes that have looked for journals of the lost time since the last restore."""


def verify(
    public_key: Ed25519PublicKey,
    journal: Path,
    *,
    known_head: tuple[int, str] | None = None,
    wanted: Callable[[datetime], bool] = lambda _: True,
) -> Report:
    """Check everything; ``journal`` is <data>/journal.

    ``known_head`` is number and digest of a seal that was seen before; ``wanted`` says of which segments and hours, by
    their beginning, the records in the database are compared.

    Raises:
        OSError: a file that is there cannot be read.
    """
    report = Report()
    signed = _Signed()
    chains = signed.chains
    try:
        _read_seals(stored_seals(), public_key, known_head, signed, report)
    except SealBroken as broken:
        # What the seals behind it say is not known, so nothing can be called missing or strange.
        report.findings.append(str(broken))
        sealed = False
    else:
        sealed = True
    for name, chain in chains.items():
        _check_chain(name, chain, journal, report, all_sealed=sealed)
    if sealed:
        _look_for_strangers(signed, journal, report)
        _check_store(signed, journal, wanted, report)
    try:
        report.events = check_events(signed.events)
    except EventsBroken as broken:
        report.findings.append(str(broken))
    unsealed = report.events - max(signed.events, default=0)
    if unsealed > 0:
        report.notes.append(f"{unsealed} audit events are linked and not sealed yet")
    return report


def _read_seals(
    seals: list[Seal],
    public_key: Ed25519PublicKey,
    known_head: tuple[int, str] | None,
    signed: _Signed,
    report: Report,
) -> None:
    chains = signed.chains
    restored: int | None = None
    known_number, known_digest = known_head or (0, "")
    replaced = False
    for number, seal in enumerate(seals, 1):
        opened = open_seal(public_key, seal, number, report.head)
        report.seals, report.head = number, seal.digest
        statement = opened.statement
        match statement["kind"]:
            case "chain":
                chains[statement["chain"]] = _Chain(statement["node"])
            case "segment":
                chains[statement["chain"]].segments.append(statement)
            case "end":
                chains[statement["chain"]].ended_after = statement["segments"]
            case "dropped":
                chains[statement["chain"]].dropped.add(statement["segment"])
            case "events":
                signed.events[statement["position"]] = statement["digest"]
            case "store":
                signed.kept_from = datetime.fromisoformat(statement["kept_from"])
            case "stray":
                segments = statement["segments"]
                chains[statement["chain"]] = _Chain(statement["node"], segments, len(segments), stray=True)
            case "strays":
                signed.looked.add(node_folder_name(statement["node"]))
            case "restored":
                restored = number
                signed.restored = True
                signed.looked.clear()
                report.notes.append(
                    f"seal {number}: the database was restored from a backup before {opened.at}; what was sealed between"
                    " the backup and the restore is not in it"
                )
            case kind:
                raise SealBroken(number, f"it speaks of {kind!r}, which this release does not know")
        if number == known_number and known_digest != seal.digest:
            replaced = True
    if restored is not None and restored <= known_number and (replaced or len(seals) < known_number):
        report.findings.append(
            f"seals {restored} to {known_number} that were there before are gone with a restore of an older database: what"
            " they said of that time cannot be proven from here. Compare the journals with a copy of the newer"
            " database, or go on with the head of this check"
        )
        known_number = 0
    elif replaced:
        raise SealBroken(known_number, "it is not the one that was seen before")
    count = AuditKey.objects.values_list("seals", flat=True).filter(pk=1).first() or 0
    wanted = max(count, known_number)
    if len(seals) < wanted:
        raise SealBroken(len(seals) + 1, f"it is missing, and there were {wanted}")


def _check_store(signed: _Signed, journal: Path, wanted: Callable[[datetime], bool], report: Report) -> None:
    def read(node: str, chain: str, number: int) -> bytes | None:
        try:
            return read_segment(_node_folder(journal, node), chain, number)
        except FileNotFoundError:
            return None

    told = {
        name: (chain.node, chain.segments, chain.ended_after)
        for name, chain in signed.chains.items()
        if not chain.stray
    }
    for name, chain in signed.chains.items():
        if chain.stray:
            count = sum(one["records"] for one in chain.segments)
            report.gaps.append(
                f"journal {chain.node}/{name}: its {count} records are not in the database, which was restored since"
            )
    found = check_store(told, signed.kept_from, read, wanted=wanted)
    report.findings += found.findings
    report.gaps += found.gaps
    report.notes += found.notes
    report.stored = found.records


def _check_chain(name: str, chain: _Chain, journal: Path, report: Report, *, all_sealed: bool) -> None:
    report.chains += 1
    folder = _node_folder(journal, chain.node)
    present = set(segments_of(folder, name))
    here = folder.is_dir()
    before: str | None = form.NO_MAC.hex()
    for number, statement in enumerate(chain.segments):
        where = f"journal {chain.node}/{name} segment {number}"
        if statement["segment"] != number:
            report.findings.append(f"{where}: was never sealed")
            return
        if chain.stray:
            _check_stray(folder, name, statement, where, present, report, here=here)
            continue
        if statement["end"] in ("damaged", "missing"):
            report.findings.append(f"{where}: {statement['end']} when it was sealed: {statement['detail']}")
            before = None
            continue
        if statement["end"] == "killed":
            torn = f" ({statement['detail']})" if statement["detail"] else ""
            report.notes.append(
                f"{where}: unclean end, its worker was killed{torn}; nothing that was sealed is missing"
            )
        if before is not None and statement["before"] != before:
            report.findings.append(f"{where}: does not follow the segment before")
        before = statement["mac"]
        if number in present:
            _check_segment(read_segment(folder, name, number), statement, where, report)
        elif number in chain.dropped:
            report.notes.append(f"{where}: dropped after the time for which journals are kept")
        elif here:
            report.findings.append(f"{where}: the file is missing")
        else:
            report.notes.append(f"{where}: on another host")
    if not all_sealed:
        return
    if chain.ended_after is None:
        _check_open(name, chain, folder, present, report)
    else:
        if chain.ended_after != len(chain.segments):
            report.findings.append(f"journal {chain.node}/{name}: ended after {chain.ended_after} segments")
        for number in sorted(present - set(range(len(chain.segments)))):
            report.findings.append(f"journal {chain.node}/{name} segment {number}: put in from outside")


def _check_stray(
    folder: Path,
    name: str,
    statement: dict[str, Any],
    where: str,
    present: set[int],
    report: Report,
    *,
    here: bool,
) -> None:
    number = statement["segment"]
    if number in present:
        data = read_segment(folder, name, number)
        report.segments += 1
        report.records += statement["records"]
        if hashlib.sha256(data[: statement["bytes"]]).hexdigest() != statement["sha256"]:
            report.findings.append(f"{where}: changed since it was found after the restore")
        elif len(data) > statement["bytes"]:
            report.findings.append(
                f"{where}: {len(data) - statement['bytes']} bytes more than were found after the restore; nothing vouches"
                " for them. Its worker was not restarted at the restore, or somebody has added to it"
            )
        else:
            report.notes.append(
                f"{where}: found after a restore, unchanged since; its key went with the newer database, so who wrote it"
                " cannot be proven"
            )
    elif here:
        report.findings.append(f"{where}: the file is missing")
    else:
        report.notes.append(f"{where}: on another host")


def _check_segment(data: bytes, statement: dict[str, Any], where: str, report: Report) -> None:
    sealed = data[: statement["bytes"]]
    report.segments += 1
    report.records += statement["records"]
    if hashlib.sha256(sealed).hexdigest() == statement["sha256"]:
        return  # to the last bit what was examined when it was sealed
    before = None if statement["before"] is None else bytes.fromhex(statement["before"])
    checked, damage = form.check_prefix(data, bytes.fromhex(statement["mac_key"]), before=before)
    if damage is None and checked is not None:
        reason = (
            f"entry {checked.entries} at byte {checked.size}: cut, {statement['entries']} entries were sealed"
        )
        if checked.entries >= statement["entries"]:
            reason = "not what was sealed, though its MACs are right"
        report.findings.append(f"{where}: {reason}")
    else:
        report.findings.append(f"{where}: {damage}")


def _check_open(name: str, chain: _Chain, folder: Path, present: set[int], report: Report) -> None:
    where = f"journal {chain.node}/{name}"
    row = JournalChain.objects.filter(pk=name).first()
    if row is None:
        report.findings.append(f"{where}: has no row in the database any more")
        return
    if not folder.is_dir():
        report.notes.append(f"{where}: has not ended, on another host; anchored {row.anchored_at}")
        return
    if row.anchor_segment is None or row.anchor_sequence is None:
        return
    if row.anchor_segment < len(chain.segments):
        return  # sealed since
    if row.anchor_segment not in present:
        report.findings.append(
            f"{where} segment {row.anchor_segment}: the file is missing, and it was anchored"
        )
        return
    data = segment_path(folder, name, row.anchor_segment).read_bytes()
    count = 0
    try:
        for entry in form.read_entries(data):
            count = entry.sequence + 1
            if entry.sequence == row.anchor_sequence and not hmac.compare_digest(
                entry.mac.hex(), row.anchor_mac
            ):
                report.findings.append(
                    f"{where} segment {row.anchor_segment}: entry {entry.sequence} is not the one that was anchored"
                )
                return
    except form.SegmentDamaged as damage:
        report.findings.append(f"{where} segment {row.anchor_segment}: {damage}")
        return
    if count <= row.anchor_sequence:
        missing = row.anchor_sequence + 1 - count
        report.findings.append(
            f"{where} segment {row.anchor_segment}: entry {count}: {missing} anchored entries are missing from here"
        )
        return
    report.notes.append(
        f"{where} segment {row.anchor_segment}: still written to; {count} entries,"
        f" anchored to {row.anchor_sequence}, the MACs between are checked when it is sealed"
    )


def _look_for_strangers(signed: _Signed, journal: Path, report: Report) -> None:
    known: dict[Path, set[str]] = defaultdict(set)
    for name, chain in signed.chains.items():
        known[_node_folder(journal, chain.node)].add(name)
    if not journal.is_dir():
        return
    for folder in sorted(path for path in journal.iterdir() if path.is_dir()):
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name not in known[folder]:
                told = f"journal {folder.name}/{path.name}: no seal says that it began"
                if signed.restored and folder.name not in signed.looked:
                    told += (
                        ", and its node has not looked since the restore: start its agent, then check again"
                    )
                report.findings.append(told)


def _node_folder(journal: Path, node: str) -> Path:
    return journal / node_folder_name(node)
