"""S3, as far as objects under SSE-KMS go: which operation is which function, and who may do it.

The simulator's own stores and REST-XML (docs/decisions/0003-simulator-own-stores.md). Both ways of addressing
work: ``http://127.0.0.1:4566/bucket/key`` and ``http://bucket.localhost:4566/key``.
"""

from __future__ import annotations

from collections.abc import Callable

from cloudkeys.simulators.aws import access, s3_buckets, s3_objects, s3_store
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, RawResponse, Simulator
from cloudkeys.simulators.aws.s3_encryption import HEADER, KEY_HEADER
from cloudkeys.simulators.aws.s3_store import Bucket
from cloudkeys.simulators.aws.s3_wire import Route, route

SCHEMA = s3_store.SCHEMA

# operation -> (function, the action that permission is asked for)
OPERATIONS: dict[str, tuple[Callable[[Simulator, ApiRequest, Route], RawResponse], str]] = {
    "ListBuckets": (s3_buckets.list_buckets, "s3:ListAllMyBuckets"),
    "CreateBucket": (s3_buckets.create_bucket, "s3:CreateBucket"),
    "HeadBucket": (s3_buckets.head_bucket, "s3:ListBucket"),
    "DeleteBucket": (s3_buckets.delete_bucket, "s3:DeleteBucket"),
    "GetBucketLocation": (s3_buckets.get_bucket_location, "s3:GetBucketLocation"),
    "PutBucketEncryption": (s3_buckets.put_bucket_encryption, "s3:PutEncryptionConfiguration"),
    "GetBucketEncryption": (s3_buckets.get_bucket_encryption, "s3:GetEncryptionConfiguration"),
    "DeleteBucketEncryption": (s3_buckets.delete_bucket_encryption, "s3:PutEncryptionConfiguration"),
    "ListObjects": (s3_buckets.list_objects, "s3:ListBucket"),
    "ListObjectsV2": (s3_buckets.list_objects, "s3:ListBucket"),
    "PutObject": (s3_objects.put_object, "s3:PutObject"),
    "GetObject": (s3_objects.get_object, "s3:GetObject"),
    "HeadObject": (s3_objects.get_object, "s3:GetObject"),
    "DeleteObject": (s3_objects.delete_object, "s3:DeleteObject"),
}
WITHOUT_BUCKET = ("ListBuckets", "CreateBucket")


def operation_name(method: str, path: str, query: str, host: str = "") -> str:
    """The operation that an HTTP request means, ``Unknown`` when the simulator has none for it."""
    try:
        return route(method, path, query, host).operation
    except AwsError:
        # An unreadable path is told by ``handle``, in the words of S3.
        return "Unknown"


def handle(sim: Simulator, request: ApiRequest) -> RawResponse:
    """Answer one S3 request."""
    asked = route(request.method, request.path, request.query, request.headers.get("host", ""))
    if asked.operation not in OPERATIONS:
        raise AwsError(
            "NotImplemented",
            f"The AWS simulator has no {request.method} of {'object' if asked.key else 'bucket'} "
            f"{', '.join(asked.subresources)}".rstrip()
            + ".",
            501,
        )
    function, action = OPERATIONS[asked.operation]
    bucket = None
    if asked.operation not in WITHOUT_BUCKET:
        bucket = s3_store.get_bucket(sim, asked.bucket)
        if request.headers.get("x-amz-expected-bucket-owner", bucket.account_id) != bucket.account_id:
            raise AwsError("AccessDenied", "Access Denied", 403)
        if bucket.region != request.region:
            return _wrong_region(request, bucket)
    resource = (
        "*" if not asked.bucket else f"arn:aws:s3:::{asked.bucket}{'/' if asked.key else ''}{asked.key}"
    )
    owner = request.caller.account_id if bucket is None else bucket.account_id
    access.authorize(sim, request.caller, action, resource, _context(request, asked), resource_account=owner)
    return function(sim, request, asked)


def _context(request: ApiRequest, asked: Route) -> dict[str, str]:
    """S3's condition keys (Service Authorization Reference), as far as the operations have them."""
    context = {"aws:RequestedRegion": request.region}
    for name in (HEADER, KEY_HEADER):
        if name in request.headers:
            context[f"s3:{name}"] = request.headers[name]
    for name in ("prefix", "delimiter", "max-keys"):
        if name in asked.query:
            context[f"s3:{name}"] = asked.query[name]
    return context


def _wrong_region(request: ApiRequest, bucket: Bucket) -> RawResponse:
    """A request signed for another region than the bucket's: told in a header on HEAD, else as an error."""
    if request.method == "HEAD":
        return RawResponse(301, {"x-amz-bucket-region": bucket.region, "Content-Type": "application/xml"})
    raise AwsError(
        "AuthorizationHeaderMalformed",
        f"The authorization header is malformed; the region '{request.region}' is wrong;"
        f" expecting '{bucket.region}'",
        400,
        {"Region": bucket.region},
    )
