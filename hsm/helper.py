"""The helper process of one member: the only place where a PKCS#11 module is loaded.

``python -m hsm.helper`` reads its configuration (wire.config_frame) from standard input, opens the token, prints one line
of JSON (``{"ready": ...}`` or ``{"refused": ...}``) and serves a Unix socket until its standard input is closed: so it
never outlives whoever started it. :func:`spawn` does the other side of that.

A fast token is called on the event loop itself, because a hand-over between threads costs more than the call; a slow
one by threads, each with a session of its own. What changes keys, and what may take long, has a thread of its own.
A call that hangs cannot be ended: a watchdog ends the process then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import queue
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn, cast

import uvloop

from hsm import profile, wire
from hsm.base import HsmBusy, HsmError, HsmTimeout
from hsm.hardening import HardeningFailed, harden_process
from hsm.lane import MAX_DATA_BYTES, Lane
from hsm.spawning import Running, spawn
from hsm.token import Token

__all__ = ["EXIT_HUNG", "EXIT_LOST", "EXIT_REFUSED", "Helper", "Running", "main", "spawn"]

log = logging.getLogger("keystead.hsm")

EXIT_REFUSED: Final = 65
"""The token is not there, or the login was refused: standard output tells."""
EXIT_HUNG: Final = 70
"""A PKCS#11 call did not return in time."""
EXIT_LOST: Final = 75
"""The token has been away for a while: a new process loads the module afresh."""

SLOW_MS: Final = 1.0
"""Median of an encryption above which calls are made by threads."""
DEFAULT_THREADS: Final = 32
MAX_QUEUE: Final = 2048
"""Requests that wait for a thread; more are refused."""
LOST_FOR_S: Final = 5.0
"""So long without its token, and the helper ends."""
COPIES_CHECKED_S: Final = 1.0
"""A key that was destroyed by somebody else is used through its session copy for so long at most."""
MAX_RANDOM_BYTES: Final = 65_536
_ADMIN_PATIENCE: Final = 12.0
"""Making an RSA key takes an HSM seconds: so many times the deadline of other calls."""
_BATCH: Final = 4
"""Answers that are sent together, though more requests came together: who asked works on while we do."""


