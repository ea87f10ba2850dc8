"""Keys that live in an HSM: round trips, what happens when the HSM is slow, full or gone, invocations, adopted keys."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hsm.base import DataInvalid, HsmBusy, HsmUnavailable, ResidentCiphertext
from tests.xks import world
from tests.xks.fake_hsm import FakeHsm
from tests.xks.shell import Answer, Shell, apply
from xks import aead, resident, wire
from xks.resident import INVOCATION_BLOCK, Desk

CKA_ID = bytes.fromhex("00112233445566778899aabbccddeeff")
ADOPTED_ID = b"foo"
CDIV = {"ciphertextDataIntegrityValueAlgorithm": "SHA_256"}
GROUP = wire.HsmGroupRecord(
    "group-1",
    "hsm",
    "preferred",
    (wire.HsmMemberRecord("m1", "token-1", "Fake v1", "/nowhere", "ACTIVE"),),
    health_key=b"health",
)
VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "xks_formats.json").read_text())


def resident_version(
    number: int = 1, key: bytes = CKA_ID, adopted: bytes | None = None
) -> wire.VersionRecord:
    return wire.VersionRecord(number, resident=wire.ResidentRecord("group-1", key, adopted))


RESIDENT = world.key_record("resident", versions=[resident_version()])


class Hardware:
    """A shell with a key that lives in a fake HSM."""

    def __init__(self, **shell: Any) -> None:
        self.hsm = FakeHsm()
        self.hsm.new_key(CKA_ID)
        self.hsm.new_key(b"health")
        self.desk = Desk(self.hsm.connect)
        self.asked: list[tuple[str, int]] = []
        self.desk.ask = self._ask
        self.blocks = [INVOCATION_BLOCK] * 100
        self.shell = Shell(desk=self.desk, **shell)

    def _ask(self, key_id: str, number: int) -> None:
        self.asked.append((key_id, number))
        if self.blocks:
            asyncio.get_running_loop().call_soon(
                self.desk.take_invocations, wire.Invocations(key_id, number, self.blocks.pop(0))
            )

    def put(self, *keys: wire.KeyRecord, generation: int = 2) -> None:
        change = wire.Delta(generation=generation, full=False, final=True, keys=list(keys))
        apply(self.shell.serving, change)
        assert self.shell.serving.take_lease(world.lease(generation), wire.boot_clock())

    async def call(self, operation: str, body: Any, key: str = "resident") -> Answer:
        return await self.shell.call(operation, body, key)


@pytest.fixture
async def hardware() -> AsyncIterator[Hardware]:
    hardware = Hardware(budget_s=0.3)
    hardware.desk.take_groups(wire.HsmGroups((GROUP,)))
    hardware.put(RESIDENT)
    await asyncio.sleep(0)
    yield hardware
    await hardware.desk.close()


async def test_round_trip_in_the_hsm(hardware: Hardware) -> None:
    made = await hardware.call("encrypt", world.encrypt_body(b"secret", b"aad", **CDIV))
    assert made.status == 200, made.body
    parts = world.decoded(made.json)
    assert parts["ciphertextMetadata"] == b"\x02\x00\x00\x00\x01"
    assert (
        len(parts["initializationVector"]),
        len(parts["authenticationTag"]),
        len(parts["ciphertext"]),
    ) == (12, 16, 6)
    order = ("ciphertextMetadata", "initializationVector", "ciphertext", "authenticationTag")
    assert (
        parts["ciphertextDataIntegrityValue"]
        == hashlib.sha256(b"aad" + b"".join(parts[name] for name in order)).digest()
    )
    assert ("encrypt", CKA_ID, True) in hardware.hsm.calls, "the value promises that the HSM has decrypted it"
    opened = await hardware.call("decrypt", world.decrypt_body(made.json, b"aad"))
    assert opened.json == {"plaintext": world.b64(b"secret")}
    assert [record.outcome for record in hardware.shell.journal.records] == ["OK", "OK"]
    assert [record.version for record in hardware.shell.journal.records] == [1, 1]


@pytest.mark.parametrize(
    "field", ["ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata"]
)
async def test_altered_ciphertext_is_refused(hardware: Hardware, field: str) -> None:
    made = (await hardware.call("encrypt", world.encrypt_body(b"secret", b"aad"))).json
    value = bytearray(b64decode(made[field]))
    value[-1] ^= 1
    answer = await hardware.call(
        "decrypt", world.decrypt_body({**made, field: world.b64(bytes(value))}, b"aad")
    )
    assert answer.error == (400, "InvalidCiphertextException")


async def test_other_aad_is_refused(hardware: Hardware) -> None:
    made = (await hardware.call("encrypt", world.encrypt_body(b"secret", b"aad"))).json
    assert (await hardware.call("decrypt", world.decrypt_body(made, b"Aad"))).error == (
        400,
        "InvalidCiphertextException",
    )


async def test_order_of_checks_is_that_of_software_keys(hardware: Hardware) -> None:
    for external, changes, error in (
        ("r1", {"state": "DISABLED"}, "InvalidStateException"),
        ("r2", {"blocked": True}, "InvalidStateException"),
        ("r3", {"uses": ["DECRYPT"]}, "InvalidKeyUsageException"),
    ):
        hardware.put(world.key_record(external, versions=[resident_version()], **changes))
        assert (await hardware.call("encrypt", world.encrypt_body(), external)).error == (400, error)
    hardware.put(world.key_record("r4", versions=[resident_version()], uses=["ENCRYPT"]))
    assert (await hardware.call("encrypt", world.encrypt_body(b"x"), "r4")).status == 200
    assert (await hardware.call("encrypt", world.encrypt_body(b"x", **CDIV), "r4")).error == (
        400,
        "InvalidKeyUsageException",
    )
    too_long = await hardware.call("encrypt", world.encrypt_body(bytes(8193)))
    assert too_long.error == (501, "UnsupportedOperationException")


async def test_software_and_resident_versions_of_one_key(hardware: Hardware) -> None:
    """A key set whose protection was changed: old ciphertext stays readable, new is of the new kind."""
    soft = world.key_record("foo")
    old = await hardware.shell.encrypt(b"old")
    hardware.put(
        world.key_record("foo", versions=[*soft.versions, resident_version(2)], current_version=2),
        generation=3,
    )
    new = await hardware.shell.encrypt(b"new")
    assert world.decoded(new)["ciphertextMetadata"] == b"\x02\x00\x00\x00\x02"
    for encrypted, plaintext in ((old, b"old"), (new, b"new")):
        answer = await hardware.shell.call("decrypt", world.decrypt_body(encrypted))
        assert answer.json == {"plaintext": world.b64(plaintext)}


# --- the HSM is slow, full or gone


async def test_hsm_gone_is_503_and_recorded(hardware: Hardware) -> None:
    hardware.hsm.failure = HsmUnavailable("gone")
    answer = await hardware.call("encrypt", world.encrypt_body())
    assert answer.error == (503, "DependencyTimeoutException")
    assert hardware.shell.journal.records[-1].outcome == "DependencyTimeoutException"
    hardware.hsm.failure = None
    assert (await hardware.call("encrypt", world.encrypt_body())).status == 200


async def test_unknown_connection_is_503(hardware: Hardware) -> None:
    hardware.desk.take_groups(wire.HsmGroups(()))
    assert (await hardware.call("encrypt", world.encrypt_body())).error == (503, "DependencyTimeoutException")


async def test_full_queue_is_429_and_software_keys_go_on(
    hardware: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "MAX_WAITING", 8)
    await hardware.call("encrypt", world.encrypt_body())  # so that invocations are there
    hardware.hsm.gate = asyncio.Event()
    waiting = [asyncio.create_task(hardware.call("encrypt", world.encrypt_body())) for _ in range(8)]
    await asyncio.sleep(0.01)
    assert (await hardware.call("encrypt", world.encrypt_body())).error == (429, "ThrottlingException")
    assert hardware.shell.app.in_flight == 8
    for _ in range(50):
        assert (await hardware.shell.call("encrypt", world.encrypt_body())).status == 200
    assert hardware.shell.app.in_flight == 8, "those for the HSM wait still: nobody waited for them"
    hardware.hsm.gate.set()
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    assert hardware.shell.app.in_flight == 0


async def test_hung_hsm_ends_with_the_budget(hardware: Hardware) -> None:
    hardware.hsm.gate = asyncio.Event()
    began = time.monotonic()
    answer = await hardware.call("encrypt", world.encrypt_body())
    assert answer.error == (503, "DependencyTimeoutException")
    assert time.monotonic() - began > 0.2


async def test_an_answer_that_comes_after_the_lease_does_not_leave(hardware: Hardware) -> None:
    hardware.hsm.before = lambda: setattr(hardware.shell.serving, "valid_for_s", 0.0)
    answer = await hardware.call("encrypt", world.encrypt_body())
    assert answer.error == (503, "DependencyTimeoutException")


async def test_what_is_no_hsm_error_is_our_fault(hardware: Hardware) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    hardware.hsm.before = fail
    assert (await hardware.call("encrypt", world.encrypt_body())).error == (500, "InternalException")
    await asyncio.wait_for(hardware.desk.settled(), 1)


async def test_strange_answer_of_an_hsm_does_not_leave(
    hardware: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def encrypt(*args: Any, **named: Any) -> ResidentCiphertext:
        return ResidentCiphertext(b"", b"plaintext without a tag")

    monkeypatch.setattr(hardware.hsm, "encrypt", encrypt)
    assert (await hardware.call("encrypt", world.encrypt_body())).error == (500, "InternalException")


async def test_settled_waits_for_requests_begun_before(hardware: Hardware) -> None:
    await hardware.call("encrypt", world.encrypt_body())
    gate = hardware.hsm.gate = asyncio.Event()
    before = asyncio.create_task(hardware.call("encrypt", world.encrypt_body()))
    await asyncio.sleep(0.01)
    settled = asyncio.create_task(hardware.desk.settled())
    await asyncio.sleep(0.01)
    hardware.hsm.gate = asyncio.Event()
    after = asyncio.create_task(hardware.call("encrypt", world.encrypt_body()))
    await asyncio.sleep(0.01)
    assert not settled.done()
    gate.set()
    assert (await before).status == 200
    await asyncio.wait_for(settled, 0.1)
    assert not after.done(), "a request begun after it is not waited for"
    hardware.hsm.gate.set()
    assert (await after).status == 200


# --- known, and not open now


async def test_version_that_cannot_be_opened_now(hardware: Hardware) -> None:
    foo = world.key_record("foo")
    old = await hardware.shell.encrypt(b"old")
    fresh = Hardware()
    fresh.put(world.key_record("foo", versions=[wire.VersionRecord(1)]))
    # A worker that holds it open keeps it open; its material is gone for one that starts now.
    hardware.put(world.key_record("foo", versions=[wire.VersionRecord(1)]), generation=3)
    assert (await hardware.shell.call("decrypt", world.decrypt_body(old))).status == 200
    fresh_serving = Shell(loaded=False)
    apply(
        fresh_serving.serving,
        *world.full_load(keys=[world.key_record("foo", versions=[wire.VersionRecord(1)])]),
    )
    assert fresh_serving.serving.take_lease(world.lease(), wire.boot_clock())
    for operation, body in (("encrypt", world.encrypt_body()), ("decrypt", world.decrypt_body(old))):
        answer = await fresh_serving.call(operation, body)
        assert answer.error == (503, "DependencyTimeoutException")
    assert (await fresh_serving.call("metadata", world.metadata_body())).status == 200
    # The HSM is back: the same generation brings it.
    apply(fresh_serving.serving, wire.Delta(1, full=False, final=True, keys=[foo]))
    answer = await fresh_serving.call("decrypt", world.decrypt_body(old))
    assert answer.json == {"plaintext": world.b64(b"old")}


async def test_disabled_closed_key_says_disabled() -> None:
    shell = Shell()
    record = world.key_record("bar", state="DISABLED", versions=[wire.VersionRecord(1)])
    apply(shell.serving, wire.Delta(2, full=False, final=True, keys=[record]))
    assert shell.serving.take_lease(world.lease(2), wire.boot_clock())
    assert (await shell.call("encrypt", world.encrypt_body(), "bar")).error == (400, "InvalidStateException")


# --- invocations


async def test_invocations_are_reserved_before_the_first_and_in_blocks(hardware: Hardware) -> None:
    hardware.blocks = [3, 3, 3]
    for count in range(1, 6):
        assert (await hardware.call("encrypt", world.encrypt_body())).status == 200
        assert hardware.asked[0] == (RESIDENT.id, 1)
        assert count <= 3 * len(hardware.asked)


async def test_no_invocations_no_encryption(hardware: Hardware) -> None:
    hardware.blocks = []  # the database does not answer
    answer = await hardware.call("encrypt", world.encrypt_body())
    assert answer.error == (503, "DependencyTimeoutException")
    assert not [call for call in hardware.hsm.calls if call[1] == CKA_ID]


async def test_exhausted_key_stops(hardware: Hardware) -> None:
    hardware.blocks = [0]
    answer = await hardware.call("encrypt", world.encrypt_body())
    assert answer.error == (400, "InvalidStateException")
    assert not [call for call in hardware.hsm.calls if call[1] == CKA_ID]


async def test_failed_attempts_are_charged(hardware: Hardware) -> None:
    hardware.blocks = [20]
    hardware.hsm.failure = HsmUnavailable("gone")
    for _ in range(3):
        assert (await hardware.call("encrypt", world.encrypt_body())).status == 503
    made = len(hardware.hsm.calls)
    assert (await hardware.call("encrypt", world.encrypt_body())).status == 503
    assert len(hardware.hsm.calls) == made, "a fourth would have been the twenty-fifth"


# --- format 0, and vectors


async def test_vectors_of_format_0_were_made_by_the_reference_proxy() -> None:
    """Ciphertext of AWS's reference proxy on SoftHSM, its key given to a fake HSM under the old label."""
    cases = VECTORS["format_0"]
    assert len(cases) >= 4
    for case in cases:
        hardware = Hardware()
        hardware.desk.take_groups(wire.HsmGroups((GROUP,)))
        hardware.hsm.new_key(ADOPTED_ID, bytes.fromhex(case["key"]))
        metadata = b64decode(case["answer"].get("ciphertextMetadata", ""))
        adopted = world.key_record("adopted", versions=[resident_version(1, ADOPTED_ID, metadata)])
        hardware.put(adopted)
        body = {
            "requestMetadata": world.REQUEST_METADATA,
            "encryptionAlgorithm": "AES_GCM",
            **{
                name: case["answer"][name]
                for name in ("ciphertext", "initializationVector", "authenticationTag")
            },
        }
        if metadata:
            body["ciphertextMetadata"] = case["answer"]["ciphertextMetadata"]
        if case["aad"] is not None:
            body["additionalAuthenticatedData"] = case["aad"]
        answer = await hardware.call("decrypt", body, "adopted")
        assert answer.json == {"plaintext": case["plaintext"]}, case["name"]
        wrong = {**body, "additionalAuthenticatedData": world.b64(b"another")}
        assert (await hardware.call("decrypt", wrong, "adopted")).error == (400, "InvalidCiphertextException")
        # What it writes from now on is of format 2.
        made = await hardware.call("encrypt", world.encrypt_body(b"new"), "adopted")
        assert world.decoded(made.json)["ciphertextMetadata"] == b"\x02\x00\x00\x00\x01"
        # A key that was not adopted reads nothing of it.
        assert (await hardware.shell.call("decrypt", body)).error == (400, "InvalidCiphertextException")
        await hardware.desk.close()


