"""How CloudKeys look in the API."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db.models import F, Func, Q, QuerySet, TextField, Value
from django.db.models.lookups import Exact, IsNull
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudkeys.api.shapes import (
    ADA,
    APP,
    EVERY,
    IDS,
    NOW,
    VAULT,
    ExpirationField,
    OperationSerializer,
    ScheduleField,
)  # fmt: skip
from cloudkeys.models import CloudKey, KeyVersion
from cloudkeys.services import uses
from cloudkeys.services.cloud_keys import USES
from vault.api.listing import Filter, Listing, choice, flag, identifier, moment, parse_flag, present, text
from vault.api.serializers import (
    ConfirmationSerializer,
    CreatedMixin,
    JsonObject,
    PlainText,
    ReferenceSerializer,
    StrictBoolean,
    StrictSerializer,
)  # fmt: skip
from vault.api.vaults import ReasonSerializer
from vault.models import Vault


@extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
class TagsField(JsonObject):
    """Tags of the KMS key: texts by name."""


class KeyFieldsInput(StrictSerializer):
    """What a new key may be given."""

    name = PlainText(max_length=250, help_text="Also the alias in AWS: letters, digits, '/', '_', '-'.")
    region = PlainText(max_length=32)
    description = PlainText(max_length=1000, required=False, allow_blank=True, lines=True)
    external_key_id = PlainText(
        max_length=128, required=False, allow_blank=True, help_text="Left out: one is made."
    )
    permitted_uses = serializers.ListField(
        child=serializers.ChoiceField(choices=USES), max_length=2, required=False
    )
    administrators = serializers.ListField(child=PlainText(max_length=2048), max_length=100, required=False)
    users = serializers.ListField(child=PlainText(max_length=2048), max_length=100, required=False)
    tags = TagsField(required=False)
    rotation_schedule = ScheduleField(required=False, help_text="Left out: inherited from the key set, live.")
    expiration = ExpirationField(required=False, help_text="Left out: inherited from the key set, live.")


class CloudKeyInput(KeyFieldsInput):
    """A new key."""

    key_set = serializers.UUIDField()


class CloudKeyChanges(StrictSerializer):
    """What may change."""

    name = PlainText(max_length=250, required=False)
    description = PlainText(max_length=1000, required=False, allow_blank=True, lines=True)
    administrators = serializers.ListField(child=PlainText(max_length=2048), max_length=100, required=False)
    users = serializers.ListField(child=PlainText(max_length=2048), max_length=100, required=False)
    tags = TagsField(required=False)
    rotation_schedule = ScheduleField(required=False)
    expiration = ExpirationField(required=False)


class DestroyInput(ReasonSerializer):
    """What must be said before material is destroyed."""

    confirm_name = PlainText(max_length=250, help_text="The key's name, in full.")
    pointer_is_gone = StrictBoolean(help_text="True: no KMS key in AWS refers to this key any more.")


class LinkKeyInput(StrictSerializer):
    """What to link."""

    kms_key_id = PlainText(
        max_length=2048, required=False, allow_blank=True, help_text="Id or ARN. Left out: make one."
    )


class CloudKeySerializer(serializers.ModelSerializer[CloudKey]):
    """A CloudKey; its material is never shown."""

    vault = ReferenceSerializer()
    key_set = ReferenceSerializer()
    csp_account = ReferenceSerializer(allow_null=True)
    is_simulated = serializers.SerializerMethodField()
    permitted_uses = serializers.ListField(child=serializers.CharField())
    administrators = serializers.ListField(child=serializers.CharField())
    users = serializers.ListField(child=serializers.CharField())
    tags = TagsField()
    cloud_state = JsonObject()
    rotation_schedule = serializers.SerializerMethodField()
    expiration = serializers.SerializerMethodField()
    schedule_inherited = serializers.SerializerMethodField()
    expiration_inherited = serializers.SerializerMethodField()

    class Meta:
        model = CloudKey
        fields = (
            "id", "vault", "key_set", "csp_account", "is_simulated", "store", "link", "kind",
            "name", "alias", "description",
            "region", "external_key_id", "origin", "state", "state_reason", "blocked", "permitted_uses", "exportable",
            "deletable", "current_version", "administrators", "users", "tags", "pointer_state",
            "kms_key_id", "kms_key_arn",
            "cloud_state", "cloud_state_at", "rotation_schedule", "schedule_inherited",
            "rotated_at", "next_rotation_at",
            "expiration", "expiration_inherited", "expires_at", "expired_at", "retired_at",
            "delete_after", "destroyed_at",
            "revision", "created_at", "updated_at",
        )  # fmt: skip

    alias = serializers.CharField()

    def get_is_simulated(self, row: CloudKey) -> bool:
        """Whether it lives in the bundled simulator."""
        return row.csp_account is not None and row.csp_account.is_simulated

    @extend_schema_field(ScheduleField())
    def get_rotation_schedule(self, row: CloudKey) -> dict[str, Any]:
        """The schedule in force."""
        own = row.rotation_schedule
        return own if own is not None else row.key_set.rotation_schedule  # type: ignore[no-any-return]

    @extend_schema_field(ExpirationField())
    def get_expiration(self, row: CloudKey) -> dict[str, Any]:
        """The expiration in force."""
        own = row.expiration
        return own if own is not None else row.key_set.expiration  # type: ignore[no-any-return]

    def get_schedule_inherited(self, row: CloudKey) -> bool:
        """Whether the schedule is the key set's."""
        return row.rotation_schedule is None

    def get_expiration_inherited(self, row: CloudKey) -> bool:
        """Whether the expiration is the key set's."""
        return row.expiration is None


