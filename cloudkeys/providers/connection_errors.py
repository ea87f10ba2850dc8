"""Why AWS could not connect a key store: each ConnectionErrorCode with its cause and its cure.

Codes: AWS KMS API reference, CustomKeyStoresListEntry, ConnectionErrorCode, those of external key stores.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """What a code means, what to do, and whether connecting again by itself can help."""

    cause: str
    cure: str
    permanent: bool = True


_REASONS: dict[str, Reason] = {
    "INVALID_CREDENTIALS": Reason(
        "AWS has no valid credential of this store.",
        "Give AWS a live credential of the store (update the key store), then connect.",
    ),
    "NETWORK_ERRORS": Reason(
        "AWS had trouble in its own network.",
        "Connect again; if it lasts, see the AWS Health Dashboard.",
        permanent=False,
    ),
    "INTERNAL_ERROR": Reason(
        "AWS had an internal error.", "Connect again; if it lasts, ask AWS Support.", permanent=False
    ),
    "XKS_PROXY_ACCESS_DENIED": Reason(
        "The XKS endpoint refused AWS's credential or its request (403).",
        "See that the store is not blocked, that AWS signs with a live credential, and that no rule refuses KMS.",
    ),
    "XKS_PROXY_INVALID_CONFIGURATION": Reason(
        "The XKS endpoint does not know this path or this credential.",
        "Compare endpoint and path in AWS with those of the store; update the key store in AWS.",
    ),
    "XKS_PROXY_INVALID_RESPONSE": Reason(
        "What answered is not an XKS proxy, or something in between altered its answer.",
        "See that the endpoint leads to Keystead's XKS port, and that no balancer or firewall answers instead.",
    ),
    "XKS_PROXY_INVALID_TLS_CONFIGURATION": Reason(
        "AWS could not agree on TLS with the endpoint, or did not trust its certificate.",
        "Use a certificate of a public authority that AWS trusts, whose name is the endpoint's host, and TLS 1.2 or 1.3.",
    ),
    "XKS_PROXY_NOT_REACHABLE": Reason(
        "AWS could not reach the endpoint, or it said that every key manager is unavailable.",
        "Check DNS, port 443, firewalls and that the XKS workers run; then connect again.",
    ),
    "XKS_PROXY_TIMED_OUT": Reason(
        "The endpoint did not answer within AWS's 250 ms.",
        "Bring endpoint and AWS region closer together, or give the XKS nodes more room; then connect again.",
        permanent=False,
    ),
    "XKS_VPC_ENDPOINT_SERVICE_INVALID_CONFIGURATION": Reason(
        "The VPC endpoint service does not meet AWS's requirements.",
        "It needs a network load balancer in two zones, a verified private DNS name equal to the endpoint, and "
        "cks.kms.<region>.amazonaws.com among its allowed principals.",
    ),
    "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND": Reason(
        "AWS does not find the VPC endpoint service.",
        "Check its name and region, and that cks.kms.<region>.amazonaws.com is among its allowed principals.",
    ),
}


def cause_and_cure(code: str) -> Reason:
    """The reason for a ConnectionErrorCode; one that we do not know yet is told by its name."""
    return _REASONS.get(
        code,
        Reason(
            f"AWS says {code or 'nothing about why'}.",
            "See the connection error codes in the AWS KMS developer guide, then connect again.",
        ),
    )
