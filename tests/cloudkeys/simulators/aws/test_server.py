"""The simulator's frame: signatures, faults on request, control endpoint, connections, durable state."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

from cloudkeys.simulators.aws import auth, bootstrap, frame
from cloudkeys.simulators.aws.context import ACCOUNTS, AwsError, Settings
from cloudkeys.simulators.aws.faults import Fault
from cloudkeys.simulators.aws.server import RunningServer, running
from cloudkeys.simulators.aws.state import State
from tests.cloudkeys.simulators.aws.conftest import make_client

CALLS = {"kms": "list_keys", "iam": "list_users", "sts": "get_caller_identity", "s3": "list_buckets"}


def refused(client: Any, service: str) -> tuple[str, int]:
    """Code and HTTP status with which a harmless call is refused."""
    with pytest.raises(ClientError) as error:
        getattr(client, CALLS[service])()
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def credentials(server: RunningServer) -> tuple[str, str]:
    """The first administrator's."""
    return bootstrap.administrator_credentials(server.sim, ACCOUNTS[0])


# --- signatures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", CALLS)
def test_a_right_signature(server: RunningServer, service: str) -> None:
    answer = getattr(make_client(server, service), CALLS[service])()
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert len(answer["ResponseMetadata"]["RequestId"]) == 36


@pytest.mark.parametrize(
    ("service", "code", "status"),
    [
        ("kms", "UnrecognizedClientException", 400),
        ("iam", "InvalidClientTokenId", 403),
        ("sts", "InvalidClientTokenId", 403),
        ("s3", "InvalidAccessKeyId", 403),
    ],
)
def test_unknown_and_inactive_keys(server: RunningServer, service: str, code: str, status: int) -> None:
    stranger = make_client(server, service, credentials=("AKIAAAAAAAAAAAAAAAAA", "s" * 40))
    assert refused(stranger, service) == (code, status)
    iam = make_client(server, "iam")
    iam.create_user(UserName="u")
    made = iam.create_access_key(UserName="u")["AccessKey"]
    iam.update_access_key(UserName="u", AccessKeyId=made["AccessKeyId"], Status="Inactive")
    inactive = make_client(server, service, credentials=(made["AccessKeyId"], made["SecretAccessKey"]))
    assert refused(inactive, service) == (code, status)


@pytest.mark.parametrize(
    ("service", "code", "status"),
    [
        ("kms", "InvalidSignatureException", 400),
        ("iam", "SignatureDoesNotMatch", 403),
        ("sts", "SignatureDoesNotMatch", 403),
        ("s3", "SignatureDoesNotMatch", 403),
    ],
)
def test_wrong_secrets(server: RunningServer, service: str, code: str, status: int) -> None:
    client = make_client(server, service, credentials=(credentials(server)[0], "w" * 40))
    assert refused(client, service) == (code, status)


@pytest.mark.parametrize(
    ("service", "code"),
    [("kms", "UnrecognizedClientException"), ("sts", "InvalidClientTokenId"), ("s3", "InvalidToken")],
)
def test_a_session_token_that_is_not_the_keys(server: RunningServer, service: str, code: str) -> None:
    client = make_client(server, service, credentials=(*credentials(server), "token"))
    assert refused(client, service)[0] == code


def signed(server: RunningServer, **changes: Any) -> auth.SignedRequest:
    """A correctly signed ListKeys request, captured from botocore, with parts exchanged."""
    client = make_client(server, "kms")
    caught: list[Any] = []
    client.meta.events.register("before-send", lambda request, **_: caught.append(request))
    client.list_keys()
    headers = {
        name.lower(): value.decode() if isinstance(value, bytes) else value
        for name, value in caught[0].headers.items()
    }
    headers["host"] = urlsplit(server.url).netloc
    parts: dict[str, Any] = {"method": "POST", "path": "/", "query": "", "headers": headers, "body": b"{}"}
    parts.update({name: value for name, value in changes.items() if name != "header"})
    for name, value in changes.get("header", {}).items():
        parts["headers"] = {**parts["headers"], name: value(parts["headers"].get(name, ""))}
    return auth.SignedRequest(**parts)


