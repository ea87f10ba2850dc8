"""What the doctor says: one finding for each thing that it looked at (docs/doctor.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad a finding is; error: AWS KMS cannot use the store so, or soon will not be able to."""

    OK = "ok"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


ORDER = (Severity.OK, Severity.INFO, Severity.WARN, Severity.ERROR)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what is so, why it matters, and what to do (empty when all is well)."""

    id: str
    severity: Severity
    what: str
    why: str
    do: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As the report keeps it."""
        return {**asdict(self), "severity": self.severity.value}


def worst(findings: Iterable[Finding]) -> Severity:
    """The worst severity among findings; ok for none."""
    return max((finding.severity for finding in findings), key=ORDER.index, default=Severity.OK)


# Why each thing is looked at; what is wrong with it and what to do stand beside the check.
WHY: dict[str, str] = {
    "dns": "AWS KMS finds the endpoint by this name.",
    "port": "AWS KMS calls port 443 of the endpoint and no other.",
    "tls-version": "AWS KMS speaks TLS 1.2 and 1.3; older versions are broken and let others read along.",
    "tls-ciphers": "AWS KMS offers four cipher suites, and connects when the endpoint takes one of them.",
    "tls-weak": "What is older than TLS 1.2 is broken; no proxy of keys should take it.",
    "chain": "AWS KMS trusts a published list of certificate authorities and no other"
    " (XKS_PROXY_INVALID_TLS_CONFIGURATION).",
    "name": "AWS KMS wants the certificate's common name to be the endpoint's host, or a wildcard for it.",
    "expiry": "With an ended certificate AWS KMS ends every connection, and no key of the store can be used.",
    "clock": "A signature is good for five minutes: a clock that is off makes every request a 401.",
    "credential": "AWS KMS signs each request with this store's credential.",
    "path": "AWS KMS calls the path that it was told when the key store was made.",
    "health": "AWS KMS asks for health when it connects and every few minutes; all UNAVAILABLE means not reachable.",
    "metadata": "AWS KMS asks for a key's metadata before it makes a KMS key with it.",
    "crypto": "This is what AWS KMS calls the endpoint for.",
    "latency": "AWS KMS gives up after 250 ms, connecting included, and advises at most 35 ms for a round trip.",
    "balancer": "Who ends TLS decides where certificates are changed, and whether client certificates can be checked.",
    "credential-age": "A secret that never changes is known by more people and files each year.",
    "nodes": "A node that is out of touch with the database answers 503 after its bound.",
    "blocked": "A blocked store refuses every request.",
    "aws-connection": "AWS KMS can use the keys of a store only while it is CONNECTED.",
    "time": "The doctor has a few seconds for everything, because somebody waits for it.",
}


def finding(id: str, severity: Severity, what: str, do: str = "") -> Finding:
    """A finding whose reason stands in the table."""
    return Finding(id, severity, what, WHY[id], do)
