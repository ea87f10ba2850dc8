"""The node's socket: what the agent holds for its workers, and the conversation with each of them.

Runs in the agent's event loop and never touches the database.  Records are kept here in clear so
that a worker that starts, or comes back, is served at once and without the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import structlog

from xks import wire
from xks.agent_endpoint import Endpoints
from xks.agent_loading import Loaded
from xks.agent_registry import Heartbeat, ProcessName
from xks.agent_socket import peer_of

log = structlog.get_logger("keystead.agent")

HELLO_S = 10.0
"""How long a connection may stay silent before it has said who it is."""

MAX_FINGERPRINTS = 10_000
"""Generations of which a worker's confirmation is still of use."""

MAX_QUEUED_CHANGES = 1000
"""A worker that lags further behind gets everything anew: that is less to send."""


class Census(Protocol):
    """Keeps the table of worker processes; none of its methods waits for the database."""

    def joined(self, process: ProcessName, serves_generation: int) -> None:
        """A worker has connected."""
        ...

    def confirmed(self, process: ProcessName, generation: int, fingerprint: str) -> None:
        """A worker answers from this generation only."""
        ...

    def draining(self, process: ProcessName) -> None:
        """A worker has been told to end, and finishes what it has."""
        ...

    def troubled(self, process: ProcessName, problem: str) -> None:
        """A worker tells why it cannot keep its journal; "": it can."""
        ...

    def parted(self, process: ProcessName) -> None:
        """A worker's connection ended; it may still be serving."""
        ...

    def shadowed(self, counts: list[wire.ShadowCount]) -> None:
        """A worker tells what shadowed access rules would have denied."""
        ...

    def used(self, uses: list[wire.CredentialUse]) -> None:
        """A worker tells which credentials it has seen in use."""
        ...

    def gone(self, process: ProcessName) -> None:
        """A worker serves no more: it said so, or its process has ended."""
        ...


@dataclass
class Held:
    """Everything that workers are to know, at one generation."""

    generation: int
    stores: dict[str, wire.StoreRecord]
    keys: dict[str, wire.KeyRecord]

    @classmethod
    def of(cls, loaded: Loaded) -> Held:
        """Take over a full load."""
        return cls(
            loaded.generation,
            {store.id: store for store in loaded.stores},
            {key.id: key for key in loaded.keys},
        )

    def apply(self, loaded: Loaded) -> None:
        """Take over a change."""
        gone = set(loaded.removed_stores)
        for store_id in gone:
            self.stores.pop(store_id, None)
        if gone:
            for key_id in [key.id for key in self.keys.values() if key.store_id in gone]:
                del self.keys[key_id]
        for key_id in loaded.removed_keys:
            self.keys.pop(key_id, None)
        self.stores.update((store.id, store) for store in loaded.stores)
        self.keys.update((key.id, key) for key in loaded.keys)
        self.generation = loaded.generation

    def slices(self, *, rollback_accepted: bool = False) -> Iterator[wire.Delta]:
        """Everything as a full load, as it stands now: later changes do not show in it."""
        return wire.slice_delta(
            self.generation,
            full=True,
            stores=list(self.stores.values()),
            keys=list(self.keys.values()),
            rollback_accepted=rollback_accepted,
        )


@dataclass(eq=False)
class Link:
    """One worker's connection: what is still to be said to it."""

    process: ProcessName
    writer: asyncio.StreamWriter
    needs_everything: bool = True
    changes: deque[list[bytes]] = field(default_factory=deque)
    seen_at: float | None = None
    """Boot clock before the last note in the table that this worker was seen; None before the first."""
    leased_at: float | None = None
    """``issued_at_s`` of the last lease sent."""
    lease_wanted: bool = False
    hsms_wanted: bool = True
    granted: deque[bytes] = field(default_factory=deque)
    """Frames with invocations of keys in HSMs."""
    journal_key: bytes | None = None
    """Frame with the key of its journal, to be sent first."""
    has_journal: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Journals(Protocol):
    """Gives workers the keys of their journals (xks.agent_journal.Keeper); none of its methods waits."""

    def wanted(self, process: ProcessName) -> None:
        """A worker has connected and has no journal yet."""
        ...

    def holds(self, process: ProcessName, chain: str) -> None:
        """A worker has connected and writes this chain already."""
        ...

    def gone(self, process: ProcessName) -> None:
        """A worker has said goodbye, or its process has ended."""
        ...


