"""/api/v1/key-sets."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.credentials import CREDENTIAL_ONCE, NewCredentialSerializer, new_credential_data
from cloudkeys.api.key_shapes import KEY, CloudKeySerializer
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
from cloudkeys.models import CloudKey, KeySet, XksKeyStore
from cloudkeys.services import hsm_keys, key_sets, protection
from cloudkeys.services.hsm_replication import replications_of
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
from vault.errors import NotFound
from vault.models import HsmKey
from vault.permissions import Permission

TAG = "Key sets"
MOST_KEYS_NAMED = 100
_REPLICATION_HELP = (
    "How a key gets to all members of the HSM. `device-bound`: never extractable, by the vendor's own replication. "
    "`replicated`: copied by Keystead, extractable for a moment before its first use. Null: copied where there are several "
    "members, device-bound where there is one. Of keys made from now on: the others stay as they were made."
)
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
    hsm_connection = serializers.UUIDField(
        required=False,
        allow_null=True,
        help_text="For the HSM protections, where the vault may use several HSMs.",
    )
    hsm_replication = serializers.ChoiceField(
        choices=HsmKey.Replication.choices, required=False, allow_null=True, help_text=_REPLICATION_HELP
    )
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
    protection = serializers.ChoiceField(
        choices=KeySet.Protection.choices,
        required=False,
        help_text="Of versions made from now on; the others keep theirs until their keys rotate.",
    )
    hsm_connection = serializers.UUIDField(
        required=False,
        allow_null=True,
        help_text="For the HSM protections, where the vault may use several HSMs.",
    )
    hsm_replication = serializers.ChoiceField(
        choices=HsmKey.Replication.choices, required=False, allow_null=True, help_text=_REPLICATION_HELP
    )
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
    hsm_connection = ReferenceSerializer(allow_null=True)
    hsm_replication = serializers.CharField(
        help_text="device-bound or replicated; empty: left to Keystead, and for software."
    )
    xks_key_store = serializers.SerializerMethodField()
    rotation_schedule = ScheduleField()
    expiration = ExpirationField()

    class Meta:
        model = KeySet
        fields = (
            "id", "vault", "name", "description", "group", "csp_account", "type", "protection", "hsm_connection",
            "hsm_replication", "xks_key_store",
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
    "hsm_connection": None,
    "hsm_replication": "",
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
    return request.actor.visible(KeySet).select_related(
        "vault", "group", "csp_account", "hsm_connection", "xks_key_store"
    )


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
        "of its own. A new `protection` is that of versions made from now on: rotate the keys to move them.",
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


class KeyBehindSerializer(serializers.ModelSerializer[CloudKey]):
    """A key that still has versions of another protection."""

    class Meta:
        model = CloudKey
        fields = ("id", "name", "current_version", "state", "next_rotation_at")


class ProtectionSerializer(serializers.Serializer[Any]):
    """How the versions of a key set's keys are protected."""

    protection = serializers.ChoiceField(choices=KeySet.Protection.choices)
    versions = serializers.DictField(
        child=serializers.IntegerField(), help_text="Live versions by their protection."
    )
    keys_behind = serializers.IntegerField(
        help_text="Keys that still encrypt with a version of another protection: rotate them."
    )
    keys_with_old = serializers.IntegerField(
        help_text="Keys that keep a version of another protection, for what it has encrypted."
    )
    replications = serializers.DictField(
        child=serializers.IntegerField(),
        help_text="Keys of this set inside HSMs by how they got to all members: device-bound or replicated.",
    )
    keys = KeyBehindSerializer(many=True, help_text="The first hundred of those, by name.")


class KeySetProtection(ApiView):
    """key-sets/{id}/protection"""

    @operation(
        "key_sets_protection",
        summary="Show how a key set's keys are protected",
        description="After a change of protection: which keys still have versions of another one.",
        tag=TAG,
        response=ProtectionSerializer,
        example={
            "protection": "hsm-resident",
            "versions": {"software": 3, "hsm-resident": 2},
            "keys_behind": 1,
            "keys_with_old": 3,
            "replications": {"device-bound": 2},
            "keys": [
                {
                    "id": IDS["key"],
                    "name": "payments-prod",
                    "current_version": 1,
                    "state": "ENABLED",
                    "next_rotation_at": NOW,
                }
            ],
        },
        errors=(404,),
    )
    def get(self, request: Any, key_set_id: UUID) -> Response:
        """GET"""
        row = request.actor.fetch(KeySet, key_set_id, Permission.KEY_SETS_VIEW)
        found = protection.protections_of(row)
        keys = protection.keys_with_old_versions(row).order_by("name", "id")[:MOST_KEYS_NAMED]
        return Response(
            ProtectionSerializer(
                {
                    "protection": found.protection,
                    "versions": found.versions,
                    "keys_behind": found.keys_behind,
                    "keys_with_old": found.keys_with_old,
                    "replications": replications_of(
                        row, resident=KeySet.Protection.HSM_RESIDENT in found.versions
                    ),
                    "keys": keys,
                }
            ).data
        )