class CreateStepSerializer(serializers.Serializer[Any]):
    """The step in AWS for an unlinked key."""

    region = serializers.CharField()
    origin = serializers.CharField()
    custom_key_store_id = serializers.CharField()
    xks_key_id = serializers.CharField()
    alias = serializers.CharField()
    command = serializers.CharField()
    alias_command = serializers.CharField()


class KeyAndOperation(serializers.Serializer[Any]):
    """A key, and the Operation that does AWS's part; null when nothing is left to do."""

    cloud_key = CloudKeySerializer()
    operation = OperationSerializer(allow_null=True)


class KeyChange(KeyAndOperation):
    """The same, and how far the data plane has confirmed the change; null when it has nothing to learn yet."""

    confirmation = ConfirmationSerializer(allow_null=True)


class CloudKeyCreated(CreatedMixin, KeyAndOperation):
    """A new key; in an unlinked store also the step that is left to do in AWS."""

    create_key_step = CreateStepSerializer(allow_null=True)


class VersionSerializer(serializers.ModelSerializer[KeyVersion]):
    """One version of a key."""

    current = serializers.SerializerMethodField()

    class Meta:
        model = KeyVersion
        fields = ("number", "current", "protection", "created_at", "activated_at", "destroyed_at")

    def get_current(self, row: KeyVersion) -> bool:
        """Whether new data is encrypted with it."""
        return bool(row.number == self.context["current"])


SHOWN_WITH = ("vault", "key_set", "csp_account")


def rows_of(request: Any) -> QuerySet[CloudKey]:
    """The keys that the caller may see, with what the serializer shows: one query."""
    rows: QuerySet[CloudKey] = request.actor.visible(CloudKey)
    return rows.select_related(*SHOWN_WITH)


def listed(request: Any, vault: Vault) -> QuerySet[CloudKey]:
    """The vault's keys as a list shows them: without health-check keys, unless `kind` asks for them."""
    rows = rows_of(request).filter(vault=vault)
    return rows if "kind" in request.query_params else rows.filter(kind=CloudKey.Kind.USER)


