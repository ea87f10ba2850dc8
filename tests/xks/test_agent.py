"""The agent as a whole: socket, loads, deltas, leases, and the table that the kill switch counts."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import OperationalError

from cloudkeys.models import CloudKey, XksKeyStore
from tests.xks.agent_world import (
    KEY,
    STORE,
    RunningAgent,
    Worker,
    changed,
    make_key,
    make_store,
    make_vault,
    material,
)
from vault import keys
from vault.actors import Actor
from vault.generations import counted_workers, wait_for_generation
from vault.models import AuditEvent, Generation, GenerationChange, Node, WorkerProcess
from vault.services.nodes import accept_rollback
from xks import agent as agent_module
from xks import agent_loading, agent_reader, wire
from xks.agent_registry import ProcessName, Registry
from xks.agent_socket import SocketUnusable
from xks.agent_workers import Held
from xks.keyring import Serving
from xks.worker import Link

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="ks-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def store() -> XksKeyStore:
    """A store in a vault, known to the data plane."""
    store = make_store(make_vault())
    with changed((STORE, store)):
        pass
    return store


@pytest.fixture(autouse=True)
def _short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests' workers live on when the agent ends, so that it would wait for them in vain."""
    monkeypatch.setattr(agent_module, "LINGER_S", 0.05)


def until(done: Callable[[], Any], within_s: float = 5.0) -> Any:
    """Return the first true answer; rows are written by other threads and processes."""
    limit = time.monotonic() + within_s
    while not (answer := done()):
        assert time.monotonic() < limit, "it did not come about"
        time.sleep(0.01)
    return answer


def set_generation_wanted(*touched: Any) -> int:
    """Commit a change and return its generation."""
    with changed(*touched) as generation:
        pass
    return generation[0]


def test_worker_gets_everything_and_a_lease(folder: Path, store: XksKeyStore) -> None:
    key = make_key(store, "payments")
    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        before = wire.boot_clock()
        worker.hear_until(lambda: worker.leases)

        assert worker.deltas[0].full
        assert set(worker.stores) == {str(store.pk)}
        assert worker.keys[str(key.pk)].versions == [wire.VersionRecord(1, material())]
        lease = worker.leases[0]
        assert (lease.generation, lease.valid_for_s, lease.fleet_size) == (worker.generation, 60.0, 1)
        assert before - 5 < lease.issued_at_s <= wire.boot_clock()


def test_a_real_worker_link_serves_what_the_agent_sends(folder: Path, store: XksKeyStore) -> None:
    make_key(store, "payments")

    async def follow(serving: Serving, socket_path: Path) -> None:
        link = Link(serving, str(socket_path))
        link.start(asyncio.get_running_loop())
        async with asyncio.timeout(10):
            while serving.problem(wire.boot_clock()) is not None:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        await link.stop()

    with RunningAgent(folder) as agent:
        serving = Serving()
        asyncio.run(follow(serving, agent.socket_path))

        assert set(serving.keyring.stores[str(store.pk)].keys) == {"health", "payments"}
        until(lambda: WorkerProcess.objects.get().deregistered_at)


