"""/api/v1/csp-accounts: credentials at clouds."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.shapes import (
    ADA,
    APP,
    EVERY,
    IDS,
    NOW,
    OPERATION,
    VAULT,
    BegunSerializer,
    ScheduleField,
    begun,
    principal_data,
)  # fmt: skip
from cloudkeys.models import CspAccount
from cloudkeys.services import accounts
from vault.api.endpoints import ApiView, created, detail, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, choice, identifier, text, vault_of
from vault.api.serializers import (
    CreatedMixin,
    JsonObject,
    PlainText,
    ReferenceSerializer,
    SecretField,
    StrictSerializer,
)
from vault.permissions import Permission

TAG = "CSP accounts"


class CspAccountInput(StrictSerializer):
    """A credential at a cloud."""

    vault = serializers.UUIDField(required=False)
    name = PlainText(max_length=100)
    description = PlainText(max_length=1000, required=False, allow_blank=True, lines=True)
    group = serializers.UUIDField(required=False, allow_null=True, help_text="The admin group that owns it.")
    provider = serializers.ChoiceField(choices=CspAccount.Provider.choices, required=False)
    partition = serializers.ChoiceField(choices=CspAccount.Partition.choices, required=False)
    auth_method = serializers.ChoiceField(choices=CspAccount.AuthMethod.choices, required=False)
    access_key_id = PlainText(max_length=128)
    secret_access_key = SecretField()
    role_arn = PlainText(max_length=2048, required=False, allow_blank=True)
    external_id = PlainText(max_length=1224, required=False, allow_blank=True)
    default_region = PlainText(max_length=32)
    rotation_schedule = ScheduleField(required=False)


class CspAccountChanges(StrictSerializer):
    """What may change. A new access key id needs its secret."""

    name = PlainText(max_length=100, required=False)
    description = PlainText(max_length=1000, required=False, allow_blank=True, lines=True)
    group = serializers.UUIDField(required=False, allow_null=True)
    auth_method = serializers.ChoiceField(choices=CspAccount.AuthMethod.choices, required=False)
    access_key_id = PlainText(max_length=128, required=False)
    secret_access_key = SecretField(required=False)
    role_arn = PlainText(max_length=2048, required=False, allow_blank=True)
    external_id = PlainText(max_length=1224, required=False, allow_blank=True)
    default_region = PlainText(max_length=32, required=False)
    rotation_schedule = ScheduleField(required=False)


class CspAccountSerializer(serializers.ModelSerializer[CspAccount]):
    """A credential at a cloud; its secret is never shown."""

    vault = ReferenceSerializer()
    group = ReferenceSerializer(allow_null=True)
    is_simulated = serializers.BooleanField()
    rotation_schedule = ScheduleField()
    health_detail = JsonObject()

    class Meta:
        model = CspAccount
        fields = (
            "id", "vault", "name", "description", "group", "provider", "partition", "is_simulated", "auth_method",
            "access_key_id", "role_arn", "external_id", "default_region", "cloud_account_id", "principal_arn", "health",
            "health_checked_at", "health_detail", "rotation_schedule", "credential_created_at", "next_rotation_at",
            "rotation_state", "revision", "created_at", "updated_at",
        )  # fmt: skip


class CspAccountCreated(CreatedMixin, CspAccountSerializer):
    """The new account."""

    class Meta(CspAccountSerializer.Meta):
        fields = (*CspAccountSerializer.Meta.fields, "idempotency_replayed")  # type: ignore[assignment]


ACCOUNT: dict[str, Any] = {
    "id": IDS["account"],
    "vault": VAULT,
    "name": "aws-prod",
    "description": "",
    "group": {"id": IDS["group"], "name": "Cloud Admin Group"},
    "provider": "aws",
    "partition": "aws",
    "is_simulated": False,
    "auth_method": "ACCESS_KEY",
    "access_key_id": "AKIAIOSFODNN7EXAMPLE",
    "role_arn": "",
    "external_id": "",
    "default_region": "eu-west-1",
    "cloud_account_id": "111122223333",
    "principal_arn": "arn:aws:iam::111122223333:user/keystead",
    "health": "OK",
    "health_checked_at": NOW,
    "health_detail": {
        "error": None,
        "checks": [
            {"action": "kms:CreateKey", "feature": "Create CloudKey", "result": "allowed", "detail": ""}
        ],
    },
    "rotation_schedule": EVERY,
    "credential_created_at": NOW,
    "next_rotation_at": "2027-02-20T02:00:00Z",
    "rotation_state": "IDLE",
    "revision": 1,
    "created_at": NOW,
    "updated_at": NOW,
}
LISTING = Listing(
    orderings={"name": "name", "created_at": "created_at", "next_rotation_at": "next_rotation_at"},
    default_ordering="name",
    filters=(
        text(
            "search",
            ("name__icontains", "access_key_id__icontains", "cloud_account_id"),
            "Part of name or id.",
        ),
        choice("health", "health", CspAccount.Health.values, "Health at the last look."),
        choice("partition", "partition", CspAccount.Partition.values, "Partition."),
        identifier("group", "group_id", "Admin group."),
    ),
)


def _rows(request: Any) -> Any:
    return request.actor.visible(CspAccount).select_related("vault", "group")


def _read(request: Any, made: Made) -> dict[str, Any]:
    row = request.actor.fetch(CspAccount, made.target_id, Permission.CSP_ACCOUNTS_VIEW)
    return dict(CspAccountSerializer(row).data)


class CspAccountList(ApiView):
    """csp-accounts"""

    @operation(
        "csp_accounts_list",
        summary="List CSP accounts",
        description="The vault's credentials at clouds, with their health at the last look.",
        tag=TAG,
        response=CspAccountSerializer,
        example=ACCOUNT,
        listing=LISTING,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.CSP_ACCOUNTS_VIEW)
        return page(request, _rows(request).filter(vault=vault), LISTING, CspAccountSerializer)

    @operation(
        "csp_accounts_create",
        summary="Add a CSP account",
        description="Store a credential, encrypted. It is not tried: `POST .../test` says what it may do. `partition` "
        "`simulator` means the bundled AWS simulator, where it is switched on.",
        tag=TAG,
        request=CspAccountInput,
        request_example={
            "name": "aws-prod",
            "access_key_id": "AKIAIOSFODNN7EXAMPLE",
            "secret_access_key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "default_region": "eu-west-1",
            "rotation_schedule": EVERY,
        },
        response=CspAccountCreated,
        status=201,
        example={**ACCOUNT, "health": "UNKNOWN", "idempotency_replayed": False},
        errors=(404,),
        replay=Replay(CspAccount, _read),
        etag=True,
    )
    def post(self, request: Any) -> Response:
        """POST"""
        values = request.data_in
        vault = vault_of(request, Permission.CSP_ACCOUNTS_MANAGE, values.pop("vault", None))
        row = accounts.create_csp_account(request.actor, vault, **values)
        return created(row, CspAccountSerializer(row).data, location=f"/api/v1/csp-accounts/{row.pk}")


class CspAccountDetail(ApiView):
    """csp-accounts/{id}"""

    @operation(
        "csp_accounts_show",
        summary="Show a CSP account",
        description="One account, with what its last connection test found.",
        tag=TAG,
        response=CspAccountSerializer,
        example=ACCOUNT,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, account_id: UUID) -> Response:
        """GET"""
        row = request.actor.fetch(CspAccount, account_id, Permission.CSP_ACCOUNTS_VIEW)
        return detail(row, CspAccountSerializer(row).data)

    @operation(
        "csp_accounts_update",
        summary="Change a CSP account",
        description="Change named fields. Give `access_key_id` and `secret_access_key` together to replace "
        "the credential.",
        tag=TAG,
        request=CspAccountChanges,
        request_example={"description": "Production account"},
        response=CspAccountSerializer,
        example={**ACCOUNT, "description": "Production account", "revision": 2},
        errors=(409,),
        if_match="required",
        etag=True,
    )
    def patch(self, request: Any, account_id: UUID) -> Response:
        """PATCH"""
        secret = request.data_in.pop("secret_access_key", None)
        row = accounts.update_csp_account(
            request.actor,
            account_id,
            request.data_in,
            secret_access_key=secret,
            expected_revision=request.expected,
        )
        return detail(row, CspAccountSerializer(row).data)

    @operation(
        "csp_accounts_delete",
        summary="Delete a CSP account",
        description="Forget a credential that no key set uses any more. Nothing is changed in the cloud.",
        tag=TAG,
        status=204,
        errors=(409,),
        if_match="required",
    )
    def delete(self, request: Any, account_id: UUID) -> Response:
        """DELETE"""
        accounts.delete_csp_account(request.actor, account_id, expected_revision=request.expected)
        return Response(status=204)


class CspAccountTest(ApiView):
    """csp-accounts/{id}/test"""

    @operation(
        "csp_accounts_test",
        summary="Test a CSP account",
        description="Ask the cloud who this credential is and, action by action, what it may do, with the "
        "feature that needs "
        "each. A credential that does not work is no error here: `health` is FAILING, with cause and cure.",
        tag=TAG,
        response=CspAccountSerializer,
        example=ACCOUNT,
        errors=(404,),
    )
    def post(self, request: Any, account_id: UUID) -> Response:
        """POST"""
        row = accounts.probe_csp_account(request.actor, account_id)
        return detail(row, CspAccountSerializer(row).data)


class CspAccountRotate(ApiView):
    """csp-accounts/{id}/rotate-credential"""

    @operation(
        "csp_accounts_rotate_credential",
        summary="Rotate the access key",
        description="Begin: create a second access key, verify it, switch to it, deactivate the old one, "
        "delete it after a "
        "grace period. At no step is the account without a working credential.",
        tag=TAG,
        response=BegunSerializer,
        status=202,
        example={"operation": {**OPERATION, "kind": "csp_account.rotate_credential"}},
        errors=(404, 409),
    )
    def post(self, request: Any, account_id: UUID) -> Response:
        """POST"""
        return begun(accounts.rotate_csp_credential(request.actor, account_id))


class CspAccountPolicy(ApiView):
    """csp-accounts/{id}/policy"""

    @operation(
        "csp_accounts_policy",
        summary="Show the least IAM policy",
        description="The IAM policy document that allows what Keystead does in this account and nothing more.",
        tag=TAG,
        response=OpenApiTypes.OBJECT,
        example={
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": ["kms:CreateKey"], "Resource": "*"}],
        },
        errors=(404,),
    )
    def get(self, request: Any, account_id: UUID) -> Response:
        """GET"""
        return Response(accounts.least_privilege_policy(request.actor, account_id))


class PrincipalSerializer(serializers.Serializer[Any]):
    """An IAM user or role."""

    kind = serializers.CharField()
    name = serializers.CharField()
    arn = serializers.CharField()


class PrincipalsSerializer(serializers.Serializer[Any]):
    """The account's principals."""

    items = PrincipalSerializer(many=True)


class CspAccountPrincipals(ApiView):
    """csp-accounts/{id}/iam-principals"""

    @operation(
        "csp_accounts_iam_principals",
        summary="List IAM users and roles",
        description="Asked of the cloud now; pick administrators and users of CloudKeys from them.",
        tag=TAG,
        response=PrincipalsSerializer,
        example={
            "items": [
                {"kind": "user", "name": "ada", "arn": ADA},
                {"kind": "role", "name": "app-prod", "arn": APP},
            ]
        },
        errors=(404, 502),
        query=(text("search", (), "Part of the ARN."),),
    )
    def get(self, request: Any, account_id: UUID) -> Response:
        """GET"""
        search = request.query_params.get("search", "")
        found = accounts.list_iam_principals(request.actor, account_id, search=search)
        return Response({"items": [principal_data(each) for each in found]})
