"""SSE-KMS of S3 really goes through KMS: one call an object, or bucket keys; what a disabled key then means."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from cloudkeys.simulators.aws import bucket_keys, kms_stores
from cloudkeys.simulators.aws.context import DEFAULT_REGION
from cloudkeys.simulators.aws.server import RunningServer
from tests.cloudkeys.simulators.aws import fake_proxy
from tests.cloudkeys.simulators.aws.conftest import make_client, make_store
from tests.cloudkeys.simulators.aws.test_s3 import HERE, code_of

PLAINTEXT = b"the quick brown fox jumps over the lazy dog"


@pytest.fixture
def kms(server: RunningServer) -> Any:
    return make_client(server, "kms")


@pytest.fixture
def s3(server: RunningServer) -> Iterator[Any]:
    client = make_client(server, "s3")
    client.create_bucket(Bucket="data", CreateBucketConfiguration=HERE)
    return client


def make_key(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["Arn"])


def put(s3: Any, key_id: str | None, key: str = "k", **more: Any) -> dict[str, Any]:
    wanted = {} if key_id is None else {"SSEKMSKeyId": key_id}
    return s3.put_object(
        Bucket="data", Key=key, Body=PLAINTEXT, ServerSideEncryption="aws:kms", **wanted, **more
    )


def read(s3: Any, key: str = "k") -> bytes:
    return bytes(s3.get_object(Bucket="data", Key=key)["Body"].read())


def default_to(s3: Any, key_id: str, *, bucket_key: bool) -> None:
    by_default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key_id}
    rule = {"ApplyServerSideEncryptionByDefault": by_default, "BucketKeyEnabled": bucket_key}
    s3.put_bucket_encryption(Bucket="data", ServerSideEncryptionConfiguration={"Rules": [rule]})


def end_bucket_keys(
    server: RunningServer, method: str = "DELETE", **document: Any
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    headers = {"Content-Type": "application/json"}
    connection.request(method, "/_keystead/bucket-keys", json.dumps(document), headers)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


def test_an_object_under_a_kms_key(kms: Any, s3: Any) -> None:
    arn = make_key(kms)

    answer = put(s3, arn.rpartition("/")[2])
    got = s3.get_object(Bucket="data", Key="k")

    assert (answer["ServerSideEncryption"], answer["SSEKMSKeyId"]) == ("aws:kms", arn)
    assert "BucketKeyEnabled" not in answer
    assert got["Body"].read() == PLAINTEXT
    assert got["SSEKMSKeyId"] == arn


def test_bodies_lie_encrypted(server: RunningServer, kms: Any, s3: Any) -> None:
    put(s3, make_key(kms))
    s3.put_object(Bucket="data", Key="plain", Body=PLAINTEXT)

    files = [path for path in server.sim.settings.data_dir.rglob("*") if path.is_file()]

    assert files
    assert all(PLAINTEXT not in path.read_bytes() for path in files)


def test_a_disabled_key_makes_objects_unreadable_until_it_is_enabled(kms: Any, s3: Any) -> None:
    arn = make_key(kms)
    put(s3, arn)
    kms.disable_key(KeyId=arn)

    with pytest.raises(ClientError, match="disabled") as reading:
        read(s3)
    with pytest.raises(ClientError) as writing:
        put(s3, arn, "k2")

    assert code_of(reading) == code_of(writing) == ("KMS.DisabledException", 400)
    # Without a checksum a HEAD needs no key, and deleting needs none either.
    assert s3.head_object(Bucket="data", Key="k")["ContentLength"] == len(PLAINTEXT)
    kms.enable_key(KeyId=arn)
    assert read(s3) == PLAINTEXT


def test_a_key_about_to_be_deleted_and_one_that_never_was(kms: Any, s3: Any) -> None:
    arn = make_key(kms)
    put(s3, arn)
    kms.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)

    with pytest.raises(ClientError) as pending:
        read(s3)
    with pytest.raises(ClientError) as unknown:
        put(s3, "alias/never-made")

    assert code_of(pending) == ("KMS.KMSInvalidStateException", 400)
    assert code_of(unknown) == ("KMS.NotFoundException", 400)


def test_who_may_not_use_the_key_may_not_read_the_object(server: RunningServer, kms: Any, s3: Any) -> None:
    put(s3, make_key(kms))
    iam = make_client(server, "iam")
    iam.create_user(UserName="ann")
    iam.attach_user_policy(UserName="ann", PolicyArn="arn:aws:iam::aws:policy/AmazonS3FullAccess")
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    hers = make_client(server, "s3", credentials=(key["AccessKeyId"], key["SecretAccessKey"]))

    with pytest.raises(ClientError, match="user/ann is not authorized to perform: kms:Decrypt") as error:
        read(hers)

    assert code_of(error) == ("AccessDenied", 403)


def test_a_key_policy_may_allow_s3_only(server: RunningServer, kms: Any, s3: Any) -> None:
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": "*", "Action": ["kms:Put*", "kms:Describe*"], "Resource": "*"},
            {
                "Effect": "Allow",
                "Principal": {"AWS": "*"},
                "Action": ["kms:GenerateDataKey*", "kms:Decrypt"],
                "Resource": "*",
                "Condition": {
                    "StringEquals": {"kms:ViaService": f"s3.{DEFAULT_REGION}.amazonaws.com"},
                    "ArnLike": {"kms:EncryptionContext:aws:s3:arn": "arn:aws:s3:::data/*"},
                },
            },
        ],
    }
    arn = kms.create_key(Policy=json.dumps(policy))["KeyMetadata"]["Arn"]

    put(s3, arn)

    assert read(s3) == PLAINTEXT
    with pytest.raises(ClientError) as direct:
        kms.generate_data_key(KeyId=arn, KeySpec="AES_256")
    assert code_of(direct) == ("AccessDeniedException", 400)
    # A bucket key has the bucket's ARN in its context, which this policy does not allow.
    with pytest.raises(ClientError) as bucket_key:
        put(s3, arn, "k2", BucketKeyEnabled=True)
    assert code_of(bucket_key) == ("AccessDenied", 403)


def test_without_a_key_the_one_managed_for_s3_is_used(kms: Any, s3: Any) -> None:
    answer = put(s3, None)

    managed = kms.describe_key(KeyId="alias/aws/s3")["KeyMetadata"]
    assert answer["SSEKMSKeyId"] == managed["Arn"]
    assert managed["KeyManager"] == "AWS"
    assert read(s3) == PLAINTEXT


def test_the_buckets_default_is_used(kms: Any, s3: Any) -> None:
    arn = make_key(kms)
    default_to(s3, arn, bucket_key=False)

    answer = s3.put_object(Bucket="data", Key="k", Body=PLAINTEXT)

    assert (answer["ServerSideEncryption"], answer["SSEKMSKeyId"]) == ("aws:kms", arn)
    assert read(s3) == PLAINTEXT
    s3.delete_bucket_encryption(Bucket="data")
    assert read(s3) == PLAINTEXT


def test_a_bucket_key_outlives_a_disabled_key_until_it_is_ended(
    server: RunningServer, kms: Any, s3: Any
) -> None:
    arn = make_key(kms)
    default_to(s3, arn, bucket_key=True)
    answer = s3.put_object(Bucket="data", Key="k", Body=PLAINTEXT)
    kms.disable_key(KeyId=arn)

    assert answer["BucketKeyEnabled"] is True
    assert read(s3) == PLAINTEXT
    assert end_bucket_keys(server, bucket="another") == (200, {"ended": 0})
    assert read(s3) == PLAINTEXT
    assert end_bucket_keys(server, bucket="data") == (200, {"ended": 1})
    with pytest.raises(ClientError) as error:
        read(s3)
    assert code_of(error) == ("KMS.DisabledException", 400)
    kms.enable_key(KeyId=arn)
    assert read(s3) == PLAINTEXT
    assert end_bucket_keys(server) == (200, {"ended": 1})
    assert end_bucket_keys(server, bucket=7)[0] == 400


def test_a_bucket_key_ends_by_itself(server: RunningServer, kms: Any, s3: Any) -> None:
    arn = make_key(kms)
    default_to(s3, arn, bucket_key=True)
    s3.put_object(Bucket="data", Key="k", Body=PLAINTEXT)
    kms.disable_key(KeyId=arn)

    server.sim.state.advance_clock(bucket_keys.LIFETIME_S)

    with pytest.raises(ClientError) as error:
        read(s3)
    assert code_of(error) == ("KMS.DisabledException", 400)


def test_each_requester_needs_a_bucket_key_of_its_own(server: RunningServer, kms: Any, s3: Any) -> None:
    default_to(s3, make_key(kms), bucket_key=True)
    s3.put_object(Bucket="data", Key="k", Body=PLAINTEXT)
    iam = make_client(server, "iam")
    iam.create_user(UserName="ann")
    iam.attach_user_policy(UserName="ann", PolicyArn="arn:aws:iam::aws:policy/AmazonS3FullAccess")
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    hers = make_client(server, "s3", credentials=(key["AccessKeyId"], key["SecretAccessKey"]))

    with pytest.raises(ClientError, match="kms:Decrypt"):
        read(hers)

    assert read(s3) == PLAINTEXT


def test_the_external_key_store_is_asked_for_each_object_or_once_for_the_bucket(
    xks_server: RunningServer, proxy: fake_proxy.FakeProxy
) -> None:
    kms, s3 = make_client(xks_server, "kms"), make_client(xks_server, "s3")
    store_id = make_store(kms)
    kms.connect_custom_key_store(CustomKeyStoreId=store_id)
    kms_stores.wait_for_connections(xks_server.sim)
    made = kms.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId="key-1")
    s3.create_bucket(Bucket="data", CreateBucketConfiguration=HERE)

    for bucket_key, expected in ((False, ["encrypt", "encrypt", "decrypt", "decrypt"]), (True, ["encrypt"])):
        before = len(proxy.seen)
        default_to(s3, made["KeyMetadata"]["Arn"], bucket_key=bucket_key)
        for key in ("k1", "k2"):
            s3.put_object(Bucket="data", Key=key, Body=PLAINTEXT)
        assert read(s3, "k1") == read(s3, "k2") == PLAINTEXT
        assert proxy.operations()[before:] == expected
        metadata = proxy.seen[-1].document["requestMetadata"]
        assert metadata["kmsViaService"] == f"s3.{DEFAULT_REGION}.amazonaws.com"
        assert metadata["awsPrincipalArn"].endswith("user/Administrator")

    # The external key refuses: what is not in a bucket key cannot be read.
    default_to(s3, made["KeyMetadata"]["Arn"], bucket_key=False)
    s3.put_object(Bucket="data", Key="k1", Body=PLAINTEXT)
    proxy.override = lambda seen: fake_proxy.error(400, "InvalidStateException")
    with pytest.raises(ClientError) as error:
        read(s3, "k1")
    assert code_of(error) == ("KMS.KMSInvalidStateException", 400)
    assert read(s3, "k2") == PLAINTEXT
