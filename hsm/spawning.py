"""Starts helper processes (``hsm.helper``), tells them their configuration, and waits until they are ready."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from hsm import wire
from hsm.base import HsmError, HsmUnavailable

_PASSED_ON: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)
"""What a helper gets of our environment; the rest (database password, secret key) is none of its business."""


class Running:
    """A helper process that was started. ``wait_ready`` first; ``stop`` or ``kill`` at the end, or it ends with us."""

    def __init__(self, process: subprocess.Popen[bytes], config: wire.HelperConfig) -> None:
        """See :func:`spawn`."""
        self._process = process
        self.socket = config.socket
        self._buffer = b""
        self.ready: dict[str, Any] | None = None
        """What the helper told of itself when it was ready: identity, profile, pid (as wire.Status answers)."""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; else its exit code (hsm.helper.EXIT_*), or minus the signal that ended it."""
        return self._process.poll()

    def fileno(self) -> int:
        """Its standard output, to be selected on: readable when ``poll_ready`` has something to say."""
        assert self._process.stdout is not None  # noqa: S101 - spawn() made the pipe
        return self._process.stdout.fileno()

    def poll_ready(self) -> dict[str, Any] | None:
        """Return what the helper told when it got ready, or None if it has not yet. Does not wait.

        Raises the HsmError that the helper was refused with, HsmUnavailable if it ended without a word.
        """
        if self.ready is not None:
            return self.ready
        while self._readable(0):
            more = os.read(self.fileno(), 65536)
            self._buffer += more
            if b"\n" in self._buffer:
                return self._read_line()
            if not more:
                code = self._process.wait()
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                raise HsmUnavailable(f"the HSM's helper ended before it was ready ({how}): see its log")
        return None

    def _read_line(self) -> dict[str, Any]:
        try:
            said = json.loads(self._buffer.split(b"\n", 1)[0])
        except ValueError:
            raise HsmUnavailable(
                "the PKCS#11 module writes to standard output before the helper is ready"
            ) from None
        if "refused" in said:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
            refused = said["refused"]
            raise wire.error_of(wire.Failed(0, refused["error"], refused["message"], refused["code"]))
        self.ready = said["ready"]
        return self.ready

    def wait_ready(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait for ``poll_ready``. Raises as it does; HsmUnavailable, and the helper is killed, when time is over."""
        ends = time.monotonic() + timeout_s
        while True:
            ready = self.poll_ready()
            if ready is not None:
                return ready
            left = ends - time.monotonic()
            if left <= 0:
                self.kill()
                raise HsmUnavailable(f"the HSM's helper was not ready within {timeout_s:.0f} s and was ended")
            self._readable(left)

    def _readable(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def stop(self, timeout_s: float = 5.0) -> int:
        """Close its standard input, so that it ends; kill it when it does not. Returns the exit code."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close()
        return self._process.returncode

    def kill(self) -> None:
        """End it at once (SIGKILL), as is right for one that hangs."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for each in (self._process.stdin, self._process.stdout):
            if each is not None:
                with contextlib.suppress(OSError):
                    each.close()


def spawn(
    config: wire.HelperConfig,
    *,
    environment: Mapping[str, str] | None = None,
    stderr: IO[bytes] | int | None = None,
) -> Running:
    """Start a helper; ``environment``: the vendor's variables, of which the caller has checked the names.

    The configuration goes through standard input, so that no PIN stands in a process list or environment. The folder of
    the socket must exist (0700). ``stderr``: where its log goes; None: where ours goes.

    Raises HsmUnavailable where the process cannot be started.
    """
    if len(config.socket.encode()) > 100:
        raise HsmError(f"the path of a helper's socket is too long for the system: {config.socket}")
    inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    here = str(Path(__file__).resolve().parents[1])
    inherited["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [inherited.get("PYTHONPATH")])])
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "hsm.helper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=inherited | dict(environment or {}),
            bufsize=0,
            # Ctrl-C in a terminal is for whoever holds our standard input.
            start_new_session=True,
        )
    except OSError as error:
        raise HsmUnavailable(f"the HSM's helper cannot be started: {error}") from None
    running = Running(process, config)
    assert process.stdin is not None  # noqa: S101 - asked for above
    with contextlib.suppress(BrokenPipeError):  # it has ended already; wait_ready says why
        process.stdin.write(wire.config_frame(config))
    return running
