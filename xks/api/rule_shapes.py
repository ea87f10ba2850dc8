"""Fields, serializers and examples of access rules."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from cloudkeys.api.shapes import IDS, NOW, VAULT
from vault.api.serializers import (
    ConfirmationSerializer,
    CreatedMixin,
    PlainText,
    ReferenceSerializer,
    StrictBoolean,
    StrictInteger,
    StrictSerializer,
)
from vault.api.vaults import ReasonSerializer
from xks.dry_run import DryRun
from xks.models import AccessRuleSet, AccessRuleVersion
from xks.policy_rules import FIELDS
from xks.rules_input import MAX_RULES
from xks.services.access_rules import ShadowSummary, lint_rules, name_of, sum_shadow

MAX_REQUESTS = 10_000
"""In the body of one dry run."""

RULES = [
    {
        "name": "the application",
        "effect": "ALLOW",
        "conditions": [
            {"field": "role", "negated": False, "values": ["arn:aws:iam::111122223333:role/app-prod"]},
            {"field": "source_vpce", "negated": False, "values": ["vpce-0a1b2c3d"]},
        ],
    },
    {
        "name": "AWS itself",
        "effect": "ALLOW",
        "conditions": [{"field": "service", "negated": False, "values": ["AWS Internal", "*.amazonaws.com"]}],
    },
]
_RULES = {
    "type": "array",
    "maxItems": MAX_RULES,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Named in a denial; unique among the rules."},
            "effect": {"type": "string", "enum": ["ALLOW", "DENY"]},
            "conditions": {
                "type": "array",
                "description": "All must hold. None: every request.",
                "items": {
                    "type": "object",
                    "properties": {
                        "field": {"type": "string", "enum": list(FIELDS)},
                        "tag": {"type": "string", "description": "With field key_tag: which tag."},
                        "negated": {
                            "type": "boolean",
                            "description": "Holds when none of the values matches. Never holds when the field is absent.",
                        },
                        "values": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                    },
                    "required": ["field", "values"],
                },
            },
        },
        "required": ["name", "effect"],
    },
    "example": RULES,
}


@extend_schema_field(_RULES)
class RulesField(serializers.JSONField):
    """Access rules; what is in them is checked by the service, place by place."""

    def to_internal_value(self, data: Any) -> Any:
        """As it is."""
        return data


class NewRulesInput(ReasonSerializer):
    """The first version of access rules."""

    store = serializers.UUIDField(required=False, help_text="For a whole external key store.")
    cloud_key = serializers.UUIDField(required=False, help_text="For one CloudKey.")
    rules = RulesField()


class NewRuleVersionInput(ReasonSerializer):
    """A further version."""

    rules = RulesField()


class CheckRulesInput(StrictSerializer):
    """Rules to look over."""

    rules = RulesField()


class ShadowVersionInput(ReasonSerializer):
    """Which version."""

    version = StrictInteger(
        min_value=1, max_value=2**31 - 1, allow_null=True, help_text="Null: none any more."
    )


class EnforceVersionInput(ShadowVersionInput):
    """Which version, and whether it may lock everybody out."""

    even_if_it_locks_out = StrictBoolean(
        default=False, help_text="Enforce rules, too, that would refuse every use."
    )


class RequestToJudgeInput(StrictSerializer):
    """One request to judge."""

    at = serializers.DateTimeField(required=False, help_text="For conditions on time; now when left out.")
    operation = serializers.ChoiceField(choices=["metadata", "encrypt", "decrypt"], default="decrypt")
    cloud_key = serializers.UUIDField(
        required=False, help_text="For conditions on tags; the rules' own key when left out."
    )
    principal_arn = PlainText(max_length=2048)
    kms_operation = PlainText(max_length=100, default="Decrypt")
    kms_via_service = PlainText(max_length=255, default="", allow_blank=True)
    source_vpc = PlainText(max_length=100, default="", allow_blank=True)
    source_vpce = PlainText(max_length=100, default="", allow_blank=True)


class DryRunInput(StrictSerializer):
    """What to judge, and by which requests."""

    version = StrictInteger(
        min_value=1, max_value=2**31 - 1, required=False, help_text="One that is written."
    )
    rules = RulesField(required=False, help_text="Or rules that are not written yet.")
    since = serializers.DateTimeField(
        required=False, help_text="Recorded requests from then on; the newest 100,000 when left out ..."
    )
    until = serializers.DateTimeField(required=False, help_text="... until before then; now when left out.")
    requests = RequestToJudgeInput(  # type: ignore[call-arg]  # of the list that many=True makes
        many=True, required=False, max_length=MAX_REQUESTS, help_text="Or these requests, none recorded."
    )


class RuleFindingSerializer(serializers.Serializer[Any]):
    """Something to look at."""

    code = serializers.CharField()
    severity = serializers.ChoiceField(choices=["DANGER", "WARNING", "NOTE"])
    rule = serializers.CharField(
        allow_blank=True, help_text="The rule's name; empty for the rules as a whole."
    )
    message = serializers.CharField()
    cure = serializers.CharField()


class CheckedRulesSerializer(serializers.Serializer[Any]):
    """Rules in their normal form, and what is probably not meant."""

    rules = RulesField()
    findings = RuleFindingSerializer(many=True)


class RuleVersionSerializer(serializers.ModelSerializer[AccessRuleVersion]):
    """One version; it never changes."""

    rules = RulesField()
    findings = serializers.SerializerMethodField()

    class Meta:
        model = AccessRuleVersion
        fields = ("id", "number", "rules", "findings", "reason", "author_name", "created_at")

    @extend_schema_field(RuleFindingSerializer(many=True))
    def get_findings(self, row: AccessRuleVersion) -> Any:
        """What is probably not meant."""
        return RuleFindingSerializer(lint_rules(row.rules), many=True).data


class RuleVersionCreated(CreatedMixin, RuleVersionSerializer):
    """A new version."""

    class Meta(RuleVersionSerializer.Meta):
        fields = (*RuleVersionSerializer.Meta.fields, "idempotency_replayed")  # type: ignore[assignment]


class CountsField(serializers.DictField):
    """How many, by name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(child=serializers.IntegerField(), **kwargs)


