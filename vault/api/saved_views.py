"""/api/v1/saved-views: named filters of lists."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, created, detail, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, choice, flag, vault_of
from vault.api.serializers import CreatedMixin, PlainText, ReferenceField, StrictBoolean, StrictSerializer
from vault.errors import NotFound
from vault.models import SavedView
from vault.permissions import Permission
from vault.services import saved_views

TAG = "Saved views"


class SavedViewSerializer(serializers.Serializer[Any]):
    """A named filter of one list."""

    id = serializers.UUIDField()
    vault = ReferenceField()
    owner = ReferenceField(source="user")
    page = serializers.ChoiceField(choices=SavedView.Page.choices)
    name = serializers.CharField()
    query = serializers.CharField(allow_blank=True, help_text="The filter as a URL query string.")
    columns = serializers.ListField(child=serializers.CharField())
    shared = serializers.BooleanField(help_text="Everybody in the vault sees it.")
    revision = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


VIEW = {
    "id": "9a0d7b8e-2d7f-4a3c-8f0e-1b2c3d4e5f60",
    "vault": {"id": "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11", "name": "Payments"},
    "owner": {"id": "0b7c1fd0-96a8-4c8e-a1f1-5e9f1c2f7d10", "name": "Ada"},
    "page": "cloud-keys",
    "name": "Due soon",
    "query": "state=ENABLED&ordering=next_rotation_at",
    "columns": ["name", "state", "next_rotation_at"],
    "shared": False,
    "revision": 1,
    "created_at": "2026-11-22T08:00:00Z",
    "updated_at": "2026-11-22T08:00:00Z",
}
VIEWS = Listing(
    orderings={"name": "name", "created_at": "created_at"},
    default_ordering="name",
    filters=(
        choice("page", "page", SavedView.Page.values, "Only views of this page."),
        flag("shared", "shared", "Only shared ones, or only the others."),
    ),
)


class _Fields(StrictSerializer):
    name = PlainText(max_length=100)
    query = PlainText(max_length=2000, allow_blank=True, default="")
    columns = serializers.ListField(child=PlainText(max_length=64), max_length=50, default=list)
    shared = StrictBoolean(default=False)


class CreateSavedViewSerializer(_Fields):
    """A filter and its name."""

    vault = serializers.UUIDField(required=False, help_text="May be left out by members of one vault only.")
    page = serializers.ChoiceField(choices=SavedView.Page.choices)


class UpdateSavedViewSerializer(_Fields):
    """What may change of a view."""


class SavedViewCreatedSerializer(SavedViewSerializer, CreatedMixin):
    """The new view."""


def _replay(request: Any, made: Made) -> dict[str, Any]:
    if made.target_id is None:
        raise NotFound("There is no such saved view.")
    return dict(SavedViewSerializer(saved_views.fetch_view(request.actor, made.target_id)).data)


class SavedViewList(ApiView):
    """GET, POST saved-views"""

    @operation(
        "saved_views_list",
        summary="List saved views",
        description="The caller's own views of a vault, and those that others share.",
        tag=TAG,
        response=SavedViewSerializer,
        example=VIEW,
        listing=VIEWS,
    )
    def get(self, request: Any) -> Response:
        """List views."""
        vault = vault_of(request, Permission.SAVED_VIEWS_MANAGE)
        rows = saved_views.visible_views(request.actor).filter(vault=vault).select_related("vault", "user")
        return page(request, rows, VIEWS, SavedViewSerializer)

    @operation(
        "saved_views_create",
        summary="Save a view",
        description="Keep a list's filter and columns under a name, for oneself or for everybody in the vault.",
        tag=TAG,
        request=CreateSavedViewSerializer,
        request_example={
            "page": "cloud-keys",
            "name": "Due soon",
            "query": "state=ENABLED&ordering=next_rotation_at",
        },
        response=SavedViewCreatedSerializer,
        status=201,
        example={**VIEW, "idempotency_replayed": False},
        errors=(404,),
        replay=Replay(SavedView, _replay),
        etag=True,
    )
    def post(self, request: Any) -> Response:
        """Save a view."""
        data = dict(request.data_in)
        vault = vault_of(request, Permission.SAVED_VIEWS_MANAGE, data.pop("vault", None))
        row = saved_views.create_saved_view(request.actor, vault.pk, **data)
        return created(row, SavedViewSerializer(row).data, location=f"/api/v1/saved-views/{row.pk}")


class SavedViewDetail(ApiView):
    """GET, PATCH, DELETE saved-views/{view_id}"""

    @operation(
        "saved_views_show",
        summary="Read a saved view",
        description="One's own, or a shared one.",
        tag=TAG,
        response=SavedViewSerializer,
        example=VIEW,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, view_id: UUID) -> Response:
        """Read a view."""
        row = saved_views.fetch_view(request.actor, view_id)
        return detail(row, SavedViewSerializer(row).data)

    @operation(
        "saved_views_update",
        summary="Change a saved view",
        description="Only its owner may.",
        tag=TAG,
        request=UpdateSavedViewSerializer,
        request_example={"shared": True},
        response=SavedViewSerializer,
        example=VIEW,
        if_match="required",
        etag=True,
    )
    def patch(self, request: Any, view_id: UUID) -> Response:
        """Update a view."""
        row = saved_views.update_saved_view(
            request.actor, view_id, expected_revision=request.expected, **request.data_in
        )
        return detail(row, SavedViewSerializer(row).data)

    @operation(
        "saved_views_delete",
        summary="Delete a saved view",
        description="Its owner may; a vault admin may delete shared ones.",
        tag=TAG,
        status=204,
        if_match="required",
    )
    def delete(self, request: Any, view_id: UUID) -> Response:
        """Delete a view."""
        saved_views.delete_saved_view(request.actor, view_id, expected_revision=request.expected)
        return Response(status=204)
