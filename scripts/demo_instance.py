"""A whole Keystead of its own for the demo: temporary folder, free ports, started and stopped as `keystead serve`."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START_S = 120.0  # a laptop in use may be slow
STOP_S = 10.0
ADMIN_EMAIL = "admin@keystead.test"


class StartFailed(Exception):
    """Keystead did not become ready; the message ends with the last lines of its log."""


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 on which nothing listens now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@dataclass
class Instance:
    """One running Keystead."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="keystead-demo-")))
    admin_password: str = field(default_factory=lambda: secrets.token_urlsafe(15), repr=False)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.web_port, self.xks_port, self.simulator_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.web_port}"
        self.log = self.folder / "serve.log"
        # What the caller has set for a Keystead or an AWS account of their own must not reach this one.
        others = ("KEYSTEAD_", "AWS_", "DJANGO_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        self.environ = {
            **kept,
            "KEYSTEAD_DATA_DIR": str(self.folder / "data"),
            "KEYSTEAD_WEB_PORT": str(self.web_port),
            "KEYSTEAD_XKS_PORT": str(self.xks_port),
            "KEYSTEAD_XKS_WORKERS": "2",
            "KEYSTEAD_SIMULATOR_PORT": str(self.simulator_port),
            "KEYSTEAD_METRICS_PORT": "0",
            "KEYSTEAD_ADMIN_EMAIL": ADMIN_EMAIL,
            "KEYSTEAD_ADMIN_PASSWORD": self.admin_password,
            "PYTHONPATH": str(ROOT),
        }

    @property
    def command(self) -> list[str]:
        """How this instance's `keystead` is run."""
        return [sys.executable, "-P", "-m", "vault.cli"]

    def start(self) -> float:
        """Start everything and wait until it is ready; return the seconds it took. Raises StartFailed."""
        began = time.monotonic()
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C in this terminal must not stop an instance that is to be kept.
            self.process = subprocess.Popen(
                [*self.command, "serve"],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while "Keystead is ready" not in self.log.read_text("utf-8", "replace"):
            if self.process.poll() is not None or time.monotonic() - began > START_S:
                raise StartFailed(f"Keystead did not become ready. The end of its log:\n{self.log_end()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self) -> float:
        """Stop everything as Ctrl-C does; return the seconds it took."""
        began = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return time.monotonic() - began

    def remove(self) -> None:
        """Remove the temporary folder with all that is in it, keys included."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_end(self, lines: int = 40) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def simulator_credentials(self) -> dict[str, str]:
        """Return endpoint, region, account and an administrator's access key of the AWS simulator."""
        done = subprocess.run(
            [*self.command, "simulator", "credentials", "--json"],
            cwd=self.folder,
            env=self.environ,
            check=True,
            capture_output=True,
        )
        found: dict[str, str] = json.loads(done.stdout)
        return found
