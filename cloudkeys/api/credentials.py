"""/api/v1/xks-credentials, and the rotation of a store's credential."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.shapes import (
    CONFIRMATION,
    IDS,
    NOW,
    OPERATION,
    STORES_TAG,
    BegunSerializer,
    OperationSerializer,
    begun,
    operation_data,
)  # fmt: skip
from cloudkeys.models import XksCredential, XksCredentialRegion, XksKeyStore
from cloudkeys.services import credential_rotation, credentials
from vault.actions import Action
from vault.api.endpoints import ApiView, created, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, choice, flag, single, text
from vault.api.serializers import (
    ConfirmationSerializer,
    CreatedMixin,
    PlainText,
    StrictBoolean,
    StrictInteger,
    StrictSerializer,
    confirmation_data,
)  # fmt: skip
from vault.api.vaults import ReasonSerializer
from vault.permissions import Permission
from vault.services.confirmations import confirm_switch


class CredentialRegionSerializer(serializers.ModelSerializer[XksCredentialRegion]):
    """The credential in one AWS region (the one named in the signature; empty: regions beyond 64)."""

    class Meta:
        model = XksCredentialRegion
        fields = ("region", "given", "given_at", "last_used_at", "last_succeeded_at")


class CredentialSerializer(serializers.ModelSerializer[XksCredential]):
    """A SigV4 credential that AWS signs with; its secret is shown once, when it is made."""

    last_used_at = serializers.SerializerMethodField(help_text="In any region, health checks included.")
    regions = CredentialRegionSerializer(many=True)

    class Meta:
        model = XksCredential
        fields = (
            "id", "store", "access_key_id", "state", "shown_at", "last_used_at", "regions", "created_at", "retired_at",
        )  # fmt: skip

    def get_last_used_at(self, row: XksCredential) -> datetime | None:
        """See the field."""
        return max((at for region in row.regions.all() if (at := region.last_used_at)), default=None)


class ProxyCredentialSerializer(serializers.Serializer[Any]):
    """As AWS spells it."""

    AccessKeyId = serializers.CharField()
    RawSecretAccessKey = serializers.CharField()


class ConsoleFileSerializer(serializers.Serializer[Any]):
    """The JSON file that the AWS console takes ("Upload configuration file")."""

    XksProxyUriPath = serializers.CharField()
    XksProxyAuthenticationCredential = ProxyCredentialSerializer()


class NewCredentialSerializer(CredentialSerializer):
    """A new credential: secret and file are shown in this answer and in no other; null on a repeat."""

    secret_access_key = serializers.CharField(allow_null=True)
    console_file = ConsoleFileSerializer(allow_null=True)

    class Meta(CredentialSerializer.Meta):
        fields = (*CredentialSerializer.Meta.fields, "secret_access_key", "console_file")  # type: ignore[assignment]


class CredentialCreated(CreatedMixin, NewCredentialSerializer):
    """A new credential."""

    class Meta(NewCredentialSerializer.Meta):
        fields = (*NewCredentialSerializer.Meta.fields, "idempotency_replayed")  # type: ignore[assignment]


class CredentialAndConfirmation(serializers.Serializer[Any]):
    """A credential, and how far the data plane has confirmed the change."""

    credential = CredentialSerializer()
    confirmation = ConfirmationSerializer(allow_null=True)


class RetireInput(ReasonSerializer):
    """How to retire a credential."""

    even_the_last = StrictBoolean(
        default=False,
        help_text="Retire the store's last live credential too: AWS can then use none of its keys.",
    )
    force = StrictBoolean(
        default=False,
        help_text="Retire it although it is in use, or the last; needs a reason. Requests signed with it fail.",
    )


class RotateInput(ReasonSerializer):
    """How to rotate a store's credential."""

    silence_s = StrictInteger(
        min_value=credential_rotation.MIN_SILENCE_S,
        max_value=credential_rotation.MAX_SILENCE_S,
        required=False,
        help_text="Seconds for which the old one must not be seen; KEYSTEAD_XKS_CREDENTIAL_SILENCE when left out.",
    )


