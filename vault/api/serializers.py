"""Pieces that the serializers of every API module are built from."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from vault.api.parsing import check_text
from vault.generations import WHY, Confirmation
from vault.secret import Secret


class StrictSerializer(serializers.Serializer[Any]):
    """A request body. Unknown fields are an error, so that a typo is never ignored; nested ones behave alike.

    Derive every request serializer from it. A JSON array or scalar in its place is refused by Serializer itself.
    """

    def to_internal_value(self, data: Any) -> Any:
        """Refuse unknown and read-only fields, then validate as usual."""
        if isinstance(data, dict):
            known = {name for name, field in self.fields.items() if not field.read_only}
            unknown = [name for name in data if name not in known]
            if unknown:
                errors: dict[str, Any] = {
                    name: [serializers.ErrorDetail(f"There is no field {name!r} here.", code="unknown_field")]
                    for name in unknown[:20]
                }
                raise serializers.ValidationError(errors)
        return super().to_internal_value(data)


class StrictSerializerSchema(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Says `additionalProperties: false` of every strict serializer."""

    target_class = "vault.api.serializers.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        """The usual schema, closed."""
        schema: dict[str, Any] = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        if direction == "request" and schema.get("type") == "object":
            schema["additionalProperties"] = False
        return schema


class PlainText(serializers.CharField):
    """One line (or, with `lines=True`, several) of text as people write it: no control characters; trimmed."""

    def __init__(self, *, lines: bool = False, **kwargs: Any) -> None:
        self.lines = lines
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Refuse non-text (CharField would take numbers) and control characters."""
        if not isinstance(data, str):
            self.fail("invalid")
        allowed = "\n\t" if self.lines else ""
        if any((ord(char) < 32 or ord(char) == 127) and char not in allowed for char in data):
            raise serializers.ValidationError("Control characters are not taken here.", code="invalid")
        return str(super().to_internal_value(data))


