"""S3's operations on objects: put, get, head, delete."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from cloudkeys.simulators.aws import access, s3_checksums, s3_encryption, s3_store
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, RawResponse, Simulator
from cloudkeys.simulators.aws.s3_store import Bucket, StoredObject
from cloudkeys.simulators.aws.s3_wire import Route, http_date

MAX_KEY_BYTES = 1024
MAX_METADATA_BYTES = 2048
METADATA_PREFIX = "x-amz-meta-"
KEPT_HEADERS = (
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
)
UNSUPPORTED_HEADERS = (
    "x-amz-copy-source", "x-amz-tagging", "x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold", "x-amz-website-redirect-location", "x-amz-write-offset-bytes",
    "x-amz-grant-full-control", "x-amz-grant-read", "x-amz-grant-read-acp", "x-amz-grant-write-acp",
)  # fmt: skip
RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")


def _kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a PutObject that come back on GET; aws-chunked is the transport's, not the object's."""
    kept = {name: headers[name] for name in KEPT_HEADERS if name in headers}
    codings = [one.strip() for one in kept.pop("content-encoding", "").split(",")]
    coding = ",".join(one for one in codings if one and one.lower() != "aws-chunked")
    if coding:
        kept["content-encoding"] = coding
    metadata = {name: value for name, value in headers.items() if name.startswith(METADATA_PREFIX)}
    size = sum(len(name) - len(METADATA_PREFIX) + len(value) for name, value in metadata.items())
    if size > MAX_METADATA_BYTES:
        raise AwsError("MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size")
    return {"content-type": "binary/octet-stream", **kept, **metadata}


def _check_writable(request: ApiRequest, route: Route) -> None:
    headers = request.headers
    for name in UNSUPPORTED_HEADERS:
        if name in headers:
            raise AwsError(
                "NotImplemented", f"The AWS simulator does not support {name}.", 501, {"Header": name}
            )
    if headers.get("x-amz-acl", "private") not in ("private", "bucket-owner-full-control"):
        raise AwsError("AccessControlListNotSupported", "The bucket does not allow ACLs")
    if headers.get("x-amz-storage-class", "STANDARD") != "STANDARD":
        raise AwsError("InvalidStorageClass", "The storage class you specified is not valid")
    if len(route.key.encode()) > MAX_KEY_BYTES:
        raise AwsError("KeyTooLongError", "Your key is too long")


def _check_conditions_to_write(headers: Mapping[str, str], existing: StoredObject | None) -> None:
    """If-None-Match: * and If-Match (API reference, "conditional writes")."""
    failed = AwsError(
        "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412
    )
    if "if-none-match" in headers:
        if headers["if-none-match"].strip() != "*":
            raise AwsError("NotImplemented", "If-None-Match on a write takes * only.", 501)
        if existing is not None:
            raise failed
    if "if-match" in headers:
        if existing is None:
            raise AwsError("NoSuchKey", "The specified key does not exist.", 404)
        if not _same_etag(headers["if-match"], existing):
            raise failed


