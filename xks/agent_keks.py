"""KEKs of key sets that are wrapped in an HSM, opened beside the loading of everything else.

A key set's KEK costs one call of the HSM, once for as long as its blob stays the same.  The calls are made by threads
of their own, some for each connection, so that an HSM that hangs or is gone holds up neither the reader nor the key sets
of another HSM, and one over a network (5 ms a call) does not make a thousand key sets wait for their turn.  What could
not be opened is tried again by itself, and the reader is woken when it opens.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

import structlog

from hsm.base import DataInvalid, HsmError, KeyWrapper
from hsm.software import KEY_BYTES, SoftwareKeyWrapper

log = structlog.get_logger("keystead.agent")

FIRST_WAIT_S = 1.0
"""A load waits so long, once, for KEKs that it meets for the first time; a healthy HSM takes milliseconds."""
AT_ONCE = 8
"""Calls that one HSM is given at a time, at most."""
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts at an HSM that does not answer."""


class WrappedKek(NamedTuple):
    """A key set's KEK as it stands in the database, the vault's own wrapping taken off."""

    key_set_id: UUID
    connection_id: UUID
    hsm_key: bytes
    """CKA_ID of the wrapping key."""
    blob: bytes
    place: bytes
    """Associated data."""


class Opened(NamedTuple):
    """What is known of a KEK: opened, not now (the HSM does not answer), or never (`broken` says why)."""

    wrapper: KeyWrapper | None
    broken: str = ""


NOT_NOW = Opened(None)
_Digest = bytes


class _Line:
    """What waits for one connection's HSM."""

    def __init__(self) -> None:
        self.waiting: dict[UUID, tuple[WrappedKek, _Digest]] = {}
        """Also what is being asked for just now, whose ids are ``taken``."""
        self.taken: set[UUID] = set()
        self.threads = 0
        self.failures = 0
        """In a row, as seen by whichever thread."""
        self.not_before = 0.0
        """time.monotonic() from which on it is asked again."""


