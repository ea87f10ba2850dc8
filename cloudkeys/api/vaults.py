"""/api/v1/vaults/{id}/destruction: the end of a vault, which reaches the keys in it and so is answered here."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.shapes import CONFIRMATION
from cloudkeys.services.vault_destruction import describe_destruction, destroy_vault
from vault.actions import Action
from vault.api.endpoints import ApiView, operation
from vault.api.serializers import ConfirmationSerializer, PlainText, confirmation_data
from vault.api.vaults import ReasonSerializer
from vault.services.confirmations import confirm_switch

TAG = "Vaults"


class DestructionSerializer(serializers.Serializer[Any]):
    """What destroying a vault takes away."""

    cloud_keys = serializers.IntegerField()
    key_versions = serializers.IntegerField()
    key_sets = serializers.IntegerField()
    csp_accounts = serializers.IntegerField()
    credentials = serializers.IntegerField()
    members = serializers.IntegerField()
    aws_key_stores = serializers.ListField(
        child=serializers.CharField(), help_text="Left behind in AWS, without keys."
    )
    unfinished_operations = serializers.IntegerField()


class DestroyVaultInput(ReasonSerializer):
    """What cannot be undone asks for the name."""

    confirm_name = PlainText(max_length=100, help_text="The vault's name, in full.")


class VaultDestroyed(serializers.Serializer[Any]):
    """The end of a vault."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    state = serializers.CharField()
    confirmation = ConfirmationSerializer(allow_null=True)


_LOST = {
    "cloud_keys": 12, "key_versions": 40, "key_sets": 2, "csp_accounts": 1, "credentials": 2, "members": 3,
    "aws_key_stores": ["pay-hyok (eu-west-1)"], "unfinished_operations": 0,
}  # fmt: skip


class VaultDestruction(ApiView):
    """vaults/{id}/destruction"""

    @operation(
        "vaults_destruction_preview",
        summary="Show what destroying a vault would take away",
        description="Counted now. Nothing is changed.",
        tag=TAG,
        response=DestructionSerializer,
        example=_LOST,
        errors=(404,),
    )
    def get(self, request: Any, vault_id: UUID) -> Response:
        """GET"""
        return Response(describe_destruction(request.actor, vault_id).as_json())

    @operation(
        "vaults_destroy",
        summary="Destroy a vault",
        description="A disabled vault's key encryption key is erased, and with it every key and credential "
        "in it, for good: data "
        "under its keys stays unreadable, whatever backups of the database exist without the root key. Not undone.",
        tag=TAG,
        request=DestroyVaultInput,
        request_example={"confirm_name": "Payments", "reason": "Project ended"},
        response=VaultDestroyed,
        example={
            "id": "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11",
            "name": "Payments",
            "state": "DESTROYED",
            "confirmation": CONFIRMATION,
        },
        errors=(404, 409),
        if_match="required",
    )
    def post(self, request: Any, vault_id: UUID) -> Response:
        """POST"""
        vault, generation = destroy_vault(
            request.actor, vault_id, expected_revision=request.expected, **request.data_in
        )
        data = {"id": vault.pk, "name": vault.name, "state": vault.state}
        confirmation = confirm_switch(request.actor, Action.VAULT_DESTROY, vault, generation)
        return Response({**data, "confirmation": confirmation_data(confirmation)})
