"""/api/v1/xks-key-stores/{id}/limits: how often a store may be called."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.shapes import CONFIRMATION, IDS, confirm
from vault.api.endpoints import ApiView, detail, operation
from vault.api.serializers import ConfirmationSerializer, StrictInteger, StrictSerializer, confirmation_data
from xks.models import StoreLimits
from xks.services import limits

TAG = "External key stores"


class LimitsSerializer(serializers.ModelSerializer[StoreLimits]):
    """Requests a second for the whole fleet; null: no limit."""

    store = serializers.UUIDField(source="store_id")

    class Meta:
        model = StoreLimits
        fields = ("store", "requests_per_s", "credential_requests_per_s", "revision")


class LimitChanges(StrictSerializer):
    """What may change."""

    requests_per_s = StrictInteger(
        min_value=limits.LEAST_PER_S,
        max_value=limits.MOST_PER_S,
        allow_null=True,
        required=False,
        help_text="Of the store as a whole.",
    )
    credential_requests_per_s = StrictInteger(
        min_value=limits.LEAST_PER_S,
        max_value=limits.MOST_PER_S,
        allow_null=True,
        required=False,
        help_text="Of each of its credentials.",
    )


class LimitsAndConfirmation(serializers.Serializer[Any]):
    """Limits, and how far the data plane has confirmed the change."""

    limits = LimitsSerializer()
    confirmation = ConfirmationSerializer(allow_null=True)


LIMITS = {"store": IDS["store"], "requests_per_s": 1800, "credential_requests_per_s": None, "revision": 2}


class StoreLimitsDetail(ApiView):
    """xks-key-stores/{id}/limits"""

    @operation(
        "xks_key_store_limits_show",
        summary="Show the limits of an external key store",
        description="Requests a second for the whole fleet; null where there is no limit.",
        tag=TAG,
        response=LimitsSerializer,
        example=LIMITS,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, store_id: UUID) -> Response:
        """GET"""
        row = limits.fetch_store_limits(request.actor, store_id)
        return detail(row, LimitsSerializer(row).data)

    @operation(
        "xks_key_store_limits_update",
        summary="Limit how often an external key store may be called",
        description="What is above a limit gets ThrottlingException (429), which KMS passes on; other stores feel nothing"
        " of it. Each worker process keeps its share of the limit, so that the whole keeps it within 20 %.",
        tag=TAG,
        request=LimitChanges,
        request_example={"requests_per_s": 1800},
        response=LimitsAndConfirmation,
        example={"limits": LIMITS, "confirmation": CONFIRMATION},
        errors=(404,),
        if_match="required",
        etag=True,
    )
    def patch(self, request: Any, store_id: UUID) -> Response:
        """PATCH"""
        row, generation = limits.update_store_limits(
            request.actor, store_id, request.data_in, expected_revision=request.expected
        )
        data = {"limits": LimitsSerializer(row).data, "confirmation": confirmation_data(confirm(generation))}
        return detail(row, data)
