"""Access rules where they act: in the answer to a request, in its place among the checks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.xks import world
from tests.xks.shell import Shell, apply
from xks import wire
from xks.keyring import Change
from xks.policy import RulesJudge
from xks.policy_rules import RuleSet
from xks.policy_shadow import MAX_PRINCIPALS, ShadowCounts
from xks.wire import ConditionRecord, RuleRecord, RuleSetRecord

DENIED = (403, "AccessDeniedException")
ALICE = world.REQUEST_METADATA["awsPrincipalArn"]


def rules(*found: RuleRecord, version: int = 1) -> RuleSetRecord:
    return RuleSetRecord("rules-1", version, found)


def deny(field: str, *values: str, name: str = "no") -> RuleRecord:
    return RuleRecord(name, "DENY", (ConditionRecord(field, values),))


def allow(field: str, *values: str, tag: str = "") -> RuleRecord:
    return RuleRecord("yes", "ALLOW", (ConditionRecord(field, values, tag=tag),))


DENY_ALICE = rules(deny("principal", ALICE))


def put_store(shell: Shell, **changes: Any) -> None:
    """Change the first store."""
    record = msgspec.structs.replace(world.STORES[0], **changes)
    generation = shell.serving.keyring.generation + 1
    apply(shell.serving, *wire.slice_delta(generation, full=False, stores=[record]))


def put_key(shell: Shell, name: str = "foo", **changes: Any) -> None:
    """Change a key of the first store."""
    record = world.key_record(name, **changes)
    generation = shell.serving.keyring.generation + 1
    apply(shell.serving, *wire.slice_delta(generation, full=False, keys=[record]))


@pytest.fixture
def shell() -> Shell:
    return Shell()


BODIES = {
    "encrypt": world.encrypt_body(),
    "decrypt": world.decrypt_body(world.FOREIGN_ANSWER),
    "metadata": world.metadata_body(),
}


@pytest.mark.parametrize("operation", BODIES)
@pytest.mark.parametrize("put", [put_store, put_key])
async def test_rules_of_store_and_key_refuse(shell: Shell, operation: str, put: Any) -> None:
    put(shell, rules=DENY_ALICE)
    answer = await shell.call(operation, BODIES[operation])
    assert answer.error == DENIED
    assert "'no'" in answer.json["errorMessage"]
    assert "version 1" in answer.json["errorMessage"]
    (record,) = shell.journal.records
    assert record.outcome == "AccessDeniedException"
    assert record.principal_arn == ALICE
    put(shell)
    assert (await shell.call("metadata", BODIES["metadata"])).status == 200


async def test_both_store_and_key_must_let_through(shell: Shell) -> None:
    put_store(shell, rules=rules(allow("principal", ALICE)))
    assert (await shell.call("encrypt", BODIES["encrypt"])).status == 200
    put_key(shell, rules=rules(allow("principal", "arn:aws:iam::123456789012:user/Bob")))
    answer = await shell.call("encrypt", BODIES["encrypt"])
    assert answer.error == DENIED
    assert "no rule" in answer.json["errorMessage"]
    put_key(shell, rules=rules(allow("principal", ALICE)))
    put_store(shell, rules=DENY_ALICE)
    assert (await shell.call("encrypt", BODIES["encrypt"])).error == DENIED


async def test_other_stores_and_keys_are_not_concerned(shell: Shell) -> None:
    put_store(shell, rules=DENY_ALICE)
    path = world.path("encrypt", prefix=world.OTHER_PREFIX)
    answer = await shell.post(path, BODIES["encrypt"], credential=world.OTHER_CREDENTIAL)
    assert answer.status == 200


async def test_health_is_exempt(shell: Shell) -> None:
    put_store(shell, rules=rules(RuleRecord("nobody", "DENY")))
    answer = await shell.call("health", world.health_body())
    assert answer.status == 200
    assert answer.json["ekmFleetDetails"][0]["healthStatus"] == "ACTIVE"


async def test_rules_look_at_the_tags_that_the_key_has(shell: Shell) -> None:
    put_store(shell, rules=rules(allow("key_tag", "prod", tag="env")))
    assert (await shell.call("encrypt", BODIES["encrypt"])).error == DENIED
    assert (await shell.call("metadata", BODIES["metadata"])).status == 200
    put_key(shell, tags={"env": "prod", "team": "pay"})
    assert (await shell.call("encrypt", BODIES["encrypt"])).status == 200
    put_key(shell, tags={"env": "dev"})
    assert (await shell.call("encrypt", BODIES["encrypt"])).error == DENIED


async def test_optional_fields_reach_the_rules(shell: Shell) -> None:
    put_store(
        shell,
        rules=rules(deny("source_vpc", "vpc-1", name="vpc"), deny("source_vpce", "vpce-1", name="vpce")),
    )
    for field, value in (("awsSourceVpc", "vpc-1"), ("awsSourceVpce", "vpce-1")):
        body = world.encrypt_body(requestMetadata={**world.REQUEST_METADATA, field: value})
        assert (await shell.call("encrypt", body)).error == DENIED
        body = world.encrypt_body(requestMetadata={**world.REQUEST_METADATA, field: "other"})
        assert (await shell.call("encrypt", body)).status == 200
    put_store(shell, rules=rules(deny("kms_via_service", "ebs")))
    assert (await shell.call("encrypt", BODIES["encrypt"])).error == DENIED


# --- where in the order of checks


@pytest.mark.parametrize(
    ("key", "body", "expected"),
    [
        ("foo", {"requestMetadata": {}}, (400, "ValidationException")),
        ("foo", world.encrypt_body(plaintext=b"", encryptionAlgorithm="AES_GCM"), DENIED),
        ("nokey", BODIES["encrypt"], (404, "KeyNotFoundException")),
        ("disabled_key", BODIES["encrypt"], DENIED),
        ("decrypt_only_key", BODIES["encrypt"], DENIED),
        ("foo", world.encrypt_body(encryptionAlgorithm="ROT13"), DENIED),
        ("foo", world.encrypt_body(b"x" * 8193), DENIED),
    ],
)
async def test_place_among_the_checks(shell: Shell, key: str, body: Any, expected: tuple[int, str]) -> None:
    put_store(shell, rules=DENY_ALICE)
    assert (await shell.call("encrypt", body, key)).error == expected


async def test_a_blocked_store_and_a_wrong_signature_come_first(shell: Shell) -> None:
    put_store(shell, rules=DENY_ALICE, blocked=True)
    assert (await shell.call("encrypt", BODIES["encrypt"])).error == (400, "InvalidStateException")
    wrong = wire.CredentialRecord(world.CREDENTIAL.access_key_id, b"w" * 43)
    answer = await shell.call("encrypt", BODIES["encrypt"], credential=wrong)
    assert answer.error == (401, "AuthenticationFailedException")


# --- delivery


async def test_rules_that_this_node_does_not_know_refuse(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    put_store(shell, rules=rules(deny("shoe_size", "44")))
    answer = await shell.call("encrypt", BODIES["encrypt"])
    assert answer.error == DENIED
    assert "refuse everything" in caplog.text
    put_store(shell, rules=rules(deny("principal", "arn:aws:iam::1:user/Bob"), version=2))
    assert (await shell.call("encrypt", BODIES["encrypt"])).status == 200


def test_the_same_rules_are_compiled_once(shell: Shell) -> None:
    keys = [world.key_record(f"key-{number}", rules=DENY_ALICE) for number in range(3)]
    apply(shell.serving, *wire.slice_delta(2, full=False, keys=keys))
    held = shell.serving.keyring.stores["store-1"].keys
    assert held["key-0"].rules is held["key-1"].rules is held["key-2"].rules
    assert held["foo"].rules is None


def test_records_of_an_agent_that_knows_no_rules_are_read() -> None:
    old = {
        "id": "store-9", "path_prefix": "/nine", "blocked": False, "credentials": [],
    }  # fmt: skip
    key = {
        "id": "k", "store_id": "store-9", "external_key_id": "k", "state": "ENABLED", "blocked": False,
        "uses": ["ENCRYPT"], "current_version": 1, "versions": [{"number": 1, "material": bytes(32)}],
    }  # fmt: skip
    store = msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=wire.StoreRecord)
    record = msgspec.msgpack.decode(msgspec.msgpack.encode(key), type=wire.KeyRecord)
    assert (store.rules, store.shadow_rules, store.rate_per_s, store.credential_rate_per_s) == (None,) * 4
    assert (record.tags, record.rules, record.shadow_rules) == ({}, None, None)
    lease = msgspec.msgpack.decode(
        msgspec.msgpack.encode({"type": "lease", "generation": 1, "valid_for_s": 1.0, "issued_at_s": 1.0}),
        type=wire.Lease,
    )
    assert lease.counted_workers == 1


def test_rules_survive_the_wire() -> None:
    record = msgspec.structs.replace(
        world.STORES[0],
        rules=rules(allow("key_tag", "prod", tag="env"), deny("principal", "arn:aws:iam::*:user/*")),
        rate_per_s=50.0,
    )
    frame = wire.encode_frame(wire.Delta(1, True, True, stores=[record]))
    assert wire._agent_decoder.decode(frame[4:]).stores == [record]  # type: ignore[union-attr]


# --- shadow


async def test_shadowed_rules_refuse_nobody_and_count() -> None:
    shadow = ShadowCounts()
    shell = Shell(judge=RulesJudge(shadow))
    put_store(shell, shadow_rules=rules(deny("principal", ALICE), version=7))
    put_key(shell, shadow_rules=RuleSetRecord("rules-2", 1, (allow("account", "999999999999"),)))
    for _ in range(3):
        assert (await shell.call("encrypt", BODIES["encrypt"])).status == 200
    assert (await shell.call("encrypt", BODIES["encrypt"], "encrypt_only_key")).status == 200
    counts = {(count.rule_set_id, count.version): count for count in shadow.take()}
    assert counts["rules-1", 7] == wire.ShadowCount("rules-1", 7, 4, {"no": 4}, {ALICE: 4})
    assert counts["rules-2", 1] == wire.ShadowCount("rules-2", 1, 3, {"": 3}, {ALICE: 3})
    assert shadow.take() == []


async def test_shadowed_rules_see_what_is_refused_already() -> None:
    shadow = ShadowCounts()
    shell = Shell(judge=RulesJudge(shadow))
    put_store(shell, rules=DENY_ALICE, shadow_rules=rules(deny("account", "1"), version=2))
    assert (await shell.call("encrypt", BODIES["encrypt"])).error == DENIED
    assert shadow.take() == [wire.ShadowCount("rules-1", 2, 1, {}, {})]


def test_shadow_counts_are_bounded() -> None:
    shadow = ShadowCounts()
    compiled = RuleSet(rules(RuleRecord("all", "DENY")))
    for number in range(MAX_PRINCIPALS + 25):
        shadow.note(compiled, 0, f"arn:aws:iam::1:user/{number}")
    (count,) = shadow.take()
    assert count.judged == count.denied["all"] == MAX_PRINCIPALS + 25
    assert count.principals[""] == 25
    assert len(count.principals) == MAX_PRINCIPALS + 1


def test_a_change_of_keys_keeps_the_stores_rules(shell: Shell) -> None:
    put_store(shell, rules=DENY_ALICE)
    before = shell.serving.keyring.stores["store-1"].rules
    change = Change(shell.serving, wire.Delta(9, False, True, keys=[world.key_record("foo")]))
    for _ in change.add(wire.Delta(9, False, True, keys=[world.key_record("foo")])):
        pass
    change.commit()
    assert shell.serving.keyring.stores["store-1"].rules is before