class GivenInput(StrictSerializer):
    """A region in which a person did what Keystead may not."""

    region = PlainText(max_length=32)
    not_needed = StrictBoolean(
        default=False,
        help_text="True: the region uses the store no more; AWS need not get the new credential.",
    )


class RegionStatusSerializer(serializers.Serializer[Any]):
    """Where the rotation stands in one region."""

    region = serializers.CharField()
    state = serializers.ChoiceField(choices=credential_rotation.STATES)
    by_keystead = serializers.BooleanField(
        help_text="True: Keystead gives AWS the credential. False: a person does, then POST .../rotation/done."
    )
    link = serializers.UUIDField(allow_null=True, source="link.pk", default=None)
    given = serializers.CharField(allow_blank=True)
    given_at = serializers.DateTimeField(allow_null=True)
    new_used_at = serializers.DateTimeField(allow_null=True)
    new_succeeded_at = serializers.DateTimeField(allow_null=True)
    old_used_at = serializers.DateTimeField(allow_null=True)
    ready_at = serializers.DateTimeField(
        allow_null=True, help_text="When the old one counts as silent, at the earliest."
    )


class RotationSerializer(serializers.Serializer[Any]):
    """The store's last rotation; everything null or empty when there was none."""

    operation = OperationSerializer(allow_null=True)
    new = CredentialSerializer(allow_null=True)
    old = CredentialSerializer(many=True)
    regions = RegionStatusSerializer(many=True, help_text="While it is under way.")
    silence_s = serializers.IntegerField(help_text="So long the old one must not be seen.")
    file_available = serializers.BooleanField(
        help_text="Whether the new credential's file can still be taken, once."
    )


CREDENTIAL: dict[str, Any] = {
    "id": IDS["credential"],
    "store": IDS["store"],
    "access_key_id": "MFRGGZDFMZTWQ2LKNNWG23TPOB",
    "state": "ACTIVE",
    "shown_at": NOW,
    "last_used_at": NOW,
    "regions": [
        {
            "region": "eu-west-1",
            "given": "KEYSTEAD",
            "given_at": NOW,
            "last_used_at": NOW,
            "last_succeeded_at": NOW,
        }
    ],
    "created_at": NOW,
    "retired_at": None,
}
_SECRET = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="
CREDENTIAL_ONCE: dict[str, Any] = {
    **CREDENTIAL,
    "secret_access_key": _SECRET,
    "console_file": {
        "XksProxyUriPath": "/9f86d081884c/kms/xks/v1",
        "XksProxyAuthenticationCredential": {
            "AccessKeyId": CREDENTIAL["access_key_id"],
            "RawSecretAccessKey": _SECRET,
        },
    },
}
_OPERATION = {
    **OPERATION,
    "kind": credential_rotation.KIND,
    "target": {"type": "xkskeystore", "id": IDS["store"], "name": "pay-hyok"},
}
ROTATION: dict[str, Any] = {
    "operation": _OPERATION,
    "new": CREDENTIAL,
    "old": [],
    "regions": [
        {
            "region": "eu-west-1",
            "state": "OLD_IN_USE",
            "by_keystead": True,
            "link": IDS["link"],
            "given": "KEYSTEAD",
            "given_at": NOW,
            "new_used_at": NOW,
            "new_succeeded_at": NOW,
            "old_used_at": NOW,
            "ready_at": NOW,
        }
    ],
    "silence_s": 3600,
    "file_available": False,
}
CREDENTIALS = Listing(
    orderings={"created_at": "created_at"},
    default_ordering="created_at",
    filters=(choice("state", "state", XksCredential.State.values, "State."),),
)


