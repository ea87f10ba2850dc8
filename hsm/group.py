"""Several members that hold the same keys, used as one: failover within the time that a request has, and a breaker each.

An attempt gets a third of the request's time as long as another member is left to turn to, and the last one all that
remains: two hung members do not cost a request its answer when a third is well.  A member that fails is left alone
for a while and then tried by one request at a time; it returns by itself.  Nothing here waits for anything but a
member's answer, and there is no timer: requests themselves are the probes.

Asking twice is safe: encryption and decryption change nothing, and an answer that comes late is never used.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, Generic, Literal, Protocol, Self, TypeAlias, TypeVar

import msgspec

from hsm import wire
from hsm.base import (
    DataInvalid,
    HelperGone,
    HsmAuthenticationFailed,
    HsmBusy,
    HsmError,
    HsmLate,
    HsmTimeout,
    HsmUnavailable,
    KeyAmbiguous,
    KeyNotFound,
    MechanismUnavailable,
    MemberUntrue,
    ResidentCiphertext,
)
from hsm.breaker import Breaker, BreakerState

log = logging.getLogger("keystead.hsm")

SHARES: Final = 3
"""An attempt gets the request's time divided by this, so that one failover fits in any case."""
PATIENCE_S: Final = 0.02
"""A time-out after less than this says that the request came late, and nothing of the member."""
LACKING_S: Final = 30.0
"""A member that did not find a key is asked last for it for so long."""
_MOST_LACKING: Final = 10_000

_CERTAIN: Final = (HelperGone, MemberUntrue, HsmAuthenticationFailed)
"""Errors that leave no doubt; of others three in a row are waited for."""

Routing: TypeAlias = Literal["preferred", "active-active"]
"""``preferred``: the first member that works. ``active-active``: the one with the fewest requests under way."""


class MemberState(msgspec.Struct, frozen=True):
    """How a group sees one of its members, for health and for people."""

    member_id: str
    breaker: BreakerState
    failures: int
    """Failures in a row, while closed."""
    retry_in_s: float
    """Until the next probe; 0 when it may be now."""
    in_flight: int
    message: str
    """What went wrong last; empty once the member has answered again."""
    lacking: tuple[str, ...]
    """CKA_IDs (hex) of keys that it did not find lately, though other members may hold them."""


class AsyncMemberLike(Protocol):
    """What AsyncGroup needs of a member: hsm.client.AsyncMember."""

    @property
    def member_id(self) -> str: ...

    async def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool, timeout_s: float
    ) -> ResidentCiphertext: ...

    async def decrypt(
        self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, timeout_s: float
    ) -> bytes: ...

    async def call(self, request: wire.Request, *, timeout_s: float) -> wire.Done: ...

    async def close(self) -> None: ...


class SyncMemberLike(Protocol):
    """What SyncGroup needs of a member: hsm.client.SyncMember."""

    @property
    def member_id(self) -> str: ...

    def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool, timeout_s: float
    ) -> ResidentCiphertext: ...

    def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, timeout_s: float) -> bytes: ...

    def call(self, request: wire.Request, *, timeout_s: float) -> wire.Done: ...

    def close(self) -> None: ...


class _Named(Protocol):
    @property
    def member_id(self) -> str: ...


M = TypeVar("M", bound=_Named)
T = TypeVar("T")


class _Held(Generic[M]):
    """A member and what the group knows of it."""

    __slots__ = ("breaker", "in_flight", "lacking", "member", "message")

    def __init__(self, member: M) -> None:
        self.member = member
        self.breaker = Breaker()
        self.in_flight = 0
        self.message = ""
        self.lacking: dict[bytes, float] = {}