class Helper:
    """Serves one token to any number of connections."""

    def __init__(self, config: wire.HelperConfig, token: Token, lane: Lane) -> None:
        self._config = config
        self._token = token
        self._lane = lane
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: list[Lane] = [lane]
        self._jobs: queue.SimpleQueue[tuple[_Connection, wire.Request]] = queue.SimpleQueue()
        self._admin: queue.SimpleQueue[tuple[_Connection, wire.Request]] = queue.SimpleQueue()
        self._finished: list[tuple[_Connection, wire.Answer]] = []
        self._lock = threading.Lock()
        self._scheduled = False
        self.threads = 0
        self.began = time.monotonic()
        self.counters = {"encrypts": 0, "decrypts": 0, "other": 0, "failed": 0, "late": 0, "refused": 0}
        self._slow_calls = 0
        self._identity = token.identity()
        self.stop = asyncio.Event()
        self.exit_code = 0

    # --- starting ------------------------------------------------------------------------------------------------

    async def serve(self) -> int:
        """Listen until standard input ends, or SIGTERM; return the process's exit code."""
        self._loop = asyncio.get_running_loop()
        threads = self._config.threads
        if threads == 0 and self._token.profile.latency_ms > SLOW_MS:
            threads = DEFAULT_THREADS
        if not self._token.module.threads_ok:
            threads = 0
        if threads > 1:
            self._start_threads(threads)
        if self._token.module.threads_ok:
            self._spawn_thread("hsm-admin", self._administrate, patience=_ADMIN_PATIENCE)
        threading.Thread(target=self._watch, name="hsm-watchdog", daemon=True).start()
        server = await self._listen(self._config.socket)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop.set)
        threading.Thread(target=self._wait_for_end, name="hsm-stdin", daemon=True).start()
        _say({"ready": self.status() | {"pid": os.getpid(), "socket": self._config.socket}})
        try:
            await self.stop.wait()
        finally:
            server.close()
            _remove_socket(self._config.socket)
        return self.exit_code

    async def _listen(self, path: str) -> asyncio.AbstractServer:
        assert self._loop is not None  # noqa: S101 - serve() has set it
        _remove_socket(path)
        before = os.umask(0o177)  # never reachable by others, not for a moment
        try:
            return await self._loop.create_unix_server(lambda: _Connection(self), path)
        finally:
            os.umask(before)

    def _spawn_thread(self, name: str, work: Callable[[Lane], None], *, patience: float = 1.0) -> None:
        lane = self._token.lane()
        lane.patience = patience
        self._lanes.append(lane)
        threading.Thread(target=work, args=(lane,), name=name, daemon=True).start()

    def _start_threads(self, count: int) -> None:
        most = self._token.profile.limits.get("sessions", 0)
        count = max(2, min(count, most - 2)) if most else count
        self.threads = count
        for number in range(count):
            self._spawn_thread(f"hsm-{number}", self._work)

    def _wait_for_end(self) -> None:
        # Whoever started us holds the other end and writes nothing more.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        self._end(0)

    def _end(self, code: int) -> None:
        assert self._loop is not None  # noqa: S101 - as above
        self.exit_code = code
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.stop.set)
        # The loop may be in a call that hangs.
        time.sleep(2.0)
        os._exit(code)

    def _watch(self) -> None:
        limit = self._config.deadline_s
        pause = min(0.25, limit / 4)
        while True:
            time.sleep(pause)
            now = time.monotonic()
            if any(each.busy_since and now - each.busy_since > limit * each.patience for each in self._lanes):
                log.error(
                    "a PKCS#11 call has not returned in time (%.1f s): ending, to be started afresh", limit
                )
                _remove_socket(self._config.socket)
                os._exit(EXIT_HUNG)
            lost = self._token.lost_since
            if lost and now - lost > LOST_FOR_S:
                log.error("the token has been away for %.1f s: ending, to load the module afresh", LOST_FOR_S)
                _remove_socket(self._config.socket)
                os._exit(EXIT_LOST)

    # --- requests ------------------------------------------------------------------------------------------------

    def take(self, connection: _Connection, requests: list[wire.Request]) -> None:
        """Carry out or pass on what came on a connection; answers go back by connection.answer()."""
        for request in requests:
            kind = type(request)
            if kind is wire.Encrypt or kind is wire.Decrypt:
                if self.threads:
                    if self._jobs.qsize() >= MAX_QUEUE:
                        self.counters["refused"] += 1
                        connection.answer(
                            wire.failed(request.id, HsmBusy("the HSM's helper has a full queue"))
                        )
                    else:
                        self._jobs.put((connection, request))
                else:
                    connection.answer(self._crypt(self._lane, request))
                    if self._slow_calls > 20:
                        self._turn_slow()
            elif kind is wire.Status:
                connection.answer(wire.Done(request.id, info=self.status()))
            elif self._token.module.threads_ok:
                if self._admin.qsize() >= MAX_QUEUE:
                    self.counters["refused"] += 1
                    connection.answer(wire.failed(request.id, HsmBusy("the HSM's helper has a full queue")))
                else:
                    self._admin.put((connection, request))
            else:
                connection.answer(self._carry_out(self._lane, request))

    def _turn_slow(self) -> None:
        """Go over to threads: the token has become slow, or its network has."""
        self._slow_calls = 0
        if self._token.module.threads_ok and self._config.threads != 1:
            log.warning(
                "the token takes over %.0f ms a call: it is called by threads from now on", SLOW_MS * 2
            )
            self._start_threads(self._config.threads or DEFAULT_THREADS)

    def _crypt(self, lane: Lane, request: wire.Request) -> wire.Answer:
        deadline = request.deadline  # type: ignore[union-attr]
        if deadline and wire.boot_clock() > deadline:
            self.counters["late"] += 1
            return wire.failed(
                request.id, HsmTimeout("the request's time was over before the HSM's turn came")
            )
        began = time.monotonic()
        try:
            if type(request) is wire.Encrypt:
                self.counters["encrypts"] += 1
                nonce, data = lane.encrypt(request.key, request.data, request.aad, request.verify)
                answer = wire.Done(request.id, nonce, data)
            else:
                self.counters["decrypts"] += 1
                held = cast("wire.Decrypt", request)
                answer = wire.Done(request.id, b"", lane.decrypt(held.key, held.nonce, held.data, held.aad))
        except HsmError as error:
            self.counters["failed"] += 1
            return wire.failed(request.id, error)
        except Exception as error:
            return self._unexpected(request, error)
        if not self.threads:
            if time.monotonic() - began > SLOW_MS * 2 / 1000:
                self._slow_calls += 1
            elif self._slow_calls:
                self._slow_calls -= 1
        return answer

    def _carry_out(self, lane: Lane, request: wire.Request) -> wire.Answer:
        self.counters["other"] += 1
        try:
            return self._administer(lane, request)
        except HsmError as error:
            self.counters["failed"] += 1
            return wire.failed(request.id, error)
        except Exception as error:
            return self._unexpected(request, error)

    def _unexpected(self, request: wire.Request, error: Exception) -> wire.Failed:
        # A fault of ours must not take the member's other keys along; what it was stands in the log.
        log.error("a request failed unexpectedly", exc_info=error)
        self.counters["failed"] += 1
        return wire.failed(request.id, HsmError(f"unexpected {type(error).__name__} in the HSM's helper"))

    def _administer(self, lane: Lane, request: wire.Request) -> wire.Done:
        token = self._token
        match request:
            case wire.Random(id, count):
                if not 0 < count <= MAX_RANDOM_BYTES:
                    raise HsmError(f"random bytes are drawn 1 to {MAX_RANDOM_BYTES} at a time")
                return wire.Done(id, data=lane.run("drawing random bytes", lambda: lane.draw(count)))
            case wire.Generate(id, key, label, "transfer"):
                return wire.Done(id, data=token.make_transfer_key(lane, key, label))
            case wire.Generate(id, key, label, kind):
                return wire.Done(id, info=token.generate(lane, key, label, kind))
            case wire.Describe(id, key):
                return wire.Done(id, info=token.describe(lane, key))
            case wire.FindByLabel(id, label):
                return wire.Done(id, info={"keys": token.find_by_label(lane, label)})
            case wire.Identify(id, label, key):
                return wire.Done(id, info=token.identify(lane, label, key))
            case wire.Destroy(id, key):
                if not token.forget_transfer_key(lane, key):
                    token.destroy(lane, key)
                return wire.Done(id)
            case wire.Export(id, key, under):
                return wire.Done(id, data=token.export(lane, key, under))
            case wire.Import(id, key, label, under, blob, kind):
                return wire.Done(id, info=token.import_key(lane, key, label, under, blob, kind))
            case wire.Harden(id, key):
                return wire.Done(id, info=token.harden(lane, key))
            case wire.Seal(id, key, data):
                _must_be_small(data)
                return wire.Done(id, data=token.seal(lane, key, data))
            case wire.Unseal(id, key, data):
                _must_be_small(data)
                return wire.Done(id, data=token.unseal(lane, key, data))
            case wire.Probe(id):
                token.profile.oaep = profile.measure_oaep(token, lane)
                return wire.Done(id, info=self.status())
            case _:
                raise HsmError(f"a request that this helper does not know: {type(request).__name__}")

    # --- threads -------------------------------------------------------------------------------------------------

    def _work(self, lane: Lane) -> None:
        while True:
            connection, request = self._jobs.get()
            try:
                answer = self._crypt(lane, request)
            except Exception as error:
                log.exception("a request failed unexpectedly")
                answer = wire.failed(
                    request.id, HsmError(f"unexpected {type(error).__name__} in the HSM's helper")
                )
            self._hand_over(connection, answer)

    def _administrate(self, lane: Lane) -> None:
        checked = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                connection, request = self._admin.get(timeout=COPIES_CHECKED_S)
                self._hand_over(connection, self._carry_out(lane, request))
            if time.monotonic() - checked >= COPIES_CHECKED_S:
                try:
                    self._token.check_copies(lane)
                except HsmError as error:
                    log.warning("keys could not be looked after: %s", error)
                checked = time.monotonic()

    def _hand_over(self, connection: _Connection, answer: wire.Answer) -> None:
        with self._lock:
            self._finished.append((connection, answer))
            if self._scheduled:
                return
            self._scheduled = True
        assert self._loop is not None  # noqa: S101 - threads are started by serve()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        with self._lock:
            finished, self._finished = self._finished, []
            self._scheduled = False
        for connection, answer in finished:
            connection.answer(answer)

    # --- telling -------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return identity, profile, counters; safe to show to anybody who may see the member."""
        busy = [each.busy_since for each in self._lanes if each.busy_since]
        return {
            "identity": self._identity,
            "profile": profile.as_dict(self._token.profile),
            "counters": self.counters | {"sessions reopened": self._token.reopened},
            "threads": self.threads,
            "waiting": self._jobs.qsize(),
            "oldest_call_s": round(time.monotonic() - min(busy), 3) if busy else 0.0,
            "refused": self._token.refused,
            "away": bool(self._token.lost_since),
            "uptime_s": round(time.monotonic() - self.began, 1),
        }


