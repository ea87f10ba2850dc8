"""The HTTP shell: how much of a request is read, probes, the journal before the answer, our own faults."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.xks import world
from tests.xks.shell import Answer, FakeExchange, FakeScope, HeaderTable, Shell, apply
from xks import aead, wire
from xks import app as app_module
from xks.agent_reader import HSM_AWAY
from xks.app import MAX_BODY_BYTES
from xks.bodies import CallerMetadata
from xks.errors import AccessDeniedException, error_body
from xks.journal import JournalUnavailable, MemoryJournal, Record
from xks.keyring import Key, Store

ENCRYPT = world.encrypt_body()
PATH = world.path("encrypt")


def padded(length: int) -> bytes:
    """Return a valid Encrypt body of exactly ``length`` bytes."""
    body = world.dumped(ENCRYPT)
    return body + b" " * (length - len(body))


async def chunked(shell: Shell, chunks: list[bytes]) -> Answer:
    headers = world.sign(PATH, b"".join(chunks))
    return await shell.send("POST", PATH, [*headers.items(), ("host", "xks.keystead.test")], chunks)


# --- bodies


async def test_body_of_the_greatest_length(shell: Shell) -> None:
    assert (await shell.post(PATH, padded(MAX_BODY_BYTES))).status == 200
    assert (await chunked(shell, [padded(MAX_BODY_BYTES)[:100], padded(MAX_BODY_BYTES)[100:]])).status == 200


async def test_announced_length_over_the_limit_is_refused_unread(shell: Shell) -> None:
    answer = await shell.post(PATH, padded(MAX_BODY_BYTES + 1))
    assert answer.error == (501, "UnsupportedOperationException")
    assert answer.read == 0
    assert answer.headers["connection"] == "close"


async def test_unannounced_body_is_read_no_further_than_the_limit(shell: Shell) -> None:
    answer = await chunked(shell, [bytes(1024)] * 1000)
    assert answer.error == (501, "UnsupportedOperationException")
    assert answer.read == MAX_BODY_BYTES + 1024


async def test_connection_header_is_not_for_http2(shell: Shell) -> None:
    answer = await shell.send("POST", "/nowhere", http_version="2", authority="a")
    assert answer.status == 404
    assert "connection" not in answer.headers


async def test_http2_authority_is_signed(shell: Shell) -> None:
    raw = world.dumped(ENCRYPT)
    headers = list(world.sign(PATH, raw, host="h2.test").items())
    answer = await shell.send("POST", PATH, headers, raw, http_version="2", authority="h2.test")
    assert answer.status == 200
    # On HTTP/1 an absolute request target does not stand for the Host header.
    answer = await shell.send("POST", PATH, [*headers, ("host", "other")], raw, authority="h2.test")
    assert answer.error == (401, "AuthenticationFailedException")


@pytest.mark.parametrize("announced", [True, False])
async def test_slow_body_is_given_up_within_the_budget(announced: bool) -> None:
    class Slow(FakeExchange):
        async def __call__(self) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

    shell = Shell(budget_s=0.02)
    exchange = Slow([])
    headers = [("content-length", "100")] if announced else []
    await shell.app.__rsgi__(FakeScope("POST", PATH, HeaderTable(headers)), exchange)
    assert Answer(exchange.status, exchange.body).error == (503, "DependencyTimeoutException")
    assert shell.journal.records == []
    assert shell.journal.counts == {("DependencyTimeoutException", "192.0.2.1"): 1}


async def test_work_that_nobody_waits_for_any_more_is_not_done() -> None:
    shell = Shell(budget_s=0)
    answer = await shell.call("encrypt", ENCRYPT)
    assert answer.error == (503, "DependencyTimeoutException")
    assert shell.journal.records == []
    assert shell.journal.counts == {("DependencyTimeoutException", "192.0.2.1"): 1}
    # Not even its signature is looked at.
    wrong = wire.CredentialRecord(world.CREDENTIAL.access_key_id, b"w" * 43)
    assert (await shell.call("encrypt", ENCRYPT, credential=wrong)).status == 503


async def test_more_requests_than_can_be_answered_in_time_are_refused(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waiting(FakeExchange):
        async def __call__(self) -> bytes:
            await come.wait()
            return await super().__call__()

    monkeypatch.setattr(app_module, "MAX_IN_FLIGHT", 3)
    monkeypatch.setattr(app_module, "FEW_IN_FLIGHT", 0)
    come = asyncio.Event()
    raw = world.dumped(ENCRYPT)
    signed = [
        *world.sign(PATH, raw).items(),
        ("host", "xks.keystead.test"),
        ("content-length", str(len(raw))),
    ]
    exchanges = [Waiting([raw]) for _ in range(5)]
    tasks = [
        asyncio.create_task(shell.app.__rsgi__(FakeScope("POST", PATH, HeaderTable(signed)), exchange))
        for exchange in exchanges
    ]
    await asyncio.sleep(0)
    assert (await shell.send("GET", "/ping")).status == 200
    come.set()
    await asyncio.gather(*tasks)
    assert [exchange.status for exchange in exchanges] == [200, 200, 200, 429, 429]
    assert [exchange.read for exchange in exchanges] == [len(raw)] * 3 + [0, 0]
    assert shell.journal.counts == {("ThrottlingException", "192.0.2.1"): 2}
    assert len(shell.journal.records) == 3
    # They are gone again, whatever became of them.
    assert (await shell.call("encrypt", ENCRYPT)).status == 200


async def test_a_loop_whose_turns_take_too_long_lets_few_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "FEW_IN_FLIGHT", 2)
    shell = Shell(budget_s=5.0)
    clock = 100.0
    monkeypatch.setattr(app_module, "boot_clock", lambda: clock)
    app = shell.app
    app._in_flight = 3
    assert not app._is_crowded(clock)  # nothing is known of turns yet
    clock += 1.9
    assert not app._is_crowded(clock)
    clock += 0.2
    assert app._is_crowded(clock)  # a turn that has not ended counts already
    await asyncio.sleep(0)
    assert app._is_crowded(clock)  # it has, and took so long; a new one is looked at
    app._in_flight = 2
    assert not app._is_crowded(clock)
    app._in_flight = 3
    await asyncio.sleep(0)
    assert not app._is_crowded(clock)  # that one was quick


# --- methods and probes


@pytest.mark.parametrize("operation", ["encrypt", "decrypt", "metadata", "health"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "post"])
async def test_other_methods(shell: Shell, operation: str, method: str) -> None:
    answer = await shell.send(method, world.path(operation))
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/ping"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_probe(shell: Shell, path: str, method: str) -> None:
    answer = await shell.send(method, path, [("host", "198.51.100.7")])
    assert (answer.status, answer.json) == (200, {"status": "ok"})


async def test_probe_by_another_method(shell: Shell) -> None:
    assert (await shell.send("POST", "/ping")).status == 405


async def test_probe_tells_that_the_root_key_is_away() -> None:
    shell = Shell(loaded=False)
    shell.serving.root_problem = HSM_AWAY
    answer = await shell.send("GET", "/ping")
    assert (answer.status, answer.json["reason"]) == (503, f"no keys loaded yet: {HSM_AWAY}")
    apply(shell.serving, *world.full_load())
    assert shell.serving.take_lease(world.lease(), wire.boot_clock())
    assert (await shell.send("GET", "/ping")).json == {"status": "ok"}, "what is open goes on"
    shell.serving.leased_at = wire.boot_clock() - 61
    answer = await shell.send("GET", "/ping")
    assert (answer.status, HSM_AWAY in answer.json["reason"]) == (503, True)


async def test_probe_tells_why_it_cannot_serve() -> None:
    shell = Shell(loaded=False)
    answer = await shell.send("GET", "/ping")
    assert answer.status == 503
    assert "no keys loaded" in answer.json["reason"]
    apply(shell.serving, *world.full_load())
    assert (await shell.send("GET", "/")).status == 503
    assert shell.serving.take_lease(world.lease(), wire.boot_clock())
    assert (await shell.send("GET", "/")).status == 200
    shell.serving.leased_at = wire.boot_clock() - 61
    answer = await shell.send("GET", "/ping")
    assert answer.status == 503
    assert "out of touch" in answer.json["reason"]


async def test_probe_warns_at_half_of_the_bound(shell: Shell) -> None:
    for age, said in ((29, None), (31, "serves on for 28 s"), (59, "serves on for 0 s")):
        shell.serving.leased_at = wire.boot_clock() - age
        answer = await shell.send("GET", "/ping")
        assert answer.status == 200
        assert answer.json["status"] == "ok"
        assert (said or "") in answer.json.get("warning", "")
        assert ("warning" in answer.json) == (said is not None)
    assert shell.serving.take_lease(world.lease(), wire.boot_clock())
    assert (await shell.send("GET", "/ping")).json == {"status": "ok"}


# --- the journal


async def test_record_of_a_use(shell: Shell) -> None:
    metadata = {**world.REQUEST_METADATA, "awsSourceVpc": "vpc-1", "awsSourceVpce": "vpce-1"}
    await shell.encrypt(requestMetadata=metadata)
    (record,) = shell.journal.records
    assert record.microseconds > 0
    assert record.at > 1.7e9
    assert record == Record(
        at=record.at,
        generation=1,
        store_id="store-1",
        access_key_id=world.CREDENTIAL.access_key_id,
        region="us-east-1",
        operation="encrypt",
        outcome="OK",
        microseconds=record.microseconds,
        external_key_id="foo",
        key_id="store-1/foo",
        version=1,
        principal_arn=metadata["awsPrincipalArn"],
        kms_key_arn=metadata["kmsKeyArn"],
        kms_operation="Encrypt",
        kms_request_id=metadata["kmsRequestId"],
        kms_via_service="ebs",
        source_vpc="vpc-1",
        source_vpce="vpce-1",
    )


async def test_decrypt_records_the_version_that_was_used(shell: Shell) -> None:
    encrypted = await shell.encrypt()
    versions = [*world.key_record("foo").versions, wire.VersionRecord(9, bytes(32))]
    apply(
        shell.serving,
        wire.Delta(2, False, True, keys=[world.key_record("foo", current_version=9, versions=versions)]),
    )
    await shell.call("decrypt", world.decrypt_body(encrypted))
    assert (shell.journal.records[-1].version, shell.journal.records[-1].generation) == (1, 2)


@pytest.mark.parametrize(
    ("operation", "body", "key", "outcome"),
    [
        ("encrypt", ENCRYPT, "absent", "KeyNotFoundException"),
        ("encrypt", ENCRYPT, "disabled_key", "InvalidStateException"),
        ("encrypt", {}, "foo", "ValidationException"),
        ("metadata", world.metadata_body(), "foo", "OK"),
        ("health", world.health_body(), "foo", "OK"),
    ],
)
async def test_every_authenticated_request_is_recorded(
    shell: Shell, operation: str, body: Any, key: str, outcome: str
) -> None:
    await shell.call(operation, body, key)
    (record,) = shell.journal.records
    assert (record.operation, record.outcome, record.store_id) == (operation, outcome, "store-1")
    assert shell.journal.counts == {}


async def test_denied_use_is_recorded() -> None:
    def deny(store: Store, key: Key, operation: str, metadata: CallerMetadata, now: float) -> None:
        raise AccessDeniedException("no")

    shell = Shell(judge=deny)
    await shell.call("encrypt", ENCRYPT)
    assert shell.journal.records[0].outcome == "AccessDeniedException"


async def test_strangers_are_only_counted(shell: Shell) -> None:
    await shell.send("POST", "/nowhere")
    await shell.send("GET", PATH)
    await shell.send("POST", PATH)
    await shell.send("POST", PATH, client="[2001:db8::1]:1234")
    assert shell.journal.records == []
    assert shell.journal.counts == {
        ("InvalidUriPathException", "192.0.2.1"): 1,
        ("UnsupportedOperationException", "192.0.2.1"): 1,
        ("AuthenticationFailedException", "192.0.2.1"): 1,
        ("AuthenticationFailedException", "[2001:db8::1]"): 1,
    }


async def test_record_comes_before_the_answer(shell: Shell) -> None:
    exchange = FakeExchange([world.dumped(ENCRYPT)])
    seen = []

    class Watching(MemoryJournal):
        def append(self, record: Record) -> None:
            seen.append(exchange.status)

    shell.app.journal = Watching()
    pairs = [*world.sign(PATH, exchange.chunks[0]).items(), ("host", "xks.keystead.test")]
    await shell.app.__rsgi__(FakeScope("POST", PATH, HeaderTable(pairs)), exchange)
    assert seen == [0]
    assert exchange.status == 200


@pytest.mark.parametrize("key", ["foo", "absent"])
async def test_no_result_leaves_without_its_record(
    shell: Shell, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(MemoryJournal):
        def append(self, record: Record) -> None:
            raise JournalUnavailable("no space left on device")

    shell.app.journal = Full()
    answer = await shell.call("encrypt", ENCRYPT, key)
    assert answer.error == (500, "InternalException")
    assert b"ciphertext" not in answer.body
    assert "JournalUnavailable" in caplog.text


# --- our own faults


async def test_unexpected_exception_is_told_without_detail(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(key: object, version: int, plaintext: bytes, aad: bytes) -> aead.Sealed:
        raise ZeroDivisionError(plaintext)

    monkeypatch.setattr(aead, "seal", broken)
    with caplog.at_level(logging.DEBUG):
        answer = await shell.call("encrypt", world.encrypt_body(b"s3cret plaintext"))
    assert answer.error == (500, "InternalException")
    incident = answer.json["errorMessage"].rpartition(" ")[2]
    assert len(incident) == 16
    assert incident in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert world.REQUEST_METADATA["kmsRequestId"] in caplog.text
    assert "s3cret" not in caplog.text + answer.body.decode()
    assert world.b64(b"s3cret plaintext") not in caplog.text
    assert shell.journal.records[0].outcome == "InternalException"


async def test_nothing_secret_is_logged_or_journalled(shell: Shell, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        encrypted = await shell.encrypt(b"s3cret plaintext")
        await shell.call("decrypt", world.decrypt_body(encrypted))
        await shell.call(
            "decrypt", {**world.decrypt_body(encrypted), "ciphertext": world.b64(b"s3cret plaintext")}
        )
        await shell.call("encrypt", world.encrypt_body(b"s3cret plaintext", encryptionAlgorithm=1))
    everything = (
        caplog.text + repr(shell.journal.records) + repr(vars(shell.app)) + repr(shell.serving.keyring)
    )
    for secret in (b"s3cret plaintext", world.SECRET, world.key_record("foo").versions[0].material):
        assert secret.hex() not in everything
        assert world.b64(secret) not in everything
        assert repr(secret)[2:-1] not in everything


@pytest.mark.parametrize("message", ["é ü\n\x00\x7f", "x" * 1000, ""])
def test_error_messages_are_short_printable_ascii(message: str) -> None:
    body = error_body(AccessDeniedException(message))
    assert Answer(403, body).error == (403, "AccessDeniedException")


async def test_401_says_how_to_authenticate(shell: Shell) -> None:
    assert (await shell.send("POST", PATH)).headers["www-authenticate"] == "AWS4-HMAC-SHA256"


def test_memory_journal_keeps_a_bounded_amount() -> None:
    journal = MemoryJournal(limit=10)
    record = Record(0.0, 1, "s", "a", "r", "health", "OK", 1)
    for number in range(100):
        journal.append(record)
        journal.count("AuthenticationFailedException", f"192.0.2.{number}")
    assert len(journal.records) <= 10
    assert len(journal.counts) <= 11
    assert sum(journal.counts.values()) == 100


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/nowhere", 404), ("GET", PATH, 405)])
async def test_refusal_that_no_body_can_change_still_waits_for_the_body(
    shell: Shell, method: str, path: str, status: int
) -> None:
    """Answering earlier resets an HTTP/2 stream, and the client loses the answer."""
    answer = await shell.send(method, path, body=padded(2000), http_version="2", authority="a")
    assert (answer.status, answer.read) == (status, 2000)
    endless = await shell.send(method, path, body=[bytes(1024)] * 1000)
    assert (endless.status, endless.read) == (status, MAX_BODY_BYTES + 1024)
    assert endless.headers["connection"] == "close"
