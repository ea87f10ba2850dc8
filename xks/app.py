"""The HTTP shell of the data plane: one granian RSGI application for each worker process.

It reads no more of a request than it must, gives what it read to the engine, writes the journal and
only then answers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from hsm.hardening import harden_process
from xks.bodies import CallerMetadata, UseMetadata
from xks.credential_uses import CredentialUses
from xks.deadlines import Deadlines
from xks.errors import (
    DependencyTimeoutException,
    InternalException,
    MethodNotAllowed,
    ThrottlingException,
    UnsupportedOperationException,
    XksError,
    error_body,
    printable,
)
from xks.fronts import Fronts
from xks.journal import Journal, JournalUnavailable, Record
from xks.journal_guard import GuardedLoop
from xks.metrics_counters import Counters
from xks.operations import Context, Engine, Request, Route, parse_path
from xks.resident import Pending
from xks.sigv4 import Headers
from xks.wire import boot_clock
from xks.worker import Link, end_with_parent, is_orphan

log = logging.getLogger("keystead.xks")

MAX_BODY_BYTES = 65536
"""A longer body is answered with 501, and not read further than this."""
DEFAULT_BUDGET_S = 0.12
"""KMS's 250 ms hold its connection and round trips too; this much of them is ours, seconds."""
MAX_IN_FLIGHT = 512
"""Requests begun and not yet answered by one worker.

One worker does some 9,000 a second, so this many wait about 55 ms, half of the budget, for their turn.
More are refused with 429, which costs a fraction of the work: whoever is let in gets an answer in time.
Requests not even begun are bounded by the server's limit on connections (xks/server.py).
"""
FEW_IN_FLIGHT = 64
"""So many are let in however long the event loop takes for a turn: a short stall is no overload."""
QUEUE_SHARE = 0.4
"""Share of the budget that one turn of the event loop may take; a request needs two, and then its work."""
PROBE_PATHS = frozenset(("/", "/ping"))
"""Where load balancers ask, with whatever Host they like."""

HeaderList = list[tuple[str, str]]
Answered = tuple[int, bytes, "asyncio.Future[None] | None"]
"""Status and body of an answer, and the future, if any, that says that its record is durable."""
_CLOSE = ("connection", "close")
_JSON: HeaderList = [("content-type", "application/json"), ("server", "Keystead")]
_HEADERS: dict[int, HeaderList] = {
    401: [*_JSON, ("www-authenticate", "AWS4-HMAC-SHA256")],
    405: [*_JSON, ("allow", "POST")],
}


class Scope(Protocol):
    """What granian says of a request before its body (RSGI, as far as used)."""

    proto: str
    http_version: str
    client: str
    method: str
    path: str
    query_string: str
    authority: str | None

    @property
    def headers(self) -> Headers:
        """The request's headers."""


class Chunks(Protocol):
    """A body as it comes."""

    def __aiter__(self) -> Chunks: ...
    async def __anext__(self) -> bytes: ...


