"""/api/v1/attention and /api/v1/overview: what needs somebody, and the numbers of the first page."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, operation
from vault.api.listing import Filter, single, vault_of
from vault.permissions import Permission
from xks.services.attention import attention_of_installation, attention_of_vault
from xks.services.overview import overview_of

TAG = "Overview"
_VAULT = Filter(
    "vault", "The vault, as for lists.", str, lambda rows, values: rows, {"type": "string", "format": "uuid"}
)
_ID = "3f0c91be-1111-4222-8333-444455556666"
_NOW = "2026-11-22T14:00:00Z"


class RefSerializer(serializers.Serializer[Any]):
    """An object by id and name."""

    id = serializers.CharField()
    name = serializers.CharField()


class AttentionSerializer(serializers.Serializer[Any]):
    """One thing that needs attention."""

    key = serializers.CharField(help_text="Tells the item apart, now and later.")
    kind = serializers.CharField()
    severity = serializers.SerializerMethodField(help_text="CRITICAL, WARNING or NOTICE.")
    what = serializers.CharField()
    why = serializers.CharField()
    fix = serializers.CharField()
    action = serializers.CharField(help_text="A stable word for the fix, on the target.")
    target_type = serializers.CharField()
    target_id = serializers.CharField(allow_blank=True)
    target_name = serializers.CharField(allow_blank=True)
    since = serializers.DateTimeField(allow_null=True)
    count = serializers.IntegerField(help_text="Of the objects that it speaks of.")
    examples = RefSerializer(many=True)
    list_query = serializers.CharField(allow_blank=True, help_text="With it, GET cloud-keys lists them all.")

    def get_severity(self, item: Any) -> str:
        """The name."""
        return str(item.severity.name)


class Attention(ApiView):
    """attention"""

    @operation(
        "attention_list",
        summary="List what needs attention now",
        description="Worst first: stores that fail, nodes that are silent, credentials and rotations overdue, failed operations, keys "
        "about to expire or to be destroyed, keys unused for 90 days. Each with its fix. An appliance admin who names no vault gets the "
        "installation's.",
        tag=TAG,
        response=AttentionSerializer(many=True),
        example=[
            {
                "key": f"key.pointer_failed:{_ID}", "kind": "key.pointer_failed", "severity": "CRITICAL",
                "what": "payments-prod could not be made in AWS KMS.", "why": "No AWS service can use it.",
                "fix": "Retry", "action": "retry_pointer", "target_type": "cloud_key", "target_id": _ID,
                "target_name": "payments-prod", "since": None, "count": 1,
                "examples": [{"id": _ID, "name": "payments-prod"}], "list_query": "pointer_state=FAILED",
            }
        ],
        errors=(404,),
        query=(_VAULT,),
    )  # fmt: skip
    def get(self, request: Any) -> Response:
        """GET"""
        actor = request.actor
        if single(request, "vault") is None and actor.may(Permission.APPLIANCE_VIEW_NODES):
            items = attention_of_installation(actor)
        else:
            items = attention_of_vault(actor, vault_of(request, Permission.CLOUD_KEYS_VIEW))
        return Response(AttentionSerializer(items, many=True).data)


class KeyCountSerializer(serializers.Serializer[Any]):
    """CloudKeys of one cloud in one state."""

    cloud = serializers.CharField(allow_blank=True)
    cloud_label = serializers.CharField()
    simulated = serializers.BooleanField()
    state = serializers.CharField()
    count = serializers.IntegerField()
    blocked = serializers.IntegerField()


class DueDaySerializer(serializers.Serializer[Any]):
    """What falls due on one day of your time zone; the first day holds what is overdue too."""

    day = serializers.DateField()
    rotations = serializers.IntegerField()
    expiries = serializers.IntegerField()


class HourSerializer(serializers.Serializer[Any]):
    """Requests of one hour; delays in microseconds."""

    at = serializers.DateTimeField()
    requests = serializers.IntegerField()
    refused = serializers.IntegerField()
    p50_us = serializers.IntegerField(allow_null=True)
    p99_us = serializers.IntegerField(allow_null=True)


class DayTrafficSerializer(serializers.Serializer[Any]):
    """Requests of the last 24 hours."""

    hours = HourSerializer(many=True)
    requests = serializers.IntegerField()
    refused = serializers.IntegerField()
    p50_us = serializers.IntegerField(allow_null=True)
    p99_us = serializers.IntegerField(allow_null=True)


class FirstRunStepSerializer(serializers.Serializer[Any]):
    """One step of the first run."""

    name = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # hides Field.label
    done = serializers.BooleanField()
    action = serializers.CharField()
    target_id = serializers.UUIDField(allow_null=True)


class FirstRunSerializer(serializers.Serializer[Any]):
    """How far the vault has got."""

    steps = FirstRunStepSerializer(many=True)
    done = serializers.BooleanField()


class OverviewSerializer(serializers.Serializer[Any]):
    """The numbers of a vault."""

    total = serializers.IntegerField()
    simulated = serializers.BooleanField(help_text="Whether anything in it lives in the bundled simulator.")
    keys = KeyCountSerializer(many=True)
    due = DueDaySerializer(many=True)
    traffic = DayTrafficSerializer()
    first_run = FirstRunSerializer()


class Overview(ApiView):
    """overview"""

    @operation(
        "overview_show",
        summary="Show the numbers of a vault",
        description="CloudKeys by cloud and state, rotations and expiries of the next 90 days by day, requests and their delays of the "
        "last 24 hours, and how far a first run has got.",
        tag=TAG,
        response=OverviewSerializer,
        example={
            "total": 12, "simulated": False,
            "keys": [
                {"cloud": "aws", "cloud_label": "AWS", "simulated": False, "state": "ENABLED", "count": 12, "blocked": 0}
            ],
            "due": [{"day": "2026-11-22", "rotations": 1, "expiries": 0}],
            "traffic": {
                "hours": [{"at": _NOW, "requests": 18204, "refused": 3, "p50_us": 410, "p99_us": 2100}],
                "requests": 18204, "refused": 3, "p50_us": 410, "p99_us": 2100,
            },
            "first_run": {
                "steps": [
                    {"name": "use_it", "label": "Use it in AWS", "done": True, "action": "open_use_it", "target_id": _ID}
                ],
                "done": True,
            },
        },
        errors=(404,),
        query=(_VAULT,),
    )  # fmt: skip
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.CLOUD_KEYS_VIEW)
        return Response(OverviewSerializer(overview_of(request.actor, vault)).data)
