"""Which keys were selected in the list, carried in the address of what is done with them: reload, Back and signing in again keep it.

k.<ids>        these keys, 16 bytes each
q.<query>      every key that this filter finds when it is looked at
o.<operation>  those that a bulk act was refused for
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.http import QueryDict

from cloudkeys.api.key_shapes import KEYS
from cloudkeys.models import CloudKey, Operation
from cloudkeys.services.bulk import MAX_ITEMS
from vault.api.listing import filtered
from vault.api.problems import ApiError
from vault.errors import Conflict, NotFound
from vault.models import Vault
from vault.permissions import Permission
from vault.web.frame import uuid_or_none


class _Query:
    """As much of a REST request as filters read."""

    def __init__(self, given: QueryDict) -> None:
        self.query_params = given


@dataclass(frozen=True)
class Selection:
    """Keys of one vault. `query`: the list's filter when all that it finds was meant."""

    ids: tuple[UUID, ...]
    query: str = ""

    @property
    def seal(self) -> str:
        """Tells two selections apart: what a person confirms must be what they saw."""
        return hashlib.sha256(b"".join(sorted(pk.bytes for pk in self.ids))).hexdigest()[:32]


def of_ids(ids: Iterable[UUID]) -> str:
    """These keys."""
    return "k." + _text(b"".join(pk.bytes for pk in dict.fromkeys(ids)))


def of_query(query: str) -> str:
    """All that the filter finds."""
    known = {spec.name for spec in KEYS.filters}
    kept = QueryDict(mutable=True)
    for name, values in QueryDict(query).lists():
        if name in known:
            kept.setlist(name, values)
    return "q." + _text(kept.urlencode().encode())


def of_refused(operation: Operation) -> str:
    """Those that a bulk act was refused for."""
    return f"o.{operation.pk}"


def read(request: Any, vault: Vault, token: str) -> Selection:
    """The selection behind a token. Raises NotFound when it is none, Conflict when it is empty or too large."""
    kind, _, rest = token.partition(".")
    rows = request.actor.visible(CloudKey).filter(vault=vault)
    query = ""
    if kind == "k":
        data = _bytes(rest)
        if not data or len(data) % 16:
            raise _unknown()
        ids = [UUID(bytes=data[at : at + 16]) for at in range(0, len(data), 16)][: MAX_ITEMS + 1]
        rows = rows.filter(pk__in=ids)
    elif kind == "q":
        try:
            query = _bytes(rest).decode()
            given = QueryDict(query)
            if "kind" not in given:
                rows = rows.filter(kind=CloudKey.Kind.USER)
            rows = filtered(_Query(given), rows, KEYS.filters)  # type: ignore[arg-type]
        except (ApiError, UnicodeDecodeError):
            raise _unknown() from None
    elif kind == "o":
        found = uuid_or_none(rest)
        if found is None:
            raise _unknown()
        work = request.actor.fetch(Operation, found, Permission.OPERATIONS_VIEW)
        rows = rows.filter(pk__in=[UUID(row["id"]) for row in work.result.get("failed", []) if row.get("id")])
    else:
        raise _unknown()
    ids = list(rows.order_by("name", "pk").values_list("pk", flat=True)[: MAX_ITEMS + 1])
    if not ids:
        raise Conflict("No key is selected.", cure="Go back to the list and tick some.")
    if len(ids) > MAX_ITEMS:
        raise Conflict(
            f"These are more than {MAX_ITEMS:,} keys, which is as many as are acted upon at once.",
            cure="Narrow the filter, such as to one key set or region, and repeat for the rest.",
        )
    return Selection(tuple(ids), query)


def _unknown() -> NotFound:
    return NotFound("This selection of keys is not understood.", cure="Go back to the list and select again.")


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise _unknown() from None
