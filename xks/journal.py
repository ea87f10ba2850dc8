"""What the data plane writes down before it answers.

One record for each request with a valid signature, denied and failed ones too; requests without
one become counts.  Nothing here ever holds payload, key material or a secret.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

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


class Journal(Protocol):
    """Where records go.  Both methods are called on the event loop and must not block it for long."""

    def append(self, record: Record) -> None:
        """Keep ``record``; the answer leaves only after this returns.

        Raises:
            JournalUnavailable: it could not be kept.
        """

    def count(self, error_name: str, source: str) -> None:
        """Count a request without a valid signature, by errorName and caller's address."""


class MemoryJournal:
    """Keeps the last records in memory and no longer than the process lives."""

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
