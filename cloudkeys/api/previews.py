"""What a change would do before it is made, and what stands beside a row: effects, AWS's own steps, a key's life, search."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from rest_framework import serializers
from rest_framework.response import Response

from cloudkeys.api.accounts import ACCOUNT, CspAccountCreated, CspAccountSerializer
from cloudkeys.api.shapes import ADA, IDS, NOW, ExpirationField, ScheduleField
from cloudkeys.models import CspAccount
from cloudkeys.services import effects, key_views, palette, trial, wizard
from vault.api.endpoints import ApiView, created, operation
from vault.api.idempotency import Made, Replay
from vault.api.listing import Filter, moment, single, text, vault_of
from vault.api.serializers import JsonObject, StrictSerializer
from vault.errors import NotFound
from vault.permissions import Permission

_VAULT = Filter(
    "vault", "The vault, as for lists.", str, lambda rows, values: rows, {"type": "string", "format": "uuid"}
)


class NamedSerializer(serializers.Serializer[Any]):
    """An object by id and name."""

    id = serializers.UUIDField()
    name = serializers.CharField()


class ScheduleEffectsInput(StrictSerializer):
    """The schedule and expiration that are thought of."""

    rotation_schedule = ScheduleField(required=False)
    expiration = ExpirationField(required=False)


class ScheduleEffectsSerializer(serializers.Serializer[Any]):
    """What they would do to the living keys of the set."""

    follow = serializers.IntegerField(help_text="Keys that would follow the schedule.")
    own = serializers.IntegerField(help_text="Keys with a schedule of their own, which stay as they are.")
    retired = serializers.IntegerField(help_text="Keys that never rotate again.")
    overdue = serializers.IntegerField(help_text="Followers that would rotate at once.")
    first_due_at = serializers.DateTimeField(allow_null=True)
    last_due_at = serializers.DateTimeField(allow_null=True)
    follow_examples = NamedSerializer(many=True)
    own_examples = NamedSerializer(many=True)
    expiration_follow = serializers.IntegerField()
    expiration_own = serializers.IntegerField()
    expiration_past = serializers.IntegerField(help_text="Enabled followers that would expire at once.")
    first_expires_at = serializers.DateTimeField(allow_null=True)
    expiration_own_examples = NamedSerializer(many=True)


_NAMED = {"id": IDS["key"], "name": "payments-prod"}


class KeySetScheduleEffects(ApiView):
    """key-sets/{id}/schedule-effects"""

    @operation(
        "key_sets_schedule_effects",
        summary="Show what a new schedule would do",
        description="Which keys of the set would follow, and which have a schedule of their own. Nothing is changed.",
        tag="Key sets",
        request=ScheduleEffectsInput,
        request_example={"rotation_schedule": {"kind": "every", "every": 90, "unit": "days"}},
        response=ScheduleEffectsSerializer,
        example={
            "follow": 120, "own": 3, "retired": 0, "overdue": 7, "first_due_at": NOW, "last_due_at": NOW,
            "follow_examples": [_NAMED], "own_examples": [], "expiration_follow": 123, "expiration_own": 0,
            "expiration_past": 0, "first_expires_at": None, "expiration_own_examples": [],
        },
        errors=(404,),
    )  # fmt: skip
    def post(self, request: Any, key_set_id: UUID) -> Response:
        """POST"""
        found = effects.schedule_effects(request.actor, key_set_id, **request.data_in)
        return Response(ScheduleEffectsSerializer(found).data)


class KeySetDeletionSerializer(serializers.Serializer[Any]):
    """What deleting a key set takes away, and what is in its way."""

    living_keys = serializers.IntegerField()
    destroyed_keys = serializers.IntegerField()
    key_versions = serializers.IntegerField()
    credentials = serializers.IntegerField()
    aws_key_stores = serializers.ListField(child=serializers.CharField())
    unlinked_stores = serializers.ListField(child=serializers.CharField())
    last_deletion_ends_at = serializers.DateTimeField(allow_null=True)
    obstacles = serializers.ListField(child=serializers.CharField())
    consequences = serializers.ListField(child=serializers.CharField())


class KeySetDeletion(ApiView):
    """key-sets/{id}/deletion"""

    @operation(
        "key_sets_deletion",
        summary="Show what deleting a key set would take away",
        description="Counted now, with what is in the way. Nothing is changed.",
        tag="Key sets",
        response=KeySetDeletionSerializer,
        example={
            "living_keys": 2, "destroyed_keys": 0, "key_versions": 4, "credentials": 1,
            "aws_key_stores": ["pay-hyok (eu-west-1)"], "unlinked_stores": [], "last_deletion_ends_at": None,
            "obstacles": ["2 of its keys are not destroyed: schedule their deletion and wait for its end."],
            "consequences": ["Its path and credentials answer to nobody any more."],
        },
        errors=(404,),
    )  # fmt: skip
    def get(self, request: Any, key_set_id: UUID) -> Response:
        """GET"""
        return Response(KeySetDeletionSerializer(effects.key_set_deletion(request.actor, key_set_id)).data)


class AccountDependentsSerializer(serializers.Serializer[Any]):
    """What hangs on a CSP account."""

    key_sets = serializers.IntegerField()
    cloud_keys = serializers.IntegerField()
    linked_stores = serializers.IntegerField()
    key_set_examples = NamedSerializer(many=True)
    unfinished_operations = serializers.IntegerField()
    obstacles = serializers.ListField(
        child=serializers.CharField(), help_text="Why it cannot be deleted now."
    )


class CspAccountDependents(ApiView):
    """csp-accounts/{id}/dependents"""

    @operation(
        "csp_accounts_dependents",
        summary="Show what uses a CSP account",
        description="Key sets, keys and AWS key stores that work with its credential.",
        tag="CSP accounts",
        response=AccountDependentsSerializer,
        example={
            "key_sets": 1, "cloud_keys": 12, "linked_stores": 1,
            "key_set_examples": [{"id": IDS["key_set"], "name": "pay-hyok"}],
            "unfinished_operations": 0, "obstacles": ["1 key set works under it: delete it first."],
        },
        errors=(404,),
    )  # fmt: skip
    def get(self, request: Any, account_id: UUID) -> Response:
        """GET"""
        found = effects.account_dependents(request.actor, account_id)
        return Response(AccountDependentsSerializer(found).data)


def _read_account(request: Any, made: Made) -> dict[str, Any]:
    account = request.actor.visible(CspAccount).filter(pk=made.target_id).first()
    if account is None:
        raise NotFound("There is no such CSP account.")
    return dict(CspAccountSerializer(account).data)


class TrySimulatorInput(StrictSerializer):
    """Where."""

    vault = serializers.UUIDField(required=False)


class TrySimulator(ApiView):
    """csp-accounts/try-simulator"""

    @operation(
        "csp_accounts_try_simulator",
        summary="Add an account on the bundled simulator",
        description="An IAM user with exactly the rights that a real account would need, and an access key, are made on the bundled AWS "
        "simulator; the account is marked as simulated everywhere. Asked twice, it is the same account. Refused (409) where "
        "KEYSTEAD_SIMULATOR is off.",
        tag="CSP accounts",
        request=TrySimulatorInput,
        request_example={},
        response=CspAccountCreated,
        status=201,
        example={**ACCOUNT, "partition": "simulator", "is_simulated": True, "idempotency_replayed": False},
        errors=(404, 503),
        replay=Replay(CspAccount, _read_account),
    )
    def post(self, request: Any) -> Response:
        """POST"""
        vault = vault_of(request, Permission.CSP_ACCOUNTS_MANAGE, request.data_in.get("vault"))
        found = trial.try_simulator(request.actor, vault)
        return created(
            found.account,
            CspAccountSerializer(found.account).data,
            location=f"/api/v1/csp-accounts/{found.account.pk}",
        )


class ConsoleStepSerializer(serializers.Serializer[Any]):
    """One step in the AWS console."""

    title = serializers.CharField()
    words = serializers.CharField()
    values = serializers.ListField(
        child=serializers.ListField(child=serializers.CharField()), help_text="[label, value]"
    )
    note = serializers.CharField(allow_blank=True)
    command = serializers.CharField(allow_blank=True, help_text="Does the same with the AWS CLI.")


class LinkConsoleSteps(ApiView):
    """aws-store-links/{id}/console-steps"""

    @operation(
        "aws_store_links_console_steps",
        summary="Show AWS's own steps for a key store",
        description="To make and connect the external key store in the AWS console, with every value; for a public endpoint or a VPC "
        "endpoint service, as the link says. The secret was shown once, and is not here.",
        tag="AWS store links",
        response=ConsoleStepSerializer(many=True),
        example=[
            {
                "title": "Name the key store", "words": "Custom key store name.",
                "values": [["Custom key store name", "pay-hyok"]], "note": "", "command": "",
            }
        ],
        errors=(404,),
    )  # fmt: skip
    def get(self, request: Any, link_id: UUID) -> Response:
        """GET"""
        steps = wizard.console_steps_of(request.actor, link_id)
        return Response([asdict(step) for step in steps])


class MomentSerializer(serializers.Serializer[Any]):
    """One moment of a key's life."""

    at = serializers.DateTimeField()
    what = serializers.CharField(help_text="The audited action, the operation's kind, or `version`.")
    words = serializers.CharField()
    who = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)
    source = serializers.CharField(help_text="audit, operation or version.")  # type: ignore[assignment]  # hides Field.source
    ref = serializers.CharField(help_text="The id of the event or operation; the number of the version.")
    outcome = serializers.CharField()
    detail = JsonObject()


