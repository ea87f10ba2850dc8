"""What a real node does when something is really broken: its database, a worker, the clock, its agent.

Everything here is the program itself: ``keystead xks agent``, ``keystead xks serve`` (granian) and PostgreSQL.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vault.serving import wait_for
from tests.xks.real_plane import Answer, Client, Plane, answers_of, load, plane, postgres
from xks import journal_format as form
from xks.journal_recovery import segments_of
from xks.journal_writer import journal_folder, read_segment

pytestmark = pytest.mark.slow

BOUND_S = 5.0
SLACK_S = 1.0
CLOSED = "DependencyTimeoutException"
REFUSED = (400, "InvalidStateException")
SHORT = {"KEYSTEAD_XKS_MAX_STALENESS": "5"}


@pytest.fixture(scope="module")
def database() -> Iterator[Any]:
    with postgres() as database:
        yield database


@pytest.fixture(scope="module")
def node(database: Any) -> Iterator[Plane]:
    """On PostgreSQL, with a short bound."""
    with plane(database.url, **SHORT) as made:
        yield made


@pytest.fixture(scope="module")
def embedded() -> Iterator[Plane]:
    """On SQLite, with a short bound."""
    with plane(**SHORT) as made:
        yield made


def since(answers: list[Answer], moment: float) -> list[Answer]:
    return [one for one in answers if one.sent >= moment]


def recovers(node: Plane, seconds: float = 30.0) -> float:
    """Wait until all workers serve again; return how long that took."""
    began = time.monotonic()
    good = 0

    def serves() -> bool:
        nonlocal good
        good = good + 1 if node.ping()[0] == 200 else 0
        return good >= 8

    assert wait_for(serves, seconds), node.logs()
    return time.monotonic() - began


def test_a_database_that_is_stopped_closes_the_node_after_its_bound(node: Plane, database: Any) -> None:
    with load(node.target, pause_s=0.02) as clients:
        time.sleep(1)
        stopping = time.monotonic()
        database.stop()
        stopped = time.monotonic()
        time.sleep(BOUND_S + SLACK_S + 2)
        ping, why = node.ping()
        started = time.monotonic()
        database.start()
        assert wait_for(lambda: clients[0].answers[-1].status == 200, 30), node.logs()
        recovers(node)
        recovered = time.monotonic()
        time.sleep(0.5)
    answers = answers_of(clients)
    assert {one.status for one in answers if one.done < stopping} == {200}
    # A lease is up to a second old, and what it rests upon as much.
    early = [one for one in answers if stopped < one.sent < stopped + BOUND_S - 3]
    assert len(early) > 10
    assert {one.status for one in early} == {200}
    late = [one for one in answers if stopped + BOUND_S + SLACK_S < one.sent < started]
    assert len(late) > 10
    assert {(one.status, one.error) for one in late} == {(503, CLOSED)}
    assert ping == 503
    assert "out of touch with the database" in why
    assert {one.status for one in since(answers, recovered)} == {200}
    assert recovered - started < 20


def test_an_older_database_is_refused_until_somebody_accepts_it(node: Plane, database: Any) -> None:
    """The files of the server are put back as they were before a key was disabled, under agent and workers that run."""
    key = node.target.keys[0]
    copy = database.folder / "older"
    database.stop()
    subprocess.run(["cp", "-a", str(database.folder / "postgres"), str(copy)], check=True)
    database.start()
    recovers(node)
    assert node.control.ask("disable", key=key)["complete"]
    database.stop()
    shutil.rmtree(database.folder / "postgres")
    copy.rename(database.folder / "postgres")
    with load(node.target, pause_s=0.02) as clients:
        database.start()
        assert wait_for(lambda: "GENERATION_WENT_BACK" in node.control.ask("current")["alarms"], 20), (
            node.logs()
        )
        refused = time.monotonic()
        # Nothing renews the leases any more: at first the key is known to be disabled, then nothing is known.
        assert wait_for(lambda: all(one.answers[-1].error == CLOSED for one in clients), BOUND_S + 10)
        told = node.control.ask("current")
        assert told["confirmed"] == 0
        assert {one["why"] for one in told["missing"]} == {"REFUSING"}
        # A new agent has not forgotten.
        node.processes["agent"].kill()
        node.processes.pop("agent").wait()
        node.start("agent")
        time.sleep(4)
        before = answers_of(clients)
        assert node.ping()[0] == 503
        accepted = time.monotonic()
        done = node.keystead("xks", "accept-rollback", "--reason", "tested")
        assert done.returncode == 0, done.stderr
        assert wait_for(lambda: all(one.answers[-1].status == 200 for one in clients), 20), node.logs()
        took = time.monotonic() - accepted
    assert {(one.status, one.error) for one in before} <= {
        REFUSED,
        (503, CLOSED),
        (0, "ConnectionResetError"),
    }
    assert {one.error for one in since(before, refused + BOUND_S + SLACK_S)} == {CLOSED}
    assert took < 15
    assert node.control.ask("disable", key=key)["complete"]
    assert node.control.ask("enable", key=key)["generation"]


def held_by(pid: int, clients: list[Client]) -> list[Client]:
    """Stop a worker while each client has a request under way; return those that it keeps waiting."""
    assert {one.ask().status for one in clients} == {200}
    os.kill(pid, signal.SIGSTOP)
    for one in clients:
        one.send()
    assert wait_for(lambda: sum(one.waits() for one in clients) < len(clients), 5)
    time.sleep(1)
    held = [one for one in clients if one.waits()]
    for one in clients:
        if one not in held:
            assert one.receive().status == 200
    assert 0 < len(held) < len(clients)
    return held


@pytest.fixture
def clients(embedded: Plane) -> Iterator[list[Client]]:
    made = [Client(embedded.target) for _ in range(16)]
    yield made
    for one in made:
        one.close()


def test_a_worker_that_is_stopped_is_never_counted_as_confirmed(
    embedded: Plane, clients: list[Client]
) -> None:
    key = embedded.target.keys[0]
    pid = embedded.worker_pids()[0]
    held = held_by(pid, clients)
    try:
        assert wait_for(lambda: "WORKER_STOPPED" in embedded.control.ask("current")["alarms"], 10)
        told = embedded.control.ask("disable", key=key)
        assert (told["complete"], told["counted"], told["confirmed"]) == (False, 2, 1), told
        assert told["missing"] == [{"pid": pid, "why": "STOPPED"}]
        time.sleep(BOUND_S)
        assert embedded.control.ask("current")["missing"] == [{"pid": pid, "why": "STOPPED"}]
    finally:
        os.kill(pid, signal.SIGCONT)
    # It may have heard of the change before its first request, or only see that its lease is over.
    woken = [one.receive() for one in held] + [one.ask() for one in held]
    assert {one[3:] for one in woken} <= {REFUSED, (503, CLOSED)}
    assert wait_for(lambda: embedded.control.ask("current")["missing"] == [], 15)
    assert {one.ask()[3:] for one in clients} == {REFUSED}
    assert embedded.control.ask("enable", key=key)["complete"]


def test_a_worker_that_is_stopped_wakes_up_closed(embedded: Plane, clients: list[Client]) -> None:
    """Nobody is there to tell it anything when it wakes: what it says comes from its own clock."""
    pid = embedded.worker_pids()[0]
    agent = embedded.processes["agent"].pid
    held = held_by(pid, clients)
    os.kill(agent, signal.SIGSTOP)
    try:
        time.sleep(BOUND_S + SLACK_S)
        os.kill(pid, signal.SIGCONT)
        woken = [one.receive() for one in held] + [one.ask() for one in held]
        assert {one[3:] for one in woken} == {(503, CLOSED)}
    finally:
        os.kill(pid, signal.SIGCONT)
        os.kill(agent, signal.SIGCONT)
    recovers(embedded)
    assert {one.ask().status for one in clients} == {200}


@pytest.fixture
def wall(tmp_path: Path) -> Any:
    """Return a function that sets how far ahead the wall clock of processes with this environment is."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: the wall clock cannot be moved")
    library, state = tmp_path / "clock.so", tmp_path / "wall"
    source = Path(__file__).with_name("clock_shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    state.write_bytes(struct.pack("d", 0.0))

    def move(seconds: float) -> None:
        with state.open("r+b") as file:
            file.write(struct.pack("d", seconds))

    move.environ = {"LD_PRELOAD": str(library), "WALL_CLOCK_AHEAD": str(state)}  # type: ignore[attr-defined]
    return move


@pytest.mark.long
def test_a_wall_clock_that_jumps_neither_opens_nor_closes(wall: Any) -> None:
    """Every process of the node sees the jump, as when its host's clock is set; SQLite takes its times from them."""
    with plane(**wall.environ, **SHORT) as node:
        agent = node.processes["agent"].pid
        for seconds in (3600.0, -3600.0, 86_400.0 * 20):
            wall(seconds)
            with load(node.target, clients=2, pause_s=0.02, wall=seconds) as clients:
                time.sleep(2)
            # The shim is at work: what is dated by the true time is too far off to be believed.
            assert {one.status for one in answers_of(clients)} == {200}, seconds
            with load(node.target, clients=1, pause_s=0.02) as clients:
                time.sleep(0.3)
            assert {one.error for one in answers_of(clients)} == {"AuthenticationFailedException"}, seconds
            assert node.ping()[0] == 200
            told = node.control.ask("disable", key=node.target.keys[0])
            assert (told["complete"], told["counted"]) == (True, 2), (seconds, told)
            assert node.control.ask("enable", key=node.target.keys[0])["complete"]
        # Backwards while nobody renews the lease: it ends as if nothing had happened.
        with load(node.target, clients=2, pause_s=0.02, wall=seconds) as clients:
            time.sleep(1)
            os.kill(agent, signal.SIGSTOP)
            stopped = time.monotonic()
            try:
                wall(-7200.0)
                for client in clients:
                    client.wall = -7200.0
                time.sleep(BOUND_S + SLACK_S + 1)
            finally:
                os.kill(agent, signal.SIGCONT)
        late = since(answers_of(clients), stopped + BOUND_S + SLACK_S)
        assert len(late) > 5
        assert {(one.status, one.error) for one in late} == {(503, CLOSED)}
        recovers(node)
        done = node.keystead("audit", "verify")
        assert done.returncode == 0, done.stdout


def journalled(node: Plane) -> list[str]:
    """Return kmsRequestId of every record of every journal of the node."""
    folder = journal_folder(node.folder / "var", "node-1")
    return [
        record.kms_request_id
        for chain in sorted(path.name for path in folder.iterdir() if path.is_dir())
        for number in segments_of(folder, chain)
        for _, record in form.records_of(read_segment(folder, chain, number))
    ]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
def test_an_agent_killed_while_it_ships_loses_and_doubles_nothing(kind: str) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(postgres()).url if kind == "PostgreSQL" else ""
        node = stack.enter_context(plane(url))
        behind = []
        with load(node.target, clients=4) as clients:
            for _ in range(4):
                time.sleep(random.uniform(0.5, 1.5))  # in the midst of whatever it is about
                node.processes["agent"].kill()
                node.processes.pop("agent").wait()
                behind.append(len(journalled(node)) - len(node.control.ask("count")["ids"]))
                node.start("agent")
                assert wait_for(lambda: "agent ready" in node.logs(), 20), node.logs()
                assert wait_for(lambda: node.control.ask("current")["missing"] == [], 20), node.logs()
            time.sleep(1)
        assert min(behind) >= 0
        assert max(behind) > 0
        answers = answers_of(clients)
        # The workers answered on from what they had.
        assert Counter(one[3:] for one in answers).keys() == {(200, "")}
        written = Counter(journalled(node))
        assert {one.request_id for one in answers} <= written.keys()
        assert {written[one.request_id] for one in answers} == {1}
        total = sum(written.values())
        assert wait_for(lambda: len(node.control.ask("count")["ids"]) >= total, 30)
        counted = node.control.ask("count")
        assert Counter(counted["ids"]) == written
        assert (counted["places"], counted["usage"]) == (total, total)
        assert (counted["minutes"], counted["hours"]) == (total, total)
        assert counted["chains"] == 2  # no worker had to begin another journal
        done = node.keystead("audit", "verify")
        assert done.returncode == 0, done.stdout + done.stderr
