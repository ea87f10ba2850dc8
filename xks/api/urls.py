"""Addresses of this room's API."""

from __future__ import annotations

from django.urls import path

from xks.api import (
    access_rules,
    certificates,
    disable_proof,
    doctor,
    journals,
    limits,
    overview,
    requests,
    usage,
)

_V1 = "api/v1/"
_RULES = f"{_V1}access-rules/<uuid:rule_set_id>"

urlpatterns = [
    path(f"{_V1}attention", overview.Attention.as_view()),
    path(f"{_V1}overview", overview.Overview.as_view()),
    path(f"{_V1}certificates", certificates.CertificateList.as_view()),
    path(f"{_V1}certificates/check", certificates.CertificateCheck.as_view()),
    path(f"{_V1}certificates/requests", certificates.CertificateRequests.as_view()),
    path(f"{_V1}certificates/<uuid:certificate_id>", certificates.CertificateDetail.as_view()),
    path(f"{_V1}certificates/<uuid:certificate_id>/chain", certificates.CertificateChain.as_view()),
    path(f"{_V1}certificates/<uuid:certificate_id>/activate", certificates.CertificateActivate.as_view()),
    path(f"{_V1}xks-endpoint/tls", certificates.EndpointTlsDetail.as_view()),
    path(f"{_V1}access-rules", access_rules.AccessRulesList.as_view()),
    path(f"{_V1}access-rules/check", access_rules.AccessRulesCheck.as_view()),
    path(_RULES, access_rules.AccessRulesDetail.as_view()),
    path(f"{_RULES}/versions", access_rules.AccessRulesVersions.as_view()),
    path(f"{_RULES}/enforce", access_rules.AccessRulesEnforce.as_view()),
    path(f"{_RULES}/shadow", access_rules.AccessRulesShadow.as_view()),
    path(f"{_RULES}/dry-run", access_rules.AccessRulesDryRun.as_view()),
    path(f"{_V1}xks-requests", requests.XksRequestList.as_view()),
    path(f"{_V1}xks-traffic", requests.VaultTraffic.as_view()),
    path(f"{_V1}xks-key-stores/<uuid:store_id>/traffic", requests.StoreTraffic.as_view()),
    path(f"{_V1}nodes/journal", journals.JournalList.as_view()),
    path(f"{_V1}audit-integrity", journals.AuditIntegrityShow.as_view()),
    path(f"{_V1}cloud-keys/<uuid:key_id>/usage", usage.CloudKeyUsage.as_view()),
    path(f"{_V1}cloud-keys/<uuid:key_id>/disable-proof", disable_proof.DisableProof.as_view()),
    path(f"{_V1}xks-key-stores/<uuid:store_id>/doctor", doctor.StoreDoctor.as_view()),
    path(f"{_V1}xks-key-stores/<uuid:store_id>/limits", limits.StoreLimitsDetail.as_view()),
]
