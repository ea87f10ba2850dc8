"""Rows of the control side of the XKS endpoint; the data plane never loads them."""

from xks.models.certificates import EndpointCertificate, EndpointTls
from xks.models.doctor import DoctorReport
from xks.models.journal import AuditKey, AuditSeal, JournalChain
from xks.models.limits import StoreLimits
from xks.models.requests import AuditIntegrity, RequestStore, StreamPosition, Traffic, XksRequest
from xks.models.rules import AccessRuleSet, AccessRuleVersion, ShadowTally
from xks.models.usage import JournalShipment, UsageHour

__all__ = [
    "AccessRuleSet",
    "AccessRuleVersion",
    "AuditIntegrity",
    "AuditKey",
    "AuditSeal",
    "DoctorReport",
    "EndpointCertificate",
    "EndpointTls",
    "JournalChain",
    "JournalShipment",
    "RequestStore",
    "ShadowTally",
    "StoreLimits",
    "StreamPosition",
    "Traffic",
    "UsageHour",
    "XksRequest",
]
