"""/api/v1/hsms: HSM connections, for appliance admins; /api/v1/root-key: where the root key is."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, created, detail, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, choice, text
from vault.api.serializers import CreatedMixin, PlainText, SecretField, StrictNumber, StrictSerializer
from vault.keys import root_problem
from vault.models import HsmConnection, HsmKey, HsmMember
from vault.services import hsm as service
from vault.services.hsm import MemberSpec
from vault.services.root_key_move import move_root_key, root_key_standing

TAG = "HSMs"


class HsmMemberSerializer(serializers.Serializer[Any]):
    """A token, and what the keepers last saw of it."""

    id = serializers.UUIDField()
    serial = serializers.CharField(source="token_serial", allow_blank=True)
    label = serializers.CharField(source="token_label", allow_blank=True)  # type: ignore[assignment]
    state = serializers.ChoiceField(choices=HsmMember.State.choices)
    message = serializers.CharField(allow_blank=True, help_text="What is wrong with it, in words.")
    latency_ms = serializers.FloatField(
        allow_null=True, help_text="Of an encryption under the health-check key."
    )
    serves = serializers.BooleanField(
        source="compared", help_text="It was shown to hold the same keys as the others, so that it may serve."
    )
    identity = serializers.DictField(
        help_text="manufacturer, model, serial, firmware and more, as the token says."
    )
    profile = serializers.DictField(
        help_text="What really works with it, as tried: mechanisms, limits, protections."
    )
    pin_refused = serializers.SerializerMethodField(help_text="Its PIN was refused, and is not tried again.")
    checked_at = serializers.DateTimeField(allow_null=True)

    def get_pin_refused(self, row: HsmMember) -> bool:
        """Whether the present PIN was refused."""
        return row.pin_refused_version == row.connection.pin_version


class HsmVaultSerializer(serializers.Serializer[Any]):
    """A vault that may use the HSM."""

    id = serializers.UUIDField()
    name = serializers.CharField()


class HsmSerializer(serializers.Serializer[Any]):
    """An HSM connection. A PIN is never shown."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    module_path = serializers.CharField()
    environment = serializers.DictField(child=serializers.CharField())
    login = serializers.ChoiceField(choices=HsmConnection.Login.choices)
    pin_source = serializers.ChoiceField(choices=HsmConnection.PinSource.choices)
    pin_version = serializers.IntegerField(help_text="How often the PIN was changed, and one.")
    timeout_ms = serializers.IntegerField()
    routing = serializers.ChoiceField(choices=HsmConnection.Routing.choices)
    health_key = serializers.CharField(allow_blank=True, help_text="CKA_ID of the health-check key, hex.")
    members = HsmMemberSerializer(many=True, source="members.all")
    vaults = HsmVaultSerializer(many=True, source="vaults.all")
    last_test = serializers.DictField(
        source="test_report", allow_null=True, help_text="What the last test found."
    )
    revision = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


HSM = {
    "id": "5d0a3c9e-6a54-4a0b-8f3c-0c6c2f1f7f21",
    "name": "luna-frankfurt",
    "module_path": "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    "environment": {},
    "login": "pin",
    "pin_source": "stored",
    "pin_version": 1,
    "timeout_ms": 1000,
    "routing": "preferred",
    "health_key": "9a3e6b0c5d1f4e2a8b7c6d5e4f3a2b1c",
    "members": [
        {
            "id": "b5b1a5f2-1c1f-4a8a-9f0e-4f6f5f7f8a90",
            "serial": "1234567890",
            "label": "",
            "state": "ACTIVE",
            "message": "",
            "latency_ms": 2.4,
            "serves": True,
            "identity": {"manufacturer": "SafeNet", "model": "Luna K7", "firmware": "7.8.4"},
            "profile": {"possible": ["hsm-wrapped", "hsm-resident", "root-key"]},
            "pin_refused": False,
            "checked_at": "2026-11-22T21:00:00Z",
        }
    ],
    "vaults": [{"id": "7a4c4a52-3c1e-4a39-9d38-0d3f3f9c2b11", "name": "Payments"}],
    "last_test": None,
    "revision": 1,
    "created_at": "2026-11-22T08:00:00Z",
    "updated_at": "2026-11-22T08:00:00Z",
}
HSMS = Listing(
    orderings={"name": "name", "created_at": "created_at"},
    default_ordering="name",
    filters=(
        text(
            "search", ("name__icontains", "module_path__icontains"), "Part of the name or the module's path."
        ),
    ),
    in_vault=False,
)


