"""Signed XKS requests, and the programs that send them: wrk, h2load, and an open loop of our own."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import os
import shutil
import ssl
import statistics
import subprocess
import sys
import uuid
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

Operation = Literal["encrypt", "decrypt", "health"]

AAD_BYTES = 64
DISTINCT = 1_000
"""Different requests that one run sends over and over, each for a key, request id and plaintext of its own."""
HERE = Path(__file__).parent
_numbers = itertools.count()


class ToolMissing(Exception):
    """A program that sends requests is not installed; the message names the package."""


@dataclass(frozen=True)
class Target:
    """An XKS proxy, one of its key stores, and keys in it. ``prefix`` is "" or "/a/b"."""

    name: str
    host: str
    port: int
    tls: bool
    prefix: str
    access_key_id: str
    secret: str
    keys: tuple[str, ...]

    @classmethod
    def from_text(cls, text: str) -> Target:
        """Read ``url,prefix,access key id,secret,key``. Raises ValueError."""
        url, prefix, access_key_id, secret, key = text.split(",")
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        if not parts.hostname or parts.scheme not in ("http", "https"):
            raise ValueError("the address begins with https:// or http://")
        return cls(
            name="peer",
            host=parts.hostname,
            port=parts.port or (443 if tls else 80),
            tls=tls,
            prefix=f"/{prefix.strip('/')}" if prefix.strip("/") else "",
            access_key_id=access_key_id,
            secret=secret,
            keys=(key,),
        )

    @property
    def authority(self) -> str:
        """What the Host header says."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    def path(self, operation: str, key: str = "") -> str:
        """Return the path of an operation."""
        tail = "health" if operation == "health" else f"keys/{key or self.keys[0]}/{operation}"
        return f"{self.prefix}/kms/xks/v1/{tail}"


@dataclass(frozen=True)
class Unsigned:
    """A request before it is signed: the same one can be signed anew when its signature grows old."""

    path: str
    body: bytes
    body_digest: str


