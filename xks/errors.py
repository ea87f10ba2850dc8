"""The errors that an XKS endpoint may answer with, and their one way onto the wire.

Statuses and names are those of the AWS XKS proxy API specification, "Error codes".  Verification
raises one of these; whatever else is raised while answering is a fault of ours, answered as
:class:`InternalException`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

MAX_MESSAGE_CHARACTERS = 511
"""The specification wants errorMessage shorter than 512 characters."""


class XksError(Exception):
    """A refusal that KMS is to be told of.

    The message goes to the caller, and from there into the customer's CloudWatch logs: it must not
    hold a secret, payload or key.
    """

    status: ClassVar[int]
    """HTTP status."""
    name: ClassVar[str]
    """errorName of the answer, by which KMS decides what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ValidationException(XksError):
    """A required field is missing or has the wrong type or encoding, or the body is not JSON."""

    status = 400
    name = "ValidationException"


class InvalidStateException(XksError):
    """The key or its store is disabled, blocked or about to be deleted."""

    status = 400
    name = "InvalidStateException"


class InvalidCiphertextException(XksError):
    """What was given to decrypt is not, in every part, what encrypt once answered."""

    status = 400
    name = "InvalidCiphertextException"


class InvalidKeyUsageException(XksError):
    """The key is not permitted this operation."""

    status = 400
    name = "InvalidKeyUsageException"


class AuthenticationFailedException(XksError):
    """The signature is missing, malformed or wrong, or its credential is not one of this store."""

    status = 401
    name = "AuthenticationFailedException"


class AccessDeniedException(XksError):
    """The owner's access rules do not allow this use."""

    status = 403
    name = "AccessDeniedException"


class KeyNotFoundException(XksError):
    """The store has no such external key, or it has been destroyed."""

    status = 404
    name = "KeyNotFoundException"


class InvalidUriPathException(XksError):
    """The path is not one of the protocol under a prefix that is served here."""

    status = 404
    name = "InvalidUriPathException"


class MethodNotAllowed(XksError):
    """The path is right, the method is not.

    The specification asks for 405 and gives no errorName; this one is the nearest of those it has.
    """

    status = 405
    name = "UnsupportedOperationException"


class ThrottlingException(XksError):
    """The caller sends more than was agreed."""

    status = 429
    name = "ThrottlingException"


class InternalException(XksError):
    """A fault of ours."""

    status = 500
    name = "InternalException"


class UnsupportedOperationException(XksError):
    """Above our maximum sizes, or another algorithm than the one there is."""

    status = 501
    name = "UnsupportedOperationException"


class DependencyTimeoutException(XksError):
    """What is needed to answer was not there in time, or what we know is too old to act on."""

    status = 503
    name = "DependencyTimeoutException"


def printable(text: str) -> str:
    """Return ``text`` as fewer than 512 printable ASCII characters, as errorMessage must be."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:MAX_MESSAGE_CHARACTERS])


def error_body(error: XksError) -> bytes:
    """Return the JSON body for ``error``."""
    return msgspec.json.encode({"errorName": error.name, "errorMessage": printable(error.message)})