class Keks:
    """Opens KEKs and keeps them in memory; may be used from several threads."""

    def __init__(
        self, opener: Callable[[WrappedKek], bytes], *, wake: Callable[[], None] = lambda: None
    ) -> None:
        """``opener`` asks the HSM, and raises HsmError; ``wake`` is called when one opens that could not before."""
        self._opener = opener
        self.wake = wake
        self._news = threading.Condition()
        self._known: dict[UUID, tuple[_Digest, Opened]] = {}
        self._lines: dict[UUID, _Line] = {}
        self._missed: set[UUID] = set()
        self._late: set[UUID] = set()
        self._stopping = False
        self.calls = 0
        """Calls of HSMs so far."""
        self.seconds = 0.0
        """What they took together."""

    def get(self, wanted: Iterable[WrappedKek], *, wait_s: float = FIRST_WAIT_S) -> Mapping[UUID, Opened]:
        """Return what is known of each, having waited ``wait_s`` at most for those met for the first time."""
        asked = {kek.key_set_id: (kek, _digest(kek)) for kek in wanted}
        with self._news:
            new = {id for id, (_, digest) in asked.items() if self._known.get(id, (b"",))[0] != digest}
            for id in new:
                kek, digest = asked[id]
                self._known.pop(id, None)
                self._enqueue(kek, digest)
            self._news.wait_for(
                lambda: all(self._answered(id, asked[id][1]) for id in new) or self._stopping, timeout=wait_s
            )
            found = {}
            for id, (_, digest) in asked.items():
                known = self._known.get(id)
                if known is None or known[0] != digest:
                    known = self._known[id] = (digest, NOT_NOW)
                if known[1] is NOT_NOW:
                    self._missed.add(id)
                found[id] = known[1]
            return found

    def take_late(self) -> set[UUID]:
        """Return the key sets whose KEK has opened since somebody was told "not now", once."""
        with self._news:
            late, self._late = self._late, set()
            return late

    @property
    def missing(self) -> int:
        """Key sets that cannot be opened at this moment."""
        with self._news:
            return sum(1 for _, opened in self._known.values() if opened is NOT_NOW)

    def stop(self) -> None:
        """End the threads soon; a call that is being made is not waited for."""
        with self._news:
            self._stopping = True
            self._news.notify_all()

    def _answered(self, id: UUID, digest: _Digest) -> bool:
        known = self._known.get(id)
        return known is not None and known[0] == digest

    def _enqueue(self, kek: WrappedKek, digest: _Digest) -> None:
        for other in self._lines.values():
            other.waiting.pop(kek.key_set_id, None)  # what is asked for now is all that counts
        line = self._lines.setdefault(kek.connection_id, _Line())
        line.waiting[kek.key_set_id] = (kek, digest)
        if line.threads < min(AT_ONCE, len(line.waiting)):
            line.threads += 1
            name = f"keks-{kek.connection_id}-{line.threads}"
            threading.Thread(target=self._work, args=(line,), name=name, daemon=True).start()
        self._news.notify_all()

    def _take(self, line: _Line) -> tuple[WrappedKek, _Digest] | None:
        """Wait for a KEK that no other thread is opening; None when all is to end.  The lock is held."""
        while not self._stopping:
            rest = line.not_before - time.monotonic()
            # While the HSM does not answer one thread asks it, and no crowd.
            if rest <= 0 and not (line.failures and line.taken):
                free = next((id for id in line.waiting if id not in line.taken), None)
                if free is not None:
                    line.taken.add(free)
                    return line.waiting[free]
            self._news.wait(rest if rest > 0 and line.waiting else None)
        return None

    def _work(self, line: _Line) -> None:
        while True:
            with self._news:
                work = self._take(line)
                if work is None:
                    return
                failures = line.failures
            kek, digest = work
            opened = self._open(kek, failures)
            with self._news:
                line.taken.discard(kek.key_set_id)
                self._note(line, kek, digest, opened, failures)
                self._news.notify_all()
                woken = bool(self._late)
            if woken:
                self.wake()

    def _note(self, line: _Line, kek: WrappedKek, digest: _Digest, opened: Opened, failures: int) -> None:
        """Keep what the HSM has said.  The lock is held."""
        waiting = line.waiting
        current = waiting.get(kek.key_set_id, (None, b""))[1] == digest
        if current:
            self._known[kek.key_set_id] = (digest, opened)
        if opened is NOT_NOW:
            if failures == line.failures:  # calls made together fail together, and count once
                line.not_before = time.monotonic() + RETRY_S[min(failures, len(RETRY_S) - 1)]
                line.failures += 1
            if current:
                waiting[kek.key_set_id] = waiting.pop(kek.key_set_id)  # others get their turn
            # The others of this HSM need not wait for their turn to be told the same.
            for other, (_, its_digest) in waiting.items():
                self._known.setdefault(other, (its_digest, NOT_NOW))
            return
        line.failures, line.not_before = 0, 0.0
        if current:
            del waiting[kek.key_set_id]
            if kek.key_set_id in self._missed:
                self._missed.discard(kek.key_set_id)
                self._late.add(kek.key_set_id)

    def _open(self, kek: WrappedKek, failures: int) -> Opened:
        began = time.monotonic()
        try:
            plain = self._opener(kek)
        except DataInvalid as error:
            return Opened(None, f"its key set's key does not open in the HSM: {error}")
        except HsmError as error:
            if failures == 0:
                log.error(
                    "an HSM does not open a key set's key; trying again, its keys are refused with 503 until then",
                    key_set_id=str(kek.key_set_id),
                    cause=f"{type(error).__name__}: {error}",
                )
            return NOT_NOW
        except Exception as error:  # whatever it is, the other key sets and the reader go on
            if failures == 0:
                log.error("opening a key set's key failed", cause=type(error).__name__)
            return NOT_NOW
        finally:
            with self._news:
                self.calls += 1
                self.seconds += time.monotonic() - began
        if len(plain) != KEY_BYTES:
            return Opened(None, "its key set's key is no AES-256 key")
        if failures:
            log.info("the HSM answers again: a key set's key is open", key_set_id=str(kek.key_set_id))
        return Opened(SoftwareKeyWrapper(plain))


def _digest(kek: WrappedKek) -> _Digest:
    return hashlib.sha256(b"|".join((kek.hsm_key, kek.connection_id.bytes, kek.blob, kek.place))).digest()
