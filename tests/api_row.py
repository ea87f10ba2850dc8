"""One row of the matrix of endpoints and the fixed cast (tests/api_matrix.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cast import Cast

Body = Callable[[Cast], Any]


@dataclass(frozen=True)
class Row:
    """One method of one address.

    route: as in the URL table. owner, colleague, auditor, outsider, appliance, anonymous: the status that each gets. at: makes what
    the path names, and returns the path's parameters. body: the JSON sent. query: the query string. if_match: sends `*`.
    session: asks with a session in place of a token. patch: puts stand-ins where the cloud would be asked.
    """

    method: str
    route: str
    owner: int
    colleague: int
    auditor: int
    outsider: int
    appliance: int
    anonymous: int = 401
    at: Callable[[Cast], dict[str, Any]] | None = None
    body: Body | None = None
    query: Callable[[Cast], dict[str, Any]] | None = None
    if_match: bool = False
    session: bool = False
    patch: Callable[[pytest.MonkeyPatch], None] | None = None

    def __str__(self) -> str:
        return f"{self.method} /{self.route}"


def in_payments(cast: Cast) -> dict[str, Any]:
    """Query or body that names the owner's vault, so that the outsider asks for it too."""
    return {"vault": str(cast.vault.pk)}