class _Connection(asyncio.Protocol):
    """One client. Answers of a turn leave in one write."""

    __slots__ = ("_answers", "_fd", "_frames", "_gathering", "_helper", "_loop", "_transport")

    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self._loop = asyncio.get_running_loop()
        self._frames = wire.Frames()
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._answers: list[wire.Answer] = []
        self._gathering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._fd = transport.get_extra_info("socket").fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def pause_writing(self) -> None:
        # Who does not take answers is not asked for more.
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._gathering = True
        try:
            for payload in self._frames.feed(data):
                self._helper.take(self, wire.read_requests(payload))
        except wire.ProtocolError as error:
            log.warning("a client does not speak our protocol: %s", error)
            if self._transport is not None:
                self._transport.abort()
            return
        finally:
            self._gathering = False
        if self._answers:
            self.flush()

    def answer(self, answer: wire.Answer) -> None:
        answers = self._answers
        answers.append(answer)
        if len(answers) >= _BATCH:
            self.flush()
        elif len(answers) == 1 and not self._gathering:
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        answers, self._answers = self._answers, []
        if not answers or self._transport is None:
            return
        try:
            self._write(wire.frame(answers))
        except wire.ProtocolError:
            for each in answers:
                self._write(wire.frame([each]))

    def _write(self, data: bytes) -> None:
        # The loop's transport would write at the end of its turn; meanwhile the asker could be at work already.
        assert self._transport is not None  # noqa: S101 - flush() has seen
        sent = 0
        if not self._transport.get_write_buffer_size():
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._transport.abort()
                return
        if sent < len(data):
            self._transport.write(data[sent:])


