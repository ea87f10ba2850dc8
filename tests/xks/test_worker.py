"""A worker's link to its agent, over a real socket; and what a worker process may not do."""

import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.xks import world
from tests.xks.fake_agent import FakeAgent
from xks import wire
from xks.keyring import EMPTY, Serving
from xks.policy_rules import RuleSet
from xks.policy_shadow import ShadowCounts
from xks.resident import Desk
from xks.worker import Link

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="ks") as name:
        yield Path(name)


@pytest.fixture
def agent(folder: Path) -> Iterator[FakeAgent]:
    """Return an agent that loads every worker which connects."""
    with FakeAgent(folder / "xks.sock") as agent:
        agent.greeting = lambda hello: [*world.full_load(), world.lease()]
        yield agent


@contextlib.asynccontextmanager
async def linked(folder: Path) -> AsyncIterator[Serving]:
    serving = Serving()
    link = Link(serving, str(folder / "xks.sock"))
    link.start(asyncio.get_running_loop())
    try:
        yield serving
    finally:
        await link.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop run until ``condition`` holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - no event tells of it; sleep(0) only lets the loop turn
            await asyncio.sleep(0)


async def off_loop(function: Callable[[], None]) -> None:
    """Run what waits for the agent's thread without holding the link's event loop."""
    await asyncio.to_thread(function)


async def test_worker_loads_and_confirms(agent: FakeAgent, folder: Path) -> None:
    async with linked(folder) as serving:
        await off_loop(lambda: agent.wait_applied(1))
        await until(lambda: serving.problem(wire.boot_clock()) is None)
        hello = agent.heard[0]
        assert isinstance(hello, wire.Hello)
        assert (hello.pid, hello.generation, hello.protocol) == (os.getpid(), 0, wire.PROTOCOL_VERSION)
        assert 0 < hello.started_at_s <= wire.boot_clock()
    await off_loop(lambda: agent.wait_for(lambda message: isinstance(message, wire.Goodbye)))


async def test_confirmation_comes_after_the_swap_and_once_a_change(agent: FakeAgent, folder: Path) -> None:
    async with linked(folder) as serving:
        await off_loop(lambda: agent.wait_applied(1))
        slices = list(wire.slice_delta(2, full=False, keys=world.KEYS, records=2))
        await off_loop(lambda: agent.send(*slices))
        await off_loop(lambda: agent.wait_applied(2))
        assert serving.keyring.generation == 2
        assert [m.generation for m in agent.heard if isinstance(m, wire.Applied)] == [1, 2]


async def test_unfinished_change_is_dropped_with_the_connection(agent: FakeAgent, folder: Path) -> None:
    async with linked(folder) as serving:
        await off_loop(lambda: agent.wait_applied(1))
        agent.greeting = lambda hello: [wire.Delta(3, False, True), world.lease(3)]
        disabled = world.key_record("foo", state="DISABLED")
        await off_loop(lambda: agent.send(wire.Delta(2, False, False, keys=[disabled])))
        await off_loop(agent.hang_up)
        await off_loop(lambda: agent.wait_applied(3))
        assert serving.keyring.stores["store-1"].keys["foo"].refusal is None
        hellos = [message for message in agent.heard if isinstance(message, wire.Hello)]
        assert [hello.generation for hello in hellos] == [0, 1]


async def test_shadow_counts_are_told_after_a_lease(agent: FakeAgent, folder: Path) -> None:
    shadow = ShadowCounts()
    rules = RuleSet(wire.RuleSetRecord("rules-1", 3, (wire.RuleRecord("all", "DENY"),)))
    link = Link(Serving(), str(folder / "xks.sock"), shadow=shadow)
    link.start(asyncio.get_running_loop())
    try:
        await off_loop(lambda: agent.wait_applied(1))
        shadow.note(rules, 0, "AWS Internal")
        await off_loop(lambda: agent.send(world.lease()))
        await off_loop(lambda: agent.wait_for(lambda message: isinstance(message, wire.ShadowReport)))
        await off_loop(lambda: agent.send(world.lease(), world.lease(), wire.Delta(2, False, True)))
        await off_loop(lambda: agent.wait_applied(2))
    finally:
        await link.stop()
    counts = [wire.ShadowCount("rules-1", 3, 1, {"all": 1}, {"AWS Internal": 1})]
    assert [m for m in agent.heard if isinstance(m, wire.ShadowReport)] == [
        wire.ShadowReport(os.getpid(), counts)
    ]


