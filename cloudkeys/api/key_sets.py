"""/api/v1/key-sets."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.credentials import CREDENTIAL_ONCE, NewCredentialSerializer, new_credential_data
from cloudkeys.api.shapes import (
    EVERY,
    IDS,
    NEVER,
    NOW,
    VAULT,
    ExpirationField,
    OperationSerializer,
    ScheduleField,
    operation_data,
    read_operation,
)  # fmt: skip
from cloudkeys.api.store_links import LinkInput
from cloudkeys.models import KeySet, XksKeyStore
from cloudkeys.services import key_sets
from cloudkeys.services.stores import LinkRequest
from vault.api.endpoints import ApiView, accepted, created, detail, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, choice, identifier, present, text, vault_of
from vault.api.serializers import (
    CreatedMixin,
    PlainText,
    ReferenceSerializer,
    StrictBoolean,
    StrictSerializer,
)
from vault.permissions import Permission

TAG = "Key sets"
_PREFIX_HELP = "Null or left out: one is made. Empty: the access key id alone tells the store."


class KeySetInput(StrictSerializer):
    """Keys of one kind under one account."""

    vault = serializers.UUIDField(required=False)
    name = PlainText(max_length=100)
    description = PlainText(max_length=1000, required=False, allow_blank=True, lines=True)
    group = serializers.UUIDField(required=False, allow_null=True)
    csp_account = serializers.UUIDField(
        required=False, allow_null=True, default=None, help_text="Needed to link anything in the cloud."
    )
    type = serializers.ChoiceField(choices=KeySet.Type.choices, required=False)
    protection = serializers.ChoiceField(choices=KeySet.Protection.choices, required=False)
    use_as_external_key_store = StrictBoolean(required=False)
    path_prefix = PlainText(
        max_length=117, required=False, allow_blank=True, allow_null=True, help_text=_PREFIX_HELP
    )
    links = LinkInput(many=True, required=False, help_text="AWS key stores, one a region.")
    rotation_schedule = ScheduleField(required=False)
    expiration = ExpirationField(required=False)


class KeySetChanges(StrictSerializer):
    """What may change."""

    name = PlainText(max_length=100, required=False)
    description = PlainText(max_length=1000, required=False, allow_blank=True, lines=True)
    group = serializers.UUIDField(required=False, allow_null=True)
    rotation_schedule = ScheduleField(required=False)
    expiration = ExpirationField(required=False)


class ExternalStoreInput(StrictSerializer):
    """The proxy face to give a key set."""

    path_prefix = PlainText(
        max_length=117, required=False, allow_blank=True, allow_null=True, help_text=_PREFIX_HELP
    )


class KeySetSerializer(serializers.ModelSerializer[KeySet]):
    """A key set; `xks_key_store` is its proxy face, null when it is not used as external key store."""

    vault = ReferenceSerializer()
    group = ReferenceSerializer(allow_null=True)
    csp_account = ReferenceSerializer(allow_null=True)
    xks_key_store = serializers.SerializerMethodField()
    rotation_schedule = ScheduleField()
    expiration = ExpirationField()

    class Meta:
        model = KeySet
        fields = (
            "id", "vault", "name", "description", "group", "csp_account", "type", "protection", "xks_key_store",
            "rotation_schedule", "expiration", "revision", "created_at", "updated_at",
        )  # fmt: skip

    def get_xks_key_store(self, row: KeySet) -> UUID | None:
        """Its id."""
        try:
            return row.xks_key_store.pk
        except XksKeyStore.DoesNotExist:
            return None


class KeySetCreated(CreatedMixin, KeySetSerializer):
    """The new key set, the first credential of its store (shown this once), and what has begun in AWS."""

    credential = NewCredentialSerializer(allow_null=True)
    operations = OperationSerializer(many=True)

    class Meta(KeySetSerializer.Meta):
        fields = (*KeySetSerializer.Meta.fields, "credential", "operations", "idempotency_replayed")  # type: ignore[assignment]


KEY_SET: dict[str, Any] = {
    "id": IDS["key_set"],
    "vault": VAULT,
    "name": "pay-hyok",
    "description": "",
    "group": {"id": IDS["group"], "name": "Cloud Admin Group"},
    "csp_account": {"id": IDS["account"], "name": "aws-prod"},
    "type": "AWS",
    "protection": "software",
    "xks_key_store": IDS["store"],
    "rotation_schedule": EVERY,
    "expiration": NEVER,
    "revision": 1,
    "created_at": NOW,
    "updated_at": NOW,
}
LISTING = Listing(
    orderings={"name": "name", "created_at": "created_at"},
    default_ordering="name",
    filters=(
        text("search", ("name__icontains", "description__icontains"), "Part of name or description."),
        identifier("csp_account", "csp_account_id", "CSP account."),
        identifier("group", "group_id", "Admin group."),
        choice("protection", "protection", KeySet.Protection.values, "Protection."),
        present("external_key_store", "xks_key_store", "Whether it is used as external key store."),
    ),
)


def _rows(request: Any) -> Any:
    return request.actor.visible(KeySet).select_related("vault", "group", "csp_account", "xks_key_store")


def _read(request: Any, made: Made) -> dict[str, Any]:
    row = request.actor.fetch(KeySet, made.target_id, Permission.KEY_SETS_VIEW)
    work = read_operation(request, made.operation_id)
    return {**KeySetSerializer(row).data, "credential": None, "operations": [work] if work else []}


def _created(made: key_sets.KeySetCreated) -> Response:
    data = {
        **KeySetSerializer(made.key_set).data,
        "credential": new_credential_data(made.credential),
        "operations": [operation_data(each) for each in made.operations],
    }
    location = f"/api/v1/key-sets/{made.key_set.pk}"
    if made.operations:
        return accepted(made.operations[0].pk, {**data, "idempotency_replayed": False}, row=made.key_set)
    return created(made.key_set, data, location=location)


class KeySetList(ApiView):
    """key-sets"""

    @operation(
        "key_sets_list",
        summary="List key sets",
        description="The vault's key sets.",
        tag=TAG,
        response=KeySetSerializer,
        example=KEY_SET,
        listing=LISTING,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.KEY_SETS_VIEW)
        return page(request, _rows(request).filter(vault=vault), LISTING, KeySetSerializer)

    @operation(
        "key_sets_create",
        summary="Create a key set",
        description="With `use_as_external_key_store` it gets a proxy face: a path prefix, a health-check "
        "key and a first "
        "credential, whose secret is in this answer and in no later one, also as the JSON file that the AWS "
        "console takes "
        "(`credential.console_file`). Each of `links` is the AWS key store of one region: linked, Keystead "
        "makes and connects it "
        "(an Operation each, and the answer is 202), after a check of its own; unlinked, you do it in the AWS console.",
        tag=TAG,
        request=KeySetInput,
        request_example={
            "name": "pay-hyok",
            "csp_account": IDS["account"],
            "use_as_external_key_store": True,
            "links": [{"region": "eu-west-1"}],
            "rotation_schedule": EVERY,
        },
        response=KeySetCreated,
        status=201,
        example={**KEY_SET, "credential": CREDENTIAL_ONCE, "operations": [], "idempotency_replayed": False},
        errors=(404,),
        replay=Replay(KeySet, _read),
        may_take_long=True,
        etag=True,
    )
    def post(self, request: Any) -> Response:
        """POST"""
        values = request.data_in
        vault = vault_of(request, Permission.KEY_SETS_MANAGE, values.pop("vault", None))
        links = [LinkRequest(**link) for link in values.pop("links", [])]
        return _created(key_sets.create_key_set(request.actor, vault, links=links, **values))


class KeySetDetail(ApiView):
    """key-sets/{id}"""

    @operation(
        "key_sets_show",
        summary="Show a key set",
        description="One key set.",
        tag=TAG,
        response=KeySetSerializer,
        example=KEY_SET,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, key_set_id: UUID) -> Response:
        """GET"""
        row = request.actor.fetch(KeySet, key_set_id, Permission.KEY_SETS_VIEW)
        return detail(row, KeySetSerializer(row).data)

    @operation(
        "key_sets_update",
        summary="Change a key set",
        description="A new `rotation_schedule` or `expiration` reaches at once every CloudKey that has none "
        "of its own.",
        tag=TAG,
        request=KeySetChanges,
        request_example={"rotation_schedule": EVERY},
        response=KeySetSerializer,
        example={**KEY_SET, "revision": 2},
        errors=(409,),
        if_match="required",
        etag=True,
    )
    def patch(self, request: Any, key_set_id: UUID) -> Response:
        """PATCH"""
        row = key_sets.update_key_set(
            request.actor, key_set_id, request.data_in, expected_revision=request.expected
        )
        return detail(row, KeySetSerializer(row).data)

    @operation(
        "key_sets_delete",
        summary="Delete a key set",
        description="Only when all its keys are destroyed and AWS has none of its key stores any more.",
        tag=TAG,
        status=204,
        errors=(409,),
        if_match="required",
    )
    def delete(self, request: Any, key_set_id: UUID) -> Response:
        """DELETE"""
        key_sets.delete_key_set(request.actor, key_set_id, expected_revision=request.expected)
        return Response(status=204)


class KeySetExternalStore(ApiView):
    """key-sets/{id}/use-as-external-key-store"""

    @operation(
        "key_sets_use_as_external_key_store",
        summary="Use as external key store",
        description="Give an existing key set its proxy face. The answer shows the first credential's "
        "secret, this once.",
        tag=TAG,
        request=ExternalStoreInput,
        request_example={"path_prefix": "/payments"},
        response=KeySetCreated,
        status=201,
        example={**KEY_SET, "credential": CREDENTIAL_ONCE, "operations": [], "idempotency_replayed": False},
        errors=(404, 409),
        replay=Replay(KeySet, _read),
    )
    def post(self, request: Any, key_set_id: UUID) -> Response:
        """POST"""
        return _created(key_sets.use_as_external_key_store(request.actor, key_set_id, **request.data_in))
