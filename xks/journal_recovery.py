"""What a segment holds that nobody writes any more, and how it ended.

A worker that is killed leaves its last segment without an END, perhaps with a part of an entry behind
the last whole one: that is an *unclean end*, and says so.  It is told apart from tampering by the MACs
of everything before, by the anchors that the database holds, and by how little an unfinished write can
leave behind.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from xks import journal_format as form
from xks.journal_writer import COMPRESSED, SUFFIX, segment_path

MAX_TORN_BYTES: Final = 8192
"""More than this behind the last whole entry cannot come from one write that was cut short."""

NOTHING: Final = hashlib.sha256(b"").hexdigest()

End = Literal["clean", "next", "killed", "damaged", "missing"]
"""clean: closed in good order.  next: left after a failure of the device, another segment follows.
killed: the worker ended in the midst.  damaged: it does not hold what was written.  missing: no file."""


@dataclass(frozen=True)
class Anchor:
    """What the database knows to have been written: the MAC of an entry."""

    sequence: int
    mac: bytes


@dataclass(frozen=True)
class Examined:
    """One segment as it lies there.  All but ``end`` and ``detail`` speak of the part that holds."""

    end: End
    detail: str
    entries: int
    records: int
    size: int
    mac: bytes
    sha256: str
    opened_at: int
    """Microseconds since the epoch; 0 without a header."""


def segments_of(folder: Path, chain: str) -> list[int]:
    """Return the numbers of the segments of a chain that are there, in order.

    Raises:
        OSError: the folder cannot be read (that it is not there is no error).
    """
    try:
        names = [path.name for path in (folder / chain).iterdir()]
    except FileNotFoundError:
        return []
    plain = {name.removesuffix(COMPRESSED) for name in names}  # for a moment both may be there
    return sorted(int(name.removesuffix(SUFFIX)) for name in plain if name.endswith(SUFFIX))


def examine(
    data: bytes,
    mac_key: bytes,
    before: bytes | None,
    *,
    followed: bool,
    anchor: Anchor | None = None,
    place: tuple[str, int] | None = None,
) -> Examined:
    """Look at a segment that nobody writes any more.

    ``before`` is the last MAC of the segment before, None where that does not hold; ``followed`` says that another segment comes
    after it; ``anchor`` is the last one taken of it, if any; ``place`` is the chain and number that it
    must carry.
    """
    checked, damage = form.check_prefix(data, mac_key, before=before)
    if checked is None:
        if anchor is None and _is_unfinished(data):
            return Examined(
                "next" if followed else "killed", "not even begun", 0, 0, 0, before or form.NO_MAC, NOTHING, 0
            )
        return Examined("damaged", str(damage), 0, 0, 0, before or form.NO_MAC, NOTHING, 0)
    end, detail = _end_of(data, checked, damage, followed=followed)
    if place is not None and (checked.header.chain, checked.header.segment) != place:
        end, detail = "damaged", "entry 0 at byte 0: this is another segment"
    if anchor is not None:
        problem = _against_anchor(data, checked, anchor)
        if problem is not None:
            end, detail = "damaged", problem if end != "damaged" else f"{detail}; {problem}"
    digest = hashlib.sha256(memoryview(data)[: checked.size]).hexdigest()
    return Examined(
        end,
        detail,
        checked.entries,
        checked.records,
        checked.size,
        checked.mac,
        digest,
        checked.header.opened_at,
    )


def _is_unfinished(data: bytes) -> bool:
    """Whether all that is there is the beginning of one entry, if that."""
    try:
        return len(data) <= MAX_TORN_BYTES and not list(form.read_entries(data))
    except form.SegmentDamaged:
        return False


def _end_of(
    data: bytes, checked: form.Checked, damage: form.SegmentDamaged | None, *, followed: bool
) -> tuple[End, str]:
    rest = data[checked.size :]
    if damage is not None:
        if not any(rest):
            # What a file system leaves of blocks that were promised but not written before a power cut.
            return "killed", f"{len(rest)} bytes at the end never reached the disk"
        return "damaged", str(damage)
    if len(rest) > MAX_TORN_BYTES:
        return "damaged", (
            f"entry {checked.entries} at byte {checked.size}: followed by {len(rest)} bytes that are no entry"
        )
    torn = f"an unfinished entry of {len(rest)} bytes at the end" if rest else ""
    if checked.ended:
        return (
            ("damaged", f"entry {checked.entries} at byte {checked.size}: {torn}") if rest else ("clean", "")
        )
    return ("next" if followed else "killed"), torn


def _against_anchor(data: bytes, checked: form.Checked, anchor: Anchor) -> str | None:
    if anchor.sequence >= checked.entries:
        missing = anchor.sequence + 1 - checked.entries
        return f"entry {checked.entries} at byte {checked.size}: {missing} anchored entries are missing from here"
    for entry in form.read_entries(data):
        if entry.sequence == anchor.sequence:
            if hmac.compare_digest(entry.mac, anchor.mac):
                return None
            break
    return f"entry {anchor.sequence}: not the one that was anchored"


def examine_file(
    folder: Path,
    chain: str,
    segment: int,
    state: bytes,
    before: bytes | None,
    *,
    followed: bool,
    anchor: Anchor | None = None,
) -> Examined:
    """Examine a segment's file; one that is not there is "missing".

    ``state`` is that of the segment.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        data = segment_path(folder, chain, segment).read_bytes()
    except FileNotFoundError:
        return Examined("missing", "there is no such file", 0, 0, 0, before or form.NO_MAC, NOTHING, 0)
    return examine(
        data,
        form.mac_key_of(state),
        before,
        followed=followed,
        anchor=anchor,
        place=(chain, segment),
    )
