"""What every process looks at before it starts, and `keystead serve` before it starts the others.

Each refusal is one clear line: what is wrong, and what to do.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterable
from typing import IO

from django.core import checks
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DatabaseError, connection

from vault import env, health, keys

log = logging.getLogger(__name__)


class StartRefused(CommandError):
    """The process cannot start. Each of `lines` is one cause with its cure."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def run_checks() -> list[str]:
    """Run the system checks; return the warnings, one line each. Raises StartRefused when there is an error."""
    # Django runs the checks in no order of its own.
    messages = sorted(checks.run_checks(), key=lambda message: (message.id or "", str(message.msg)))
    serious = [message for message in messages if message.is_serious()]
    if serious:
        raise StartRefused(*[check_line(message) for message in serious])
    return [check_line(message) for message in messages if message.level >= checks.WARNING]


def check_line(message: checks.CheckMessage) -> str:
    """Return a check's message as one line: id, cause, cure."""
    text = f"{message.id}: {message.msg}"
    return " ".join(f"{text} {message.hint}".split()) if message.hint else " ".join(text.split())


def check_database(*, may_migrate: bool) -> None:
    """Bring the schema up to date when `may_migrate`, else insist that it is.

    Raises StartRefused when the database does not answer, belongs to a newer Keystead, or lacks migrations.
    """
    try:
        problem = health.schema_problem()
        if problem == health.SCHEMA_OLD and may_migrate:
            call_command("migrate", interactive=False, verbosity=0, skip_checks=True)
            problem = health.schema_problem()
    except DatabaseError as error:
        raise StartRefused(database_line(error)) from error
    if problem == health.SCHEMA_NEW:
        raise StartRefused(
            "The database belongs to a newer Keystead than this one. "
            "Run the newer version, or restore a backup made by this one."
        )
    if problem is not None:
        raise StartRefused("The database's schema is not up to date. Run: keystead migrate")


def database_line(error: DatabaseError) -> str:
    """Return one line about a database that does not answer; drivers' messages hold no password."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    where = (
        "Check the data folder and its disk."
        if env.is_embedded()
        else "Check KEYSTEAD_DATABASE_URL and the server."
    )
    return f"The database cannot be used: {reason}. {where}"


def check_root_key() -> None:
    """Make sure that the root key is there and is this database's; made only when embedded and empty.

    A root key in an HSM that does not answer ends no start: the process works degraded, says why, and recovers by itself.
    Raises vault.keys.RootKeyError, whose text is one line, and StartRefused when the database does not answer.
    """
    try:
        keys.ensure_root_key(create_allowed=env.is_embedded())
    except keys.RootKeyAway as error:
        log.warning("degraded: %s", error)
    except DatabaseError as error:
        raise StartRefused(database_line(error)) from error
    finally:
        connection.close()


def check_ports(ports: Iterable[tuple[str, str, int]]) -> None:
    """Raise StartRefused naming every (setting, address, port) on which something listens already."""
    lines = []
    for name, address, port in ports:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Without SO_REUSEPORT, which granian sets: two servers would share the port and nobody would notice.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen(1)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    cause = f"Port {port} of {address} is in use."
                    lines.append(f"{cause} Stop what listens there, or give another with {name}.")
                elif error.errno == errno.EACCES:
                    lines.append(f"This user may not listen on port {port}. Give one above 1023 with {name}.")
                else:
                    lines.append(
                        f"Cannot listen on port {port} of {address}: {error.strerror}. Check {name}, KEYSTEAD_BIND."
                    )
    if lines:
        raise StartRefused(*lines)


def lock_data_dir() -> IO[str]:
    """Lock the data folder for one `keystead serve`; the lock lasts while the returned file is open.

    Raises StartRefused when another one holds it.
    """
    path = env.data_dir() / "run" / "serve.lock"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartRefused(f"{path} cannot be made ({error.strerror}). Check the data folder.") from error
    file = os.fdopen(handle, "r+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = file.read(16).strip() or "unknown"
        file.close()
        raise StartRefused(
            f"Another keystead serve (process {holder}) uses the data folder {env.data_dir()}. "
            "Stop it, or give another folder with KEYSTEAD_DATA_DIR."
        ) from None
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def make_folders() -> None:
    """Make the folders that the parts expect inside the data folder. Raises StartRefused."""
    folders = ["run", "log"]
    if not env.is_set("KEYSTEAD_REDIS_URL"):
        folders += ["broker", "broker/queue", "broker/control"]
    try:
        for name in folders:
            (env.data_dir() / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartRefused(
            f"The data folder cannot be written ({error.strerror}): {error.filename}"
        ) from error


def prepare_process() -> None:
    """What web, worker and beat do before they start by themselves, beside the system checks.

    Raises StartRefused or vault.keys.RootKeyError.
    """
    make_folders()
    check_database(may_migrate=False)
    check_root_key()