class ShadowCountsSerializer(serializers.Serializer[ShadowSummary]):
    """What the shadowed version would have done since it was put there."""

    judged = serializers.IntegerField()
    denied = serializers.IntegerField()
    by_rule = CountsField(help_text="Denied, by the rule's name; '' for no rule having allowed.")
    principals = CountsField(help_text="Denied, by awsPrincipalArn; '' for those not told apart.")
    since = serializers.DateTimeField(allow_null=True)
    last_at = serializers.DateTimeField(allow_null=True)


class AccessRulesSerializer(serializers.ModelSerializer[AccessRuleSet]):
    """The access rules of a store or a key."""

    vault = ReferenceSerializer()
    store = serializers.UUIDField(source="store_id")
    cloud_key = serializers.UUIDField(source="cloud_key_id", allow_null=True, help_text="Null: the store's.")
    name = serializers.SerializerMethodField(help_text="The key's, or the store's key set's.")
    enforced = RuleVersionSerializer(allow_null=True, help_text="Null: AWS IAM is trusted.")
    shadowed = RuleVersionSerializer(
        allow_null=True, help_text="Counts what it would deny, and denies nothing."
    )
    shadow = serializers.SerializerMethodField()

    class Meta:
        model = AccessRuleSet
        fields = (
            "id", "vault", "store", "cloud_key", "name", "enforced", "shadowed", "shadowed_at", "shadow", "revision",
            "created_at", "updated_at",
        )  # fmt: skip

    def get_name(self, row: AccessRuleSet) -> str:
        """See the field."""
        return name_of(row)

    @extend_schema_field(ShadowCountsSerializer(allow_null=True))
    def get_shadow(self, row: AccessRuleSet) -> Any:
        """Null unless a version is in the shadow."""
        return ShadowCountsSerializer(sum_shadow(row.shadowed)).data if row.shadowed is not None else None


