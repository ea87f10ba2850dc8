"""/api/v1/cloud-keys/{id}/usage: what the journal tells of a key's use."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, operation
from xks.services.usage import usage_of


class DaySerializer(serializers.Serializer[Any]):
    """Requests of one day (UTC)."""

    day = serializers.DateField()
    encrypt = serializers.IntegerField()
    decrypt = serializers.IntegerField()
    refused = serializers.IntegerField(
        help_text="Encrypts and decrypts that were not answered with a result."
    )


class DayOfServiceSerializer(serializers.Serializer[Any]):
    """Answered uses of one day (UTC) through one service."""

    day = serializers.DateField()
    name = serializers.CharField(
        help_text="Empty: not through a service, or not told by AWS.", allow_blank=True
    )
    uses = serializers.IntegerField()


class UserSerializer(serializers.Serializer[Any]):
    """What one service or principal has done."""

    name = serializers.CharField(
        help_text="Empty: not through a service, or not told by AWS.", allow_blank=True
    )
    encrypt = serializers.IntegerField()
    decrypt = serializers.IntegerField()
    last_at = serializers.DateTimeField()


class AffectedServiceSerializer(serializers.Serializer[Any]):
    """A service that a disable would hit."""

    name = serializers.CharField(allow_blank=True)
    principals = serializers.IntegerField(help_text="Different principals that came through it.")


class RadiusSerializer(serializers.Serializer[Any]):
    """Who would notice a disable, judged by the last days."""

    days = serializers.IntegerField()
    principals = serializers.IntegerField()
    services = AffectedServiceSerializer(many=True)
    uses = serializers.IntegerField()


class DeletionSerializer(serializers.Serializer[Any]):
    """Whether the recorded use speaks against deleting the key."""

    answer = serializers.ChoiceField(choices=["NO", "NOT_KNOWN", "UNUSED", "YES"])
    reasons = serializers.ListField(child=serializers.CharField())
    history_since = serializers.DateTimeField(
        allow_null=True, help_text="Since when uses are on record at all."
    )
    gaps = serializers.IntegerField(help_text="Worker processes whose records are lost or damaged.")


class UsageSerializer(serializers.Serializer[Any]):
    """The use of one CloudKey."""

    cloud_key = serializers.UUIDField()
    days = serializers.IntegerField()
    last_encrypt_at = serializers.DateTimeField(allow_null=True)
    last_decrypt_at = serializers.DateTimeField(allow_null=True)
    by_day = DaySerializer(many=True)
    by_day_and_service = DayOfServiceSerializer(many=True)
    by_service = UserSerializer(many=True)
    by_principal = UserSerializer(many=True)
    blast_radius = RadiusSerializer(many=True)
    deletion = DeletionSerializer()


_ROLE = "arn:aws:sts::111122223333:assumed-role/app-prod/i-0abc"
_S3 = "s3.eu-west-1.amazonaws.com"
USAGE = {
    "cloud_key": "3f0c91be-1111-4222-8333-444455556666",
    "days": 30,
    "last_encrypt_at": "2026-11-22T15:02:11Z",
    "last_decrypt_at": "2026-11-22T15:04:40Z",
    "by_day": [{"day": "2026-11-22", "encrypt": 120, "decrypt": 18204, "refused": 3}],
    "by_day_and_service": [{"day": "2026-11-22", "name": _S3, "uses": 18324}],
    "by_service": [{"name": _S3, "encrypt": 120, "decrypt": 18204, "last_at": "2026-11-22T15:04:40Z"}],
    "by_principal": [{"name": _ROLE, "encrypt": 120, "decrypt": 18204, "last_at": "2026-11-22T15:04:40Z"}],
    "blast_radius": [
        {"days": days, "principals": 1, "services": [{"name": _S3, "principals": 1}], "uses": 18324}
        for days in (1, 7, 30, 90)
    ],
    "deletion": {
        "answer": "NO",
        "reasons": ["It was used at 2026-11-22T15:04:40+00:00."],
        "history_since": "2026-01-10T08:00:00Z",
        "gaps": 0,
    },
}


class CloudKeyUsage(ApiView):
    """cloud-keys/{id}/usage"""

    @operation(
        "cloud_keys_usage",
        summary="Show who uses a CloudKey",
        description="From the journal of the XKS endpoint: the last encrypt and decrypt, counts of the last 30 days by day,"
        " service and principal, who would notice if the key were disabled now, and whether it may be deleted. YES is"
        " answered only when the key's whole life is on record and nothing was ever encrypted with it. Services that hold"
        " a data key in memory use it without asking, which does not show here.",
        tag="Cloud keys",
        response=UsageSerializer,
        example=USAGE,
        errors=(404,),
    )
    def get(self, request: Any, key_id: UUID) -> Response:
        """GET"""
        return Response(UsageSerializer(usage_of(request.actor, key_id)).data)