class Exchange(Protocol):
    """granian's handle on one request: its body, and the way to answer."""

    async def __call__(self) -> bytes: ...
    def __aiter__(self) -> Chunks: ...
    def response_bytes(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Answer, once."""


class App:
    """Serves the XKS protocol from one worker process."""

    def __init__(
        self,
        engine: Engine,
        *,
        journal: Journal,
        link: Link | None = None,
        budget_s: float = DEFAULT_BUDGET_S,
        counters: Counters | None = None,
        uses: CredentialUses | None = None,
        fronts: Fronts | None = None,
    ) -> None:
        """``budget_s`` is how long after a request's arrival its answer is still worth the work."""
        self.engine = engine
        self.journal = journal
        self.counters = counters or Counters()
        self.uses = uses or CredentialUses()
        self._link = link
        self._budget_s = budget_s
        self._in_flight = 0
        self._at_hsm = 0
        self._turn_s = 0.0
        self._turn_began: float | None = None
        self._deadlines = Deadlines(budget_s)
        self._guard = journal.guard
        self._unrecorded_logged_at = -1.0
        self._fronts = fronts or Fronts()
        self._leaving = False
        self.on_ready: Callable[[], bool] | None = None
        """Called once this worker has its keys, before it accepts (xks/graceful.py); False: end."""

    @property
    def in_flight(self) -> int:
        """Requests begun and not yet answered."""
        return self._in_flight + self._at_hsm

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Harden the process and connect to the agent; called by granian before it serves."""
        self.journal.run_on(loop)
        if self._link is not None:
            harden_process()
            end_with_parent()
            self._link.start(loop)
            # A worker that accepts before it has keys would answer 503 where another could serve.
            # Without an agent it must come up all the same, to say so on /ping.
            loop.run_until_complete(self._link.wait_loaded())
            loop.add_signal_handler(signal.SIGUSR1, self.drain)
            if isinstance(loop, GuardedLoop):
                loop.told_to_end = self._link.drain
            if is_orphan() or (self.on_ready is not None and not self.on_ready()):
                # It died while this worker started: no signal may come any more.
                self.__rsgi_del__(loop)
                sys.exit("the XKS server ended while this worker started")

    def drain(self) -> None:
        """From now on have HTTP/1.1 clients leave with their next answer: another worker takes over."""
        self._leaving = True
        if self._link is not None:
            self._link.drain()

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the journal and take leave of the agent; called by granian when serving has stopped."""
        loop.run_until_complete(self.journal.stop())
        if self._link is not None:
            loop.run_until_complete(self._link.stop())

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        """Answer one request."""
        arrived = boot_clock()
        guard = self._guard
        if guard is not None:
            if guard.refuses():
                if scope.path in PROBE_PATHS:
                    self._answer_probe(scope, exchange, arrived)
                else:
                    refuse_unrecorded(scope, exchange)
                return
            if not guard.begin(exchange, scope):
                return  # refused before it got here
        if scope.path in PROBE_PATHS:
            if guard is None or guard.take(exchange):
                self._answer_probe(scope, exchange, arrived)
            return
        self._in_flight += 1
        try:
            await self._serve(scope, exchange, arrived)
        except Exception:
            # granian answers 500 for us, unless the guard has answered: then there is nobody to tell.
            if guard is None or guard.take(exchange):
                raise
        finally:
            self._in_flight -= 1
            if guard is not None:
                guard.take(exchange)  # also when it was cancelled

    def _respond(self, exchange: Exchange, status: int, headers: HeaderList, body: bytes) -> None:
        """Answer, unless the request was refused while the journal's device held up the loop."""
        if self._guard is None or self._guard.take(exchange):
            if self._leaving:
                headers = [*headers, _CLOSE]  # which an HTTP/2 server leaves out
            exchange.response_bytes(status, headers, body)

    async def _serve(self, scope: Scope, exchange: Exchange, arrived: float) -> None:
        try:
            route = parse_path(scope.path, scope.query_string)
            self.engine.check_prefix(route, arrived)
            if scope.method != "POST":
                raise MethodNotAllowed("the operations of this protocol are called by POST")
            if self._is_crowded(arrived):
                # Not even the body is waited for: it would have to wait its turn as the work would.
                crowded = ThrottlingException("this node has more requests than it can answer in time")
                self._count(crowded.name, scope)
                self._respond(exchange, crowded.status, _JSON, error_body(crowded))
                return
        except XksError as error:
            self._count(error.name, scope)
            await self._refuse(scope, exchange, error)
            return
        try:
            body = await self._read_body(scope, exchange)
        except XksError as error:
            self._count(error.name, scope)
            self._refuse_unread(scope, exchange, error)
            return
        if boot_clock() > arrived + self._budget_s:
            # Before its signature is looked at, which is a good part of the work that nobody waits for.
            late = DependencyTimeoutException("the time budget of the request was over before work began")
            self._count(late.name, scope)
            self._respond(exchange, late.status, _JSON, error_body(late))
            return
        answered = self._answer(scope, route, body, arrived)
        if not isinstance(answered, tuple):
            # Its key lives in an HSM: it waits there, and takes nobody's place here meanwhile.
            self._in_flight -= 1
            self._at_hsm += 1
            try:
                answered = await answered
            finally:
                self._at_hsm -= 1
                self._in_flight += 1
        status, answer, recorded = answered
        if recorded is not None:
            try:
                await recorded
            except JournalUnavailable as error:
                status, answer = self._unrecorded(error, None)
        self._respond(exchange, status, _HEADERS.get(status, _JSON), answer)

    def _is_crowded(self, now: float) -> bool:
        """Say whether a request that came ``now`` would wait too long for its turn.

        How long a turn takes is seen by a callback put at the end of the loop's queue, one at a time: that is
        our own queue alone, which no client can lengthen by sending its body slowly.
        """
        if self._in_flight <= FEW_IN_FLIGHT:
            self._turn_s = 0.0  # what was seen in an earlier crowd says nothing of the next
            return False
        if self._turn_began is None:
            self._turn_began = now
            asyncio.get_running_loop().call_soon(self._note_turn)
            turn_s = self._turn_s
        else:
            turn_s = max(self._turn_s, now - self._turn_began)
        return self._in_flight > MAX_IN_FLIGHT or turn_s > self._budget_s * QUEUE_SHARE

    def _note_turn(self) -> None:
        if self._turn_began is not None:
            self._turn_s = boot_clock() - self._turn_began
            self._turn_began = None

    async def _refuse(self, scope: Scope, exchange: Exchange, error: XksError) -> None:
        """Answer with ``error``, which the body cannot change, once the body has come.

        An answer to a half-sent request makes an HTTP/2 server reset the stream, and a client that
        is still sending (curl, and with it AWS's test client) then drops the answer.
        """
        try:
            await self._read_body(scope, exchange)
        except XksError:
            self._refuse_unread(scope, exchange, error)
        else:
            self._respond(exchange, error.status, _HEADERS.get(error.status, _JSON), error_body(error))

    def _refuse_unread(self, scope: Scope, exchange: Exchange, error: XksError) -> None:
        self._respond(exchange, error.status, _unread_headers(scope, error), error_body(error))

    async def _read_body(self, scope: Scope, exchange: Exchange) -> bytes:
        """Return the body, having read no more than there may be.

        Raises:
            UnsupportedOperationException: it is longer than MAX_BODY_BYTES.
            DependencyTimeoutException: it did not come within the time budget.
        """
        announced = scope.headers.get_all("content-length")
        # The HTTP server has made sure that it is one number, and holds the body to it.
        if announced and int(announced[0]) > MAX_BODY_BYTES:
            raise _too_long()
        with self._deadlines:
            if announced:
                return await exchange()
            chunks: list[bytes] = []
            length = 0
            async for chunk in exchange:
                length += len(chunk)
                if length > MAX_BODY_BYTES:
                    raise _too_long()
                chunks.append(chunk)
            return b"".join(chunks)

    def _answer(
        self, scope: Scope, route: Route, body: bytes, arrived: float
    ) -> Answered | Coroutine[Any, Any, Answered]:
        """Return status and body, the request being in the journal.

        With a future they may leave only when it is done: then the record is durable.
        """
        context = Context()
        now = time.time()
        try:
            request = Request(
                route,
                scope.method,
                scope.path,
                scope.headers,
                scope.authority if scope.http_version == "2" else None,
                body,
                arrived + self._budget_s,
            )
            answer = self.engine.answer(request, context, now=now, boot_now=boot_clock())
            if not isinstance(answer, bytes):
                return self._answer_later(answer, scope, route, context, now, arrived, len(body))
            status, outcome = 200, "OK"
        except XksError as error:
            status, outcome, answer = error.status, error.name, error_body(error)
        except Exception as error:  # a fault of ours, whatever it is: told without detail
            internal = _internal_error(error, context)
            status, outcome, answer = internal.status, internal.name, error_body(internal)
        return self._recorded(scope, route, context, status, outcome, answer, now, arrived, len(body))

    async def _answer_later(
        self, pending: Pending, scope: Scope, route: Route, context: Context, now: float, arrived: float, size: int
    ) -> Answered:  # fmt: skip
        """Wait for the HSM; the request is under way, for whoever waits for it, until it is in the journal."""
        try:
            try:
                answer = await pending.work
                status, outcome = 200, "OK"
            except XksError as error:
                status, outcome, answer = error.status, error.name, error_body(error)
            except Exception as error:  # a fault of ours, whatever it is: told without detail
                internal = _internal_error(error, context)
                status, outcome, answer = internal.status, internal.name, error_body(internal)
            return self._recorded(scope, route, context, status, outcome, answer, now, arrived, size)
        finally:
            pending.end()

    def _recorded(
        self, scope: Scope, route: Route, context: Context, status: int, outcome: str, answer: bytes, now: float,
        arrived: float, size: int,
    ) -> Answered:  # fmt: skip
        if context.store is None:
            self._count(outcome, scope)
            return status, answer, None
        record = _record(context, route, outcome, now, arrived)
        try:
            recorded = self.journal.append(record)
        except JournalUnavailable as error:
            self.uses.note(context.access_key_id, context.region, now, False)
            return *self._unrecorded(error, context), None
        self.uses.note(context.access_key_id, context.region, now, status == 200)
        self.counters.note(record.store_id, route.operation, outcome, record.microseconds, size, len(answer))
        return status, answer, recorded

    def _count(self, outcome: str, scope: Scope) -> None:
        """Count a request without a record: it has no valid signature, or nobody looked at it."""
        self.journal.count(outcome, self._fronts.source(scope))
        self.counters.note_unsigned(outcome)

    def _unrecorded(self, error: JournalUnavailable, context: Context | None) -> tuple[int, bytes]:
        """Return status and body for a request whose result may not leave; logged once a second at most."""
        self.counters.note_unrecorded()
        now = time.monotonic()
        if now >= self._unrecorded_logged_at + 1:
            self._unrecorded_logged_at = now
            refusal = _internal_error(error, context)
        else:
            refusal = InternalException("the request cannot be recorded, so it is not answered")
        return refusal.status, error_body(refusal)

    def _answer_probe(self, scope: Scope, exchange: Exchange, now: float) -> None:
        """Tell a load balancer whether this worker can do its work."""
        if scope.method not in ("GET", "HEAD"):
            headers = [*_JSON, ("allow", "GET, HEAD")]
            error = MethodNotAllowed("this path is for health probes by GET")
            exchange.response_bytes(error.status, headers, error_body(error))
            return
        problem = self.engine.serving.problem(now) or self.journal.problem()
        headers = [*_JSON, _CLOSE] if self._leaving else _JSON
        if problem is None:
            warning = self.engine.serving.warning(now)
            told = f'{{"status":"ok","warning":"{warning}"}}'.encode() if warning else b'{"status":"ok"}'
            exchange.response_bytes(200, headers, told)
        else:
            exchange.response_bytes(503, headers, f'{{"status":"unavailable","reason":"{problem}"}}'.encode())


def _too_long() -> UnsupportedOperationException:
    # A new one each time: an exception that is raised again grows by a traceback entry.
    return UnsupportedOperationException(f"the request's body is longer than {MAX_BODY_BYTES} bytes")


def _unread_headers(scope: Scope, error: XksError) -> HeaderList:
    headers = _HEADERS.get(error.status, _JSON)
    if scope.http_version != "2":
        # What is left of the body must not be taken for the next request, nor be waited for.
        headers = [*headers, ("connection", "close")]
    return headers


def refuse_unrecorded(scope: Scope, exchange: Exchange) -> None:
    """Answer 500 because nothing can be recorded; touches nothing else, so any thread may call it."""
    if scope.path in PROBE_PATHS:
        exchange.response_bytes(
            503, _JSON, b'{"status":"unavailable","reason":"the journal\'s device has stalled"}'
        )
        return
    error = InternalException("the request cannot be recorded, so it is not answered")
    exchange.response_bytes(error.status, _unread_headers(scope, error), error_body(error))


def _internal_error(error: Exception, context: Context | None) -> InternalException:
    """Log a fault under a new id, and return what the caller may know of it.

    The exception's own message stays out of the log: it could quote what it failed on.
    """
    incident = secrets.token_hex(8)
    metadata = context.metadata if context is not None else None
    kms_request_id = metadata.kms_request_id if metadata is not None else "not known"
    log.error(
        "request %s (kmsRequestId %s) failed: %s at\n%s",
        incident,
        printable(kms_request_id),
        type(error).__name__,
        "".join(traceback.format_tb(error.__traceback__)),
    )
    return InternalException(f"internal error, logged as {incident}")


def _record(context: Context, route: Route, outcome: str, now: float, arrived: float) -> Record:
    key = context.key
    metadata = context.metadata
    caller = metadata if isinstance(metadata, CallerMetadata) else None
    use = metadata if isinstance(metadata, UseMetadata) else None
    store = context.store
    # In the order of the fields: naming them costs half a microsecond.
    return Record(
        now,
        context.generation,
        store.id if store is not None else "",
        context.access_key_id,
        context.region,
        route.operation,
        outcome,
        int((boot_clock() - arrived) * 1e6),
        route.external_key_id,
        key.id if key is not None else "",
        context.version,
        caller.aws_principal_arn if caller is not None else "",
        use.kms_key_arn if use is not None else "",
        metadata.kms_operation if metadata is not None else "",
        metadata.kms_request_id if metadata is not None else "",
        (use.kms_via_service or "") if use is not None else "",
        (caller.aws_source_vpc or "") if caller is not None else "",
        (caller.aws_source_vpce or "") if caller is not None else "",
    )
