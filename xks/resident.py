"""Keys that live in an HSM: the queue to them, how often they may encrypt, and what the health answer says.

An HSM is slow, and may hang: a request for such a key waits here without holding up any other.  Each HSM
connection has a queue of its own, bounded (full: 429), and every wait ends with the request's time budget (503).
A worker confirms a generation only once the requests that wait here since before it have ended (:meth:`Desk.settled`).

An AES-GCM key may encrypt 2**32 times with random nonces (NIST SP 800-38D, 8.3).  The agent reserves invocations in
the database ahead, in blocks, and hands them out; a worker counts down what it was given.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast

from hsm.base import DataInvalid, HsmBusy, HsmError, ResidentCiphertext
from hsm.client import AsyncMember
from hsm.group import AsyncGroup, MemberState, Routing
from xks import wire
from xks.aead import (
    IV_BYTES,
    TAG_BYTES,
    CiphertextInvalid,
    Sealed,
    associated_data,
    reference_associated_data,
)
from xks.errors import DependencyTimeoutException, InvalidStateException, ThrottlingException
from xks.keyring import Resident, Store

log = logging.getLogger("keystead.xks")

MAX_WAITING = 256
"""Requests of one worker that may wait for one HSM connection; more are refused with 429."""
INVOCATION_BLOCK = 65_536
"""Invocations that the agent reserves at a time."""
MAX_PREPARED = 256
"""Versions of one change for which invocations are asked before anybody uses them."""
ASK_AGAIN_S = 1.0
"""An answer that has not come after so long is asked for again: the database may have been away."""
MOST_ATTEMPTS = 8
"""What a request costs of the invocations when it is not known how often it was tried: the group turns to other
members, and a helper tries once more after a session was lost."""
PROBE_S = 20.0
"""Each member is made to encrypt and decrypt this often, so that the health answer is never older than a minute."""
PROBE_TIMEOUT_S = 2.0
SLOW_S = 0.1
"""A member that takes longer for a probe is DEGRADED: not much is left of a request's time budget."""
OLD_S = 60.0
"""What was found longer ago says nothing any more."""

Health = Literal["ACTIVE", "DEGRADED", "UNAVAILABLE"]
_WORST: tuple[Health, ...] = ("ACTIVE", "DEGRADED", "UNAVAILABLE")


class Group(Protocol):
    """The members of an HSM connection, one after the other where one fails (hsm.group.AsyncGroup)."""

    async def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool, deadline: float
    ) -> ResidentCiphertext:
        """Encrypt with the key of this CKA_ID before ``deadline`` (boot clock).  Raises HsmError."""
        ...

    async def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, deadline: float) -> bytes:
        """Reverse of encrypt.  Raises HsmError."""
        ...

    def states(self) -> Sequence[MemberState]:
        """How each member does."""
        ...


class Member(Protocol):
    """One token (hsm.client.AsyncMember)."""

    async def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool, timeout_s: float
    ) -> ResidentCiphertext:
        """Encrypt with the key of this CKA_ID.  Raises HsmError."""
        ...

    async def close(self) -> None:
        """End the connection to its helper."""
        ...


Connect = Callable[[wire.HsmGroupRecord], "tuple[Group, dict[str, Member]]"]


class _Seen(NamedTuple):
    """What a probe of a member found."""

    at: float
    health: Health


