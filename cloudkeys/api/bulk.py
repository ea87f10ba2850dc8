"""/api/v1/cloud-keys/bulk, csv and export: many keys at once."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.key_shapes import KEYS, CloudKeyChanges, CloudKeySerializer, KeyFieldsInput, rows_of
from cloudkeys.api.shapes import (
    IDS,
    OPERATION,
    BegunSerializer,
    OperationSerializer,
    begun,
    operation_data,
    read_operation,
)
from cloudkeys.models import CloudKey
from cloudkeys.services import bulk
from vault.api.endpoints import ApiView, done_or_begun, operation
from vault.api.idempotency import Made, Replay
from vault.api.listing import Filter, filtered, vault_of
from vault.api.serializers import (
    CreatedMixin,
    PlainText,
    StrictBoolean,
    StrictInteger,
    StrictSerializer,
)  # fmt: skip
from vault.permissions import Permission

TAG = "Cloud keys"
EXPORTED = (
    "id", "name", "key_set", "region", "state", "blocked", "pointer_state", "external_key_id",
    "kms_key_arn", "current_version",
    "rotated_at", "next_rotation_at", "expires_at", "created_at", "description",
)  # fmt: skip


class BulkInput(StrictSerializer):
    """An act on many keys."""

    vault = serializers.UUIDField(required=False)
    action = serializers.ChoiceField(choices=list(bulk.ACTIONS))
    ids = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=bulk.MAX_ITEMS)
    reason = PlainText(max_length=1000, required=False, allow_blank=True, lines=True)
    changes = CloudKeyChanges(required=False, help_text="With action update.")
    window_days = StrictInteger(
        min_value=7, max_value=30, required=False, help_text="With action schedule_deletion."
    )
    confirm = serializers.DictField(
        child=PlainText(max_length=250),
        required=False,
        help_text="With schedule_deletion: each key's id and its name.",
    )


class CsvInput(StrictSerializer):
    """Rows to make keys from."""

    key_set = serializers.UUIDField()
    csv = serializers.CharField(
        max_length=900_000,
        trim_whitespace=False,
        help_text="With a header line. Columns: name, region; and description, external_key_id, administrators, users "
        "(separated by spaces).",
    )
    dry_run = StrictBoolean(default=False, help_text="True: check only, and say what each row would do.")


class CsvRowSerializer(serializers.Serializer[Any]):
    """What is wrong with a row, if anything."""

    row = serializers.IntegerField(help_text="Counted from 1, without the header.")
    name = serializers.CharField(allow_blank=True)
    ok = serializers.BooleanField()
    field = serializers.CharField(allow_blank=True)
    message = serializers.CharField(allow_blank=True)
    cure = serializers.CharField(allow_blank=True)


class CsvAnswer(CreatedMixin):
    """The checked rows; and the Operation that makes the keys, null in a dry run."""

    rows = CsvRowSerializer(many=True)
    ok = serializers.BooleanField(help_text="Whether every row is good.")
    operation = OperationSerializer(allow_null=True)


class BulkBegun(CreatedMixin, BegunSerializer):
    """Long work has begun; its result lists each key's outcome."""


_BULK = {
    **OPERATION,
    "kind": "cloud_keys.bulk",
    "target": {"type": "vault", "id": IDS["vault"], "name": "Payments"},
    "result": {"done": [{"row": 0, "id": IDS["key"]}], "failed": []},
}


def _read(request: Any, made: Made) -> dict[str, Any]:
    return {"operation": read_operation(request, made.operation_id)}


def _read_csv(request: Any, made: Made) -> dict[str, Any]:
    return {"rows": [], "ok": True, "operation": read_operation(request, made.operation_id)}


class CloudKeyBulk(ApiView):
    """cloud-keys/bulk"""

    @operation(
        "cloud_keys_bulk",
        summary="Act on many CloudKeys",
        description="One after the other, with your rights at that moment; `operation.result` has an "
        "outcome for each. What one key "
        "refuses does not stop the others.",
        tag=TAG,
        request=BulkInput,
        request_example={"action": "disable", "ids": [IDS["key"]], "reason": "Incident 7"},
        response=BulkBegun,
        status=202,
        example={"operation": _BULK, "idempotency_replayed": False},
        errors=(404,),
        replay=Replay(None, _read),
    )
    def post(self, request: Any) -> Response:
        """POST"""
        values = request.data_in
        vault = vault_of(request, Permission.CLOUD_KEYS_VIEW, values.pop("vault", None))
        work = bulk.start_bulk(request.actor, vault, values.pop("action"), values.pop("ids"), values)
        response = begun(work)
        response.data = {**response.data, "idempotency_replayed": False}
        return response


