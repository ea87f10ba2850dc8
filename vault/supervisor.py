"""`keystead serve`: every part as a child process under one supervisor.

The supervisor starts the parts, prefixes their log lines, restarts with backoff what dies, says when all answer, and
stops everything within five seconds. It holds no key and answers no request.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

CHILD = Path(__file__).with_name("child.py")
STOP_SECONDS = 2.5  # for a clean end, before SIGKILL; all must be over within 5, on a busy machine too
READY_SECONDS = 60.0
FIRST_DELAY = 0.5
LAST_DELAY = 30.0
STEADY_SECONDS = 30.0  # a part that ran this long begins its backoff anew
GIVE_UP_AFTER = 5  # deaths of one part before the first readiness
MAX_LINE = 64 * 1024

Probe = Callable[[], bool]


@dataclass(frozen=True)
class Part:
    """One child process: how it is started, and how one asks whether it works.

    `death_signal` is what the kernel sends it when the supervisor dies: SIGKILL for a lone process, SIGTERM for one
    that has children of its own to take along. `ready` is asked from another thread and must not raise.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    ready: Probe
    death_signal: signal.Signals = signal.SIGKILL


@dataclass
class _State:
    """What the supervisor knows of one part at this moment."""

    part: Part
    process: subprocess.Popen[bytes] | None = None
    pending: bytes = b""
    started: float = 0.0
    delay: float = field(default_factory=lambda: FIRST_DELAY)
    restart_at: float | None = None
    deaths: int = 0
    ready: bool = False
    output: IO[bytes] | None = field(default=None, repr=False)


