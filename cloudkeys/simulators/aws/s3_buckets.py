"""S3's operations on buckets: create, list, delete, location, default encryption, and the list of objects."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from cloudkeys.simulators.aws import s3_checksums, s3_store
from cloudkeys.simulators.aws.context import ApiRequest, AwsError, RawResponse, Simulator
from cloudkeys.simulators.aws.s3_store import Bucket, DefaultEncryption, StoredObject
from cloudkeys.simulators.aws.s3_wire import Route, XmlValue, iso_date, parse_xml, xml_response

DEFAULT_PAGE = 1000
# User Guide, "General purpose bucket naming rules".
BUCKET_NAME = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
IP_ADDRESS = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")
FORBIDDEN_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
FORBIDDEN_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
ENCRYPTION_ELEMENTS = {
    "ServerSideEncryptionConfiguration", "Rule", "ApplyServerSideEncryptionByDefault", "SSEAlgorithm",
    "KMSMasterKeyID", "BucketKeyEnabled",
}  # fmt: skip


def check_bucket_name(name: str) -> None:
    """Raise AwsError InvalidBucketName when no bucket may have that name."""
    if (
        not BUCKET_NAME.fullmatch(name)
        or IP_ADDRESS.fullmatch(name)
        or name.startswith(FORBIDDEN_STARTS)
        or name.endswith(FORBIDDEN_ENDS)
    ):
        raise AwsError("InvalidBucketName", "The specified bucket is not valid.", 400, {"BucketName": name})


def owner(account_id: str) -> dict[str, XmlValue]:
    """The Owner element: S3 shows accounts by a canonical id, which here is made from the account's
    number."""
    return {"ID": account_id.rjust(64, "0")}


def list_buckets(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """ListBuckets, by Prefix and BucketRegion, in pages when max-buckets is given."""
    query = route.query
    buckets = [
        bucket
        for bucket in s3_store.list_buckets(sim, request.caller.account_id)
        if bucket.name.startswith(query.get("prefix", ""))
        and bucket.region == query.get("bucket-region", bucket.region)
    ]
    after = _token(query.get("continuation-token"))
    buckets = [bucket for bucket in buckets if bucket.name > after]
    size = _number(query, "max-buckets", 10_000)
    shown = buckets[:size]
    return xml_response(
        "ListAllMyBucketsResult",
        {
            "Owner": owner(request.caller.account_id),
            "Buckets": {
                "Bucket": [
                    {"Name": one.name, "CreationDate": iso_date(one.created_at), "BucketRegion": one.region}
                    for one in shown
                ]
            },
            "Prefix": query.get("prefix"),
            "ContinuationToken": _token_of(shown[-1].name) if len(buckets) > size and shown else None,
        },
    )


def create_bucket(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """CreateBucket in the region of the endpoint, which for the simulator is that of the signature."""
    check_bucket_name(route.bucket)
    _refuse_headers(request, "x-amz-bucket-object-lock-enabled", "x-amz-bucket-namespace")
    if request.headers.get("x-amz-acl", "private") != "private":
        raise AwsError(
            "InvalidBucketAclWithObjectOwnership",
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
        )
    region = _location_constraint(request)
    with sim.state.transaction() as db:
        existing = s3_store.find_bucket(sim, route.bucket)
        if existing is not None:
            _refuse_existing(existing, request)
        else:
            db.execute(
                "INSERT INTO s3_buckets VALUES (?, ?, ?, ?, NULL)",
                (route.bucket, request.caller.account_id, region, sim.now()),
            )
    return RawResponse(
        200, {"Location": f"/{route.bucket}", "x-amz-bucket-arn": f"arn:aws:s3:::{route.bucket}"}
    )


def _refuse_existing(existing: Bucket, request: ApiRequest) -> None:
    """Only us-east-1 lets an owner create a bucket again (API reference, BucketAlreadyOwnedByYou)."""
    extra = {"BucketName": existing.name}
    if existing.account_id != request.caller.account_id:
        raise AwsError(
            "BucketAlreadyExists",
            "The requested bucket name is not available. The bucket namespace is shared by all users of the"
            " system. Please select a different name and try again.",
            409,
            extra,
        )
    if request.region != "us-east-1" or existing.region != "us-east-1":
        raise AwsError(
            "BucketAlreadyOwnedByYou",
            "Your previous request to create the named bucket succeeded and you already own it.",
            409,
            extra,
        )


def _location_constraint(request: ApiRequest) -> str:
    """The region that a CreateBucket asks for; the body must name the endpoint's region, except at
    us-east-1."""
    constraint = None
    if request.body:
        document = parse_xml(request.body, "CreateBucketConfiguration")
        unknown = [node.tag for node in document if node.tag != "LocationConstraint"]
        if unknown:
            raise AwsError("NotImplemented", f"The AWS simulator does not support {unknown[0]}.", 501)
        constraint = document.findtext("LocationConstraint") or None
    constraint = "eu-west-1" if constraint == "EU" else constraint
    if request.region == "us-east-1":
        if constraint == "us-east-1":
            raise AwsError("InvalidLocationConstraint", "The specified location-constraint is not valid")
        return constraint or "us-east-1"
    if constraint != request.region:
        raise AwsError(
            "IllegalLocationConstraintException",
            f"The {constraint or 'unspecified'} location constraint is incompatible for the region specific"
            " endpoint this request was sent to.",
        )
    return constraint


def head_bucket(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """HeadBucket: with the bucket's region."""
    bucket = s3_store.get_bucket(sim, route.bucket)
    headers = {
        "x-amz-bucket-region": bucket.region,
        "x-amz-bucket-arn": bucket.arn,
        "Content-Type": "application/xml",
    }
    return RawResponse(200, headers)


