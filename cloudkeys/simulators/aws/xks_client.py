"""KMS's side of the XKS Proxy API 1.0: signs, calls, and judges what an external key store proxy answers.

The requestMetadata is what AWS sends: health carries kmsRequestId and kmsOperation only, metadata adds the principal,
encrypt and decrypt add kmsKeyArn and, when a service calls on somebody's behalf, kmsViaService.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloudkeys.simulators.aws.auth_keys import ALGORITHM, signing_key
from cloudkeys.simulators.aws.xks_transport import Transport, TransportError

SIGNED_HEADERS = "host;x-amz-date"
SERVICE = "kms-xks-proxy"
MAX_METADATA_BYTES = 20


class XksError(Exception):
    """What went wrong between KMS and a proxy.

    kind: ``timeout``, ``unreachable``, ``tls``, ``invalid_response`` (from the network or an answer that is not of
    the protocol), ``unavailable`` (all members of the key manager are), or ``error`` (the proxy answered an error:
    ``name`` is its errorName, ``status`` the HTTP status).
    """

    def __init__(self, kind: str, message: str, name: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.name = name
        self.status = status


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a store's proxy is and how KMS proves itself to it. ``endpoint`` is ``https://<host>``, without a port."""

    endpoint: str
    path: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str

    @property
    def host(self) -> str:
        return self.endpoint.removeprefix("https://")


@dataclass(frozen=True, slots=True)
class Origin:
    """On whose behalf KMS calls: the members of requestMetadata."""

    request_id: str
    operation: str
    principal_arn: str | None = None
    key_arn: str | None = None
    via_service: str | None = None

    def document(self) -> dict[str, str]:
        members = {
            "awsPrincipalArn": self.principal_arn,
            "kmsOperation": self.operation,
            "kmsRequestId": self.request_id,
            "kmsKeyArn": self.key_arn,
            "kmsViaService": self.via_service,
        }
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ExternalKey:
    """What ``metadata`` says of an external key."""

    key_spec: str
    key_usage: tuple[str, ...]
    key_status: str


@dataclass(frozen=True, slots=True)
class ExternalCiphertext:
    """What ``encrypt`` gave: all four parts are needed to decrypt."""

    metadata: bytes
    initialization_vector: bytes
    tag: bytes
    ciphertext: bytes


