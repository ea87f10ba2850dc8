"""The xks agent: the only process of a node with the database and the root key.

Three lines of work, so that none waits for another:

* the *reader* thread asks the database what is current and loads it (``xks.agent_reader``);
* the *registrar* thread keeps the node's rows (``xks.agent_registrar``);
* the event loop talks with the workers (``xks.agent_workers``).

A worker may serve for as long as the older of two things is recent enough: that the database said
what is current, and that the table of workers shows this one.  When the database is gone nothing of
either is renewed, and workers close by themselves.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog

from xks.agent_endpoint import EndpointKeeper
from xks.agent_hsm import open_kek
from xks.agent_invocations import Reservations
from xks.agent_journal import Journals, Keeper
from xks.agent_keks import Keks
from xks.agent_loading import Loaded
from xks.agent_memory import Memory
from xks.agent_reader import Reader
from xks.agent_registrar import Registrar
from xks.agent_registry import Registry
from xks.agent_shipping import Shipping, ShippingThread
from xks.agent_socket import bind_socket, claim_socket
from xks.agent_state import NodeState
from xks.agent_workers import Workers
from xks.metrics_agent import AgentMetrics, MetricsSettings
from xks.siem_sinks import Sink
from xks.siem_stream import Stream, StreamThread
from xks.wire import boot_clock

log = structlog.get_logger("keystead.agent")

POLL_S = 0.4
"""The database is asked this often even when it sends no word."""

BEAT_S = 1.0
"""Heartbeats and leases."""

LINGER_S = 2.5
"""How long an agent that is told to stop waits for its workers' goodbyes: they are being stopped too."""