@lru_cache(maxsize=16)
def _signing_key(secret: str, day: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (day, "us-east-1", "kms-xks-proxy", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def signed_headers(target: Target, request: Unsigned, at: datetime | None = None) -> dict[str, str]:
    """Return Authorization and X-Amz-Date, signed as KMS does: host and x-amz-date."""
    amz_date = (at or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    day = amz_date[:8]
    scope = f"{day}/us-east-1/kms-xks-proxy/aws4_request"
    canonical = (
        f"POST\n{request.path}\n\nhost:{target.authority}\nx-amz-date:{amz_date}\n\nhost;x-amz-date\n"
        f"{request.body_digest}"
    )
    text = f"AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(_signing_key(target.secret, day), text.encode(), "sha256").hex()
    return {
        "x-amz-date": amz_date,
        "authorization": f"AWS4-HMAC-SHA256 Credential={target.access_key_id}/{scope}, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}",
    }


def raw_request(target: Target, request: Unsigned, at: datetime | None = None) -> bytes:
    """Return the request as it goes over an HTTP/1.1 connection."""
    headers = {
        "host": target.authority,
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        **signed_headers(target, request, at),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {request.path} HTTP/1.1\r\n{head}\r\n".encode() + request.body


def _unsigned(path: str, body: dict[str, Any]) -> Unsigned:
    raw = json.dumps(body, separators=(",", ":")).encode()
    return Unsigned(path, raw, hashlib.sha256(raw).hexdigest())


def _metadata(operation: str) -> dict[str, str]:
    number = next(_numbers)
    return {
        "awsPrincipalArn": f"arn:aws:iam::111122223333:role/app-{number % 50}",
        "kmsKeyArn": f"arn:aws:kms:us-east-1:111122223333:key/{uuid.UUID(int=number % 64)}",
        "kmsOperation": operation.capitalize(),
        "kmsRequestId": str(uuid.uuid4()),
        "kmsViaService": "ebs",
    }


def _b64(data: bytes) -> str:
    return b64encode(data).decode()


def encrypt_request(target: Target, key: str, plaintext: bytes, aad: bytes) -> Unsigned:
    """Return an Encrypt with AAD that asks for a ciphertextDataIntegrityValue."""
    return _unsigned(
        target.path("encrypt", key),
        {
            "requestMetadata": _metadata("encrypt"),
            "additionalAuthenticatedData": _b64(aad),
            "plaintext": _b64(plaintext),
            "encryptionAlgorithm": "AES_GCM",
            "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
        },
    )


def requests_for(
    target: Target, operation: Operation, plaintext_bytes: int, count: int = DISTINCT
) -> list[Unsigned]:
    """Return different requests, over as many keys as there are; for Decrypt what the target just encrypted.

    Raises:
        RuntimeError: the target does not encrypt.
    """
    if operation == "health":
        body = {"requestMetadata": {"kmsRequestId": "x", "kmsOperation": "KmsHealthCheck"}}
        return [_unsigned(target.path("health"), body)]
    made = []
    connection = connect(target)
    # A few ciphertexts are made for Decrypt, and asked for again and again.
    for number in range(count if operation == "encrypt" else min(count, 200)):
        key = target.keys[number * 7919 % len(target.keys)]
        aad = os.urandom(AAD_BYTES)
        request = encrypt_request(target, key, os.urandom(plaintext_bytes), aad)
        if operation == "encrypt":
            made.append(request)
            continue
        status, answer = _ask(connection, target, request)
        if status != 200:
            raise RuntimeError(f"{target.name} answered {status} to Encrypt: {answer[:200]!r}")
        fields = json.loads(answer)
        fields.pop("ciphertextDataIntegrityValue", None)
        body = {
            "requestMetadata": _metadata("decrypt"),
            "additionalAuthenticatedData": _b64(aad),
            "encryptionAlgorithm": "AES_GCM",
            **fields,
        }
        made.append(_unsigned(target.path("decrypt", key), body))
    connection.close()
    return made


def tls_context() -> ssl.SSLContext:
    """Return a context that takes any certificate: what is measured is on this machine."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(target: Target) -> HTTPConnection:
    """Return a connection that is made at its first use."""
    if target.tls:
        return HTTPSConnection(target.host, target.port, context=tls_context(), timeout=10)
    return HTTPConnection(target.host, target.port, timeout=10)


def _ask(connection: HTTPConnection, target: Target, request: Unsigned) -> tuple[int, bytes]:
    headers = {"content-type": "application/json", **signed_headers(target, request)}
    connection.request("POST", request.path, request.body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def call(target: Target, operation: Operation) -> tuple[int, bytes]:
    """Send one request on a connection of its own; return status and body."""
    connection = connect(target)
    try:
        if operation == "health":
            request = requests_for(target, "health", 0)[0]
        else:
            request = encrypt_request(target, target.keys[0], b"x" * 32, b"a" * AAD_BYTES)
        return _ask(connection, target, request)
    finally:
        connection.close()


@dataclass(frozen=True)
class Run:
    """What one run saw: milliseconds, and errors of every kind (connections, time-outs, other statuses than 200)."""

    tool: str
    requests: int
    seconds: float
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    errors: int

    @classmethod
    def median(cls, runs: Iterable[Run]) -> Run:
        """Return one run in which every figure is the median of those given, errors and requests their sums."""
        all_runs = list(runs)
        figures = ("seconds", "requests_per_s", "p50_ms", "p99_ms", "p999_ms", "max_ms")
        return replace(
            all_runs[0],
            requests=sum(run.requests for run in all_runs),
            errors=sum(run.errors for run in all_runs),
            **{name: round(statistics.median(getattr(run, name) for run in all_runs), 3) for name in figures},
        )


def percentile(ordered: list[float], share: float) -> float:
    """Return the value below which that share lies; ``ordered`` is not empty."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def run_wrk(
    target: Target, requests: list[Unsigned], folder: Path, *, connections: int, seconds: float
) -> Run:
    """Send ``requests`` in turn over so many HTTP/1.1 connections, each as soon as the answer before has come."""
    raw = folder / "requests.bin"
    signed = [raw_request(target, request) for request in requests]
    raw.write_bytes(b"".join(len(item).to_bytes(4, "big") + item for item in signed))
    result = folder / "wrk.json"
    result.unlink(missing_ok=True)
    done = _run(
        [
            _tool("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "2s",
            "-s", str(HERE / "bench_xks.lua"), target.url, "--", str(raw), str(result),
        ]
    )  # fmt: skip
    if not result.exists():
        raise RuntimeError(f"wrk has left no result:\n{done}")
    told = json.loads(result.read_text())
    return Run(
        tool="wrk",
        requests=told["requests"],
        seconds=round(told["duration_us"] / 1e6, 3),
        requests_per_s=round(told["requests"] / told["duration_us"] * 1e6, 1),
        p50_ms=round(told["p50_us"] / 1000, 3),
        p99_ms=round(told["p99_us"] / 1000, 3),
        p999_ms=round(told["p999_us"] / 1000, 3),
        max_ms=round(told["max_us"] / 1000, 3),
        errors=told["errors"],
    )


def run_h2load(
    target: Target, request: Unsigned, folder: Path, *, connections: int, seconds: float, http2: bool
) -> Run:
    """Send one request over and over; on HTTP/2 each connection carries one at a time, too."""
    body, log = folder / "body.json", folder / "h2load.tsv"
    body.write_bytes(request.body)
    log.unlink(missing_ok=True)
    headers = {"content-type": "application/json", **signed_headers(target, request)}
    command = [_tool("h2load"), "-t1", f"-c{connections}", f"-D{max(1, round(seconds))}", f"-d{body}"]
    command += [f"--log-file={log}", *(f"-H{name}: {value}" for name, value in headers.items())]
    done = _run([*command, *([] if http2 else ["--h1"]), f"{target.url}{request.path}"])
    times: list[float] = []
    errors = 0
    for line in log.read_text().splitlines():
        _, status, microseconds = line.split("\t")
        if status == "200":
            times.append(int(microseconds) / 1000)
        else:
            errors += 1
    if not times:
        raise RuntimeError(f"h2load got no answer:\n{done}")
    times.sort()
    return Run(
        tool="h2load h2" if http2 else "h2load h1",
        requests=len(times) + errors,
        seconds=seconds,
        requests_per_s=round(len(times) / max(1, round(seconds)), 1),
        p50_ms=percentile(times, 0.5),
        p99_ms=percentile(times, 0.99),
        p999_ms=percentile(times, 0.999),
        max_ms=times[-1],
        errors=errors,
    )


def start_open_loop(
    target: Target, *, rate: float, seconds: float, connections: int
) -> subprocess.Popen[bytes]:
    """Begin an open loop (bench_xks_open.py) in a process of its own; it prints one JSON document at its end."""
    settings = {"rate": rate, "seconds": seconds, "connections": connections, "target": vars(target)}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "bench_xks_open.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    if process.stdin is not None:  # not as an argument: there is a secret in it
        process.stdin.write(json.dumps(settings).encode())
        process.stdin.close()
    return process


def resident_kib(pid: int) -> int:
    """Return a process's resident memory, 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)


def listening_pids(port: int) -> list[int]:
    """Return the processes of this machine that listen on a TCP port, as far as they may be looked at."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                links = {os.readlink(link) for link in (entry / "fd").iterdir()}
            except OSError:
                continue
            if links & inodes:
                found.append(int(entry.name))
    return found


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        package = {"wrk": "wrk", "h2load": "nghttp2-client"}[name]
        raise ToolMissing(f"{name} is not installed: apt-get install {package}")
    return path


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