def test_the_captured_request_is_right(server: RunningServer) -> None:
    caller, region, body = auth.authenticate(server.sim, signed(server), "kms")
    assert (caller.user_name, region, body) == ("Administrator", "eu-west-1", b"{}")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"method": "PUT"}, "InvalidSignatureException"),
        ({"path": "/other"}, "InvalidSignatureException"),
        ({"query": "a=b"}, "InvalidSignatureException"),
        ({"body": b"{ }"}, "InvalidSignatureException"),
        ({"header": {"host": lambda old: "other"}}, "InvalidSignatureException"),
        ({"header": {"x-amz-target": lambda old: "TrentService.CreateKey"}}, "InvalidSignatureException"),
        ({"header": {"x-amz-date": lambda old: "20200101T000000Z"}}, "InvalidSignatureException"),
        ({"header": {"x-amz-date": lambda old: ""}}, "IncompleteSignatureException"),
        ({"header": {"authorization": lambda old: ""}}, "IncompleteSignatureException"),
        ({"header": {"authorization": lambda old: "Basic eDp5"}}, "IncompleteSignatureException"),
        (
            {"header": {"authorization": lambda old: old.replace("aws4_request", "aws5_request")}},
            "IncompleteSignatureException",
        ),
        ({"header": {"authorization": lambda old: old.replace("host;", "")}}, "IncompleteSignatureException"),
        (
            {"header": {"authorization": lambda old: old.replace("/kms/", "/iam/")}},
            "InvalidSignatureException",
        ),
        (
            {"header": {"authorization": lambda old: old.replace("eu-west-1", "us-east-1")}},
            "InvalidSignatureException",
        ),
        (
            {"header": {"authorization": lambda old: old.replace("eu-west-1", "atlantis")}},
            "UnrecognizedClientException",
        ),
        ({"header": {"authorization": lambda old: old[:-64] + "0" * 64}}, "InvalidSignatureException"),
    ],
)
def test_every_part_is_covered(server: RunningServer, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(AwsError) as error:
        auth.authenticate(server.sim, signed(server, **changes), "kms")
    assert error.value.code == code


def test_no_signature_at_all(server: RunningServer) -> None:
    assert _plain(server, "POST", "/", {"X-Amz-Target": "TrentService.ListKeys"})[0] == 400
    status, body = _plain(server, "POST", "/", {"X-Amz-Target": "TrentService.ListKeys"})
    assert json.loads(body)["__type"] == "MissingAuthenticationTokenException"
    assert _plain(server, "GET", "/bucket/key", {})[0] == 403
    assert status == 400


def test_presigned_urls(server: RunningServer) -> None:
    s3 = make_client(server, "s3")
    s3.create_bucket(Bucket="presigned", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="presigned", Key="a b/ü", Body=b"content")
    url = s3.generate_presigned_url("get_object", {"Bucket": "presigned", "Key": "a b/ü"}, ExpiresIn=60)
    target = url.removeprefix(server.url)
    if "X-Amz-Signature" not in target:
        s3v4 = make_client(server, "s3", signature_version="s3v4")
        url = s3v4.generate_presigned_url("get_object", {"Bucket": "presigned", "Key": "a b/ü"}, ExpiresIn=60)
        target = url.removeprefix(server.url)
    assert _plain(server, "GET", target, {}) == (200, b"content")
    assert _plain(server, "GET", target.replace("Expires=60", "Expires=600"), {})[0] == 403


def test_signed_chunks() -> None:
    """The example of "Signature calculations: transferring a payload in multiple chunks" in the S3 API reference."""
    key = auth.signing_key("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1", "s3")
    seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    claim = auth.Signature(
        "AKIAIOSFODNN7EXAMPLE", "20130524", "us-east-1", "s3", ("host",), seed, "20130524T000000Z", None
    )
    signatures = (
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    )
    chunks = (b"a" * 65536, b"a" * 1024, b"")
    body = b"".join(
        f"{len(chunk):x};chunk-signature={signature}\r\n".encode() + chunk + b"\r\n"
        for chunk, signature in zip(chunks, signatures, strict=True)
    )
    headers = {"x-amz-decoded-content-length": "66560", "x-amz-content-sha256": auth.STREAMING_SIGNED}
    request = auth.SignedRequest("PUT", "/k", "", headers, body)
    assert auth._checked_body(request, claim, key) == b"a" * 66560
    broken = auth.SignedRequest("PUT", "/k", "", headers, body.replace(b"a" * 1024, b"a" * 1023 + b"b"))
    with pytest.raises(AwsError, match="SignatureDoesNotMatch"):
        auth._checked_body(broken, claim, key)


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "throttled", "failed"),
    [
        ("kms", ("ThrottlingException", 400), ("KMSInternalException", 503)),
        ("iam", ("Throttling", 400), ("ServiceFailure", 503)),
        ("s3", ("SlowDown", 503), ("InternalError", 503)),
    ],
)
def test_throttling_and_errors(
    server: RunningServer, service: str, throttled: tuple[str, int], failed: tuple[str, int]
) -> None:
    client = make_client(server, service)
    server.sim.faults.add(Fault("throttle", service, count=2))
    server.sim.faults.add(Fault("error", service, status=503))
    assert [refused(client, service) for _ in range(3)] == [throttled, throttled, failed]
    getattr(client, CALLS[service])()
    assert server.sim.faults.waiting() == []