async def test_vectors_of_format_2() -> None:
    for case in VECTORS["format_2"]:
        hardware = Hardware()
        hardware.desk.take_groups(wire.HsmGroups((GROUP,)))
        hardware.hsm.new_key(CKA_ID, bytes.fromhex(case["key"]))
        hardware.put(
            world.key_record(
                "v", versions=[resident_version(case["version"])], current_version=case["version"]
            )
        )
        body = world.decrypt_body(
            {
                "ciphertext": world.b64(bytes.fromhex(case["ciphertext"])),
                "ciphertextMetadata": world.b64(bytes.fromhex(case["metadata"])),
                "initializationVector": world.b64(bytes.fromhex(case["iv"])),
                "authenticationTag": world.b64(bytes.fromhex(case["tag"])),
            },
            bytes.fromhex(case["aad"]),
        )
        answer = await hardware.call("decrypt", body, "v")
        assert answer.json == {"plaintext": world.b64(bytes.fromhex(case["plaintext"]))}
        await hardware.desk.close()


def test_fixed_metadata_that_could_be_ours_is_told() -> None:
    assert aead.looks_like_ours(b"\x02\x00\x00\x00\x01")
    assert aead.looks_like_ours(b"\x01" + bytes(16))
    assert not aead.looks_like_ours(b"")
    assert not aead.looks_like_ours(b"\x01\x02")