class MemberInput(StrictSerializer):
    """A token, by serial number (better: it stays when somebody renames the token) or by label."""

    serial = PlainText(max_length=64, allow_blank=True, default="")
    label = PlainText(max_length=64, allow_blank=True, default="")  # type: ignore[assignment]


def _member_specs(data: Any) -> list[MemberSpec]:
    return [MemberSpec(each.get("serial", ""), each.get("label", "")) for each in data]


class CreateHsmSerializer(StrictSerializer):
    """A connection with its PIN, which is kept encrypted and never shown again."""

    name = PlainText(max_length=100)
    module_path = PlainText(max_length=500, help_text="In a folder of KEYSTEAD_HSM_MODULE_DIRS.")
    environment = serializers.DictField(
        child=serializers.CharField(max_length=1000, allow_blank=True), default=dict,
        help_text="Variables for the vendor's module; only known names.",
    )  # fmt: skip
    members = MemberInput(many=True, help_text="Tokens that hold the same keys, the preferred one first.")
    login = serializers.ChoiceField(choices=HsmConnection.Login.choices, default=HsmConnection.Login.PIN)
    pin_source = serializers.ChoiceField(
        choices=HsmConnection.PinSource.choices,
        default=HsmConnection.PinSource.STORED,
        help_text="external: each host reads KEYSTEAD_HSM_PIN_<NAME> or the file that KEYSTEAD_HSM_PIN_<NAME>_FILE names.",
    )
    pin = SecretField(required=False, max_length=256)
    timeout_ms = serializers.IntegerField(min_value=50, max_value=60_000, default=1000)
    routing = serializers.ChoiceField(
        choices=HsmConnection.Routing.choices, default=HsmConnection.Routing.PREFERRED
    )
    vaults = serializers.ListField(
        child=serializers.UUIDField(),
        max_length=1000,
        default=list,
        help_text="Ids of vaults that may use it.",
    )


class UpdateHsmSerializer(StrictSerializer):
    """What may change of a connection."""

    name = PlainText(max_length=100)
    module_path = PlainText(max_length=500)
    environment = serializers.DictField(child=serializers.CharField(max_length=1000, allow_blank=True))
    members = MemberInput(many=True)
    login = serializers.ChoiceField(choices=HsmConnection.Login.choices)
    pin_source = serializers.ChoiceField(choices=HsmConnection.PinSource.choices)
    pin = SecretField(max_length=256)
    timeout_ms = serializers.IntegerField(min_value=50, max_value=60_000)
    routing = serializers.ChoiceField(choices=HsmConnection.Routing.choices)
    vaults = serializers.ListField(child=serializers.UUIDField(), max_length=1000)


class HsmCreatedSerializer(HsmSerializer, CreatedMixin):
    """The new connection."""


def _replay(request: Any, made: Made) -> dict[str, Any]:
    assert made.target_id is not None  # noqa: S101 - a creation names what it made
    return dict(HsmSerializer(service.view_connection(request.actor, made.target_id)).data)


class HsmList(ApiView):
    """GET, POST hsms"""

    @operation(
        "hsms_list",
        summary="List HSM connections",
        description="Every HSM with its members' state and latency. For appliance admins.",
        tag=TAG,
        response=HsmSerializer,
        example=HSM,
        listing=HSMS,
    )
    def get(self, request: Any) -> Response:
        """List connections."""
        return page(request, service.list_connections(request.actor), HSMS, HsmSerializer)

    @operation(
        "hsms_create",
        summary="Connect an HSM",
        description="The keepers load its module and try its PIN once, within seconds; POST test waits for the outcome. "
        "For appliance admins.",
        tag=TAG,
        request=CreateHsmSerializer,
        request_example={
            "name": "luna-frankfurt",
            "module_path": "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
            "members": [{"serial": "1234567890"}],
            "pin": "correct horse",
        },
        response=HsmCreatedSerializer,
        status=201,
        example={**HSM, "idempotency_replayed": False},
        replay=Replay(HsmConnection, _replay),
        etag=True,
    )
    def post(self, request: Any) -> Response:
        """Connect."""
        data = dict(request.data_in)
        members = _member_specs(data.pop("members"))
        row = service.create_connection(request.actor, members=members, **data)
        body = HsmSerializer(service.view_connection(request.actor, row.pk)).data
        return created(row, body, location=f"/api/v1/hsms/{row.pk}")