def test_a_fault_waits_for_its_operation(server: RunningServer) -> None:
    kms = make_client(server, "kms")
    server.sim.faults.add(Fault("drop", "kms", "CreateKey"))
    kms.list_keys()
    with pytest.raises(ConnectionClosedError):
        kms.create_key()
    assert kms.list_keys()["Keys"] == []


def test_a_lost_answer_comes_after_the_work(server: RunningServer) -> None:
    kms = make_client(server, "kms")
    server.sim.faults.add(Fault("lose_answer", "kms", "CreateKey"))
    with pytest.raises(ConnectionClosedError):
        kms.create_key()
    assert len(kms.list_keys()["Keys"]) == 1


def test_latency_ends_when_the_server_stops(settings: Settings) -> None:
    outcome: list[Exception | str] = []

    def call(client: Any) -> None:
        try:
            client.list_keys()
            outcome.append("answered")
        except (ConnectionClosedError, EndpointConnectionError) as error:
            outcome.append(error)

    with running(settings) as server:
        arrived = threading.Event()
        take = server.sim.faults.take

        def taking(service: str, operation: str) -> list[Fault]:
            arrived.set()
            return take(service, operation)

        server.sim.faults.take = taking  # type: ignore[method-assign]
        server.sim.faults.add(Fault("latency", seconds=300))
        thread = threading.Thread(target=call, args=(make_client(server, "kms"),))
        thread.start()
        assert arrived.wait(10)
    thread.join(10)
    assert len(outcome) == 1


@pytest.mark.parametrize(
    "document",
    [{"kind": "x"}, {}, {"kind": "drop", "count": 0}, {"kind": "latency", "seconds": -1},
     {"kind": "error", "status": 200}, {"kind": "drop", "what": 1}, {"kind": "drop", "count": "2"}],
)  # fmt: skip
def test_faults_that_are_none(server: RunningServer, document: dict[str, Any]) -> None:
    status, body = _control(server, "POST", "faults", document)
    assert status == 400
    assert json.loads(body)["error"]
    assert server.sim.faults.waiting() == []


# --- control endpoint ---------------------------------------------------------------------------------------------


