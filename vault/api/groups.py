"""/api/v1/groups: people of a vault who together own CSP accounts and key sets."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, created, detail, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, text, vault_of
from vault.api.serializers import CreatedMixin, PlainText, ReferenceField, StrictSerializer
from vault.errors import NotFound
from vault.models import Group
from vault.permissions import Permission
from vault.services import groups

TAG = "Groups"


class GroupMemberSerializer(serializers.Serializer[Any]):
    """A member of a group."""

    id = serializers.UUIDField(help_text="The membership's id, as in /api/v1/members.")
    email = serializers.CharField(source="user.email")
    name = serializers.CharField(source="user.get_full_name")


class GroupSerializer(serializers.Serializer[Any]):
    """A group of a vault's members."""

    id = serializers.UUIDField()
    vault = ReferenceField()
    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    members = GroupMemberSerializer(many=True, source="members.all")
    revision = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


GROUP = {
    "id": "c0f3c0de-0a58-4f7b-9a0c-2f1f3f2d8a77",
    "vault": {"id": "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11", "name": "Payments"},
    "name": "Cloud Admin Group",
    "description": "Owns what no other group was named for.",
    "members": [{"id": "e2b6a1de-7f4f-43b5-8f4e-0d6a9b8c7d10", "email": "ada@example.com", "name": "Ada"}],
    "revision": 1,
    "created_at": "2026-11-22T08:00:00Z",
    "updated_at": "2026-11-22T08:00:00Z",
}
GROUPS = Listing(
    orderings={"name": "name", "created_at": "created_at"},
    default_ordering="name",
    filters=(
        text("search", ("name__icontains", "description__icontains"), "Part of the name or the description."),
    ),
)


def _rows(request: Any) -> Any:
    return request.actor.visible(Group).select_related("vault").prefetch_related("members__user")


def _read(request: Any, group_id: UUID | None) -> Group:
    row: Group | None = _rows(request).filter(pk=group_id).first()
    if row is None:
        raise NotFound("There is no such group, or it is not yours.")
    request.actor.require(Permission.MEMBERS_VIEW, row.vault)
    return row


class CreateGroupSerializer(StrictSerializer):
    """A group and, if known already, its members."""

    vault = serializers.UUIDField(required=False, help_text="May be left out by members of one vault only.")
    name = PlainText(max_length=100)
    description = PlainText(max_length=1000, allow_blank=True, default="", lines=True)
    members = serializers.ListField(
        child=serializers.UUIDField(), max_length=1000, default=list, help_text="Ids of memberships."
    )


class GroupCreatedSerializer(GroupSerializer, CreatedMixin):
    """The new group."""


def _replay(request: Any, made: Made) -> dict[str, Any]:
    return dict(GroupSerializer(_read(request, made.target_id)).data)


class GroupList(ApiView):
    """GET, POST groups"""

    @operation(
        "groups_list",
        summary="List groups",
        description="The groups of a vault with their members.",
        tag=TAG,
        response=GroupSerializer,
        example=GROUP,
        listing=GROUPS,
    )
    def get(self, request: Any) -> Response:
        """List groups."""
        vault = vault_of(request, Permission.MEMBERS_VIEW)
        return page(request, _rows(request).filter(vault=vault), GROUPS, GroupSerializer)

    @operation(
        "groups_create",
        summary="Create a group",
        description="A group can own CSP accounts and key sets: then only its members (and vault admins) change these.",
        tag=TAG,
        request=CreateGroupSerializer,
        request_example={"name": "Payments cloud team"},
        response=GroupCreatedSerializer,
        status=201,
        example={**GROUP, "idempotency_replayed": False},
        errors=(404,),
        replay=Replay(Group, _replay),
        etag=True,
    )
    def post(self, request: Any) -> Response:
        """Create a group."""
        data = request.data_in
        vault = vault_of(request, Permission.MEMBERS_MANAGE, data.get("vault"))
        row = groups.create_group(
            request.actor,
            vault.pk,
            name=data["name"],
            description=data["description"],
            member_ids=data["members"],
        )
        body = GroupSerializer(_read(request, row.pk)).data
        return created(row, body, location=f"/api/v1/groups/{row.pk}")


class UpdateGroupSerializer(StrictSerializer):
    """What may change of a group."""

    name = PlainText(max_length=100)
    description = PlainText(max_length=1000, allow_blank=True, lines=True)
    members = serializers.ListField(
        child=serializers.UUIDField(), max_length=1000, help_text="All memberships in it."
    )


class GroupDetail(ApiView):
    """GET, PATCH, DELETE groups/{group_id}"""

    @operation(
        "groups_show",
        summary="Read a group",
        description="The group with its members.",
        tag=TAG,
        response=GroupSerializer,
        example=GROUP,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, group_id: UUID) -> Response:
        """Read a group."""
        row = _read(request, group_id)
        return detail(row, GroupSerializer(row).data)

    @operation(
        "groups_update",
        summary="Change a group",
        description="Rename it, describe it, or set all its members at once. For the vault's admins.",
        tag=TAG,
        request=UpdateGroupSerializer,
        request_example={"members": ["e2b6a1de-7f4f-43b5-8f4e-0d6a9b8c7d10"]},
        response=GroupSerializer,
        example=GROUP,
        if_match="required",
        errors=(409,),
        etag=True,
    )
    def patch(self, request: Any, group_id: UUID) -> Response:
        """Update a group."""
        data = request.data_in
        groups.update_group(
            request.actor,
            group_id,
            name=data.get("name"),
            description=data.get("description"),
            member_ids=data.get("members"),
            expected_revision=request.expected,
        )
        row = _read(request, group_id)
        return detail(row, GroupSerializer(row).data)

    @operation(
        "groups_delete",
        summary="Delete a group",
        description="Only a group that owns nothing can go; the answer names what it still owns.",
        tag=TAG,
        status=204,
        if_match="required",
        errors=(409,),
    )
    def delete(self, request: Any, group_id: UUID) -> Response:
        """Delete a group."""
        groups.delete_group(request.actor, group_id, expected_revision=request.expected)
        return Response(status=204)