class _Routes(Generic[M]):
    """Which member comes next, and what an attempt's end means. Does no input or output, and takes no lock."""

    def __init__(self, held: Sequence[_Held[M]], routing: Routing, clock: Callable[[], float]) -> None:
        if len({each.member.member_id for each in held}) != len(held):
            raise ValueError("two members of a group have the same id")
        self.held = tuple(held)
        self.routing = routing
        self.clock = clock
        self._turn = 0

    def route(self, key: bytes, now: float) -> tuple[Sequence[_Held[M]], bool]:
        """Return the members to try, in order, and whether none of them is known to work."""
        if self.routing == "preferred" or len(self.held) == 1:
            for each in self.held:
                if each.lacking or not each.breaker.closed:
                    break
            else:
                return self.held, False  # as nearly always
        well = [each for each in self.held if each.breaker.closed]
        alone = not well
        if len(well) > 1:
            if self.routing == "active-active":
                self._turn = (self._turn + 1) % len(well)
                well = well[self._turn :] + well[: self._turn]
                well.sort(key=lambda each: each.in_flight)
            if any(each.lacking for each in well):
                well.sort(key=lambda each: self._lacks(each, key, now))
        if len(well) == len(self.held):
            return well, False
        due = [each for each in self.held if not each.breaker.closed and each.breaker.due(now, alone=alone)]
        # One probe a request, before the members that work: after them it would never be made.
        return (due if alone else due[:1] + well), alone

    def began(self, held: _Held[M], now: float, alone: bool) -> int | None:
        ticket = held.breaker.admit(now, alone=alone)
        if ticket is not None:
            held.in_flight += 1
        return ticket

    def answered(self, held: _Held[M], ticket: int) -> None:
        held.in_flight -= 1
        if held.message and held.breaker.closed:
            held.message = ""
        if held.breaker.succeeded(ticket):
            held.message = ""
            log.warning("HSM member %s is back", held.member.member_id)

    def abandoned(self, held: _Held[M], ticket: int) -> None:
        held.in_flight -= 1
        held.breaker.abandoned(ticket)

    def failed(
        self, held: _Held[M], ticket: int, key: bytes, error: HsmError, now: float, given: float
    ) -> None:
        """Take note of the error of an attempt that had so many seconds.

        Raises it again where another member would say the same.
        """
        if isinstance(error, HsmTimeout) and (given < PATIENCE_S or self._is_crowd(held, error)):
            self.abandoned(held, ticket)
            return
        if isinstance(error, HsmUnavailable | HsmAuthenticationFailed):
            held.in_flight -= 1
            held.message = str(error)
            if held.breaker.failed(ticket, now, at_once=isinstance(error, _CERTAIN)):
                log.error("HSM member %s is left alone for now: %s", held.member.member_id, error)
            return
        if isinstance(error, HsmBusy):
            self.abandoned(held, ticket)  # its helper is alive; of the token that says nothing
            return
        # All else are answers: the member works, however little its answer may please.
        self.answered(held, ticket)
        if isinstance(error, KeyNotFound):
            self._note_lacking(held, key, now)
        elif isinstance(error, DataInvalid | KeyAmbiguous | MechanismUnavailable):
            raise error

    def _is_crowd(self, held: _Held[M], error: HsmTimeout) -> bool:
        """Whether a time-out tells of too many requests, or too little processor, and not of a member that fails.

        To leave a member alone that answers others would turn some late answers into none at all, but where another
        member can take them.
        """
        if isinstance(error, HsmLate):
            return True
        return error.alive and not any(each is not held and each.breaker.closed for each in self.held)

    def refusal(self, errors: list[HsmError], tried: int, now: float, alone: bool) -> HsmError:
        """Return what a request is told that no member has answered."""
        if not self.held:
            return HsmUnavailable("no member of the HSM can be used here; its page says why")
        if tried < len(self.held) and all(isinstance(error, KeyNotFound) for error in errors):
            # Whoever holds the key may be among those that were not asked.
            waits = [each.breaker.retry_in(now, alone=alone) for each in self.held if not each.breaker.closed]
            if waits:
                return HsmUnavailable(f"no member of the HSM works; the next try is in {min(waits):.1f} s")
            return HsmTimeout("no time was left to ask the HSM")
        return max(errors, key=_weight)

    def states(self, now: float) -> list[MemberState]:
        alone = not any(each.breaker.closed for each in self.held)
        return [
            MemberState(
                each.member.member_id,
                each.breaker.state,
                each.breaker.failures,
                each.breaker.retry_in(now, alone=alone),
                each.in_flight,
                each.message,
                tuple(key.hex() for key, at in each.lacking.items() if now - at < LACKING_S),
            )
            for each in self.held
        ]

    def restricted(self, members: Collection[str]) -> _Routes[M]:
        return _Routes(
            [each for each in self.held if each.member.member_id in members], self.routing, self.clock
        )

    def _lacks(self, held: _Held[M], key: bytes, now: float) -> bool:
        at = held.lacking.get(key)
        if at is None:
            return False
        if now - at < LACKING_S:
            return True
        del held.lacking[key]
        return False

    def _note_lacking(self, held: _Held[M], key: bytes, now: float) -> None:
        if key not in held.lacking:
            if len(held.lacking) >= _MOST_LACKING:
                held.lacking.clear()
            log.error("HSM member %s does not hold the key %s", held.member.member_id, key.hex())
        held.lacking[key] = now


def _weight(error: HsmError) -> int:
    """Which of several members' errors tells the most: what may pass before what will not."""
    if isinstance(error, HsmBusy):
        return 3
    if isinstance(error, HsmUnavailable):
        return 2
    return 0 if isinstance(error, KeyNotFound) else 1


