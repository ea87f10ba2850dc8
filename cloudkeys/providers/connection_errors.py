"""Why AWS could not connect a key store: each ConnectionErrorCode with its cause, where to look, and its cure.

Codes: AWS KMS API, ConnectionErrorCodeType as botocore knows it (a test compares), those of CloudHSM key stores too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """What a code means, what to do, whether connecting again by itself can help, and where to look first."""

    cause: str
    cure: str
    permanent: bool = True
    check: str = ""
    """What the doctor and the administrator look at to prove the cause."""


def _cloudhsm(what: str, cure: str) -> Reason:
    return Reason(
        f"{what} This code is of CloudHSM key stores, which Keystead does not make.",
        cure,
        check="That the key store in AWS is of the type EXTERNAL_KEY_STORE, and is the one that this link names.",
    )


_REASONS: dict[str, Reason] = {
    "INVALID_CREDENTIALS": Reason(
        "AWS has no valid credential of this store.",
        "Give AWS a live credential of the store (update the key store), then connect.",
        check="The access key id that AWS shows for the key store is among the store's live credentials; the doctor's"
        " finding credential is ok; unsigned 401s do not grow while AWS connects.",
    ),
    "NETWORK_ERRORS": Reason(
        "AWS had trouble in its own network.",
        "Connect again; if it lasts, see the AWS Health Dashboard.",
        permanent=False,
        check="The AWS Health Dashboard of the region; the doctor's findings dns, port and health are ok from here.",
    ),
    "INTERNAL_ERROR": Reason(
        "AWS had an internal error.",
        "Connect again; if it lasts, ask AWS Support.",
        permanent=False,
        check="Whether it comes again a few minutes later; the doctor finds nothing wrong.",
    ),
    "XKS_PROXY_ACCESS_DENIED": Reason(
        "The XKS endpoint refused AWS's credential or its request (403).",
        "See that the store is not blocked, that AWS signs with a live credential, and that no rule refuses KMS.",
        check="The doctor's findings blocked, credential and health; a firewall or balancer before the endpoint that"
        " answers 403 itself; the store's allowed regions.",
    ),
    "XKS_PROXY_INVALID_CONFIGURATION": Reason(
        "The XKS endpoint does not know this path or this credential.",
        "Compare endpoint and path in AWS with those of the store; update the key store in AWS.",
        check="The doctor's finding path; endpoint and URI path in the AWS console, letter by letter, with those of the"
        " store; a balancer that rewrites paths.",
    ),
    "XKS_PROXY_INVALID_RESPONSE": Reason(
        "What answered is not an XKS proxy, or something in between altered its answer.",
        "See that the endpoint leads to Keystead's XKS port, and that no balancer or firewall answers instead.",
        check="The doctor's findings health and metadata; whose address the name resolves to; error pages of a balancer.",
    ),
    "XKS_PROXY_INVALID_TLS_CONFIGURATION": Reason(
        "AWS could not agree on TLS with the endpoint, or did not trust its certificate.",
        "Use a certificate of a public authority that AWS trusts, whose name is the endpoint's host, and TLS 1.2 or 1.3.",
        check="The doctor's findings tls-version, tls-ciphers, chain, name and expiry; whether the endpoint demands client"
        " certificates with the wrong roots.",
    ),
    "XKS_PROXY_NOT_REACHABLE": Reason(
        "AWS could not reach the endpoint, or it said that every key manager is unavailable.",
        "Check DNS, port 443, firewalls and that the XKS workers run; then connect again.",
        check="The doctor's findings dns, port and health; the same from outside your network; firewall rules for AWS's"
        " addresses; the nodes' health-check key.",
    ),
    "XKS_PROXY_TIMED_OUT": Reason(
        "The endpoint did not answer within AWS's 250 ms.",
        "Bring endpoint and AWS region closer together, or give the XKS nodes more room; then connect again.",
        permanent=False,
        check="The doctor's finding latency; p99 of keystead_xks_request_duration_seconds; the round trip from the region.",
    ),
    "XKS_VPC_ENDPOINT_SERVICE_INVALID_CONFIGURATION": Reason(
        "The VPC endpoint service does not meet AWS's requirements.",
        "It needs a network load balancer in two zones, a verified private DNS name equal to the endpoint, and "
        "cks.kms.<region>.amazonaws.com among its allowed principals.",
        check="In the VPC console: load balancer type and zones, target group TCP 443 and healthy, private DNS name verified"
        " and equal to the endpoint's host, acceptance not required.",
    ),
    "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND": Reason(
        "AWS does not find the VPC endpoint service.",
        "Check its name and region, and that cks.kms.<region>.amazonaws.com is among its allowed principals.",
        check="The service's name in the VPC console of the same region and account; its allowed principals.",
    ),
    "CLUSTER_NOT_FOUND": _cloudhsm("AWS does not find the CloudHSM cluster.", "Link the right key store."),
    "INSUFFICIENT_CLOUDHSM_HSMS": _cloudhsm(
        "The CloudHSM cluster has too few HSMs.", "Link the right key store."
    ),
    "INSUFFICIENT_FREE_ADDRESSES_IN_SUBNET": _cloudhsm(
        "A subnet of the CloudHSM cluster has no free address.", "Link the right key store."
    ),
    "SUBNET_NOT_FOUND": _cloudhsm("A subnet of the CloudHSM cluster is gone.", "Link the right key store."),
    "USER_LOCKED_OUT": _cloudhsm(
        "The kmsuser of the CloudHSM cluster is locked out.", "Link the right key store."
    ),
    "USER_LOGGED_IN": _cloudhsm(
        "The kmsuser of the CloudHSM cluster is logged in.", "Link the right key store."
    ),
    "USER_NOT_FOUND": _cloudhsm("The CloudHSM cluster has no kmsuser.", "Link the right key store."),
}


def cause_and_cure(code: str) -> Reason:
    """The reason for a ConnectionErrorCode; one that we do not know yet is told by its name."""
    return _REASONS.get(
        code,
        Reason(
            f"AWS says {code or 'nothing about why'}.",
            "See the connection error codes in the AWS KMS developer guide, then connect again.",
            check="What the AWS console says beside the key store.",
        ),
    )
