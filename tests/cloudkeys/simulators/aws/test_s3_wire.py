"""S3 on the wire: addressing, XML, chunked bodies with trailers, and awscli."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import example, given
from hypothesis import strategies as st

from cloudkeys.simulators.aws.context import DEFAULT_REGION, AwsError
from cloudkeys.simulators.aws.s3_checksums import check_trailer, checksum
from cloudkeys.simulators.aws.s3_wire import ROUTES, element, parse_xml, route
from cloudkeys.simulators.aws.server import RunningServer
from tests.cloudkeys.simulators.aws.conftest import make_client
from tests.cloudkeys.simulators.aws.test_s3 import HERE


def send(
    server: RunningServer,
    method: str,
    target: str,
    *,
    host: str | None = None,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    trailer: bool = False,
) -> tuple[int, bytes]:
    """One signed request of the administrator, as boto3 would not send it."""
    administrator = server.sim.state.ensure_administrators(server.sim.settings.accounts)[0]
    credentials = Credentials(administrator.access_key_id, administrator.secret_access_key)
    authority = urlsplit(server.url).netloc
    request = AWSRequest(method, f"http://{host or authority}{target}", headers or {}, body)
    if trailer:
        request.context["checksum"] = {"request_algorithm": {"in": "trailer"}}
    S3SigV4Auth(credentials, "s3", DEFAULT_REGION).add_auth(request)
    connection = http.client.HTTPConnection(authority, timeout=10)
    connection.request(method, target, body, {**dict(request.headers), "Host": host or authority})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


@pytest.mark.parametrize(
    ("method", "target", "host", "expected"),
    [
        ("GET", "/", "127.0.0.1:4566", ("ListBuckets", "", "")),
        ("GET", "/", "[::1]:4566", ("ListBuckets", "", "")),
        ("PUT", "/data", "127.0.0.1:4566", ("CreateBucket", "data", "")),
        ("PUT", "/data/", "127.0.0.1:4566", ("CreateBucket", "data", "")),
        ("PUT", "/data/k", "127.0.0.1:4566", ("PutObject", "data", "k")),
        ("GET", "/data/a%2Fb%20c", "localhost:4566", ("GetObject", "data", "a/b c")),
        ("GET", "/data?list-type=2", "localhost", ("ListObjectsV2", "data", "")),
        ("GET", "/data?prefix=x", "localhost", ("ListObjects", "data", "")),
        ("PUT", "/", "data.localhost:4566", ("CreateBucket", "data", "")),
        ("GET", "/k", "data.localhost:4566", ("GetObject", "data", "k")),
        ("GET", "/k", "my.data.s3.localhost:4566", ("GetObject", "my.data", "k")),
        ("GET", "/data/k", "s3.localhost:4566", ("GetObject", "data", "k")),
        ("GET", "/k", "data.s3.eu-west-1.amazonaws.com", ("GetObject", "data", "k")),
        ("GET", "/data/k", "s3.eu-west-1.amazonaws.com", ("GetObject", "data", "k")),
        ("GET", "/k", "data.s3.amazonaws.com", ("GetObject", "data", "k")),
        ("GET", "/data?encryption", "127.0.0.1", ("GetBucketEncryption", "data", "")),
        ("GET", "/data?acl", "127.0.0.1", ("Unknown", "data", "")),
        ("GET", "/data?encryption&acl", "127.0.0.1", ("Unknown", "data", "")),
        ("POST", "/data", "127.0.0.1", ("Unknown", "data", "")),
        ("PUT", "/data/k?uploadId=1&partNumber=1", "127.0.0.1", ("Unknown", "data", "k")),
    ],
)
def test_a_request_means(method: str, target: str, host: str, expected: tuple[str, str, str]) -> None:
    path, _, query = target.partition("?")

    found = route(method, path, query, host)

    assert (found.operation, found.bucket, found.key) == expected


@given(st.text(), st.text(), st.text())
def test_no_target_breaks_the_router(path: str, query: str, host: str) -> None:
    try:
        outcome = route("GET", "/" + path, query, host).operation
    except AwsError as error:
        outcome = error.code

    assert outcome in {*ROUTES.values(), "Unknown", "InvalidURI"}


def test_both_ways_of_addressing_reach_the_same_object(server: RunningServer) -> None:
    port = urlsplit(server.url).port
    location = f"<LocationConstraint>{DEFAULT_REGION}</LocationConstraint>"
    create = f"<CreateBucketConfiguration>{location}</CreateBucketConfiguration>"

    assert send(server, "PUT", "/", host=f"data.localhost:{port}", body=create.encode())[0] == 200
    assert send(server, "PUT", "/k", host=f"data.localhost:{port}", body=b"hello")[0] == 200
    assert send(server, "GET", "/data/k") == (200, b"hello")
    assert send(server, "GET", "/k", host=f"data.localhost:{port}") == (200, b"hello")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<a>",
        b"<Other/>",
        b'<!DOCTYPE a [<!ENTITY b "c">]><CreateBucketConfiguration>&b;</CreateBucketConfiguration>',
        "<CreateBucketConfiguration/>".encode("utf-16"),
        "<CreateBucketConfiguration/>".encode("utf-16-le"),
        b"<CreateBucketConfiguration>\xff</CreateBucketConfiguration>",
    ],
)
def test_bad_xml_is_refused(body: bytes) -> None:
    with pytest.raises(AwsError) as error:
        parse_xml(body, "CreateBucketConfiguration")

    assert error.value.code == "MalformedXML"


def test_xml_is_escaped() -> None:
    assert element("a", {"b": "<&>", "c": [1, True], "d": None, "e": [{"f": ""}]}) == (
        "<a><b>&lt;&amp;&gt;</b><c>1</c><c>true</c><e><f></f></e></a>"
    )


def chunked(payload: bytes, *trailer: str) -> bytes:
    half = len(payload) // 2
    parts = [
        f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in (payload[:half], payload[half:]) if part
    ]
    return b"".join(parts) + b"0\r\n" + "".join(f"{line}\r\n" for line in trailer).encode() + b"\r\n"


def put_chunked(server: RunningServer, body: bytes, size: int, trailer: str | None) -> tuple[int, bytes]:
    headers = {"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": str(size)}
    if trailer is not None:
        headers["X-Amz-Trailer"] = trailer
    return send(server, "PUT", "/data/k", body=body, headers=headers, trailer=True)


def test_a_chunked_body_with_a_checksum_in_its_trailer(server: RunningServer) -> None:
    s3 = make_client(server, "s3")
    s3.create_bucket(Bucket="data", CreateBucketConfiguration=HERE)
    payload = b"hello, chunks" * 100
    right = f"x-amz-checksum-crc32:{checksum('crc32', payload)}"

    status, _ = put_chunked(server, chunked(payload, right), len(payload), "x-amz-checksum-crc32")

    assert status == 200
    got = s3.get_object(Bucket="data", Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == payload
    assert got["ChecksumCRC32"] == checksum("crc32", payload)
    # The coding of the transport is not the object's.
    assert "ContentEncoding" not in got


@pytest.mark.parametrize(
    ("lines", "announced", "size", "code"),
    [
        (["x-amz-checksum-crc32:AAAAAA=="], "x-amz-checksum-crc32", 5, b"BadDigest"),
        ([], "x-amz-checksum-crc32", 5, b"MalformedTrailerError"),
        (["x-amz-checksum-crc32:AAAAAA=="], None, 5, b"MalformedTrailerError"),
        (["x-other:1"], "x-other", 5, b"InvalidRequest"),
        (["x-amz-checksum-xxhash64:AAAA"], "x-amz-checksum-xxhash64", 5, b"NotImplemented"),
        (
            [f"x-amz-checksum-crc32:{checksum('crc32', b'hello')}"],
            "x-amz-checksum-crc32",
            6,
            b"IncompleteBody",
        ),
    ],
)
def test_a_wrong_trailer_is_refused(
    server: RunningServer, lines: list[str], announced: str | None, size: int, code: bytes
) -> None:
    s3 = make_client(server, "s3")
    s3.create_bucket(Bucket="data", CreateBucketConfiguration=HERE)

    _, answer = put_chunked(server, chunked(b"hello", *lines), size, announced)

    assert b"<Code>" + code + b"</Code>" in answer
    assert s3.list_objects_v2(Bucket="data")["KeyCount"] == 0


@given(st.binary(), st.text(max_size=30))
@example(b"", "\t,\x85")  # what str.strip takes for white space
def test_no_trailer_breaks_the_reader(trailer: bytes, announced: str) -> None:
    outcome = "accepted"
    try:
        check_trailer(trailer, announced, b"hello")
    except AwsError as error:
        outcome = error.code

    # Nothing announced and nothing there is right; a checksum that is announced is never guessed.
    assert outcome in ("MalformedTrailerError", "BadDigest", "InvalidRequest", "NotImplemented") or (
        outcome == "accepted" and not announced.replace(",", " ").strip()
    )


@pytest.mark.slow
def test_awscli_stores_lists_and_reads(server: RunningServer, tmp_path: Path) -> None:
    administrator = server.sim.state.ensure_administrators(server.sim.settings.accounts)[0]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": administrator.access_key_id,
        "AWS_SECRET_ACCESS_KEY": administrator.secret_access_key,
        "AWS_DEFAULT_REGION": DEFAULT_REGION,
        "AWS_ENDPOINT_URL": server.url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    def aws(*arguments: str) -> str:
        done: Any = subprocess.run(
            [sys.executable, "-m", "awscli", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    (tmp_path / "file.txt").write_text("from the command line")
    aws("s3", "mb", "s3://data")
    aws("s3", "cp", "file.txt", "s3://data/folder/file.txt", "--sse", "aws:kms")
    assert "PRE folder/" in aws("s3", "ls", "s3://data")
    aws("s3", "cp", "s3://data/folder/file.txt", "back.txt")
    aws("iam", "create-user", "--user-name", "ann")
    assert "user/ann" in aws("iam", "get-user", "--user-name", "ann")
    aws("s3", "rb", "s3://data", "--force")

    assert (tmp_path / "back.txt").read_text() == "from the command line"
    assert make_client(server, "s3").list_buckets()["Buckets"] == []
