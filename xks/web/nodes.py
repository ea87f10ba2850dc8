"""The data plane's nodes: what each serves, how fresh it is, what is wrong with it. For the appliance admin."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Prefetch, Q
from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext, gettext_noop

from vault.errors import NotFound
from vault.generations import bound_of, current_generation
from vault.models import Node, WorkerProcess
from vault.node_alarms import (
    GENERATION_WENT_BACK,
    JOURNAL,
    ROOT_KEY,
    ROWS_LEFT_OUT,
    STALENESS_HALF,
    STALENESS_OVER,
    WORKER_STOPPED,
    alarms_of,
    bound_of_node,
)
from vault.permissions import Permission
from vault.services.nodes import accept_rollback
from vault.web.forms import ConfirmForm, confirm, submit
from vault.web.frame import appliance_page, can, done, page
from xks.models import JournalChain
from xks.services.journals import LATE_S, journals_of_nodes, seen_nodes, standing_of

VIEW, MANAGE = Permission.APPLIANCE_VIEW_NODES, Permission.APPLIANCE_MANAGE_NODES
MOST_CHAINS = 200
SOON = timedelta(days=30)
HELP = {
    "title": gettext_noop("What a node is"),
    "words": (
        (
            gettext_noop(
                "A node answers AWS. It keeps what it needs in memory, learns of changes within a second, and stops answering by itself "
                "when it has been without news for longer than its bound: so a key that you disable is not used by a node that is cut off."
            )
        ),
        gettext_noop(
            "The generation counts changes. A node that has applied the newest one serves exactly what you see here."
        ),
        (
            gettext_noop(
                "The journal is written before each answer, and is taken into the database afterwards. Its lag says how much of the newest "
                "record stands on the node alone."
            )
        ),
    ),
    "links": (
        (gettext_noop("Topologies"), "topologies"),
        (gettext_noop("Reliability"), "reliability"),
        (gettext_noop("The journal"), "journal"),
    ),
}
CURES = {
    STALENESS_HALF: gettext_noop(
        "See whether the node reaches the database. It stops answering when its bound is over."
    ),
    STALENESS_OVER: gettext_noop(
        "See whether its agent runs and reaches the database. Until then AWS must be led to other nodes."
    ),
    GENERATION_WENT_BACK: gettext_noop(
        "Look through what is lost, disable it anew, then accept the rollback."
    ),
    ROOT_KEY: gettext_noop("See whether its root key is there and is the one of this installation."),
    ROWS_LEFT_OUT: gettext_noop(
        "Its log names them. They were changed from outside, or belong to another root key."
    ),
    JOURNAL: gettext_noop("See whether its disk is full or fails. It answers again as soon as it can write."),
    WORKER_STOPPED: gettext_noop("Continue or end the process; the agent starts another one."),
}


@dataclass(frozen=True)
class WorkerSeen:
    """One serving process."""

    row: WorkerProcess
    state: str
    behind: int


@dataclass(frozen=True)
class JournalSeen:
    """How the journals of a node stand, put together."""

    open: int
    waiting: int
    gaps: tuple[str, ...]
    lag_s: float | None
    late: bool


@dataclass(frozen=True)
class NodeSeen:
    """A node as the page shows it."""

    row: Node
    state: str
    level: str
    bound_s: float
    age_s: float
    behind: int
    alarms: list[dict[str, Any]]
    workers: list[WorkerSeen]
    journal: JournalSeen
    certificate: dict[str, Any]
    certificate_ends: datetime | None
    certificate_state: str
    refused: bool
    accepted: bool

    @property
    def left_s(self) -> float:
        """Seconds for which it may still serve without news."""
        return max(0.0, self.bound_s - self.age_s)


def _state(row: Node | WorkerProcess, bound_s: float, now: datetime) -> str:
    if row.deregistered_at is not None:
        return "GONE"
    age = (now - row.last_seen_at).total_seconds()
    return "STALE" if age > bound_s else "LATE" if age > bound_s / 2 else "SERVING"


def _seen(row: Node, chains: list[JournalChain], alive: set[str], generation: int, now: datetime) -> NodeSeen:
    bound = bound_of_node(row)
    state = _state(row, bound, now)
    alarms = [{**alarm, "cure": CURES.get(alarm["code"], "")} for alarm in alarms_of(row, now)]
    if state == "GONE":
        alarms = []
    workers = []
    for worker in row.workers.all():
        silent = _state(worker, bound_of(worker), now)
        workers.append(
            WorkerSeen(
                worker,
                worker.state if silent == "SERVING" else silent,
                max(0, generation - worker.applied_generation),
            )
        )
    ends = _moment(row.certificate.get("not_after"))
    bad = state == "STALE" or not workers or any(alarm["code"] != STALENESS_HALF for alarm in alarms)
    level = "danger" if bad else "warn" if alarms or state != "SERVING" else "ok"
    return NodeSeen(
        row=row,
        state=state,
        level="neutral" if state == "GONE" else level,
        bound_s=bound,
        age_s=max(0.0, (now - row.last_seen_at).total_seconds()),
        behind=max(0, generation - row.applied_generation),
        alarms=alarms,
        workers=workers,
        journal=_journal(chains, alive),
        certificate=row.certificate,
        certificate_ends=ends,
        certificate_state=""
        if ends is None
        else "EXPIRED"
        if ends <= now
        else "EXPIRING"
        if ends - now < SOON
        else "VALID",
        refused=bool(row.refused_mark) and row.accepted_mark != row.refused_mark,
        accepted=bool(row.refused_mark) and row.accepted_mark == row.refused_mark,
    )


def _moment(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except (TypeError, ValueError):
        return None  # an agent of another version may write it otherwise: shown as not known


def _journal(chains: list[JournalChain], alive: set[str]) -> JournalSeen:
    standings = [(chain, standing_of(chain, alive)) for chain in chains]
    lags = [found.lag_s for _, found in standings if found.lag_s is not None and found.state != "COMPLETE"]
    gaps = tuple(f"{chain.process}: {found.detail}" for chain, found in standings if found.state == "GAP")
    return JournalSeen(
        open=sum(found.state == "OPEN" for _, found in standings),
        waiting=sum(found.state == "SHIPPING" for _, found in standings),
        gaps=gaps,
        lag_s=max(lags, default=None),
        late=max(lags, default=0.0) > LATE_S,
    )


@appliance_page(VIEW, methods=("GET", "HEAD"))
def node_list(request: Any) -> HttpResponse:
    """GET /appliance/nodes/; the part `nodes` refreshes itself."""
    now = timezone.now()
    workers = WorkerProcess.objects.filter(deregistered_at=None).order_by("registered_at")
    rows = list(Node.objects.prefetch_related(Prefetch("workers", queryset=workers)).order_by("name"))
    alive, generation = seen_nodes(), current_generation()
    open_chains: dict[str, list[JournalChain]] = {}
    wanted = Q(shipped=False) | Q(end__in=[JournalChain.End.LOST, JournalChain.End.DAMAGED])
    for chain in journals_of_nodes(request.actor).filter(wanted).order_by("-started_at")[:MOST_CHAINS]:
        open_chains.setdefault(chain.node_name, []).append(chain)
    seen = [_seen(row, open_chains.get(row.name, []), alive, generation, now) for row in rows]
    serving = [node for node in seen if node.state != "GONE"]
    gone = [node for node in seen if node.state == "GONE"]
    lost = sorted(set(open_chains) - {node.row.name for node in serving})
    context = {
        "nodes": serving,
        "gone": gone,
        "lost": [(name, _journal(open_chains[name], alive)) for name in lost],
        "generation": generation,
        "bad": sum(node.level == "danger" for node in serving),
        "doubtful": sum(node.level == "warn" for node in serving),
        "refusing": [node for node in serving if node.refused],
        "can_accept": can(request.actor, MANAGE),
        "help": HELP,
    }
    return page(request, "xks/nodes/list.html", context, part=("nodes", "xks/nodes/nodes.html"))


@appliance_page(MANAGE)
def node_accept_rollback(request: Any, node_id: UUID) -> HttpResponse:
    """GET, POST /appliance/nodes/<id>/accept-rollback/"""
    row = Node.objects.filter(pk=node_id).first()
    if row is None:
        raise NotFound("There is no such node.")
    back = reverse("nodes")
    form = ConfirmForm(request.POST or None, reason="required", typed=row.name)
    if request.method == "POST":
        accepted = submit(
            request, form, lambda values: accept_rollback(request.actor, row.pk, reason=values["reason"])
        )
        if accepted is not None:
            return done(
                request,
                back,
                gettext("%(name)s takes over what the database holds, within a second or two.")
                % {"name": row.name},
            )
    held, found = row.refused_from or 0, row.refused_generation or 0
    lost = held - found
    how = (
        gettext("%(lost)s changes") % {"lost": lost}
        if lost > 1
        else gettext("one change")
        if lost == 1
        else gettext("another history of changes")
    )
    return confirm(
        request,
        form,
        title=gettext("Let %(name)s take over the older database?") % {"name": row.name},
        words=gettext(
            "The node holds generation %(held)s; the database is at %(found)s. Between them lie %(how)s "
            "that the database no longer knows."
        )
        % {"held": held, "found": found, "how": how}
        if lost > 0
        else gettext("The node holds generation %(held)s; the database is at %(found)s, with %(how)s.")
        % {"held": held, "found": found, "how": how},
        consequences=[
            (
                "triangle-alert",
                gettext(
                    "Keys, credentials and stores that were disabled, blocked or revoked in the lost part serve again."
                ),
            ),
            (
                "list-checks",
                gettext(
                    "Disable and block them anew first. The audit record and the SIEM tell what they were."
                ),
            ),
            ("key-round", gettext("Keys that were made in the lost part are gone from this node too.")),
            ("server", gettext("Other nodes that refuse are asked for one by one.")),
        ],
        button=gettext("Accept the older database"),
        cancel=back,
        danger=True,
    )
