"""Cryptographic operations: Encrypt, Decrypt, ReEncrypt, data keys, random bytes.

A key of an external key store encrypts twice, as AWS does: first under material of its own (AES-256-GCM, bound to
the key's ARN and the encryption context), then through the store's proxy under the external key.

A ciphertext blob names the region's key that made it:
    5 bytes 01 02 02 00 78 (what AWS's own blobs begin with) | kind: 1 own material, 2 twice | 16 bytes key id | rest
    rest of kind 1: nonce (12), ciphertext, tag (16)
    rest of kind 2: ciphertextMetadata, IV and tag of the proxy, each after one byte of length, then its ciphertext,
    whose plaintext is the rest of kind 1.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloudkeys.simulators.aws import kms_keys
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Caller, Simulator
from cloudkeys.simulators.aws.kms_access import authorize_account, authorize_key, refuse_unusable, unsupported
from cloudkeys.simulators.aws.kms_hosts import proxy_for_use
from cloudkeys.simulators.aws.kms_state import Key, canonical_context, find_key, resolve_key, store_of
from cloudkeys.simulators.aws.kms_stores import connection_error_code
from cloudkeys.simulators.aws.xks_client import ExternalCiphertext, Origin, XksError

MAGIC = bytes.fromhex("0102020078")
OWN, TWICE = 1, 2
KEY_BYTES = {"AES_256": 32, "AES_128": 16}
MAX_CONTEXT_BYTES = 8192


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key in clear and encrypted, and the ARN of the KMS key that encrypted it."""

    plaintext: bytes = field(repr=False)
    ciphertext_blob: bytes
    key_arn: str


@dataclass(frozen=True, slots=True)
class Decrypted:
    """What a ciphertext held, and the ARN of the KMS key that opened it."""

    plaintext: bytes = field(repr=False)
    key_arn: str


@dataclass(frozen=True, slots=True)
class _Call:
    """On whose behalf one cryptographic operation runs."""

    caller: Caller
    region: str
    operation: str
    request_id: str


# --- what S3 calls ------------------------------------------------------------------------------------------------


def generate_data_key(
    sim: Simulator,
    caller: Caller,
    region: str,
    key_id: str,
    encryption_context: Mapping[str, str],
    *,
    via_service: str | None = None,
    number_of_bytes: int = 32,
    request_id: str | None = None,
) -> DataKey:
    """GenerateDataKey on behalf of ``caller``; ``via_service`` like ``s3.eu-west-1.amazonaws.com``.

    ``key_id`` is an id, ARN or alias. Raises AwsError as KMS answers it: AccessDeniedException, DisabledException,
    KMSInvalidStateException (pending deletion, store not connected, whatever the proxy answered), NotFoundException...
    """
    call = _call(caller, region, "GenerateDataKey", request_id, via_service)
    return _generate(sim, call, key_id, dict(encryption_context), number_of_bytes)


def decrypt(
    sim: Simulator,
    caller: Caller,
    region: str,
    ciphertext_blob: bytes,
    encryption_context: Mapping[str, str],
    *,
    via_service: str | None = None,
    key_id: str | None = None,
    request_id: str | None = None,
) -> Decrypted:
    """Decrypt on behalf of ``caller``. Raises AwsError as KMS answers it."""
    call = _call(caller, region, "Decrypt", request_id, via_service)
    return _open(sim, call, "Decrypt", ciphertext_blob, dict(encryption_context), key_id)


def _call(
    caller: Caller, region: str, operation: str, request_id: str | None, via_service: str | None
) -> _Call:
    if via_service is not None:
        caller = replace(caller, source=via_service)
    return _Call(caller, region, operation, request_id or str(uuid.uuid4()))


# --- the API ------------------------------------------------------------------------------------------------------


def _of(request: ApiRequest) -> _Call:
    return _Call(request.caller, request.region, request.operation, request.request_id)


def _check_request(request: ApiRequest, *algorithms: str) -> None:
    params = request.params
    if "Recipient" in params:
        raise unsupported("The simulator has no Nitro enclaves (Recipient).")
    for name in algorithms:
        if params.get(name, "SYMMETRIC_DEFAULT") != "SYMMETRIC_DEFAULT":
            raise AwsError(
                "InvalidKeyUsageException", f"{name} must be SYMMETRIC_DEFAULT for a symmetric key."
            )


def _check_dry_run(params: Mapping[str, Any]) -> None:
    if params.get("DryRun"):
        raise AwsError(
            "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.", 412
        )


