"""What the data plane has recorded of keys' use, as far as lists and bulk acts of this room ask for it.

The record belongs to the room above (xks/services/uses_of_keys.py), which puts its reader here when Django starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from django.db.models import Q


@dataclass(frozen=True)
class Reach:
    """Who used some keys of late: `services` are (name, principals), the one with most principals first."""

    days: int
    keys: int
    uses: int
    principals: int
    services: tuple[tuple[str, int], ...]
    last_at: datetime | None


class Reader(Protocol):
    """How recorded use is asked for. A fixed number of queries each, however many keys."""

    def last_used(self, keys: Iterable[UUID]) -> Mapping[UUID, datetime]:
        """When each was last used to encrypt or decrypt; keys without recorded use are left out."""

    def unused_since(self, since: datetime) -> Q:
        """A condition on CloudKeys: no use is recorded since then."""

    def reach(self, keys: Iterable[UUID], now: datetime) -> Reach:
        """Who would notice if these keys were refused from now on."""

    def known_since(self) -> datetime | None:
        """Since when uses are recorded; None when none ever were."""


class _Nothing:
    """Nothing is recorded: the room above is not installed."""

    def last_used(self, keys: Iterable[UUID]) -> Mapping[UUID, datetime]:
        return {}

    def unused_since(self, since: datetime) -> Q:
        return Q()

    def reach(self, keys: Iterable[UUID], now: datetime) -> Reach:
        return Reach(0, 0, 0, 0, (), None)

    def known_since(self) -> datetime | None:
        return None


_reader: Reader = _Nothing()


def read_by(reader: Reader) -> None:
    """Take `reader` from now on. Called once, when Django starts."""
    global _reader
    _reader = reader


def reader() -> Reader:
    """The reader of recorded use."""
    return _reader