class CloudKeyTimeline(ApiView):
    """cloud-keys/{id}/timeline"""

    @operation(
        "cloud_keys_timeline",
        summary="Show a CloudKey's life",
        description="Audit events, operations and versions in one, the newest first, at most 50. `before` turns the page: give the last "
        "moment's `at`.",
        tag="Cloud keys",
        response=MomentSerializer(many=True),
        example=[
            {
                "at": NOW, "what": "cloudkeys:cloud_key:disable", "words": "Disabled", "who": "ada@example.com",
                "reason": "Incident 7", "source": "audit", "ref": IDS["operation"], "outcome": "SUCCESS", "detail": {},
            }
        ],
        errors=(404,),
        query=(moment("before", "at__lt", "Only what came before this moment."),),
    )  # fmt: skip
    def get(self, request: Any, key_id: UUID) -> Response:
        """GET"""
        given = single(request, "before")
        before = moment("before", "at", "").parse(given) if given is not None else None
        found = key_views.timeline(request.actor, key_id, before=before)
        return Response(MomentSerializer(found, many=True).data)


class CloudKeyPolicy(ApiView):
    """cloud-keys/{id}/policy"""

    @operation(
        "cloud_keys_policy",
        summary="Show the key policy",
        description="The policy document that Keystead gives the KMS key: who may administer it, who may use it.",
        tag="Cloud keys",
        response=OpenApiTypes.OBJECT,
        example={
            "Version": "2012-10-17", "Id": "keystead",
            "Statement": [
                {
                    "Sid": "KeyUsers", "Effect": "Allow", "Principal": {"AWS": [ADA]}, "Action": ["kms:Decrypt"],
                    "Resource": "*",
                }
            ],
        },
        errors=(404,),
    )  # fmt: skip
    def get(self, request: Any, key_id: UUID) -> Response:
        """GET"""
        return Response(key_views.policy_preview(request.actor, key_id))


