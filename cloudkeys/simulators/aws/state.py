"""The simulator's durable state: one SQLite file that survives restarts and kill -9.

Every service keeps its tables here; each module names its own in a ``SCHEMA`` string (``CREATE TABLE IF NOT
EXISTS``) that ``open_simulator`` hands over. One connection, one lock: transactions are short and
nobody calls the network while holding one. Another process (the credentials command) may open the same file.
"""

from __future__ import annotations

import base64
import os
import secrets
import sqlite3
import string
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cloudkeys.simulators.aws.context import Administrator

FILE_NAME = "state.sqlite3"
SCHEMA = """
CREATE TABLE IF NOT EXISTS simulator_values (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS administrators (
    account_id TEXT PRIMARY KEY,
    user_name TEXT NOT NULL,
    user_id TEXT NOT NULL,
    access_key_id TEXT NOT NULL UNIQUE,
    secret_access_key TEXT NOT NULL
) STRICT;
"""
ID_ALPHABET = string.ascii_uppercase + "234567"


def new_id(prefix: str, length: int = 20) -> str:
    """A random AWS-like unique id (``AKIA...``, ``AIDA...``) of ``length`` characters, prefix included."""
    return prefix + "".join(secrets.choice(ID_ALPHABET) for _ in range(length - len(prefix)))


def new_secret_access_key() -> str:
    """A random secret access key of 40 characters, as IAM gives them."""
    return base64.b64encode(secrets.token_bytes(30)).decode()


class State:
    """The SQLite file in ``directory``, made with mode 0600 in a folder of mode 0700."""

    def __init__(self, directory: Path, schemas: Sequence[str] = ()) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / FILE_NAME
        # SQLite gives its -wal and -shm files the mode of the database, so the mode is set before it is opened.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        self._lock = threading.RLock()
        self._depth = 0
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        # A commit must outlive kill -9, not a power cut: NORMAL is enough for that in WAL mode.
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA foreign_keys=ON")
        for schema in (SCHEMA, *schemas):
            self._db.executescript(schema)
        self._clock_offset = float(self.get_value("clock_offset_s") or 0.0)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction, or a part of the one this thread is in. Rows are ``sqlite3.Row``.

        Commits at the end of the outermost block, rolls back when an exception leaves it.
        """
        with self._lock:
            if self._depth:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            else:
                self._db.execute("COMMIT")
            finally:
                self._depth = 0

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """All rows of one query."""
        with self._lock:
            return self._db.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Row | None:
        """The first row of one query, None when there is none."""
        with self._lock:
            row: sqlite3.Row | None = self._db.execute(sql, parameters).fetchone()
            return row

    def get_value(self, name: str) -> str | None:
        """A named single value, None when it was never set."""
        row = self.row("SELECT value FROM simulator_values WHERE name = ?", (name,))
        return None if row is None else str(row["value"])

    def set_value(self, name: str, value: str) -> None:
        """Set a named single value."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO simulator_values VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, value),
            )

    def clock_offset_s(self) -> float:
        """By how many seconds the simulator's clock is ahead of the real one."""
        return self._clock_offset

    def advance_clock(self, seconds: float) -> float:
        """Put the simulator's clock forward by ``seconds`` (> 0), for good; returns the whole offset."""
        if not seconds > 0:
            raise ValueError("the simulator's clock only goes forward")
        with self.transaction():
            self._clock_offset += seconds
            self.set_value("clock_offset_s", repr(self._clock_offset))
        return self._clock_offset

    def ensure_administrators(self, account_ids: Sequence[str]) -> list[Administrator]:
        """The administrator of each account, made (with a random access key) where there was none."""
        with self.transaction() as db:
            for account_id in account_ids:
                db.execute(
                    "INSERT OR IGNORE INTO administrators VALUES (?, 'Administrator', ?, ?, ?)",
                    (account_id, new_id("AIDA", 21), new_id("AKIA"), new_secret_access_key()),
                )
            rows = db.execute("SELECT * FROM administrators").fetchall()
        by_account = {row["account_id"]: Administrator(**dict(row)) for row in rows}
        return [by_account[account_id] for account_id in account_ids]