class Reservations(Protocol):
    """Reserves invocations of keys in HSMs (xks.agent_invocations); does not wait."""

    def wanted(self, process: ProcessName, key_id: str, number: int) -> None:
        """A worker asks for invocations of a version."""
        ...


class Metrics(Protocol):
    """Keeps what workers count (xks.metrics_node.NodeMetrics); none of its methods waits."""

    def reported(self, process: ProcessName, report: wire.MetricsReport) -> None:
        """A worker tells what it has counted."""
        ...

    def shadowed(self, counts: list[wire.ShadowCount]) -> None:
        """A worker tells what shadowed access rules would have denied."""
        ...

    def gone(self, process: ProcessName) -> None:
        """A worker has said goodbye, or its process has ended."""
        ...


class Figures(NamedTuple):
    """What the agent's metrics show of it at a moment."""

    generation: int
    current_at: float | None
    """Boot clock before the database last said what is current."""
    connected: int
    stores: int
    keys: int


class Workers:
    """All workers of this node."""

    def __init__(
        self,
        census: Census,
        *,
        max_staleness_s: float,
        lease_every_s: float,
        journals: Journals | None = None,
        metrics: Metrics | None = None,
        reservations: Reservations | None = None,
    ) -> None:
        """Without ``journals`` workers are left to keep theirs in memory."""
        self._metrics = metrics
        self._census = census
        self._journals = journals
        self._reservations = reservations
        self._hsms: bytes | None = None
        self._max_staleness_s = max_staleness_s
        self._lease_every_s = lease_every_s
        self._held: Held | None = None
        self._fingerprints: dict[int, str] = {}
        self._rollback_accepted = False
        self._current_at: float | None = None
        self._fleet_size = 1
        self._counted_workers = 1
        self._links: dict[ProcessName, Link] = {}
        self._exits: dict[ProcessName, int] = {}
        self._conversations: dict[asyncio.Task[object], asyncio.StreamWriter] = {}
        self.endpoints = Endpoints()
        self.nobody_left = asyncio.Event()
        self.nobody_left.set()

    @property
    def generation(self) -> int:
        """What the agent has read; 0 before the first load."""
        return self._held.generation if self._held is not None else 0

    @property
    def figures(self) -> Figures:
        """For the metrics; may be read from any thread."""
        held = self._held
        return Figures(
            held.generation if held is not None else 0,
            self._current_at,
            len(self._links),
            len(held.stores) if held is not None else 0,
            len(held.keys) if held is not None else 0,
        )

    # --- news from the reader and from the registrar ---------------------------------------------------------

    def take(self, loaded: Loaded | None, asked_at: float) -> None:
        """Pass on what the reader found; None: nothing new. ``asked_at``: boot clock before it asked."""
        if loaded is not None:
            if loaded.rollback_accepted:
                # From now on, for whoever comes back later: what this agent holds has been accepted.
                self._rollback_accepted = True
                self._fingerprints.clear()
            self._fingerprints[loaded.generation] = loaded.fingerprint
            while len(self._fingerprints) > MAX_FINGERPRINTS:
                del self._fingerprints[next(iter(self._fingerprints))]
            if loaded.full or self._held is None:
                self._held = Held.of(loaded)
                for link in self._links.values():
                    link.needs_everything = True
                    link.wake.set()
            else:
                self._held.apply(loaded)
                self._broadcast(loaded)
        self._current_at = asked_at
        self._offer_leases()

    def take_hsms(self, groups: wire.HsmGroups) -> None:
        """Tell every worker which HSM connections there are, before any key that refers to them."""
        self._hsms = wire.encode_frame(groups)
        for link in self._links.values():
            link.hsms_wanted = True
            link.wake.set()

    def grant(self, process: ProcessName, key_id: str, number: int, count: int) -> None:
        """Hand a worker invocations that have been reserved for it."""
        link = self._links.get(process)
        if link is not None:
            link.granted.append(wire.encode_frame(wire.Invocations(key_id, number, count)))
            link.wake.set()

    def seen(self, beat: Heartbeat, beat_at: float) -> None:
        """Note which workers were marked as seen in the table. ``beat_at``: boot clock before that."""
        self._fleet_size = beat.fleet_size
        self._counted_workers = beat.counted_workers
        for process, link in self._links.items():
            if str(process) in beat.known_workers:
                link.seen_at = beat_at
        self._offer_leases()

    def give_journal(self, process: ProcessName, chain: str, state: bytes) -> None:
        """Hand a worker the key of its journal."""
        link = self._links.get(process)
        if link is not None:
            link.journal_key = wire.encode_frame(wire.JournalKey(chain, state))
            link.wake.set()

    def _broadcast(self, loaded: Loaded) -> None:
        frames = [
            wire.encode_frame(delta)
            for delta in wire.slice_delta(
                loaded.generation,
                full=False,
                stores=loaded.stores,
                keys=loaded.keys,
                removed_stores=loaded.removed_stores,
                removed_keys=loaded.removed_keys,
            )
        ]
        for link in self._links.values():
            if link.needs_everything:
                continue
            if len(link.changes) >= MAX_QUEUED_CHANGES:
                link.needs_everything = True
                link.changes.clear()
            else:
                link.changes.append(frames)
            link.wake.set()

    def _offer_leases(self) -> None:
        for link in self._links.values():
            issued_at = self._issued_at(link)
            if issued_at is None:
                continue
            if link.leased_at is None or issued_at - link.leased_at >= self._lease_every_s:
                link.lease_wanted = True
                link.wake.set()

    def _issued_at(self, link: Link) -> float | None:
        # The older of two: when the database last said that what is held is current, and when the table
        # last showed this worker. So a worker never serves longer than it is counted.
        if self._current_at is None or link.seen_at is None:
            return None
        if self._journals is not None and not link.has_journal:
            return None  # what cannot be recorded is not to be answered
        return min(self._current_at, link.seen_at)

    # --- the conversation ------------------------------------------------------------------------------------

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        task = asyncio.current_task()
        if task is not None:
            self._conversations[task] = writer
            task.add_done_callback(lambda done: self._conversations.pop(done, None))
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the worker went away; what that means for the table is decided in _serve
        except wire.FrameError as error:
            log.error("a peer on the agent's socket does not speak our protocol", cause=str(error))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer_pid, peer_uid = peer_of(writer)
        if peer_uid is not None and peer_uid != os.geteuid():
            log.error("refused a connection of another user to the agent's socket", uid=peer_uid)
            return
        try:
            hello = await asyncio.wait_for(wire.read_worker_message(reader), HELLO_S)
        except TimeoutError:
            log.warning("a connection to the agent's socket said nothing", pid=peer_pid)
            return
        except asyncio.IncompleteReadError:
            return  # a health probe: it connects, and that is all it wants to know
        if isinstance(hello, wire.ServerHello) and hello.protocol == wire.PROTOCOL_VERSION:
            await self.endpoints.converse(reader, writer)
            return
        if not isinstance(hello, wire.Hello) or hello.protocol != wire.PROTOCOL_VERSION:
            raise wire.FrameError(f"the agent speaks protocol {wire.PROTOCOL_VERSION}, the worker does not")
        process = ProcessName.of(peer_pid, hello.pid, hello.started_at_s)
        link = Link(process, writer)
        before = self._links.get(process)
        if before is not None:
            before.writer.close()
        self._links[process] = link
        self.nobody_left.clear()
        self._watch_exit(process, peer_pid)
        self._census.joined(process, hello.generation)
        link.has_journal = bool(hello.journal)
        if self._journals is not None:
            if link.has_journal:
                self._journals.holds(process, hello.journal)
            else:
                self._journals.wanted(process)
        log.info("worker connected", pid=process.pid, serves_generation=hello.generation)
        link.wake.set()
        sender = asyncio.create_task(self._send(link))
        try:
            await self._listen(reader, link)
        finally:
            sender.cancel()
            await asyncio.wait([sender])
            self._part(link)
            error = None if sender.cancelled() else sender.exception()
            if error is not None and not isinstance(error, ConnectionError):
                raise error

    async def _listen(self, reader: asyncio.StreamReader, link: Link) -> None:
        while True:
            message = await wire.read_worker_message(reader)
            match message:
                case wire.Applied(generation=generation):
                    if generation > self.generation and not self._rollback_accepted:
                        raise wire.FrameError("a worker confirms a generation that it was never sent")
                    # One that is not known any more was of the history that was let go of, or is long overtaken.
                    if (fingerprint := self._fingerprints.get(generation)) is not None:
                        self._census.confirmed(link.process, generation, fingerprint)
                case wire.Draining():
                    self._census.draining(link.process)
                case wire.ShadowReport(counts=counts):
                    self._census.shadowed(counts)
                    if self._metrics is not None:
                        self._metrics.shadowed(counts)
                case wire.InvocationsWanted(key_id=key_id, number=number):
                    if self._reservations is not None:
                        self._reservations.wanted(link.process, key_id, number)
                case wire.UseReport(uses=uses):
                    self._census.used(uses)
                case wire.MetricsReport():
                    self._census.troubled(link.process, message.problem)
                    if self._metrics is not None:
                        self._metrics.reported(link.process, message)
                case wire.Goodbye():
                    self._leave(link.process, "worker stopped in good order")
                    return
                case wire.Hello():
                    raise wire.FrameError("a worker says hello twice")

    async def _send(self, link: Link) -> None:
        """Write whatever the worker lacks, in the order in which it must hear it, as fast as it listens."""
        while True:
            await link.wake.wait()
            link.wake.clear()
            while True:
                if link.journal_key is not None:
                    link.writer.write(link.journal_key)
                    link.journal_key, link.has_journal = None, True
                    await link.writer.drain()
                    self._offer_leases()
                elif link.granted:
                    link.writer.write(link.granted.popleft())
                    await link.writer.drain()
                elif link.hsms_wanted and self._hsms is not None:
                    link.hsms_wanted = False
                    link.writer.write(self._hsms)
                    await link.writer.drain()
                elif link.needs_everything:
                    if self._held is None:
                        break
                    link.needs_everything = False
                    link.changes.clear()
                    for delta in self._held.slices(rollback_accepted=self._rollback_accepted):
                        link.writer.write(wire.encode_frame(delta))
                        await link.writer.drain()
                elif link.changes:
                    for frame in link.changes.popleft():
                        link.writer.write(frame)
                        await link.writer.drain()
                elif link.lease_wanted:
                    link.lease_wanted = False
                    self._send_lease(link)
                    await link.writer.drain()
                else:
                    break

    def _send_lease(self, link: Link) -> None:
        issued_at = self._issued_at(link)
        if issued_at is None or self._held is None:
            return
        link.leased_at = issued_at
        lease = wire.Lease(
            generation=self._held.generation,
            valid_for_s=self._max_staleness_s,
            issued_at_s=issued_at,
            fleet_size=self._fleet_size,
            counted_workers=self._counted_workers,
        )
        link.writer.write(wire.encode_frame(lease))

    # --- ends ------------------------------------------------------------------------------------------------

    def _part(self, link: Link) -> None:
        if self._links.get(link.process) is link:
            del self._links[link.process]
            self._census.parted(link.process)
            log.info("worker's connection ended", pid=link.process.pid)
        self._tell_if_nobody()

    def _leave(self, process: ProcessName, event: str) -> None:
        self._forget_exit(process)
        link = self._links.pop(process, None)
        if link is not None:
            link.writer.close()
        self._census.gone(process)
        if self._journals is not None:
            self._journals.gone(process)
        if self._metrics is not None:
            self._metrics.gone(process)
        log.info(event, pid=process.pid)
        self._tell_if_nobody()

    def _tell_if_nobody(self) -> None:
        if not self._links and not self._exits:
            self.nobody_left.set()

    def _watch_exit(self, process: ProcessName, peer_pid: int) -> None:
        """Hear of the end of the process itself: the only proof, beside its goodbye, that it serves no more."""
        if process in self._exits or not process.namespace:
            return
        try:
            handle = os.pidfd_open(peer_pid)
        except (OSError, AttributeError):
            # Gone already, or a system without pidfds: it is counted until it has not been seen for too long.
            return
        if process.is_gone():  # the pid was another process's by the time that it was opened
            os.close(handle)
            return
        self._exits[process] = handle
        asyncio.get_running_loop().add_reader(handle, self._leave, process, "worker's process has ended")

    def _forget_exit(self, process: ProcessName) -> None:
        handle = self._exits.pop(process, None)
        if handle is not None:
            asyncio.get_running_loop().remove_reader(handle)
            os.close(handle)

    async def close(self) -> None:
        """End every conversation."""
        for process in list(self._exits):
            self._forget_exit(process)
        # By hanging up: Python 3.11 logs a cancelled conversation as a failure of the server.
        for writer in self._conversations.values():
            writer.close()
        if self._conversations:
            await asyncio.wait(list(self._conversations))
