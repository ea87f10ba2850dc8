"""/api/v1/nodes: the data plane, process by process."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import Prefetch
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.response import Response

from vault.actors import Actor
from vault.api.endpoints import ApiView, operation, page
from vault.api.listing import Listing, present
from vault.api.serializers import PlainText, StrictSerializer
from vault.errors import NotFound, PermissionDenied
from vault.generations import bound_of, current_generation
from vault.models import Node, Vault, WorkerProcess
from vault.node_alarms import CODES, alarms_of, bound_of_node
from vault.permissions import Permission
from vault.services.nodes import Accepted, accept_rollback

TAG = "Nodes"


class WorkerSerializer(serializers.Serializer[Any]):
    """One serving process."""

    id = serializers.UUIDField()
    pid = serializers.IntegerField()
    state = serializers.SerializerMethodField(
        help_text="SERVING; STARTING: has not loaded its keys; DRAINING: told to end; STOPPED: by SIGSTOP or a debugger; LATE, STALE: "
        "as the node's."
    )
    max_staleness_s = serializers.FloatField(
        allow_null=True, help_text="Seconds for which it may serve without news."
    )
    applied_generation = serializers.IntegerField()
    behind = serializers.SerializerMethodField(help_text="Generations that it has not applied yet.")
    last_seen_at = serializers.DateTimeField()
    seconds_since_seen = serializers.SerializerMethodField()

    def get_behind(self, row: WorkerProcess) -> int:
        """Generations missing."""
        return max(0, int(self.context["generation"]) - row.applied_generation)

    def get_seconds_since_seen(self, row: WorkerProcess) -> float:
        """Age of its last sign of life."""
        return _age(row)

    def get_state(self, row: WorkerProcess) -> str:
        """What its agent saw last, unless nothing has been heard of it since."""
        silent = _state(row, bound_of(row))
        return row.state if silent == "SERVING" else silent


class AlarmSerializer(serializers.Serializer[Any]):
    """Something wrong with a node."""

    code = serializers.ChoiceField(choices=sorted(CODES))
    since = serializers.CharField(help_text="RFC 3339, UTC.")
    detail = serializers.CharField(allow_blank=True)
    meaning = serializers.CharField()


class RefusedSerializer(serializers.Serializer[Any]):
    """A database that went backwards, which the node refuses until an appliance admin accepts it."""

    held_generation = serializers.IntegerField(help_text="What the node holds.")
    found_generation = serializers.IntegerField(help_text="What it found.")


class NodeSerializer(serializers.Serializer[Any]):
    """One data-plane node: an agent and its worker processes."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    software_version = serializers.CharField(allow_blank=True)
    state = serializers.SerializerMethodField(
        help_text="SERVING; LATE: silent for half of the permitted staleness; STALE: silent for longer than that, so it refuses every "
        "request by itself; GONE: signed off."
    )
    started_at = serializers.DateTimeField()
    last_seen_at = serializers.DateTimeField()
    seconds_since_seen = serializers.SerializerMethodField()
    deregistered_at = serializers.DateTimeField(allow_null=True)
    applied_generation = serializers.IntegerField(help_text="What its agent has read.")
    current_generation = serializers.SerializerMethodField(help_text="What the database holds.")
    max_staleness_s = serializers.SerializerMethodField(
        help_text="Seconds after which a worker without news refuses, as its agent is set."
    )
    alarms = serializers.SerializerMethodField(help_text="What is wrong now; empty when nothing is.")
    refused = serializers.SerializerMethodField(
        help_text="Set while the node refuses a database that went backwards; see accept-rollback."
    )
    certificate = serializers.DictField(
        help_text="What its endpoint serves TLS with, as it says itself: source (installed, default, file, off), serial, "
        "fingerprint, not_after and the like; empty while its server process is not there."
    )
    workers = WorkerSerializer(many=True)

    def get_state(self, row: Node) -> str:
        """SERVING, LATE, STALE or GONE."""
        return _state(row, bound_of_node(row))

    @extend_schema_field(AlarmSerializer(many=True))
    def get_alarms(self, row: Node) -> list[dict[str, Any]]:
        """Its own, and what its silence tells."""
        return alarms_of(row, timezone.now())

    @extend_schema_field(RefusedSerializer(allow_null=True))
    def get_refused(self, row: Node) -> dict[str, Any] | None:
        """What it refuses."""
        if not row.refused_mark:
            return None
        return {"held_generation": row.refused_from or 0, "found_generation": row.refused_generation or 0}

    def get_seconds_since_seen(self, row: Node) -> float:
        """Age of its last sign of life."""
        return _age(row)

    def get_current_generation(self, row: Node) -> int:
        """The database's."""
        return int(self.context["generation"])

    def get_max_staleness_s(self, row: Node) -> float:
        """The agent's setting."""
        return bound_of_node(row)


def _age(row: Node | WorkerProcess) -> float:
    return round(max(0.0, (timezone.now() - row.last_seen_at).total_seconds()), 1)


def _state(row: Node | WorkerProcess, bound_s: float) -> str:
    if row.deregistered_at is not None:
        return "GONE"
    age = timezone.now() - row.last_seen_at
    bound = timedelta(seconds=bound_s)
    if age > bound:
        return "STALE"
    return "LATE" if age > bound / 2 else "SERVING"