def _search(rows: QuerySet[Any], values: list[Any]) -> QuerySet[Any]:
    """By part of the name, or by one whole id. The ids apart, in a query of their own: a scan for the name then needs the names' index
    alone, and asks nothing else of each of 100,000 rows.
    """
    wanted = values[0]
    exact = Q(external_key_id=wanted) | Q(kms_key_id=wanted)
    if wanted.startswith("arn:"):
        exact |= Q(kms_key_id=wanted.rpartition("/")[2], kms_key_arn=wanted)
    by_name, by_id = (
        Q(name__holds=wanted),
        list(CloudKey.objects.filter(exact).values_list("pk", flat=True)),
    )
    return rows.filter(by_name | Q(pk__in=by_id) if by_id else by_name)


def _overdue(rows: QuerySet[Any], values: list[Any]) -> QuerySet[Any]:
    late = {"next_rotation_at__lte": timezone.now()}
    return rows.filter(state="ENABLED", **late) if values[0] else rows.exclude(**late)


DUE = {
    "overdue": "Rotation overdue",
    "rotates-7": "Rotates within 7 days",
    "rotates-30": "Rotates within 30 days",
    "rotates-90": "Rotates within 90 days",
    "expires-30": "Expires within 30 days",
    "expires-90": "Expires within 90 days",
}


def _due(rows: QuerySet[Any], values: list[Any]) -> QuerySet[Any]:
    """Relative to now, so that a saved view stays true."""
    now = timezone.now()
    wanted = Q()
    for value in values:
        what, _, days = value.partition("-")
        if what == "overdue":
            wanted |= Q(state="ENABLED", next_rotation_at__lte=now)
        elif what == "rotates":
            wanted |= Q(state="ENABLED", next_rotation_at__lt=now + timedelta(days=int(days)))
        else:
            wanted |= Q(expired_at=None, expires_at__lt=now + timedelta(days=int(days)))
    return rows.filter(wanted)


def _days(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 5 and 1 <= int(value) <= 3650):
        raise ValueError("it must be a whole number of days from 1 to 3650.")
    return int(value)


def _unused(rows: QuerySet[Any], values: list[Any]) -> QuerySet[Any]:
    """Keys that are younger are left out: they had no time to be used."""
    return rows.filter(uses.reader().unused_since(timezone.now() - timedelta(days=values[0])))


def _tag(value: str) -> tuple[str, str | None]:
    name, equals, content = value.partition("=")
    if not 1 <= len(name) <= 128 or len(content) > 256 or set(name) & set('"\\'):
        raise ValueError("it must be a tag's name, or name=value.")
    return name, content if equals else None


class _TagValue(Func):
    """The text of one tag. Django's own key paths take names of digits for places in a list."""

    output_field = TextField()
    template = "(%(expressions)s)"
    arg_joiner = " ->> "

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, Any]:
        """With a path, in which quotes make a name of anything."""
        column, name = self.source_expressions
        path = Value(f'$."{name.value}"')  # type: ignore[attr-defined]
        told: tuple[str, Any] = Func(column, path, function="JSON_EXTRACT").as_sql(compiler, connection)
        return told


def _tagged(rows: QuerySet[Any], values: list[Any]) -> QuerySet[Any]:
    """Every one of the tags must be there."""
    for name, content in values:
        value = _TagValue(F("tags"), Value(name, output_field=TextField()))
        rows = rows.filter(IsNull(value, False) if content is None else Exact(value, content))
    return rows