def new_credential_data(made: credentials.NewCredential | None) -> dict[str, Any] | None:
    """NewCredentialSerializer's data, with the secret; None for None."""
    if made is None:
        return None
    return {
        **CredentialSerializer(made.credential).data,
        "secret_access_key": made.secret.reveal_text(),
        "console_file": made.console_file(),
    }


def _read_credential(request: Any, made: Made) -> dict[str, Any]:
    row = request.actor.fetch(XksCredential, made.target_id, Permission.XKS_STORES_VIEW)
    return {**CredentialSerializer(row).data, "secret_access_key": None, "console_file": None}


class StoreCredentials(ApiView):
    """xks-key-stores/{id}/credentials"""

    @operation(
        "xks_credentials_list",
        summary="List a store's credentials",
        description="Live and retired ones, each with its age and when AWS last used it in which region.",
        tag=STORES_TAG,
        response=CredentialSerializer,
        example=CREDENTIAL,
        listing=CREDENTIALS,
        errors=(404,),
    )
    def get(self, request: Any, store_id: UUID) -> Response:
        """GET"""
        store: XksKeyStore = request.actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_VIEW)
        rows = store.credentials.prefetch_related("regions")
        return page(request, rows, CREDENTIALS, CredentialSerializer)

    @operation(
        "xks_credentials_create",
        summary="Make a further credential",
        description="The others stay valid. Secret and the AWS console's file (`console_file`) are in this "
        "answer and in no "
        "later one: store them now.",
        tag=STORES_TAG,
        response=CredentialCreated,
        status=201,
        example={**CREDENTIAL_ONCE, "idempotency_replayed": False},
        errors=(404,),
        replay=Replay(XksCredential, _read_credential),
    )
    def post(self, request: Any, store_id: UUID) -> Response:
        """POST"""
        made = credentials.create_xks_credential(request.actor, store_id)
        data = new_credential_data(made) or {}
        return created(made.credential, data, location=f"/api/v1/xks-key-stores/{store_id}")


class CredentialRetire(ApiView):
    """xks-credentials/{id}/retire"""

    @operation(
        "xks_credentials_retire",
        summary="Retire a credential",
        description="The data plane refuses it at once, and its secret is erased. The store's last live one only with "
        "`even_the_last`, and one that AWS has used of late only with `force` and a reason.",
        tag=STORES_TAG,
        request=RetireInput,
        request_example={"reason": "Rotated"},
        response=CredentialAndConfirmation,
        example={
            "credential": {**CREDENTIAL, "state": "RETIRED", "retired_at": NOW},
            "confirmation": CONFIRMATION,
        },
        errors=(404, 409),
    )
    def post(self, request: Any, credential_id: UUID) -> Response:
        """POST"""
        row, generation = credentials.retire_xks_credential(request.actor, credential_id, **request.data_in)
        return _retired(request, row, generation)


class CredentialDetail(ApiView):
    """xks-credentials/{id}"""

    @operation(
        "xks_credentials_show",
        summary="Show a credential",
        description="Its age, and when AWS last used it in which region; never its secret.",
        tag=STORES_TAG,
        response=CredentialSerializer,
        example=CREDENTIAL,
        errors=(404,),
    )
    def get(self, request: Any, credential_id: UUID) -> Response:
        """GET"""
        row = request.actor.fetch(XksCredential, credential_id, Permission.XKS_STORES_VIEW)
        return Response(CredentialSerializer(row).data)

    @operation(
        "xks_credentials_delete",
        summary="Delete a credential",
        description="As retiring it: the data plane refuses it at once and its secret is erased; the row stays for the "
        "record. Refused for the store's last live one, and for one that AWS has used of late, unless `force` "
        "is true and `reason` says why.",
        tag=STORES_TAG,
        response=CredentialAndConfirmation,
        example={
            "credential": {**CREDENTIAL, "state": "RETIRED", "retired_at": NOW},
            "confirmation": CONFIRMATION,
        },
        errors=(404, 409),
        query=(
            flag("force", "", "Although it is in use, or the last. Requests signed with it fail."),
            text("reason", (), "Why; needed with force.", max_length=1000),
        ),
    )
    def delete(self, request: Any, credential_id: UUID) -> Response:
        """DELETE"""
        row, generation = credentials.retire_xks_credential(
            request.actor,
            credential_id,
            force=single(request, "force") == "true",
            reason=single(request, "reason") or "",
        )
        return _retired(request, row, generation)