# --- health


def _with_hsm(shell: Shell, required: str = "group-1") -> None:
    store = wire.StoreRecord(
        "store-1",
        world.PREFIX,
        False,
        [world.CREDENTIAL],
        "health",
        hsm_groups=("group-1",),
        hsm_required=required,
    )
    apply(shell.serving, wire.Delta(9, full=False, final=True, stores=[store]))
    assert shell.serving.take_lease(world.lease(9), wire.boot_clock())


async def health(hardware: Hardware) -> list[dict[str, str]]:
    answer = await hardware.shell.call("health", world.health_body())
    details: list[dict[str, str]] = answer.json["ekmFleetDetails"]
    return details


async def test_health_names_the_members_and_probes_them_off_the_path(hardware: Hardware) -> None:
    _with_hsm(hardware.shell)
    await asyncio.sleep(0.05)
    node, member = await health(hardware)
    assert (node["id"], node["healthStatus"]) == ("node-1", "ACTIVE")
    assert member == {"id": "hsm/token-1", "model": "Fake v1", "healthStatus": "ACTIVE"}
    made = len(hardware.hsm.calls)
    assert ("encrypt", b"health", True) in hardware.hsm.calls
    await health(hardware)
    assert len(hardware.hsm.calls) == made, "a health request waits for no HSM"


