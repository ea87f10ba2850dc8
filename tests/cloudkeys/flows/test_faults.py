"""Every AWS call of provisioning meets every fault: throttled, failing, cut off, and done but never answered."""

from __future__ import annotations

from typing import Any

import pytest

from cloudkeys.models import Operation
from cloudkeys.providers import aws_connection
from cloudkeys.simulators.aws.faults import KINDS, Fault
from tests.cloudkeys.cloud import World, add_key, add_link, connected
from tests.cloudkeys.crashing import crash_points, run_to_end

FAULTS = [kind for kind in KINDS if kind != "latency"]


@pytest.fixture(autouse=True)
def _one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own retries off: each fault reaches the engine."""
    monkeypatch.setattr(aws_connection, "ATTEMPTS", 1)


def calls_of(points: list[str]) -> list[str]:
    return list(dict.fromkeys(point.removeprefix("aws ") for point in points if point.startswith("aws ")))


def meet(world: World, fault: str, call: str, begin: Any) -> Operation:
    service = "sts" if call == "GetCallerIdentity" else "kms"
    world.aws.server.sim.faults.add(Fault(fault, service, call))
    operation = run_to_end(begin())
    world.aws.server.sim.faults.clear()
    return operation


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_creating_a_key_survives_each_fault_in_each_call(world: World, fault: str) -> None:
    connected(world)
    with crash_points(None) as points:
        assert run_to_end(add_key(world, "straight")).state == "SUCCEEDED"
    calls = calls_of(points.seen)
    assert {"CreateKey", "CreateAlias", "DescribeKey", "ListAliases"} <= set(calls)
    for call in calls:
        name = f"key-{call}"
        operation = meet(world, fault, call, lambda name=name: add_key(world, name))
        assert operation.state == "SUCCEEDED", (call, operation.error)
        assert world.key is not None
        world.key.refresh_from_db()
        assert world.aws.aliases()[f"alias/{name}"] == world.key.kms_key_id
        mine = [
            k for k in world.aws.kms_keys() if k["XksKeyConfiguration"]["Id"] == world.key.external_key_id
        ]
        assert [k["KeyId"] for k in mine] == [world.key.kms_key_id], call
    assert len(world.aws.kms_keys()) == len(calls) + 1


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["CreateCustomKeyStore", "DescribeCustomKeyStores", "ConnectCustomKeyStore"])
def test_creating_a_store_survives_each_fault_in_each_call(world: World, fault: str, call: str) -> None:
    operation = meet(world, fault, call, lambda: add_link(world))
    assert operation.state == "SUCCEEDED", operation.error
    (store,) = world.aws.key_stores()
    assert store["ConnectionState"] == "CONNECTED"
    assert world.link is not None
    world.link.refresh_from_db()
    assert world.link.custom_key_store_id == store["CustomKeyStoreId"]


def test_the_sdks_own_retries_after_a_lost_answer_make_no_second_key(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK sends CreateKey again by itself; AWS says that the external key is taken: by our own key."""
    monkeypatch.setattr(aws_connection, "ATTEMPTS", 3)
    connected(world)
    world.aws.server.sim.faults.add(Fault("lose_answer", "kms", "CreateKey"))
    operation = run_to_end(add_key(world, "payments-prod"))
    assert operation.state == "SUCCEEDED", operation.error
    assert len(world.aws.kms_keys()) == 1
