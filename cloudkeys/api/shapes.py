"""Fields, serializers and examples that several modules of this API share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.models import Operation
from vault.api.endpoints import done_or_begun
from vault.api.serializers import (
    JsonObject,
    PlainText,
    ReferenceSerializer,
    StrictInteger,
)
from vault.api.vaults import ReasonSerializer
from vault.generations import Confirmation, wait_for_generation

STORES_TAG = "External key stores"
IDS = {
    "vault": "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11",
    "group": "c0f3c0de-0a58-4f7b-9a0c-2f1f3f2d8a77",
    "account": "2f1d7c3e-6a54-4d0c-8a42-9b3d1f6e5c01",
    "key_set": "5e0b9a7c-1d2f-4c6b-8e3a-7f4d5c6b7a02",
    "store": "8c7b6a59-4e3d-4f2c-9b1a-0a9f8e7d6c03",
    "link": "1b2c3d4e-5f60-4718-92a3-b4c5d6e7f804",
    "credential": "9d8c7b6a-5f4e-4d3c-8b2a-1f0e9d8c7b05",
    "key": "6f0c2a1e-3b4d-4c5e-8f60-71829304a506",
    "operation": "3c4d5e6f-7081-4293-a4b5-c6d7e8f90107",
}
NOW = "2026-11-22T12:04:03.120Z"
ADA = "arn:aws:iam::111122223333:user/ada"
APP = "arn:aws:iam::111122223333:role/app-prod"
VAULT = {"id": IDS["vault"], "name": "Payments"}

EVERY = {"kind": "every", "every": 90, "unit": "days", "hour": 3, "time_zone": "Europe/Berlin"}
NEVER = {"kind": "never"}

_KIND = {"type": "string"}
_SCHEDULE = {
    "type": "object",
    "properties": {
        "kind": {
            **_KIND,
            "enum": ["none", "every", "inherited"],
            "description": "inherited: CloudKeys only.",
        },
        "every": {"type": "integer", "minimum": 1},
        "unit": {"type": "string", "enum": ["days", "weeks", "months"]},
        "hour": {"type": "integer", "minimum": 0, "maximum": 23},
        "time_zone": {"type": "string", "description": "A name of the IANA time zone database."},
    },
    "required": ["kind"],
    "example": EVERY,
}
_EXPIRATION = {
    "type": "object",
    "properties": {
        "kind": {
            **_KIND,
            "enum": ["never", "on", "after", "inherited"],
            "description": "inherited: CloudKeys only.",
        },
        "at": {"type": "string", "format": "date-time", "description": "With kind on."},
        "days": {"type": "integer", "minimum": 1, "description": "After creation; with kind after."},
        "then": {"type": "string", "enum": ["disable", "delete"]},
        "window_days": {"type": "integer", "minimum": 7, "maximum": 30},
    },
    "required": ["kind"],
    "example": {"kind": "after", "days": 365, "then": "disable"},
}


@extend_schema_field(_SCHEDULE)
class ScheduleField(JsonObject):
    """A rotation schedule: none, every N days, weeks or months at an hour in a time zone, or inherited."""


@extend_schema_field(_EXPIRATION)
class ExpirationField(JsonObject):
    """An expiration: never, on a date, after N days, or inherited; and what happens then."""


class ConfirmedDeletionSerializer(ReasonSerializer):
    """What cannot be undone asks for the name."""

    confirm_name = PlainText(max_length=250, help_text="The key's name, in full.")
    window_days = StrictInteger(min_value=7, max_value=30, default=30)


class StepSerializer(serializers.Serializer[Any]):
    """One step of an Operation."""

    name = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # hides Field.label
    state = serializers.ChoiceField(
        choices=["PENDING", "RUNNING", "WAITING", "DONE", "FAILED", "UNDOING", "UNDONE"]
    )
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    detail = serializers.CharField(allow_blank=True)


@extend_schema_field(
    {
        "type": ["object", "null"],
        "properties": {
            "code": {"type": "string"},
            "cause": {"type": "string"},
            "cure": {"type": "string"},
            "permanent": {"type": "boolean"},
        },
    }
)
class OperationErrorField(serializers.JSONField):
    """What went wrong last: code, cause, cure, and whether trying again can help."""


class OperationSerializer(serializers.ModelSerializer[Operation]):
    """Long work: its steps, what was tried, what comes next."""

    vault = ReferenceSerializer()
    target = serializers.SerializerMethodField()
    steps = serializers.SerializerMethodField()
    error = OperationErrorField(allow_null=True)
    result = JsonObject()

    class Meta:
        model = Operation
        fields = (
            "id", "vault", "kind", "state", "target", "steps", "step", "attempts", "next_try_at", "error", "result",
            "cancel_requested", "undoing", "requested_by_name", "via", "request_id", "created_at",
            "updated_at", "finished_at",
        )  # fmt: skip

    @extend_schema_field(
        {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "id": {"type": "string", "format": "uuid"},
                "name": {"type": "string"},
            },
        }
    )
    def get_target(self, row: Operation) -> dict[str, str]:
        """What is worked on."""
        return {"type": row.target_type, "id": str(row.target_id), "name": row.target_name}

    @extend_schema_field(StepSerializer(many=True))
    def get_steps(self, row: Operation) -> list[dict[str, Any]]:
        """Without the engine's own notes."""
        names = ("name", "label", "state", "started_at", "ended_at", "detail")
        return [{name: step.get(name) for name in names} for step in row.steps]


OPERATION = {
    "id": IDS["operation"],
    "vault": VAULT,
    "kind": "cloud_key.provision",
    "state": "RUNNING",
    "target": {"type": "cloudkey", "id": IDS["key"], "name": "payments-prod"},
    "steps": [
        {
            "name": "create_key",
            "label": "Create the KMS key",
            "state": "RUNNING",
            "started_at": NOW,
            "ended_at": None,
            "detail": "",
        }
    ],
    "step": 2,
    "attempts": 1,
    "next_try_at": None,
    "error": None,
    "result": {},
    "cancel_requested": False,
    "undoing": False,
    "requested_by_name": "ada@example.com",
    "via": "api",
    "request_id": "0f4b6a1e5d3c4f7a9b8c7d6e5f4a3b2c",
    "created_at": NOW,
    "updated_at": NOW,
    "finished_at": None,
}
CONFIRMATION = {
    "generation": 4711,
    "complete": True,
    "confirmed": 4,
    "counted": 4,
    "milliseconds": 14,
    "missing": [],
    "missing_workers": [],
    "bound_s": 60.0,
}


class BegunSerializer(serializers.Serializer[Any]):
    """Long work has begun."""

    operation = OperationSerializer()


def operation_data(operation: Operation | None) -> dict[str, Any] | None:
    """OperationSerializer's data, None for None."""
    return dict(OperationSerializer(operation).data) if operation is not None else None


def begun(operation: Operation) -> Response:
    """Answer 202 with an Operation."""
    return done_or_begun({"operation": operation_data(operation)}, operation.pk)


def read_operation(request: Any, operation_id: UUID | None) -> dict[str, Any] | None:
    """An Operation for the answer to a repeated POST, through the caller's eyes; None when there was none."""
    if operation_id is None:
        return None
    return operation_data(request.actor.visible(Operation).filter(pk=operation_id).first())


def confirm(generation: int) -> Confirmation | None:
    """Wait for the data plane, 2 s at most; None when it has nothing to learn. For switches: `confirm_switch`."""
    return wait_for_generation(generation) if generation else None


def principal_data(principal: Any) -> dict[str, Any]:
    """A cloud principal as JSON."""
    return asdict(principal)