class HsmDetail(ApiView):
    """GET, PATCH, DELETE hsms/{hsm_id}"""

    @operation(
        "hsms_show",
        summary="Read an HSM connection",
        description="The connection with its members: state, latency, capability profile.",
        tag=TAG,
        response=HsmSerializer,
        example=HSM,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, hsm_id: UUID) -> Response:
        """Read a connection."""
        row = service.view_connection(request.actor, hsm_id)
        return detail(row, HsmSerializer(row).data)

    @operation(
        "hsms_update",
        summary="Change an HSM connection",
        description="Members that alone hold keys cannot go, and no vault that has keys there. For appliance admins.",
        tag=TAG,
        request=UpdateHsmSerializer,
        request_example={"timeout_ms": 2000},
        response=HsmSerializer,
        example=HSM,
        if_match="required",
        errors=(404, 409),
        etag=True,
    )
    def patch(self, request: Any, hsm_id: UUID) -> Response:
        """Change a connection."""
        data = dict(request.data_in)
        if "members" in data:
            data["members"] = _member_specs(data["members"])
        service.update_connection(request.actor, hsm_id, expected_revision=request.expected, **data)
        row = service.view_connection(request.actor, hsm_id)
        return detail(row, HsmSerializer(row).data)

    @operation(
        "hsms_delete",
        summary="Disconnect an HSM",
        description="Refused while keys depend on it; the answer names them. What is in the HSM is left there.",
        tag=TAG,
        status=204,
        if_match="required",
        errors=(404, 409),
    )
    def delete(self, request: Any, hsm_id: UUID) -> Response:
        """Disconnect."""
        service.delete_connection(request.actor, hsm_id, expected_revision=request.expected)
        return Response(status=204)


class PinInput(StrictSerializer):
    """A new PIN."""

    pin = SecretField(
        required=False,
        max_length=256,
        help_text="Left out where the hosts read it from outside: says that it is right now.",
    )


class HsmPin(ApiView):
    """POST hsms/{hsm_id}/pin"""

    @operation(
        "hsms_change_pin",
        summary="Change an HSM's PIN here",
        description="The new PIN is tried once, by one process; a refusal is remembered and nobody tries it again. Helpers that "
        "are logged in stay so until it is accepted. Change it at the HSM first.",
        tag=TAG,
        request=PinInput,
        request_example={"pin": "correct horse"},
        response=HsmSerializer,
        example={**HSM, "pin_version": 2},
        errors=(404, 409),
        etag=True,
    )
    def post(self, request: Any, hsm_id: UUID) -> Response:
        """Change the PIN."""
        service.change_pin(request.actor, hsm_id, request.data_in.get("pin"))
        row = service.view_connection(request.actor, hsm_id)
        return detail(row, HsmSerializer(row).data)


class TestInput(StrictSerializer):
    """How long to wait."""

    wait_s = StrictNumber(min_value=0, max_value=30, default=service.TEST_S)


class TestReportSerializer(serializers.Serializer[Any]):
    """What a test found."""

    id = serializers.UUIDField()
    at = serializers.CharField(help_text="RFC 3339, UTC.")
    host = serializers.CharField(help_text="From where it was tested.")
    ok = serializers.BooleanField()
    members = serializers.ListField(
        child=serializers.DictField(),
        help_text="For each: login, round_trip, latency_ms (median of 20), latency_max_ms, possible (protections), missing, "
        "warnings, error.",
    )


class HsmTest(ApiView):
    """POST hsms/{hsm_id}/test"""

    @operation(
        "hsms_test",
        summary="Test an HSM",
        description="Each member: login, mechanisms as they really work, a round trip under the health-check key, latency "
        "(warned of above 25 ms). A PIN that was refused is not tried again. For appliance admins.",
        tag=TAG,
        request=TestInput,
        request_example={},
        response=TestReportSerializer,
        example={
            "id": "0e0a5b1a-8f7a-4a55-8a30-2f0f36a5ad11",
            "at": "2026-11-22T21:00:00+00:00",
            "host": "node-1",
            "ok": True,
            "members": [
                {
                    "member": "1234567890",
                    "ok": True,
                    "login": "ok",
                    "round_trip": True,
                    "latency_ms": 2.4,
                    "warnings": [],
                }
            ],
        },
        errors=(404, 503),
    )
    def post(self, request: Any, hsm_id: UUID) -> Response:
        """Test."""
        report = service.test_connection(request.actor, hsm_id, wait_s=request.data_in["wait_s"])
        return Response(TestReportSerializer(report).data)


class HsmKeySerializer(serializers.Serializer[Any]):
    """A key of ours inside an HSM. No byte of it is in the database."""

    id = serializers.UUIDField()
    label = serializers.CharField()  # type: ignore[assignment]
    cka_id = serializers.CharField()
    purpose = serializers.ChoiceField(choices=HsmKey.Purpose.choices)
    state = serializers.ChoiceField(choices=HsmKey.State.choices)
    replication = serializers.ChoiceField(choices=HsmKey.Replication.choices)
    adopted = serializers.BooleanField()
    vault = HsmVaultSerializer(allow_null=True)
    members = serializers.IntegerField(source="placed", help_text="How many members hold it.")
    message = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    destroyed_at = serializers.DateTimeField(allow_null=True)


