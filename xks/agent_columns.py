"""Columns read as text, for loads of very many rows.

Making a UUID, and parsing a row's JSON, take longer than all the rest of a row; a load of 100,000 keys has 600,000
ids and 200,000 JSON texts, of which most are the same few.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.db.models import TextField
from django.db.models.functions import Cast

MAX_PARSED = 1000
"""Different JSON texts of one load that are kept parsed."""


def as_text(column: str) -> Cast:
    """Return a column as text: making a UUID of an id costs more than all the rest of its row."""
    return Cast(column, TextField())


def dashed(text: str) -> str:
    """Return the usual form of a UUID's text; SQLite keeps it without dashes."""
    if len(text) == 32:
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return text


class Ids(dict[str, UUID]):
    """UUIDs by what the database says of them, each made once: for columns with few different ones."""

    def __missing__(self, text: str) -> UUID:
        made = self[text] = UUID(text)
        return made

    def text(self, text: str) -> str:
        """Return the usual text, the same object each time."""
        return self._texts.setdefault(text, dashed(text))

    def __init__(self) -> None:
        super().__init__()
        self._texts: dict[str, str] = {}


def parsed_json(text: str | None, known: dict[str, Any]) -> Any:
    """Return JSON parsed, once for each different text; None for what is no JSON."""
    if text is None:
        return None
    if text not in known:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if len(known) >= MAX_PARSED:
            return value
        known[text] = value
    return known[text]
