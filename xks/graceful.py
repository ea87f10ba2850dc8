"""granian with workers that can be replaced under load, without one failed request.

New workers are started beside the old ones, with the certificate as it now is.  When all of them are
ready, new connections go to them alone (``xks.listeners``).  The old ones finish what they have: each
answer on HTTP/1.1 says ``Connection: close``, so that the client leaves by itself.  They are told to
stop only when an open connection must have been idle for as long as it may be at most, when it would
have been closed anyhow.  HTTP/2 connections are ended by GOAWAY, which loses nothing.

docs/decisions/ tells why it is not done otherwise.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from granian._granian import SocketHolder
from granian.server import MPServer

from xks.listeners import BACKLOG, Listeners

log = logging.getLogger("keystead.xks")

READY_S = 20.0
"""New workers that are not ready to serve by then are given up, and the old ones go on."""
DRAIN_SIGNAL = signal.SIGUSR1
"""Tells a worker to have its clients leave."""

_READY, _GO = b"R", b"G"

Worker = Any
"""granian's WorkerProcess, which has no types: with ``listener``, ``line`` to it, and its end ``theirs``."""


class NotReplaced(Exception):
    """New workers did not come up; the old ones go on."""


class GracefulServer(MPServer):
    """A granian server whose workers are replaced without a failed request.

    ``renew``, when set, is called before workers are replaced: it puts a new certificate into ``ssl_ctx``,
    or raises what speaks against it.  ``replaced`` is called afterwards with what went wrong, or None.
    """

    def __init__(self, *args: Any, listeners: Listeners, drain_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ssl_ctx: Any
        self._listeners = listeners
        self._drain_s = drain_s
        self._draining: set[Worker] = set()
        self._lines: set[socket.socket] = set()
        self._stopping = threading.Event()
        self.renew: Callable[[], None] = lambda: None
        self.replaced: Callable[[Exception | None], None] = lambda error: None

    # --- one worker -------------------------------------------------------------------------------

    def _init_shared_socket(self) -> None:
        self._ssp = self._shd = self._sso = None

    def _spawn_worker(  # type: ignore[override] # granian's own classes differ
        self, idx: int, target: Any, callback_loader: Any
    ) -> Worker:
        listener = self._listeners.bind()
        ours, theirs = socket.socketpair()
        self._lines.add(ours)

        def run(worker_id: int, name: Any, loader: Any, sock: Any, *rest: Any) -> None:
            # A forked copy would keep another's socket in the kernel's array, and its line from ending.
            for number in self._listeners.others(listener):
                os.close(number)
            for other in self._lines:
                other.close()

            def load() -> Any:
                app = loader()
                app.on_ready = lambda: _await_word(theirs)
                return app

            holder = SocketHolder(listener.detach(), False, BACKLOG)  # type: ignore[call-arg] # the stub lacks them
            target(worker_id, name, load, ((None, holder), None), *rest)

        worker: Worker = super()._spawn_worker(idx, run, callback_loader)
        worker.listener, worker.line, worker.theirs = listener, ours, theirs
        return worker

    def _start(self, worker: Worker) -> None:
        worker.start()
        worker.theirs.close()  # so that the line ends with the worker

    def _is_ready(self, worker: Worker, until: float) -> bool:
        """Wait for the worker to have its keys; False when it died, or did not come so far in time."""
        worker.line.settimeout(max(0.1, until - time.monotonic()))
        try:
            return bool(worker.line.recv(1) == _READY)
        except OSError:
            return False

    def _let_go(self, worker: Worker) -> None:
        with contextlib.suppress(OSError):  # it has just died, which is seen elsewhere
            worker.line.sendall(_GO)
        self._hang_up(worker)

    def _hang_up(self, worker: Worker) -> None:
        self._lines.discard(worker.line)
        worker.line.close()

    def _usher(self, worker: Worker) -> None:
        """Have one worker listen as soon as it can serve, so that no connection waits for it before."""
        if self._is_ready(worker, time.monotonic() + READY_S):
            self._listeners.admit([worker.listener])
            self._let_go(worker)
            return
        self._hang_up(worker)
        if worker.is_alive():
            log.error("a worker was not ready to serve after %s s: it is started anew", READY_S)
            worker.inner.kill()  # seen by granian as a worker that died

    def _begin(self, idx: int, spawn_target: Any, target_loader: Any) -> Worker:
        worker = self._spawn_worker(idx, spawn_target, target_loader)
        self._start(worker)
        threading.Thread(target=self._usher, args=(worker,), daemon=True).start()
        return worker

    # --- all of them ------------------------------------------------------------------------------

    def _spawn_workers(self, spawn_target: Any, target_loader: Any) -> None:
        self.wrks.extend(self._begin(idx, spawn_target, target_loader) for idx in range(self.workers))
        self._metrics.incr_spawn(self.workers)

    def _respawn_workers(
        self, workers: Sequence[int], spawn_target: Any, target_loader: Any, delay: float = 0
    ) -> None:
        """Start anew those that died."""
        for idx in workers:
            self.respawned_wrks[idx] = time.monotonic()
            died: Worker = self.wrks[idx]
            self._listeners.remove(died.listener)
            self.wrks[idx] = self._begin(idx, spawn_target, target_loader)
        self._metrics.incr_spawn(len(workers))

    def _reload(self, spawn_target: Any, target_loader: Any) -> None:
        self.reload_signal = False
        self.respawned_wrks.clear()
        self.main_loop_interrupt.clear()
        try:
            self.renew()
            self._replace(spawn_target, target_loader)
        except Exception as error:  # whatever it is, who serves goes on serving
            log.error("the workers were not replaced: %s", error)
            self.replaced(error)
        else:
            self.replaced(None)
        if self.interrupt_signal or self.interrupt_children or self.reload_signal:
            self.main_loop_interrupt.set()  # it came while this was going on

    def _replace(self, spawn_target: Any, target_loader: Any) -> None:
        new = []
        for idx in range(self.workers):
            worker = self._spawn_worker(idx, spawn_target, target_loader)
            worker.interrupt_by_parent = True  # not granian's business before it serves
            self._start(worker)
            new.append(worker)
        until = time.monotonic() + READY_S
        if not all(self._is_ready(worker, until) for worker in new):
            for worker in new:
                worker.inner.kill()
                self._hang_up(worker)
                self._listeners.remove(worker.listener)
            raise NotReplaced("new workers did not come up; the ones before go on serving")
        old, self.wrks = self.wrks, new
        self._listeners.replace([worker.listener for worker in new])
        for worker in new:
            worker.interrupt_by_parent = False
            self._let_go(worker)
            if not worker.is_alive():
                self.interrupt_children.append(worker.idx)
        for worker in old:
            worker.interrupt_by_parent = True
        self._draining.update(old)
        threading.Thread(target=self._drain, args=(old,), daemon=True).start()
        log.warning("new workers serve; the ones before finish what they have within %s s", self._drain_s)

    def _drain(self, old: Sequence[Worker]) -> None:
        for worker in old:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.inner.pid, DRAIN_SIGNAL)
        self._stopping.wait(self._drain_s)
        self._end(old)
        for worker in old:
            self._listeners.remove(worker.listener)
        self._draining.difference_update(old)

    def _end(self, workers: Sequence[Worker]) -> None:
        for worker in workers:
            worker.terminate()
        until = time.monotonic() + (self.workers_kill_timeout or 0)
        for worker in workers:
            worker.join(max(0.001, until - time.monotonic()))
            if worker.is_alive():
                log.warning("killing worker %s, which did not stop", worker.inner.pid)
                worker.kill()
                worker.join()

    def _stop_workers(self) -> None:
        self._stopping.set()
        for worker in tuple(self._draining):
            worker.terminate()
        super()._stop_workers()  # type: ignore[no-untyped-call]


def _await_word(line: socket.socket) -> bool:
    """In a worker: say that it is ready, and wait until its socket listens; False when the server has ended."""
    line.settimeout(READY_S + 5)
    try:
        line.sendall(_READY)
        return line.recv(1) == _GO
    except OSError:
        return False
    finally:
        line.close()
