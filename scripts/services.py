"""A PostgreSQL and a Redis of one's own, on free loopback ports in a temporary folder, for as long as a command runs.

    services.py COMMAND...     (KEYSTEAD_DATABASE_URL and KEYSTEAD_REDIS_URL are set for it)

They are stopped whatever happens: also when this process is killed, because the kernel then ends its children.
PostgreSQL refuses to run as root, so root runs both as another user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHILD = ROOT / "vault" / "child.py"
START_SECONDS = 30.0


class ServiceFailed(Exception):
    """A server is missing or did not start. One line."""


def free_port() -> int:
    """Return a loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def other_user() -> str | None:
    """Return the user that servers run as when we are root, else None."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


def postgres_program(name: str) -> str:
    """Return the path of a PostgreSQL program, the newest version's. Raises ServiceFailed."""
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = sorted(versions, key=lambda path: float(path.parts[-3]) if path.parts[-3].isdigit() else 0)
    found = str(newest[-1]) if newest else shutil.which(name)
    if found is None:
        raise ServiceFailed(f"{name} is missing: install PostgreSQL (Debian: postgresql).")
    return found


def start(
    command: list[str], death_signal: signal.Signals, log: Path, stdin: bytes = b""
) -> subprocess.Popen[bytes]:
    """Start a server that dies with this process. Its output goes to `log`."""
    user = other_user()
    if user is None:
        guard = [sys.executable, "-I", "-S", str(CHILD), str(int(death_signal)), str(os.getpid())]
    else:
        # The other user may not be allowed to run our Python; setpriv (util-linux) becomes the server directly.
        guard = ["setpriv", "--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid), "--clear-groups"]
        guard += ["--pdeathsig", death_signal.name.removeprefix("SIG")]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            process_group=0,
        )
    if server.stdin is not None:
        server.stdin.write(stdin)
        server.stdin.close()
    return server


def wait_until(port: int, server: subprocess.Popen[bytes], log: Path, name: str) -> None:
    """Wait until the server accepts connections. Raises ServiceFailed with its last lines when it does not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    lines = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise ServiceFailed(f"{name} did not start: {' / '.join(lines)}")


def stop(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Stop a server, by force after five seconds."""
    if server.poll() is None:
        server.send_signal(number)
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL in `folder` and yield its URL. Raises ServiceFailed."""
    password = secrets.token_hex(16)
    port = free_port()
    data = folder / "postgres"
    password_file = folder / "postgres-password"
    password_file.write_text(password)
    user = other_user()
    if user is not None:
        shutil.chown(password_file, user)
    initdb = [
        postgres_program("initdb"),
        "--pgdata",
        str(data),
        "--username",
        "keystead",
        "--encoding",
        "UTF8",
    ]
    initdb += ["--locale", "C", "--auth", "scram-sha-256", "--pwfile", str(password_file), "--no-sync"]
    done = subprocess.run(
        initdb,
        capture_output=True,
        text=True,
        cwd=folder,
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
    )
    if done.returncode:
        raise ServiceFailed(f"initdb failed: {done.stderr.strip().splitlines()[-1:]}")
    command = [postgres_program("postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
    # The data is thrown away afterwards, so nothing need survive a power cut.
    for option in ("listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off", "max_connections=200"):
        command += ["-c", option]
    log = folder / "postgres.log"
    # SIGQUIT: postgres takes its own children along at once.
    server = start(command, signal.SIGQUIT, log)
    try:
        wait_until(port, server, log, "PostgreSQL")
        yield f"postgres://keystead:{password}@127.0.0.1:{port}/postgres"
    finally:
        stop(server, signal.SIGINT)


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """Run Redis in `folder` and yield its URL. Raises ServiceFailed."""
    program = shutil.which("redis-server")
    if program is None:
        raise ServiceFailed("redis-server is missing: install Redis (Debian: redis-server).")
    password = secrets.token_hex(16)
    port = free_port()
    log = folder / "redis.log"
    # By standard input, because a password among the arguments could be read by every user of the machine.
    settings = f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndir {folder}\n'
    server = start([program, "-"], signal.SIGKILL, log, settings.encode())
    try:
        wait_until(port, server, log, "Redis")
        yield f"redis://:{password}@127.0.0.1:{port}/0"
    finally:
        stop(server, signal.SIGTERM)


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """Run both and yield the environment that names them. Raises ServiceFailed."""
    folder = Path(tempfile.mkdtemp(prefix="keystead-services-"))
    try:
        user = other_user()
        if user is not None:
            shutil.chown(folder, user)
        with postgres(folder) as database_url, redis(folder) as redis_url:
            yield {"KEYSTEAD_DATABASE_URL": database_url, "KEYSTEAD_REDIS_URL": redis_url}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main(command: list[str]) -> int:
    """Run `command` beside the services and return its exit status."""
    signal.signal(signal.SIGTERM, _end)
    with running() as environ:
        return subprocess.run(command, env={**os.environ, **environ}).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ServiceFailed as error:
        sys.exit(f"services: {error}")