def test_change_reaches_a_worker_and_its_confirmation_the_table(
    folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By notification: the poll would find it too, and comes in an hour here."""
    monkeypatch.setattr("xks.agent.POLL_S", 3600.0)
    key = make_key(store, "payments")
    with RunningAgent(folder, max_staleness_s=5 * 3600.0) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        with changed((KEY, key)) as generation:
            CloudKey.objects.filter(pk=key.pk).update(state="DISABLED")
        worker.hear_until(lambda: worker.generation == generation[0])
        confirmation = wait_for_generation(generation[0])

        assert worker.keys[str(key.pk)].state == "DISABLED"
        assert not worker.deltas[-1].full
        assert (confirmation.confirmed, confirmation.counted, confirmation.missing) == (1, 1, ())
        until(lambda: Node.objects.get().applied_generation == generation[0])


def test_silent_worker_is_counted_and_not_confirmed(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases, confirm=False)

        confirmation = wait_for_generation(worker.generation, timeout_s=0.1)

        assert (confirmation.confirmed, confirmation.counted) == (0, 1)
        assert [one.why for one in confirmation.missing_workers] == ["STARTING"]
        assert confirmation.missing[0].startswith(f"node-a pid {os.getpid()} (")


def test_no_lease_before_the_worker_is_counted(
    folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_worker, asked = Registry.add_worker, []

    def refuse_three_times(self: Registry, process: ProcessName, generation: int) -> None:
        asked.append(process)
        if len(asked) <= 3:
            raise OperationalError("database is locked")
        add_worker(self, process, generation)

    monkeypatch.setattr(Registry, "add_worker", refuse_three_times)
    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)

        assert len(asked) == 4
        row = WorkerProcess.objects.get()
        assert row.deregistered_at is None


def test_goodbye_takes_the_worker_out_at_once(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        assert len(counted_workers()) == 1
        worker.say(wire.Goodbye(os.getpid()))

        until(lambda: counted_workers() == [])


def test_broken_connection_of_a_living_process_leaves_it_counted(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder, max_staleness_s=1.0) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        worker.hang_up()
        generation = set_generation_wanted((STORE, store))
        until(lambda: Node.objects.get().applied_generation == generation)

        assert [row.deregistered_at for row in counted_workers()] == [None]


def test_worker_that_comes_back_is_the_same_worker(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        worker.hang_up()
        generation = set_generation_wanted((STORE, store))
        worker.connect()
        worker.hear_until(lambda: worker.generation == generation)
        until(lambda: WorkerProcess.objects.get().applied_generation == generation)

        assert [row.pid for row in counted_workers()] == [os.getpid()]


def test_killed_process_is_taken_out_at_once(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder) as agent:
        program = (
            "import os, socket, sys, time; sys.path.insert(0, sys.argv[1])\n"
            "from xks import wire; peer = socket.socket(socket.AF_UNIX); peer.connect(sys.argv[2])\n"
            "peer.sendall(wire.encode_frame(wire.Hello(os.getpid(), 1.0, '', 0, 'test')))\n"
            "peer.recv(1); print('served', flush=True); time.sleep(60)"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(ROOT), str(agent.socket_path)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == b"served\n"
        assert until(lambda: [row.pid for row in counted_workers()]) == [child.pid]
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()

        until(lambda: counted_workers() == [])


def test_stopped_agent_leaves_a_node_without_workers_out_of_the_table(
    folder: Path, store: XksKeyStore
) -> None:
    with RunningAgent(folder) as agent:
        until(lambda: Node.objects.filter(deregistered_at=None).exists())
        agent.stop()

        assert Node.objects.get().deregistered_at is not None
        assert not agent.socket_path.exists()


def test_restarted_agent_keeps_counting_a_worker_that_lives(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        agent.stop()
        assert worker.hear_until_the_end() is None
        assert len(counted_workers()) == 1
        worker.hang_up()
        with RunningAgent(folder):
            worker.connect()
            worker.deltas.clear()
            worker.hear_until(lambda: worker.deltas and worker.deltas[-1].final)

            assert worker.deltas[0].full
            assert len(counted_workers()) == 1


def test_restarted_agent_drops_workers_that_are_provably_gone(folder: Path, store: XksKeyStore) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = ProcessName.of(child.pid, child.pid, 0.0)
    alive = ProcessName.of(os.getpid(), os.getpid(), 0.0)
    elsewhere = ProcessName("0" * 16, 4026531836, 77, 12345)
    unseen = ProcessName.of(0, 78, 5.0)
    registry = Registry("node-a", "test", max_staleness_s=60)
    for process in (gone, alive, elsewhere, unseen):
        registry.add_worker(process, 0)
    child.communicate(b"\n")

    Registry("node-a", "test", max_staleness_s=60).enter()

    assert {row.instance for row in counted_workers()} == {str(alive), str(elsewhere), str(unseen)}


@pytest.mark.parametrize(
    ("error", "told"),
    [(keys.RootKeyAway, agent_reader.HSM_AWAY), (keys.RootKeyMissing, agent_reader.ROOT_UNUSABLE)],
)
def test_workers_are_told_why_there_are_no_keys_while_the_root_key_is_away(
    folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch, error: type[Exception], told: str
) -> None:
    away, load = threading.Event(), agent_reader.load_everything
    away.set()

    def load_unless_away(*arguments: Any) -> Any:
        if away.is_set():
            raise error("The HSM has been unplugged.", "Plug it in.")
        return load(*arguments)

    monkeypatch.setattr(agent_reader, "load_everything", load_unless_away)
    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: told in worker.root_problems)
        assert not worker.leases
        node = until(lambda: Node.objects.exclude(alarms=[]).first())
        assert [alarm["code"] for alarm in node.alarms] == ["ROOT_KEY"]
        away.clear()
        worker.hear_until(lambda: worker.leases and worker.root_problems[-1] == "")
        assert worker.stores, "it recovers without a restart"
        until(lambda: not Node.objects.get().alarms)


def test_older_database_is_refused_until_an_operator_accepts_it(
    folder: Path, store: XksKeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    key = make_key(store, "payments", state="DISABLED")
    set_generation_wanted((KEY, key))
    late = Worker(folder / "run" / "xks.sock", started_at_s=7.0)
    with RunningAgent(folder, max_staleness_s=1.0) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        held = worker.generation
        until(lambda: wait_for_generation(held, timeout_s=0).confirmed == 1)
        # An older backup is put back: there the key was still enabled.
        CloudKey.objects.filter(pk=key.pk).update(state="ENABLED")
        GenerationChange.objects.filter(generation=held).delete()
        Generation.objects.update(value=held - 1)
        last = worker.leases[-1].issued_at_s
        deltas = len(worker.deltas)
        node = until(lambda: Node.objects.exclude(refused_mark="").first())

        assert (node.refused_from, node.refused_generation) == (held, held - 1)
        assert [alarm["code"] for alarm in node.alarms] == ["GENERATION_WENT_BACK"]
        assert AuditEvent.objects.filter(action="vault:node:alarm").count() == 1
        until(lambda: wire.boot_clock() > last + 0.7)
        worker.hear_what_is_there()
        assert len(worker.deltas) == deltas
        assert worker.keys[str(key.pk)].state == "DISABLED"
        # No lease vouches for the time after: all that came were asked before the database changed.
        assert worker.leases[-1].issued_at_s < last + 0.5
        # Nor is what was confirmed of the other history worth anything.
        missing = wait_for_generation(held, timeout_s=0).missing_workers
        assert [one.why for one in missing] == ["REFUSING"]

        accept_rollback(Actor.system("cli"), reason="Restored the backup of 13:00")
        worker.hear_until(lambda: worker.generation == held - 1)
        assert worker.deltas[-1].rollback_accepted
        assert worker.keys[str(key.pk)].state == "ENABLED"
        worker.hear_until(lambda: worker.leases[-1].generation == held - 1)
        until(lambda: not Node.objects.get().refused_mark and not Node.objects.get().alarms)
        until(lambda: wait_for_generation(held - 1, timeout_s=0).complete)
        # One that was away meanwhile is told so too.
        late.connect(generation=held)
        late.hear_until(lambda: late.deltas and late.deltas[-1].final)
        assert late.deltas[0].full
        assert late.deltas[0].rollback_accepted
        late.hang_up()
        # What was accepted is that one step, not the next.
        Generation.objects.update(value=held - 2)
        GenerationChange.objects.filter(generation=held - 1).delete()
        until(lambda: Node.objects.get().refused_mark)


def test_older_database_is_refused_after_a_restart_too(folder: Path, store: XksKeyStore) -> None:
    memory = folder / "agent" / "node-a.json"
    key = make_key(store, "payments", state="DISABLED")
    held = set_generation_wanted((KEY, key))
    with RunningAgent(folder, memory=memory) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
    # Restored while nothing ran; the number has even been reached again, by another change.
    GenerationChange.objects.filter(generation=held).delete()
    Generation.objects.update(value=held - 1)
    set_generation_wanted((STORE, store))
    with RunningAgent(folder, memory=memory) as agent, Worker(agent.socket_path) as worker:
        until(lambda: Node.objects.get().refused_mark)
        worker.hear_what_is_there()
        assert (worker.deltas, worker.leases) == ([], [])
        accept_rollback(Actor.system("cli"))
        worker.hear_until(lambda: worker.leases)
        assert worker.generation == held


def test_confirmation_of_a_lost_history_is_not_written(folder: Path, store: XksKeyStore) -> None:
    """A failover loses a commit, another takes its number, and the word of a worker comes late."""
    registry = Registry("node-a", "test", max_staleness_s=60)
    process = ProcessName("", 0, 77, 1)
    registry.add_worker(process, 0)
    generation = set_generation_wanted((STORE, store))
    lost = agent_loading.fingerprint_of(generation)
    assert registry.confirm([process], generation, lost)
    GenerationChange.objects.filter(generation=generation).delete()
    Generation.objects.update(value=generation - 1)
    WorkerProcess.objects.update(applied_generation=generation - 1)
    assert set_generation_wanted((STORE, store)) == generation

    assert not registry.confirm([process], generation, lost)
    assert not wait_for_generation(generation, timeout_s=0).complete


def test_alarm_at_half_of_the_bound_and_past_it(
    folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xks.agent_reader.BACKOFF_S", (0.02,))
    monkeypatch.setattr("xks.agent_registrar.BACKOFF_S", (0.02,))
    with RunningAgent(folder, max_staleness_s=1.0) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        own = BaseDatabaseWrapper.cursor
        lost = threading.Event()

        def cursor(self: BaseDatabaseWrapper) -> Any:
            if lost.is_set() and threading.current_thread().name in ("reader", "registrar"):
                raise OperationalError("server closed the connection unexpectedly")
            return own(self)

        monkeypatch.setattr(BaseDatabaseWrapper, "cursor", cursor)
        lost.set()
        until(lambda: agent.state.figures.alarms == ("STALENESS_HALF",))
        assert 0.5 < agent.state.figures.staleness_s < 1.0
        until(lambda: agent.state.figures.alarms == ("STALENESS_HALF", "STALENESS_OVER"))
        lost.clear()
        until(lambda: agent.state.figures.alarms == ())
        # What could not be told meanwhile is told afterwards.
        told = until(lambda: list(AuditEvent.objects.filter(action="vault:node:alarm")))
        until(lambda: AuditEvent.objects.filter(action="vault:node:alarm_over").count() >= 2)
        assert {event.detail["code"] for event in told} <= {"STALENESS_HALF", "STALENESS_OVER"}
        assert Node.objects.get().alarms == []


def test_stopped_process_is_named_as_that(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder) as agent:
        program = (
            "import os, socket, sys, time; sys.path.insert(0, sys.argv[1])\n"
            "from xks import wire; peer = socket.socket(socket.AF_UNIX); peer.connect(sys.argv[2])\n"
            "peer.sendall(wire.encode_frame(wire.Hello(os.getpid(), 1.0, '', 0, 'test')))\n"
            "peer.sendall(wire.encode_frame(wire.Applied(os.getpid(), int(sys.argv[3]))))\n"
            "peer.recv(1); print('served', flush=True); time.sleep(60)"
        )
        generation = Generation.objects.get().value
        until(lambda: Node.objects.filter(applied_generation=generation).exists())
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(ROOT), str(agent.socket_path), str(generation)],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"served\n"
            assert until(lambda: wait_for_generation(generation, timeout_s=0).confirmed) == 1
            child.send_signal(signal.SIGSTOP)
            until(lambda: WorkerProcess.objects.get().state == "STOPPED")
            stopped = wait_for_generation(generation, timeout_s=0)
            assert [(one.pid, one.why) for one in stopped.missing_workers] == [(child.pid, "STOPPED")]
            assert [alarm["code"] for alarm in until(lambda: Node.objects.get().alarms)] == ["WORKER_STOPPED"]
            child.send_signal(signal.SIGCONT)
            assert until(lambda: wait_for_generation(generation, timeout_s=0).complete)
        finally:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


def test_draining_worker_is_not_believed(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        assert until(lambda: wait_for_generation(worker.generation, timeout_s=0).complete)
        worker.say(wire.Draining(os.getpid()))
        until(lambda: WorkerProcess.objects.get().state == "DRAINING")
        (missing,) = wait_for_generation(worker.generation, timeout_s=0).missing_workers
        assert (missing.node, missing.why) == ("node-a", "DRAINING")
        worker.say(wire.Goodbye(os.getpid()))
        until(lambda: wait_for_generation(worker.generation, timeout_s=0).counted == 0)


def test_node_registers_its_own_bound(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder, max_staleness_s=17.0) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        assert Node.objects.get().max_staleness_s == 17.0
        assert WorkerProcess.objects.get().max_staleness_s == 17.0
        assert wait_for_generation(worker.generation, timeout_s=0).bound_s == 17.0
    # An agent that grants less does not take back what an earlier one has granted.
    registry = Registry("node-a", "test", max_staleness_s=5.0)
    process = ProcessName.parse(WorkerProcess.objects.get().instance)
    assert process is not None
    registry.add_worker(process, 0)
    assert (Node.objects.get().max_staleness_s, WorkerProcess.objects.get().max_staleness_s) == (5.0, 17.0)


def test_database_lost_and_found(folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xks.agent_reader.BACKOFF_S", (0.02,))
    monkeypatch.setattr("xks.agent_registrar.BACKOFF_S", (0.02,))
    with RunningAgent(folder, max_staleness_s=1.0) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        own = BaseDatabaseWrapper.cursor
        refused: list[object] = []

        def refuse(self: BaseDatabaseWrapper) -> Any:
            if threading.current_thread().name in ("reader", "registrar"):
                refused.append(self)
                raise OperationalError("the server has gone")
            return own(self)

        monkeypatch.setattr(BaseDatabaseWrapper, "cursor", refuse)
        until(lambda: len(refused) >= 6)
        worker.hear_what_is_there()
        leases = len(worker.leases)
        until(lambda: len(refused) >= 10)
        worker.hear_what_is_there()
        assert len(worker.leases) == leases  # none while the database does not answer
        monkeypatch.setattr(BaseDatabaseWrapper, "cursor", own)
        generation = set_generation_wanted((STORE, store))
        worker.hear_until(lambda: worker.generation == generation)
        worker.hear_until(lambda: len(worker.leases) > leases)

        assert not worker.deltas[-1].full
        assert agent.error is None


def test_gap_in_the_log_makes_everything_load_again(
    folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gap(*args: object) -> None:
        monkeypatch.setattr(agent_reader, "load_changes", agent_loading.load_changes)
        raise agent_loading.LogIncomplete("a test says so")

    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        monkeypatch.setattr(agent_reader, "load_changes", gap)
        generation = set_generation_wanted((STORE, store))
        worker.hear_until(lambda: worker.generation == generation)

        assert worker.deltas[-1].full


def test_row_lost_from_the_table_is_written_again(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder, max_staleness_s=1.0) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        until(lambda: WorkerProcess.objects.get().applied_generation == worker.generation)
        Node.objects.all().delete()

        until(lambda: [row.applied_generation for row in counted_workers()] == [worker.generation])


def test_socket_is_for_this_user_alone(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder) as agent:
        assert stat.S_IMODE(agent.socket_path.stat().st_mode) == 0o600
        assert stat.S_IMODE(agent.socket_path.parent.stat().st_mode) == 0o700


def test_connection_of_another_user_is_refused(
    folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xks.agent_workers.peer_of", lambda writer: (os.getpid(), os.geteuid() + 1))
    with RunningAgent(folder) as agent, socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(agent.socket_path))
        assert peer.recv(1) == b""
        assert counted_workers() == []


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x03abc",
        wire.encode_frame(wire.Applied(1, 1)),
        wire.encode_frame(wire.Hello(1, 1.0, "", 0, "other", protocol=99)),
    ],
    ids=["too long", "not msgpack", "no hello", "another protocol"],
)
def test_peer_that_does_not_speak_the_protocol_is_hung_up_on(
    folder: Path, store: XksKeyStore, sent: bytes
) -> None:
    with RunningAgent(folder) as agent:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(10)
            peer.connect(str(agent.socket_path))
            peer.sendall(sent)
            assert peer.recv(1) == b""
        assert counted_workers() == []


def test_health_probe_may_connect_and_say_nothing(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder) as agent:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(agent.socket_path))
        with Worker(agent.socket_path) as worker:
            worker.hear_until(lambda: worker.leases)
            assert len(counted_workers()) == 1


def test_confirmation_of_what_was_never_sent_is_refused(folder: Path, store: XksKeyStore) -> None:
    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        worker.say(wire.Applied(os.getpid(), worker.generation + 1))

        assert worker.hear_until_the_end() is None
        assert WorkerProcess.objects.get().applied_generation <= worker.generation


def test_second_agent_on_one_socket_is_refused(folder: Path, store: XksKeyStore) -> None:
    with (
        RunningAgent(folder) as agent,
        pytest.raises(SocketUnusable, match="Another agent serves"),
        RunningAgent(folder, node_name="node-b"),
    ):
        pass
    assert agent.error is None


def test_socket_left_by_a_killed_agent_is_no_obstacle(folder: Path, store: XksKeyStore) -> None:
    (folder / "run").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "run" / "xks.sock"))

    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        assert worker.generation > 0


def test_folder_that_others_may_enter_is_refused(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run").chmod(0o755)

    with pytest.raises(SocketUnusable, match="chmod 700"), RunningAgent(folder):
        pass


def test_worker_far_behind_gets_everything_anew(
    folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xks.agent_workers.MAX_QUEUED_CHANGES", 0)
    with RunningAgent(folder) as agent, Worker(agent.socket_path) as worker:
        worker.hear_until(lambda: worker.leases)
        generation = set_generation_wanted((STORE, store))
        worker.hear_until(lambda: worker.generation == generation)

        assert worker.deltas[-1].full


def test_broken_thread_ends_the_agent(
    folder: Path, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(agent_reader, "load_everything", broken)
    agent = RunningAgent(folder)
    with pytest.raises(ZeroDivisionError), agent:
        until(lambda: agent.error)


def test_held_forgets_the_keys_of_a_removed_store() -> None:
    stores = [wire.StoreRecord("s1", "/1", False, []), wire.StoreRecord("s2", "/2", False, [])]
    records = [
        wire.KeyRecord(f"k{n}", f"s{n}", "x", "ENABLED", False, [], 1, [wire.VersionRecord(1, material())])
        for n in (1, 2)
    ]
    none: frozenset[Any] = frozenset()
    held = Held.of(agent_loading.Loaded(1, none, True, stores=stores, keys=records))

    held.apply(agent_loading.Loaded(2, none, False, removed_stores=["s1"]))

    assert (list(held.stores), list(held.keys), held.generation) == (["s2"], ["k2"], 2)
