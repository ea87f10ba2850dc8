"""How lists look for a part of a name."""

from __future__ import annotations

from typing import Any

from django.db.models import CharField
from django.db.models.lookups import IContains


@CharField.register_lookup
class Holds(IContains):
    """`name__holds="pay"`: as `icontains`, in less time where 100,000 names are read.

    On PostgreSQL Django writes UPPER(name) LIKE UPPER('%pay%'), which makes a text of each row; ILIKE compares in place.
    https://www.postgresql.org/docs/15/functions-matching.html#FUNCTIONS-LIKE
    """

    lookup_name = "holds"

    def get_rhs_op(self, connection: Any, rhs: Any) -> str:
        """The comparison, with its right side."""
        if connection.vendor == "postgresql":
            return f"ILIKE {rhs}"
        return str(connection.operators["icontains"] % rhs)
