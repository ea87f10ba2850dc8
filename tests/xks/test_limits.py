"""Rates of stores and credentials: who is refused, when, and who is not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xks import world
from tests.xks.shell import Shell, apply
from xks import limits, wire
from xks.errors import ThrottlingException
from xks.keyring import Bucket, CompiledRules, Credential, Store

THROTTLED = (429, "ThrottlingException")
ENCRYPT = world.encrypt_body()


def make_store(**changes: Any) -> tuple[Store, Credential, Credential]:
    record = msgspec.structs.replace(world.STORES[0], **changes)
    credentials = tuple(Credential(item, record.id) for item in record.credentials)
    return (Store(record, {}, credentials, Bucket(), CompiledRules()), *credentials)  # type: ignore[return-value]


def admitted(store: Store, credential: Credential, now: float, workers: int = 1) -> bool:
    try:
        limits.admit(store, credential, workers, now)
    except ThrottlingException:
        return False
    return True


def test_no_rate_no_limit() -> None:
    store, credential, _ = make_store()
    assert all(admitted(store, credential, 0.0) for _ in range(1000))


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("field", ["rate_per_s", "credential_rate_per_s"])
def test_the_fleet_as_a_whole_keeps_the_rate(workers: int, field: str) -> None:
    fleet = [make_store(**{field: 700.0}) for _ in range(workers)]
    taken = 0
    for tick in range(20_000):  # 10 s, each worker asked 2,000 times a second
        for store, credential, _ in fleet:
            taken += admitted(store, credential, tick / 2000, workers)
    assert 0.8 * 7000 <= taken <= 1.2 * 7000


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 5000), st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_never_more_than_rate_and_burst(rate: float, pauses: list[float]) -> None:
    store, credential, _ = make_store(rate_per_s=rate)
    now, taken = 1000.0, 0
    for pause in pauses:
        now += pause
        taken += admitted(store, credential, now)
    assert taken <= max(1.0, rate * limits.BURST_S) + (now - 1000.0 - pauses[0]) * rate + 1e-6
    assert taken >= 1


def test_a_slow_rate_lets_one_through_at_a_time() -> None:
    store, credential, _ = make_store(rate_per_s=0.5)
    assert [admitted(store, credential, now) for now in (10.0, 10.1, 11.9, 12.1, 12.2)] == [
        True, False, False, True, False,
    ]  # fmt: skip


def test_credentials_have_a_rate_each() -> None:
    store, first, second = make_store(credential_rate_per_s=1.0)
    assert [admitted(store, first, 5.0), admitted(store, first, 5.0)] == [True, False]
    assert admitted(store, second, 5.0)


def test_what_one_bucket_refuses_costs_the_other_nothing() -> None:
    store, first, second = make_store(rate_per_s=4.0, credential_rate_per_s=1.0)
    assert admitted(store, first, 5.0)
    assert not any(admitted(store, first, 5.0) for _ in range(50))
    assert store.bucket.tokens == 1.0
    assert admitted(store, second, 5.0)


def put_store(shell: Shell, **changes: Any) -> None:
    record = msgspec.structs.replace(world.STORES[0], **changes)
    generation = shell.serving.keyring.generation + 1
    apply(shell.serving, *wire.slice_delta(generation, full=False, stores=[record]))


async def test_over_the_rate_is_429_and_only_counted() -> None:
    shell = Shell()
    put_store(shell, rate_per_s=0.001)
    assert (await shell.call("encrypt", ENCRYPT)).status == 200
    assert (await shell.call("encrypt", ENCRYPT)).error == THROTTLED
    assert (await shell.call("metadata", world.metadata_body())).error == THROTTLED
    assert len(shell.journal.records) == 1
    assert shell.journal.counts == {("ThrottlingException", "192.0.2.1"): 2}
    other = world.path("encrypt", prefix=world.OTHER_PREFIX)
    assert (await shell.post(other, ENCRYPT, credential=world.OTHER_CREDENTIAL)).status == 200


async def test_health_is_not_limited() -> None:
    shell = Shell()
    put_store(shell, rate_per_s=0.001)
    for _ in range(3):
        assert (await shell.call("health", world.health_body())).status == 200


async def test_place_among_the_checks() -> None:
    shell = Shell()
    put_store(shell, rate_per_s=0.001)
    assert (await shell.call("encrypt", ENCRYPT)).status == 200
    wrong = wire.CredentialRecord(world.CREDENTIAL.access_key_id, b"w" * 43)
    answer = await shell.call("encrypt", ENCRYPT, credential=wrong)
    assert answer.error == (401, "AuthenticationFailedException")
    assert (await shell.call("encrypt", b"no json")).error == THROTTLED
    assert (await shell.call("encrypt", ENCRYPT, "nokey")).error == THROTTLED


async def test_what_is_left_outlives_a_change_of_the_store() -> None:
    shell = Shell()
    put_store(shell, rate_per_s=0.001)
    assert (await shell.call("encrypt", ENCRYPT)).status == 200
    put_store(shell, rate_per_s=0.001, max_staleness_s=50.0)
    assert (await shell.call("encrypt", ENCRYPT)).error == THROTTLED
    apply(
        shell.serving,
        *world.full_load(
            9, stores=[msgspec.structs.replace(world.STORES[0], rate_per_s=0.001), *world.STORES[1:]]
        ),
    )
    assert (await shell.call("encrypt", ENCRYPT)).error == THROTTLED
    put_store(shell)
    assert (await shell.call("encrypt", ENCRYPT)).status == 200


async def test_the_share_follows_the_number_of_workers() -> None:
    shell = Shell()
    assert shell.serving.take_lease(world.lease(counted_workers=4), wire.boot_clock())
    assert shell.serving.counted_workers == 4
