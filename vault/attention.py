"""What needs somebody's attention, as data: each room finds its own items, xks/services/attention.py puts them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from django.conf import settings
from django.db.models import Q

from vault.actors import Actor
from vault.models import Node, Vault

MOST_ROWS = 10
"""Items of one kind that are told apart; what is beyond is counted in one further item."""
MOST_EXAMPLES = 5
NODE_FORGOTTEN_AFTER = timedelta(days=7)
"""A node that never signed off and was not seen for so long is taken for gone."""


class Severity(IntEnum):
    """How bad it is. Higher is worse."""

    NOTICE = 1
    WARNING = 2
    CRITICAL = 3


@dataclass(frozen=True)
class Ref:
    """An object by id and name."""

    id: str
    name: str


@dataclass(frozen=True)
class Item:
    """One thing that needs attention, with its fix.

    kind: a stable word. what: the thing and its trouble. why: what follows from it. fix: a button's words; action: a stable
    word for what the button does, on the target. count: how many objects it speaks of, at most 1,000 being counted; more than
    one: `examples` names some, and `list_query` is the query string with which their list shows them all. since: when it
    began, where that is known.
    """

    kind: str
    severity: Severity
    what: str
    why: str
    fix: str
    action: str
    target_type: str
    target_id: str = ""
    target_name: str = ""
    since: datetime | None = None
    count: int = 1
    examples: tuple[Ref, ...] = ()
    list_query: str = ""

    @property
    def key(self) -> str:
        """Tells the item apart from others, now and later."""
        return f"{self.kind}:{self.target_id}"


VaultSource = Callable[[Actor, Vault, datetime], Iterable[Item]]
InstallationSource = Callable[[Actor, datetime], Iterable[Item]]


def worst_first(items: Iterable[Item]) -> list[Item]:
    """In the order in which somebody should look at them."""
    return sorted(items, key=lambda item: (-item.severity, item.kind, item.target_name, item.target_id))


def beyond(kind: str, severity: Severity, words: str, action: str, target_type: str) -> Item:
    """The item that stands for those beyond MOST_ROWS."""
    return Item(
        kind=f"{kind}.more",
        severity=severity,
        what=words,
        why=f"The first {MOST_ROWS} are listed one by one.",
        fix="Show all",
        action=action,
        target_type=target_type,
    )


def data_plane_items(now: datetime) -> list[Item]:
    """Nodes that are late, stale, or raise an alarm; and that no node serves at all. One query."""
    default = float(settings.KEYSTEAD_XKS_MAX_STALENESS)
    rows = list(
        Node.objects.filter(deregistered_at=None)
        .filter(Q(last_seen_at__gte=now - NODE_FORGOTTEN_AFTER))
        .order_by("name")[: MOST_ROWS + 1]
    )
    found: list[Item] = []
    serving = 0
    for node in rows[:MOST_ROWS]:
        bound = node.max_staleness_s or default
        age = (now - node.last_seen_at).total_seconds()
        serving += age <= bound
        if age > bound / 2:
            found.append(_silent(node, age, bound))
        found.extend(_alarm(node, alarm) for alarm in node.alarms)
    if len(rows) > MOST_ROWS:
        found.append(beyond("node", Severity.WARNING, "There are more nodes.", "open_nodes", "node"))
    if rows and not serving:
        found.append(
            Item(
                kind="data_plane.down",
                severity=Severity.CRITICAL,
                what="No node serves XKS requests.",
                why="AWS gets no answer: nothing under these keys can be encrypted or decrypted.",
                fix="Show nodes",
                action="open_nodes",
                target_type="node",
                since=max(node.last_seen_at for node in rows),
            )
        )
    return found


def _silent(node: Node, age: float, bound: float) -> Item:
    stale = age > bound
    return Item(
        kind="node.stale" if stale else "node.late",
        severity=Severity.CRITICAL if stale else Severity.WARNING,
        what=f"Node {node.name} has not been heard of for {_span(age)}.",
        why=(
            "Its workers refuse every request by themselves; other nodes go on."
            if stale
            else f"After {_span(bound)} without news its workers refuse every request."
        ),
        fix="Show node",
        action="open_node",
        target_type="node",
        target_id=str(node.pk),
        target_name=node.name,
        since=node.last_seen_at,
    )


def _alarm(node: Node, alarm: dict[str, object]) -> Item:
    code = str(alarm.get("code", ""))
    since = alarm.get("since")
    return Item(
        kind=f"node.alarm.{code.lower()}",
        severity=Severity.CRITICAL,
        what=f"Node {node.name} raises an alarm: {code.lower().replace('_', ' ')}.",
        why=str(alarm.get("detail") or "The node page tells more."),
        fix="Show node",
        action="open_node",
        target_type="node",
        target_id=str(node.pk),
        target_name=node.name,
        since=datetime.fromisoformat(since) if isinstance(since, str) and since else None,
    )


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