async def test_health_of_a_member_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "PROBE_S", 0.01)
    hardware = Hardware()
    hardware.hsm.failure = HsmUnavailable("gone")
    hardware.desk.take_groups(wire.HsmGroups((GROUP,)))
    _with_hsm(hardware.shell)
    await asyncio.sleep(0.05)
    assert [each["healthStatus"] for each in await health(hardware)] == ["UNAVAILABLE", "UNAVAILABLE"]
    hardware.hsm.failure = None
    await asyncio.sleep(0.05)
    assert [each["healthStatus"] for each in await health(hardware)] == ["ACTIVE", "ACTIVE"]
    await hardware.desk.close()


async def test_a_store_without_hsm_keys_names_no_member(hardware: Hardware) -> None:
    assert [each["id"] for each in await health(hardware)] == ["node-1"]


async def test_a_changed_connection_is_made_anew_and_the_old_one_closed(hardware: Hardware) -> None:
    other = FakeHsm()
    other.keys = hardware.hsm.keys
    hardware.desk._connect = other.connect
    moved = wire.HsmGroupRecord(
        "group-1",
        "hsm",
        "preferred",
        (wire.HsmMemberRecord("m2", "token-2", "Fake v1", "/elsewhere"),),
        b"health",
    )
    hardware.desk.take_groups(wire.HsmGroups((moved,)))
    assert (await hardware.call("encrypt", world.encrypt_body())).status == 200
    assert ("encrypt", CKA_ID, False) in other.calls
    await asyncio.sleep(0.01)
    assert hardware.hsm.closed


async def test_errors_of_an_hsm_map_to_answers(hardware: Hardware) -> None:
    hardware.hsm.failure = HsmBusy("full")
    assert (await hardware.call("encrypt", world.encrypt_body())).error == (429, "ThrottlingException")
    hardware.hsm.failure = DataInvalid("verification")
    assert (await hardware.call("encrypt", world.encrypt_body())).error == (503, "DependencyTimeoutException")
