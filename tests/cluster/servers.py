"""What Keystead stands on: PostgreSQL, Redis and HAProxy, which can be stopped and started again in place."""

from __future__ import annotations

import http.client
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import psycopg

from tests.cluster.nodes import OUTSIDE, yield_to
from tests.vault.serving import descendants, free_ports, wait_for

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import services  # noqa: E402


class Server:
    """A server of one's own on a fixed loopback port."""

    name: ClassVar[str]
    death: ClassVar[signal.Signals]
    """What ends it when this process ends."""
    gentle: ClassVar[signal.Signals]
    """What ends it in good order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return what runs it."""
        raise NotImplementedError

    def stdin(self) -> bytes:
        """Return what it reads from its standard input."""
        return b""

    def start(self) -> None:
        """Start it and wait until it accepts connections. Raises services.ServiceFailed."""
        log = self.folder / f"{self.name}.log"
        self.process = services.start(self.command(), self.death, log, self.stdin())
        services.wait_until(self.port, self.process, log, self.name)

    def stop(self) -> None:
        """Stop it in good order; by force after five seconds."""
        if self.process is not None:
            services.stop(self.process, self.gentle)


class Database(Server):
    """PostgreSQL that keeps what it was told across a restart."""

    name = "postgres"
    death = signal.SIGQUIT
    gentle = signal.SIGINT  # fast shutdown: open connections are cut

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        password = secrets.token_hex(16)
        file = folder / "postgres-password"
        file.write_text(password)
        user = services.other_user()
        if user is not None:
            shutil.chown(file, user)
        initdb = [services.postgres_program("initdb"), "--pgdata", str(folder / "postgres"), "--locale", "C"]
        initdb += ["--username", "keystead", "--encoding", "UTF8", "--auth", "scram-sha-256", "--no-sync"]
        subprocess.run(
            [*initdb, "--pwfile", str(file)],
            check=True,
            capture_output=True,
            cwd=folder,
            user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=[] if user else None,
        )
        self.url = f"postgres://keystead:{password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it answers: while it recovers it accepts connections only to refuse them."""
        super().start()
        refusal: list[psycopg.OperationalError] = []

        def answers() -> bool:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError as error:
                refusal[:] = [error]
                return False
            return True

        if not wait_for(answers, services.START_SECONDS):
            raise services.ServiceFailed(f"postgres did not become ready: {refusal[0]}")

    def command(self) -> list[str]:
        """See Server. Durability is on: what is measured is what people run."""
        made = [services.postgres_program("postgres"), "-D", str(self.folder / "postgres")]
        return [*made, "-p", str(self.port), "-k", str(self.folder), "-c", "listen_addresses=127.0.0.1"]


class Broker(Server):
    """Redis, which forgets everything when it stops, as the production shape's does."""

    name = "redis"
    death = signal.SIGKILL
    gentle = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.password = secrets.token_hex(16)
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """See Server."""
        return [shutil.which("redis-server") or "/usr/bin/redis-server", "-"]

    def stdin(self) -> bytes:
        """See Server: by standard input, because arguments can be read by every user of the machine."""
        lines = f'bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\nsave ""\nappendonly no\n'
        return f"{lines}dir {self.folder}\n".encode()


class Balancer:
    """HAProxy with a configuration of ours, and its admin socket."""

    def __init__(self, folder: Path, configuration: str, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ
        self.file = folder / "haproxy.cfg"
        self.file.write_text(configuration)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, port: int) -> None:
        """Start it and wait until something listens on `port`."""
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        with (self.folder / "haproxy.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, "-W", "-db", "-f", str(self.file)],
                env=self.environ,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        yield_to(self.process.pid, OUTSIDE)
        if not wait_for(lambda: _listens(port), 15):
            raise AssertionError(f"HAProxy did not start: {(self.folder / 'haproxy.log').read_text()[-800:]}")

    def tell(self, command: str) -> None:
        """Send a command to the admin socket, as an operator does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(f"{self.environ['KEYSTEAD_FRONT_RUN']}/admin.sock")
            connection.sendall(command.encode() + b"\n")
            said = connection.recv(4096).decode().strip()
        if said:
            raise AssertionError(f"HAProxy: {said}")

    def stop(self) -> None:
        """End it, without waiting for connections."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                for pid in (*descendants(self.process.pid), self.process.pid):
                    os.kill(pid, signal.SIGKILL)
                self.process.wait()


def _listens(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.connect()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def mount_small_disk(folder: Path, megabytes: int) -> bool:
    """Put a small file system of its own at `folder`; False where this process may not (no root, no mounts)."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return False
    options = f"size={megabytes}m,mode=0700"
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]).returncode == 0


def unmount(folder: Path) -> None:
    """Take it away again."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