class Supervisor:
    """Runs parts until it is told to stop.

    `say` prints one line of the supervisor's own; `when_ready` is called once, when every part has answered.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        write: Callable[[str], None],
        when_ready: Callable[[], None],
        prefix: bool = True,
    ) -> None:
        self._states = [_State(part) for part in parts]
        self._write = write
        self._when_ready = when_ready
        self._prefix = prefix
        self._width = max([len(part.name) for part in parts] + [len("keystead")])
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = threading.Event()
        self._interrupts = 0
        self._announced = False
        self._exit_code = 0
        self._ready_lock = threading.Lock()

    def say(self, text: str) -> None:
        """Print a line of the supervisor's own."""
        self._write(f"{'keystead'.ljust(self._width)} | {text}" if self._prefix else text)

    def run(self) -> int:
        """Start the parts, look after them until a signal to stop, and return the exit status.

        Must be called from the main thread: the kernel ties the death signal to the thread that starts a child.
        """
        previous = {
            number: signal.signal(number, self._on_stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        old_wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        prober = threading.Thread(target=self._probe, name="probe", daemon=True)
        began = time.monotonic()
        try:
            for state in self._states:
                self._start(state)
            prober.start()
            while not self._stopping.is_set():
                self._pump(self._next_wait())
                self._reap()
                self._restart_due()
                self._announce(began)
        finally:
            self._stopping.set()
            self._stop_all()
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in previous.items():
                signal.signal(number, handler)
            prober.join(timeout=2)
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
        return self._exit_code

    # --- signals and waiting ---

    def _on_stop(self, number: int, frame: object) -> None:
        self._interrupts += 1
        self._stopping.set()

    def _next_wait(self) -> float:
        due = [state.restart_at for state in self._states if state.restart_at is not None]
        # Without anything due, a second: signals, output and readiness wake the selector by themselves.
        return max(0.0, min([1.0, *[at - time.monotonic() for at in due]]))

    def _pump(self, wait: float) -> None:
        """Wait for output or signals, and pass output on, line by line."""
        for key, _ in self._selector.select(wait):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                continue
            self._read(key.data)

    def _read(self, state: _State) -> bool:
        """Pass on what a part has written; False when there is nothing more for now."""
        if state.output is None:
            return False
        try:
            chunk = os.read(state.output.fileno(), 65536)
        except BlockingIOError:
            return False
        if not chunk:
            self._close_output(state)
            return False
        lines = (state.pending + chunk).split(b"\n")
        state.pending = lines.pop()
        if len(state.pending) > MAX_LINE:
            lines.append(state.pending)
            state.pending = b""
        for line in lines:
            self._pass_on(state, line)
        return True

    def _drain(self, state: _State) -> None:
        """Pass on all that a part wrote before it ended."""
        while self._read(state):
            pass
        self._close_output(state)

    def _pass_on(self, state: _State, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        self._write(f"{state.part.name.ljust(self._width)} | {text}" if self._prefix else text)

    def _close_output(self, state: _State) -> None:
        if state.output is not None:
            self._selector.unregister(state.output)
            state.output.close()
            state.output = None
        if state.pending:
            self._pass_on(state, state.pending)
            state.pending = b""

    # --- life and death of a part ---

    def _start(self, state: _State) -> None:
        part = state.part
        guard = [sys.executable, "-I", "-S", str(CHILD), str(int(part.death_signal)), str(os.getpid())]
        state.restart_at = None
        state.started = time.monotonic()
        try:
            state.process = subprocess.Popen(
                [*guard, *part.command],
                env=dict(part.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which then stops in order.
                process_group=0,
            )
        except OSError as error:
            self._schedule_restart(state, f"cannot be started ({error.strerror})")
            return
        state.output = state.process.stdout
        if state.output is not None:
            os.set_blocking(state.output.fileno(), False)
            self._selector.register(state.output, selectors.EVENT_READ, state)

    def _reap(self) -> None:
        for state in self._states:
            if state.process is None or state.process.poll() is None:
                continue
            self._drain(state)
            self._kill_group(state, signal.SIGKILL)  # what the dead part left behind
            code = state.process.returncode
            state.process = None
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            self._schedule_restart(state, how)

    def _schedule_restart(self, state: _State, how: str) -> None:
        with self._ready_lock:
            state.ready = False
        now = time.monotonic()
        if now - state.started > STEADY_SECONDS:
            state.delay = FIRST_DELAY
        state.deaths += 1
        if not self._announced and state.deaths >= GIVE_UP_AFTER:
            self.say(
                f"{state.part.name} {how}, {state.deaths} times in a row. Its lines above say why; stopping."
            )
            self._exit_code = 1
            self._stopping.set()
            return
        state.restart_at = now + state.delay
        self.say(f"{state.part.name} {how}; it is started again in {state.delay:g} s.")
        state.delay = min(state.delay * 2, LAST_DELAY)

    def _restart_due(self) -> None:
        now = time.monotonic()
        for state in self._states:
            if state.restart_at is not None and state.restart_at <= now and not self._stopping.is_set():
                self._start(state)

    # --- readiness ---

    def _probe(self) -> None:
        """Ask, in a thread of its own, every part that is not known to be ready."""
        while not self._stopping.is_set():
            for state in self._states:
                process = state.process
                if state.ready or process is None:
                    continue
                answered = state.part.ready()
                with self._ready_lock:
                    # Not when it died meanwhile: then somebody else answered, or the answer is old.
                    if answered and state.process is process:
                        state.ready = True
            with contextlib.suppress(OSError):
                os.write(self._wake_write, b"\0")
            self._stopping.wait(0.1)

    def _announce(self, began: float) -> None:
        if self._announced:
            return
        waiting = [state.part.name for state in self._states if not state.ready]
        if not waiting:
            self._announced = True
            for state in self._states:
                state.deaths = 0
            self._when_ready()
        elif time.monotonic() - began > READY_SECONDS:
            self.say(
                f"{', '.join(waiting)} not ready after {READY_SECONDS:g} s. The lines above say why; stopping."
            )
            self._exit_code = 1
            self._stopping.set()

    # --- the end ---

    def _kill_group(self, state: _State, number: signal.Signals) -> None:
        if state.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(state.process.pid, number)

    def _stop_all(self) -> None:
        running = [state for state in self._states if state.process is not None]
        for state in running:
            self._kill_group(state, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        interrupts = self._interrupts
        while True:
            alive = [state for state in running if state.process is not None and state.process.poll() is None]
            left = deadline - time.monotonic()
            # A second Ctrl-C means: now.
            if not alive or left <= 0 or self._interrupts > interrupts:
                break
            self._pump(min(left, 0.2))
        for state in running:
            # Also where the part itself has ended: its own children may not have.
            self._kill_group(state, signal.SIGKILL)
        for state in alive:
            self.say(f"{state.part.name} did not stop in {STOP_SECONDS:g} s and was killed.")
        for state in running:
            if state.process is not None:
                state.process.wait()
            self._drain(state)
