"""The JSON bodies of requests: their fields, and how bytes become them.

Fields are named and required as in the XKS specification.  Unknown fields and unknown values of
kmsOperation are accepted, and the shape of ARNs and ids is never looked at.  A name given twice in
one object is refused: which of the two counts must not depend on who reads it.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from xks.errors import ValidationException


class RequestMetadata(msgspec.Struct, rename="camel", gc=False):
    """What every request says about the KMS call behind it; all that health has."""

    kms_request_id: str
    kms_operation: str


class CallerMetadata(RequestMetadata, rename="camel", gc=False, kw_only=True):
    """Adds who called KMS."""

    aws_principal_arn: str
    aws_source_vpc: str | None = None
    aws_source_vpce: str | None = None


class UseMetadata(CallerMetadata, rename="camel", gc=False, kw_only=True):
    """Adds the KMS key that is used."""

    kms_key_arn: str
    kms_via_service: str | None = None


class HealthBody(msgspec.Struct, rename="camel", gc=False):
    """Body of a GetHealthStatus request."""

    request_metadata: RequestMetadata


class MetadataBody(msgspec.Struct, rename="camel", gc=False):
    """Body of a GetKeyMetadata request."""

    request_metadata: CallerMetadata


class EncryptBody(msgspec.Struct, rename="camel", gc=False):
    """Body of an Encrypt request; binary fields are still base64."""

    request_metadata: UseMetadata
    plaintext: str
    encryption_algorithm: str
    additional_authenticated_data: str | None = None
    ciphertext_data_integrity_value_algorithm: str | None = None


class DecryptBody(msgspec.Struct, rename="camel", gc=False):
    """Body of a Decrypt request; binary fields are still base64."""

    request_metadata: UseMetadata
    ciphertext: str
    encryption_algorithm: str
    initialization_vector: str
    authentication_tag: str
    ciphertext_metadata: str | None = None
    additional_authenticated_data: str | None = None


Body = TypeVar("Body", HealthBody, MetadataBody, EncryptBody, DecryptBody)

_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (HealthBody, MetadataBody, EncryptBody, DecryptBody)
}


def decode_body(kind: type[Body], body: bytes) -> Body:
    """Return ``body`` as a ``kind``.

    Raises:
        ValidationException: not UTF-8, not JSON, nested too deep, a name twice in one object, or a
            required field missing or of the wrong type.
    """
    try:
        decoded: Body = _decoders[kind].decode(body)
    except msgspec.MsgspecError as error:
        # These messages name fields and offsets, never values.
        raise ValidationException(f"the request body is not valid: {error}") from None
    except RecursionError:
        raise ValidationException("the request body is nested too deep") from None
    if body.count(b'"') != _expected_quotes(decoded):
        _refuse_duplicates(body)
    return decoded


def _expected_quotes(decoded: HealthBody | MetadataBody | EncryptBody | DecryptBody) -> int:
    """Count the quotation marks of a body that says just what was decoded, and nothing else.

    A body with any other member has at least two more: so equality proves, for one scan of the
    bytes, that no name came twice.  KMS's own requests are such; others take the slow way.
    """
    metadata = decoded.request_metadata
    strings = 2  # kmsRequestId, kmsOperation
    if isinstance(metadata, CallerMetadata):
        strings += 1 + (metadata.aws_source_vpc is not None) + (metadata.aws_source_vpce is not None)
    if isinstance(metadata, UseMetadata):
        strings += 1 + (metadata.kms_via_service is not None)
    if isinstance(decoded, EncryptBody):
        strings += 2 + (decoded.additional_authenticated_data is not None)
        strings += decoded.ciphertext_data_integrity_value_algorithm is not None
    elif isinstance(decoded, DecryptBody):
        strings += 4 + (decoded.additional_authenticated_data is not None)
        strings += decoded.ciphertext_metadata is not None
    return 2 + 4 * strings  # the name requestMetadata, and name and value of each string


def _object(members: Sequence[tuple[str, Any]]) -> None:
    if len({name for name, _ in members}) != len(members):
        raise ValidationException("a name comes twice in one object of the request body")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _refuse_duplicates(body: bytes) -> None:
    try:
        json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            # Numbers mean nothing to us; converting them could cost a lot.
            parse_int=lambda text: None,
            parse_float=lambda text: None,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValidationException("the request body is nested too deep") from None
    except ValueError:
        raise ValidationException("the request body is not valid UTF-8 JSON") from None


def base64_field(name: str, value: str | None) -> bytes:
    """Return the bytes of a base64 field, none for an absent one.

    Standard alphabet, padded, nothing else in between, and no stray bits in the last character
    (RFC 4648, 3.5): one value has one spelling.

    Raises:
        ValidationException: it is not so encoded.
    """
    if not value:
        return b""
    try:
        decoded = binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        raise ValidationException(f"{name} is not standard base64") from None
    if value.endswith("==") and value[-3] not in "AQgw":
        raise ValidationException(f"{name} is not standard base64")
    if value.endswith("=") and value[-2] not in "=AEIMQUYcgkosw048":
        raise ValidationException(f"{name} is not standard base64")
    return decoded