class Agent:
    """One node's agent. ``run`` serves until told to stop."""

    def __init__(
        self,
        *,
        socket_path: Path,
        node_name: str,
        max_staleness_s: float,
        software_version: str,
        journal_folder: Path | None = None,
        journal_days: int = 90,
        request_days: int = 30,
        siem: Sink | None = None,
        metrics: MetricsSettings | None = None,
        memory: Path | None = None,
    ) -> None:
        """``memory``: the file in which is kept what was applied last, so that an older database is known after a restart.

        ``journal_folder``: where this node's workers write their journals; None when they do not.

        ``metrics``: where Prometheus is answered; None for nowhere.
        """
        self._journal_folder = journal_folder
        self._metrics = metrics
        self._version = software_version
        self._socket_path = socket_path
        self._max_staleness_s = max_staleness_s
        self._poll_s = min(POLL_S, max_staleness_s / 5)
        self._beat_s = min(BEAT_S, max_staleness_s / 5)
        self._journals: Journals | None = None
        self._shipping: Shipping | None = None
        self._make_stream: Callable[[], Stream] | None = None
        if journal_folder is not None:
            self._journals = Journals(node_name, journal_folder, keep=timedelta(days=journal_days))
            self._shipping = Shipping(node_name, journal_folder, request_days=request_days)
            if siem is not None:
                self._make_stream = partial(Stream, node_name, journal_folder, siem)
        self._state = NodeState(max_staleness_s)
        self._memory = Memory(memory)
        self._registry = Registry(node_name, software_version, max_staleness_s=max_staleness_s)

    async def run(self, stop: asyncio.Event, *, started: Callable[[], None] = lambda: None) -> None:
        """Serve the socket until ``stop`` is set; ``started`` is called once it can be connected to.

        Raises SocketUnusable, and whatever ended one of the two threads.
        """
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        failures: list[BaseException] = []

        def failed(error: BaseException) -> None:
            failures.append(error)
            call_in(loop, ending.set)

        lock = claim_socket(self._socket_path)
        registrar = Registrar(
            self._registry,
            seen=lambda beat, at: call_in(loop, workers.seen, beat, at),
            failed=failed,
            generation=lambda: workers.generation,
            beat_s=self._beat_s,
            state=self._state,
        )
        keeper: Keeper | None = None
        if self._journals is not None:
            keeper = Keeper(
                self._journals,
                give=lambda process, chain, state: call_in(loop, workers.give_journal, process, chain, state),
                failed=failed,
                beat_s=self._beat_s,
            )
        endpoint = EndpointKeeper(
            self._registry.name,
            offer=lambda tls: call_in(loop, workers.endpoints.offer, tls),
            failed=failed,
        )
        helpers: list[ShippingThread | StreamThread | EndpointKeeper | Reservations] = [endpoint]
        if self._shipping is not None:
            helpers.append(ShippingThread(self._shipping, failed=failed, beat_s=self._beat_s))
        if self._make_stream is not None:
            helpers.append(StreamThread(self._make_stream, failed=failed, beat_s=self._beat_s))
        metrics: AgentMetrics | None = None
        if self._metrics is not None:
            metrics = AgentMetrics(
                self._metrics,
                node_name=self._registry.name,
                version=self._version,
                max_staleness_s=self._max_staleness_s,
                journal_folder=self._journal_folder,
                figures=lambda: workers.figures,
                refused=lambda: reader.refuses,
            )
        reservations = Reservations(
            give=lambda process, key_id, number, count: call_in(
                loop, workers.grant, process, key_id, number, count
            ),
            failed=failed,
        )
        helpers.append(reservations)
        workers = Workers(
            registrar,
            max_staleness_s=self._max_staleness_s,
            lease_every_s=self._beat_s * 0.9,
            journals=keeper,
            metrics=metrics.node if metrics is not None else None,
            reservations=reservations,
        )
        workers.endpoints.served = endpoint.served

        def take(loaded: Loaded | None, at: float) -> None:
            call_in(loop, workers.take, loaded, at)
            if loaded is not None:
                endpoint.wake()

        keks = Keks(open_kek)
        reader = Reader(
            take=take,
            failed=failed,
            poll_s=self._poll_s,
            max_staleness_s=self._max_staleness_s,
            state=self._state,
            memory=self._memory,
            keks=keks,
            take_hsms=lambda groups: call_in(loop, workers.take_hsms, groups),
            courtesy=self._shipping.courtesy if self._shipping is not None else None,
        )
        watching = asyncio.create_task(self._watch_staleness())
        try:
            server = await asyncio.start_unix_server(workers.converse, sock=bind_socket(self._socket_path))
            registrar.start()
            reader.start()
            if metrics is not None:
                metrics.start()
            if keeper is not None:
                keeper.start()
            for helper in helpers:
                helper.start()
            log.info("agent ready", node=self._registry.name, socket=str(self._socket_path))
            started()
            stopped = asyncio.create_task(stop.wait())
            stopped.add_done_callback(lambda _: ending.set())
            try:
                await ending.wait()
                if not failures:
                    await self._linger(workers)
            finally:
                stopped.cancel()
                watching.cancel()
                server.close()
                await workers.close()
                reader.stop()
                keks.stop()
                registrar.stop()
                if metrics is not None:
                    await asyncio.to_thread(metrics.stop)
                if keeper is not None:
                    keeper.stop()
                for helper in helpers:
                    helper.stop()
                await asyncio.to_thread(
                    join, reader, registrar, *([keeper] if keeper is not None else []), *helpers
                )
                if not reader.is_alive():
                    reader.close()
                self._socket_path.unlink(missing_ok=True)
            if failures:
                raise failures[0]
            log.info("agent stopped")
        finally:
            lock.close()

    @property
    def state(self) -> NodeState:
        """How stale the node is and what is wrong with it; may be read from any thread."""
        return self._state

    async def _watch_staleness(self) -> None:
        while True:
            await asyncio.sleep(min(0.5, self._max_staleness_s / 10))
            self._state.watch(boot_clock())

    async def _linger(self, workers: Workers) -> None:
        try:
            await asyncio.wait_for(workers.nobody_left.wait(), LINGER_S)
        except TimeoutError:
            log.info("workers go on without this agent until their lease ends")


def join(*threads: threading.Thread) -> None:
    """Wait for threads to end; a database that hangs must not keep the process alive."""
    for thread in threads:
        thread.join(timeout=2.0)


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    """Have the event loop call ``function``; nothing happens once it is closed, which is after the end."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *args)