def _retired(request: Any, row: XksCredential, generation: int) -> Response:
    confirmation = confirm_switch(request.actor, Action.XKS_CREDENTIAL_RETIRE, row, generation)
    data = {"credential": CredentialSerializer(row).data, "confirmation": confirmation_data(confirmation)}
    return Response(data)


class StoreRotate(ApiView):
    """xks-key-stores/{id}/rotate-credentials"""

    @operation(
        "xks_key_stores_rotate_credentials",
        summary="Rotate a store's credential",
        description="Begin: make a second credential, give it to AWS in every region (where the AWS key store is not "
        "linked, a person does: see `rotation`), and retire the old one when AWS uses the new one everywhere and the "
        "old one has not been seen for `silence_s`. No request fails meanwhile: both are valid.",
        tag=STORES_TAG,
        request=RotateInput,
        request_example={"reason": "Yearly"},
        response=BegunSerializer,
        status=202,
        example={"operation": _OPERATION},
        errors=(404, 409),
    )
    def post(self, request: Any, store_id: UUID) -> Response:
        """POST"""
        return begun(credential_rotation.rotate_xks_credential(request.actor, store_id, **request.data_in))


class StoreRotation(ApiView):
    """xks-key-stores/{id}/rotation"""

    @operation(
        "xks_key_stores_rotation",
        summary="Show a store's rotation",
        description="The last rotation of its credential, and where it stands in every region.",
        tag=STORES_TAG,
        response=RotationSerializer,
        example=ROTATION,
        errors=(404,),
    )
    def get(self, request: Any, store_id: UUID) -> Response:
        """GET"""
        found = credential_rotation.show_rotation(request.actor, store_id)
        data = {
            "operation": operation_data(found.operation),
            "new": CredentialSerializer(found.new).data if found.new is not None else None,
            "old": CredentialSerializer(found.old, many=True).data,
            "regions": RegionStatusSerializer(found.regions, many=True).data,
            "silence_s": found.silence_s,
            "file_available": found.file_available,
        }
        return Response(data)


class StoreRotationFile(ApiView):
    """xks-key-stores/{id}/rotation/file"""

    @operation(
        "xks_key_stores_rotation_file",
        summary="Take the new credential's file",
        description="Secret and the AWS console's file (`console_file`) of the credential that the rotation under way has "
        "made, for a person to carry to AWS: in this answer and in no later one.",
        tag=STORES_TAG,
        response=NewCredentialSerializer,
        example=CREDENTIAL_ONCE,
        errors=(404, 409),
    )
    def post(self, request: Any, store_id: UUID) -> Response:
        """POST"""
        return Response(new_credential_data(credential_rotation.take_rotation_file(request.actor, store_id)))


class StoreRotationDone(ApiView):
    """xks-key-stores/{id}/rotation/done"""

    @operation(
        "xks_key_stores_rotation_done",
        summary="Say that AWS has the new credential in a region",
        description="Where the AWS key store is not linked: you have uploaded the file there. The old credential is "
        "retired on real use all the same, not on this word. `not_needed`: the region uses the store no more.",
        tag=STORES_TAG,
        request=GivenInput,
        request_example={"region": "eu-west-1"},
        response=CredentialRegionSerializer,
        example={**CREDENTIAL["regions"][0], "given": "PERSON"},
        errors=(404, 409),
    )
    def post(self, request: Any, store_id: UUID) -> Response:
        """POST"""
        row = credential_rotation.mark_given(request.actor, store_id, **request.data_in)
        return Response(CredentialRegionSerializer(row).data)
