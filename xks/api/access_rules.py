"""/api/v1/access-rules: secondary authorization of stores and keys."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.utils import timezone
from rest_framework.response import Response

from cloudkeys.api.shapes import CONFIRMATION, IDS, confirm
from vault.api.endpoints import ApiView, created, detail, operation, page
from vault.api.idempotency import Made, Replay
from vault.api.listing import Listing, identifier, present, vault_of
from vault.api.serializers import confirmation_data
from vault.permissions import Permission
from xks.api.rule_shapes import (
    DRY_RUN,
    FINDING,
    RULE_SET,
    RULES,
    VERSION,
    AccessRulesCreated,
    AccessRulesSerializer,
    CheckedRulesSerializer,
    CheckRulesInput,
    DryRunInput,
    DryRunSerializer,
    EnforceVersionInput,
    NewRulesInput,
    NewRuleVersionInput,
    RuleFindingSerializer,
    RulesAndConfirmation,
    RuleVersionCreated,
    RuleVersionSerializer,
    ShadowVersionInput,
)
from xks.dry_run import RecordedRequest
from xks.models import AccessRuleSet, AccessRuleVersion
from xks.rules_input import check_rules
from xks.services import access_rules, dry_runs

TAG = "Access rules"
V1 = "/api/v1/access-rules"

LISTING = Listing(
    orderings={"created_at": "created_at", "updated_at": "updated_at"},
    default_ordering="created_at",
    filters=(
        identifier("store", "store_id", "External key store, its keys' rules among them."),
        identifier("cloud_key", "cloud_key_id", "CloudKey."),
        present("enforced", "enforced", "Whether a version is enforced."),
        present("shadowed", "shadowed", "Whether a version is in the shadow."),
    ),
)
VERSIONS = Listing(orderings={"number": "number"}, default_ordering="-number", in_vault=False)
_SEMANTICS = (
    "The first denial that matches refuses; then, if there is any allow rule, one must match. A condition on a field that"
    " the request does not have never holds, negated or not. Rules of the store and of the key must both let a use"
    " through. Health checks are exempt; metadata is judged by principal, operation and VPC alone."
)


def _rows(request: Any) -> Any:
    rows = request.actor.visible(AccessRuleSet)
    rows = rows.select_related("vault", "store__key_set", "cloud_key", "enforced", "shadowed")
    return rows.prefetch_related("shadowed__tallies")


def _data(rule_set: AccessRuleSet) -> dict[str, Any]:
    return dict(AccessRulesSerializer(rule_set).data)


def _read_rules(request: Any, made: Made) -> dict[str, Any]:
    return _data(request.actor.fetch(AccessRuleSet, made.target_id, Permission.ACCESS_RULES_VIEW))


def _read_version(request: Any, made: Made) -> dict[str, Any]:
    row = request.actor.fetch(AccessRuleVersion, made.target_id, Permission.ACCESS_RULES_VIEW)
    return dict(RuleVersionSerializer(row).data)


class AccessRulesList(ApiView):
    """access-rules"""

    @operation(
        "access_rules_list",
        summary="List access rules",
        description="Of the vault's stores and keys. One that is not listed trusts AWS IAM.",
        tag=TAG,
        response=AccessRulesSerializer,
        example=RULE_SET,
        listing=LISTING,
    )
    def get(self, request: Any) -> Response:
        """GET"""
        vault = vault_of(request, Permission.ACCESS_RULES_VIEW)
        return page(request, _rows(request).filter(vault=vault), LISTING, AccessRulesSerializer)

    @operation(
        "access_rules_create",
        summary="Write access rules for a store or a key",
        description=f"Version 1; nothing is enforced by it. Try it by a dry run or in the shadow first. {_SEMANTICS}",
        tag=TAG,
        request=NewRulesInput,
        request_example={"store": IDS["store"], "rules": RULES, "reason": "Ticket 4711"},
        response=AccessRulesCreated,
        status=201,
        example={
            **RULE_SET,
            "shadowed": None,
            "shadow": None,
            "shadowed_at": None,
            "idempotency_replayed": False,
        },
        errors=(404, 409),
        replay=Replay(AccessRuleSet, _read_rules),
    )
    def post(self, request: Any) -> Response:
        """POST"""
        given = request.data_in
        made = access_rules.create_rule_set(
            request.actor,
            store_id=given.get("store"),
            cloud_key_id=given.get("cloud_key"),
            rules=given["rules"],
            reason=given["reason"],
        )
        return created(made, _data(made), location=f"{V1}/{made.pk}")


class AccessRulesCheck(ApiView):
    """access-rules/check"""

    @operation(
        "access_rules_check",
        summary="Look over rules without keeping them",
        description="Every error with its place, or the rules in their normal form with findings: an allow-list without"
        " AWS's own services, a rule that can never match, rules that lock everybody out.",
        tag=TAG,
        request=CheckRulesInput,
        request_example={"rules": RULES},
        response=CheckedRulesSerializer,
        example={"rules": RULES, "findings": [FINDING]},
    )
    def post(self, request: Any) -> Response:
        """POST"""
        rules = check_rules(request.data_in["rules"])
        findings = RuleFindingSerializer(access_rules.lint_rules(rules), many=True).data
        return Response({"rules": rules, "findings": findings})


class AccessRulesDetail(ApiView):
    """access-rules/{id}"""

    @operation(
        "access_rules_show",
        summary="Show access rules",
        description="What is enforced, what is in the shadow, and what the shadow has counted.",
        tag=TAG,
        response=AccessRulesSerializer,
        example=RULE_SET,
        errors=(404,),
        etag=True,
    )
    def get(self, request: Any, rule_set_id: UUID) -> Response:
        """GET"""
        row = access_rules.fetch_rule_set(request.actor, rule_set_id)
        return detail(row, _data(row))


class AccessRulesVersions(ApiView):
    """access-rules/{id}/versions"""

    @operation(
        "access_rules_versions",
        summary="List versions of access rules",
        description="The newest first: who wrote it, when and why. Who enforced which is in the audit events.",
        tag=TAG,
        response=RuleVersionSerializer,
        example=VERSION,
        errors=(404,),
        listing=VERSIONS,
    )
    def get(self, request: Any, rule_set_id: UUID) -> Response:
        """GET"""
        row = access_rules.fetch_rule_set(request.actor, rule_set_id)
        return page(request, row.versions.all(), VERSIONS, RuleVersionSerializer)

    @operation(
        "access_rules_add_version",
        summary="Write a further version of access rules",
        description="A candidate: what is enforced stays until this one is enforced. Findings say what is probably not"
        " meant.",
        tag=TAG,
        request=NewRuleVersionInput,
        request_example={"rules": RULES, "reason": "Ticket 4711"},
        response=RuleVersionCreated,
        status=201,
        example={**VERSION, "idempotency_replayed": False},
        errors=(404,),
        if_match="optional",
        replay=Replay(AccessRuleVersion, _read_version),
    )
    def post(self, request: Any, rule_set_id: UUID) -> Response:
        """POST"""
        version = access_rules.add_version(
            request.actor, rule_set_id, expected_revision=request.expected, **request.data_in
        )
        return created(version, RuleVersionSerializer(version).data, location=f"{V1}/{rule_set_id}/versions")


class AccessRulesEnforce(ApiView):
    """access-rules/{id}/enforce"""

    @operation(
        "access_rules_enforce",
        summary="Enforce a version of access rules",
        description="From now on every use is judged by it, and what it refuses gets AccessDeniedException; `null` trusts"
        " AWS IAM again. Rules that would refuse everybody are 409 unless `even_if_it_locks_out`.",
        tag=TAG,
        request=EnforceVersionInput,
        request_example={"version": 3, "reason": "Ticket 4711"},
        response=RulesAndConfirmation,
        example={
            "access_rules": {**RULE_SET, "enforced": VERSION, "shadowed": None, "shadow": None},
            "confirmation": CONFIRMATION,
        },
        errors=(404, 409),
        if_match="optional",
    )
    def post(self, request: Any, rule_set_id: UUID) -> Response:
        """POST"""
        row, generation = access_rules.enforce_version(
            request.actor, rule_set_id, expected_revision=request.expected, **request.data_in
        )
        return _confirmed(row, generation)


class AccessRulesShadow(ApiView):
    """access-rules/{id}/shadow"""

    @operation(
        "access_rules_shadow",
        summary="Watch what a version would deny",
        description="Live traffic is judged by it beside what is enforced; what it would deny is counted, and nothing is"
        " denied. `null` ends that. Counting begins at nought.",
        tag=TAG,
        request=ShadowVersionInput,
        request_example={"version": 3, "reason": "Ticket 4711"},
        response=RulesAndConfirmation,
        example={"access_rules": RULE_SET, "confirmation": CONFIRMATION},
        errors=(404,),
        if_match="optional",
    )
    def post(self, request: Any, rule_set_id: UUID) -> Response:
        """POST"""
        row, generation = access_rules.shadow_version(
            request.actor, rule_set_id, expected_revision=request.expected, **request.data_in
        )
        return _confirmed(row, generation)


class AccessRulesDryRun(ApiView):
    """access-rules/{id}/dry-run"""

    @operation(
        "access_rules_dry_run",
        summary="Judge requests by a candidate",
        description="A written version, or rules not yet written, judged by the requests that the journal recorded from"
        " `since` until before `until`, or by the `requests` given. The newest 100,000 are judged one by one. Older ones, and"
        " those whose single records are gone (KEYSTEAD_XKS_REQUEST_DAYS), are judged by the journal's hourly sums, or left"
        " out when the rules look at kms_operation or the VPC, which the sums do not keep; `notes` says so. Changes nothing.",
        tag=TAG,
        request=DryRunInput,
        request_example={"version": 3, "since": "2026-11-15T00:00:00Z", "until": "2026-11-22T00:00:00Z"},
        response=DryRunSerializer,
        example=DRY_RUN,
        errors=(404,),
    )
    def post(self, request: Any, rule_set_id: UUID) -> Response:
        """POST"""
        given = request.data_in
        row = access_rules.fetch_rule_set(request.actor, rule_set_id)
        found = dry_runs.dry_run_rules(
            request.actor,
            row.pk,
            version=given.get("version"),
            rules=given.get("rules"),
            requests=_requests(row, given["requests"]) if "requests" in given else None,
            since=given.get("since"),
            until=given.get("until"),
        )
        return Response(DryRunSerializer(found).data)


def _requests(rule_set: AccessRuleSet, given: list[dict[str, Any]]) -> list[RecordedRequest]:
    now = timezone.now()
    own = rule_set.cloud_key_id or rule_set.store_id  # a store's id is no key: then there are no tags
    return [
        RecordedRequest(
            at=item.get("at", now).timestamp(),
            operation=item["operation"],
            key_id=str(item.get("cloud_key", own)),
            principal_arn=item["principal_arn"],
            kms_operation=item["kms_operation"],
            kms_via_service=item["kms_via_service"],
            source_vpc=item["source_vpc"],
            source_vpce=item["source_vpce"],
        )
        for item in given
    ]


def _confirmed(row: AccessRuleSet, generation: int) -> Response:
    return Response({"access_rules": _data(row), "confirmation": confirmation_data(confirm(generation))})
