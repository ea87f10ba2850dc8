"""/api/v1/xks-requests and the traffic of key stores: what the journals recorded."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, operation, page
from vault.api.listing import (
    Filter,
    Listing,
    choice,
    flag,
    identifier,
    moment,
    one_of,
    single,
    text,
    vault_of,
)
from vault.permissions import Permission
from xks.errors import XksError
from xks.models import XksRequest
from xks.services.requests import (
    SPANS,
    Course,
    requests_of,
    traffic_of_store,
    traffic_of_vault,
    with_kms_request_id,
    with_outcome,
    with_principal,
)

OPERATIONS = ("encrypt", "decrypt", "metadata", "health")
OUTCOMES = ("OK", "errors", *sorted(kind.__name__ for kind in XksError.__subclasses__()))


class XksRequestSerializer(serializers.Serializer[Any]):
    """One request with a valid signature."""

    id = serializers.SerializerMethodField(help_text="Journal, segment and entry: where it was recorded.")
    at = serializers.DateTimeField()
    node = serializers.CharField(source="node_name", allow_null=True)
    store = serializers.UUIDField(source="store_id", allow_null=True)
    cloud_key = serializers.UUIDField(
        source="key_id", allow_null=True, help_text="null where the request did not get that far."
    )
    external_key_id = serializers.CharField(allow_blank=True)
    key_version = serializers.IntegerField(source="version")
    operation = serializers.CharField()
    outcome = serializers.CharField(help_text="OK, or the errorName of the answer.")
    microseconds = serializers.IntegerField(help_text="From the request's arrival to its record.")
    principal_arn = serializers.CharField(allow_blank=True)
    kms_key_arn = serializers.CharField(allow_blank=True)
    kms_operation = serializers.CharField(allow_blank=True)
    kms_via_service = serializers.CharField(allow_blank=True)
    kms_request_id = serializers.CharField(allow_blank=True)
    source_vpc = serializers.CharField(allow_blank=True)
    source_vpce = serializers.CharField(allow_blank=True)
    access_key_id = serializers.CharField()
    region = serializers.CharField()
    generation = serializers.IntegerField(help_text="Of the keys by which it was decided.")
    withheld = serializers.BooleanField(help_text="Recorded, but its result did not leave after all.")

    def get_id(self, row: XksRequest) -> str:
        """Return the place of the record."""
        return f"{row.chain_id.hex}:{row.segment}:{row.entry}"


REQUEST = {
    "id": "5f0c2e9a0d6b4f57a1f1f6a0c0ffee00:3:1042",
    "at": "2026-11-22T15:04:40.120034Z",
    "node": "xks-1",
    "store": "7f0c2e9a-0d6b-4f57-a1f1-f6a0c0ffee01",
    "cloud_key": "0a0c2e9a-0d6b-4f57-a1f1-f6a0c0ffee02",
    "external_key_id": "6f0c91be-1111-4222-8333-444455556666",
    "key_version": 3,
    "operation": "decrypt",
    "outcome": "OK",
    "microseconds": 187,
    "principal_arn": "arn:aws:sts::111122223333:assumed-role/app-prod/i-0abc",
    "kms_key_arn": "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "kms_operation": "Decrypt",
    "kms_via_service": "s3.eu-west-1.amazonaws.com",
    "kms_request_id": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    "source_vpc": "",
    "source_vpce": "",
    "access_key_id": "BETWEEN2TENAND3TENCHARACTERS",
    "region": "eu-west-1",
    "generation": 118,
    "withheld": False,
}


def _exact(name: str, apply: Any, help: str, most: int) -> Filter:
    spec = text(name, (f"{name}__exact",), help, max_length=most)
    return Filter(name, help, spec.parse, lambda rows, values: apply(rows, values[0]), spec.schema)


_outcome = choice("outcome", "outcome", OUTCOMES, "How it ended; `errors` for everything but OK.")
REQUESTS = Listing(
    orderings={"at": "at"},
    default_ordering="-at",
    filters=(
        _exact(
            "kms_request_id", with_kms_request_id, "The requestId that KMS and CloudTrail tell.", most=256
        ),
        identifier("store", "store_id", "Of this key store."),
        identifier("cloud_key", "key_id", "Of this CloudKey."),
        _exact("principal", with_principal, "By this awsPrincipalArn.", most=2048),
        choice("operation", "operation", OPERATIONS, "What was asked."),
        Filter(
            "outcome", _outcome.help, _outcome.parse, lambda rows, values: with_outcome(rows, values),
            _outcome.schema, many=True,
        ),
        flag("withheld", "withheld", "true: only those whose result did not leave after all."),
        moment("since", "at__gte", "Not before this moment."),
        moment("until", "at__lt", "Before this moment."),
    ),
)  # fmt: skip


class XksRequestList(ApiView):
    """GET xks-requests"""

    @operation(
        "xks_requests_list",
        summary="Search requests to the XKS endpoint",
        description="Every request with a valid signature, answered or refused, of all nodes, the newest first: find one by its"
        " `kms_request_id`, or narrow by store, key, principal, outcome and time. Nodes ship their journals about every"
        " second. Records stay for KEYSTEAD_XKS_REQUEST_DAYS; usage sums of each key stay for good.",
        tag="XKS requests",
        response=XksRequestSerializer,
        example=REQUEST,
        listing=REQUESTS,
        errors=(404,),
    )
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.AUDIT_VIEW)
        return page(request, requests_of(request.actor, vault), REQUESTS, XksRequestSerializer)


class PointSerializer(serializers.Serializer[Any]):
    """One minute or hour."""

    at = serializers.DateTimeField(help_text="When it began.")
    requests = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]  # a field of this name, not the property
    p50_us = serializers.IntegerField(allow_null=True, help_text="Microseconds, to an eighth.")
    p99_us = serializers.IntegerField(allow_null=True)


class CourseSerializer(serializers.Serializer[Any]):
    """Requests over time."""

    span = serializers.ChoiceField(choices=sorted(SPANS))
    seconds = serializers.IntegerField(help_text="That one point stands for.")
    points = PointSerializer(many=True)
    total = PointSerializer(help_text="All of it.")
    shipped_to = serializers.DateTimeField(
        allow_null=True, help_text="When the newest request that is counted was made."
    )


_POINT = {"at": "2026-11-22T15:00:00Z", "requests": 1802, "errors": 3, "p50_us": 179, "p99_us": 683}
COURSE = {
    "span": "day",
    "seconds": 3600,
    "points": [_POINT],
    "total": _POINT,
    "shipped_to": "2026-11-22T15:04:40.120034Z",
}
_SPAN = one_of("span", sorted(SPANS), "hour: the last hour by minute (default). day: the last day by hour.")


def _told(course: Course) -> Response:
    return Response(CourseSerializer(course).data)


class StoreTraffic(ApiView):
    """GET xks-key-stores/{id}/traffic"""

    @operation(
        "xks_key_stores_traffic",
        summary="Show the traffic of a key store",
        description="Requests, errors and the median and 99th percentile of our own time for them, by minute or hour.",
        tag="XKS requests",
        response=CourseSerializer,
        example=COURSE,
        query=(_SPAN,),
        errors=(404,),
    )
    def get(self, request: Any, store_id: UUID) -> Response:
        """GET"""
        return _told(traffic_of_store(request.actor, store_id, single(request, "span") or "hour"))


class VaultTraffic(ApiView):
    """GET xks-traffic"""

    @operation(
        "xks_traffic_show",
        summary="Show the traffic of a vault's key stores",
        description="As for one key store, for all of a vault together.",
        tag="XKS requests",
        response=CourseSerializer,
        example=COURSE,
        query=(
            _SPAN,
            Filter(
                "vault",
                "The vault; needed when you are a member of several.",
                str,
                lambda rows, values: rows,
                {"type": "string", "format": "uuid"},
            ),
        ),
        errors=(404,),
    )
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.XKS_STORES_VIEW)
        return _told(traffic_of_vault(request.actor, vault, single(request, "span") or "hour"))
