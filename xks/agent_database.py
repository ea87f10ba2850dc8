"""The agent's connections: made for snapshots, given up soon when the server is gone; and waiting for news.

Django's own connections are made for a web request: on SQLite their transactions take the write lock
at once, on PostgreSQL each statement sees another moment.
"""

from __future__ import annotations

import os
import selectors
import threading
from contextlib import suppress
from typing import Any, Protocol, cast

import psycopg
from django.db import Error, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

from vault.generations import CHANNEL

SQLITE_LOOK_S = 0.025
"""How often SQLite is asked whether somebody committed: one PRAGMA that reads no table."""

# A server that vanished without a word (power, network) is given up after about 10 s, not after the
# two hours of the system's default.  libpq, "Database Connection Control Functions".
_GIVE_UP_SOON = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def use_own_connection(*, snapshots: bool) -> None:
    """Give the calling thread a connection of its own as Django's default one.

    With ``snapshots`` every transaction sees one moment and, on SQLite, never takes the write lock;
    such a connection is for reading.
    """
    connections["default"] = new_connection(snapshots=snapshots)


def new_connection(*, snapshots: bool) -> BaseDatabaseWrapper:
    """Return a connection (not yet open) with the settings of the default one, made for an agent."""
    settings: dict[str, Any] = dict(connections.settings["default"])
    options: dict[str, Any] = dict(settings["OPTIONS"])
    backend = load_backend(settings["ENGINE"])
    if settings["ENGINE"].endswith("postgresql"):
        options = {**_GIVE_UP_SOON, **options}
        options.pop("pool", None)
        if snapshots:
            options["isolation_level"] = psycopg.IsolationLevel.REPEATABLE_READ
    elif snapshots:
        options["transaction_mode"] = "DEFERRED"
    settings.update(OPTIONS=options, CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=False)
    return cast("BaseDatabaseWrapper", backend.DatabaseWrapper(settings, "default"))


def close_own_connection() -> None:
    """Close the calling thread's connection; it opens again when used."""
    # A connection that broke may refuse even to be closed; the next use makes another.
    with suppress(Error):
        connection.close()


class Watch(Protocol):
    """Waits for word that somebody committed. Used by one thread; only ``wake`` may come from others."""

    def wait(self, seconds: float) -> None:
        """Return at once when there may be news (or ``wake`` was called), else after ``seconds``.

        A notification that is lost costs the rest of ``seconds``, nothing else.  Raises
        django.db.Error or psycopg.Error when the database has gone.
        """
        ...

    def wake(self) -> None:
        """End a wait, from any thread."""
        ...

    def reset(self) -> None:
        """Forget the connection, because it broke; the next wait makes another and returns at once."""
        ...

    def close(self) -> None:
        """Let go of everything; no wait may follow."""
        ...


class SqliteWatch:
    """Looks at PRAGMA data_version, which changes when another connection commits.

    It is asked on the calling thread's own connection, so that an agent's reads cause no news.
    """

    def __init__(self) -> None:
        self._woken = threading.Event()
        self._seen: int | None = None

    def wait(self, seconds: float) -> None:
        """See Watch."""
        rest = seconds
        while not self._woken.is_set():
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA data_version")
                version = int(cursor.fetchone()[0])
            if self._seen != version:
                self._seen = version
                return
            if rest <= 0:
                return
            self._woken.wait(min(SQLITE_LOOK_S, rest))
            rest -= SQLITE_LOOK_S
        self._woken.clear()

    def wake(self) -> None:
        """See Watch."""
        self._woken.set()

    def reset(self) -> None:
        """See Watch."""
        self._seen = None

    def close(self) -> None:
        """See Watch."""
        self.reset()


class PostgresWatch:
    """LISTENs on a connection that does nothing else, so that no notification arrives unnoticed."""

    def __init__(self) -> None:
        self._wrapper: BaseDatabaseWrapper | None = None
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def wait(self, seconds: float) -> None:
        """See Watch."""
        if self._wrapper is None:
            self._wrapper = new_connection(snapshots=False)  # kept at once, so that reset closes it
            with self._wrapper.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
            return  # whatever came before there was an ear for it
        raw = self._wrapper.connection.pgconn
        with selectors.DefaultSelector() as selector:
            selector.register(raw.socket, selectors.EVENT_READ)
            selector.register(self._read_end, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(seconds)}
        if self._read_end in ready:
            os.read(self._read_end, 4096)
        if raw.socket in ready:
            raw.consume_input()  # raises psycopg.OperationalError when the server has gone
            while raw.notifies() is not None:
                pass  # many commits, one look

    def wake(self) -> None:
        """See Watch."""
        with suppress(BlockingIOError):
            os.write(self._write_end, b"!")

    def reset(self) -> None:
        """See Watch."""
        wrapper, self._wrapper = self._wrapper, None
        if wrapper is not None:
            with suppress(Error):  # as in close_own_connection
                wrapper.close()

    def close(self) -> None:
        """See Watch."""
        self.reset()
        os.close(self._read_end)
        os.close(self._write_end)


def new_watch() -> Watch:
    """Return the way to wait for news that the default database offers."""
    return PostgresWatch() if connection.vendor == "postgresql" else SqliteWatch()
