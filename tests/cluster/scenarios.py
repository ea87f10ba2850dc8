"""What is done to the cluster while the client asks, one function for each row of docs/reliability.md."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.cluster.nodes import ELSEWHERE, XksNode, wait_until
from tests.cluster.running import Running
from tests.cluster.whole import STALENESS_S, Cluster

STEADY_S = 3.0
AFTER_S = 4.0
RESUME_S = 120.0
"""An operation whose worker died is taken up when its lease has run out."""


@dataclass
class Canary:
    """A key that is disabled in the middle; no use of it may be answered from `closed_at` on."""

    external_key_id: str
    key_id: str
    closed_at: float = 0.0
    confirmed: str = ""


@dataclass
class Observed:
    """One scenario as it went; times are seconds of CLOCK_MONOTONIC."""

    title: str
    expects_no_error: bool
    began_at: float = 0.0
    fault_at: float = 0.0
    mended_at: float = 0.0
    recovered_at: float = 0.0
    ended_at: float = 0.0
    canary: Canary | None = None
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def require(self, condition: bool, fault: str) -> None:
        """Note a fault of Keystead unless `condition` holds."""
        if not condition:
            self.faults.append(fault)


Act = Callable[[Running, Observed], None]


def pause(seconds: float) -> None:
    """Let the load go on for a while: what is looked at here is the passing of time."""
    threading.Event().wait(seconds)


@contextlib.contextmanager
def fault(running: Running, seen: Observed) -> Iterator[None]:
    """Mark when the fault begins and is mended, and wait until both nodes serve again."""
    seen.fault_at = time.monotonic()
    yield
    seen.mended_at = time.monotonic()
    running.cluster.wait_serving()
    seen.recovered_at = time.monotonic()


def disable_canary(running: Running, seen: Observed, *, complete: bool) -> None:
    """Disable the canary and note from when on it must be silent."""
    canary = seen.canary
    if canary is None:
        raise AssertionError("this scenario has no canary")
    done = running.cluster.admin.post(
        f"cloud-keys/{canary.key_id}/disable", reason=f"cluster run: {seen.title}"
    )
    sure = done["confirmation"]
    canary.confirmed = f"{sure['confirmed']} of {sure['counted']} in {sure['milliseconds']} ms"
    seen.require(sure["complete"] == complete, f"the disable was answered with {canary.confirmed}")
    canary.closed_at = time.monotonic() + (0.0 if sure["complete"] else float(sure["bound_s"]))


def kill_node(running: Running, seen: Observed) -> None:
    """kill -9 of a whole node, started again two seconds later."""
    node = running.cluster.nodes[0]
    with fault(running, seen):
        node.kill()
        pause(2.0)
        node.start()


def stop_node(running: Running, seen: Observed) -> None:
    """A node stopped in good order and started again."""
    node = running.cluster.nodes[0]
    with fault(running, seen):
        _replace(running, node)


def _replace(running: Running, node: XksNode) -> None:
    """Drain a node at the balancer, stop it, start it again: docs/haproxy.md, "Drain a node"."""
    running.cluster.balancer.tell(f"set server keystead/{node.name} state drain")
    pause(2.0)
    node.stop()
    node.start()
    running.cluster.wait_serving()
    running.cluster.balancer.tell(f"set server keystead/{node.name} state ready")


def freeze_node(running: Running, seen: Observed) -> None:
    """A node that stands still (SIGSTOP) past the staleness bound; a key is disabled meanwhile."""
    node = running.cluster.nodes[0]
    with fault(running, seen):
        node.freeze()
        pause(1.0)
        disable_canary(running, seen, complete=False)
        pause(STALENESS_S + 1.0)
        node.thaw()


def cut_node(running: Running, seen: Observed) -> None:
    """A node whose agent hears nothing any more while its workers go on; a key is disabled meanwhile."""
    agent = running.cluster.nodes[0].programs[0]
    with fault(running, seen):
        agent.signal(signal.SIGSTOP)
        pause(0.5)
        disable_canary(running, seen, complete=False)
        pause(STALENESS_S + 3.0)
        agent.signal(signal.SIGCONT)


def restart_database(running: Running, seen: Observed) -> None:
    """PostgreSQL restarted."""
    with fault(running, seen):
        running.cluster.database.stop()
        running.cluster.database.start()
    seen.notes.append(f"web answers after {_web_back(running):.1f} s")


def stop_redis(running: Running, seen: Observed) -> None:
    """Redis away for some seconds; a key is disabled meanwhile."""
    with fault(running, seen):
        running.cluster.broker.stop()
        pause(1.0)
        disable_canary(running, seen, complete=True)
        pause(5.0)
        running.cluster.broker.start()
    _key_can_be_made(running, seen, "after Redis came back")


def stop_database_shortly(running: Running, seen: Observed) -> None:
    """PostgreSQL away for half of the staleness bound."""
    with fault(running, seen):
        running.cluster.database.stop()
        pause(STALENESS_S / 2)
        running.cluster.database.start()
    seen.notes.append(f"web answers after {_web_back(running):.1f} s")


def stop_database_for_long(running: Running, seen: Observed) -> None:
    """PostgreSQL away for longer than the staleness bound: everything must close, and open by itself."""
    with fault(running, seen):
        running.cluster.database.stop()
        closed = wait_until(lambda: running.cluster.serving() == 0, "nobody serves", STALENESS_S + 5)
        seen.require(
            closed <= STALENESS_S + 2.0, f"a node still served {closed:.1f} s after the database went"
        )
        seen.notes.append(f"closed after {closed:.1f} s")
        pause(3.0)
        running.cluster.database.start()
    seen.notes.append(f"web answers after {_web_back(running):.1f} s")


def fill_disk(running: Running, seen: Observed) -> None:
    """The device of a node's journal is full, and then has room again."""
    node = running.cluster.nodes[1]
    seen.notes.append(
        "a small disk of its own" if running.cluster.small_disk else "by a limit on the size of files"
    )
    with fault(running, seen), _full(running.cluster, node):
        pause(4.0)


