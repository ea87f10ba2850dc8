"""Cryptographic operations: own keys, keys of an external key store, and everything that can be tampered with."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cloudkeys.simulators.aws import kms_crypto, kms_stores
from cloudkeys.simulators.aws.context import ACCOUNTS, AwsError, Caller, Settings
from cloudkeys.simulators.aws.kms_state import canonical_context
from cloudkeys.simulators.aws.server import RunningServer, running
from tests.cloudkeys.simulators.aws import fake_proxy
from tests.cloudkeys.simulators.aws.conftest import make_client, make_store
from tests.cloudkeys.simulators.aws.fake_proxy import Answer, FakeProxy, Seen, error
from tests.cloudkeys.simulators.aws.test_kms_keys import code_of

ADMINISTRATOR = f"arn:aws:iam::{ACCOUNTS[0]}:user/Administrator"
CONTEXT = {"project": "nile", "department": "marketing"}


@dataclasses.dataclass
class World:
    """A client and one key: of the simulator itself, or backed by an external key."""

    kms: Any
    key_id: str
    server: RunningServer


def external_world(server: RunningServer) -> World:
    """A key in a connected external key store."""
    kms = make_client(server, "kms")
    store_id = make_store(kms)
    kms.connect_custom_key_store(CustomKeyStoreId=store_id)
    kms_stores.wait_for_connections(server.sim)
    made = kms.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId="key-1")
    return World(kms, made["KeyMetadata"]["KeyId"], server)


@pytest.fixture(params=["own", "external"])
def world(request: pytest.FixtureRequest, xks_server: RunningServer) -> World:
    """Both kinds of keys: what holds for one must hold for the other."""
    if request.param == "external":
        return external_world(xks_server)
    kms = make_client(xks_server, "kms")
    return World(kms, kms.create_key()["KeyMetadata"]["KeyId"], xks_server)


@pytest.fixture
def external(xks_server: RunningServer) -> World:
    """A key backed by an external key."""
    return external_world(xks_server)


@pytest.mark.parametrize("size", [1, 4096])
@pytest.mark.parametrize("context", [{}, CONTEXT])
def test_round_trip(world: World, size: int, context: dict[str, str]) -> None:
    plaintext = b"p" * size
    sealed = world.kms.encrypt(KeyId=world.key_id, Plaintext=plaintext, EncryptionContext=context)
    assert len(sealed["CiphertextBlob"]) <= 6144
    opened = world.kms.decrypt(
        CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=dict(reversed(context.items()))
    )
    assert opened["Plaintext"] == plaintext
    assert opened["KeyId"] == sealed["KeyId"]
    assert sealed["KeyId"].endswith(world.key_id)


def test_the_context_is_bound(world: World) -> None:
    blob = world.kms.encrypt(KeyId=world.key_id, Plaintext=b"x", EncryptionContext=CONTEXT)["CiphertextBlob"]
    for other in ({}, {"project": "nile"}, {**CONTEXT, "a": "b"}, {"project": "nile,department=marketing"}):
        refused = code_of(world.kms.decrypt, CiphertextBlob=blob, EncryptionContext=other)
        assert refused in ("InvalidCiphertextException", "KMSInvalidStateException")


def test_no_byte_of_a_ciphertext_can_be_changed(world: World) -> None:
    call = kms_crypto._Call(_administrator(), "eu-west-1", "Decrypt", "id")
    blob = world.kms.encrypt(KeyId=world.key_id, Plaintext=b"x" * 9)["CiphertextBlob"]
    for position in range(len(blob)):
        changed = bytearray(blob)
        changed[position] ^= 1
        with pytest.raises(AwsError) as refused:
            kms_crypto._open(world.server.sim, call, "Decrypt", bytes(changed), {}, None)
        assert refused.value.code in (
            "InvalidCiphertextException",
            "KMSInvalidStateException",
            "AccessDeniedException",
        )
    for length in range(len(blob)):
        with pytest.raises(AwsError) as refused:
            kms_crypto._open(world.server.sim, call, "Decrypt", blob[:length], {}, None)
        assert refused.value.code in ("InvalidCiphertextException", "KMSInvalidStateException")


def _administrator() -> Caller:
    return Caller(ACCOUNTS[0], f"arn:aws:iam::{ACCOUNTS[0]}:root", ACCOUNTS[0], "AKIA", is_root=True)


def test_both_layers_are_needed(external: World, proxy: FakeProxy) -> None:
    blob = external.kms.encrypt(KeyId=external.key_id, Plaintext=b"secret words")["CiphertextBlob"]
    asked = proxy.seen[-1]
    assert asked.path == "/keys/key-1/encrypt"
    assert "c2VjcmV0IHdvcmRz" not in asked.document["plaintext"]
    assert b"secret words" not in blob
    proxy.keys["key-1"] = dataclasses.replace(proxy.keys["key-1"], material=bytes(32))
    assert code_of(external.kms.decrypt, CiphertextBlob=blob) == "KMSInvalidStateException"


def test_what_the_proxy_is_told(external: World, proxy: FakeProxy) -> None:
    arn = f"arn:aws:kms:eu-west-1:{ACCOUNTS[0]}:key/{external.key_id}"
    external.kms.generate_data_key(KeyId=external.key_id, KeySpec="AES_256", EncryptionContext=CONTEXT)
    told = proxy.seen[-1].document
    assert told["requestMetadata"].pop("kmsRequestId")
    assert told["requestMetadata"] == {
        "awsPrincipalArn": ADMINISTRATOR,
        "kmsOperation": "GenerateDataKey",
        "kmsKeyArn": arn,
    }
    assert told["encryptionAlgorithm"] == "AES_GCM"
    assert told["ciphertextDataIntegrityValueAlgorithm"] == "SHA_256"
    caller = dataclasses.replace(_administrator(), principal_arn=ADMINISTRATOR)
    made = kms_crypto.generate_data_key(
        external.server.sim, caller, "eu-west-1", arn, CONTEXT, via_service="s3.eu-west-1.amazonaws.com"
    )
    assert proxy.seen[-1].document["requestMetadata"]["kmsViaService"] == "s3.eu-west-1.amazonaws.com"
    opened = kms_crypto.decrypt(
        external.server.sim, caller, "eu-west-1", made.ciphertext_blob, CONTEXT,
        via_service="s3.eu-west-1.amazonaws.com",
    )  # fmt: skip
    assert opened.plaintext == made.plaintext
    assert opened.key_arn == arn
    assert proxy.seen[-1].document["requestMetadata"]["kmsOperation"] == "Decrypt"


def test_connections_are_kept(external: World, proxy: FakeProxy) -> None:
    for _ in range(3):
        external.kms.encrypt(KeyId=external.key_id, Plaintext=b"x")
    assert len({seen.client_port for seen in proxy.seen}) == 1


def test_a_connection_that_the_proxy_closed_is_replaced(external: World, proxy: FakeProxy) -> None:
    closed: list[Seen] = []

    def close_once(seen: Seen) -> Answer | None:
        closed.append(seen)
        return b"" if len(closed) == 1 else None

    proxy.override = close_once
    external.kms.encrypt(KeyId=external.key_id, Plaintext=b"x")
    assert [seen.client_port == closed[0].client_port for seen in closed] == [True, False]


@pytest.mark.parametrize(
    "answer",
    [
        error(400, "InvalidStateException"),
        error(400, "InvalidCiphertextException"),
        error(400, "InvalidKeyUsageException"),
        error(400, "ValidationException"),
        error(401, "AuthenticationFailedException"),
        error(403, "AccessDeniedException"),
        error(404, "KeyNotFoundException"),
        error(404, "InvalidUriPathException"),
        error(429, "ThrottlingException"),
        error(500, "InternalException"),
        error(501, "UnsupportedOperationException"),
        error(503, "DependencyTimeoutException"),
        error(418, "SomethingElse"),
        (500, b"oops"),
        (200, {}),
        b"",
    ],
)
def test_every_failure_of_the_proxy_is_an_invalid_state(
    external: World, proxy: FakeProxy, answer: Answer
) -> None:
    blob = external.kms.encrypt(KeyId=external.key_id, Plaintext=b"x")["CiphertextBlob"]
    proxy.override = lambda seen: answer
    for call, params in (
        (external.kms.encrypt, {"KeyId": external.key_id, "Plaintext": b"x"}),
        (external.kms.decrypt, {"CiphertextBlob": blob}),
        (external.kms.generate_data_key, {"KeyId": external.key_id, "KeySpec": "AES_256"}),
    ):
        with pytest.raises(ClientError, match="KMSInvalidStateException") as refused:
            call(**params)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_wrong_integrity_value_is_noticed(external: World, proxy: FakeProxy) -> None:
    def lie(seen: Seen) -> Answer:
        status, document = fake_proxy._answer(proxy, seen)
        return status, {**document, "ciphertextDataIntegrityValue": "AAAA"}

    proxy.override = lie
    assert code_of(external.kms.encrypt, KeyId=external.key_id, Plaintext=b"x") == "KMSInvalidStateException"


def test_the_proxy_has_so_much_time_and_no_more(xks_settings: Settings, proxy: FakeProxy) -> None:
    with running(xks_settings) as server:
        world = external_world(server)
        released = threading.Event()

        def hold(seen: Seen) -> Answer:
            released.wait()
            return b""

        proxy.override = hold
        server.sim.xks._transport.timeout_s = 0.1
        try:
            with pytest.raises(ClientError, match=r"KMSInvalidStateException.*XKS_PROXY_TIMED_OUT"):
                world.kms.encrypt(KeyId=world.key_id, Plaintext=b"x")
        finally:
            released.set()


def test_data_keys(world: World) -> None:
    for params, size in (
        ({"KeySpec": "AES_256"}, 32),
        ({"KeySpec": "AES_128"}, 16),
        ({"NumberOfBytes": 7}, 7),
    ):
        made = world.kms.generate_data_key(KeyId=world.key_id, **params)
        assert len(made["Plaintext"]) == size
        assert world.kms.decrypt(CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
    hidden = world.kms.generate_data_key_without_plaintext(KeyId=world.key_id, KeySpec="AES_256")
    assert "Plaintext" not in hidden
    assert len(world.kms.decrypt(CiphertextBlob=hidden["CiphertextBlob"])["Plaintext"]) == 32
    assert code_of(world.kms.generate_data_key, KeyId=world.key_id) == "ValidationException"
    assert code_of(world.kms.generate_data_key, KeyId=world.key_id, KeySpec="AES_256", NumberOfBytes=5) == (
        "ValidationException"
    )


def test_re_encrypt_between_the_two_kinds(world: World) -> None:
    destination = world.kms.create_key()["KeyMetadata"]["Arn"]
    blob = world.kms.encrypt(KeyId=world.key_id, Plaintext=b"x", EncryptionContext=CONTEXT)["CiphertextBlob"]
    moved = world.kms.re_encrypt(
        CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, DestinationKeyId=destination
    )
    assert (moved["KeyId"], moved["SourceKeyId"].endswith(world.key_id)) == (destination, True)
    back = world.kms.re_encrypt(
        CiphertextBlob=moved["CiphertextBlob"], DestinationKeyId=world.key_id, SourceKeyId=destination
    )
    assert world.kms.decrypt(CiphertextBlob=back["CiphertextBlob"])["Plaintext"] == b"x"


def test_a_named_key_must_be_the_right_one(world: World) -> None:
    blob = world.kms.encrypt(KeyId=world.key_id, Plaintext=b"x")["CiphertextBlob"]
    other = world.kms.create_key()["KeyMetadata"]["KeyId"]
    assert code_of(world.kms.decrypt, CiphertextBlob=blob, KeyId=other) == "IncorrectKeyException"
    world.kms.create_alias(AliasName="alias/mine", TargetKeyId=world.key_id)
    assert world.kms.decrypt(CiphertextBlob=blob, KeyId="alias/mine")["Plaintext"] == b"x"


def test_a_ciphertext_belongs_to_its_region(world: World) -> None:
    blob = world.kms.encrypt(KeyId=world.key_id, Plaintext=b"x")["CiphertextBlob"]
    elsewhere = make_client(world.server, "kms", region="us-east-1")
    assert code_of(elsewhere.decrypt, CiphertextBlob=blob) == "AccessDeniedException"


def test_a_stranger_may_not(world: World) -> None:
    blob = world.kms.encrypt(KeyId=world.key_id, Plaintext=b"x")["CiphertextBlob"]
    stranger = make_client(world.server, "kms", account=ACCOUNTS[1])
    assert code_of(stranger.decrypt, CiphertextBlob=blob) == "AccessDeniedException"


def test_dry_run(world: World) -> None:
    blob = world.kms.encrypt(KeyId=world.key_id, Plaintext=b"x")["CiphertextBlob"]
    calls: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (world.kms.encrypt, {"KeyId": world.key_id, "Plaintext": b"x"}),
        (world.kms.decrypt, {"CiphertextBlob": blob}),
        (world.kms.generate_data_key, {"KeyId": world.key_id, "KeySpec": "AES_256"}),
    ]
    for call, params in calls:
        assert code_of(call, **params, DryRun=True) == "DryRunOperationException"


def test_random_bytes(xks_server: RunningServer) -> None:
    kms = make_client(xks_server, "kms")
    assert len(kms.generate_random(NumberOfBytes=24)["Plaintext"]) == 24
    assert code_of(kms.generate_random) == "ValidationException"


def test_two_contexts_never_look_the_same() -> None:
    assert canonical_context({"a": 'b","c":"d'}) != canonical_context({"a": "b", "c": "d"})
    assert canonical_context({"b": "1", "a": "2"}) == canonical_context({"a": "2", "b": "1"})
    assert canonical_context({}) == b""
