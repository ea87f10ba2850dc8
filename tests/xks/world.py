"""The stores, keys and credentials that the data plane's tests use, and signed requests to them."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from typing import Any

from xks import wire

PREFIX = "/example/uri/path/prefix"
OTHER_PREFIX = "/other"
SECRET = b"PleaseReplaceThisWithSomeSecretOfLength43To64"
CREDENTIAL = wire.CredentialRecord("BETWEEN2TENAND3TENCHARACTERS", SECRET)
SECOND_CREDENTIAL = wire.CredentialRecord("SECONDCREDENTIALOFTHESTORE", b"s" * 43)
OTHER_CREDENTIAL = wire.CredentialRecord("CREDENTIALOFANOTHERSTORE", b"o" * 43)
NO_PREFIX_CREDENTIAL = wire.CredentialRecord("CREDENTIALWITHOUTPREFIX", b"n" * 43)
BLOCKED_CREDENTIAL = wire.CredentialRecord("CREDENTIALOFABLOCKEDSTORE", b"b" * 43)

STORES = [
    wire.StoreRecord("store-1", PREFIX, False, [CREDENTIAL, SECOND_CREDENTIAL], "health"),
    wire.StoreRecord("store-2", OTHER_PREFIX, False, [OTHER_CREDENTIAL], "health"),
    wire.StoreRecord("store-3", "", False, [NO_PREFIX_CREDENTIAL], "health"),
    wire.StoreRecord("store-4", "", True, [BLOCKED_CREDENTIAL], "health"),
]


def key_record(external_key_id: str, store_id: str = "store-1", **changes: Any) -> wire.KeyRecord:
    """Return an enabled key of one version, its material told by its ids, with ``changes``."""
    material = hashlib.sha256(f"{store_id}/{external_key_id}".encode()).digest()
    fields: dict[str, Any] = {
        "id": f"{store_id}/{external_key_id}",
        "store_id": store_id,
        "external_key_id": external_key_id,
        "state": "ENABLED",
        "blocked": False,
        "uses": ["ENCRYPT", "DECRYPT"],
        "current_version": 1,
        "versions": [wire.VersionRecord(1, material)],
    }
    return wire.KeyRecord(**{**fields, **changes})


KEYS = [
    key_record("foo"),
    key_record("encrypt_only_key", uses=["ENCRYPT"]),
    key_record("decrypt_only_key", uses=["DECRYPT"]),
    key_record("impotent_key", uses=[]),
    key_record("disabled_key", state="DISABLED"),
    key_record("pending_key", state="PENDING_DELETION"),
    key_record("blocked_key", blocked=True),
    key_record("disabled_impotent_key", state="DISABLED", uses=[]),
    key_record("destroyed_key", state="DESTROYED", versions=[], current_version=0),
    key_record("health"),
    *(key_record(name, store) for store in ("store-2", "store-3", "store-4") for name in ("foo", "health")),
]


def full_load(generation: int = 1, **changes: Any) -> list[wire.Delta]:
    """Return everything above as one change."""
    content: dict[str, Any] = {"stores": STORES, "keys": KEYS, **changes}
    return list(wire.slice_delta(generation, full=True, **content))


def lease(generation: int = 1, valid_for_s: float = 60.0, **changes: Any) -> wire.Lease:
    """Return a lease issued now."""
    return wire.Lease(generation, valid_for_s, wire.boot_clock(), **changes)


REQUEST_METADATA = {
    "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
    "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "kmsOperation": "Encrypt",
    "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    "kmsViaService": "ebs",
}


def b64(data: bytes) -> str:
    """Return standard base64."""
    return b64encode(data).decode()


def encrypt_body(
    plaintext: bytes = b"Hello World!", aad: bytes | None = None, **fields: Any
) -> dict[str, Any]:
    """Return the JSON of an Encrypt request; a field of None is left out."""
    body = {
        "requestMetadata": REQUEST_METADATA,
        "plaintext": b64(plaintext),
        "encryptionAlgorithm": "AES_GCM",
        "additionalAuthenticatedData": None if aad is None else b64(aad),
        **fields,
    }
    return {name: value for name, value in body.items() if value is not None}


def decrypt_body(encrypted: dict[str, Any], aad: bytes | None = None, **fields: Any) -> dict[str, Any]:
    """Return the JSON of the Decrypt request for an Encrypt answer; a field of None is left out."""
    names = ("ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag")
    body = {
        "requestMetadata": {**REQUEST_METADATA, "kmsOperation": "Decrypt"},
        "encryptionAlgorithm": "AES_GCM",
        **{name: encrypted[name] for name in names},
        "additionalAuthenticatedData": None if aad is None else b64(aad),
        **fields,
    }
    return {name: value for name, value in body.items() if value is not None}


# Well-formed, and not from any key of ours.
FOREIGN_ANSWER = {
    "ciphertext": b64(b"x" * 12),
    "ciphertextMetadata": b64(b"\x01\x00\x00\x00\x01" + bytes(12)),
    "initializationVector": b64(bytes(12)),
    "authenticationTag": b64(bytes(16)),
}


def metadata_body() -> dict[str, Any]:
    """Return the JSON of a GetKeyMetadata request."""
    return {"requestMetadata": {**REQUEST_METADATA, "kmsOperation": "DescribeKey"}}


def health_body() -> dict[str, Any]:
    """Return the JSON of a GetHealthStatus request."""
    return {"requestMetadata": {"kmsRequestId": "x", "kmsOperation": "KmsHealthCheck"}}


def path(operation: str, key: str = "foo", prefix: str = PREFIX) -> str:
    """Return the path of an operation."""
    tail = "health" if operation == "health" else f"keys/{key}/{operation}"
    return f"{prefix}/kms/xks/v1/{tail}"


def dumped(body: Any) -> bytes:
    """Return ``body`` as it is when it is bytes, else as JSON."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def sign(
    url_path: str,
    body: bytes,
    *,
    credential: wire.CredentialRecord = CREDENTIAL,
    at: datetime | None = None,
    host: str = "xks.keystead.test",
    region: str = "us-east-1",
    signed: dict[str, str] | None = None,
    comma: str = ", ",
    method: str = "POST",
) -> dict[str, str]:
    """Return the headers of a signed request, host apart; ``signed`` are further headers to sign.

    Written from AWS's description apart from the code under test, which is compared with botocore
    and AWS's published examples besides.
    """
    amz_date = (at or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    to_sign = {"host": host, "x-amz-date": amz_date, **(signed or {})}
    names = ";".join(sorted(to_sign))
    lines = "".join(f"{name}:{to_sign[name]}\n" for name in sorted(to_sign))
    canonical = f"{method}\n{url_path}\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{amz_date[:8]}/{region}/kms-xks-proxy/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + credential.secret
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return {
        "x-amz-date": amz_date,
        "authorization": f"AWS4-HMAC-SHA256 Credential={credential.access_key_id}/{scope}{comma}"
        f"SignedHeaders={names}{comma}Signature={signature}",
        **(signed or {}),
    }


def decoded(answer: dict[str, Any]) -> dict[str, bytes]:
    """Return an Encrypt answer's fields as bytes."""
    return {name: b64decode(value, validate=True) for name, value in answer.items()}