async def test_worker_serves_on_while_the_agent_is_away(agent: FakeAgent, folder: Path) -> None:
    async with linked(folder) as serving:
        await off_loop(lambda: agent.wait_applied(1))
        await until(lambda: serving.leased_at is not None)
        held = serving.keyring
        await off_loop(agent.hang_up)
        assert serving.keyring is held
        assert serving.problem(wire.boot_clock()) is None
        assert serving.problem(wire.boot_clock() + 61) is not None
        await off_loop(lambda: agent.wait_applied(1))


async def test_worker_waits_for_an_agent_that_comes_later(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(folder) as serving:
        await until(lambda: "not reachable" in caplog.text)
        assert serving.keyring is EMPTY
        with FakeAgent(folder / "xks.sock") as agent:
            agent.greeting = lambda hello: world.full_load(4)
            await off_loop(lambda: agent.wait_applied(4))


@pytest.mark.parametrize(
    "bad",
    [
        wire.Delta(0, False, True),
        wire.Delta(2, False, True, keys=[world.key_record("foo", "store-9")]),
        wire.Delta(
            2, False, True, keys=[world.key_record("foo", versions=[wire.VersionRecord(1, b"short")])]
        ),
    ],
    ids=["lower generation", "unknown store", "broken key"],
)
async def test_refused_change_leads_to_a_full_load(
    agent: FakeAgent, folder: Path, bad: wire.Delta, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(folder):
        await off_loop(lambda: agent.wait_applied(1))
        agent.greeting = lambda hello: [*world.full_load(5), world.lease(5)]
        await off_loop(lambda: agent.send(bad))
        await off_loop(lambda: agent.wait_applied(5))
        hellos = [message for message in agent.heard if isinstance(message, wire.Hello)]
        assert [hello.generation for hello in hellos] == [0, 0]
        assert "refused" in caplog.text


async def test_older_database_is_refused_until_accepted(agent: FakeAgent, folder: Path) -> None:
    agent.greeting = lambda hello: [*world.full_load(9), world.lease(9)]
    async with linked(folder) as serving:
        await off_loop(lambda: agent.wait_applied(9))
        agent.greeting = lambda hello: world.full_load(3)
        await off_loop(agent.hang_up)
        await off_loop(lambda: agent.wait_for(lambda message: isinstance(message, wire.Hello), count=3))
        assert serving.keyring.generation == 9
        agent.greeting = lambda hello: world.full_load(3, rollback_accepted=True)
        await off_loop(lambda: agent.wait_applied(3))
        assert serving.keyring.generation == 3


async def test_no_secret_is_logged(agent: FakeAgent, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with linked(folder):
            await off_loop(lambda: agent.wait_applied(1))
            broken = world.key_record("foo", versions=[wire.VersionRecord(1, b"s3cret")])
            await off_loop(lambda: agent.send(wire.Delta(2, False, True, keys=[broken])))
            await off_loop(lambda: agent.wait_for(lambda message: isinstance(message, wire.Hello), count=2))
    assert "s3cret" not in caplog.text
    assert world.SECRET.decode() not in caplog.text


@pytest.mark.slow
async def test_a_large_load_lets_requests_through(agent: FakeAgent, folder: Path) -> None:
    """The event loop goes on turning while 20,000 keys arrive: what is taken in at a time is small."""
    keys = [world.key_record(f"key-{number}") for number in range(20_000)]
    agent.greeting = lambda hello: list(wire.slice_delta(1, full=True, stores=world.STORES, keys=keys))
    turns = 0
    async with linked(folder) as serving:
        while serving.keyring.generation != 1:
            await asyncio.sleep(0)
            turns += 1
        assert len(serving.keyring.stores["store-1"].keys) == 20_000
    # Unsliced, the loop turns a few times for the frames and not at all while their keys are taken in.
    assert turns > 200


async def test_a_second_large_load_is_spared_the_collector_and_lets_go_of_the_first(
    agent: FakeAgent, folder: Path
) -> None:
    """Going through very many keys, and freeing them in one go, would hold requests up for hundreds of milliseconds."""
    keys = [world.key_record(f"key-{number}") for number in range(5_000)]
    agent.greeting = lambda hello: list(wire.slice_delta(1, full=True, stores=world.STORES, keys=keys))
    collections: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            collections.append(info["collected"])

    async with linked(folder) as serving:
        await off_loop(lambda: agent.wait_applied(1))
        before = serving.keyring.stores["store-1"].keys["key-7"]
        frozen = gc.get_freeze_count()
        gc.callbacks.append(note)
        try:
            again = list(wire.slice_delta(2, full=True, stores=world.STORES, keys=keys))
            await off_loop(lambda: agent.send(*again[:-1]))
            await until(lambda: not gc.isenabled())
            collections.clear()
            await off_loop(lambda: agent.send(again[-1]))
            await off_loop(lambda: agent.wait_applied(2))
        finally:
            gc.callbacks.remove(note)
        assert not collections
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen // 2, "what was loaded is out of the collector's way"
        # Whoever still holds the old snapshot's key may use it: freed is only what nobody holds.
        assert before.current is not None
        assert serving.keyring.stores["store-1"].keys["key-7"] is not before
        assert len(serving.keyring.stores["store-1"].keys) == 5_000

        # A load that is broken off leaves the collector at work.
        agent.greeting = lambda hello: []
        third = list(wire.slice_delta(3, full=True, stores=world.STORES, keys=keys))
        await off_loop(lambda: agent.send(*third[:-1]))
        await until(lambda: not gc.isenabled())
        await off_loop(agent.hang_up)
        await until(gc.isenabled)
        assert serving.keyring.generation == 2
    gc.unfreeze()


HARDENED = """
import ctypes, resource
from hsm.hardening import harden_process; from xks.worker import end_with_parent
harden_process(); end_with_parent()
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number))  # PR_GET_PDEATHSIG
print(ctypes.CDLL(None).prctl(3), resource.getrlimit(resource.RLIMIT_CORE), number.value)  # PR_GET_DUMPABLE
"""


def test_hardened_process_dumps_no_core_cannot_be_traced_and_ends_with_its_parent() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", HARDENED], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout.split("\n")[0] == "0 (0, 0) 15"


IMPORTED = """
import sys
import xks.server, xks.app, xks.worker, xks.sigv4, xks.operations, xks.tls
rooms = ("django", "vault", "cloudkeys", "hsm.software", "rest_framework", "psycopg")
print([name for name in rooms if name in sys.modules])
"""


def test_data_plane_imports_neither_django_nor_the_other_rooms() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert shown.stdout == "[]\n"


async def test_invocations_of_resident_keys_are_asked_for_with_the_load(
    agent: FakeAgent, folder: Path
) -> None:
    version = wire.VersionRecord(1, resident=wire.ResidentRecord("group", b"key"))
    record = world.key_record("resident", versions=[version])
    agent.greeting = lambda hello: [
        wire.HsmGroups(()),
        *world.full_load(keys=[*world.KEYS, record]),
        world.lease(),
    ]
    serving = Serving()
    desk = Desk(lambda record: (_ for _ in ()).throw(AssertionError(record)))
    link = Link(serving, str(folder / "xks.sock"), desk=desk)
    link.start(asyncio.get_running_loop())
    try:
        wanted = wire.InvocationsWanted(os.getpid(), record.id, 1)
        await off_loop(lambda: agent.wait_for(lambda message: message == wanted))
        await off_loop(lambda: agent.send(wire.Invocations(record.id, 1, 7)))
        await until(lambda: desk._meter(record.id, 1).left == 7)
        await off_loop(lambda: agent.wait_applied(1))
    finally:
        await link.stop()


async def test_confirmation_waits_for_requests_at_an_hsm(agent: FakeAgent, folder: Path) -> None:
    """A disable is confirmed only once what was begun under the older generation has ended."""
    serving = Serving()
    desk = Desk(lambda record: (_ for _ in ()).throw(AssertionError(record)))
    link = Link(serving, str(folder / "xks.sock"), desk=desk)
    link.start(asyncio.get_running_loop())

    async def work() -> bytes:
        return b""

    try:
        await off_loop(lambda: agent.wait_applied(1))
        pending = desk.begin(work())
        slices = list(wire.slice_delta(2, full=False, keys=[world.key_record("foo", state="DISABLED")]))
        await off_loop(lambda: agent.send(*slices))
        await until(lambda: serving.keyring.generation == 2)
        await asyncio.sleep(0.1)
        assert not any(isinstance(said, wire.Applied) and said.generation == 2 for said in agent.heard)
        pending.end()
        await off_loop(lambda: agent.wait_applied(2))
    finally:
        await link.stop()
