"""/api/v1/cloud-keys: list, create, show, change, and every act on one key."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework.response import Response

from cloudkeys.api.key_shapes import (
    CREATE_STEP,
    KEY,
    KEYS,
    VERSION,
    CloudKeyChanges,
    CloudKeyCreated,
    CloudKeyInput,
    CloudKeySerializer,
    CreateStepSerializer,
    DestroyInput,
    KeyAndOperation,
    KeyChange,
    LinkKeyInput,
    VersionSerializer,
    listed,
    rows_of,
)  # fmt: skip
from cloudkeys.api.shapes import (
    ADA,
    APP,
    CONFIRMATION,
    IDS,
    OPERATION,
    BegunSerializer,
    ConfirmedDeletionSerializer,
    begun,
    confirm,
    operation_data,
    read_operation,
)  # fmt: skip
from cloudkeys.models import CloudKey
from cloudkeys.services import cloud_keys, lifecycle, versions
from vault.actions import Action
from vault.api.endpoints import ApiView, accepted, created, detail, done_or_begun, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import vault_of
from vault.api.serializers import confirmation_data
from vault.api.vaults import ReasonSerializer
from vault.generations import Confirmation
from vault.permissions import Permission
from vault.services.confirmations import confirm_switch

TAG = "Cloud keys"
_MAYBE_IF_MATCH = "optional"


def _read(request: Any, made: Made) -> dict[str, Any]:
    row = request.actor.fetch(CloudKey, made.target_id, Permission.CLOUD_KEYS_VIEW)
    return {
        "cloud_key": CloudKeySerializer(row).data,
        "operation": read_operation(request, made.operation_id),
        "create_key_step": cloud_keys.create_key_step(row) if row.pointer_state == "NOT_LINKED" else None,
    }


class CloudKeyList(ApiView):
    """cloud-keys"""

    @operation(
        "cloud_keys_list",
        summary="List CloudKeys",
        description="The vault's keys, health-check keys only when asked for (`kind`).",
        tag=TAG,
        response=CloudKeySerializer,
        example=KEY,
        listing=KEYS,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.CLOUD_KEYS_VIEW)
        return page(request, listed(request, vault), KEYS, CloudKeySerializer)

    @operation(
        "cloud_keys_create",
        summary="Create a CloudKey",
        description="Keystead generates an AES-256 key and keeps it; the data plane serves it at once. In a "
        "linked store an "
        "Operation makes the KMS key with an alias of the same name, and the answer is 202; in an unlinked one "
        "`create_key_step` says what you do in AWS.",
        tag=TAG,
        request=CloudKeyInput,
        request_example={
            "key_set": IDS["key_set"],
            "name": "payments-prod",
            "region": "eu-west-1",
            "administrators": [ADA],
            "users": [APP],
        },
        response=CloudKeyCreated,
        status=201,
        example={
            "cloud_key": {**KEY, "pointer_state": "NOT_LINKED"},
            "operation": None,
            "create_key_step": CREATE_STEP,
            "idempotency_replayed": False,
        },
        errors=(404,),
        replay=Replay(CloudKey, _read),
        may_take_long=True,
    )
    def post(self, request: Any) -> Response:
        """POST"""
        values = request.data_in
        made = cloud_keys.create_cloud_key(request.actor, values.pop("key_set"), **values)
        data = {
            "cloud_key": CloudKeySerializer(made.key).data,
            "operation": operation_data(made.operation),
            "create_key_step": cloud_keys.create_key_step(made.key) if made.operation is None else None,
        }
        if made.operation is not None:
            return accepted(made.operation.pk, {**data, "idempotency_replayed": False}, row=made.key)
        return created(made.key, data, location=f"/api/v1/cloud-keys/{made.key.pk}")


class CloudKeyDetail(ApiView):
    """cloud-keys/{id}"""

    @operation(
        "cloud_keys_show",
        summary="Show a CloudKey",
        description="Our `state` beside what AWS last said of its KMS key (`cloud_state`).",
        tag=TAG,
        response=CloudKeySerializer,
        example=KEY,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, key_id: UUID) -> Response:
        """GET"""
        request.actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_VIEW)
        row = rows_of(request).get(pk=key_id)
        return detail(row, CloudKeySerializer(row).data)

    @operation(
        "cloud_keys_update",
        summary="Change a CloudKey",
        description="Name (which is the alias), description, tags, administrators, users, schedule, "
        "expiration. What AWS knows "
        'too follows there by Operation (202). `{"kind": "inherited"}` goes back to the key set\'s schedule.',
        tag=TAG,
        request=CloudKeyChanges,
        request_example={"description": "Card payments", "rotation_schedule": {"kind": "inherited"}},
        response=KeyAndOperation,
        example={"cloud_key": {**KEY, "description": "Card payments", "revision": 2}, "operation": None},
        errors=(409,),
        if_match="required",
        may_take_long=True,
    )
    def patch(self, request: Any, key_id: UUID) -> Response:
        """PATCH"""
        made = cloud_keys.update_cloud_key(
            request.actor, key_id, request.data_in, expected_revision=request.expected
        )
        return _key_answer(made.key, made.operation)


class CloudKeyVersions(ApiView):
    """cloud-keys/{id}/versions"""

    @operation(
        "cloud_keys_versions",
        summary="List a key's versions",
        description="Each opens what it encrypted, for as long as the key lives. `activated_at` null: "
        "handed to the data plane, "
        "not encrypting yet.",
        tag=TAG,
        response=VersionSerializer(many=True),
        example=[VERSION],
        errors=(404,),
    )
    def get(self, request: Any, key_id: UUID) -> Response:
        """GET"""
        row = request.actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_VIEW)
        return Response(
            VersionSerializer(row.versions.all(), many=True, context={"current": row.current_version}).data
        )


class CloudKeyStep(ApiView):
    """cloud-keys/{id}/create-key-step"""

    @operation(
        "cloud_keys_create_key_step",
        summary="Show the step in AWS",
        description="What the admin of an unlinked store does in AWS to make the KMS key, value by value "
        "and as a command.",
        tag=TAG,
        response=CreateStepSerializer,
        example=CREATE_STEP,
        errors=(404,),
    )
    def get(self, request: Any, key_id: UUID) -> Response:
        """GET"""
        row = request.actor.fetch(CloudKey, key_id, Permission.CLOUD_KEYS_VIEW)
        return Response(cloud_keys.create_key_step(row))


class CloudKeyDisable(ApiView):
    """cloud-keys/{id}/disable"""

    @operation(
        "cloud_keys_disable",
        summary="Disable a CloudKey",
        description="From now on every new use of the key is refused, on every node; `confirmation` says "
        "how many worker "
        "processes have confirmed, and by when the others close by themselves. Services that hold a data key in memory "
        "go on until they next ask. When linked, an Operation then disables the KMS key (202).",
        tag=TAG,
        request=ReasonSerializer,
        request_example={"reason": "Suspected breach"},
        response=KeyChange,
        example={"cloud_key": {**KEY, "state": "DISABLED"}, "operation": None, "confirmation": CONFIRMATION},
        errors=(404, 409),
        if_match=_MAYBE_IF_MATCH,
        may_take_long=True,
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        done = lifecycle.disable_cloud_key(
            request.actor, key_id, expected_revision=request.expected, **request.data_in
        )
        return _closed(request, Action.CLOUD_KEY_DISABLE, done)


class CloudKeyEnable(ApiView):
    """cloud-keys/{id}/enable"""

    @operation(
        "cloud_keys_enable",
        summary="Enable a CloudKey",
        description="Data is readable again: at once when unlinked; when linked an Operation enables the "
        "KMS key first and then "
        "ours (202). May need another person's consent.",
        tag=TAG,
        request=ReasonSerializer,
        request_example={"reason": "All clear"},
        response=KeyChange,
        example={"cloud_key": KEY, "operation": None, "confirmation": CONFIRMATION},
        errors=(404, 409),
        if_match=_MAYBE_IF_MATCH,
        may_take_long=True,
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        return _changed(
            lifecycle.enable_cloud_key(
                request.actor, key_id, expected_revision=request.expected, **request.data_in
            )
        )


class CloudKeyBlock(ApiView):
    """cloud-keys/{id}/block"""

    @operation(
        "cloud_keys_block",
        summary="Block a CloudKey",
        description="Refuse it in the data plane only; AWS is not told. Undone by its own permission.",
        tag=TAG,
        request=ReasonSerializer,
        request_example={"reason": "Incident 7"},
        response=KeyChange,
        example={"cloud_key": {**KEY, "blocked": True}, "operation": None, "confirmation": CONFIRMATION},
        errors=(404, 409),
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        return _closed(
            request,
            Action.CLOUD_KEY_BLOCK,
            lifecycle.block_cloud_key(request.actor, key_id, **request.data_in),
        )


class CloudKeyUnblock(ApiView):
    """cloud-keys/{id}/unblock"""

    @operation(
        "cloud_keys_unblock",
        summary="Unblock a CloudKey",
        description="Undo a block. May need another person's consent.",
        tag=TAG,
        request=ReasonSerializer,
        request_example={"reason": "Incident 7 is over"},
        response=KeyChange,
        example={"cloud_key": KEY, "operation": None, "confirmation": CONFIRMATION},
        errors=(404, 409),
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        return _changed(lifecycle.unblock_cloud_key(request.actor, key_id, **request.data_in))


class CloudKeyRetire(ApiView):
    """cloud-keys/{id}/retire"""

    @operation(
        "cloud_keys_retire",
        summary="Retire a CloudKey to decrypt-only",
        description="Old data stays readable, nothing new is encrypted, and it rotates no more. Not undone.",
        tag=TAG,
        request=ReasonSerializer,
        request_example={"reason": "Replaced by payments-2027"},
        response=KeyChange,
        example={
            "cloud_key": {**KEY, "permitted_uses": ["DECRYPT"]},
            "operation": None,
            "confirmation": CONFIRMATION,
        },
        errors=(404, 409),
        if_match=_MAYBE_IF_MATCH,
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        return _changed(
            lifecycle.retire_cloud_key(
                request.actor, key_id, expected_revision=request.expected, **request.data_in
            )
        )


class CloudKeyRotate(ApiView):
    """cloud-keys/{id}/rotate"""

    @operation(
        "cloud_keys_rotate",
        summary="Rotate a CloudKey",
        description="Make a new version inside the same external key. It encrypts as soon as every worker "
        "process can decrypt "
        "with it; old data stays readable. Nothing changes in AWS.",
        tag=TAG,
        response=KeyAndOperation,
        status=202,
        example={"cloud_key": KEY, "operation": {**OPERATION, "kind": "cloud_key.rotate"}},
        errors=(404, 409),
        if_match=_MAYBE_IF_MATCH,
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        rotation = versions.rotate_cloud_key(request.actor, key_id, expected_revision=request.expected)
        return _key_answer(rotation.key, rotation.operation)


class CloudKeyScheduleDeletion(ApiView):
    """cloud-keys/{id}/schedule-deletion"""

    @operation(
        "cloud_keys_schedule_deletion",
        summary="Schedule a key's deletion",
        description="Every use is refused now. After the window, and after AWS says that its KMS key is "
        "gone, the material is "
        "destroyed: data under it then stays unreadable for good. `confirm_name` is the key's name.",
        tag=TAG,
        request=ConfirmedDeletionSerializer,
        request_example={"confirm_name": "payments-prod", "window_days": 30, "reason": "Project ended"},
        response=KeyChange,
        example={
            "cloud_key": {**KEY, "state": "PENDING_DELETION"},
            "operation": None,
            "confirmation": CONFIRMATION,
        },
        errors=(404, 409),
        if_match=_MAYBE_IF_MATCH,
        may_take_long=True,
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        return _closed(
            request,
            Action.CLOUD_KEY_SCHEDULE_DELETION,
            lifecycle.schedule_deletion(
                request.actor, key_id, expected_revision=request.expected, **request.data_in
            ),
        )


class CloudKeyCancelDeletion(ApiView):
    """cloud-keys/{id}/cancel-deletion"""

    @operation(
        "cloud_keys_cancel_deletion",
        summary="Cancel a key's deletion",
        description="The key stays, DISABLED, until somebody enables it.",
        tag=TAG,
        request=ReasonSerializer,
        request_example={"reason": "Still needed"},
        response=KeyChange,
        example={"cloud_key": {**KEY, "state": "DISABLED"}, "operation": None, "confirmation": CONFIRMATION},
        errors=(404, 409),
        may_take_long=True,
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        return _changed(lifecycle.cancel_deletion(request.actor, key_id, **request.data_in))


class CloudKeyDestroy(ApiView):
    """cloud-keys/{id}/destroy"""

    @operation(
        "cloud_keys_destroy",
        summary="Destroy an unlinked key",
        description="After its window, and after you say that no KMS key in AWS refers to it any more. "
        "Linked keys are destroyed "
        "by Keystead itself, when AWS says so.",
        tag=TAG,
        request=DestroyInput,
        request_example={"confirm_name": "payments-prod", "pointer_is_gone": True},
        response=KeyChange,
        example={"cloud_key": {**KEY, "state": "DESTROYED"}, "operation": None, "confirmation": CONFIRMATION},
        errors=(404, 409),
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        return _closed(
            request,
            Action.CLOUD_KEY_DESTROY,
            lifecycle.destroy_unlinked_key(request.actor, key_id, **request.data_in),
        )


class CloudKeyLink(ApiView):
    """cloud-keys/{id}/link"""

    @operation(
        "cloud_keys_link",
        summary="Link a CloudKey",
        description="Adopt the given KMS key, once AWS confirms its store and external key id; or make one.",
        tag=TAG,
        request=LinkKeyInput,
        request_example={"kms_key_id": "12ab34cd-56ef-4abc-8def-1234567890ab"},
        response=KeyAndOperation,
        status=202,
        example={
            "cloud_key": {**KEY, "pointer_state": "PENDING"},
            "operation": {**OPERATION, "kind": "cloud_key.link"},
        },
        errors=(404, 409),
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        made = cloud_keys.link_cloud_key(request.actor, key_id, **request.data_in)
        return _key_answer(made.key, made.operation)


class CloudKeyRefresh(ApiView):
    """cloud-keys/{id}/refresh"""

    @operation(
        "cloud_keys_refresh",
        summary="Ask AWS about a key",
        description="Reads what AWS says of the KMS key into `cloud_state`. Our `state` never changes by it.",
        tag=TAG,
        response=BegunSerializer,
        status=202,
        example={"operation": {**OPERATION, "kind": "cloud_key.refresh"}},
        errors=(404, 409),
    )
    def post(self, request: Any, key_id: UUID) -> Response:
        """POST"""
        return begun(cloud_keys.refresh_cloud_key(request.actor, key_id))


def _changed(done: lifecycle.LifecycleChange) -> Response:
    return _switched(done, confirm(done.generation))


def _closed(request: Any, action: Action, done: lifecycle.LifecycleChange) -> Response:
    """Access was taken away: how far the data plane has followed is kept on record too."""
    return _switched(done, confirm_switch(request.actor, action, done.key, done.generation))


def _switched(done: lifecycle.LifecycleChange, confirmation: Confirmation | None) -> Response:
    data = {
        "cloud_key": CloudKeySerializer(done.key).data,
        "operation": operation_data(done.operation),
        "confirmation": confirmation_data(confirmation),
    }
    return done_or_begun(data, done.operation.pk if done.operation is not None else None)


def _key_answer(key: CloudKey, work: Any) -> Response:
    data = {"cloud_key": CloudKeySerializer(key).data, "operation": operation_data(work)}
    return done_or_begun(data, work.pk if work is not None else None)