def delete_bucket(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """DeleteBucket: only an empty one."""
    with sim.state.transaction() as db:
        if (
            db.execute("SELECT 1 FROM s3_objects WHERE bucket = ? LIMIT 1", (route.bucket,)).fetchone()
            is not None
        ):
            raise AwsError(
                "BucketNotEmpty",
                "The bucket you tried to delete is not empty",
                409,
                {"BucketName": route.bucket},
            )
        db.execute("DELETE FROM s3_buckets WHERE name = ?", (route.bucket,))
    return RawResponse(204)


def get_bucket_location(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """GetBucketLocation: empty for us-east-1."""
    region = s3_store.get_bucket(sim, route.bucket).region
    return xml_response("LocationConstraint", "" if region == "us-east-1" else region)


# --- default encryption
# -------------------------------------------------------------------------------------------


def put_bucket_encryption(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """PutBucketEncryption: one rule. As in AWS the KMS key is not looked at before it is used."""
    if not (
        {"content-md5"} | {name for name in request.headers if name.startswith(s3_checksums.HEADER_PREFIX)}
    ):
        raise AwsError("InvalidRequest", "Missing required header for this request: Content-MD5")
    s3_checksums.check_headers(request.headers, request.body)
    document = parse_xml(request.body, "ServerSideEncryptionConfiguration")
    unknown = [node.tag for node in document.iter() if node.tag not in ENCRYPTION_ELEMENTS]
    if unknown:
        raise AwsError("NotImplemented", f"The AWS simulator does not support {unknown[0]}.", 501)
    rules = document.findall("Rule")
    if len(rules) != 1:
        raise AwsError("MalformedXML", "The XML you provided must hold exactly one Rule.")
    algorithm = rules[0].findtext("ApplyServerSideEncryptionByDefault/SSEAlgorithm")
    key_id = rules[0].findtext("ApplyServerSideEncryptionByDefault/KMSMasterKeyID") or None
    bucket_key = (rules[0].findtext("BucketKeyEnabled") or "false").strip().lower()
    if algorithm == "aws:kms:dsse":
        raise AwsError("NotImplemented", "The AWS simulator does not support aws:kms:dsse.", 501)
    if algorithm not in ("AES256", "aws:kms") or bucket_key not in ("true", "false"):
        raise AwsError("MalformedXML", "The XML you provided did not validate against our published schema")
    if key_id is not None and algorithm == "AES256":
        raise AwsError(
            "InvalidArgument",
            "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or aws:kms:dsse",
        )
    _set_encryption(sim, route.bucket, DefaultEncryption(algorithm, key_id, bucket_key == "true"))
    return RawResponse(200)


def _set_encryption(sim: Simulator, name: str, default: DefaultEncryption | None) -> None:
    with sim.state.transaction() as db:
        text = None if default is None else json.dumps(asdict(default))
        db.execute("UPDATE s3_buckets SET encryption = ? WHERE name = ?", (text, name))


def get_bucket_encryption(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """GetBucketEncryption: SSE-S3 when nobody set another (S3's own default since 2023)."""
    default = s3_store.get_bucket(sim, route.bucket).encryption
    rule: dict[str, XmlValue] = {
        "ApplyServerSideEncryptionByDefault": {
            "SSEAlgorithm": default.algorithm,
            "KMSMasterKeyID": default.kms_key_id,
        },
        "BucketKeyEnabled": default.bucket_key,
    }
    return xml_response("ServerSideEncryptionConfiguration", {"Rule": rule})


def delete_bucket_encryption(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """DeleteBucketEncryption: back to SSE-S3."""
    _set_encryption(sim, route.bucket, None)
    return RawResponse(204)


# --- list
# ---------------------------------------------------------------------------------------------------------


def _number(query: Mapping[str, str], name: str, most: int) -> int:
    text = query.get(name, str(most))
    if not re.fullmatch("[0-9]{1,9}", text):
        raise AwsError(
            "InvalidArgument", f"Provided {name} not an integer or within integer range", 400,
            {"ArgumentName": name, "ArgumentValue": text},
        )  # fmt: skip
    return min(int(text), most)


def _token_of(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).decode()


def _token(text: str | None) -> str:
    if text is None:
        return ""
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise AwsError(
            "InvalidArgument",
            "The continuation token provided is incorrect",
            400,
            {"ArgumentName": "continuation-token"},
        ) from error


def _collect(
    objects: list[StoredObject], prefix: str, delimiter: str, after: str, most: int
) -> tuple[list[StoredObject], list[str], str | None]:
    """Objects and common prefixes, ``most`` together at most; the last position when there is more."""
    contents: list[StoredObject] = []
    prefixes: list[str] = []
    last = after
    for one in objects:
        cut = one.key.find(delimiter, len(prefix)) if delimiter else -1
        position = one.key if cut < 0 else one.key[: cut + len(delimiter)]
        if cut >= 0 and (position == after or (prefixes and prefixes[-1] == position)):
            continue
        if len(contents) + len(prefixes) == most:
            return contents, prefixes, last if most else None
        if cut < 0:
            contents.append(one)
        else:
            prefixes.append(position)
        last = position
    return contents, prefixes, None


def _listed(one: StoredObject, encode: Any, with_owner: str | None) -> dict[str, XmlValue]:
    return {
        "Key": encode(one.key),
        "LastModified": iso_date(one.modified_at),
        "ETag": f'"{one.etag}"',
        "ChecksumAlgorithm": [algorithm.upper() for algorithm in one.checksums],
        "ChecksumType": "FULL_OBJECT" if one.checksums else None,
        "Size": one.size,
        "Owner": None if with_owner is None else owner(with_owner),
        "StorageClass": "STANDARD",
    }


def list_objects(sim: Simulator, request: ApiRequest, route: Route) -> RawResponse:
    """ListObjectsV2, and ListObjects with its marker: prefix, delimiter, pages of 1,000 at most."""
    query, second = route.query, route.operation == "ListObjectsV2"
    bucket = s3_store.get_bucket(sim, route.bucket)
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    encoding = query.get("encoding-type")
    if encoding not in (None, "url"):
        raise AwsError("InvalidArgument", "Invalid Encoding Method specified in Request")
    most = _number(query, "max-keys", DEFAULT_PAGE)
    token = query.get("continuation-token")
    after = _token(token) or query.get("start-after", "") if second else query.get("marker", "")
    found = s3_store.list_objects(sim, bucket.name, prefix, after)
    contents, prefixes, last = _collect(found, prefix, delimiter, after, most)

    def encode(text: str) -> str:
        return quote(text, safe="/~") if encoding == "url" else text

    with_owner = bucket.account_id if query.get("fetch-owner") == "true" or not second else None
    answer: dict[str, XmlValue] = {"Name": bucket.name, "Prefix": encode(prefix)}
    if second:
        answer |= {"KeyCount": len(contents) + len(prefixes), "ContinuationToken": token}
        answer |= {"NextContinuationToken": None if last is None else _token_of(last)}
        answer |= {"StartAfter": encode(query["start-after"]) if "start-after" in query else None}
    else:
        answer |= {
            "Marker": encode(after),
            "NextMarker": encode(last) if last is not None and delimiter else None,
        }
    answer |= {"MaxKeys": most, "Delimiter": encode(delimiter) or None, "EncodingType": encoding}
    answer |= {"IsTruncated": last is not None}
    answer["Contents"] = [_listed(one, encode, with_owner) for one in contents]
    answer["CommonPrefixes"] = [{"Prefix": encode(one)} for one in prefixes]
    return xml_response("ListBucketResult", answer)


def _refuse_headers(request: ApiRequest, *names: str) -> None:
    """Say so when a request uses a feature that the simulator lacks."""
    for name in names:
        if request.headers.get(name, "false").lower() != "false":
            raise AwsError(
                "NotImplemented", f"The AWS simulator does not support {name}.", 501, {"Header": name}
            )
