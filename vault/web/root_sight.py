"""Whether the HSM that holds the root key is away, for the banner on every page. No page waits for it or asks the database.

Looked at by a thread, no more often than every few seconds and only while somebody looks at pages; a page shows what was
seen last. Without a root key in an HSM there is nothing to look at.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from django.db import connections

from vault import keys
from vault.models import HsmConnection, HsmKey, HsmMember, Installation

log = structlog.get_logger("keystead.web")
EVERY_S: Final = 10.0


@dataclass(frozen=True)
class RootAway:
    """The root key's HSM does not answer."""

    connection_id: UUID | None
    name: str
    waiting: bool
    """Whether this process has not opened its keys yet: what needs one waits. Else it goes on with what it has."""


_lock = threading.Lock()
_seen: RootAway | None = None
_looked_at = 0.0
_looking = False


def current() -> RootAway | None:
    """What was seen last; None while all is well, or nothing was seen yet."""
    global _looking
    if not keys.root_in_hsm():
        return None
    with _lock:
        begin = not _looking and time.monotonic() - _looked_at >= EVERY_S
        _looking = _looking or begin
        seen = _seen
    if begin:
        threading.Thread(target=_look_and_end, name="root-sight", daemon=True).start()
    return seen


def look() -> RootAway | None:
    """Look now. Asks the database, and the HSM where this process has opened nothing yet."""
    global _seen, _looked_at
    found = _find()
    with _lock:
        _seen, _looked_at = found, time.monotonic()
    return found


def forget() -> None:
    """Forget what was seen."""
    global _seen, _looked_at
    with _lock:
        _seen, _looked_at = None, 0.0


def _find() -> RootAway | None:
    root = Installation.objects.filter(pk=1).values_list("root_key_id", flat=True).first()
    row = (
        HsmConnection.objects.filter(
            keys__cka_id=root, keys__purpose=HsmKey.Purpose.ROOT, keys__state=HsmKey.State.ACTIVE
        )
        .prefetch_related("members")
        .first()
    )
    waiting = bool(keys.root_problem())
    states = [each.state for each in row.members.all()] if row is not None else []  # type: ignore[attr-defined]
    down = bool(states) and all(each == HsmMember.State.UNAVAILABLE for each in states)
    if not waiting and not down:
        return None
    return RootAway(row.pk if row is not None else None, row.name if row is not None else "", waiting)


def _look_and_end() -> None:
    global _looking, _looked_at
    try:
        look()
    except Exception:
        # With the database away pages say that themselves; what was seen stays.
        log.warning("the state of the root key's HSM is not known", exc_info=True)
        with _lock:
            _looked_at = time.monotonic()
    finally:
        connections.close_all()
        with _lock:
            _looking = False