class FoundSerializer(serializers.Serializer[Any]):
    """One object that the text names."""

    type = serializers.ChoiceField(
        choices=["cloud_key", "key_set", "csp_account", "xks_store", "aws_store_link", "operation", "member"]
    )
    id = serializers.UUIDField()
    name = serializers.CharField()
    detail = serializers.CharField(allow_blank=True)
    state = serializers.CharField(allow_blank=True)
    rank = serializers.IntegerField(help_text="0: named whole, 1: its name begins so, 2: its name holds it.")


class Search(ApiView):
    """search"""

    @operation(
        "search",
        summary="Find objects of a vault",
        description="By part of the name, or by whole id, alias, ARN, external key id, KMS key id, key store id, path or access key id; "
        "the best matches first, 20 at most. What your role may not see is left out.",
        tag="Search",
        response=FoundSerializer(many=True),
        example=[
            {
                "type": "cloud_key", "id": IDS["key"], "name": "payments-prod", "detail": "pay-hyok, eu-west-1",
                "state": "ENABLED", "rank": 0,
            }
        ],
        errors=(404,),
        query=(text("text", (), "What to look for.", max_length=2048), _VAULT),
    )  # fmt: skip
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.VAULT_VIEW)
        found = palette.find_objects(request.actor, vault, single(request, "text") or "")
        return Response(FoundSerializer(found, many=True).data)
