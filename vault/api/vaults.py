"""/api/v1/vaults: made and switched by the appliance admin, described and blocked by their own admins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from vault.actions import Action
from vault.api.endpoints import ApiView, created, detail, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, choice, flag, text
from vault.api.serializers import (
    ConfirmationSerializer,
    CreatedMixin,
    PlainText,
    ReferenceSerializer,
    StrictBoolean,
    StrictSerializer,
    confirmation_data,
    reference,
)
from vault.errors import NotFound
from vault.models import Vault
from vault.permissions import Permission
from vault.services import vaults
from vault.services.confirmations import confirm_switch

TAG = "Vaults"
_ID = "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11"


class VaultSerializer(serializers.Serializer[Any]):
    """A vault: a tenant with a key encryption key of its own."""

    id = serializers.UUIDField()
    type = serializers.ChoiceField(choices=Vault.Type.choices)
    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    state = serializers.ChoiceField(choices=Vault.State.choices)
    blocked = serializers.BooleanField(help_text="The data plane refuses every use of this vault's keys.")
    require_second_factor = serializers.BooleanField(
        help_text="Members work in it only in sessions of an account with a second factor; API tokens are not asked."
    )
    revision = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    destroyed_at = serializers.DateTimeField(allow_null=True)


VAULT = {
    "id": _ID,
    "type": "CLOUD_KEY_MANAGEMENT",
    "name": "Payments",
    "description": "Keys of the payments platform",
    "state": "ENABLED",
    "blocked": False,
    "require_second_factor": False,
    "revision": 1,
    "created_at": "2026-11-22T14:00:00Z",
    "updated_at": "2026-11-22T14:00:00Z",
    "destroyed_at": None,
}
VAULTS = Listing(
    orderings={"name": "name", "created_at": "created_at"},
    default_ordering="name",
    filters=(
        text("search", ("name__icontains", "description__icontains"), "Part of the name or the description."),
        choice("state", "state", Vault.State.values, "Only vaults in this state."),
        flag("blocked", "blocked", "Only blocked ones, or only the others."),
    ),
    in_vault=False,
)


class CreateVaultSerializer(StrictSerializer):
    """The vault and the person who will look after it."""

    type = serializers.ChoiceField(choices=Vault.Type.choices, default=Vault.Type.CLOUD_KEY_MANAGEMENT)
    name = PlainText(max_length=100)
    description = PlainText(max_length=1000, allow_blank=True, default="", lines=True)
    admin_name = PlainText(max_length=150)
    admin_email = PlainText(max_length=254)


class VaultCreatedSerializer(VaultSerializer, CreatedMixin):
    """The new vault and how its admin signs in."""

    admin = ReferenceSerializer()
    admin_email = serializers.CharField()
    one_time_password = serializers.CharField(
        allow_null=True,
        help_text="Shown this once, when no mail could be sent; null when it was mailed, when the admin had an account "
        "already, and on a replay.",
    )
    mailed = serializers.BooleanField(allow_null=True, help_text="Whether a mail was sent; null on a replay.")


def _read_vault(request: Any, made: Made) -> dict[str, Any]:
    if made.target_id is None:
        raise NotFound("There is no such vault.")
    row = vaults.fetch_vault(request.actor, made.target_id)
    first = row.memberships.select_related("user").order_by("created_at").first()
    return {
        **VaultSerializer(row).data,
        "admin": reference(first.user) if first is not None else {"id": str(row.pk), "name": ""},
        "admin_email": first.user.email if first is not None else "",
        "one_time_password": None,
        "mailed": None,
    }


class VaultList(ApiView):
    """GET, POST vaults"""

    @operation(
        "vaults_list",
        summary="List vaults",
        description="The vaults that the caller is a member of; all vaults for an appliance admin.",
        tag=TAG,
        response=VaultSerializer,
        example=VAULT,
        listing=VAULTS,
    )
    def get(self, request: Any) -> Response:
        """List vaults."""
        return page(request, vaults.visible_vaults(request.actor), VAULTS, VaultSerializer)

    @operation(
        "vaults_create",
        summary="Create a vault",
        description="Make a vault with a key of its own, its *Cloud Admin Group*, and its first admin. A person without an account "
        "gets one with a one-time password: mailed or, when no mail is set up, shown once in this answer. For appliance admins.",
        tag=TAG,
        request=CreateVaultSerializer,
        request_example={"name": "Payments", "admin_name": "Ada", "admin_email": "ada@example.com"},
        response=VaultCreatedSerializer,
        status=201,
        example={
            **VAULT,
            "admin": {"id": "0b7c1fd0-96a8-4c8e-a1f1-5e9f1c2f7d10", "name": "Ada"},
            "admin_email": "ada@example.com",
            "one_time_password": "k7pdm-x2v9q-hr4tn-w8scz",
            "mailed": False,
            "idempotency_replayed": False,
        },
        replay=Replay(Vault, _read_vault),
        etag=True,
    )
    def post(self, request: Any) -> Response:
        """Create a vault."""
        made = vaults.create_vault(request.actor, **request.data_in)
        password = made.one_time_password
        body = {
            **VaultSerializer(made.vault).data,
            "admin": reference(made.admin),
            "admin_email": made.admin.email,
            "one_time_password": password.reveal_text() if password is not None else None,
            "mailed": made.mailed,
        }
        return created(made.vault, body, location=f"/api/v1/vaults/{made.vault.pk}")


class UpdateVaultSerializer(StrictSerializer):
    """What may be said anew of a vault."""

    name = PlainText(max_length=100)
    description = PlainText(max_length=1000, allow_blank=True, lines=True)
    require_second_factor = StrictBoolean(
        help_text="Demand a second factor of members' sessions. You need one yourself first."
    )


class VaultDetail(ApiView):
    """GET, PATCH vaults/{vault_id}"""

    @operation(
        "vaults_show",
        summary="Read a vault",
        description="For its members and for appliance admins.",
        tag=TAG,
        response=VaultSerializer,
        example=VAULT,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, vault_id: UUID) -> Response:
        """Read a vault."""
        row = vaults.fetch_vault(request.actor, vault_id, Permission.VAULT_VIEW)
        return detail(row, VaultSerializer(row).data)

    @operation(
        "vaults_update",
        summary="Rename or describe a vault",
        description="For its admins and for appliance admins. Nothing changes for its keys.",
        tag=TAG,
        request=UpdateVaultSerializer,
        request_example={"description": "Keys of the payments platform, production"},
        response=VaultSerializer,
        example=VAULT,
        if_match="required",
        errors=(409,),
        etag=True,
    )
    def patch(self, request: Any, vault_id: UUID) -> Response:
        """Update a vault."""
        row = vaults.update_vault(
            request.actor, vault_id, expected_revision=request.expected, **request.data_in
        )
        return detail(row, VaultSerializer(row).data)


class ReasonSerializer(StrictSerializer):
    """Why, for the audit record."""

    reason = PlainText(max_length=1000, allow_blank=True, default="", lines=True)


class VaultSwitchedSerializer(serializers.Serializer[Any]):
    """The vault after the switch, and how far the data plane has followed."""

    vault = VaultSerializer()
    confirmation = ConfirmationSerializer()


SWITCHED = {
    "vault": {**VAULT, "state": "DISABLED", "revision": 2},
    "confirmation": {
        "generation": 118,
        "complete": True,
        "confirmed": 2,
        "counted": 2,
        "milliseconds": 14,
        "missing": [],
        "missing_workers": [],
        "bound_s": 60.0,
    },
}


_SWITCH: dict[str, Any] = {
    "tag": TAG,
    "request": ReasonSerializer,
    "response": VaultSwitchedSerializer,
    "example": SWITCHED,
    "if_match": "optional",
    "errors": (404, 409),
    "etag": True,
}
"""What the four acts on a whole vault have in common."""


def _switch(
    request: Any, act: Callable[..., vaults.VaultChanged], action: Action, vault_id: UUID
) -> Response:
    """Carry one of them out for the reason given, and answer with how far the data plane has followed."""
    reason = request.data_in["reason"]
    changed = act(request.actor, vault_id, reason=reason, expected_revision=request.expected)
    confirmation = confirm_switch(request.actor, action, changed.vault, changed.generation)
    body = {"vault": VaultSerializer(changed.vault).data, "confirmation": confirmation_data(confirmation)}
    return detail(changed.vault, body)


class VaultDisable(ApiView):
    """POST vaults/{vault_id}/disable"""

    @operation(
        "vaults_disable",
        summary="Disable a vault",
        description="From now on every use of every key of this vault is refused, and its keys, stores and accounts "
        "cannot be changed. Answers once the data plane has confirmed, after 2 seconds at most. For appliance admins.",
        request_example={"reason": "Contract ended"},
        **_SWITCH,
    )
    def post(self, request: Any, vault_id: UUID) -> Response:
        """Disable a vault."""
        return _switch(request, vaults.disable_vault, Action.VAULT_DISABLE, vault_id)


class VaultEnable(ApiView):
    """POST vaults/{vault_id}/enable"""

    @operation(
        "vaults_enable",
        summary="Enable a vault",
        description="Its keys serve again, each as its own state says. For appliance admins; may need another person's approval.",
        request_example={"reason": "Contract renewed"},
        **_SWITCH,
    )
    def post(self, request: Any, vault_id: UUID) -> Response:
        """Enable a vault."""
        return _switch(request, vaults.enable_vault, Action.VAULT_ENABLE, vault_id)


class VaultBlock(ApiView):
    """POST vaults/{vault_id}/block"""

    @operation(
        "vaults_block",
        summary="Block a vault",
        description="From now on the data plane refuses every use of every key of this vault. Nothing else changes, neither here nor in "
        "AWS. Answers once the data plane has confirmed, after 2 seconds at most. For the vault's admins.",
        request_example={"reason": "Incident 4711"},
        **_SWITCH,
    )
    def post(self, request: Any, vault_id: UUID) -> Response:
        """Block a vault."""
        return _switch(request, vaults.block_vault, Action.VAULT_BLOCK, vault_id)


class VaultUnblock(ApiView):
    """POST vaults/{vault_id}/unblock"""

    @operation(
        "vaults_unblock",
        summary="Unblock a vault",
        description="Undo *block*: keys serve again, each as its own state says. May need another person's approval.",
        request_example={"reason": "Incident 4711 is over"},
        **_SWITCH,
    )
    def post(self, request: Any, vault_id: UUID) -> Response:
        """Unblock a vault."""
        return _switch(request, vaults.unblock_vault, Action.VAULT_UNBLOCK, vault_id)
