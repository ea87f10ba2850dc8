"""/api/v1/nodes: the data plane, process by process."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Prefetch
from django.utils import timezone
from rest_framework import serializers
from rest_framework.response import Response

from vault.actors import Actor
from vault.api.endpoints import ApiView, operation, page
from vault.api.listing import Listing, present
from vault.errors import NotFound, PermissionDenied
from vault.generations import current_generation
from vault.models import Node, Vault, WorkerProcess
from vault.permissions import Permission

TAG = "Nodes"


class WorkerSerializer(serializers.Serializer[Any]):
    """One serving process."""

    id = serializers.UUIDField()
    pid = serializers.IntegerField()
    applied_generation = serializers.IntegerField()
    behind = serializers.SerializerMethodField(help_text="Generations that it has not applied yet.")
    last_seen_at = serializers.DateTimeField()
    seconds_since_seen = serializers.SerializerMethodField()
    state = serializers.SerializerMethodField(help_text="See the node's state.")

    def get_behind(self, row: WorkerProcess) -> int:
        """Generations missing."""
        return max(0, int(self.context["generation"]) - row.applied_generation)

    def get_seconds_since_seen(self, row: WorkerProcess) -> float:
        """Age of its last sign of life."""
        return _age(row)

    def get_state(self, row: WorkerProcess) -> str:
        """SERVING, LATE, STALE or GONE."""
        return _state(row)


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
        help_text="Seconds after which a worker without news refuses."
    )
    workers = WorkerSerializer(many=True)

    def get_state(self, row: Node) -> str:
        """SERVING, LATE, STALE or GONE."""
        return _state(row)

    def get_seconds_since_seen(self, row: Node) -> float:
        """Age of its last sign of life."""
        return _age(row)

    def get_current_generation(self, row: Node) -> int:
        """The database's."""
        return int(self.context["generation"])

    def get_max_staleness_s(self, row: Node) -> float:
        """The setting."""
        return float(settings.KEYSTEAD_XKS_MAX_STALENESS)


def _age(row: Node | WorkerProcess) -> float:
    return round(max(0.0, (timezone.now() - row.last_seen_at).total_seconds()), 1)


def _state(row: Node | WorkerProcess) -> str:
    if row.deregistered_at is not None:
        return "GONE"
    age = timezone.now() - row.last_seen_at
    bound = timedelta(seconds=float(settings.KEYSTEAD_XKS_MAX_STALENESS))
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
    "workers": [
        {
            "id": "2a1b5a5e-54a3-4d6c-9b7e-6f5e4d3c2b1a",
            "pid": 4711,
            "applied_generation": 118,
            "behind": 0,
            "last_seen_at": "2026-11-22T14:00:00Z",
            "seconds_since_seen": 0.4,
            "state": "SERVING",
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