KEYS = Listing(
    orderings={
        "name": "name",
        "created_at": "created_at",
        "next_rotation_at": "next_rotation_at",
        "expires_at": "expires_at",
        "state": "state",
    },
    default_ordering="name",
    fetch=lambda: CloudKey.objects.select_related(*SHOWN_WITH),
    filters=(
        replace(
            text("search", (), "Part of the name; or the whole external key id, KMS key id or ARN."),
            apply=_search,
            scans=True,
        ),
        choice("state", "state", CloudKey.State.values, "Our state."),
        choice(
            "pointer_state", "pointer_state", CloudKey.PointerState.values, "State of the KMS key pointer."
        ),
        choice("kind", "kind", CloudKey.Kind.values, "CloudKeys (USER, when left out) or health-check keys."),
        flag("blocked", "blocked", "Whether it is blocked."),
        text("region", ("region",), "Region."),
        identifier("key_set", "key_set_id", "Key set."),
        identifier("csp_account", "csp_account_id", "CSP account."),
        identifier("store", "store_id", "External key store."),
        moment("rotates_before", "next_rotation_at__lt", "Next rotation before."),
        moment("expires_before", "expires_at__lt", "Expiry before."),
        Filter(
            "rotation_overdue", "Enabled, and its rotation is due.", parse_flag, _overdue, {"type": "boolean"}
        ),
        present("retired", "retired_at", "Whether it was retired to decrypt-only."),
        replace(choice("due", "due", DUE, "What comes within so many days from now."), apply=_due),
        Filter(
            "unused_for",
            "No use was recorded for so many days; younger keys are left out.",
            _days,
            _unused,
            {"type": "integer", "minimum": 1, "maximum": 3650},
        ),
        Filter(
            "tag",
            "Has the tag: its name, or name=value. Repeated: all of them.",
            _tag,
            _tagged,
            {"type": "string", "minLength": 1, "maxLength": 400},
            many=True,
            example="team=payments",
        ),
    ),
)
KEY: dict[str, Any] = {
    "id": IDS["key"],
    "vault": VAULT,
    "key_set": {"id": IDS["key_set"], "name": "pay-hyok"},
    "csp_account": {"id": IDS["account"], "name": "aws-prod"},
    "is_simulated": False,
    "store": IDS["store"],
    "link": IDS["link"],
    "kind": "USER",
    "name": "payments-prod",
    "alias": "alias/payments-prod",
    "description": "",
    "region": "eu-west-1",
    "external_key_id": "6f0c2a1e-3b4d-4c5e-8f60-71829304a506",
    "origin": "generated",
    "state": "ENABLED",
    "state_reason": "",
    "blocked": False,
    "permitted_uses": ["ENCRYPT", "DECRYPT"],
    "exportable": False,
    "deletable": True,
    "current_version": 1,
    "administrators": [ADA],
    "users": [APP],
    "tags": {"team": "payments"},
    "pointer_state": "LINKED",
    "kms_key_id": "12ab34cd-56ef-4abc-8def-1234567890ab",
    "kms_key_arn": "arn:aws:kms:eu-west-1:111122223333:key/12ab34cd-56ef-4abc-8def-1234567890ab",
    "cloud_state": {"state": "Enabled"},
    "cloud_state_at": NOW,
    "rotation_schedule": EVERY,
    "schedule_inherited": True,
    "rotated_at": NOW,
    "next_rotation_at": "2027-02-20T02:00:00Z",
    "expiration": {"kind": "never"},
    "expiration_inherited": True,
    "expires_at": None,
    "expired_at": None,
    "retired_at": None,
    "delete_after": None,
    "destroyed_at": None,
    "revision": 1,
    "created_at": NOW,
    "updated_at": NOW,
}
VERSION: dict[str, Any] = {
    "number": 1,
    "current": True,
    "protection": "software",
    "created_at": NOW,
    "activated_at": NOW,
    "destroyed_at": None,
}
CREATE_STEP: dict[str, Any] = {
    "region": "eu-west-1",
    "origin": "EXTERNAL_KEY_STORE",
    "custom_key_store_id": "cks-1234567890abcdef0",
    "xks_key_id": KEY["external_key_id"],
    "alias": "alias/payments-prod",
    "command": "aws kms create-key --region eu-west-1 --origin EXTERNAL_KEY_STORE"
    " --custom-key-store-id cks-1234567890abcdef0"
    " --xks-key-id 6f0c2a1e-3b4d-4c5e-8f60-71829304a506",
    "alias_command": "aws kms create-alias --region eu-west-1 --alias-name alias/payments-prod"
    " --target-key-id <key id from create-key>",
}