class AccessRulesCreated(CreatedMixin, AccessRulesSerializer):
    """New access rules."""

    class Meta(AccessRulesSerializer.Meta):
        fields = (*AccessRulesSerializer.Meta.fields, "idempotency_replayed")  # type: ignore[assignment]


class RulesAndConfirmation(serializers.Serializer[Any]):
    """Access rules, and how far the data plane has confirmed the change."""

    access_rules = AccessRulesSerializer()
    confirmation = ConfirmationSerializer(allow_null=True)


class DryRunSerializer(serializers.Serializer[DryRun]):
    """What the candidate would have done."""

    sentence = serializers.CharField()
    judged = serializers.IntegerField()
    denied = serializers.IntegerField(help_text="Answered then, and would have been refused.")
    refused_before = serializers.IntegerField(help_text="Refused by rules then already; not among `denied`.")
    let_through = serializers.IntegerField(help_text="Of these, how many would pass now.")
    by_rule = CountsField(help_text="Denied, by the rule's name; '' for no rule having allowed.")
    principals = CountsField(help_text="Denied, by awsPrincipalArn, the most frequent first.")
    services = CountsField(help_text="Denied, by kmsViaService; '' for none.")
    kms_operations = CountsField(help_text="Denied, by kmsOperation; '' where only hourly sums are known.")
    singly = serializers.IntegerField(
        help_text="Of `judged`, how many one by one. The rest by the journal's hourly sums."
    )
    left_out = serializers.IntegerField(help_text="Requests of the period that could not be judged.")
    notes = serializers.ListField(
        child=serializers.CharField(), help_text="How far the verdict reaches, in sentences."
    )


RULES_ID = "4d5e6f70-8192-43a4-b5c6-d7e8f9012308"
FINDING = {
    "code": "omits-aws-internal",
    "severity": "WARNING",
    "rule": "",
    "message": 'No allow rule lets "AWS Internal" through.',
    "cure": 'Add an allow rule with the condition service is "AWS Internal", unless you want them to fail.',
}
VERSION: dict[str, Any] = {
    "id": "5e6f7081-92a3-44b5-86d7-e8f901234509",
    "number": 3,
    "rules": RULES,
    "findings": [],
    "reason": "Ticket 4711",
    "author_name": "ada@example.com",
    "created_at": NOW,
}
SHADOW = {
    "judged": 18204,
    "denied": 3,
    "by_rule": {"": 3},
    "principals": {"arn:aws:sts::111122223333:assumed-role/app-old/i-0abc": 3},
    "since": NOW,
    "last_at": NOW,
}
RULE_SET: dict[str, Any] = {
    "id": RULES_ID,
    "vault": VAULT,
    "store": IDS["store"],
    "cloud_key": None,
    "name": "pay-hyok",
    "enforced": None,
    "shadowed": VERSION,
    "shadowed_at": NOW,
    "shadow": SHADOW,
    "revision": 4,
    "created_at": NOW,
    "updated_at": NOW,
}
DRY_RUN = {
    "sentence": "would have denied 3 of 18,204, from 1 principal",
    "judged": 18204,
    "denied": 3,
    "refused_before": 0,
    "let_through": 0,
    "by_rule": {"": 3},
    "principals": {"arn:aws:sts::111122223333:assumed-role/app-old/i-0abc": 3},
    "services": {"s3.eu-west-1.amazonaws.com": 3},
    "kms_operations": {"Decrypt": 2, "GenerateDataKey": 1},
    "singly": 18204,
    "left_out": 0,
    "notes": [],
}
