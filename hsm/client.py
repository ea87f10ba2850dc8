"""The two ways to use a member's keys from another process: for asyncio, and for threads.

Both connect by themselves at the first use and again after a loss, raise only the errors of ``hsm.base``, and never wait
longer than they are told. Neither tries anything twice: ``hsm.group`` knows the other members.
"""

from __future__ import annotations

import asyncio
import os
import socket as sockets
import threading
import time
from typing import Final, cast

from hsm import wire
from hsm.base import HelperGone, HsmBusy, HsmError, HsmLate, HsmTimeout, HsmUnavailable, ResidentCiphertext

_ABANDONED: Final = 256
"""So many requests in a row without any answer, and the connection counts as dead."""
_LOOK_S: Final = 0.001
"""When time is over, answers that lie in the socket already are taken first: the loop may have been held up."""
_HELD_UP_S: Final = 0.005
"""A timer that fires so much too late says that this process did not run."""


class AsyncMember:
    """One member, for one event loop: one connection, any number of requests on their way at once.

    What is asked in one turn of the loop leaves in one write.
    """

    def __init__(self, member_id: str, socket: str, *, max_in_flight: int = 256) -> None:
        """``socket``: path of the helper's socket; nothing is opened yet."""
        self.member_id = member_id
        self.socket = socket
        self.max_in_flight = max_in_flight
        self._link: _Link | None = None
        self._connecting: asyncio.Future[_Link] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"AsyncMember({self.member_id!r})"

    @property
    def in_flight(self) -> int:
        """Requests that wait for an answer now."""
        return len(self._link.waiting) if self._link is not None else 0

    async def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool, timeout_s: float
    ) -> ResidentCiphertext:
        """AES-256-GCM under the key with CKA_ID ``key``; ``verify`` has the HSM decrypt and compare it too.

        Raises:
            HsmBusy: ``max_in_flight`` requests wait already.
            HsmTimeout: no answer within ``timeout_s``.
            HsmUnavailable: the helper, or its token, is away.
            HsmError: any other of hsm.base.
        """
        request = wire.Encrypt(0, key, data, aad, verify, wire.boot_clock() + timeout_s)
        done = await self.call(request, timeout_s=timeout_s)
        return ResidentCiphertext(done.nonce, done.data)

    async def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, timeout_s: float) -> bytes:
        """Reverse of encrypt; ``data`` is ciphertext and tag. Raises DataInvalid, and what encrypt raises."""
        request = wire.Decrypt(0, key, nonce, data, aad, wire.boot_clock() + timeout_s)
        return (await self.call(request, timeout_s=timeout_s)).data

    async def call(self, request: wire.Request, *, timeout_s: float = 30.0) -> wire.Done:
        """Send any request and return its answer; its ``id`` is set here. Raises as encrypt does."""
        link = self._link
        if link is None:
            began = time.monotonic()
            link = await self._connect(timeout_s)
            timeout_s -= time.monotonic() - began
        return await link.ask(request, timeout_s, self.max_in_flight)

    async def close(self) -> None:
        """End the connection; requests under way fail with HsmUnavailable. Later requests are refused."""
        self._closed = True
        if self._link is not None:
            self._link.end("the connection to the HSM's helper was closed")
            self._link = None

    async def _connect(self, timeout_s: float) -> _Link:
        if self._closed:
            raise HsmUnavailable("this HSM member is no longer in use")
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._open())
            self._connecting.add_done_callback(self._connected)
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                return await asyncio.shield(self._connecting)
        except TimeoutError:
            raise HsmTimeout(
                f"HSM member {self.member_id}: its helper did not take the connection in time"
            ) from None

    async def _open(self) -> _Link:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_unix_connection(lambda: _Link(self), self.socket)
        except OSError as error:
            raise _away(self.member_id, error) from None
        if self._closed:
            link.end("the connection to the HSM's helper was closed")
            raise HsmUnavailable("this HSM member is no longer in use")
        return link

    def _connected(self, future: asyncio.Future[_Link]) -> None:
        self._connecting = None
        if not future.cancelled() and future.exception() is None:
            link = future.result()
            if not link.ended:
                self._link = link

    def _lost(self, link: _Link) -> None:
        if self._link is link:
            self._link = None