class _Connection:
    """One HSM connection as this worker uses it."""

    def __init__(self, record: wire.HsmGroupRecord, connect: Connect) -> None:
        self.record = record
        self.group: Group | None = None
        self.members: dict[str, Member] = {}
        if any(each.socket for each in record.members):
            self.group, self.members = connect(record)
        self.waiting = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.seen: dict[str, _Seen] = {}
        self.prober: asyncio.Task[None] | None = None

    def enter(self) -> None:
        self.waiting += 1
        self.idle.clear()

    def leave(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self.idle.set()

    async def close(self) -> None:
        if self.prober is not None:
            self.prober.cancel()
        for member in self.members.values():
            await member.close()


class _Meter:
    """Invocations that this worker may still make of one version."""

    __slots__ = ("asked_at", "exhausted", "left", "waiters")

    def __init__(self) -> None:
        self.left = 0
        self.asked_at = -ASK_AGAIN_S
        self.exhausted = False
        self.waiters: list[asyncio.Future[None]] = []


class Pending:
    """A request on its way to an HSM: ``await work`` gives the answer's body, ``end`` must be called after all."""

    __slots__ = ("_desk", "_number", "work")

    def __init__(self, desk: Desk, number: int, work: Coroutine[Any, Any, bytes]) -> None:
        self._desk = desk
        self._number = number
        self.work = work

    def end(self) -> None:
        """The request has been answered, or given up; its record is written."""
        self.work.close()  # which does nothing when it has run
        self._desk._end(self._number)


class Desk:
    """Where one worker's requests for keys in HSMs are taken to."""

    def __init__(self, connect: Connect, *, clock: Callable[[], float] = wire.boot_clock) -> None:
        """``connect`` opens a connection's members; nothing of it may wait."""
        self._connect = connect
        self._clock = clock
        self._connections: dict[str, _Connection] = {}
        self._meters: dict[tuple[str, int], _Meter] = {}
        self._number = 0
        self._open: dict[int, None] = {}  # in the order in which they began
        self._settling: list[tuple[int, asyncio.Future[None]]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.ask: Callable[[str, int], None] = lambda key_id, number: None
        """Asks the agent for invocations; set by the link to it."""

    # --- what the agent tells --------------------------------------------------------------------------------

    def take_groups(self, message: wire.HsmGroups) -> None:
        """Use these HSM connections from now on; call on the loop."""
        loop = asyncio.get_running_loop()
        before, self._connections = self._connections, {}
        for record in message.groups:
            held = before.pop(record.id, None)
            if held is not None and _same_way(held.record, record):
                held.record = record
                self._connections[record.id] = held
                continue
            if held is not None:
                before[record.id] = held
            connection = self._connections[record.id] = _Connection(record, self._connect)
            connection.prober = loop.create_task(self._probe(connection))
        for gone in before.values():
            task = loop.create_task(self._close_when_idle(gone))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def take_invocations(self, message: wire.Invocations) -> None:
        """Note what the agent has reserved for this worker."""
        meter = self._meter(message.key_id, message.number)
        meter.left += message.count
        meter.exhausted = message.count == 0
        meter.asked_at = -ASK_AGAIN_S
        for waiter in meter.waiters:
            if not waiter.done():
                waiter.set_result(None)
        meter.waiters.clear()

    async def close(self) -> None:
        """End all connections."""
        for connection in self._connections.values():
            await connection.close()
        self._connections.clear()

    async def _close_when_idle(self, connection: _Connection) -> None:
        if connection.prober is not None:
            connection.prober.cancel()
        await connection.idle.wait()
        await connection.close()

    # --- requests --------------------------------------------------------------------------------------------

    def begin(self, work: Coroutine[Any, Any, bytes]) -> Pending:
        """Count a request as under way, from the moment at which its snapshot was taken."""
        self._number += 1
        self._open[self._number] = None
        return Pending(self, self._number, work)

    def _end(self, number: int) -> None:
        self._open.pop(number, None)
        if not self._settling:
            return
        first = next(iter(self._open), self._number + 1)
        still = []
        for last, waiter in self._settling:
            if last >= first:
                still.append((last, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._settling = still

    async def settled(self) -> None:
        """Wait until every request that is under way now has ended; their time budgets bound it."""
        if self._open:
            waiter = asyncio.get_running_loop().create_future()
            self._settling.append((self._number, waiter))
            await waiter

    async def seal(
        self, version: Resident, plaintext: bytes, aad: bytes, *, verify: bool, deadline: float
    ) -> Sealed:
        """Encrypt with a resident key; ``verify`` has the HSM decrypt and compare it before it answers.

        Raises:
            ThrottlingException: too many wait for this HSM.
            DependencyTimeoutException: the HSM does not answer in time.
            InvalidStateException: the key has encrypted as often as it may.
        """
        connection, group = self._enter(version)
        try:
            await self._take_invocation(version, deadline)
            began = self._clock()
            meter = self._meter(version.key_id, version.number)
            charge = MOST_ATTEMPTS
            try:
                made = await group.encrypt(
                    version.key, plaintext, associated_data(aad, version.metadata), verify=verify, deadline=deadline
                )  # fmt: skip
                if self._clock() - began < (deadline - began) / 3:
                    charge = 1  # no first attempt can have been given up
            finally:
                meter.left -= charge - 1
        except HsmError as error:
            raise _refusal(error) from error
        finally:
            connection.leave()
        if len(made.nonce) != IV_BYTES or len(made.ciphertext) != len(plaintext) + TAG_BYTES:
            raise RuntimeError("an HSM's answer has not the form of AES-GCM with 96 bits of IV")
        return Sealed(
            made.ciphertext[:-TAG_BYTES], version.metadata, made.nonce, made.ciphertext[-TAG_BYTES:]
        )

    async def unseal(
        self, version: Resident, sealed: Sealed, authenticated: bytes, *, deadline: float
    ) -> bytes:
        """Decrypt with a resident key; ``authenticated`` is what the format authenticates besides.

        Raises:
            CiphertextInvalid: it does not open.
            ThrottlingException, DependencyTimeoutException: as :meth:`seal`.
        """
        connection, group = self._enter(version)
        try:
            return await group.decrypt(
                version.key, sealed.iv, sealed.ciphertext + sealed.tag, authenticated, deadline=deadline
            )
        except DataInvalid:
            raise CiphertextInvalid from None
        except HsmError as error:
            raise _refusal(error) from error
        finally:
            connection.leave()

    def _enter(self, version: Resident) -> tuple[_Connection, Group]:
        connection = self._connections.get(version.group)
        if connection is None or connection.group is None:
            raise DependencyTimeoutException("the HSM that holds the external key is not connected")
        if connection.waiting >= MAX_WAITING:
            raise ThrottlingException("more requests wait for the HSM than it can answer in time")
        connection.enter()
        return connection, connection.group

    # --- invocations -----------------------------------------------------------------------------------------

    def _meter(self, key_id: str, number: int) -> _Meter:
        meter = self._meters.get((key_id, number))
        if meter is None:
            meter = self._meters[key_id, number] = _Meter()
        return meter

    def prepare(self, key_id: str, number: int) -> None:
        """Ask for invocations of a version that is about to be used, so that its first request need not wait."""
        meter = self._meter(key_id, number)
        if meter.left < INVOCATION_BLOCK // 2:
            self._ask(key_id, number, meter)

    async def _take_invocation(self, version: Resident, deadline: float) -> None:
        meter = self._meter(version.key_id, version.number)
        while meter.left <= 0:
            if meter.exhausted:
                meter.exhausted = False  # what is known of it now; the next request asks again
                raise InvalidStateException(
                    "the key's current version has encrypted as often as it may, and its successor is not ready"
                )
            self._ask(version.key_id, version.number, meter)
            waiter = asyncio.get_running_loop().create_future()
            meter.waiters.append(waiter)
            try:
                async with asyncio.timeout(max(0.0, deadline - self._clock())):
                    await waiter
            except TimeoutError:
                raise DependencyTimeoutException(
                    "no invocations of the key could be reserved within the time budget"
                ) from None
        meter.left -= 1
        if meter.left < INVOCATION_BLOCK // 2:
            self._ask(version.key_id, version.number, meter)

    def _ask(self, key_id: str, number: int, meter: _Meter) -> None:
        now = self._clock()
        if now - meter.asked_at >= ASK_AGAIN_S:
            meter.asked_at = now
            self.ask(key_id, number)

    # --- health ----------------------------------------------------------------------------------------------

    def fleet(self, store: Store) -> list[dict[str, str]]:
        """Return the members of the store's HSM connections for the health answer; none waits for anything."""
        return [
            {
                "id": f"{connection.record.name}/{member.name}",
                "model": member.model,
                "healthStatus": self._health(connection, member),
            }
            for group in store.hsm_groups
            if (connection := self._connections.get(group)) is not None
            for member in connection.record.members
        ]

    def serves(self, group: str) -> bool:
        """Say whether a member of that connection can be used, as far as is known."""
        connection = self._connections.get(group)
        return connection is not None and any(
            self._health(connection, member) != "UNAVAILABLE" for member in connection.record.members
        )

    def _health(self, connection: _Connection, member: wire.HsmMemberRecord) -> Health:
        told = member.state
        if connection.group is not None and any(
            each.member_id == member.id and each.breaker != "closed" for each in connection.group.states()
        ):
            return "UNAVAILABLE"  # requests are routed around it at this moment
        seen = connection.seen.get(member.id)
        if seen is None or self._clock() - seen.at > OLD_S:
            # Not probed yet (it has just been told of), or there is no health-check key to probe with.
            return "ACTIVE" if told == "ACTIVE" else "DEGRADED" if told == "DEGRADED" else "UNAVAILABLE"
        # The keeper may be behind: a member that has just answered is not unavailable.
        if seen.health == "ACTIVE" and told in ("DEGRADED", "UNAVAILABLE"):
            return "DEGRADED"
        return seen.health

    async def _probe(self, connection: _Connection) -> None:
        """Make every member encrypt and decrypt, for ever, off the path of any request."""
        while True:
            await asyncio.gather(
                *(self._probe_member(connection, name) for name in connection.members),
                return_exceptions=True,
            )
            await asyncio.sleep(PROBE_S)

    async def _probe_member(self, connection: _Connection, name: str) -> None:
        key = connection.record.health_key
        if not key:
            return
        began = self._clock()
        probe = os.urandom(32)
        try:
            made = await connection.members[name].encrypt(
                key, probe, b"health", verify=True, timeout_s=PROBE_TIMEOUT_S
            )
            # The HSM has decrypted and compared it (verify); what came out must not be what went in.
            if hmac.compare_digest(made.ciphertext[: len(probe)], probe):
                raise HsmError("the member returned what it was to encrypt")
            health: Health = "DEGRADED" if self._clock() - began > SLOW_S else "ACTIVE"
        except Exception as error:  # whatever it is, the honest answer is UNAVAILABLE
            health = "UNAVAILABLE"
            before = connection.seen.get(name)
            if before is None or before.health != health:
                log.error("HSM member %s does not answer its probe: %s", name, type(error).__name__)
        connection.seen[name] = _Seen(self._clock(), health)


def connect(record: wire.HsmGroupRecord) -> tuple[Group, dict[str, Member]]:
    """Return the members that may be used, by the sockets of their helpers; nothing is opened yet."""
    members = [
        AsyncMember(each.id, each.socket, max_in_flight=MAX_WAITING) for each in record.members if each.socket
    ]
    group = AsyncGroup(members, routing=cast("Routing", record.routing))
    return group, {each.member_id: each for each in members}


def worst(states: Iterable[Health]) -> Health:
    """Return the worst of some states; ACTIVE for none."""
    return max(states, key=_WORST.index, default="ACTIVE")


def reference_data(aad: bytes, *, absent: bool, metadata: bytes) -> bytes:
    """Return what format 0 authenticates, for an AAD that was not sent at all or was perhaps empty."""
    return reference_associated_data(None if absent else aad, metadata)


def _same_way(before: wire.HsmGroupRecord, after: wire.HsmGroupRecord) -> bool:
    """Whether the members are reached as before; their states and names are no part of that."""
    return (before.routing, before.health_key, [(each.id, each.socket) for each in before.members]) == (
        after.routing,
        after.health_key,
        [(each.id, each.socket) for each in after.members],
    )


class _Told:
    """When what happened was last written to the log: thousands of requests may fail in a second."""

    at = -1.0


def _refusal(error: HsmError) -> Exception:
    """Return the refusal for what an HSM, or the way to it, reported."""
    if isinstance(error, HsmBusy):
        return ThrottlingException("more requests wait for the HSM than it can answer in time")
    # A member that lost the key, a PIN that was changed, a mechanism that was turned off: none is the caller's fault,
    # and each passes once somebody has mended it.
    now = time.monotonic()
    if now >= _Told.at + 1:
        _Told.at = now
        log.error("an HSM could not be used: %s: %s", type(error).__name__, error)
    return DependencyTimeoutException("the HSM that holds the external key does not answer")
