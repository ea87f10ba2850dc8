"""Who uses which credential, from the worker that sees it to the row that a rotation decides by."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.db.utils import OperationalError

from cloudkeys.models import XksCredentialRegion, XksKeyStore
from tests.xks import world
from tests.xks.agent_world import RunningAgent, Worker
from tests.xks.fake_agent import FakeAgent
from tests.xks.shell import Shell
from tests.xks.test_agent import _short_linger, store, until
from tests.xks.test_agent import folder as agent_folder
from tests.xks.test_worker import agent, off_loop
from tests.xks.test_worker import folder as worker_folder
from xks import agent_registrar, agent_uses, credential_uses, wire
from xks.agent_uses import UseTimes
from xks.credential_uses import CredentialUses
from xks.keyring import Serving
from xks.worker import Link

__all__ = ["_short_linger", "agent", "agent_folder", "folder", "store", "worker_folder"]

folder = worker_folder
NOW = 1_800_000_000.0


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# --- the worker


async def test_every_request_with_a_valid_signature_counts_as_use_health_too(shell: Shell) -> None:
    name = world.CREDENTIAL.access_key_id
    health = {"requestMetadata": {"kmsRequestId": "1", "kmsOperation": "GetHealthStatus"}}
    assert (await shell.call("health", health)).status == 200
    (use,) = shell.app.uses.take()
    assert (use.access_key_id, use.region) == (name, "us-east-1")
    assert use.succeeded_at == use.last_at == pytest.approx(time.time(), abs=5)
    assert (await shell.call("encrypt", world.encrypt_body(), key="no-such-key")).status == 404
    (use,) = shell.app.uses.take()
    assert (use.access_key_id, use.succeeded_at) == (name, None)
    assert (
        await shell.call(
            "encrypt",
            world.encrypt_body(),
            credential=wire.CredentialRecord(world.CREDENTIAL.access_key_id, b"w" * 43),
        )
    ).status == 401
    assert shell.app.uses.take() == []


def test_later_times_win_and_what_could_not_be_told_is_told_later() -> None:
    uses = CredentialUses()
    uses.note("A", "eu-west-1", NOW, True)
    uses.note("A", "eu-west-1", NOW + 5, False)
    uses.note("A", "us-east-1", NOW + 1, False)
    first = uses.take()
    assert first == [
        wire.CredentialUse("A", "eu-west-1", NOW + 5, NOW),
        wire.CredentialUse("A", "us-east-1", NOW + 1, None),
    ]
    uses.note("A", "eu-west-1", NOW + 9, True)
    uses.put_back(first)
    assert uses.take()[0] == wire.CredentialUse("A", "eu-west-1", NOW + 9, NOW + 9)


def test_made_up_regions_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_uses, "MAX_USES", 3)
    uses = CredentialUses()
    for number in range(10):
        uses.note("A", f"region-{number}", NOW + number, True)
    assert [(use.region, use.last_at) for use in uses.take()] == [
        ("region-0", NOW), ("region-1", NOW + 1), ("region-2", NOW + 2), ("", NOW + 9),
    ]  # fmt: skip


async def test_the_worker_tells_after_a_lease_and_before_its_goodbye(agent: FakeAgent, folder: Path) -> None:
    uses = CredentialUses()
    link = Link(Serving(), str(folder / "xks.sock"), uses=uses)
    link.start(asyncio.get_running_loop())
    try:
        await off_loop(lambda: agent.wait_applied(1))
        uses.note("A", "eu-west-1", NOW, True)
        await off_loop(lambda: agent.send(world.lease()))
        await off_loop(lambda: agent.wait_for(lambda message: isinstance(message, wire.UseReport)))
        uses.note("A", "eu-west-1", NOW + 1, True)
    finally:
        await link.stop()
    await off_loop(lambda: agent.wait_for(lambda message: isinstance(message, wire.Goodbye)))
    told = [message for message in agent.heard if isinstance(message, wire.UseReport)]
    assert [use.last_at for report in told for use in report.uses] == [NOW, NOW + 1]


# --- the agent


def report(
    store: XksKeyStore, last: float, succeeded: float | None, region: str = "eu-west-1"
) -> wire.UseReport:
    credential = store.credentials.get()
    use = wire.CredentialUse(credential.access_key_id, region, last, succeeded)
    return wire.UseReport(os.getpid(), [use])


@pytest.mark.django_db(transaction=True)
def test_times_reach_the_database_and_never_go_back(
    agent_folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_registrar, "WRITE_EVERY_S", 0.0)
    rows = XksCredentialRegion.objects.filter(credential=store.credentials.get(), region="eu-west-1")
    with RunningAgent(agent_folder, max_staleness_s=1.0) as running, Worker(running.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        worker.say(report(store, NOW, None))
        until(lambda: rows.filter(last_used_at=at(NOW), last_succeeded_at=None).exists())
        worker.say(report(store, NOW - 9, NOW - 9))
        until(lambda: rows.filter(last_used_at=at(NOW), last_succeeded_at=at(NOW - 9)).exists())
        worker.say(wire.UseReport(os.getpid(), [wire.CredentialUse("NOBODYHASTHIS", "eu-west-1", NOW, NOW)]))
        worker.say(report(store, NOW + 1, NOW + 1))
        until(lambda: rows.filter(last_used_at=at(NOW + 1), last_succeeded_at=at(NOW + 1)).exists())
    assert XksCredentialRegion.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_times_wait_for_a_database_that_does_not_answer_and_are_written_at_the_end(
    agent_folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_registrar, "WRITE_EVERY_S", 0.0)
    failures, write = 2, UseTimes.write

    def flaky(times: UseTimes) -> None:
        nonlocal failures
        if failures and times:
            failures -= 1
            raise OperationalError("the database is away")
        write(times)

    monkeypatch.setattr(UseTimes, "write", flaky)
    with RunningAgent(agent_folder, max_staleness_s=1.0) as running, Worker(running.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        worker.say(report(store, NOW, NOW))
        until(lambda: XksCredentialRegion.objects.filter(last_used_at=at(NOW)).exists())
        monkeypatch.setattr(agent_registrar, "WRITE_EVERY_S", 3600.0)
        until(lambda: not failures)
        worker.say(report(store, NOW + 2, None))
        worker.say(wire.Goodbye(os.getpid()))
    assert XksCredentialRegion.objects.get().last_used_at == at(NOW + 2)


@pytest.mark.django_db
def test_regions_of_a_credential_are_bounded(store: XksKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_uses, "MAX_REGIONS", 2)
    times = UseTimes()
    for number, region in enumerate(("a", "b", "c", "d")):
        times.add(report(store, NOW + number, None, region).uses)
    times.write()
    rows = XksCredentialRegion.objects.order_by("region").values_list("region", "last_used_at")
    assert list(rows) == [("", at(NOW + 3)), ("a", at(NOW)), ("b", at(NOW + 1))]
