"""Server-side encryption of S3: SSE-S3 under a key of the simulator's own, SSE-KMS really through KMS.

Each object has a data key of its own and is encrypted with AES-256-GCM, its ARN as associated data. SSE-KMS
without bucket keys asks KMS once for each object, with the encryption context ``aws:s3:arn`` = the object's
ARN; with bucket keys that context is the bucket's ARN (User Guide, "Encryption context").
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cloudkeys.simulators.aws import bucket_keys, kms_crypto, kms_keys
from cloudkeys.simulators.aws.bucket_keys import BucketKey
from cloudkeys.simulators.aws.context import AwsError, Caller, Simulator
from cloudkeys.simulators.aws.s3_store import Bucket, StoredObject

MANAGED_KEY_ALIAS = "alias/aws/s3"
NONCE_SIZE = 12
OWN_KEY = "s3_own_key"
HEADER = "x-amz-server-side-encryption"
KEY_HEADER = f"{HEADER}-aws-kms-key-id"
CONTEXT_HEADER = f"{HEADER}-context"
BUCKET_KEY_HEADER = f"{HEADER}-bucket-key-enabled"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The encryption that a PutObject is to have. ``context`` is the caller's own part of the encryption
    context."""

    algorithm: str
    kms_key_id: str | None = None
    bucket_key: bool = False
    context: Mapping[str, str] = field(default_factory=dict)


def _encrypt(key: bytes, data: bytes, associated_data: str) -> bytes:
    nonce = secrets.token_bytes(NONCE_SIZE)
    return nonce + AESGCM(key).encrypt(nonce, data, associated_data.encode())


def _decrypt(key: bytes, blob: bytes, associated_data: str) -> bytes:
    return AESGCM(key).decrypt(blob[:NONCE_SIZE], blob[NONCE_SIZE:], associated_data.encode())


def _own_key(sim: Simulator) -> bytes:
    """The key under which SSE-S3 wraps data keys, made at the first use."""
    with sim.state.transaction():
        text = sim.state.get_value(OWN_KEY)
        if text is None:
            text = base64.b64encode(secrets.token_bytes(32)).decode()
            sim.state.set_value(OWN_KEY, text)
    return base64.b64decode(text)


def wanted_encryption(headers: Mapping[str, str], bucket: Bucket) -> Wanted:
    """What the headers of a PutObject ask for, else the bucket's default. Raises AwsError InvalidArgument
    and others."""
    if any(name.startswith(f"{HEADER}-customer-") for name in headers):
        raise AwsError("NotImplemented", "The AWS simulator does not support SSE-C.", 501)
    algorithm, key_id = headers.get(HEADER), headers.get(KEY_HEADER)
    bucket_key_text, default = headers.get(BUCKET_KEY_HEADER), bucket.encryption
    if bucket_key_text is not None and bucket_key_text.lower() not in ("true", "false"):
        raise AwsError("InvalidArgument", "The bucket-key-enabled value must be true or false.")
    if algorithm is None:
        if key_id is not None or CONTEXT_HEADER in headers:
            raise AwsError(
                "InvalidArgument",
                f"Server Side Encryption with AWS KMS managed key requires HTTP header {HEADER} : aws:kms",
            )
        algorithm, key_id = default.algorithm, default.kms_key_id
    if algorithm == "AES256":
        if headers.get(KEY_HEADER) is not None or CONTEXT_HEADER in headers:
            raise AwsError(
                "InvalidArgument", "Server Side Encryption with AWS KMS managed key was not asked for."
            )
        return Wanted("AES256")
    if algorithm != "aws:kms":
        if algorithm == "aws:kms:dsse":
            raise AwsError("NotImplemented", "The AWS simulator does not support aws:kms:dsse.", 501)
        raise AwsError(
            "InvalidEncryptionAlgorithmError", "The encryption request you specified is not valid."
        )
    bucket_key = default.bucket_key if bucket_key_text is None else bucket_key_text.lower() == "true"
    return Wanted("aws:kms", key_id, bucket_key, _context(headers.get(CONTEXT_HEADER)))