def encrypt_operation(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """Encrypt."""
    params, call = request.params, _of(request)
    _check_request(request, "EncryptionAlgorithm")
    context = params.get("EncryptionContext", {})
    key = _usable_key(sim, call, "Encrypt", params["KeyId"], context)
    _check_dry_run(params)
    blob = _seal(sim, call, key, params["Plaintext"], context)
    return {"CiphertextBlob": blob, "KeyId": key.arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}


def decrypt_operation(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """Decrypt."""
    params = request.params
    _check_request(request, "EncryptionAlgorithm")
    if "CiphertextBlob" not in params:
        raise AwsError("ValidationException", "CiphertextBlob must be given.")
    context = params.get("EncryptionContext", {})
    opened = _open(
        sim,
        _of(request),
        "Decrypt",
        params["CiphertextBlob"],
        context,
        params.get("KeyId"),
        params.get("DryRun"),
    )
    return {
        "KeyId": opened.key_arn,
        "Plaintext": opened.plaintext,
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    }


def re_encrypt(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """ReEncrypt: decrypt under the source key, encrypt under the destination key."""
    params, call = request.params, _of(request)
    _check_request(request, "SourceEncryptionAlgorithm", "DestinationEncryptionAlgorithm")
    if "CiphertextBlob" not in params:
        raise AwsError("ValidationException", "CiphertextBlob must be given.")
    to_context = params.get("DestinationEncryptionContext", {})
    destination = _usable_key(sim, call, "ReEncryptTo", params["DestinationKeyId"], to_context)
    from_context = params.get("SourceEncryptionContext", {})
    opened = _open(
        sim,
        call,
        "ReEncryptFrom",
        params["CiphertextBlob"],
        from_context,
        params.get("SourceKeyId"),
        params.get("DryRun"),
    )
    return {
        "CiphertextBlob": _seal(sim, call, destination, opened.plaintext, to_context),
        "SourceKeyId": opened.key_arn,
        "KeyId": destination.arn,
        "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    }


def generate_data_key_operation(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """GenerateDataKey and GenerateDataKeyWithoutPlaintext."""
    params = request.params
    _check_request(request)
    if ("KeySpec" in params) == ("NumberOfBytes" in params):
        raise AwsError("ValidationException", "Please specify either number of bytes or key spec.")
    size = params["NumberOfBytes"] if "NumberOfBytes" in params else KEY_BYTES[params["KeySpec"]]
    data_key = _generate(
        sim, _of(request), params["KeyId"], params.get("EncryptionContext", {}), size, params.get("DryRun")
    )
    answer = {"CiphertextBlob": data_key.ciphertext_blob, "KeyId": data_key.key_arn}
    if request.operation == "GenerateDataKey":
        answer["Plaintext"] = data_key.plaintext
    return answer


def generate_random(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """GenerateRandom."""
    authorize_account(sim, request.caller, request.region, request.operation)
    _check_request(request)
    if "CustomKeyStoreId" in request.params:
        raise unsupported("GenerateRandom is not possible in an external key store.")
    if "NumberOfBytes" not in request.params:
        raise AwsError("ValidationException", "NumberOfBytes must be given.")
    return {"Plaintext": secrets.token_bytes(request.params["NumberOfBytes"])}


# --- the work -----------------------------------------------------------------------------------------------------


def _usable_key(sim: Simulator, call: _Call, action: str, key_id: str, context: dict[str, str]) -> Key:
    """The key when the caller may use it so and its state allows it. Raises AwsError."""
    if len(canonical_context(context)) > MAX_CONTEXT_BYTES:
        raise AwsError(
            "ValidationException", f"The encryption context is larger than {MAX_CONTEXT_BYTES} bytes."
        )
    if key_id.endswith("alias/aws/s3"):
        kms_keys.aws_managed_key(sim, call.caller.account_id, call.region, "s3")
    key, alias = resolve_key(sim, call.caller.account_id, call.region, key_id, alias_allowed=True)
    authorize_key(sim, call.caller, action, key, encryption_context=context, alias=alias)
    refuse_unusable(key)
    return key


def _generate(
    sim: Simulator,
    call: _Call,
    key_id: str,
    context: dict[str, str],
    size: int,
    dry_run: bool | None = None,
) -> DataKey:
    key = _usable_key(sim, call, call.operation, key_id, context)
    _check_dry_run({"DryRun": dry_run})
    plaintext = secrets.token_bytes(size)
    return DataKey(plaintext, _seal(sim, call, key, plaintext, context), key.arn)


def _origin(call: _Call, key: Key) -> Origin:
    return Origin(call.request_id, call.operation, call.caller.principal_arn, key.arn, call.caller.source)


def _own_associated_data(key: Key, context: dict[str, str]) -> bytes:
    return key.arn.encode() + b"\0" + canonical_context(context)


def _material(key: Key) -> AESGCM:
    if key.material is None:
        raise AwsError("KMSInvalidStateException", f"{key.arn} is pending import.")
    return AESGCM(key.material)


def _seal(sim: Simulator, call: _Call, key: Key, plaintext: bytes, context: dict[str, str]) -> bytes:
    nonce = secrets.token_bytes(12)
    inner = nonce + _material(key).encrypt(nonce, plaintext, _own_associated_data(key, context))
    head = uuid.UUID(key.key_id).bytes
    if key.store_id is None:
        return MAGIC + bytes([OWN]) + head + inner
    try:
        outer = sim.xks.encrypt(
            proxy_for_use(sim, store_of(sim, key)),
            str(key.xks_key_id),
            inner,
            canonical_context(context),
            _origin(call, key),
        )
    except XksError as error:
        raise _proxy_failed(error) from None
    parts = (outer.metadata, outer.initialization_vector, outer.tag)
    packed = b"".join(bytes([len(part)]) + part for part in parts)
    return MAGIC + bytes([TWICE]) + head + packed + outer.ciphertext


def _invalid_ciphertext() -> AwsError:
    return AwsError("InvalidCiphertextException", "")


def _open(
    sim: Simulator,
    call: _Call,
    action: str,
    blob: bytes,
    context: dict[str, str],
    key_id: str | None,
    dry_run: bool | None = None,
) -> Decrypted:
    if len(blob) < 22 or not blob.startswith(MAGIC) or blob[5] not in (OWN, TWICE):
        raise _invalid_ciphertext()
    key = find_key(sim, str(uuid.UUID(bytes=blob[6:22])))
    if key is None or key.region != call.region:
        raise AwsError(
            "AccessDeniedException",
            "The ciphertext refers to a customer master key that does not exist, does not exist in this region, "
            "or you are not allowed to access.",
        )
    if key_id is not None:
        named, _ = resolve_key(sim, call.caller.account_id, call.region, key_id, alias_allowed=True)
        if named.key_id != key.key_id:
            authorize_key(sim, call.caller, action, named, encryption_context=context)
            raise AwsError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
    key = _usable_key(sim, call, action, key_id or key.arn, context)
    _check_dry_run({"DryRun": dry_run})
    rest = blob[22:]
    if blob[5] == TWICE:
        if key.store_id is None:
            raise _invalid_ciphertext()
        try:
            rest = sim.xks.decrypt(
                proxy_for_use(sim, store_of(sim, key)),
                str(key.xks_key_id),
                _unpack(rest),
                canonical_context(context),
                _origin(call, key),
            )
        except XksError as error:
            raise _proxy_failed(error) from None
    if len(rest) < 28:
        raise _invalid_ciphertext()
    try:
        plaintext = _material(key).decrypt(rest[:12], rest[12:], _own_associated_data(key, context))
    except InvalidTag:
        raise _invalid_ciphertext() from None
    return Decrypted(plaintext, key.arn)


def _unpack(packed: bytes) -> ExternalCiphertext:
    parts, position = [], 0
    for _ in range(3):
        if position >= len(packed):
            raise _invalid_ciphertext()
        end = position + 1 + packed[position]
        parts.append(packed[position + 1 : end])
        position = end
    if position >= len(packed):
        raise _invalid_ciphertext()
    return ExternalCiphertext(parts[0], parts[1], parts[2], packed[position:])


# What AWS's own words for a proxy's errorName come down to; the exception is always the same ("Troubleshooting external
# key stores" in the KMS developer guide: cryptographic operations return KMSInvalidStateException for all of them).
_SAID = {
    "AccessDeniedException": "denied access to the external key",
    "AuthenticationFailedException": "could not authenticate the request",
    "InvalidCiphertextException": "said that the ciphertext or its additional authenticated data is not valid",
    "InvalidKeyUsageException": "said that the external key does not support the operation",
    "InvalidStateException": "said that the external key is not in a valid state",
    "InvalidUriPathException": "does not know the proxy URI path",
    "KeyNotFoundException": "could not find the external key",
    "ThrottlingException": "throttled the request",
    "DependencyTimeoutException": "timed out while it used its key manager",
    "UnsupportedOperationException": "does not support the operation",
    "ValidationException": "found the request not valid",
    "InternalException": "had an internal error",
}


def _proxy_failed(error: XksError) -> AwsError:
    if error.kind == "error":
        what = f"The external key store proxy {_SAID.get(error.name, 'answered an unknown error')}."
        return AwsError("KMSInvalidStateException", f"{what} ({error.name}: {error.message})")
    code = connection_error_code(error)
    return AwsError(
        "KMSInvalidStateException",
        f"AWS KMS could not use the external key store proxy ({code}): {error.message}.",
    )
