"""/api/v1/members: people of a vault and their roles."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, created, detail, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, choice, identifier, text, vault_of
from vault.api.serializers import CreatedMixin, PlainText, ReferenceField, StrictSerializer
from vault.errors import NotFound
from vault.models import Membership, Role
from vault.permissions import Permission
from vault.services import members

TAG = "Members"


class MemberSerializer(serializers.Serializer[Any]):
    """One person's role in one vault."""

    id = serializers.UUIDField()
    vault = ReferenceField()
    user = ReferenceField()
    email = serializers.CharField(source="user.email")
    role = serializers.ChoiceField(choices=Role.choices)
    groups = serializers.SerializerMethodField()
    last_sign_in_at = serializers.DateTimeField(source="user.last_login", allow_null=True)
    revision = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    def get_groups(self, row: Membership) -> list[dict[str, str]]:
        """The groups, without a query for each row."""
        return [{"id": str(group.pk), "name": group.name} for group in row.groups.all()]


MEMBER = {
    "id": "e2b6a1de-7f4f-43b5-8f4e-0d6a9b8c7d10",
    "vault": {"id": "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11", "name": "Payments"},
    "user": {"id": "0b7c1fd0-96a8-4c8e-a1f1-5e9f1c2f7d10", "name": "Ada"},
    "email": "ada@example.com",
    "role": "VAULT_ADMIN",
    "groups": [{"id": "c0f3c0de-0a58-4f7b-9a0c-2f1f3f2d8a77", "name": "Cloud Admin Group"}],
    "last_sign_in_at": "2026-11-22T09:00:00Z",
    "revision": 1,
    "created_at": "2026-11-22T08:00:00Z",
    "updated_at": "2026-11-22T08:00:00Z",
}
MEMBERS = Listing(
    orderings={"created_at": "created_at", "email": "user__email", "role": "role"},
    default_ordering="email",
    filters=(
        text(
            "search", ("user__email__icontains", "user__name__icontains"), "Part of the e-mail or the name."
        ),
        choice("role", "role", Role.values, "Only members in this role."),
        identifier("group", "groups__id", "Only members of this group."),
    ),
)


def _rows(request: Any) -> Any:
    return request.actor.visible(Membership).select_related("vault", "user").prefetch_related("groups")


def _read(request: Any, membership_id: UUID | None) -> Membership:
    row: Membership | None = _rows(request).filter(pk=membership_id).first()
    if row is None:
        raise NotFound("There is no such member, or the vault is not yours.")
    request.actor.require(Permission.MEMBERS_VIEW, row)
    return row


class AddMemberSerializer(StrictSerializer):
    """Who is added, as what."""

    vault = serializers.UUIDField(required=False, help_text="May be left out by members of one vault only.")
    email = PlainText(max_length=254)
    name = PlainText(
        max_length=150, allow_blank=True, default="", help_text="Used when the person has no account yet."
    )
    role = serializers.ChoiceField(choices=Role.choices)
    groups = serializers.ListField(
        child=serializers.UUIDField(), max_length=100, default=list, help_text="Ids of groups."
    )


class MemberAddedSerializer(MemberSerializer, CreatedMixin):
    """The new member, and how they sign in."""

    one_time_password = serializers.CharField(
        allow_null=True,
        help_text="Shown this once, when no mail could be sent; null when it was mailed, when the person had an account "
        "already, and on a replay.",
    )
    mailed = serializers.BooleanField(allow_null=True, help_text="Whether a mail was sent; null on a replay.")


def _replay(request: Any, made: Made) -> dict[str, Any]:
    row = _read(request, made.target_id)
    return {**MemberSerializer(row).data, "one_time_password": None, "mailed": None}


class MemberList(ApiView):
    """GET, POST members"""

    @operation(
        "members_list",
        summary="List members",
        description="The people of a vault, with role and groups.",
        tag=TAG,
        response=MemberSerializer,
        example=MEMBER,
        listing=MEMBERS,
    )
    def get(self, request: Any) -> Response:
        """List members."""
        vault = vault_of(request, Permission.MEMBERS_VIEW)
        return page(request, _rows(request).filter(vault=vault), MEMBERS, MemberSerializer)

    @operation(
        "members_add",
        summary="Add a member",
        description="Give a person a role in the vault. Who has no account yet gets one, with a one-time password: mailed or, when no mail "
        "is set up, shown once in this answer. For the vault's admins.",
        tag=TAG,
        request=AddMemberSerializer,
        request_example={"email": "grace@example.com", "name": "Grace", "role": "CLOUD_ADMIN"},
        response=MemberAddedSerializer,
        status=201,
        example={
            **MEMBER,
            "one_time_password": "k7pdm-x2v9q-hr4tn-w8scz",
            "mailed": False,
            "idempotency_replayed": False,
        },
        errors=(404,),
        replay=Replay(Membership, _replay),
        etag=True,
    )
    def post(self, request: Any) -> Response:
        """Add a member."""
        data = request.data_in
        vault = vault_of(request, Permission.MEMBERS_MANAGE, data.get("vault"))
        made = members.add_member(
            request.actor,
            vault.pk,
            email=data["email"],
            name=data["name"],
            role=data["role"],
            group_ids=data["groups"],
        )
        password = made.one_time_password
        body = {
            **MemberSerializer(_read(request, made.membership.pk)).data,
            "one_time_password": password.reveal_text() if password is not None else None,
            "mailed": made.mailed,
        }
        return created(made.membership, body, location=f"/api/v1/members/{made.membership.pk}")


class UpdateMemberSerializer(StrictSerializer):
    """What may change of a member."""

    role = serializers.ChoiceField(choices=Role.choices)
    groups = serializers.ListField(
        child=serializers.UUIDField(), max_length=100, help_text="All of the member's groups."
    )


class MemberDetail(ApiView):
    """GET, PATCH, DELETE members/{member_id}"""

    @operation(
        "members_show",
        summary="Read a member",
        description="One person's role and groups in one vault.",
        tag=TAG,
        response=MemberSerializer,
        example=MEMBER,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, member_id: UUID) -> Response:
        """Read a member."""
        row = _read(request, member_id)
        return detail(row, MemberSerializer(row).data)

    @operation(
        "members_update",
        summary="Change a member's role or groups",
        description="Takes effect with the member's next request. A vault keeps at least one admin.",
        tag=TAG,
        request=UpdateMemberSerializer,
        request_example={"role": "AUDITOR"},
        response=MemberSerializer,
        example=MEMBER,
        if_match="required",
        errors=(409,),
        etag=True,
    )
    def patch(self, request: Any, member_id: UUID) -> Response:
        """Update a member."""
        data = request.data_in
        members.update_member(
            request.actor,
            member_id,
            role=data.get("role"),
            group_ids=data.get("groups"),
            expected_revision=request.expected,
        )
        # Read anew, and without a permission check: whoever lowers their own role still gets this answer.
        row = _rows(request).get(pk=member_id)
        return detail(row, MemberSerializer(row).data)

    @operation(
        "members_remove",
        summary="Remove a member",
        description="The person loses the vault with the next request; the account stays. A vault keeps at least one admin.",
        tag=TAG,
        status=204,
        if_match="required",
        errors=(409,),
    )
    def delete(self, request: Any, member_id: UUID) -> Response:
        """Remove a member."""
        members.remove_member(request.actor, member_id, expected_revision=request.expected)
        return Response(status=204)