class _Link(asyncio.Protocol):
    """A connection to a helper and the requests that wait on it."""

    __slots__ = (
        "_abandoned",
        "_answered_at",
        "_frames",
        "_held_up",
        "_looked",
        "_loop",
        "_member",
        "_next",
        "_outgoing",
        "_timer",
        "_timer_at",
        "_transport",
        "ended",
        "waiting",
    )  # fmt: skip

    def __init__(self, member: AsyncMember) -> None:
        self._member = member
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frames = wire.Frames()
        self._outgoing: list[wire.Request] = []
        self._next = 0
        self._abandoned = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._looked = False
        self._held_up = False
        self._answered_at = 0.0
        self.waiting: dict[int, tuple[float, float, asyncio.Future[wire.Done]]] = {}
        """By number: when it was asked, when its time is over, and who waits."""
        self.ended = False

    async def ask(self, request: wire.Request, timeout_s: float, most: int) -> wire.Done:
        waiting = self.waiting
        if len(waiting) >= most:
            raise HsmBusy(f"HSM member {self._member.member_id}: {len(waiting)} requests wait for it already")
        if timeout_s <= 0:
            raise HsmTimeout(f"HSM member {self._member.member_id}: no time was left to ask it")
        if self.ended:
            raise HelperGone(f"HSM member {self._member.member_id}: its helper ended the connection")
        self._next = number = self._next + 1
        request.id = number
        loop = self._loop
        now = loop.time()
        ends = now + timeout_s
        future: asyncio.Future[wire.Done] = loop.create_future()
        waiting[number] = (now, ends, future)
        if not self._outgoing:
            loop.call_soon(self._flush)
        self._outgoing.append(request)
        if self._timer is None or ends < self._timer_at:
            self._set_timer(ends)
        try:
            return await future
        finally:
            waiting.pop(number, None)  # there still only when the caller was cancelled

    def _flush(self) -> None:
        requests, self._outgoing = self._outgoing, []
        if self._transport is None or self.ended:
            return
        try:
            self._transport.write(wire.frame(requests))
        except wire.ProtocolError:
            self._write_one_by_one(requests)

    def _write_one_by_one(self, requests: list[wire.Request]) -> None:
        for request in requests:
            try:
                frame = wire.frame([request])
            except wire.ProtocolError as error:
                self._fail(request.id, HsmError(f"a request that is too large for the HSM's helper: {error}"))
            else:
                assert self._transport is not None  # noqa: S101 - as _flush has seen
                self._transport.write(frame)

    def _fail(self, number: int, error: HsmError) -> None:
        held = self.waiting.pop(number, None)
        if held is not None and not held[2].done():
            held[2].set_exception(error)

    # --- time ------------------------------------------------------------------------------------------------

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        # One timer for all: it fires at the earliest end, by when nearly everything has been answered.
        self._timer = None
        now = self._loop.time()
        soonest = 0.0
        late = []
        for number, (_, ends, _) in self.waiting.items():
            if ends <= now:
                late.append(number)
            elif not soonest or ends < soonest:
                soonest = ends
        if late:
            if not self._looked:
                self._looked = True
                self._held_up = now - self._timer_at > _HELD_UP_S
                self._set_timer(now + _LOOK_S)
                return
            for number in late:
                self._fail(number, self._timed_out(self.waiting[number][0]))
            if not self._held_up:
                self._abandoned += len(late)
        self._looked = self._held_up = False
        if self._abandoned >= _ABANDONED:
            self.end(f"HSM member {self._member.member_id}: its helper does not answer")
        elif soonest:
            self._set_timer(soonest)

    def _timed_out(self, asked_at: float) -> HsmTimeout:
        if self._held_up:
            return HsmLate("this process was held up until the time to ask the HSM was over")
        error = HsmTimeout(f"HSM member {self._member.member_id} did not answer in time")
        error.alive = self._answered_at > asked_at
        return error

    # --- asyncio.Protocol ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        waiting = self.waiting
        self._answered_at = self._loop.time()
        try:
            for payload in self._frames.feed(data):
                for answer in wire.read_answers(payload):
                    held = waiting.pop(answer.id, None)
                    if held is None or held[2].done():
                        continue
                    if type(answer) is wire.Done:
                        held[2].set_result(answer)
                    else:
                        held[2].set_exception(wire.error_of(answer))  # type: ignore[arg-type]
        except wire.ProtocolError as error:
            self.end(f"HSM member {self._member.member_id}: its helper speaks another protocol: {error}")
        self._abandoned = 0

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(f"HSM member {self._member.member_id}: its helper ended")

    def end(self, why: str) -> None:
        """Close, and fail what waits."""
        if self.ended:
            return
        self.ended = True
        self._member._lost(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self.waiting = self.waiting, {}
        for _, _, future in held.values():
            if not future.done():
                future.set_exception(HelperGone(why))
        if self._transport is not None:
            self._transport.abort()


def _away(member_id: str, error: OSError) -> HelperGone:
    return HelperGone(
        f"HSM member {member_id}: its helper is not running here ({error.strerror or error}); "
        "`keystead hsm serve` starts it and keeps it running"
    )


class SyncMember:
    """One member, for threads: each call takes a connection of its own from a pool, so that none waits for another.

    May be used across fork(): a child opens its own connections.
    """

    def __init__(self, member_id: str, socket: str, *, max_in_flight: int = 64) -> None:
        """``socket``: path of the helper's socket; nothing is opened yet."""
        self.member_id = member_id
        self.socket = socket
        self.max_in_flight = max_in_flight
        self._lock = threading.Lock()
        self._idle: list[sockets.socket] = []
        self._pid = os.getpid()
        self._busy = 0
        self._next = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"SyncMember({self.member_id!r})"

    def encrypt(
        self, key: bytes, data: bytes, aad: bytes, *, verify: bool, timeout_s: float
    ) -> ResidentCiphertext:
        """As AsyncMember.encrypt."""
        request = wire.Encrypt(0, key, data, aad, verify, wire.boot_clock() + timeout_s)
        done = self.call(request, timeout_s=timeout_s)
        return ResidentCiphertext(done.nonce, done.data)

    def decrypt(self, key: bytes, nonce: bytes, data: bytes, aad: bytes, *, timeout_s: float) -> bytes:
        """As AsyncMember.decrypt."""
        request = wire.Decrypt(0, key, nonce, data, aad, wire.boot_clock() + timeout_s)
        return self.call(request, timeout_s=timeout_s).data

    def call(self, request: wire.Request, *, timeout_s: float = 30.0) -> wire.Done:
        """As AsyncMember.call."""
        ends = time.monotonic() + timeout_s
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._idle, self._busy = os.getpid(), [], 0  # the parent's; never spoken on here
            if self._closed:
                raise HsmUnavailable("this HSM member is no longer in use")
            if self._busy >= self.max_in_flight:
                raise HsmBusy(f"HSM member {self.member_id}: {self._busy} requests wait for it already")
            self._busy += 1
            self._next += 1
            request.id = self._next
            link = self._idle.pop() if self._idle else None
        kept = False
        try:
            if link is not None and not _quiet(link):
                link.close()  # the helper was started afresh since
                link = None
            if link is None:
                link = self._open(ends)
            answer = self._exchange(link, request, ends)
            kept = True
        finally:
            with self._lock:
                self._busy = max(0, self._busy - 1)
                if kept and link is not None and not self._closed:
                    self._idle.append(link)
                elif link is not None:
                    link.close()
        if isinstance(answer, wire.Failed):
            raise wire.error_of(answer)
        return answer

    def close(self) -> None:
        """End the idle connections; later requests are refused."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def _open(self, ends: float) -> sockets.socket:
        link = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            link.settimeout(max(0.001, ends - time.monotonic()))
            link.connect(self.socket)
        except TimeoutError:
            link.close()
            raise HsmTimeout(
                f"HSM member {self.member_id}: its helper did not take the connection in time"
            ) from None
        except OSError as error:
            link.close()
            raise _away(self.member_id, error) from None
        return link

    def _exchange(self, link: sockets.socket, request: wire.Request, ends: float) -> wire.Answer:
        frames = wire.Frames()
        try:
            data = wire.frame([request])
        except wire.ProtocolError as error:
            raise HsmError(f"a request that is too large for the HSM's helper: {error}") from None
        try:
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError
            link.settimeout(left)
            link.sendall(data)
            while True:
                left = ends - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                link.settimeout(left)
                data = link.recv(65536)
                if not data:
                    raise HelperGone(f"HSM member {self.member_id}: its helper ended")
                for payload in frames.feed(data):
                    for answer in wire.read_answers(payload):
                        if answer.id == request.id:
                            return answer
        except TimeoutError:
            raise HsmTimeout(f"HSM member {self.member_id} did not answer in time") from None
        except OSError as error:
            raise HelperGone(
                f"HSM member {self.member_id}: its helper ended ({error.strerror or error})"
            ) from None
        except wire.ProtocolError as error:
            raise HsmUnavailable(
                f"HSM member {self.member_id}: its helper speaks another protocol: {error}"
            ) from None


def _quiet(link: sockets.socket) -> bool:
    """Say whether an idle connection is still open, and nothing unasked for has come on it."""
    link.setblocking(False)  # with a time-out, Python itself waits before it reads, whatever the flags say
    try:
        link.recv(1, sockets.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return True
    except OSError:
        return False
    return False  # the end of the stream, or bytes of an answer that nobody waits for