NODE = {
    "id": "1f0a5a5e-54a3-4d6c-9b7e-6f5e4d3c2b1a",
    "name": "xks-a",
    "software_version": "0.1.0",
    "state": "SERVING",
    "started_at": "2026-11-22T08:00:00Z",
    "last_seen_at": "2026-11-22T14:00:00Z",
    "seconds_since_seen": 0.4,
    "deregistered_at": None,
    "applied_generation": 118,
    "current_generation": 118,
    "max_staleness_s": 60.0,
    "alarms": [],
    "refused": None,
    "certificate": {
        "source": "installed",
        "serial": "3b9aca07",
        "fingerprint": "9a6ec012e1a7da9dbe34194d478ad7c0db1822fb071df12981496ed104384113",
        "subject": "CN=xks.example.com",
        "issuer": "CN=Example Public CA,O=Example,C=US",
        "names": ["xks.example.com"],
        "not_before": "2026-11-22T00:00:00+00:00",
        "not_after": "2027-02-20T00:00:00+00:00",
        "client_roots": "",
        "trouble": "",
    },
    "workers": [
        {
            "id": "2a1b5a5e-54a3-4d6c-9b7e-6f5e4d3c2b1a",
            "pid": 4711,
            "state": "SERVING",
            "max_staleness_s": 60.0,
            "applied_generation": 118,
            "behind": 0,
            "last_seen_at": "2026-11-22T14:00:00Z",
            "seconds_since_seen": 0.4,
        }
    ],
}
NODES = Listing(
    orderings={"name": "name", "last_seen_at": "last_seen_at"},
    default_ordering="name",
    filters=(
        present("gone", "deregistered_at", "true: only nodes that signed off; false: only the others."),
    ),
    in_vault=False,
)


def _rows(actor: Actor) -> Any:
    """Nodes serve every vault, so whoever may see them in one vault, or in the appliance, sees them all."""
    if not actor.may(Permission.APPLIANCE_VIEW_NODES):
        vaults = list(actor.visible(Vault))
        if not any(actor.may(Permission.NODES_VIEW, vault) for vault in vaults):
            raise PermissionDenied(
                "Nodes are shown to members of a vault.", cure="Ask a vault admin to add you."
            )
    workers = WorkerProcess.objects.filter(deregistered_at=None).order_by("registered_at")
    return Node.objects.prefetch_related(Prefetch("workers", queryset=workers))


class NodeList(ApiView):
    """GET nodes"""

    @operation(
        "nodes_list",
        summary="List data-plane nodes",
        description="Every node with its worker processes, what each has applied, and how long ago it was heard of.",
        tag=TAG,
        response=NodeSerializer,
        example=NODE,
        listing=NODES,
    )
    def get(self, request: Any) -> Response:
        """List nodes."""
        return page(request, _rows(request.actor), NODES, NodeSerializer, generation=current_generation())


class NodeDetail(ApiView):
    """GET nodes/{node_id}"""

    @operation(
        "nodes_show",
        summary="Read a data-plane node",
        description="One node with its worker processes.",
        tag=TAG,
        response=NodeSerializer,
        example=NODE,
        errors=(404,),
    )
    def get(self, request: Any, node_id: UUID) -> Response:
        """Read a node."""
        row = _rows(request.actor).filter(pk=node_id).first()
        if row is None:
            raise NotFound("There is no such node.")
        return Response(NodeSerializer(row, context={"generation": current_generation()}).data)


class RollbackInput(StrictSerializer):
    """Which nodes, and why."""

    node = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Default: every node that refuses."
    )
    reason = PlainText(max_length=1000, allow_blank=True, default="", lines=True)


class AcceptedSerializer(serializers.Serializer[Accepted]):
    """A node that takes the older database over, within a second or two."""

    id = serializers.UUIDField(source="node.pk")
    name = serializers.CharField(source="node.name")
    held_generation = serializers.IntegerField(help_text="What it lets go of.")
    accepted_generation = serializers.IntegerField(help_text="What the database held when it was accepted.")


class AcceptedListSerializer(serializers.Serializer[Any]):
    """The nodes concerned."""

    items = AcceptedSerializer(many=True)


class RollbackAccept(ApiView):
    """POST nodes/accept-rollback"""

    @operation(
        "nodes_accept_rollback",
        summary="Accept a database that went backwards",
        description="After a failover that lost commits, or a restored backup, nodes take nothing more from the database, and "
        "their workers refuse by themselves when their time is over: keys that were disabled, blocked or revoked since might "
        "be open again there. Look through what is lost (disable it anew), then accept: the nodes take over what the "
        "database holds, without any restart. For appliance admins.",
        tag=TAG,
        request=RollbackInput,
        request_example={"reason": "Restored the backup of 13:00; Payments was disabled again"},
        response=AcceptedListSerializer,
        example={
            "items": [
                {
                    "id": NODE["id"],
                    "name": "xks-a",
                    "held_generation": 118,
                    "accepted_generation": 97,
                }
            ]
        },
        errors=(404, 409),
    )
    def post(self, request: Any) -> Response:
        """Accept."""
        body = request.data_in
        done = accept_rollback(request.actor, body["node"], reason=body["reason"])
        return Response(AcceptedListSerializer({"items": done}).data)