def _must_be_small(data: bytes) -> None:
    if len(data) > MAX_DATA_BYTES:
        raise HsmError(f"data of more than {MAX_DATA_BYTES} bytes is not sent to an HSM")


def _remove_socket(path: str) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


def _say(what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(what).encode() + b"\n")


def _read_exactly(count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = os.read(0, count - len(data))
        if not more:
            raise wire.ProtocolError("standard input ended before the configuration did")
        data += more
    return data


def main() -> int:
    """Run a helper; see the module."""
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        harden_process()
        size = int.from_bytes(_read_exactly(wire.LENGTH_BYTES), "big")
        if size > wire.MAX_FRAME_BYTES:
            raise wire.ProtocolError("standard input is no helper's configuration")
        config = wire.read_config(_read_exactly(size))
    except (wire.ProtocolError, HardeningFailed) as error:
        _say({"refused": {"error": "HsmError", "message": str(error), "code": 0}})
        return EXIT_REFUSED
    # Opening may hang as any call may; nobody would end us then.
    guard = threading.Timer(max(30.0, config.deadline_s * 4), _opening_hangs)
    guard.daemon = True
    guard.start()
    try:
        token = Token(config)
        lane = token.open()
    except HsmError as error:
        _say({"refused": {"error": type(error).__name__, "message": str(error), "code": error.code}})
        return EXIT_REFUSED
    guard.cancel()

    async def run() -> int:
        return await Helper(config, token, lane).serve()

    return uvloop.run(run())


def _opening_hangs() -> None:
    _say(
        {
            "refused": {
                "error": "HsmUnavailable",
                "message": "the module does not return from opening the token: is the device reachable from this host?",
                "code": 0,
            }
        }
    )
    os._exit(EXIT_HUNG)


def end(status: int) -> NoReturn:
    """End the process. Modules start threads and exit handlers of their own, and some of them hang: nothing of ours is left to do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    end(main())