def put_object(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """PutObject: checked, encrypted, then written in one step."""
    _check_writable(request, route)
    bucket = s3_store.get_bucket(sim, route.bucket)
    headers, data = request.headers, request.body
    checksums = s3_checksums.check_headers(headers, data)
    kept = _kept_headers(headers)
    _check_conditions_to_write(headers, s3_store.find_object(sim, bucket.name, route.key))
    # KMS may be asked here, and through it another machine: no transaction is open.
    wanted = s3_encryption.wanted_encryption(headers, bucket)
    body, record = s3_encryption.seal(sim, request.caller, bucket, route.key, data, wanted)
    # Only under SSE-S3 the ETag is the MD5 of the data (API reference, Object).
    plain = wanted.algorithm == "AES256"
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest() if plain else secrets.token_hex(16)
    stored = StoredObject(
        bucket=bucket.name,
        key=route.key,
        etag=etag,
        size=len(data),
        modified_at=sim.now(),
        headers=kept,
        checksums=checksums,
        encryption=record,
    )
    with sim.state.transaction():
        _check_conditions_to_write(headers, s3_store.find_object(sim, bucket.name, route.key))
        s3_store.put_object(sim, stored, body)
    return RawResponse(
        200,
        {"ETag": f'"{etag}"', **_checksum_headers(stored), **s3_encryption.response_headers(stored)},
    )


def _checksum_headers(stored: StoredObject) -> dict[str, str]:
    headers = {f"{s3_checksums.HEADER_PREFIX}{name}": value for name, value in stored.checksums.items()}
    return {**headers, "x-amz-checksum-type": "FULL_OBJECT"} if headers else {}


def _no_such_key(sim: Simulator, request: ApiRequest, bucket: Bucket, key: str) -> AwsError:
    """Who may not list the bucket is not told that the key is missing."""
    try:
        access.authorize(
            sim, request.caller, "s3:ListBucket", bucket.arn, {}, resource_account=bucket.account_id
        )
    except AwsError as error:
        return error
    return AwsError("NoSuchKey", "The specified key does not exist.", 404, {"Key": key})


def _same_etag(text: str, stored: StoredObject) -> bool:
    names = [one.strip().removeprefix("W/").strip('"') for one in text.split(",")]
    return "*" in names or any(hmac.compare_digest(name, stored.etag) for name in names if name.isascii())


def _http_seconds(text: str) -> float | None:
    """The time of a conditional header; None when it is no date, and then the header is passed over (RFC
    9110)."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None


def _is_not_modified(headers: Mapping[str, str], stored: StoredObject) -> bool:
    """The conditions of RFC 9110, 13.2.2; PreconditionFailed (412) when one that must hold does not."""
    modified = int(stored.modified_at)
    if "if-match" in headers:
        failed = not _same_etag(headers["if-match"], stored)
    else:
        limit = _http_seconds(headers["if-unmodified-since"]) if "if-unmodified-since" in headers else None
        failed = limit is not None and modified > limit
    if failed:
        raise AwsError(
            "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412
        )
    if "if-none-match" in headers:
        return _same_etag(headers["if-none-match"], stored)
    limit = _http_seconds(headers["if-modified-since"]) if "if-modified-since" in headers else None
    return limit is not None and modified <= limit


def _range(headers: Mapping[str, str], size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header, None for the whole object. Raises AwsError InvalidRange (416).

    A header that is not one range of bytes is passed over, as RFC 9110, 14.2 allows.
    """
    text = headers.get("range", "")
    found = RANGE.fullmatch(text.strip())
    if not found or found.group(1) == found.group(2) == "":
        return None
    first_text, last_text = found.groups()
    if first_text == "":
        first, last = max(size - int(last_text), 0), size - 1
        unsatisfiable = int(last_text) == 0 or size == 0
    else:
        first, last = int(first_text), min(int(last_text), size - 1) if last_text else size - 1
        if last_text and int(last_text) < first:
            return None
        unsatisfiable = first >= size
    if unsatisfiable:
        raise AwsError(
            "InvalidRange", "The requested range is not satisfiable", 416,
            {"RangeRequested": text, "ActualObjectSize": size},
        )  # fmt: skip
    return first, last


def _check_version(route: Route) -> None:
    if route.query.get("versionId", "null") != "null":
        raise AwsError("NoSuchVersion", "The specified version does not exist.", 404)


def get_object(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """GetObject and HeadObject. The body is decrypted for GET, and for HEAD with checksums, which need the
    key too."""
    _check_version(route)
    bucket = s3_store.get_bucket(sim, route.bucket)
    found = s3_store.find_object_and_body(sim, bucket.name, route.key)
    if found is None:
        raise _no_such_key(sim, request, bucket, route.key)
    stored, body = found
    shown = {
        "ETag": f'"{stored.etag}"',
        "Last-Modified": http_date(stored.modified_at),
        "Accept-Ranges": "bytes",
    }
    if _is_not_modified(request.headers, stored):
        return RawResponse(304, shown)
    span = _range(request.headers, stored.size)
    with_checksum = request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED"
    data = b""
    if route.operation == "GetObject" or (with_checksum and stored.checksums):
        data = s3_encryption.open_body(sim, request.caller, bucket, stored, body)
    first, last = span or (0, stored.size - 1)
    shown |= {name.title(): value for name, value in stored.headers.items() if name in KEPT_HEADERS}
    shown |= {name: value for name, value in stored.headers.items() if name.startswith(METADATA_PREFIX)}
    shown |= {
        name.removeprefix("response-").title(): value
        for name, value in route.query.items()
        if name.startswith("response-") and name.removeprefix("response-") in KEPT_HEADERS
    }
    shown |= s3_encryption.response_headers(stored)
    if with_checksum and span is None:
        shown |= _checksum_headers(stored)
    if span is not None:
        shown["Content-Range"] = f"bytes {first}-{last}/{stored.size}"
    if any("\r" in value or "\n" in value for value in shown.values()):
        raise AwsError("InvalidArgument", "A response header may not hold a line break.")
    shown["Content-Length"] = str(last - first + 1)
    status = 200 if span is None else 206
    return RawResponse(status, shown, data[first : last + 1] if route.operation == "GetObject" else b"")


def delete_object(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """DeleteObject: 204 whether it was there or not."""
    _check_version(route)
    s3_store.delete_object(sim, route.bucket, route.key)
    return RawResponse(204)
