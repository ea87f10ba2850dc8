"""/api/v1/xks-key-stores and their credentials."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.credentials import CREDENTIAL, CredentialSerializer
from cloudkeys.api.shapes import (
    CONFIRMATION,
    IDS,
    NOW,
    STORES_TAG,
    VAULT,
    ScheduleField,
    confirm,
)  # fmt: skip
from cloudkeys.api.store_links import LINK, LinkSerializer
from cloudkeys.models import XksKeyStore
from cloudkeys.naming import XKS_API_PATH
from cloudkeys.services import stores
from vault.actions import Action
from vault.api.endpoints import ApiView, detail, operation, page
from vault.api.listing import Listing, flag, identifier, text, vault_of
from vault.api.serializers import (
    ConfirmationSerializer,
    PlainText,
    ReferenceSerializer,
    StrictInteger,
    StrictSerializer,
    confirmation_data,
)  # fmt: skip
from vault.api.vaults import ReasonSerializer
from vault.permissions import Permission
from vault.services.confirmations import confirm_switch


class CredentialScheduleField(ScheduleField):
    """A store's schedule; a store that was never given one has none."""

    def to_representation(self, value: Any) -> Any:
        """See Field."""
        return super().to_representation(value or {"kind": "none"})


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
    rotation_schedule = CredentialScheduleField(help_text="Of its credential.")

    class Meta:
        model = XksKeyStore
        fields = (
            "id", "vault", "key_set", "path_prefix", "xks_proxy_uri_path", "blocked",
            "blocked_reason", "max_staleness_s",
            "allowed_regions", "rotation_schedule", "next_rotation_at", "credentials", "links", "revision", "created_at", "updated_at",
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
    rotation_schedule = ScheduleField(
        required=False, help_text="When its credential is rotated by itself; counted from the newest one."
    )


class StoreAndConfirmation(serializers.Serializer[Any]):
    """A store, and how far the data plane has confirmed the change."""

    store = StoreSerializer()
    confirmation = ConfirmationSerializer(allow_null=True)


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
    "rotation_schedule": {"kind": "every", "every": 90, "unit": "days", "hour": 3, "time_zone": "UTC"},
    "next_rotation_at": "2027-02-20T03:00:00Z",
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
    return rows.prefetch_related("credentials__regions", "links", "links__vault")


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
        description="Its staleness bound, the signing regions that it accepts, and when its credential is rotated.",
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
        confirmation = confirm_switch(request.actor, Action.XKS_STORE_BLOCK, row, generation)
        return Response({"store": StoreSerializer(row).data, "confirmation": confirmation_data(confirmation)})


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
