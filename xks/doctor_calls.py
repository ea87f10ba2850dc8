"""What the doctor asks the endpoint as AWS KMS would: signed requests with the store's own credential.

Health, metadata of the health-check key, and a few encrypts and decrypts with that key, over one connection as
AWS keeps one. Only to the endpoint that was looked at before, and only after its certificate proved right.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import socket
import ssl
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from vault.secret import Secret
from xks.doctor_findings import Finding, Severity, finding
from xks.doctor_tls import Place

CALL_S: Final = 1.5
MAX_ANSWER: Final = 64 * 1024
AWS_BUDGET_MS: Final = 250
ADVISED_MS: Final = 35
MAX_SKEW_S: Final = 300
NOTABLE_SKEW_S: Final = 30
AAD: Final = b"keystead doctor"


@dataclass(frozen=True)
class Caller:
    """Whom the doctor stands in for."""

    uri_path: str
    access_key_id: str
    secret: Secret
    region: str
    health_key: str


@dataclass
class Called:
    """What the calls brought."""

    findings: list[Finding] = field(default_factory=list)
    latency: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    date: str
    ms: float

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def error(self) -> str:
        said = self.json()
        name = said.get("errorName") if isinstance(said, dict) else None
        return f"{self.status} {str(name)[:64]}" if name else str(self.status)


class _Line:
    """One connection, kept alive as AWS KMS keeps its own."""

    def __init__(self, place: Place, caller: Caller, fingerprint: bytes, deadline: float) -> None:
        self._place, self._caller, self._fingerprint = place, caller, fingerprint
        self._context = _context()
        self._deadline = deadline
        self._connection: http.client.HTTPConnection | None = None

    def call(self, tail: str, body: dict[str, Any]) -> _Answer:
        """Send one signed request. Raises OSError, http.client.HTTPException."""
        path = f"{self._caller.uri_path}/{tail}"
        raw = json.dumps(body).encode()
        headers = self._signed(path, raw)
        began = time.perf_counter()
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._connection.request("POST", path, body=raw, headers=headers)
            response = self._connection.getresponse()
            answer = response.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        milliseconds = (time.perf_counter() - began) * 1000
        if response.will_close:
            self.close()
        return _Answer(response.status, answer, response.getheader("Date") or "", milliseconds)

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        limit = max(0.1, min(CALL_S, self._deadline - time.monotonic()))
        connection = http.client.HTTPConnection(self._place.host, self._place.port, timeout=limit)
        plain = socket.create_connection((self._place.address, self._place.port), timeout=limit)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = self._context.wrap_socket(plain, server_hostname=self._place.host)
        except BaseException:
            plain.close()
            raise
        shown = secured.getpeercert(binary_form=True) or b""
        if hashlib.sha256(shown).digest() != self._fingerprint:
            secured.close()
            raise ssl.SSLError("another certificate than a moment ago")
        connection.sock = secured
        return connection

    def _signed(self, path: str, raw: bytes) -> dict[str, str]:
        host = self._place.host
        request = AWSRequest("POST", f"https://{host}{path}", data=raw, headers={"Host": host})
        credentials = Credentials(self._caller.access_key_id, self._caller.secret.reveal_text())
        SigV4Auth(credentials, "kms-xks-proxy", self._caller.region).add_auth(request)
        return {**dict(request.headers.items()), "Content-Type": "application/json", "Host": host}


def call_endpoint(
    place: Place, caller: Caller, fingerprint: bytes, *, samples: int, deadline: float
) -> Called:
    """Ask everything. ``fingerprint``: SHA-256 of the certificate that was judged; another one gets no signature.

    ``deadline``: time.monotonic() after which nothing more is begun.
    """
    line = _Line(place, caller, fingerprint, deadline)
    called = Called()
    try:
        _ask_health(line, caller, called)
        if not any(f.severity is Severity.ERROR and f.id != "clock" for f in called.findings):
            _ask_key(line, caller, called, samples, deadline)
    finally:
        line.close()
    return called


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Not by name and authority: _connect accepts only the very certificate that was judged before.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _metadata(operation: str, **more: str) -> dict[str, Any]:
    return {"kmsRequestId": str(uuid.uuid4()), "kmsOperation": operation, **more}


_PRINCIPAL = {"awsPrincipalArn": "keystead doctor"}
_KEY_ARN = {"kmsKeyArn": "keystead doctor"}

_REFUSALS: dict[int, tuple[str, str, str]] = {
    401: (
        "credential",
        "The endpoint refused the store's own credential (401).",
        "See that the endpoint is this installation's, that clocks agree, and that no balancer rewrites Host or body.",
    ),
    404: (
        "path",
        "The endpoint does not know the path {path} (404).",
        "See that the endpoint is this installation's, and that no balancer rewrites paths.",
    ),
    400: (
        "health",
        "The endpoint refused the health check ({said}); a blocked store or vault does so.",
        "Unblock the store or the vault.",
    ),
    403: (
        "health",
        "Something before the endpoint refused the health check ({said}).",
        "Keystead exempts health from access rules: look at the balancer's or the firewall's own rules.",
    ),
    429: (
        "health",
        "The endpoint refused the health check because it has too much to do (429).",
        "Look at its rate limits and its load; add workers or nodes.",
    ),
    503: (
        "health",
        "The endpoint says that it cannot answer now ({said}).",
        "A node is out of touch with the database, or the balancer has no healthy node: see `keystead xks node list`.",
    ),
}


def _ask_health(line: _Line, caller: Caller, called: Called) -> None:
    try:
        answer = line.call("health", {"requestMetadata": _metadata("KmsHealthCheck")})
    except (OSError, http.client.HTTPException) as error:
        slow = isinstance(error, TimeoutError)
        called.findings.append(
            finding(
                "health",
                Severity.ERROR,
                f"The endpoint {f'did not answer within {CALL_S:g} s' if slow else 'hung up'}"
                f" ({type(error).__name__}).",
                "See the XKS workers' log, and what the balancer's log says of its backends.",
            )
        )
        return
    called.findings.append(_judge_clock(answer.date))
    if answer.status in _REFUSALS:
        id, what, do = _REFUSALS[answer.status]
        path = f"{caller.uri_path}/health"
        called.findings.append(finding(id, Severity.ERROR, what.format(path=path, said=answer.error), do))
        return
    if answer.status != 200:
        called.findings.append(
            finding(
                "health",
                Severity.ERROR,
                f"The endpoint answered the health check with {answer.error}.",
                "Look at the XKS workers' log; behind a balancer, see that it has a healthy node.",
            )
        )
        return
    health = _judge_health(answer.json())
    if health.severity is not Severity.ERROR or "no XKS proxy" not in health.what:
        called.findings += [
            finding("path", Severity.OK, f"{caller.uri_path} is served."),
            finding("credential", Severity.OK, f"{caller.access_key_id} is accepted."),
        ]
    called.findings.append(health)


def _judge_clock(date: str) -> Finding:
    said = email.utils.parsedate_to_datetime(date) if _is_date(date) else None
    if said is None:
        return finding(
            "clock", Severity.INFO, "The endpoint does not tell its time (no Date header).",
            "Compare its clock by hand: `date -u` there and here.",
        )  # fmt: skip
    skew = said.timestamp() - time.time()
    what = f"The endpoint's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's."
    cure = "Let both take their time from the same NTP servers (timedatectl, chronyc tracking)."
    if abs(skew) >= MAX_SKEW_S:
        return finding("clock", Severity.ERROR, what, cure)
    if abs(skew) >= NOTABLE_SKEW_S:
        return finding("clock", Severity.WARN, what, cure)
    return finding("clock", Severity.OK, "Clocks agree to the second, or nearly.")


def _is_date(text: str) -> bool:
    try:
        email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return False
    return True


def _judge_health(said: Any) -> Finding:
    try:
        states = [str(member["healthStatus"]) for member in said["ekmFleetDetails"]]
        fleet, vendor = int(said["xksProxyFleetSize"]), str(said["xksProxyVendor"])[:64]
    except (TypeError, KeyError, ValueError):
        return finding(
            "health",
            Severity.ERROR,
            "What answered at the endpoint is no XKS proxy.",
            "See that port 443 of the endpoint leads to Keystead's XKS port.",
        )
    if not states or fleet < 1:
        return finding(
            "health", Severity.ERROR, "The endpoint names no key manager behind it.", "Look at the XKS nodes."
        )
    bad = [state for state in states if state != "ACTIVE"]
    what = f"{vendor}, fleet of {fleet}: {len(states) - len(bad)} of {len(states)} key managers ACTIVE."
    do = (
        "See `keystead xks node list` and the nodes' logs; the health-check key of the store must be enabled."
    )
    if len(bad) == len(states) and all(state == "UNAVAILABLE" for state in states):
        return finding("health", Severity.ERROR, what, do)
    return finding("health", Severity.WARN if bad else Severity.OK, what, do if bad else "")


def _ask_key(line: _Line, caller: Caller, called: Called, samples: int, deadline: float) -> None:
    base = f"keys/{caller.health_key}"
    try:
        answer = line.call(f"{base}/metadata", {"requestMetadata": _metadata("DescribeKey", **_PRINCIPAL)})
        called.findings.append(_judge_metadata(answer))
        if answer.status != 200:
            return
        _measure(line, base, called, samples, deadline)
    except (OSError, http.client.HTTPException) as error:
        called.findings.append(
            finding(
                "crypto",
                Severity.ERROR,
                f"The endpoint stopped answering in the midst ({type(error).__name__}).",
                "See the XKS workers' log; a balancer may close connections too early.",
            )
        )


def _judge_metadata(answer: _Answer) -> Finding:
    said = answer.json()
    if answer.status != 200 or not isinstance(said, dict):
        return finding(
            "metadata",
            Severity.ERROR,
            f"The endpoint answered {answer.error} for the store's health-check key.",
            "403: an access rule refuses; write principal conditions that let the doctor pass, or leave it. 404: the node"
            " has not loaded the store yet, or the endpoint is another installation's.",
        )
    uses, status = said.get("keyUsage"), said.get("keyStatus")
    fits = said.get("keySpec") == "AES_256" and isinstance(uses, list) and {"ENCRYPT", "DECRYPT"} <= set(uses)
    if not fits or status != "ENABLED":
        return finding(
            "metadata",
            Severity.ERROR,
            f"The health-check key is {said.get('keySpec')}, {status}, for {uses}.",
            "It must be AES_256, ENABLED, for ENCRYPT and DECRYPT: enable it (`keystead cloud-key enable`).",
        )
    return finding(
        "metadata", Severity.OK, "The health-check key is AES_256, enabled, to encrypt and decrypt."
    )


def _measure(line: _Line, base: str, called: Called, samples: int, deadline: float) -> None:
    times: dict[str, list[float]] = {"encrypt": [], "decrypt": []}
    for _ in range(samples):
        if time.monotonic() > deadline:
            break
        plaintext = os.urandom(32)
        asked = {"encryptionAlgorithm": "AES_GCM", "additionalAuthenticatedData": _b64(AAD)}
        sealed = line.call(
            f"{base}/encrypt",
            {
                "requestMetadata": _metadata("Encrypt", **_PRINCIPAL, **_KEY_ARN),
                "plaintext": _b64(plaintext),
                "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
                **asked,
            },
        )
        times["encrypt"].append(sealed.ms)
        fields = sealed.json()
        if sealed.status != 200 or not isinstance(fields, dict):
            called.findings.append(_no_crypto("Encrypt", sealed))
            return
        names = ("ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag")
        opened = line.call(
            f"{base}/decrypt",
            {
                "requestMetadata": _metadata("Decrypt", **_PRINCIPAL, **_KEY_ARN),
                **{name: fields[name] for name in names if name in fields},
                **asked,
            },
        )
        times["decrypt"].append(opened.ms)
        said = opened.json()
        if opened.status != 200 or not isinstance(said, dict):
            called.findings.append(_no_crypto("Decrypt", opened))
            return
        if said.get("plaintext") != _b64(plaintext):
            called.findings.append(
                finding(
                    "crypto",
                    Severity.ERROR,
                    "What was encrypted did not decrypt to the same.",
                    "Stop using this endpoint and find out what answers there: this never happens with Keystead.",
                )
            )
            return
    if not times["decrypt"]:
        return
    called.findings.append(
        finding("crypto", Severity.OK, f"{len(times['decrypt'])} encrypts and decrypts came back right.")
    )
    for operation, measured in times.items():
        called.latency[operation] = distribution(measured)
    called.findings.append(_judge_latency(called.latency))


def _no_crypto(operation: str, answer: _Answer) -> Finding:
    return finding(
        "crypto",
        Severity.ERROR,
        f"{operation} with the health-check key was answered {answer.error}.",
        "403: an access rule refuses. 400: the store or the key is blocked or disabled. 500 and 503: see the nodes' logs.",
    )


def distribution(measured: Sequence[float]) -> dict[str, float]:
    """Samples and their quantiles, milliseconds."""
    ordered = sorted(measured)

    def quantile(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)

    return {
        "samples": len(ordered),
        "min_ms": round(ordered[0], 2),
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "max_ms": round(ordered[-1], 2),
    }


def _judge_latency(latency: dict[str, dict[str, float]]) -> Finding:
    typical = max(each["p50_ms"] for each in latency.values())
    tail = max(each["p99_ms"] for each in latency.values())
    what = "; ".join(
        f"{name.capitalize()} p50 {each['p50_ms']:g} ms, p99 {each['p99_ms']:g} ms"
        for name, each in latency.items()
    )
    what += f" over {latency['decrypt']['samples']:g} samples, from this machine."
    do = (
        "Measure from the AWS region, which is what counts (docs/topologies.md). Bring endpoint and region closer together,"
        " give the nodes more workers, or look at the balancer."
    )
    if tail > AWS_BUDGET_MS:
        return finding("latency", Severity.ERROR, what, do)
    if typical > ADVISED_MS:
        return finding("latency", Severity.WARN, what, do)
    return finding("latency", Severity.OK, what)
