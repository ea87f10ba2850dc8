"""/api/v1/operations: long work, to be watched, retried, cancelled."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework.response import Response

from cloudkeys.api.shapes import OPERATION, OperationSerializer
from cloudkeys.models import Operation
from cloudkeys.operations import KINDS, cancel_operation, retry_operation
from vault.api.endpoints import ApiView, operation, page
from vault.api.listing import Listing, choice, identifier, moment, text, vault_of
from vault.permissions import Permission

TAG = "Operations"
LISTING = Listing(
    orderings={"created_at": "created_at", "finished_at": "finished_at", "next_try_at": "next_try_at"},
    default_ordering="-created_at",
    filters=(
        choice("state", "state", Operation.State.values, "State."),
        choice("kind", "kind", KINDS, "Kind of work."),
        identifier("target", "target_id", "What is worked on."),
        text(
            "search",
            ("target_name__icontains", "requested_by_name__icontains"),
            "Part of the target's or a person's name.",
        ),
        moment("since", "created_at__gte", "Asked for at or after."),
        moment("until", "created_at__lt", "Asked for before."),
    ),
)


class OperationList(ApiView):
    """operations"""

    @operation(
        "operations_list",
        summary="List operations",
        description="Long work in this vault, newest first: what runs, waits, failed, with cause, cure and next try.",
        tag=TAG,
        response=OperationSerializer,
        example=OPERATION,
        listing=LISTING,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.OPERATIONS_VIEW)
        rows = request.actor.visible(Operation).filter(vault=vault).select_related("vault")
        return page(request, rows, LISTING, OperationSerializer)


class OperationDetail(ApiView):
    """operations/{id}"""

    @operation(
        "operations_show",
        summary="Show an operation",
        description="Its steps as they stand now.",
        tag=TAG,
        response=OperationSerializer,
        example=OPERATION,
        errors=(404,),
    )
    def get(self, request: Any, operation_id: UUID) -> Response:
        """GET"""
        row = request.actor.fetch(Operation, operation_id, Permission.OPERATIONS_VIEW)
        return Response(OperationSerializer(row).data)


class OperationRetry(ApiView):
    """operations/{id}/retry"""

    @operation(
        "operations_retry",
        summary="Retry a failed operation",
        description="Goes on where it stopped; what was made already is found, not made twice. Needs the "
        "permission for what it "
        "does, too.",
        tag=TAG,
        response=OperationSerializer,
        example={**OPERATION, "state": "WAITING"},
        errors=(404, 409),
    )
    def post(self, request: Any, operation_id: UUID) -> Response:
        """POST"""
        row = request.actor.fetch(Operation, operation_id, Permission.OPERATIONS_MANAGE)
        return Response(OperationSerializer(retry_operation(request.actor, row)).data)


class OperationCancel(ApiView):
    """operations/{id}/cancel"""

    @operation(
        "operations_cancel",
        summary="Cancel an operation",
        description="After its present step it stops and undoes what it made. Too late once past the step "
        "without return.",
        tag=TAG,
        response=OperationSerializer,
        example={**OPERATION, "cancel_requested": True},
        errors=(404, 409),
    )
    def post(self, request: Any, operation_id: UUID) -> Response:
        """POST"""
        row = request.actor.fetch(Operation, operation_id, Permission.OPERATIONS_MANAGE)
        return Response(OperationSerializer(cancel_operation(request.actor, row)).data)
