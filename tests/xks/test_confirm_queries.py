"""What stands between the commit of a disable and its confirmation is counted in queries: each is a round trip to the server."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.xks import agent_world as world
from vault.generations import wait_for_generation
from vault.models import WorkerProcess
from xks.agent_loading import Applied, load_changes, load_everything
from xks.agent_registrar import Registrar
from xks.agent_registry import ProcessName, Registry
from xks.agent_state import NodeState

pytestmark = pytest.mark.django_db


def asked(captured: CaptureQueriesContext) -> list[str]:
    """The statements without those that begin and end transactions."""
    words = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
    return [one["sql"] for one in captured.captured_queries if not one["sql"].startswith(words)]


def test_a_disabled_key_is_read_in_few_queries() -> None:
    store = world.make_store(world.make_vault())
    key = world.make_key(store)
    applied = Applied.after(load_everything(60.0), None)
    with world.changed((world.KEY, key)):
        key.enabled = False
        key.save()
    with CaptureQueriesContext(connection) as captured:
        loaded = load_changes(applied, 60.0)
    assert loaded is not None
    assert [record.id for record in loaded.keys] == [str(key.pk)]
    # The counter before and in the snapshot, the log, and the key with what belongs to it.
    assert len(asked(captured)) <= 8, asked(captured)
    with CaptureQueriesContext(connection) as captured:
        assert load_changes(Applied.after(loaded, applied), 60.0) is None
    assert len(asked(captured)) == 1


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_all_workers_of_a_node_are_confirmed_in_one_transaction(workers: int) -> None:
    store = world.make_store(world.make_vault())
    registry = Registry("node-a", "test", max_staleness_s=60.0)
    registrar = Registrar(
        registry,
        seen=lambda beat, at: None, failed=lambda error: None, generation=lambda: 0, beat_s=60.0,
        state=NodeState(60.0),
    )  # fmt: skip
    processes = [ProcessName("", 0, 70 + number, 1) for number in range(workers)]
    for process in processes:
        registrar.joined(process, 0)
    registrar._write()
    with world.changed((world.STORE, store)) as generation:
        pass
    fingerprint = load_everything(60.0).fingerprint
    for process in processes:
        registrar.confirmed(process, generation[0], fingerprint)
    registrar._write()  # each starts to serve: that is written for each, once
    with world.changed((world.STORE, store)) as generation:
        pass
    fingerprint = load_everything(60.0).fingerprint
    for process in processes:
        registrar.confirmed(process, generation[0], fingerprint)
    with CaptureQueriesContext(connection) as captured:
        registrar._write()
    assert len(asked(captured)) == 2, asked(captured)
    assert WorkerProcess.objects.filter(applied_generation=generation[0]).count() == workers
    told = wait_for_generation(generation[0], timeout_s=0)
    assert (told.confirmed, told.counted) == (workers, workers)
