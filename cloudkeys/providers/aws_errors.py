"""What botocore raises, in our words: whether trying again can help, the cause, and the cure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore import exceptions

from cloudkeys.providers.base import ErrorCode, ProviderError

_C = ErrorCode
# Requests that carry a secret: AWS's text about a wrong field might repeat it, so it is not passed on.
_CARRY_SECRETS = frozenset({"CreateCustomKeyStore", "UpdateCustomKeyStore"})


@dataclass(frozen=True)
class _Rule:
    code: ErrorCode
    permanent: bool
    cause: str
    cure: str = ""
    quote: bool = True


_THROTTLED = _Rule(
    _C.THROTTLED, False, "AWS is throttling this account's requests.", "Keystead tries again, later."
)
_CREDENTIAL = _Rule(
    _C.INVALID_CREDENTIAL,
    True,
    "AWS does not accept the account's access key.",
    "Check that it is active in IAM and that its secret is right; enter it again under CSP accounts.",
    quote=False,
)
_EXPIRED = _Rule(_C.INVALID_CREDENTIAL, False, "The session of the assumed role has ended.", "", quote=False)
_DENIED = _Rule(
    _C.ACCESS_DENIED,
    True,
    "AWS denies {operation} to this account's credential.",
    "Give it the least-privilege policy that the CSP account's page shows, then retry.",
)
_ABSENT = _Rule(
    _C.NOT_FOUND, True, "AWS knows no such object ({operation}).", "Refresh, and look at it in AWS."
)
_TAKEN = _Rule(
    _C.ALREADY_EXISTS,
    True,
    "The name is taken in this account and region ({operation}).",
    "Choose another name.",
)
_URI_TAKEN = _Rule(
    _C.ALREADY_EXISTS,
    True,
    "Another external key store of this account and region has the same endpoint and path.",
    "Link to that key store, or give this one a path prefix of its own.",
)
_STATE = _Rule(
    _C.WRONG_STATE,
    True,
    "The KMS key's state in AWS does not allow {operation}.",
    "Refresh, and look at the KMS key in AWS.",
)
_STORE_STATE = _Rule(
    _C.WRONG_STATE,
    False,
    "The key store's connection state does not allow {operation}.",
    "Connect the key store.",
)
_LIMIT = _Rule(
    _C.LIMIT,
    True,
    "A quota of the AWS account is used up ({operation}).",
    "Remove what is unused, or ask AWS to raise the quota.",
)
_INVALID = _Rule(_C.INVALID_REQUEST, True, "AWS refuses the request {operation}.", "")
_FAULT = _Rule(
    _C.PROVIDER_FAULT, False, "AWS had an internal error in {operation}.", "Keystead tries again, later."
)
_XKS_UNREACHABLE = _Rule(
    _C.XKS_REFUSED,
    False,
    "AWS KMS cannot reach the XKS endpoint.",
    "Check DNS, port 443 and firewalls, and that the endpoint's certificate is one that AWS trusts.",
)
_XKS_ANSWER = _Rule(
    _C.XKS_REFUSED,
    True,
    "AWS KMS got an answer from the XKS endpoint that is not of the protocol.",
    "See that the endpoint leads to Keystead's XKS port, and that nothing in between answers instead.",
)
_XKS_CONFIGURATION = _Rule(
    _C.XKS_REFUSED,
    True,
    "AWS KMS and the XKS endpoint do not agree on path or configuration.",
    "Compare endpoint and path with those of the store.",
)
_XKS_CREDENTIAL = _Rule(
    _C.XKS_REFUSED,
    True,
    "The XKS endpoint does not accept the credential that AWS KMS was given.",
    "See that the credential is live and that the endpoint is this installation's.",
)
_XKS_KEY_UNKNOWN = _Rule(
    _C.XKS_REFUSED,
    False,
    "The XKS endpoint told AWS KMS that it does not know this external key.",
    "Look at the nodes: one that serves the endpoint may be behind.",
)
_XKS_KEY_WRONG = _Rule(
    _C.XKS_REFUSED,
    True,
    "AWS KMS wants an AES-256 key that is enabled and may encrypt and decrypt.",
    "Enable the CloudKey and permit both uses, then retry.",
)
_VPC = _Rule(
    _C.INVALID_REQUEST,
    True,
    "The VPC endpoint service does not fit ({operation}).",
    "It needs a verified private DNS name equal to the endpoint, and cks.kms.<region>.amazonaws.com as principal.",
)

_RULES: dict[str, _Rule] = {
    "Throttling": _THROTTLED,
    "ThrottlingException": _THROTTLED,
    "ThrottledException": _THROTTLED,
    "RequestLimitExceeded": _THROTTLED,
    "TooManyRequestsException": _THROTTLED,
    "SlowDown": _THROTTLED,
    "ConcurrentModification": _THROTTLED,
    "ConcurrentModificationException": _THROTTLED,
    "UnrecognizedClientException": _CREDENTIAL,
    "InvalidClientTokenId": _CREDENTIAL,
    "InvalidAccessKeyId": _CREDENTIAL,
    "SignatureDoesNotMatch": _CREDENTIAL,
    "InvalidSignatureException": _CREDENTIAL,
    "IncompleteSignature": _CREDENTIAL,
    "IncompleteSignatureException": _CREDENTIAL,
    "MissingAuthenticationToken": _CREDENTIAL,
    "MissingAuthenticationTokenException": _CREDENTIAL,
    "AuthFailure": _CREDENTIAL,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "AccessDenied": _DENIED,
    "AccessDeniedException": _DENIED,
    "NotAuthorized": _DENIED,
    "UnauthorizedOperation": _DENIED,
    "OptInRequired": _DENIED,
    "NotFoundException": _ABSENT,
    "CustomKeyStoreNotFoundException": _ABSENT,
    "NoSuchEntity": _ABSENT,
    "AlreadyExistsException": _TAKEN,
    "EntityAlreadyExists": _TAKEN,
    "CustomKeyStoreNameInUseException": _TAKEN,
    "XksProxyUriInUseException": _URI_TAKEN,
    "XksProxyUriEndpointInUseException": _URI_TAKEN,
    "XksProxyVpcEndpointServiceInUseException": _URI_TAKEN,
    "XksKeyAlreadyInUseException": _Rule(
        _C.EXTERNAL_KEY_IN_USE,
        True,
        "The external key already has a KMS key in this key store.",
        "Link the CloudKey to that KMS key.",
    ),
    "KMSInvalidStateException": _STATE,
    "DisabledException": _STATE,
    "ConflictException": _STATE,
    "CustomKeyStoreInvalidStateException": _STORE_STATE,
    "CustomKeyStoreHasCMKsException": _Rule(
        _C.NOT_EMPTY,
        True,
        "The key store still holds KMS keys; those that wait for deletion count too.",
        "Delete its KMS keys and wait for the end of their windows.",
    ),
    "LimitExceededException": _LIMIT,
    "LimitExceeded": _LIMIT,
    "XksProxyUriUnreachableException": _XKS_UNREACHABLE,
    "XksProxyInvalidResponseException": _XKS_ANSWER,
    "XksProxyInvalidConfigurationException": _XKS_CONFIGURATION,
    "XksProxyIncorrectAuthenticationCredentialException": _XKS_CREDENTIAL,
    "XksKeyNotFoundException": _XKS_KEY_UNKNOWN,
    "XksKeyInvalidConfigurationException": _XKS_KEY_WRONG,
    "XksProxyVpcEndpointServiceInvalidConfigurationException": _VPC,
    "XksProxyVpcEndpointServiceNotFoundException": _VPC,
    "KMSInternalException": _FAULT,
    "DependencyTimeoutException": _FAULT,
    "ServiceFailure": _FAULT,
    "ServiceFailureException": _FAULT,
    "InternalFailure": _FAULT,
    "InternalError": _FAULT,
    "ServiceUnavailable": _FAULT,
    "MalformedPolicyDocumentException": _Rule(
        _C.INVALID_REQUEST,
        True,
        "AWS refuses the key policy; most often an administrator or user in it no longer exists.",
        "Pick administrators and users again, then retry.",
    ),
}


def provider_error(error: exceptions.ClientError) -> ProviderError:
    """An answer of AWS that is an error."""
    said = error.response.get("Error", {})
    name = str(said.get("Code", "")).rsplit("#", 1)[-1]
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    rule = _RULES.get(name) or (_FAULT if status >= 500 else _THROTTLED if status == 429 else _INVALID)
    operation = str(error.operation_name)
    cause = rule.cause.format(operation=operation)
    secretive = operation in _CARRY_SECRETS and rule is _INVALID
    if rule.quote and not secretive and said.get("Message"):
        text = "".join(char for char in str(said["Message"]) if char.isprintable())[:300]
        cause = f"{cause} AWS says: {name}: {text}"
    elif name:
        cause = f"{cause} ({name})"
    return ProviderError(rule.code, cause, rule.cure, permanent=rule.permanent, provider_code=name)


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what botocore raises inside into ProviderError. `where` names the endpoint for a person."""
    try:
        yield
    except exceptions.ClientError as error:
        raise provider_error(error) from None
    except (
        exceptions.EndpointConnectionError,
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
    ) as error:
        # Their text may hold a signed URL; only the kind is told.
        raise ProviderError(
            _C.UNREACHABLE,
            f"{where} did not answer ({type(error).__name__}).",
            "Check this machine's way out (DNS, proxy, firewall); Keystead tries again by itself.",
            permanent=False,
        ) from None
    except (
        exceptions.ParamValidationError,
        exceptions.InvalidRegionError,
        exceptions.NoRegionError,
    ) as error:
        raise ProviderError(
            _C.INVALID_REQUEST,
            f"The request to {where} could not be formed ({type(error).__name__}).",
            "Check region and names.",
            permanent=True,
        ) from None
    except exceptions.BotoCoreError as error:
        raise ProviderError(
            _C.INVALID_REQUEST,
            f"The AWS SDK could not call {where} ({type(error).__name__}).",
            "Look in the worker's log.",
            permanent=True,
        ) from None