class CloudKeyCsv(ApiView):
    """cloud-keys/csv"""

    @operation(
        "cloud_keys_csv",
        summary="Create CloudKeys from CSV",
        description="Every row is checked first. With `dry_run`, or when a row is wrong, nothing is made "
        "and the answer (200) says "
        "what is wrong with which row; otherwise an Operation makes the keys (202).",
        tag=TAG,
        request=CsvInput,
        request_example={
            "key_set": IDS["key_set"],
            "csv": "name,region\npayments-a,eu-west-1\n",
            "dry_run": True,
        },
        response=CsvAnswer,
        example={
            "rows": [{"row": 1, "name": "payments-a", "ok": True, "field": "", "message": "", "cure": ""}],
            "ok": True,
            "operation": None,
            "idempotency_replayed": False,
        },
        errors=(404,),
        replay=Replay(None, _read_csv),
        may_take_long=True,
    )
    def post(self, request: Any) -> Response:
        """POST"""
        values = request.data_in
        checked = bulk.check_csv(request.actor, values["key_set"], values["csv"], KeyFieldsInput)
        work = None
        if checked.ok and not values["dry_run"]:
            work = bulk.start_csv(request.actor, values["key_set"], checked)
        data = {
            "rows": [outcome.as_json() for outcome in checked.outcomes],
            "ok": checked.ok,
            "operation": operation_data(work),
            "idempotency_replayed": False,
        }
        return done_or_begun(data, work.pk if work is not None else None)


def _format(value: str) -> str:
    if value not in ("csv", "jsonl"):
        raise ValueError("it is csv or jsonl.")
    return value


_FORMAT = Filter(
    "format",
    "csv or jsonl (one JSON object a line).",
    _format,
    lambda rows, values: rows,
    {"enum": ["csv", "jsonl"]},
)


class CloudKeyExport(ApiView):
    """cloud-keys/export"""

    @operation(
        "cloud_keys_export",
        summary="Export CloudKeys",
        description="Every key that the filters leave, as CSV or as JSON lines; no limit, streamed. Never "
        "holds key material.",
        tag=TAG,
        response=OpenApiTypes.STR,
        example="id,name,key_set,region,state\r\n",
        errors=(404,),
        query=(*KEYS.filters, _FORMAT, Filter("vault", "The vault.", str, lambda rows, values: rows)),
        media_type="text/csv",
    )
    def get(self, request: Any) -> Any:
        """GET"""
        vault = vault_of(request, Permission.CLOUD_KEYS_VIEW)
        rows = rows_of(request).filter(vault=vault)
        if "kind" not in request.query_params:
            rows = rows.filter(kind=CloudKey.Kind.USER)
        rows = filtered(request, rows, (*KEYS.filters, _FORMAT)).order_by("name", "pk")
        as_lines = request.query_params.get("format") == "jsonl"
        body = _lines(rows) if as_lines else _csv(rows)
        response = StreamingHttpResponse(
            body, content_type="application/jsonl" if as_lines else "text/csv; charset=utf-8"
        )
        response["Content-Disposition"] = (
            f'attachment; filename="cloud-keys.{"jsonl" if as_lines else "csv"}"'
        )
        return response


def _lines(rows: Any) -> Iterator[str]:
    for row in rows.iterator(chunk_size=500):
        yield json.dumps(CloudKeySerializer(row).data, default=str) + "\n"


def _csv(rows: Any) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(EXPORTED)
    for row in rows.iterator(chunk_size=500):
        writer.writerow([_cell(getattr(row, name)) for name in EXPORTED])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> str:
    text = "" if value is None else value.isoformat() if hasattr(value, "isoformat") else str(value)
    # A spreadsheet would run such a cell as a formula (OWASP, "CSV injection").
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