def _plain(
    server: RunningServer, method: str, target: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    try:
        connection.request(method, target, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _control(
    server: RunningServer, method: str, name: str, document: Any = None, **headers: str
) -> tuple[int, bytes]:
    body = b"" if document is None else json.dumps(document).encode()
    given = {"Content-Type": "application/json", **headers}
    return _plain(server, method, f"/_keystead/{name}", given, body)


def test_control_endpoint(server: RunningServer) -> None:
    assert _control(server, "GET", "health") == (200, b'{"status": "ok"}')
    assert _control(server, "POST", "faults", {"kind": "throttle", "service": "kms", "count": 3})[0] == 200
    (waiting,) = json.loads(_control(server, "GET", "faults")[1])["faults"]
    assert (waiting["kind"], waiting["count"]) == ("throttle", 3)
    assert _control(server, "DELETE", "faults")[0] == 200
    assert server.sim.faults.waiting() == []
    before = server.sim.now()
    assert _control(server, "POST", "clock", {"advance_s": 3600})[0] == 200
    assert json.loads(_control(server, "GET", "clock")[1])["offset_s"] == 3600
    assert 3600 <= server.sim.now() - before < 3700
    for wrong in ({"advance_s": -1}, {"advance_s": "1"}, {}, []):
        assert _control(server, "POST", "clock", wrong)[0] == 400
    assert _control(server, "DELETE", "bucket-keys", {})[1] == b'{"ended": 0}'
    assert _control(server, "GET", "nothing")[0] == 404


def test_no_web_page_reaches_the_control_endpoint(server: RunningServer) -> None:
    assert _control(server, "GET", "health", None, Host="attacker.example:4566")[0] == 403
    status, _ = _plain(
        server, "POST", "/_keystead/faults", {"Content-Type": "text/plain"}, b'{"kind": "drop"}'
    )
    assert status == 415
    assert server.sim.faults.waiting() == []
    for host in ("localhost:1", "127.0.0.1", "[::1]:4566", "[::1]"):
        assert _control(server, "GET", "health", None, Host=host)[0] == 200


# --- server and state ---------------------------------------------------------------------------------------------


def test_loopback_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loopback"), running(Settings(data_dir=tmp_path, host="0.0.0.0")):
        pass


def test_connections_are_kept_alive(server: RunningServer) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    ports = set()
    for _ in range(3):
        connection.request("GET", "/_keystead/health", headers={})
        assert connection.getresponse().read() == b'{"status": "ok"}'
        ports.add(connection.sock.getsockname()[1])
    connection.close()
    assert len(ports) == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request(server: RunningServer, request_bytes: bytes) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(request_bytes)
        answer = b""
        while data := connection.recv(4096):
            answer += data
    assert b"400" in answer.split(b"\r\n")[0] or b"Error code: 400" in answer


def test_chunked_requests(server: RunningServer) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"POST /_keystead/faults HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b'7\r\n{"kind"\r\n9;x=y\r\n: "drop"}\r\n0\r\n\r\n'
        )
        answer = b""
        while data := connection.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200")
    assert server.sim.faults.waiting()[0]["kind"] == "drop"


def test_a_bug_in_a_service_is_a_500_with_an_id(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(sim: Any, request: Any) -> dict[str, Any]:
        raise RuntimeError("a bug")

    monkeypatch.setitem(frame.SERVICES, "kms", broken)
    with pytest.raises(ClientError) as error:
        make_client(server, "kms").list_keys()
    assert error.value.response["Error"]["Code"] == "KMSInternalException"
    assert error.value.response["ResponseMetadata"]["RequestId"] in caplog.text


def test_state_survives_a_restart(settings: Settings) -> None:
    with running(settings) as server:
        key = make_client(server, "kms").create_key()["KeyMetadata"]
        blob = make_client(server, "kms").encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]
        before = credentials(server)
        server.sim.state.advance_clock(60)
    with running(settings) as server:
        assert credentials(server) == before
        assert make_client(server, "kms").decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
        assert server.sim.state.clock_offset_s() == 60


def test_files_are_private(server: RunningServer) -> None:
    folder = server.sim.settings.data_dir
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    state = State(tmp_path)

    def fail() -> None:
        with state.transaction():
            state.set_value("a", "b")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert state.get_value("a") is None
    state.close()


def test_credentials_after_the_first_key_was_rotated_away(server: RunningServer) -> None:
    iam = make_client(server, "iam")
    first = credentials(server)[0]
    second = iam.create_access_key(UserName="Administrator")["AccessKey"]
    iam.delete_access_key(UserName="Administrator", AccessKeyId=first)
    assert credentials(server) == (second["AccessKeyId"], second["SecretAccessKey"])
    again = make_client(server, "iam", credentials=credentials(server))
    again.update_access_key(UserName="Administrator", AccessKeyId=second["AccessKeyId"], Status="Inactive")
    assert credentials(server) == (second["AccessKeyId"], second["SecretAccessKey"])
    again.delete_access_key(UserName="Administrator", AccessKeyId=second["AccessKeyId"])
    third = credentials(server)
    assert third[0] not in (first, second["AccessKeyId"])
    assert make_client(server, "kms", credentials=third).list_keys()["Keys"] == []


PROGRAM = """
import sys
from pathlib import Path
from cloudkeys.simulators.aws.context import Settings
from cloudkeys.simulators.aws.server import running
with running(Settings(data_dir=Path(sys.argv[1]))) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_what_was_answered_survives_kill_9(settings: Settings) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(settings.data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
    )
    with process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        sim = bootstrap.open_simulator(settings)
        try:
            keys = make_client(RunningServer(sim, url), "kms")
            made = [keys.create_key()["KeyMetadata"]["KeyId"] for _ in range(5)]
        finally:
            process.send_signal(signal.SIGKILL)
            sim.close()
    with running(settings) as server:
        listed = make_client(server, "kms").list_keys()["Keys"]
    assert {key["KeyId"] for key in listed} == set(made)
