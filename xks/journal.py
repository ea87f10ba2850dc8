"""What the data plane writes down before it answers.

One record for each request with a valid signature, denied and failed ones too; requests without
one become counts.  Nothing here ever holds payload, key material or a secret.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Protocol

import msgspec


class JournalUnavailable(Exception):
    """The record could not be kept; no result may leave."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One authenticated request and what became of it.

    ``at`` is seconds since the epoch, ``microseconds`` the time from the request's arrival to this
    record.  ``outcome`` is "OK" or an errorName.  Key, version and metadata fields are empty (0)
    where the request did not get that far.  ``generation`` is that of the keyring which decided.
    """

    at: float
    generation: int
    store_id: str
    access_key_id: str
    region: str
    operation: str
    outcome: str
    microseconds: int
    external_key_id: str = ""
    key_id: str = ""
    version: int = 0
    principal_arn: str = ""
    kms_key_arn: str = ""
    kms_operation: str = ""
    kms_request_id: str = ""
    kms_via_service: str = ""
    source_vpc: str = ""
    source_vpce: str = ""


class Guard(Protocol):
    """Answers for a worker that is held up in a write (xks.journal_guard)."""

    def refuses(self) -> bool:
        """Whether the request that the calling thread is about to begin must be refused at once."""

    def begin(self, request: Any, scope: Any) -> bool:
        """A request is under way and may be refused from another thread; False when it already was."""

    def take(self, request: Any) -> bool:
        """Say that the request is answered now; False when it has been refused already."""


class Journal(Protocol):
    """Where records go.  Called on the event loop; nothing here may block it for long."""

    @property
    def guard(self) -> Guard | None:
        """Who answers while the journal holds up the worker, if anybody."""

    def append(self, record: Record) -> asyncio.Future[None] | None:
        """Keep ``record``.

        The answer leaves only after this returned or, when it returned a future, after that is done.
        The future may fail with JournalUnavailable, too.

        Raises:
            JournalUnavailable: it could not be kept.
        """

    def count(self, error_name: str, source: str) -> None:
        """Count a request without a valid signature, by errorName and caller's address."""

    def problem(self) -> str | None:
        """Return why nothing can be recorded at this moment, in plain ASCII; None when all is well."""

    def run_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the work in the background of ``loop``."""

    async def stop(self) -> None:
        """End in good order."""


class MemoryJournal:
    """Keeps the last records in memory and no longer than the process lives."""

    guard: Guard | None = None

    def __init__(self, limit: int = 1000) -> None:
        self.records: list[Record] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self._limit = limit

    def append(self, record: Record) -> None:
        """Keep ``record``, dropping the oldest half when full."""
        if len(self.records) >= self._limit:
            del self.records[: self._limit // 2]
        self.records.append(record)

    def count(self, error_name: str, source: str) -> None:
        """Count, for at most ``limit`` different sources; the others are counted together."""
        key = (error_name, source)
        if key not in self.counts and len(self.counts) >= self._limit:
            key = (error_name, "")
        self.counts[key] += 1

    def problem(self) -> str | None:
        """None: memory is always there."""
        return None

    def run_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing is to be done."""

    async def stop(self) -> None:
        """Nothing is to be done."""