def stall_disk(running: Running, seen: Observed) -> None:
    """Writes to a node's journal hang for some seconds."""
    with fault(running, seen), running.cluster.nodes[1].stalled():
        pause(4.0)


def upgrade(running: Running, seen: Observed) -> None:
    """Both nodes and both web pairs replaced, one after another."""
    with fault(running, seen):
        for node in running.cluster.nodes:
            _replace(running, node)
            running.cluster.wait_serving()
            pause(3.0)  # until the balancer trusts it again
        for pair in running.cluster.pairs:
            pair.stop()
            pair.start()
            wait_until(lambda port=pair.port: _healthy(port), f"{pair.name} answers")
            pair.settle(ELSEWHERE)


def kill_web_pair(running: Running, seen: Observed) -> None:
    """kill -9 of web, worker and beat while keys are being made through them."""
    pair = running.cluster.pairs[0]
    made: list[dict[str, Any]] = []
    lost = 0
    with fault(running, seen):
        for number in range(12):
            if number == 4:
                pair.kill()
            try:
                made.append(_begin_key(running, f"survivor-{running.number}-{number}"))
            except (httpx.HTTPError, AssertionError):
                lost += 1
        pair.start()
        wait_until(lambda: _healthy(pair.port), f"{pair.name} answers")
        pair.settle(ELSEWHERE)
    wait_until(lambda: all(_has_ended(running, one) for one in made), "every key is linked", RESUME_S)
    ended_at = time.monotonic()
    failed = [one for one in made if _operation(running, one)["state"] != "SUCCEEDED"]
    seen.require(not failed, f"{len(failed)} operations failed")
    seen.require(not lost, f"{lost} requests for a key were never answered")
    seen.notes.append(
        f"{len(made)} keys asked for, the last one linked {ended_at - seen.fault_at:.0f} s after the first was asked for"
    )
    doubled, missing = running.pointers_of([one["cloud_key"] for one in made])
    seen.require(not doubled, f"{doubled} keys have more than one KMS key")
    seen.require(not missing, f"{missing} keys have no KMS key")


def _begin_key(running: Running, name: str) -> dict[str, Any]:
    """Ask for a key as automation does: with an idempotency key, once more when the answer is lost."""
    body = {"key_set": running.cluster.store["id"], "region": "eu-west-1", "name": name}
    return running.post_safely("cloud-keys", body, name)


def _operation(running: Running, made: dict[str, Any]) -> dict[str, Any]:
    return dict(running.cluster.admin.get(f"operations/{made['operation']['id']}"))


def _has_ended(running: Running, made: dict[str, Any]) -> bool:
    return _operation(running, made)["state"] not in ("WAITING", "RUNNING")


def _key_can_be_made(running: Running, seen: Observed, when: str) -> None:
    began = time.monotonic()
    running.cluster.make_key(f"new-{running.number}-{int(began)}")
    seen.notes.append(f"a key was made and linked {when} in {time.monotonic() - began:.1f} s")


def _web_back(running: Running) -> float:
    return wait_until(running.cluster.web_answers, "the web answers")


def _healthy(port: int) -> bool:
    try:
        headers = {"Host": "localhost"}
        return httpx.get(
            f"http://127.0.0.1:{port}/healthz", headers=headers, timeout=2, trust_env=False
        ).is_success
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def _full(cluster: Cluster, node: XksNode) -> Iterator[None]:
    """Leave the journal of `node` no room for as long as the body runs."""
    if cluster.small_disk:
        ballast = node.data / "journal" / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        try:
            yield
        finally:
            ballast.unlink()
        return
    pids = node.server.pids()
    # What prlimit(1) does: write() then fails with EFBIG where a full device says ENOSPC.
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


ALL: list[tuple[str, Act, bool]] = [
    ("a node killed (kill -9), started again after 2 s", kill_node, False),
    ("a node stopped in good order and started again", stop_node, True),
    (f"a node frozen (SIGSTOP) for longer than the bound of {STALENESS_S:.0f} s", freeze_node, False),
    ("a node's agent cut off for longer than the bound, its workers going on", cut_node, False),
    ("PostgreSQL restarted", restart_database, True),
    ("Redis away for 6 s", stop_redis, True),
    (f"PostgreSQL away for {STALENESS_S / 2:.0f} s, half of the bound", stop_database_shortly, True),
    ("PostgreSQL away for longer than the bound", stop_database_for_long, False),
    ("the disk of a node's journal full for 4 s", fill_disk, False),
    ("the disk of a node's journal stalled for 4 s", stall_disk, False),
    ("web, worker and beat of one machine killed (kill -9) while keys are made", kill_web_pair, True),
    ("both nodes and both web machines replaced, one after another", upgrade, True),
]
"""Title, what is done, and whether the client may see no error at all."""
CANARIES = (freeze_node, cut_node, stop_redis)