class SecretField(serializers.CharField):
    """Text that becomes a Secret at once, so that no traceback or log shows it; never trimmed, never sent back."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", 512)
        super().__init__(write_only=True, trim_whitespace=False, style={"input_type": "password"}, **kwargs)

    def to_internal_value(self, data: Any) -> Any:
        """Refuse non-text (CharField would take numbers)."""
        if not isinstance(data, str):
            self.fail("invalid")
        return Secret(super().to_internal_value(data))

    def run_validators(self, value: Any) -> None:
        """Validators (length) look at text; their messages never hold it."""
        super().run_validators(value.reveal_text())


class StrictBoolean(serializers.BooleanField):
    """true or false, not the many words that BooleanField takes."""

    def to_internal_value(self, data: Any) -> bool:
        """Raises ValidationError for anything but a JSON boolean."""
        if not isinstance(data, bool):
            self.fail("invalid", input=type(data).__name__)
        return data


class StrictInteger(serializers.IntegerField):
    """A JSON number without a fraction, not digits in a string. Give min_value and max_value."""

    def to_internal_value(self, data: Any) -> int:
        """Raises ValidationError for anything but a JSON integer."""
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return int(super().to_internal_value(data))


class StrictNumber(serializers.FloatField):
    """A JSON number: neither digits in a string nor true and false, which FloatField takes for 1 and 0."""

    def to_internal_value(self, data: Any) -> float:
        """Raises ValidationError for anything but a JSON number."""
        if isinstance(data, bool) or not isinstance(data, int | float):
            self.fail("invalid")
        return float(super().to_internal_value(data))


@extend_schema_field({"type": "object", "additionalProperties": {}})
class JsonObject(serializers.JSONField):
    """A JSON object of any content, for what AWS or the audit record says."""

    def to_internal_value(self, data: Any) -> Any:
        """Raises ValidationError unless it is an object."""
        if not isinstance(data, dict):
            self.fail("invalid")
        check_text("".join(data))
        return super().to_internal_value(data)


class FieldErrorSerializer(serializers.Serializer[Any]):
    """One wrong field."""

    field = serializers.CharField(
        help_text="Where, such as `name` or `tags[2].key`; empty for the whole body."
    )
    message = serializers.CharField(help_text="What is wrong.")
    cure = serializers.CharField(help_text="What to do.")


class ProblemSerializer(serializers.Serializer[Any]):
    """An error (RFC 9457). Branch on `code`, show `detail` and `cure`."""

    type = serializers.CharField(help_text="urn:keystead:problem: and the code.")
    title = serializers.CharField(help_text="The same words for every problem of this code.")
    status = serializers.IntegerField(help_text="The HTTP status.")
    code = serializers.CharField(help_text="What programs branch on; never renamed.")
    detail = serializers.CharField(help_text="The cause of this one problem.")
    cure = serializers.CharField(help_text="What to do about it.")
    request_id = serializers.CharField(
        allow_blank=True, help_text="Stands in the log and in audit events too."
    )
    field = serializers.CharField(required=False, help_text="The one field that is wrong.")
    errors = FieldErrorSerializer(  # type: ignore[assignment]  # RFC 9457 extension; hides Serializer.errors
        many=True, required=False, help_text="Every field that is wrong."
    )


class MissingWorkerSerializer(serializers.Serializer[Any]):
    """A worker process that has not confirmed, and why."""

    node = serializers.CharField()
    pid = serializers.IntegerField()
    why = serializers.ChoiceField(
        choices=WHY,
        help_text="STALE: no sign of life. STOPPED: by SIGSTOP or a debugger. DRAINING: told to end, and not ended. STARTING: has not "
        "loaded its keys. REFUSING: its node refuses a database that went backwards. BEHIND: none of these.",
    )
    detail = serializers.CharField()
    last_seen_at = serializers.DateTimeField()
    closes_in_s = serializers.FloatField(help_text="Seconds from now after which it refuses by itself.")


class ConfirmationSerializer(serializers.Serializer[Any]):
    """How far the data plane has followed a change; `bound_s` is when the last straggler closes by itself."""

    generation = serializers.IntegerField()
    complete = serializers.BooleanField(help_text="Every worker process that might be serving has confirmed.")
    confirmed = serializers.IntegerField()
    counted = serializers.IntegerField()
    milliseconds = serializers.IntegerField()
    missing = serializers.ListField(
        child=serializers.CharField(),
        help_text="Worker processes that have not confirmed, in words: node, pid and why.",
    )
    missing_workers = MissingWorkerSerializer(many=True, help_text="The same, for programs.")
    bound_s = serializers.FloatField(
        help_text="Seconds from the commit after which those that are missing refuse by themselves."
    )


def confirmation_data(confirmation: Confirmation | None) -> dict[str, Any] | None:
    """A Confirmation as ConfirmationSerializer describes it."""
    if confirmation is None:
        return None
    return {
        "generation": confirmation.generation,
        "complete": confirmation.complete,
        "confirmed": confirmation.confirmed,
        "counted": confirmation.counted,
        "milliseconds": confirmation.milliseconds,
        "missing": list(confirmation.missing),
        "missing_workers": [dict(MissingWorkerSerializer(one).data) for one in confirmation.missing_workers],
        "bound_s": confirmation.bound_s,
    }


class ReferenceSerializer(serializers.Serializer[Any]):
    """An object named by another one."""

    id = serializers.UUIDField()
    name = serializers.CharField()


def reference(row: Any) -> dict[str, Any] | None:
    """ReferenceSerializer's data of a row, None for None."""
    return None if row is None else {"id": str(row.pk), "name": str(row)}


@extend_schema_field(ReferenceSerializer)
class ReferenceField(serializers.Field[Any, Any, Any, Any]):
    """A related row as {id, name}, in answers only. Give allow_null=True where the relation may be empty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True, **kwargs)

    def to_representation(self, value: Any) -> Any:
        """The reference."""
        return reference(value)


class CreatedMixin(serializers.Serializer[Any]):
    """Derive from it the answer of every POST that takes an Idempotency-Key; the frame fills the field in."""

    idempotency_replayed = serializers.BooleanField(
        default=False,
        help_text="True when this repeats what an earlier request with the same Idempotency-Key made; secrets are then null.",
    )
