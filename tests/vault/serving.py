"""Keystead's real processes in a folder of their own, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 90.0  # generous, because the machine runs other tests beside


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nothing listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listens(port: int) -> bool:
    """Tell whether something listens on a loopback port."""
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1] == wanted and line.split()[3] == "0A" for line in lines)


def descendants(pid: int) -> set[int]:
    """Return the processes below `pid`, at any depth."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    layer = {pid}
    while layer:
        layer = {child for child, parent in parents.items() if parent in layer} - found
        found |= layer
    return found


PROBE_EVERY = 0.4
"""Seconds between probes: each is a Python of its own, and takes processor time from what it waits for."""


def wait_for(condition: Callable[[], bool], seconds: float = START_SECONDS, *, every: float = 0.05) -> bool:
    """Wait until `condition` holds, looking every so many seconds; False when it does not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        threading.Event().wait(every)
    return condition()


class Process:
    """One `keystead` process, whose output is gathered as it comes."""

    def __init__(self, words: list[str], environ: Mapping[str, str], folder: Path) -> None:
        self.lines: list[str] = []
        module = words if words[0] == "-m" else ["-m", "vault.cli", *words]
        self.popen = subprocess.Popen(
            [sys.executable, "-P", *module],
            env=dict(environ),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        """Everything that was printed."""
        return "\n".join(list(self.lines))

    def wait(self, seconds: float = START_SECONDS) -> int:
        """Wait for the end and return the exit status. Raises subprocess.TimeoutExpired."""
        code = self.popen.wait(timeout=seconds)
        self._reader.join(timeout=10)
        return code

    def end(self) -> None:
        """End it and everything below it, whatever state it is in."""
        pids = {self.popen.pid} | descendants(self.popen.pid)
        if self.popen.poll() is None:
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout=8)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()
        self._reader.join(timeout=10)
        if self.popen.stdout is not None:
            self.popen.stdout.close()


class Place:
    """A data folder, free ports, and the environment that names both."""

    def __init__(self, folder: Path, **settings: str) -> None:
        web, xks, simulator, metrics = free_ports(4)
        self.folder = folder
        self.data = folder / "var"
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "KEYSTEAD_DATA_DIR": str(self.data),
            "KEYSTEAD_WEB_PORT": str(web),
            "KEYSTEAD_XKS_PORT": str(xks),
            "KEYSTEAD_SIMULATOR_PORT": str(simulator),
            "KEYSTEAD_METRICS_PORT": str(metrics),
            **settings,
        }
        self._processes: list[Process] = []

    def start(self, *words: str, **settings: str) -> Process:
        """Start `keystead` with these words."""
        process = Process(list(words), {**self.environ, **settings}, self.folder)
        self._processes.append(process)
        return process

    def run(self, *words: str, **settings: str) -> tuple[int, str]:
        """Run `keystead` to its end; return status and output."""
        process = self.start(*words, **settings)
        return process.wait(), process.text

    def probe(self, name: str, **settings: str) -> bool:
        """Ask as a container's health check does."""
        command = [sys.executable, "-m", "vault.probe", name]
        return subprocess.run(command, env={**self.environ, **settings}, cwd=self.folder).returncode == 0

    def end(self) -> None:
        """End everything that was started here."""
        for process in reversed(self._processes):
            process.end()


@contextlib.contextmanager
def place(**settings: str) -> Iterator[Place]:
    """Yield a place whose processes are ended and whose folder is removed. Its path is short: a socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="ks") as name:
        made = Place(Path(name), **settings)
        try:
            yield made
        finally:
            made.end()
