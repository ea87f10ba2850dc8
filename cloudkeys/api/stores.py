"""/api/v1/xks-key-stores and their credentials."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.shapes import (
    CONFIRMATION,
    IDS,
    NOW,
    STORES_TAG,
    VAULT,
    confirm,
)  # fmt: skip
from cloudkeys.api.store_links import LINK, LinkSerializer
from cloudkeys.models import XksCredential, XksKeyStore
from cloudkeys.naming import XKS_API_PATH
from cloudkeys.services import credentials, stores
from vault.api.endpoints import ApiView, created, detail, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, flag, identifier, text, vault_of
from vault.api.serializers import (
    ConfirmationSerializer,
    CreatedMixin,
    PlainText,
    ReferenceSerializer,
    StrictBoolean,
    StrictInteger,
    StrictSerializer,
    confirmation_data,
)  # fmt: skip
from vault.api.vaults import ReasonSerializer
from vault.permissions import Permission


class CredentialSerializer(serializers.ModelSerializer[XksCredential]):
    """A SigV4 credential that AWS signs with; its secret is shown once, when it is made."""

    class Meta:
        model = XksCredential
        fields = ("id", "store", "access_key_id", "state", "created_at", "retired_at")


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


class StoreSerializer(serializers.ModelSerializer[XksKeyStore]):
    """The proxy face of a key set."""

    vault = ReferenceSerializer()
    key_set = ReferenceSerializer()
    xks_proxy_uri_path = serializers.SerializerMethodField(
        help_text="What AWS is told: prefix and /kms/xks/v1."
    )
    credentials = CredentialSerializer(many=True)
    links = LinkSerializer(many=True)
    allowed_regions = serializers.ListField(child=serializers.CharField())

    class Meta:
        model = XksKeyStore
        fields = (
            "id", "vault", "key_set", "path_prefix", "xks_proxy_uri_path", "blocked",
            "blocked_reason", "max_staleness_s",
            "allowed_regions", "credentials", "links", "revision", "created_at", "updated_at",
        )  # fmt: skip

    def get_xks_proxy_uri_path(self, row: XksKeyStore) -> str:
        """See the field."""
        return row.path_prefix + XKS_API_PATH


class StoreChanges(StrictSerializer):
    """What may change; the path prefix is what AWS knows the store by, and stays."""

    max_staleness_s = StrictInteger(
        min_value=1,
        max_value=86400,
        required=False,
        allow_null=True,
        help_text="Null: the installation's default.",
    )
    allowed_regions = serializers.ListField(
        child=PlainText(max_length=32),
        max_length=50,
        required=False,
        help_text="Signing regions accepted; empty: any.",
    )


class StoreAndConfirmation(serializers.Serializer[Any]):
    """A store, and how far the data plane has confirmed the change."""

    store = StoreSerializer()
    confirmation = ConfirmationSerializer(allow_null=True)


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


CREDENTIAL: dict[str, Any] = {
    "id": IDS["credential"],
    "store": IDS["store"],
    "access_key_id": "MFRGGZDFMZTWQ2LKNNWG23TPOB",
    "state": "ACTIVE",
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
STORE: dict[str, Any] = {
    "id": IDS["store"],
    "vault": VAULT,
    "key_set": {"id": IDS["key_set"], "name": "pay-hyok"},
    "path_prefix": "/9f86d081884c",
    "xks_proxy_uri_path": "/9f86d081884c/kms/xks/v1",
    "blocked": False,
    "blocked_reason": "",
    "max_staleness_s": None,
    "allowed_regions": [],
    "credentials": [CREDENTIAL],
    "links": [LINK],
    "revision": 1,
    "created_at": NOW,
    "updated_at": NOW,
}
STORES = Listing(
    orderings={"created_at": "created_at", "key_set": "key_set__name"},
    default_ordering="created_at",
    filters=(
        text("search", ("key_set__name__icontains", "path_prefix__icontains"), "Part of key set or path."),
        identifier("key_set", "key_set_id", "Key set."),
        flag("blocked", "blocked", "Whether it is blocked."),
    ),
)
_ON_STORE = "Blocking acts in the data plane only and at once; AWS is not told."


def _stores(request: Any) -> Any:
    rows = request.actor.visible(XksKeyStore).select_related("vault", "key_set")
    return rows.prefetch_related("credentials", "links", "links__vault")


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


class StoreList(ApiView):
    """xks-key-stores"""

    @operation(
        "xks_key_stores_list",
        summary="List external key stores",
        description="The proxy faces of the vault's key sets, with credentials and AWS key stores. One is "
        "made with its key set.",
        tag=STORES_TAG,
        response=StoreSerializer,
        example=STORE,
        listing=STORES,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.XKS_STORES_VIEW)
        return page(request, _stores(request).filter(vault=vault), STORES, StoreSerializer)


class StoreDetail(ApiView):
    """xks-key-stores/{id}"""

    @operation(
        "xks_key_stores_show",
        summary="Show an external key store",
        description="One proxy face.",
        tag=STORES_TAG,
        response=StoreSerializer,
        example=STORE,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, store_id: UUID) -> Response:
        """GET"""
        request.actor.fetch(XksKeyStore, store_id, Permission.XKS_STORES_VIEW)
        row = _stores(request).get(pk=store_id)
        return detail(row, StoreSerializer(row).data)

    @operation(
        "xks_key_stores_update",
        summary="Change an external key store",
        description="Its staleness bound, and the signing regions that it accepts.",
        tag=STORES_TAG,
        request=StoreChanges,
        request_example={"max_staleness_s": 30},
        response=StoreSerializer,
        example={**STORE, "max_staleness_s": 30, "revision": 2},
        errors=(409,),
        if_match="required",
        etag=True,
    )
    def patch(self, request: Any, store_id: UUID) -> Response:
        """PATCH"""
        row = stores.update_xks_store(
            request.actor, store_id, request.data_in, expected_revision=request.expected
        )
        return detail(row, StoreSerializer(row).data)


class StoreBlock(ApiView):
    """xks-key-stores/{id}/block"""

    @operation(
        "xks_key_stores_block",
        summary="Block an external key store",
        description="Refuse every call for it, health too, on every node. " + _ON_STORE,
        tag=STORES_TAG,
        request=ReasonSerializer,
        request_example={"reason": "Incident 7"},
        response=StoreAndConfirmation,
        example={
            "store": {**STORE, "blocked": True, "blocked_reason": "Incident 7"},
            "confirmation": CONFIRMATION,
        },
        errors=(404,),
    )
    def post(self, request: Any, store_id: UUID) -> Response:
        """POST"""
        row, generation = stores.block_xks_store(request.actor, store_id, **request.data_in)
        return Response(
            {"store": StoreSerializer(row).data, "confirmation": confirmation_data(confirm(generation))}
        )


class StoreUnblock(ApiView):
    """xks-key-stores/{id}/unblock"""

    @operation(
        "xks_key_stores_unblock",
        summary="Unblock an external key store",
        description="Serve it again. May need another person's consent.",
        tag=STORES_TAG,
        request=ReasonSerializer,
        request_example={"reason": "Incident 7 is over"},
        response=StoreAndConfirmation,
        example={"store": STORE, "confirmation": CONFIRMATION},
        errors=(404,),
    )
    def post(self, request: Any, store_id: UUID) -> Response:
        """POST"""
        row, generation = stores.unblock_xks_store(request.actor, store_id, **request.data_in)
        return Response(
            {"store": StoreSerializer(row).data, "confirmation": confirmation_data(confirm(generation))}
        )


class StoreCredentials(ApiView):
    """xks-key-stores/{id}/credentials"""

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
        "`even_the_last`.",
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
        row, generation = credentials.retire_xks_credential(
            request.actor, credential_id, even_the_last=request.data_in["even_the_last"]
        )
        confirmation = confirmation_data(confirm(generation))
        return Response({"credential": CredentialSerializer(row).data, "confirmation": confirmation})