HSM_KEYS = Listing(
    orderings={"created_at": "created_at", "label": "label"},
    default_ordering="created_at",
    filters=(
        text("search", ("label__icontains", "cka_id__icontains"), "Part of the label or the CKA_ID."),
        choice("purpose", "purpose", HsmKey.Purpose, "What it is for."),
        choice("state", "state", HsmKey.State, "Its state."),
    ),
    in_vault=False,
)


class HsmKeyList(ApiView):
    """GET hsms/{hsm_id}/keys"""

    @operation(
        "hsms_keys",
        summary="List the keys inside an HSM",
        description="Keys of ours, with how many members hold each: fewer than there are members is a fault to see to.",
        tag=TAG,
        response=HsmKeySerializer,
        example={
            "id": "9a3e6b0c-5d1f-4e2a-8b7c-6d5e4f3a2b1c",
            "label": "keystead-root",
            "cka_id": "9a3e6b0c5d1f4e2a8b7c6d5e4f3a2b1c",
            "purpose": "root",
            "state": "ACTIVE",
            "replication": "device-bound",
            "adopted": False,
            "vault": None,
            "members": 1,
            "message": "",
            "created_at": "2026-11-22T08:00:00Z",
            "destroyed_at": None,
        },
        listing=HSM_KEYS,
        errors=(404,),
    )
    def get(self, request: Any, hsm_id: UUID) -> Response:
        """List keys."""
        service.view_connection(request.actor, hsm_id)
        return page(request, service.list_keys(request.actor, hsm_id), HSM_KEYS, HsmKeySerializer)


class RootKeyFoundSerializer(serializers.Serializer[Any]):
    """A root key that some key encryption key needs."""

    key_id = serializers.CharField()
    hsm = HsmVaultSerializer(
        source="connection", allow_null=True, help_text="The HSM that it is in; null: in a file."
    )
    count = serializers.IntegerField(help_text="Key encryption keys under it.")
    current = serializers.BooleanField()


class RootKeySerializer(serializers.Serializer[Any]):
    """Where the root key is, and how far a move has got."""

    keys = RootKeyFoundSerializer(many=True)
    moved = serializers.IntegerField(help_text="Key encryption keys under the current one.")
    total = serializers.IntegerField(
        help_text="Key encryption keys in all: one a vault, one of the installation."
    )
    problem = serializers.SerializerMethodField(help_text="Why it cannot be used now; empty when it can.")

    def get_problem(self, row: Any) -> str:
        """As this process finds it."""
        return root_problem()


ROOT_KEY = {
    "keys": [
        {
            "key_id": "9a3e6b0c5d1f4e2a8b7c6d5e4f3a2b1c",
            "hsm": {"id": HSM["id"], "name": "luna-frankfurt"},
            "count": 13,
            "current": True,
        }
    ],
    "moved": 13,
    "total": 13,
    "problem": "",
}


class RootKey(ApiView):
    """GET root-key"""

    @operation(
        "root_key_show",
        summary="Where the root key is",
        description="In a file or in an HSM; moved and total differ while it moves. For appliance admins.",
        tag=TAG,
        response=RootKeySerializer,
        example=ROOT_KEY,
    )
    def get(self, request: Any) -> Response:
        """Show."""
        return Response(RootKeySerializer(root_key_standing(request.actor)).data)


class MoveInput(StrictSerializer):
    """Where to."""

    hsm = serializers.UUIDField(
        help_text="The HSM: one whose PIN comes from outside, all of its members serving."
    )


class RootKeyMove(ApiView):
    """POST root-key/move"""

    @operation(
        "root_key_move",
        summary="Move the root key into an HSM",
        description="Every vault's key encryption key is wrapped anew under a key that is made in the HSM, and opened again, before "
        "the old one goes; everything serves meanwhile. Interrupted it goes on when called again. Back to a file: `keystead keys "
        "rewrap`. For appliance admins.",
        tag=TAG,
        request=MoveInput,
        request_example={"hsm": HSM["id"]},
        response=RootKeySerializer,
        example=ROOT_KEY,
        errors=(404, 409, 503),
    )
    def post(self, request: Any) -> Response:
        """Move."""
        move_root_key(request.actor, request.data_in["hsm"])
        return Response(RootKeySerializer(root_key_standing(request.actor)).data)
