"""What may be wrong with a data-plane node: the codes, in words, and those that silence alone tells.

A node's agent writes what it knows of itself into its row; that it says nothing at all is seen by others
(:func:`silence_of`), and told once by a sweep (``vault.services.nodes.watch_nodes``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from django.conf import settings

from vault.models import Node

STALENESS_HALF: Final = "STALENESS_HALF"
STALENESS_OVER: Final = "STALENESS_OVER"
GENERATION_WENT_BACK: Final = "GENERATION_WENT_BACK"
ROOT_KEY: Final = "ROOT_KEY"
ROWS_LEFT_OUT: Final = "ROWS_LEFT_OUT"
JOURNAL: Final = "JOURNAL"
WORKER_STOPPED: Final = "WORKER_STOPPED"

CODES: Final = {
    STALENESS_HALF: "Half of the time has passed for which the node may answer without news from the database.",
    STALENESS_OVER: "The node refuses every request: it has been without news from the database for too long.",
    GENERATION_WENT_BACK: "The node refuses the database, which has gone backwards; an operator must accept it.",
    ROOT_KEY: "The node cannot use the root key, so it learns nothing new.",
    ROWS_LEFT_OUT: "Keys, credentials or stores that do not open are left out of the data plane.",
    JOURNAL: "A worker of the node cannot write its journal, so it answers no request.",
    WORKER_STOPPED: "A worker process of the node is stopped.",
}
SILENCE: Final = (STALENESS_HALF, STALENESS_OVER)


def bound_of_node(node: Node) -> float:
    """Seconds for which the node's workers may serve without news: its agent's word, else this process's setting."""
    bound = node.max_staleness_s
    return float(settings.KEYSTEAD_XKS_MAX_STALENESS) if bound is None else bound


def silence_of(node: Node, now: datetime) -> str | None:
    """Which alarm a node's silence raises at ``now``, if any."""
    if node.deregistered_at is not None:
        return None
    age, bound = (now - node.last_seen_at).total_seconds(), bound_of_node(node)
    return STALENESS_OVER if age > bound else STALENESS_HALF if age > bound / 2 else None


def alarms_of(node: Node, now: datetime) -> list[dict[str, Any]]:
    """Every alarm of a node: what its row says, and what its silence does."""
    silent = silence_of(node, now)
    found = [alarm for alarm in node.alarms if silent is None or alarm["code"] not in SILENCE]
    if silent is not None:
        since = node.last_seen_at.isoformat().replace("+00:00", "Z")
        found.append({"code": silent, "since": since, "detail": "Nothing has been heard of the node since."})
    return [{**alarm, "meaning": CODES.get(alarm["code"], "")} for alarm in found]
