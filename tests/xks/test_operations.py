"""The four operations: what succeeds, staleness, regions, and what else is promised."""

import json
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.xks import world
from tests.xks.shell import Shell, apply
from xks import aead, wire
from xks.bodies import CallerMetadata
from xks.errors import AccessDeniedException
from xks.keyring import Key, Store


def deny(store: Store, key: Key, operation: str, metadata: CallerMetadata, now: float) -> None:
    raise AccessDeniedException("rule 1 denies this principal")


ENCRYPT = world.encrypt_body()
CDIV = {"ciphertextDataIntegrityValueAlgorithm": "SHA_256"}
WRONG_SECRET = wire.CredentialRecord(world.CREDENTIAL.access_key_id, b"w" * 43)


# --- what succeeds


async def test_encrypt_then_decrypt(shell: Shell) -> None:
    encrypted = await shell.encrypt(b"Hello World!")
    parts = world.decoded(encrypted)
    assert set(parts) == {"ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag"}
    assert len(parts["ciphertext"]) == 12
    assert len(parts["ciphertextMetadata"]) <= 20
    answer = await shell.call("decrypt", world.decrypt_body(encrypted))
    assert (answer.status, answer.json) == (200, {"plaintext": world.b64(b"Hello World!")})
    assert answer.headers["content-type"] == "application/json"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=8192), st.none() | st.binary(max_size=16384), st.sampled_from([None, "SHA_256"]))
async def test_round_trip_of_every_size(
    shell: Shell, plaintext: bytes, aad: bytes | None, cdiv: str | None
) -> None:
    answer = await shell.call(
        "encrypt", world.encrypt_body(plaintext, aad, ciphertextDataIntegrityValueAlgorithm=cdiv)
    )
    assert answer.status == 200
    parts = world.decoded(answer.json)
    if cdiv is None:
        assert "ciphertextDataIntegrityValue" not in parts
    else:
        order = ("ciphertextMetadata", "initializationVector", "ciphertext", "authenticationTag")
        told = sha256((aad or b"") + b"".join(parts[name] for name in order)).digest()
        assert parts["ciphertextDataIntegrityValue"] == told
    opened = await shell.call("decrypt", world.decrypt_body(answer.json, aad))
    assert opened.json == {"plaintext": world.b64(plaintext)}


async def test_empty_aad_is_the_same_as_none(shell: Shell) -> None:
    encrypted = await shell.encrypt(b"x", additionalAuthenticatedData="")
    assert (await shell.call("decrypt", world.decrypt_body(encrypted))).status == 200


async def test_key_without_decrypt_encrypts_unless_an_integrity_value_is_wanted(shell: Shell) -> None:
    await shell.encrypt(key="encrypt_only_key")
    body = world.encrypt_body(ciphertextDataIntegrityValueAlgorithm="SHA_256")
    answer = await shell.call("encrypt", body, "encrypt_only_key")
    assert answer.error == (400, "InvalidKeyUsageException")


async def test_unknown_operation_and_fields_are_no_reason_to_refuse(shell: Shell) -> None:
    metadata = {**world.REQUEST_METADATA, "kmsOperation": "BulkEncrypt", "newField": {"a": [1]}}
    body = world.encrypt_body(requestMetadata=metadata, another=[None])
    assert (await shell.call("encrypt", body)).status == 200


@pytest.mark.parametrize(
    ("key", "uses", "status"),
    [
        ("foo", ["ENCRYPT", "DECRYPT"], "ENABLED"),
        ("encrypt_only_key", ["ENCRYPT"], "ENABLED"),
        ("decrypt_only_key", ["DECRYPT"], "ENABLED"),
        ("impotent_key", [], "ENABLED"),
        ("disabled_key", ["ENCRYPT", "DECRYPT"], "DISABLED"),
        ("pending_key", ["ENCRYPT", "DECRYPT"], "DISABLED"),
        ("blocked_key", ["ENCRYPT", "DECRYPT"], "DISABLED"),
    ],
)
async def test_metadata(shell: Shell, key: str, uses: list[str], status: str) -> None:
    answer = await shell.call("metadata", world.metadata_body(), key)
    assert answer.status == 200
    assert answer.json == {"keySpec": "AES_256", "keyUsage": uses, "keyStatus": status}