class AsyncGroup:
    """Members for one event loop. See the module."""

    def __init__(
        self,
        members: Sequence[AsyncMemberLike],
        *,
        routing: Routing = "preferred",
        clock: Callable[[], float] = wire.boot_clock,
    ) -> None:
        """Take these members.

        ``members``: in the order in which they are preferred; none is possible, and then every request is
        refused. Raises ValueError for an id twice.
        """
        self._routes: _Routes[AsyncMemberLike] = _Routes([_Held(each) for each in members], routing, clock)

    async def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool = True, deadline: float
    ) -> ResidentCiphertext:
        """AES-256-GCM under the key with this CKA_ID, before ``deadline`` (wire.boot_clock).

        Raises:
            HsmBusy: members work, but none takes more requests.
            HsmTimeout, HsmUnavailable: no member has answered.
            KeyNotFound: every member says that it has no such key.
            HsmError: any other of hsm.base.
        """
        return await self._run(
            key,
            deadline,
            lambda member, timeout_s: member.encrypt(key, data, aad, verify=verify, timeout_s=timeout_s),
        )

    async def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, deadline: float) -> bytes:
        """Reverse of encrypt; ``data`` is ciphertext and tag. Raises DataInvalid, and what encrypt raises."""
        return await self._run(
            key,
            deadline,
            lambda member, timeout_s: member.decrypt(key, nonce, data, aad, timeout_s=timeout_s),
        )

    async def call(self, request: wire.Request, *, deadline: float) -> wire.Done:
        """Send a request that changes nothing (Seal, Unseal, Random, Describe) to a member. Raises as encrypt does."""
        return await self._run(
            getattr(request, "key", b""),
            deadline,
            lambda member, timeout_s: member.call(request, timeout_s=timeout_s),
        )

    def hold(self, members: Collection[str]) -> Self:
        """Return the same group, restricted to these members: those that hold a key. Breakers are shared."""
        other = type(self).__new__(type(self))
        other._routes = self._routes.restricted(members)
        return other

    def states(self) -> list[MemberState]:
        """Return how each member does, in order of preference."""
        return self._routes.states(self._routes.clock())

    async def close(self) -> None:
        """Close every member."""
        for each in self._routes.held:
            await each.member.close()

    async def _run(
        self, key: bytes, deadline: float, attempt: Callable[[AsyncMemberLike, float], Awaitable[T]]
    ) -> T:
        routes = self._routes
        clock = routes.clock
        now = clock()
        share = (deadline - now) / SHARES
        order, alone = routes.route(key, now)
        errors: list[HsmError] = []
        tried = 0
        for place, held in enumerate(order, start=1):
            if place > 1:
                now = clock()
            left = deadline - now
            if left <= 0:
                break
            ticket = routes.began(held, now, alone)
            if ticket is None:
                continue
            tried += 1
            given = left if place == len(order) else min(share, left)
            try:
                result = await attempt(held.member, given)
            except HsmError as error:
                routes.failed(held, ticket, key, error, clock(), given)
                errors.append(error)
            except BaseException:
                routes.abandoned(held, ticket)
                raise
            else:
                routes.answered(held, ticket)
                return result
        raise routes.refusal(errors, tried, clock(), alone)


class SyncGroup:
    """Members for threads. See the module."""

    def __init__(
        self,
        members: Sequence[SyncMemberLike],
        *,
        routing: Routing = "preferred",
        clock: Callable[[], float] = wire.boot_clock,
    ) -> None:
        """As AsyncGroup."""
        self._routes: _Routes[SyncMemberLike] = _Routes([_Held(each) for each in members], routing, clock)
        self._lock = threading.Lock()  # held for bookkeeping only, never while a member is asked

    def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool = True, deadline: float
    ) -> ResidentCiphertext:
        """As AsyncGroup.encrypt."""
        return self._run(
            key,
            deadline,
            lambda member, timeout_s: member.encrypt(key, data, aad, verify=verify, timeout_s=timeout_s),
        )

    def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, deadline: float) -> bytes:
        """As AsyncGroup.decrypt."""
        return self._run(
            key,
            deadline,
            lambda member, timeout_s: member.decrypt(key, nonce, data, aad, timeout_s=timeout_s),
        )

    def call(self, request: wire.Request, *, deadline: float) -> wire.Done:
        """As AsyncGroup.call."""
        return self._run(
            getattr(request, "key", b""),
            deadline,
            lambda member, timeout_s: member.call(request, timeout_s=timeout_s),
        )

    def hold(self, members: Collection[str]) -> Self:
        """As AsyncGroup.hold."""
        other = type(self).__new__(type(self))
        other._routes = self._routes.restricted(members)
        other._lock = self._lock
        return other

    def states(self) -> list[MemberState]:
        """As AsyncGroup.states."""
        with self._lock:
            return self._routes.states(self._routes.clock())

    def close(self) -> None:
        """Close every member."""
        for each in self._routes.held:
            each.member.close()

    def _run(self, key: bytes, deadline: float, attempt: Callable[[SyncMemberLike, float], T]) -> T:
        routes = self._routes
        clock = routes.clock
        now = clock()
        share = (deadline - now) / SHARES
        with self._lock:
            order, alone = routes.route(key, now)
        errors: list[HsmError] = []
        tried = 0
        for place, held in enumerate(order, start=1):
            if place > 1:
                now = clock()
            left = deadline - now
            if left <= 0:
                break
            with self._lock:
                ticket = routes.began(held, now, alone)
            if ticket is None:
                continue
            tried += 1
            given = left if place == len(order) else min(share, left)
            try:
                result = attempt(held.member, given)
            except HsmError as error:
                with self._lock:
                    routes.failed(held, ticket, key, error, clock(), given)
                errors.append(error)
            except BaseException:
                with self._lock:
                    routes.abandoned(held, ticket)
                raise
            else:
                with self._lock:
                    routes.answered(held, ticket)
                return result
        with self._lock:
            raise routes.refusal(errors, tried, clock(), alone)
