"""S3 through boto3: buckets, objects, lists, ranges, conditions, checksums, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloudkeys.simulators.aws import s3 as s3_service
from cloudkeys.simulators.aws.context import ACCOUNTS, DEFAULT_REGION, Settings
from cloudkeys.simulators.aws.server import RunningServer, running
from tests.cloudkeys.simulators.aws.conftest import make_client
from tests.cloudkeys.simulators.aws.model_check import Watch

HERE = {"LocationConstraint": DEFAULT_REGION}


def code_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.fixture
def s3(server: RunningServer) -> Iterator[Any]:
    """A client, with the bucket ``data`` made."""
    client = make_client(server, "s3")
    watch = Watch(client)
    client.create_bucket(Bucket="data", CreateBucketConfiguration=HERE)
    yield client
    assert watch.problems == []


# --- buckets ------------------------------------------------------------------------------------------------------


def test_a_bucket_is_made_listed_and_deleted(s3: Any) -> None:
    assert s3.head_bucket(Bucket="data")["BucketRegion"] == DEFAULT_REGION
    assert s3.get_bucket_location(Bucket="data")["LocationConstraint"] == DEFAULT_REGION
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["data"]
    s3.put_object(Bucket="data", Key="k", Body=b"x")
    with pytest.raises(ClientError) as full:
        s3.delete_bucket(Bucket="data")
    assert code_of(full) == ("BucketNotEmpty", 409)
    s3.delete_object(Bucket="data", Key="k")
    s3.delete_bucket(Bucket="data")
    assert s3.list_buckets()["Buckets"] == []
    with pytest.raises(ClientError) as gone:
        s3.head_bucket(Bucket="data")
    assert code_of(gone) == ("404", 404)


def test_bucket_names_are_unique_for_everybody(server: RunningServer, s3: Any) -> None:
    with pytest.raises(ClientError) as mine:
        s3.create_bucket(Bucket="data", CreateBucketConfiguration=HERE)
    with pytest.raises(ClientError) as theirs:
        make_client(server, "s3", account=ACCOUNTS[1]).create_bucket(
            Bucket="data", CreateBucketConfiguration=HERE
        )

    assert code_of(mine) == ("BucketAlreadyOwnedByYou", 409)
    assert code_of(theirs) == ("BucketAlreadyExists", 409)


def test_the_first_region_is_special(server: RunningServer) -> None:
    first = make_client(server, "s3", region="us-east-1")

    first.create_bucket(Bucket="old-one")
    first.create_bucket(Bucket="old-one")

    assert first.get_bucket_location(Bucket="old-one")["LocationConstraint"] is None
    with pytest.raises(ClientError) as error:
        make_client(server, "s3").create_bucket(Bucket="unplaced")
    assert code_of(error) == ("IllegalLocationConstraintException", 400)


def test_another_region_is_told_and_boto3_follows(server: RunningServer, s3: Any) -> None:
    s3.put_object(Bucket="data", Key="k", Body=b"far away")
    followed = make_client(server, "s3", region="eu-central-1")

    assert followed.get_object(Bucket="data", Key="k")["Body"].read() == b"far away"


@pytest.mark.parametrize(
    "name",
    ["ab", "a" * 64, "Upper", "a..b", "-start", "end-", "10.0.0.1", "under_score", "xn--abc", "abc-s3alias"],
)
def test_a_bad_bucket_name_is_refused(server: RunningServer, name: str) -> None:
    client = make_client(server, "s3", parameter_validation=False)

    with pytest.raises(ClientError) as error:
        client.create_bucket(Bucket=name, CreateBucketConfiguration=HERE)

    assert code_of(error) == ("InvalidBucketName", 400)


def test_default_encryption_is_set_told_and_taken_back(s3: Any) -> None:
    def rule() -> dict[str, Any]:
        answer = s3.get_bucket_encryption(Bucket="data")["ServerSideEncryptionConfiguration"]
        (only,) = answer["Rules"]
        return only

    kms = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/mine"}
    assert rule() == {
        "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"},
        "BucketKeyEnabled": False,
    }
    wanted = {"ApplyServerSideEncryptionByDefault": kms, "BucketKeyEnabled": True}
    s3.put_bucket_encryption(Bucket="data", ServerSideEncryptionConfiguration={"Rules": [wanted]})
    assert rule() == wanted
    s3.delete_bucket_encryption(Bucket="data")
    assert rule()["BucketKeyEnabled"] is False
    wrong = {"ApplyServerSideEncryptionByDefault": {**kms, "SSEAlgorithm": "AES256"}}
    with pytest.raises(ClientError) as error:
        s3.put_bucket_encryption(Bucket="data", ServerSideEncryptionConfiguration={"Rules": [wrong]})
    assert code_of(error) == ("InvalidArgument", 400)
    with pytest.raises(ClientError) as double:
        s3.put_bucket_encryption(Bucket="data", ServerSideEncryptionConfiguration={"Rules": [wanted, wanted]})
    assert code_of(double) == ("MalformedXML", 400)


# --- objects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["k", "a/b/c.txt", "spa ce+plus&and?what#hash%25", "größe/日本", "a//b", "../up", "."]
)
def test_an_object_comes_back_as_it_was(s3: Any, key: str) -> None:
    put = s3.put_object(
        Bucket="data",
        Key=key,
        Body=b"hello",
        ContentType="text/plain",
        Metadata={"colour": "blue"},
        CacheControl="no",
    )
    got = s3.get_object(Bucket="data", Key=key)

    assert got["Body"].read() == b"hello"
    assert got["ETag"] == put["ETag"] == '"5d41402abc4b2a76b9719d911017c592"'
    assert (got["ContentType"], got["CacheControl"], got["Metadata"]) == (
        "text/plain",
        "no",
        {"colour": "blue"},
    )
    assert got["ServerSideEncryption"] == "AES256"
    head = s3.head_object(Bucket="data", Key=key)
    assert head["ContentLength"] == 5
    assert head["LastModified"] == got["LastModified"]
    assert [one["Key"] for one in s3.list_objects_v2(Bucket="data")["Contents"]] == [key]
    s3.delete_object(Bucket="data", Key=key)
    s3.delete_object(Bucket="data", Key=key)
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket="data", Key=key)
    assert code_of(error) == ("NoSuchKey", 404)


def test_an_empty_and_a_big_object(s3: Any) -> None:
    big = bytes(range(256)) * 4096
    s3.put_object(Bucket="data", Key="empty", Body=b"")
    s3.put_object(Bucket="data", Key="big", Body=big)

    assert s3.get_object(Bucket="data", Key="empty")["Body"].read() == b""
    assert s3.get_object(Bucket="data", Key="big")["Body"].read() == big


@pytest.mark.parametrize(
    ("asked", "expected", "shown"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
        ("bytes=5-99", b"56789", "bytes 5-9/10"),
        ("bytes=3-1", b"0123456789", None),
        ("bytes=0-1,3-4", b"0123456789", None),
        ("lines=1-2", b"0123456789", None),
    ],
)
def test_a_range(s3: Any, asked: str, expected: bytes, shown: str | None) -> None:
    s3.put_object(Bucket="data", Key="k", Body=b"0123456789")

    got = s3.get_object(Bucket="data", Key="k", Range=asked)

    assert got["Body"].read() == expected
    assert got.get("ContentRange") == shown
    assert got["ResponseMetadata"]["HTTPStatusCode"] == (200 if shown is None else 206)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-12", "bytes=-0"])
def test_a_range_beyond_the_end_is_refused(s3: Any, asked: str) -> None:
    s3.put_object(Bucket="data", Key="k", Body=b"0123456789")

    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket="data", Key="k", Range=asked)

    assert code_of(error) == ("InvalidRange", 416)


def test_conditions_on_reading(s3: Any) -> None:
    etag = s3.put_object(Bucket="data", Key="k", Body=b"x")["ETag"]
    modified = s3.head_object(Bucket="data", Key="k")["LastModified"]

    assert s3.get_object(Bucket="data", Key="k", IfMatch=etag)["ETag"] == etag
    for condition, code in (
        ({"IfMatch": '"other"'}, ("PreconditionFailed", 412)),
        ({"IfNoneMatch": etag}, ("304", 304)),
        ({"IfModifiedSince": modified}, ("304", 304)),
        ({"IfUnmodifiedSince": modified.replace(year=2020)}, ("PreconditionFailed", 412)),
    ):
        with pytest.raises(ClientError) as error:
            s3.get_object(Bucket="data", Key="k", **condition)
        assert code_of(error) == code


def test_conditions_on_writing(s3: Any) -> None:
    etag = s3.put_object(Bucket="data", Key="k", Body=b"1", IfNoneMatch="*")["ETag"]

    with pytest.raises(ClientError) as exists:
        s3.put_object(Bucket="data", Key="k", Body=b"2", IfNoneMatch="*")
    with pytest.raises(ClientError) as other:
        s3.put_object(Bucket="data", Key="k", Body=b"2", IfMatch='"other"')
    with pytest.raises(ClientError) as missing:
        s3.put_object(Bucket="data", Key="no", Body=b"2", IfMatch=etag)
    s3.put_object(Bucket="data", Key="k", Body=b"3", IfMatch=etag)

    assert code_of(exists) == code_of(other) == ("PreconditionFailed", 412)
    assert code_of(missing) == ("NoSuchKey", 404)
    assert s3.get_object(Bucket="data", Key="k")["Body"].read() == b"3"


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_checksums_come_back_and_are_checked_by_boto3(s3: Any, algorithm: str) -> None:
    put = s3.put_object(Bucket="data", Key="k", Body=b"hello", ChecksumAlgorithm=algorithm)
    got = s3.get_object(Bucket="data", Key="k", ChecksumMode="ENABLED")

    assert got["Body"].read() == b"hello"
    assert got[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
    assert got["ChecksumType"] == "FULL_OBJECT"
    assert s3.list_objects_v2(Bucket="data")["Contents"][0]["ChecksumAlgorithm"] == [algorithm]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"ChecksumCRC32": "AAAAAA=="}, "BadDigest"),
        ({"ChecksumCRC32C": "AAAAAA=="}, "BadDigest"),
        ({"ChecksumCRC64NVME": "AAAAAAAAAAA="}, "BadDigest"),
        ({"ContentMD5": "AAAAAAAAAAAAAAAAAAAAAA=="}, "BadDigest"),
        ({"ContentMD5": "?"}, "InvalidDigest"),
        ({"ACL": "public-read"}, "AccessControlListNotSupported"),
        ({"StorageClass": "GLACIER"}, "InvalidStorageClass"),
        ({"Tagging": "a=b"}, "NotImplemented"),
        ({"Metadata": {"long": "x" * 2050}}, "MetadataTooLarge"),
        ({"Key": "k" * 1025}, "KeyTooLongError"),
        ({"Bucket": "absent"}, "NoSuchBucket"),
        ({"ExpectedBucketOwner": ACCOUNTS[1]}, "AccessDenied"),
        ({"ServerSideEncryption": "AES256", "SSEKMSKeyId": "k"}, "InvalidArgument"),
        ({"SSEKMSKeyId": "k"}, "InvalidArgument"),
        ({"ServerSideEncryption": "aws:kms:dsse"}, "NotImplemented"),
        ({"ServerSideEncryption": "aws:fsx"}, "InvalidEncryptionAlgorithmError"),
        ({"ServerSideEncryption": "aws:kms", "SSEKMSEncryptionContext": "?"}, "InvalidArgument"),
    ],
)
def test_a_wrong_put_is_refused_and_writes_nothing(s3: Any, params: dict[str, Any], code: str) -> None:
    with pytest.raises(ClientError) as error:
        s3.put_object(**{"Bucket": "data", "Key": "k", "Body": b"hello", **params})

    assert error.value.response["Error"]["Code"] == code
    assert s3.list_objects_v2(Bucket="data")["KeyCount"] == 0


def test_the_checksums_of_other_tools_are_right(s3: Any) -> None:
    # Check values of CRC-32C and CRC-64/NVME over "123456789": the catalogue of parametrised CRC algorithms.
    for name, value in (("ChecksumCRC32C", "4waSgw=="), ("ChecksumCRC64NVME", "rosUhgp5mIg=")):
        assert s3.put_object(Bucket="data", Key="k", Body=b"123456789", **{name: value})[name] == value


def test_what_is_not_there_says_so(s3: Any) -> None:
    with pytest.raises(ClientError, match="uploads") as error:
        s3.create_multipart_upload(Bucket="data", Key="k")
    with pytest.raises(ClientError) as copy:
        s3.copy_object(Bucket="data", Key="k", CopySource="data/j")

    assert code_of(error) == ("NotImplemented", 501)
    assert code_of(copy) == ("NotImplemented", 501)


# --- lists --------------------------------------------------------------------------------------------------------


def test_a_list_has_prefixes_and_pages(s3: Any) -> None:
    keys = ["a", "b/1", "b/2", "b/3", "c/d/1", "e f", "z"]
    for key in keys:
        s3.put_object(Bucket="data", Key=key, Body=b"x")

    def listed(**params: Any) -> tuple[list[str], list[str]]:
        pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket="data", **params))
        assert all(
            page["KeyCount"] <= params.get("PaginationConfig", {}).get("PageSize", 1000) for page in pages
        )
        contents = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return contents, [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", ())]

    for size in (1, 2, 3, 1000):
        page = {"PaginationConfig": {"PageSize": size}}
        assert listed(**page) == (keys, [])
        assert listed(Delimiter="/", **page) == (["a", "e f", "z"], ["b/", "c/"])
        assert listed(Prefix="b/", Delimiter="/", **page) == (["b/1", "b/2", "b/3"], [])
        assert listed(StartAfter="c/d/1", **page) == (["e f", "z"], [])
    assert listed(Prefix="c", Delimiter="/") == ([], ["c/"])
    assert listed(Prefix="nothing") == ([], [])
    assert s3.list_objects_v2(Bucket="data", MaxKeys=0)["IsTruncated"] is False
    assert s3.list_objects_v2(Bucket="data", FetchOwner=True)["Contents"][0]["Owner"]["ID"].endswith(
        ACCOUNTS[0]
    )
    with pytest.raises(ClientError) as error:
        s3.list_objects_v2(Bucket="data", ContinuationToken="%%%")
    assert code_of(error) == ("InvalidArgument", 400)


def test_the_old_list_goes_on_at_its_marker(s3: Any) -> None:
    for key in ("a", "b/1", "b/2", "c"):
        s3.put_object(Bucket="data", Key=key, Body=b"x")

    pages = s3.get_paginator("list_objects").paginate(
        Bucket="data", Delimiter="/", PaginationConfig={"PageSize": 1}
    )
    seen = [
        one.get("Key") or one.get("Prefix")
        for page in pages
        for one in (*page.get("Contents", ()), *page.get("CommonPrefixes", ()))
    ]

    assert seen == ["a", "b/", "c"]


# --- permissions --------------------------------------------------------------------------------------------------


def client_of(server: RunningServer, *statements: dict[str, Any]) -> Any:
    iam = make_client(server, "iam")
    iam.create_user(UserName="ann")
    iam.put_user_policy(
        UserName="ann",
        PolicyName="p",
        PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": list(statements)}),
    )
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    return make_client(server, "s3", credentials=(key["AccessKeyId"], key["SecretAccessKey"]))


def test_permissions_are_enforced(server: RunningServer, s3: Any) -> None:
    s3.put_object(Bucket="data", Key="in/k", Body=b"x")
    s3.put_object(Bucket="data", Key="out/k", Body=b"x")
    hers = client_of(
        server,
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::data/in/*"},
    )

    assert hers.get_object(Bucket="data", Key="in/k")["Body"].read() == b"x"
    hers.put_object(Bucket="data", Key="in/new", Body=b"y")
    for forbidden in (
        lambda: hers.get_object(Bucket="data", Key="out/k"),
        lambda: hers.delete_object(Bucket="data", Key="in/k"),
        lambda: hers.list_objects_v2(Bucket="data"),
        lambda: hers.list_buckets(),
        lambda: hers.put_bucket_encryption(
            Bucket="data",
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
        ),
        # Who may not list is not told that a key is missing.
        lambda: hers.get_object(Bucket="data", Key="in/absent"),
    ):
        with pytest.raises(ClientError, match="is not authorized to perform: s3:") as error:
            forbidden()
        assert code_of(error) == ("AccessDenied", 403)


def test_another_account_has_no_access(server: RunningServer, s3: Any) -> None:
    s3.put_object(Bucket="data", Key="k", Body=b"x")

    with pytest.raises(ClientError, match="no resource-based policy allows") as error:
        make_client(server, "s3", account=ACCOUNTS[1]).get_object(Bucket="data", Key="k")

    assert code_of(error) == ("AccessDenied", 403)


def test_objects_survive_a_restart(settings: Settings) -> None:
    with running(settings) as server:
        client = make_client(server, "s3")
        client.create_bucket(Bucket="data", CreateBucketConfiguration=HERE)
        client.put_object(Bucket="data", Key="k", Body=b"still there")

    with running(settings) as server:
        assert make_client(server, "s3").get_object(Bucket="data", Key="k")["Body"].read() == b"still there"


def test_every_operation_answers_in_the_shape_of_the_model(server: RunningServer) -> None:
    s3 = make_client(server, "s3")
    watch = Watch(s3)
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}
    s3.create_bucket(Bucket="data", CreateBucketConfiguration=HERE)
    s3.head_bucket(Bucket="data")
    s3.list_buckets(MaxBuckets=1)
    s3.get_bucket_location(Bucket="data")
    s3.put_bucket_encryption(Bucket="data", ServerSideEncryptionConfiguration={"Rules": [rule]})
    s3.get_bucket_encryption(Bucket="data")
    s3.delete_bucket_encryption(Bucket="data")
    s3.put_object(Bucket="data", Key="a/k", Body=b"x")
    s3.get_object(Bucket="data", Key="a/k")
    s3.head_object(Bucket="data", Key="a/k", ChecksumMode="ENABLED")
    s3.list_objects(Bucket="data", Delimiter="/")
    s3.list_objects_v2(Bucket="data")
    s3.delete_object(Bucket="data", Key="a/k")
    s3.delete_bucket(Bucket="data")

    assert watch.problems == []
    assert watch.operations == set(s3_service.OPERATIONS)
