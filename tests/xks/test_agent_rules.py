"""The agent's part in access rules and rates: shadowed counts into the database, the number of workers into leases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.db.utils import OperationalError

from cloudkeys.models import XksKeyStore
from tests.xks.agent_world import STORE, RunningAgent, Worker, changed
from tests.xks.test_agent import _short_linger, folder, store, until
from vault.models import Node, WorkerProcess
from xks import wire
from xks.agent_rules import ShadowSums
from xks.models import AccessRuleSet, AccessRuleVersion, ShadowTally

__all__ = ["_short_linger", "folder", "store"]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def shadowed(store: XksKeyStore) -> AccessRuleVersion:
    rule_set = AccessRuleSet.objects.create(vault=store.vault, store=store)
    version = AccessRuleVersion.objects.create(
        vault=store.vault,
        rule_set=rule_set,
        number=1,
        author_type="system",
        rules=[{"name": "all", "effect": "DENY", "conditions": []}],
    )
    with changed((STORE, store)):
        AccessRuleSet.objects.filter(pk=rule_set.pk).update(shadowed=version)
    return version


def report(version: AccessRuleVersion) -> wire.ShadowReport:
    count = wire.ShadowCount(str(version.rule_set_id), 1, 5, {"all": 5}, {"AWS Internal": 5})
    return wire.ShadowReport(os.getpid(), [count])


def test_counts_of_workers_reach_the_database(
    folder: Path, store: XksKeyStore, shadowed: AccessRuleVersion
) -> None:
    with RunningAgent(folder, max_staleness_s=1.0) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        record = worker.stores[str(store.pk)].shadow_rules
        assert record is not None
        assert record.rules == (wire.RuleRecord("all", "DENY"),)
        worker.say(report(shadowed))
        worker.say(report(shadowed))
        until(lambda: ShadowTally.objects.filter(judged=10).exists())
    tally = ShadowTally.objects.get()
    assert (tally.version, tally.node, tally.vault) == (shadowed, "node-a", store.vault)
    assert (tally.denied, tally.principals) == ({"all": 10}, {"AWS Internal": 10})


def test_counts_wait_for_a_database_that_does_not_answer(
    folder: Path, shadowed: AccessRuleVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 2
    write = ShadowSums.write

    def flaky(sums: ShadowSums, node: str) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OperationalError("the database is away")
        write(sums, node)

    monkeypatch.setattr(ShadowSums, "write", flaky)
    with RunningAgent(folder, max_staleness_s=1.0) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        worker.say(report(shadowed))
        until(lambda: ShadowTally.objects.filter(judged=5).exists())
    assert failures == 0


def test_leases_carry_the_number_of_workers_of_all_nodes(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder, max_staleness_s=1.0) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases and worker.leases[-1].counted_workers == 1)
        mine = WorkerProcess.objects.get()
        other = Node.objects.create(
            name="node-b", started_at=mine.last_seen_at, last_seen_at=mine.last_seen_at
        )
        for pid in (1, 2):
            WorkerProcess.objects.create(
                node=other, pid=pid, instance=str(pid), last_seen_at="2099-01-01T00:00Z"
            )
        worker.hear_until(lambda: worker.leases[-1].counted_workers == 3)
        WorkerProcess.objects.filter(node=other, pid=1).update(deregistered_at=mine.last_seen_at)
        WorkerProcess.objects.filter(node=other, pid=2).update(last_seen_at="2020-01-01T00:00Z")
        worker.hear_until(lambda: worker.leases[-1].counted_workers == 1)