class XksClient:
    """Calls proxies over one pool of connections."""

    def __init__(
        self,
        connect_to: Mapping[str, tuple[str, int]],
        ca_file: Path | None,
        timeout_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._transport = Transport(connect_to, ca_file, timeout_s)
        self._clock = clock

    def close(self) -> None:
        """Close the kept connections."""
        self._transport.close()

    def knows(self, proxy: Proxy) -> bool:
        """Whether the proxy's host is one that the simulator can reach at all."""
        return self._transport.knows(proxy.host)

    def health(self, proxy: Proxy, origin: Origin) -> None:
        """GetHealthStatus. Raises XksError; of kind ``unavailable`` when no member can serve."""
        answer = self._call(proxy, "/health", {"requestMetadata": origin.document()})
        fleet = answer.get("ekmFleetDetails")
        texts = ("xksProxyVendor", "xksProxyModel", "ekmVendor")
        size = answer.get("xksProxyFleetSize")
        if any(not isinstance(answer.get(name), str) for name in texts):
            raise _malformed("health lacks one of " + ", ".join(texts))
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise _malformed("xksProxyFleetSize is not a number above 0")
        if not isinstance(fleet, list) or not 1 <= len(fleet) <= 10:
            raise _malformed("ekmFleetDetails is not a list of 1 to 10 members")
        states = {member.get("healthStatus") if isinstance(member, dict) else None for member in fleet}
        if not states <= {"ACTIVE", "DEGRADED", "UNAVAILABLE"}:
            raise _malformed("a healthStatus is none of ACTIVE, DEGRADED, UNAVAILABLE")
        if states == {"UNAVAILABLE"}:
            raise XksError("unavailable", "all external key manager instances are unavailable")

    def metadata(self, proxy: Proxy, key_id: str, origin: Origin) -> ExternalKey:
        """GetKeyMetadata. Raises XksError."""
        answer = self._call(proxy, f"/keys/{key_id}/metadata", {"requestMetadata": origin.document()})
        spec, usage, status = answer.get("keySpec"), answer.get("keyUsage"), answer.get("keyStatus")
        if not isinstance(spec, str) or not isinstance(status, str):
            raise _malformed("keySpec or keyStatus is not text")
        if not isinstance(usage, list) or len(usage) > 10 or any(not isinstance(use, str) for use in usage):
            raise _malformed("keyUsage is not a list of 10 values at most")
        return ExternalKey(spec, tuple(usage), status)

    def encrypt(
        self, proxy: Proxy, key_id: str, plaintext: bytes, associated_data: bytes, origin: Origin
    ) -> ExternalCiphertext:
        """Encrypt, with the data integrity value asked for and checked. Raises XksError."""
        request: dict[str, Any] = {
            "requestMetadata": origin.document(),
            "plaintext": _encode(plaintext),
            "encryptionAlgorithm": "AES_GCM",
            "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
        }
        if associated_data:
            request["additionalAuthenticatedData"] = _encode(associated_data)
        answer = self._call(proxy, f"/keys/{key_id}/encrypt", request)
        metadata = _decode(answer, "ciphertextMetadata") if "ciphertextMetadata" in answer else b""
        parts = ExternalCiphertext(
            metadata,
            _decode(answer, "initializationVector"),
            _decode(answer, "authenticationTag"),
            _decode(answer, "ciphertext"),
        )
        if len(metadata) > MAX_METADATA_BYTES or len(parts.tag) != 16:
            raise _malformed("ciphertextMetadata or authenticationTag has a wrong length")
        if len(parts.initialization_vector) not in (12, 16) or not parts.ciphertext:
            raise _malformed("initializationVector or ciphertext has a wrong length")
        covered = associated_data + metadata + parts.initialization_vector + parts.ciphertext + parts.tag
        value = _decode(answer, "ciphertextDataIntegrityValue")
        if not hmac.compare_digest(value, hashlib.sha256(covered).digest()):
            raise _malformed("ciphertextDataIntegrityValue is not that of the ciphertext")
        return parts

    def decrypt(
        self, proxy: Proxy, key_id: str, parts: ExternalCiphertext, associated_data: bytes, origin: Origin
    ) -> bytes:
        """Decrypt. Raises XksError."""
        request: dict[str, Any] = {
            "requestMetadata": origin.document(),
            "ciphertext": _encode(parts.ciphertext),
            "encryptionAlgorithm": "AES_GCM",
            "initializationVector": _encode(parts.initialization_vector),
            "authenticationTag": _encode(parts.tag),
        }
        if parts.metadata:
            request["ciphertextMetadata"] = _encode(parts.metadata)
        if associated_data:
            request["additionalAuthenticatedData"] = _encode(associated_data)
        return _decode(self._call(proxy, f"/keys/{key_id}/decrypt", request), "plaintext")

    def _call(self, proxy: Proxy, suffix: str, document: Mapping[str, Any]) -> dict[str, Any]:
        body = json.dumps(document, separators=(",", ":")).encode()
        path = proxy.path + suffix
        try:
            answer = self._transport.post(proxy.host, path, self._headers(proxy, path, body), body)
        except TransportError as error:
            raise XksError(error.kind, str(error)) from None
        try:
            content = json.loads(answer.body)
        except (ValueError, RecursionError):
            raise _malformed(f"the body of an HTTP {answer.status} answer is not JSON") from None
        if not isinstance(content, dict):
            raise _malformed("the body is not a JSON object")
        if answer.status == 200:
            return content
        name, message = content.get("errorName"), content.get("errorMessage", "")
        if not isinstance(name, str) or not isinstance(message, str):
            raise _malformed(f"an HTTP {answer.status} answer has no errorName")
        raise XksError("error", message, name, answer.status)

    def _headers(self, proxy: Proxy, path: str, body: bytes) -> dict[str, str]:
        timestamp = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{timestamp[:8]}/{proxy.region}/{SERVICE}/aws4_request"
        digest = hashlib.sha256(body).hexdigest()
        canonical = f"POST\n{path}\n\nhost:{proxy.host}\nx-amz-date:{timestamp}\n\n{SIGNED_HEADERS}\n{digest}"
        text = f"{ALGORITHM}\n{timestamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = signing_key(proxy.secret_access_key, timestamp[:8], proxy.region, SERVICE)
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        credential = f"{proxy.access_key_id}/{scope}"
        return {
            "Host": proxy.host,
            "Content-Type": "application/json",
            "X-Amz-Date": timestamp,
            "Authorization": (
                f"{ALGORITHM} Credential={credential}, SignedHeaders={SIGNED_HEADERS}, Signature={signature}"
            ),
        }


def _malformed(what: str) -> XksError:
    return XksError("invalid_response", what)


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decode(answer: Mapping[str, Any], name: str) -> bytes:
    value = answer.get(name)
    if not isinstance(value, str):
        raise _malformed(f"{name} is missing")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed(f"{name} is not base64") from None
