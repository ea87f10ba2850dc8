"""/api/v1/aws-store-links: the AWS key store of each region of an external key store."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.shapes import (
    IDS,
    NOW,
    OPERATION,
    STORES_TAG,
    VAULT,
    BegunSerializer,
    OperationSerializer,
    begun,
    operation_data,
    read_operation,
)  # fmt: skip
from cloudkeys.models import AwsStoreLink
from cloudkeys.services import stores
from vault.api.endpoints import ApiView, detail, done_or_begun, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, choice, flag, identifier, text, vault_of
from vault.api.serializers import (
    CreatedMixin,
    JsonObject,
    PlainText,
    ReferenceSerializer,
    StrictBoolean,
    StrictSerializer,
)
from vault.permissions import Permission


class LinkInput(StrictSerializer):
    """An AWS key store in one region."""

    region = PlainText(max_length=32)
    linked = StrictBoolean(
        default=True, help_text="True: Keystead makes and connects it. False: you do, in the AWS console."
    )
    name = PlainText(
        max_length=256,
        required=False,
        allow_blank=True,
        help_text="In AWS; the key set's name when left out.",
    )
    endpoint = PlainText(max_length=128, required=False, allow_blank=True, help_text="https://host; no port.")
    connectivity = serializers.ChoiceField(choices=AwsStoreLink.Connectivity.choices, required=False)
    vpc_endpoint_service_name = PlainText(max_length=64, required=False, allow_blank=True)


class NewLinkInput(LinkInput):
    """An AWS key store for one more region of a store."""

    store = serializers.UUIDField()


class LinkChanges(StrictSerializer):
    """What may change of an AWS key store."""

    name = PlainText(max_length=256, required=False)
    endpoint = PlainText(max_length=128, required=False)
    connectivity = serializers.ChoiceField(choices=AwsStoreLink.Connectivity.choices, required=False)
    vpc_endpoint_service_name = PlainText(max_length=64, required=False, allow_blank=True)
    custom_key_store_id = PlainText(
        max_length=64, required=False, allow_blank=True, help_text="Of an unlinked one."
    )


class LinkSerializer(serializers.ModelSerializer[AwsStoreLink]):
    """The AWS side of a store in one region: our `state`, and beside it what AWS last said (`cloud_state`)."""

    vault = ReferenceSerializer()
    cloud_state = JsonObject()

    class Meta:
        model = AwsStoreLink
        fields = (
            "id", "vault", "store", "region", "name", "custom_key_store_id", "linked", "endpoint", "connectivity",
            "vpc_endpoint_service_name", "state", "connection_error_code", "cloud_state", "cloud_state_at", "revision",
            "created_at", "updated_at",
        )  # fmt: skip


class LinkAndOperation(serializers.Serializer[Any]):
    """An AWS key store and the Operation at work on it, null when nothing is left to do."""

    link = LinkSerializer()
    operation = OperationSerializer(allow_null=True)


class LinkCreated(CreatedMixin, LinkAndOperation):
    """A new AWS key store."""


class LinkDeleted(serializers.Serializer[Any]):
    """The Operation that deletes it in AWS; null when it was only noted here, and is forgotten."""

    operation = OperationSerializer(allow_null=True)


class AdoptStoreInput(StrictSerializer):
    """What to link."""

    custom_key_store_id = PlainText(
        max_length=64,
        required=False,
        allow_blank=True,
        help_text="Adopt this one (cks-...). Left out: make one.",
    )


LINK: dict[str, Any] = {
    "id": IDS["link"],
    "vault": VAULT,
    "store": IDS["store"],
    "region": "eu-west-1",
    "name": "pay-hyok",
    "custom_key_store_id": "cks-1234567890abcdef0",
    "linked": True,
    "endpoint": "https://xks.example.com",
    "connectivity": "PUBLIC_ENDPOINT",
    "vpc_endpoint_service_name": "",
    "state": "CONNECTED",
    "connection_error_code": "",
    "cloud_state": {"state": "CONNECTED"},
    "cloud_state_at": NOW,
    "revision": 1,
    "created_at": NOW,
    "updated_at": NOW,
}
LINKS = Listing(
    orderings={"region": "region", "name": "name", "created_at": "created_at"},
    default_ordering="region",
    filters=(
        identifier("store", "store_id", "External key store."),
        choice("state", "state", AwsStoreLink.State.values, "Our state."),
        text("region", ("region",), "Region."),
        flag("linked", "linked", "Whether Keystead drives it."),
    ),
)


def _links(request: Any) -> Any:
    return request.actor.visible(AwsStoreLink).select_related("vault")


def _read_link(request: Any, made: Made) -> dict[str, Any]:
    row = request.actor.fetch(AwsStoreLink, made.target_id, Permission.XKS_STORES_VIEW)
    return {"link": LinkSerializer(row).data, "operation": read_operation(request, made.operation_id)}


class LinkList(ApiView):
    """aws-store-links"""

    @operation(
        "aws_store_links_list",
        summary="List AWS key stores",
        description="The AWS side of the vault's external key stores, one a region.",
        tag=STORES_TAG,
        response=LinkSerializer,
        example=LINK,
        listing=LINKS,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.XKS_STORES_VIEW)
        return page(request, _links(request).filter(vault=vault), LINKS, LinkSerializer)

    @operation(
        "aws_store_links_create",
        summary="Add an AWS key store for a region",
        description="Linked: Keystead checks the endpoint itself, makes the custom key store and connects "
        "it; when that fails, "
        "nothing is left behind. Unlinked: only noted here.",
        tag=STORES_TAG,
        request=NewLinkInput,
        request_example={"store": IDS["store"], "region": "eu-central-1"},
        response=LinkCreated,
        status=201,
        example={"link": {**LINK, "state": "PENDING"}, "operation": None, "idempotency_replayed": False},
        errors=(404,),
        replay=Replay(AwsStoreLink, _read_link),
        may_take_long=True,
    )
    def post(self, request: Any) -> Response:
        """POST"""
        values = request.data_in
        added = stores.create_store_link(request.actor, values.pop("store"), stores.LinkRequest(**values))
        return _link_answer(added, {"idempotency_replayed": False}, status=201)


class LinkDetail(ApiView):
    """aws-store-links/{id}"""

    @operation(
        "aws_store_links_show",
        summary="Show an AWS key store",
        description="One region of an external key store.",
        tag=STORES_TAG,
        response=LinkSerializer,
        example=LINK,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, link_id: UUID) -> Response:
        """GET"""
        row = request.actor.fetch(AwsStoreLink, link_id, Permission.XKS_STORES_VIEW)
        return detail(row, LinkSerializer(row).data)

    @operation(
        "aws_store_links_update",
        summary="Change an AWS key store",
        description="A linked one is brought in line in AWS by an Operation; AWS takes a new endpoint or "
        "connectivity only while "
        "it is disconnected.",
        tag=STORES_TAG,
        request=LinkChanges,
        request_example={"name": "pay-hyok-2"},
        response=LinkAndOperation,
        example={"link": {**LINK, "name": "pay-hyok-2", "revision": 2}, "operation": None},
        errors=(409,),
        if_match="required",
        may_take_long=True,
    )
    def patch(self, request: Any, link_id: UUID) -> Response:
        """PATCH"""
        changed = stores.update_store_link(
            request.actor, link_id, request.data_in, expected_revision=request.expected
        )
        return _link_answer(changed)

    @operation(
        "aws_store_links_delete",
        summary="Delete an AWS key store",
        description="Disconnects and deletes it in AWS (202), or forgets an unlinked one (200). It must "
        "have no KMS keys left.",
        tag=STORES_TAG,
        response=LinkDeleted,
        example={"operation": {**OPERATION, "kind": "store_link.delete"}},
        errors=(409,),
        if_match="required",
        may_take_long=True,
    )
    def delete(self, request: Any, link_id: UUID) -> Response:
        """DELETE"""
        work = stores.delete_store_link(request.actor, link_id, expected_revision=request.expected)
        return done_or_begun({"operation": operation_data(work)}, work.pk if work else None)


def _link_answer(added: stores.LinkAdded, more: dict[str, Any] | None = None, status: int = 200) -> Response:
    data = {
        "link": LinkSerializer(added.link).data,
        "operation": operation_data(added.operation),
        **(more or {}),
    }
    work = added.operation
    response = done_or_begun(data, work.pk if work is not None else None, row=added.link, status=status)
    if work is None and status == 201:
        response["Location"] = f"/api/v1/aws-store-links/{added.link.pk}"
    return response


class LinkLink(ApiView):
    """aws-store-links/{id}/link"""

    @operation(
        "aws_store_links_link",
        summary="Link an unlinked store",
        description="Adopt the given custom key store, once AWS confirms type, path and endpoint; or make one.",
        tag=STORES_TAG,
        request=AdoptStoreInput,
        request_example={"custom_key_store_id": "cks-1234567890abcdef0"},
        response=LinkAndOperation,
        status=202,
        example={"link": LINK, "operation": {**OPERATION, "kind": "store_link.link"}},
        errors=(404, 409),
    )
    def post(self, request: Any, link_id: UUID) -> Response:
        """POST"""
        return _link_answer(stores.link_store(request.actor, link_id, **request.data_in))


class LinkConnect(ApiView):
    """aws-store-links/{id}/connect"""

    @operation(
        "aws_store_links_connect",
        summary="Connect an AWS key store",
        description="The Operation ends with CONNECTED, or with AWS's connection error code, its cause and cure.",
        tag=STORES_TAG,
        response=BegunSerializer,
        status=202,
        example={"operation": {**OPERATION, "kind": "store_link.connect"}},
        errors=(404, 409),
    )
    def post(self, request: Any, link_id: UUID) -> Response:
        """POST"""
        return begun(stores.connect_store(request.actor, link_id))


class LinkDisconnect(ApiView):
    """aws-store-links/{id}/disconnect"""

    @operation(
        "aws_store_links_disconnect",
        summary="Disconnect an AWS key store",
        description="Its KMS keys become Unavailable in AWS until it is connected again.",
        tag=STORES_TAG,
        response=BegunSerializer,
        status=202,
        example={"operation": {**OPERATION, "kind": "store_link.disconnect"}},
        errors=(404, 409),
    )
    def post(self, request: Any, link_id: UUID) -> Response:
        """POST"""
        return begun(stores.disconnect_store(request.actor, link_id))


class LinkRefresh(ApiView):
    """aws-store-links/{id}/refresh"""

    @operation(
        "aws_store_links_refresh",
        summary="Ask AWS about a key store",
        description="Reads what AWS says into `cloud_state`.",
        tag=STORES_TAG,
        response=BegunSerializer,
        status=202,
        example={"operation": {**OPERATION, "kind": "store_link.refresh"}},
        errors=(404, 409),
    )
    def post(self, request: Any, link_id: UUID) -> Response:
        """POST"""
        return begun(stores.refresh_store(request.actor, link_id))
