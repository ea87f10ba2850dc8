"""Load on a group of HSM members, and what members did under it: for the tests and for scripts/bench_hsm.py."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from hsm import wire
from hsm.base import HsmError, ResidentCiphertext
from hsm.client import AsyncMember
from hsm.group import AsyncGroup, Routing
from tests.hsm.devices import KEY, Device

DATA = bytes(32)
AAD = b"a typical encryption context, hashed or not, is not long"


class Watched(AsyncMember):
    """A member that notes when it answered and when it failed (time.monotonic)."""

    def __init__(self, device: Device, **options: int) -> None:
        super().__init__(device.name, device.socket, **options)
        self.answered: list[float] = []
        self.failed: list[float] = []

    async def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool, timeout_s: float
    ) -> ResidentCiphertext:
        try:
            made = await super().encrypt(key, data, aad, verify=verify, timeout_s=timeout_s)
        except HsmError:
            self.failed.append(time.monotonic())
            raise
        self.answered.append(time.monotonic())
        return made


@dataclass(frozen=True)
class Request:
    """One request of an open loop; times by time.monotonic."""

    due: float
    ended: float
    error: str

    @property
    def took_ms(self) -> float:
        """From the moment at which it was due, so that a stall of ours counts too."""
        return (self.ended - self.due) * 1000


@dataclass
class Run:
    """What became of a load."""

    requests: list[Request] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def errors(self) -> list[Request]:
        return [each for each in self.requests if each.error]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return (len(self.requests) - len(self.errors)) / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds within which so many of the requests were answered."""
        taken = sorted(each.took_ms for each in self.requests if not each.error)
        return taken[min(len(taken) - 1, int(len(taken) * share))] if taken else float("nan")

    @property
    def worst(self) -> float:
        return max((each.took_ms for each in self.requests if not each.error), default=float("nan"))

    def within(self, begins: float, ends: float) -> Run:
        """The part that was due between these times."""
        return Run([each for each in self.requests if begins <= each.due < ends], ends - begins)


async def one(group: AsyncGroup, run: Run, due: float, budget_s: float, verify: bool) -> None:
    """Ask once and note it."""
    error = ""
    try:
        await group.encrypt(KEY, DATA, AAD, verify=verify, deadline=wire.boot_clock() + budget_s)
    except HsmError as caught:
        error = f"{type(caught).__name__}: {caught}"
    run.requests.append(Request(due, time.monotonic(), error))


@contextlib.asynccontextmanager
async def open_loop(
    group: AsyncGroup, *, rate: float, budget_s: float, verify: bool = True
) -> AsyncIterator[Run]:
    """Ask at a fixed rate, whatever the answers do, until the body ends."""
    run = Run()
    under_way: set[asyncio.Task[None]] = set()
    began = time.monotonic()
    ended = asyncio.Event()

    async def send() -> None:
        number = 0
        while not ended.is_set():
            due = began + number / rate
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(one(group, run, due, budget_s, verify))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1

    sender = asyncio.create_task(send())
    try:
        yield run
    finally:
        ended.set()
        await sender
        await asyncio.gather(*under_way)
        run.seconds = time.monotonic() - began


async def closed_loop(
    group: AsyncGroup, *, in_flight: int, seconds: float, budget_s: float = 5.0, verify: bool = True
) -> Run:
    """Keep so many requests under way for a while."""
    run = Run()
    began = time.monotonic()
    ends = began + seconds

    async def work() -> None:
        while (due := time.monotonic()) < ends:
            await one(group, run, due, budget_s, verify)

    await asyncio.gather(*(work() for _ in range(in_flight)))
    run.seconds = time.monotonic() - began
    return run


@contextlib.asynccontextmanager
async def group_of(
    devices: Sequence[Device], *, routing: Routing = "preferred"
) -> AsyncIterator[tuple[AsyncGroup, list[Watched]]]:
    """Give a group of these devices, connected."""
    members = [Watched(each) for each in devices]
    group = AsyncGroup(members, routing=routing)
    try:
        for each in members:
            await each.encrypt(KEY, DATA, AAD, verify=True, timeout_s=5)
        yield group, members
    finally:
        await group.close()


async def start(device: Device, **changes: object) -> float:
    """Start a device's helper without holding up the loop; returns when it was ready (time.monotonic)."""
    await asyncio.to_thread(device.start, **changes)
    return time.monotonic()


async def until(true: Callable[[], object], timeout_s: float = 20.0) -> float:
    """Wait until something is so, and return when it was (time.monotonic). Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 - of another process; there is no event to wait for
            await asyncio.sleep(0.002)
    return time.monotonic()


@dataclass(frozen=True)
class Failover:
    """What the loss of the preferred of two members cost."""

    run: Run
    fault_at: float
    routed_ms: float
    """From the fault to the end of the last request that had met the faulty member (probes apart)."""
    ended_ms: float
    """From the fault to the end of the helper process."""
    restart_ms: float
    """From the start of a new process to its being ready."""
    return_ms: float
    """From ready to its first answer."""
    back_ms: float
    """From ready to the moment from which the preferred member answered everything again."""
    refused: int
    """Attempts that failed on the faulty member and were made again on the other."""


async def lose_preferred(
    devices: Sequence[Device],
    fault: Callable[[Device], None],
    *,
    rate: float = 500,
    budget_s: float = 0.12,
    away_s: float = 1.0,
    calm_s: float = 1.0,
    deadline_s: float = 5.0,
) -> Failover:
    """Two members under load: the preferred one fails, ends (or is ended), is started again, and returns by itself."""
    device = devices[0]
    async with (
        group_of(devices) as (group, [first, other]),
        open_loop(group, rate=rate, budget_s=budget_s) as run,
    ):
        await asyncio.sleep(calm_s)
        before = len(other.answered)  # none but the first, on a machine that is not full
        fault_at = time.monotonic()
        fault(device)
        running = device.running
        assert running is not None
        ended = await until(lambda: running.exit_code is not None, deadline_s + 15)
        await until(lambda: len(other.answered) > before)
        await asyncio.sleep(away_s)
        device.shim.tell()
        failed = [at for at in first.failed if at >= fault_at]
        answers = len(first.answered)
        begun = time.monotonic()
        ready = await start(device, deadline_s=deadline_s)
        returned = await until(lambda: len(first.answered) > answers)
        await asyncio.sleep(calm_s)
    last_of_other = max(other.answered)
    first_failed = min(failed)
    # Probes come at least half a second apart; what failed before the first of them is the fault's own price.
    price = [at for at in failed if at < first_failed + 0.4]
    return Failover(
        run=run,
        fault_at=fault_at,
        routed_ms=(max(price) - fault_at) * 1000,
        ended_ms=(ended - fault_at) * 1000,
        restart_ms=(ready - begun) * 1000,
        return_ms=(returned - ready) * 1000,
        back_ms=max(0.0, (last_of_other - ready) * 1000),
        refused=len(failed),
    )