async def test_health(shell: Shell) -> None:
    assert shell.serving.take_lease(world.lease(fleet_size=3), wire.boot_clock())
    answer = await shell.call("health", world.health_body())
    assert answer.status == 200
    assert answer.json["xksProxyFleetSize"] == 3
    assert {"xksProxyVendor", "xksProxyModel", "ekmVendor"} < set(answer.json)
    (member,) = answer.json["ekmFleetDetails"]
    assert member["id"] == "node-1"
    assert member["healthStatus"] == "ACTIVE"
    assert member["model"]


async def test_health_is_exempt_from_rules() -> None:
    answer = await Shell(judge=deny).call("health", world.health_body())
    assert answer.json["ekmFleetDetails"][0]["healthStatus"] == "ACTIVE"


@pytest.mark.parametrize(
    "case", ["no health key", "health key gone", "health key disabled", "cryptography broken"]
)
async def test_health_without_a_working_key_is_unavailable(
    shell: Shell, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, others = world.STORES[0], world.STORES[1:]
    fields = {"path_prefix": store.path_prefix, "blocked": False, "credentials": store.credentials}
    if case == "no health key":
        apply(shell.serving, *world.full_load(2, stores=[wire.StoreRecord(id="store-1", **fields), *others]))
    elif case == "health key gone":
        apply(shell.serving, wire.Delta(2, False, True, removed_keys=["store-1/health"]))
    elif case == "health key disabled":
        apply(shell.serving, wire.Delta(2, False, True, keys=[world.key_record("health", state="DISABLED")]))
    else:
        monkeypatch.setattr(aead, "unseal", lambda versions, sealed, aad: b"something else")
    answer = await shell.call("health", world.health_body())
    assert answer.status == 200
    assert answer.json["ekmFleetDetails"][0]["healthStatus"] == "UNAVAILABLE"


async def test_rotation_keeps_old_ciphertext_readable_and_encrypts_with_the_new_version(shell: Shell) -> None:
    old = await shell.encrypt(b"before")
    first = world.key_record("foo").versions[0]
    both = [first, wire.VersionRecord(2, bytes(32))]
    apply(
        shell.serving,
        wire.Delta(2, False, True, keys=[world.key_record("foo", current_version=2, versions=both)]),
    )
    new = await shell.encrypt(b"after")
    assert world.decoded(new)["ciphertextMetadata"][:5] == b"\x01\x00\x00\x00\x02"
    assert (await shell.call("decrypt", world.decrypt_body(old))).json["plaintext"] == world.b64(b"before")
    assert (await shell.call("decrypt", world.decrypt_body(new))).json["plaintext"] == world.b64(b"after")


async def test_empty_prefix_is_told_apart_by_the_credential(shell: Shell) -> None:
    path = world.path("encrypt", prefix="")
    answer = await shell.post(path, world.encrypt_body(), credential=world.NO_PREFIX_CREDENTIAL)
    assert answer.status == 200
    blocked = await shell.post(path, world.encrypt_body(), credential=world.BLOCKED_CREDENTIAL)
    assert blocked.error == (400, "InvalidStateException")
    # Same external key id, another store: another key.
    opened = await shell.call("decrypt", world.decrypt_body(answer.json))
    assert opened.error == (400, "InvalidCiphertextException")


async def test_both_credentials_of_a_store_work(shell: Shell) -> None:
    for credential in (world.CREDENTIAL, world.SECOND_CREDENTIAL):
        assert (await shell.call("metadata", world.metadata_body(), credential=credential)).status == 200


# --- staleness and regions


async def test_nothing_is_served_before_the_first_load_and_lease() -> None:
    shell = Shell(loaded=False)
    assert (await shell.call("encrypt", ENCRYPT)).error == (503, "DependencyTimeoutException")
    apply(shell.serving, *world.full_load())
    assert (await shell.call("encrypt", ENCRYPT)).error == (503, "DependencyTimeoutException")
    assert shell.serving.take_lease(world.lease(), wire.boot_clock())
    assert (await shell.call("encrypt", ENCRYPT)).status == 200


@pytest.mark.parametrize("operation", ["encrypt", "decrypt", "metadata", "health"])
async def test_lease_that_ran_out_closes_every_operation(shell: Shell, operation: str) -> None:
    bodies = {
        "encrypt": ENCRYPT,
        "decrypt": world.decrypt_body(world.FOREIGN_ANSWER),
        "metadata": world.metadata_body(),
        "health": world.health_body(),
    }
    shell.serving.leased_at = wire.boot_clock() - 60
    assert (await shell.call(operation, bodies[operation])).error == (503, "DependencyTimeoutException")


async def test_a_store_may_have_a_bound_of_its_own(shell: Shell) -> None:
    strict = wire.StoreRecord(
        "store-1", world.PREFIX, False, [world.CREDENTIAL], "health", max_staleness_s=5.0
    )
    patient = wire.StoreRecord(
        "store-2", world.OTHER_PREFIX, False, [world.OTHER_CREDENTIAL], max_staleness_s=600
    )
    apply(shell.serving, wire.Delta(2, False, True, stores=[strict, patient]))
    assert shell.serving.leased_at is not None
    other = {"path": world.path("encrypt", prefix=world.OTHER_PREFIX), "credential": world.OTHER_CREDENTIAL}
    for age, first, second in ((4, 200, 200), (6, 503, 200), (61, 503, 200), (601, 503, 503)):
        shell.serving.leased_at = wire.boot_clock() - age
        assert (await shell.call("encrypt", ENCRYPT)).status == first
        assert (await shell.post(other["path"], ENCRYPT, credential=other["credential"])).status == second


async def test_pinned_regions(shell: Shell) -> None:
    pinned = wire.StoreRecord(
        "store-1",
        world.PREFIX,
        False,
        [world.CREDENTIAL],
        "health",
        allowed_regions=["eu-west-1", "eu-west-3"],
    )
    apply(shell.serving, wire.Delta(2, False, True, stores=[pinned]))
    assert (await shell.call("encrypt", ENCRYPT, region="eu-west-3")).status == 200
    refused = await shell.call("encrypt", ENCRYPT, region="us-east-1")
    assert refused.error == (401, "AuthenticationFailedException")
    wrong = await shell.call("encrypt", ENCRYPT, credential=WRONG_SECRET, region="eu-west-3")
    assert refused.json == wrong.json


# --- what else is promised


async def test_integrity_value_is_not_given_when_decrypting_fails(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corrupt(versions: object, sealed: aead.Sealed, aad: bytes) -> bytes:
        raise aead.CiphertextInvalid

    monkeypatch.setattr(aead, "unseal", corrupt)
    answer = await shell.call("encrypt", {**ENCRYPT, **CDIV})
    assert answer.error == (500, "InternalException")
    monkeypatch.setattr(aead, "unseal", lambda versions, sealed, aad: b"Hello World?")
    answer = await shell.call("encrypt", {**ENCRYPT, **CDIV})
    assert answer.error == (500, "InternalException")


async def test_every_member_of_a_ciphertext_is_needed_bit_by_bit(shell: Shell) -> None:
    encrypted = await shell.encrypt(b"twelve bytes", additionalAuthenticatedData=world.b64(b"aad"))
    body = world.decrypt_body(encrypted, b"aad")
    names = (
        "ciphertext",
        "ciphertextMetadata",
        "initializationVector",
        "authenticationTag",
        "additionalAuthenticatedData",
    )
    for name in names:
        value = world.decoded({name: body[name]})[name]
        for position in range(len(value)):
            changed = bytearray(value)
            changed[position] ^= 1 << position % 8
            answer = await shell.call("decrypt", {**body, name: world.b64(bytes(changed))})
            assert answer.error == (400, "InvalidCiphertextException"), (name, position)
    assert (await shell.call("decrypt", body)).status == 200


def test_metadata_answers_are_json() -> None:
    from xks.keyring import _METADATA_ANSWERS

    for (uses, enabled), text in _METADATA_ANSWERS.items():
        parsed = json.loads(text)
        assert parsed["keyUsage"] == list(uses)
        assert parsed["keyStatus"] == ("ENABLED" if enabled else "DISABLED")
