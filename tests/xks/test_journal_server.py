"""The journal under the real server: nothing leaves without its record, whatever becomes of workers and devices."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.xks import world
from tests.xks.test_server import Running, run_server
from xks import journal_format as form
from xks.journal import Record
from xks.journal_recovery import examine_file, segments_of
from xks.journal_writer import journal_folder, segment_path

pytestmark = pytest.mark.slow
STATE = bytes(32)
STALLING = str(Path(__file__).with_name("stalling_server.py"))


def chains(running: Running) -> list[tuple[Path, str]]:
    folder = journal_folder(running.folder, "node-1")
    return [(folder, chain) for chain in running.agent.chains if (folder / chain).exists()]


def journalled(running: Running) -> dict[str, Record]:
    """Return every record whose chain of MACs holds, by kmsRequestId."""
    found: dict[str, Record] = {}
    for folder, chain in chains(running):
        before = form.NO_MAC
        numbers = segments_of(folder, chain)
        for number in numbers:
            state = form.state_after(STATE, number)
            followed = number != numbers[-1]
            ended = examine_file(folder, chain, number, state, before, followed=followed)
            assert ended.end in ("clean", "next", "killed"), ended
            before = ended.mac
            data = segment_path(folder, chain, number).read_bytes()[: ended.size]
            found.update((record.kms_request_id, record) for _, record in form.records_of(data))
    return found


class Client(threading.Thread):
    """Encrypts as fast as it can, and keeps what it was answered, by kmsRequestId."""

    def __init__(self, running: Running, name: str) -> None:
        super().__init__(name=name)
        self.running = running
        self.answers: dict[str, int] = {}
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException), self.running.client() as connection:
                self.use(connection)

    def use(self, connection: http.client.HTTPSConnection) -> None:
        path = world.path("encrypt")
        while not self.enough.is_set():
            request_id = f"{self.name}-{len(self.answers)}"
            body = world.encrypt_body(
                requestMetadata={**world.REQUEST_METADATA, "kmsRequestId": request_id},
            )
            raw = world.dumped(body)
            self.answers[request_id] = 0  # not known: it may or may not have been recorded
            connection.request(
                "POST", path, raw, world.sign(path, raw, host=f"localhost:{self.running.port}")
            )
            response = connection.getresponse()
            response.read()
            self.answers[request_id] = response.status


@contextlib.contextmanager
def load(running: Running, clients: int = 6) -> Iterator[list[Client]]:
    threads = [Client(running, f"client{number}") for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.enough.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("sync", ["write", "group"])
def test_no_answer_leaves_without_its_record(sync: str) -> None:
    with run_server(KEYSTEAD_XKS_JOURNAL_SYNC=sync, KEYSTEAD_NODE_NAME="node-1") as running:
        with load(running) as clients:
            victims = sorted(running.workers())  # granian gives up on a worker that dies twice in a hurry
            for victim in victims:
                served = sum(len(client.answers) for client in clients)
                moment = served + random.randrange(20, 150)
                wait_until(lambda moment=moment: sum(len(one.answers) for one in clients) > moment)
                before = len(running.agent.chains)
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda before=before: len(running.agent.chains) > before)
        records = journalled(running)
    answered = {name: status for client in clients for name, status in client.answers.items()}
    good = {name for name, status in answered.items() if status == 200}
    assert len(good) > 50
    assert good <= records.keys()
    assert {records[name].outcome for name in good} == {"OK"}
    assert len(running.agent.chains) >= 4  # each worker process has one of its own


@contextlib.contextmanager
def lone_worker(program: str = "-m", **settings: str) -> Iterator[Running]:
    named = {"KEYSTEAD_NODE_NAME": "node-1", "KEYSTEAD_XKS_WORKERS": "1", **settings}
    with run_server(program, workers=1, **named) as running:
        wait_until(lambda: is_healthy(running))  # it listens only after it has its keys
        yield running


def is_healthy(running: Running) -> bool:
    try:
        return running.request("GET", "/ping")[0] == 200
    except OSError:
        return False


def wait_until(condition: Any, within_s: float = 30) -> None:
    """Return once ``condition()`` is true; what it looks at is other processes' doing."""
    limit = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < limit, "it did not come about"
        time.sleep(0.005)


@contextlib.contextmanager
def stalled(running: Running) -> Iterator[None]:
    """Hold up every write to the journal's device for as long as the body runs."""
    gate, sign = running.folder / "gate", running.folder / "stall"
    if not gate.exists():
        os.mkfifo(gate)
    sign.touch()
    try:
        yield
    finally:
        sign.unlink()
        # Both ends open: whoever waits goes on, however many they are.
        keeper = os.open(gate, os.O_RDWR)
        wait_until(lambda: is_healthy(running))
        os.close(keeper)


@pytest.mark.parametrize("sync", ["write", "group"])
def test_stalled_device(sync: str) -> None:
    with lone_worker(STALLING, KEYSTEAD_XKS_JOURNAL_SYNC=sync) as running:
        assert running.call("encrypt", world.encrypt_body())[0] == 200
        with stalled(running):
            # The first finds out, the others are told at once: each gets 500, and nobody a result.
            for _ in range(5):
                status, answer = running.call("encrypt", world.encrypt_body())
                assert (status, answer["errorName"]) == (500, "InternalException")
            assert running.request("GET", "/ping") == (
                503,
                {"status": "unavailable", "reason": "the journal's device has stalled"},
            )
        assert running.call("encrypt", world.encrypt_body())[0] == 200


def test_stall_under_load_answers_everybody() -> None:
    with lone_worker(STALLING) as running:
        with load(running) as clients:
            wait_until(lambda: sum(len(client.answers) for client in clients) > 50)
            with stalled(running):
                wait_until(lambda: all(500 in client.answers.values() for client in clients))
            seen = [len(client.answers) for client in clients]
            wait_until(
                lambda: all(len(one.answers) > before + 5 for one, before in zip(clients, seen, strict=True))
            )
        records = journalled(running)
    for client in clients:
        assert set(client.answers.values()) <= {0, 200, 500}
        good = {name for name, status in client.answers.items() if status == 200}
        assert good <= records.keys()


def test_full_device_refuses_and_recovers() -> None:
    with lone_worker() as running:
        assert running.call("encrypt", world.encrypt_body())[0] == 200
        (pid,) = running.workers()
        ((folder, chain),) = chains(running)
        size = segment_path(folder, chain, 0).stat().st_size
        # What prlimit(1) does: from here on the worker's files may not grow.
        set_file_size_limit(pid, size)
        status, answer = running.call("encrypt", world.encrypt_body())
        assert (status, answer["errorName"]) == (500, "InternalException")
        status, told = running.request("GET", "/ping")
        assert status == 503
        assert "cannot be written" in told["reason"]
        set_file_size_limit(pid, None)
        wait_until(lambda: is_healthy(running))  # by itself
        assert running.call("encrypt", world.encrypt_body())[0] == 200
        assert len(journalled(running)) == 1  # one kmsRequestId for all of these


def set_file_size_limit(pid: int, size: int | None) -> None:
    import resource

    most = resource.RLIM_INFINITY if size is None else size
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
