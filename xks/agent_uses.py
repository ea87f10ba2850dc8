"""The agent's part in knowing who still uses which credential: times of last use, on their way into the database.

They only move forward, whichever node writes them and in whatever order. What a node has not written when it is killed
is lost: WRITE_EVERY_S and a lease's interval at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from django.db import transaction

from cloudkeys.models import XksCredential, XksCredentialRegion
from xks.wire import CredentialUse

WRITE_EVERY_S = 3.0
MAX_REGIONS = 64
"""Regions of one credential that are told apart; uses in others count under ""."""
_AT_ONCE = 500

Times = tuple[float, float | None]


class UseTimes:
    """Times of last use of this node's workers. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._times: dict[tuple[str, str], Times] = {}

    def __bool__(self) -> bool:
        return bool(self._times)

    def add(self, uses: Iterable[CredentialUse]) -> None:
        """Take over a worker's report."""
        for use in uses:
            self._add((use.access_key_id, use.region), (use.last_at, use.succeeded_at))

    def _add(self, name: tuple[str, str], times: Times) -> None:
        self._times[name] = _later(self._times.get(name), times)

    def take(self) -> UseTimes:
        """Return what is there, and begin anew."""
        taken = UseTimes()
        taken._times, self._times = self._times, {}
        return taken

    def put_back(self, taken: UseTimes) -> None:
        """Remember again what could not be written."""
        for name, times in taken._times.items():
            self._add(name, times)

    def write(self) -> None:
        """Move the rows' times on. What is not known (a credential gone meanwhile) is dropped."""
        names = sorted({access_key_id for access_key_id, _ in self._times})
        for start in range(0, len(names), _AT_ONCE):
            self._write_some(set(names[start : start + _AT_ONCE]))

    def _write_some(self, names: set[str]) -> None:
        ids = dict(XksCredential.objects.filter(access_key_id__in=names).values_list("access_key_id", "pk"))
        with transaction.atomic():
            rows: dict[object, dict[str, XksCredentialRegion]] = {}
            held = XksCredentialRegion.objects.select_for_update().filter(credential__in=ids.values())
            # In one order everywhere, so that two nodes never wait for each other.
            for row in held.order_by("pk"):
                rows.setdefault(row.credential_id, {})[row.region] = row
            changed: list[XksCredentialRegion] = []
            for (access_key_id, region), times in self._times.items():
                if access_key_id not in names or access_key_id not in ids:
                    continue
                known = rows.setdefault(ids[access_key_id], {})
                if region not in known and len(known) >= MAX_REGIONS:
                    region = ""
                found = known.get(region)
                if found is None:
                    found, _ = XksCredentialRegion.objects.get_or_create(
                        credential_id=ids[access_key_id], region=region
                    )
                    known[region] = found
                _move_on(found, times)
                changed.append(found)
            XksCredentialRegion.objects.bulk_update(
                changed, ["last_used_at", "last_succeeded_at"], batch_size=100
            )


def _later(first: Times | None, second: Times) -> Times:
    if first is None:
        return second
    succeeded = [at for at in (first[1], second[1]) if at is not None]
    return max(first[0], second[0]), max(succeeded) if succeeded else None


def _move_on(row: XksCredentialRegion, times: Times) -> None:
    for column, at in zip(("last_used_at", "last_succeeded_at"), times, strict=True):
        if at is None:
            continue
        moment = datetime.fromtimestamp(at, UTC)
        before = getattr(row, column)
        if before is None or before < moment:
            setattr(row, column, moment)
