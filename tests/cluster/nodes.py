"""Keystead's own processes, as docker-compose.yml starts them, one group for each machine that is imagined."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.vault.serving import ROOT, descendants, wait_for

START_SECONDS = 60.0
STARTING, ELSEWHERE, SERVING, OUTSIDE = 6, 6, 0, -10
"""How eagerly (nice) processes run: those that start, control-plane machines, data-plane nodes, client and balancer.

All imagined machines share the processors of one. What starts (seconds of imports) or makes keys would take from the
nodes what on machines of their own it could not, and a client that is starved measures itself.
"""


class Program:
    """One process with all that it starts, writing to a log of its own."""

    def __init__(self, name: str, words: list[str], environ: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.words = words
        self.environ = dict(environ)
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; whether it is ready is for others to ask."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *self.words],
                env=self.environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        yield_to(self.process.pid, STARTING)

    def pids(self) -> list[int]:
        """Return the process and everything below it."""
        if self.process is None or self.process.poll() is not None:
            return []
        return [self.process.pid, *sorted(descendants(self.process.pid))]

    def settle(self, nice: int = SERVING) -> None:
        """Have it run as eagerly as others of its kind: it has started."""
        for pid in self.pids():
            yield_to(pid, nice)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of it at once."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)

    def stop(self, seconds: float = 15.0) -> None:
        """Ask it to end, and insist after `seconds`."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()


class Group:
    """Processes that share a machine: they fall and rise together."""

    def __init__(self, name: str, programs: list[Program]) -> None:
        self.name = name
        self.programs = programs

    def start(self) -> None:
        """Start each in order."""
        for program in self.programs:
            program.start()

    def settle(self, nice: int = SERVING) -> None:
        """Have it run as eagerly as others of its kind: it has started."""
        for program in self.programs:
            program.settle(nice)

    def kill(self) -> None:
        """End all at once, as a power cut would."""
        for program in self.programs:
            program.signal(signal.SIGKILL)
        for program in self.programs:
            program.kill()

    def stop(self) -> None:
        """Stop all in good order, the last one started first."""
        for program in reversed(self.programs):
            program.stop()

    def freeze(self) -> None:
        """Stop every process where it stands (SIGSTOP)."""
        for program in self.programs:
            program.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on (SIGCONT)."""
        for program in self.programs:
            program.signal(signal.SIGCONT)


class XksNode(Group):
    """One data-plane node: an agent and two workers."""

    def __init__(self, name: str, folder: Path, port: int, settings: Mapping[str, str]) -> None:
        self.folder = folder / name
        self.data = self.folder / "data"
        self.port = port
        self.data.mkdir(parents=True, mode=0o700)
        environ = {
            **settings,
            "KEYSTEAD_DATA_DIR": str(self.data),
            "KEYSTEAD_NODE_NAME": name,
            "KEYSTEAD_XKS_PORT": str(port),
            "KEYSTEAD_XKS_WORKERS": "2",
        }
        # As in production, the process that AWS reaches has neither the database's address nor the root key.
        secret = (
            "KEYSTEAD_DATABASE_URL",
            "KEYSTEAD_REDIS_URL",
            "KEYSTEAD_ROOT_KEY_FILE",
            "KEYSTEAD_SECRET_KEY",
        )
        bare = {name: value for name, value in environ.items() if name not in secret}
        agent = Program("agent", ["-m", "vault.cli", "xks", "agent"], environ, self.folder)
        # The server itself, with a gate in front of the journal's device that a file opens and closes.
        server = Program("xks", [str(ROOT / "tests/xks/stalling_server.py")], bare, self.folder)
        super().__init__(name, [agent, server])

    @property
    def server(self) -> Program:
        """The process that AWS reaches."""
        return self.programs[1]

    @contextlib.contextmanager
    def stalled(self):
        """Hold up every write to the journal's device for as long as the body runs."""
        gate, sign = self.data / "gate", self.data / "stall"
        if not gate.exists():
            os.mkfifo(gate)
        sign.touch()
        try:
            yield
        finally:
            sign.unlink()
            # Both ends open: whoever waits goes on, however many they are.
            keeper = os.open(gate, os.O_RDWR)
            time.sleep(1.0)
            os.close(keeper)


class WebPair(Group):
    """One control-plane machine: web, worker and beat."""

    def __init__(self, name: str, folder: Path, port: int, settings: Mapping[str, str]) -> None:
        self.folder = folder / name
        self.port = port
        data = self.folder / "data"
        data.mkdir(parents=True, mode=0o700)
        environ = {**settings, "KEYSTEAD_DATA_DIR": str(data), "KEYSTEAD_WEB_PORT": str(port)}
        self.environ = environ
        parts = [
            Program(word, ["-m", "vault.cli", word], environ, self.folder)
            for word in ("web", "worker", "beat")
        ]
        super().__init__(name, parts)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a `keystead` command here to its end."""
        command = [sys.executable, "-P", "-m", "vault.cli", *words]
        return subprocess.run(command, env=self.environ, cwd=self.folder, capture_output=True, text=True)


def yield_to(pid: int, nice: int) -> None:
    """Set how eagerly every thread of a process is run, where this process may (root)."""
    if os.geteuid() == 0:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.setpriority(os.PRIO_PROCESS, int(thread), nice)


def wait_until(condition, what: str, seconds: float = START_SECONDS) -> float:
    """Return the seconds until `condition()` held. Raises AssertionError with `what` when it does not in time."""
    began = time.monotonic()
    if not wait_for(condition, seconds):
        raise AssertionError(f"not within {seconds:.0f} s: {what}")
    return time.monotonic() - began