def _context(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    try:
        context = json.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        context = None
    if not isinstance(context, dict) or not all(isinstance(value, str) for value in context.values()):
        raise AwsError(
            "InvalidArgument", f"The header {CONTEXT_HEADER} must be base64 of a JSON object of strings."
        )
    return context


def from_kms(error: AwsError) -> AwsError:
    """An error of KMS as S3 tells it: AccessDenied, else the KMS code with the prefix ``KMS.``."""
    if error.code == "AccessDeniedException":
        return AwsError("AccessDenied", error.message, 403)
    if error.code == "ThrottlingException":
        return AwsError("SlowDown", "Please reduce your request rate.", 503)
    return AwsError(f"KMS.{error.code}", error.message, error.status if error.status >= 500 else 400)


def _generate(
    sim: Simulator, caller: Caller, bucket: Bucket, key_id: str, context: dict[str, str]
) -> BucketKey:
    try:
        made = kms_crypto.generate_data_key(
            sim, caller, bucket.region, key_id, context, via_service=f"s3.{bucket.region}.amazonaws.com"
        )
    except AwsError as error:
        raise from_kms(error) from error
    return BucketKey(made.plaintext, made.ciphertext_blob, made.key_arn)


def _unwrap(
    sim: Simulator, caller: Caller, bucket: Bucket, blob: bytes, context: dict[str, str]
) -> BucketKey:
    try:
        opened = kms_crypto.decrypt(
            sim, caller, bucket.region, blob, context, via_service=f"s3.{bucket.region}.amazonaws.com"
        )
    except AwsError as error:
        raise from_kms(error) from error
    return BucketKey(opened.plaintext, blob, opened.key_arn)


def seal(
    sim: Simulator, caller: Caller, bucket: Bucket, key: str, data: bytes, wanted: Wanted
) -> tuple[bytes, dict[str, Any]]:
    """Encrypt an object's bytes; returns the encrypted body and what ``open_body`` needs beside it."""
    arn = f"{bucket.arn}/{key}"
    record: dict[str, Any] = {"algorithm": wanted.algorithm}
    if wanted.algorithm == "AES256":
        data_key = secrets.token_bytes(32)
        record["data_key"] = base64.b64encode(_encrypt(_own_key(sim), data_key, arn)).decode()
        return _encrypt(data_key, data, arn), record
    key_id = wanted.kms_key_id or MANAGED_KEY_ALIAS
    if key_id == MANAGED_KEY_ALIAS:
        kms_keys.aws_managed_key(sim, caller.account_id, bucket.region, "s3")
    record["bucket_key"] = wanted.bucket_key
    record["context"] = {**wanted.context, "aws:s3:arn": bucket.arn if wanted.bucket_key else arn}
    if wanted.bucket_key:
        shared = bucket_keys.obtain(
            sim,
            bucket.name,
            caller,
            key_id,
            lambda: _generate(sim, caller, bucket, key_id, record["context"]),
        )
        data_key = secrets.token_bytes(32)
        record["data_key"] = base64.b64encode(_encrypt(shared.plaintext, data_key, arn)).decode()
    else:
        shared = _generate(sim, caller, bucket, key_id, record["context"])
        data_key = shared.plaintext
    record["kms_blob"] = base64.b64encode(shared.blob).decode()
    record["kms_key_arn"] = shared.kms_key_arn
    return _encrypt(data_key, data, arn), record


def open_body(sim: Simulator, caller: Caller, bucket: Bucket, stored: StoredObject, body: bytes) -> bytes:
    """Decrypt an object's bytes. Raises AwsError when KMS refuses the caller or the key."""
    arn, record = f"{bucket.arn}/{stored.key}", stored.encryption
    if record["algorithm"] == "AES256":
        data_key = _decrypt(_own_key(sim), base64.b64decode(record["data_key"]), arn)
        return _decrypt(data_key, body, arn)
    blob, context = base64.b64decode(record["kms_blob"]), dict(record["context"])

    def unwrap() -> BucketKey:
        return _unwrap(sim, caller, bucket, blob, context)

    if not record["bucket_key"]:
        return _decrypt(unwrap().plaintext, body, arn)
    shared = bucket_keys.obtain(sim, bucket.name, caller, blob, unwrap)
    data_key = _decrypt(shared.plaintext, base64.b64decode(record["data_key"]), arn)
    return _decrypt(data_key, body, arn)


def response_headers(stored: StoredObject) -> dict[str, str]:
    """The headers that tell how an object is encrypted."""
    record = stored.encryption
    headers = {HEADER: record["algorithm"]}
    if record["algorithm"] == "aws:kms":
        headers[KEY_HEADER] = record["kms_key_arn"]
        if record["bucket_key"]:
            headers[BUCKET_KEY_HEADER] = "true"
    return headers
