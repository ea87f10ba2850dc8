"""/api/v1/xks-key-stores/{id}/doctor: is the store as AWS KMS needs it?"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.shapes import IDS, NOW
from vault.api.endpoints import ApiView, operation
from vault.api.serializers import StrictInteger, StrictSerializer
from xks.doctor_findings import Severity
from xks.models import DoctorReport
from xks.services import doctor

TAG = "External key stores"


class DoctorFindingSerializer(serializers.Serializer[Any]):
    """One thing that was looked at."""

    id = serializers.CharField(help_text="Names the check; docs/doctor.md lists them.")
    severity = serializers.ChoiceField(choices=[each.value for each in Severity])
    what = serializers.CharField()
    why = serializers.CharField(help_text="Why it matters.")
    do = serializers.CharField(allow_blank=True, help_text="What to do; empty when all is well.")


class ReportSerializer(serializers.ModelSerializer[DoctorReport]):
    """What the doctor found, and when."""

    store = serializers.UUIDField(source="store_id")
    severity = serializers.ChoiceField(choices=[each.value for each in Severity])
    findings = DoctorFindingSerializer(many=True)
    latency = serializers.JSONField(
        help_text="For encrypt and decrypt: samples, min_ms, p50_ms, p99_ms, max_ms, from Keystead's own machine."
    )

    class Meta:
        model = DoctorReport
        fields = (
            "store", "endpoint", "region", "severity", "findings", "latency", "seconds", "examined_at", "examined_by",
        )  # fmt: skip


class ExamineSerializer(StrictSerializer):
    """What to examine."""

    region = serializers.CharField(
        required=False, max_length=32, help_text="Of which AWS key store; the first when left out."
    )
    samples = StrictInteger(
        required=False,
        min_value=1,
        max_value=doctor.MOST_SAMPLES,
        help_text=f"Encrypts and decrypts to measure; {doctor.USUAL_SAMPLES} when left out.",
    )


_TIMES = {"samples": 20, "min_ms": 1.1, "p50_ms": 1.4, "p99_ms": 3.9, "max_ms": 3.9}
REPORT = {
    "store": IDS["store"],
    "endpoint": "https://xks.bank.test",
    "region": "eu-west-1",
    "severity": "warn",
    "findings": [
        {
            "id": "expiry",
            "severity": "warn",
            "what": "The certificate is 341 days old and good for 24 more days, until 2026-12-16.",
            "why": "With an ended certificate AWS KMS ends every connection, and no key of the store can be used.",
            "do": "Renew it and install the new one (docs/runbooks/certificate-change.md).",
        }
    ],
    "latency": {"encrypt": _TIMES, "decrypt": _TIMES},
    "seconds": 0.4,
    "examined_at": NOW,
    "examined_by": "Ada Admin",
}


class StoreDoctor(ApiView):
    """xks-key-stores/{id}/doctor"""

    @operation(
        "xks_key_stores_doctor_show",
        summary="Show what the doctor found last at an external key store",
        description="The last report, with its date. 404 when the store was never examined.",
        tag=TAG,
        response=ReportSerializer,
        example=REPORT,
        errors=(404,),
    )
    def get(self, request: Any, store_id: UUID) -> Response:
        """GET"""
        return Response(ReportSerializer(doctor.last_report(request.actor, store_id)).data)

    @operation(
        "xks_key_stores_doctor",
        summary="Examine an external key store as AWS KMS meets it",
        description="Connects to the store's own endpoint, looks at DNS, TLS, certificate and clocks, signs a health check,"
        " metadata, encrypts and decrypts with the store's credential and its health-check key, and looks at credentials,"
        " nodes and the connection state in AWS. Takes some seconds at most; the report is kept.",
        tag=TAG,
        request=ExamineSerializer,
        request_example={"region": "eu-west-1", "samples": 20},
        response=ReportSerializer,
        example=REPORT,
        errors=(404, 409),
    )
    def post(self, request: Any, store_id: UUID) -> Response:
        """POST"""
        return Response(
            ReportSerializer(doctor.examine_store(request.actor, store_id, **request.data_in)).data
        )
