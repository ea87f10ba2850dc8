"""/api/v1/cloud-keys/bulk, csv and export: many keys at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.http import StreamingHttpResponse
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from cloudkeys.api.key_shapes import (
    KEY,
    KEYS,
    CloudKeyChanges,
    CloudKeySerializer,
    KeyFieldsInput,
    TagsField,
    listed,
)
from cloudkeys.api.shapes import (
    IDS,
    OPERATION,
    BegunSerializer,
    OperationSerializer,
    ScheduleField,
    begun,
    operation_data,
    read_operation,
)
from cloudkeys.services import bulk
from cloudkeys.services.renderers import short_schedule
from vault.api.endpoints import ApiView, done_or_begun, operation
from vault.api.idempotency import Made, Replay
from vault.api.listing import Filter, choice, filtered, single, vault_of
from vault.api.serializers import (
    CreatedMixin,
    PlainText,
    StrictBoolean,
    StrictInteger,
    StrictSerializer,
)  # fmt: skip
from vault.permissions import Permission
from vault.services.audit import csv_line

TAG = "Cloud keys"
EXPORTED = (
    "id", "name", "key_set", "region", "state", "blocked", "pointer_state", "external_key_id",
    "kms_key_arn", "current_version",
    "rotated_at", "next_rotation_at", "expires_at", "created_at", "description", "administrators", "users", "tags", "rotation_schedule",
)  # fmt: skip


class TagChanges(StrictSerializer):
    """Tags to add (or set anew) and to remove; others stay."""

    add = TagsField(required=False)
    remove = serializers.ListField(child=PlainText(max_length=128), max_length=50, required=False)


class BulkInput(StrictSerializer):
    """An act on many keys."""

    vault = serializers.UUIDField(required=False)
    action = serializers.ChoiceField(choices=list(bulk.ACTIONS))
    ids = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=bulk.MAX_ITEMS)
    reason = PlainText(max_length=1000, required=False, allow_blank=True, lines=True)
    changes = CloudKeyChanges(required=False, help_text="With action update.")
    tags = TagChanges(required=False, help_text="With action tag.")
    rotation_schedule = ScheduleField(required=False, help_text="With action change_schedule.")
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
        "(separated by spaces), tags (team=pay;env=prod), rotation_schedule (none, inherited, 90d, 6w, 12m, 90d@3/Europe/Berlin).",
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


_FORM = choice("as", "pk", ("csv", "jsonl"), "jsonl (one JSON object a line) or csv (RFC 4180).")
_VAULT = Filter(
    "vault",
    "The vault, as for the list.",
    str,
    lambda rows, values: rows,
    {"type": "string", "format": "uuid"},
)


class CloudKeyExport(ApiView):
    """cloud-keys/export"""

    @operation(
        "cloud_keys_export",
        summary="Export CloudKeys",
        description="Every key that the filters leave, ordered by name, as one stream: JSON lines as in the list, or a CSV "
        "table for spreadsheets (cells that would be taken for formulas get an apostrophe in front). Never holds key "
        "material.",
        tag=TAG,
        response=str,
        example=json.dumps(KEY) + "\n",
        errors=(404,),
        query=(*KEYS.filters, _FORM, _VAULT),
        media_type="application/jsonl",
        or_answer=("text/csv", "id,name,key_set,region,state\r\n"),
    )
    def get(self, request: Any) -> Any:
        """GET"""
        asked = single(request, "as")
        form = "jsonl" if asked is None else asked
        rows = listed(request, vault_of(request, Permission.CLOUD_KEYS_VIEW))
        rows = filtered(request, rows, KEYS.filters).order_by("name", "pk")
        if form not in ("csv", "jsonl"):
            filtered(request, rows, (_FORM,))  # raises, naming what is taken
        as_csv = form == "csv"
        return StreamingHttpResponse(
            _csv(rows) if as_csv else _lines(rows),
            content_type="text/csv; charset=utf-8" if as_csv else "application/jsonl",
            headers={"Content-Disposition": f'attachment; filename="cloud-keys.{form}"'},
        )


def _lines(rows: Any) -> Iterator[bytes]:
    for row in rows.iterator(chunk_size=500):
        yield JSONRenderer().render(CloudKeySerializer(row).data) + b"\n"


def _csv(rows: Any) -> Iterator[bytes]:
    yield csv_line(EXPORTED)
    for row in rows.iterator(chunk_size=500):
        yield csv_line([_cell(name, getattr(row, name)) for name in EXPORTED])


def _cell(name: str, value: Any) -> Any:
    """As the table for making keys takes it."""
    if name == "tags":
        return bulk.tags_cell(value)
    if name == "rotation_schedule":
        return "inherited" if value is None else short_schedule(value)
    if name in ("administrators", "users"):
        return " ".join(value)
    return value.isoformat() if isinstance(value, datetime) else value