class AdoptInput(StrictSerializer):
    """A key in the key set's HSM that AWS's reference proxy used."""

    key_label = PlainText(max_length=128, help_text="CKA_LABEL: its external key id, which it keeps.")
    name = PlainText(max_length=250)
    region = PlainText(max_length=32)
    description = PlainText(max_length=1000, required=False, allow_blank=True, lines=True)
    cka_id = PlainText(max_length=128, required=False, help_text="Hex; where several keys have the label.")
    fixed_metadata = PlainText(
        max_length=64, required=False, allow_blank=True, help_text="The proxy's ciphertext_metadata_b64."
    )
    prior_invocations = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=2**32,
        help_text="How often it has encrypted. Left out: it counts as exhausted, and only decrypts from now on.",
    )


_ADOPTED_KEY = {"key_label": "foo", "name": "payments-old", "region": "eu-west-1"}


class AdoptionCheckSerializer(serializers.Serializer[Any]):
    """What was found of a key that may be taken over."""

    cka_id = serializers.CharField(
        allow_blank=True,
        help_text="Hex. Empty for a key without one: it is given one when it is taken over, and its attributes are looked at then.",
    )
    members = serializers.ListField(child=serializers.CharField())
    rotates = serializers.BooleanField(help_text="Whether a new key would encrypt from the start.")
    warnings = serializers.ListField(child=serializers.CharField())


class AdoptedSerializer(CreatedMixin, serializers.Serializer[Any]):
    """The CloudKey, and what to know about the key behind it."""

    cloud_key = CloudKeySerializer()
    rotated = serializers.BooleanField(
        help_text="Whether it encrypts with a new key from the start, and with the old one only decrypts."
    )
    warnings = serializers.ListField(
        child=serializers.CharField(),
        help_text="Empty when the answer is repeated: the HSM is not asked again.",
    )


def _adopted(request: Any, made: Made) -> dict[str, Any]:
    # Whoever may take keys over need not be of the vault, and is told of the key just as the first time.
    request.actor.require(Permission.APPLIANCE_MANAGE_HSMS)
    key = CloudKey.objects.filter(pk=made.target_id).first() if made.target_id is not None else None
    if key is None:
        raise NotFound("What the first request made is gone.")
    data: dict[str, Any] = AdoptedSerializer(
        {"cloud_key": key, "rotated": key.versions.count() > 1, "warnings": []}
    ).data
    return data


class KeySetAdoptCheck(ApiView):
    """key-sets/{id}/adopt-check"""

    @operation(
        "key_sets_adopt_check",
        summary="Look at a key of the HSM before taking it over",
        description="An appliance admin's act. Makes every check of taking it over that changes nothing, on each member of the HSM, and "
        "says what would be done.",
        tag=TAG,
        request=AdoptInput,
        request_example=_ADOPTED_KEY,
        response=AdoptionCheckSerializer,
        example={"cka_id": "7b31c2", "members": ["token A", "token B"], "rotates": True, "warnings": []},
        errors=(404, 409),
    )
    def post(self, request: Any, key_set_id: UUID) -> Response:
        """POST"""
        values = request.data_in
        found = hsm_keys.check_adoption(request.actor, key_set_id, label=values.pop("key_label"), **values)
        return Response(AdoptionCheckSerializer(found).data)


class KeySetAdopt(ApiView):
    """key-sets/{id}/adopt"""

    @operation(
        "key_sets_adopt",
        summary="Take over a key of the HSM",
        description="An appliance admin's act. An AES-256 key that AWS's reference proxy used becomes a CloudKey "
        "of this key set, whose keys live in the HSM; its external key id is the old label, and what the proxy "
        "encrypted with it stays readable. Refused for a key that Keystead uses already.",
        tag=TAG,
        request=AdoptInput,
        request_example=_ADOPTED_KEY,
        response=AdoptedSerializer,
        status=201,
        example={"cloud_key": KEY, "rotated": True, "warnings": [], "idempotency_replayed": False},
        errors=(404, 409),
        replay=Replay(CloudKey, _adopted),
        may_take_long=True,
    )
    def post(self, request: Any, key_set_id: UUID) -> Response:
        """POST"""
        values = request.data_in
        made = hsm_keys.adopt_cloud_key(request.actor, key_set_id, label=values.pop("key_label"), **values)
        data = AdoptedSerializer(
            {"cloud_key": made.key, "rotated": made.rotated, "warnings": made.warnings}
        ).data
        return created(made.key, data, location=f"/api/v1/cloud-keys/{made.key.pk}")
