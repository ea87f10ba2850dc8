"""The agent's part in counting how often keys in HSMs encrypt: it reserves blocks of invocations for workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from uuid import UUID

import psycopg
import structlog
from django.db import Error

from cloudkeys.services.invocations import reserve_invocations
from xks.agent_database import close_own_connection, use_own_connection
from xks.agent_registry import ProcessName
from xks.resident import INVOCATION_BLOCK

log = structlog.get_logger("keystead.agent")

REPEAT_S = 60.0
"""A database that does not answer is reported this often."""

Wanted = tuple[ProcessName, str, int]
Give = Callable[[ProcessName, str, int, int], None]


class Reservations(threading.Thread):
    """Reserves what workers ask for; ``wanted`` and ``stop`` may be called from any thread.

    A request that the database does not take is forgotten: the worker asks again.
    """

    def __init__(self, *, give: Give, failed: Callable[[BaseException], None]) -> None:
        """``give`` hands a worker what was reserved: process, key id, version number and count."""
        super().__init__(name="reservations", daemon=True)
        self._give = give
        self._failed = failed
        self._news = threading.Condition()
        self._wanted: dict[Wanted, None] = {}
        self._stopping = False
        self._told_at: float | None = None

    def wanted(self, process: ProcessName, key_id: str, number: int) -> None:
        """A worker asks for invocations of a version."""
        with self._news:
            self._wanted[process, key_id, number] = None
            self._news.notify()

    def stop(self) -> None:
        """End soon."""
        with self._news:
            self._stopping = True
            self._news.notify()

    def run(self) -> None:
        """See Thread."""
        try:
            use_own_connection(snapshots=False)
            while (asked := self._next()) is not None:
                self._reserve(*asked)
        except BaseException as error:
            self._failed(error)
        finally:
            close_own_connection()

    def _next(self) -> Wanted | None:
        with self._news:
            while not self._wanted and not self._stopping:
                self._news.wait()
            if self._stopping:
                return None
            asked = next(iter(self._wanted))
            del self._wanted[asked]
            return asked

    def _reserve(self, process: ProcessName, key_id: str, number: int) -> None:
        try:
            count = reserve_invocations(UUID(key_id), number, INVOCATION_BLOCK)
        except ValueError:
            log.error("a worker asks for invocations of what is no key", pid=process.pid)
            return
        except (Error, psycopg.Error) as error:
            close_own_connection()
            now = time.monotonic()
            if self._told_at is None or now - self._told_at >= REPEAT_S:
                self._told_at = now
                cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
                log.error("the database does not reserve invocations of HSM keys", cause=cause)
            return
        self._told_at = None
        if not count:
            log.critical(
                "a key in an HSM has encrypted as often as it may; it waits for its rotation",
                alarm=True,
                key_id=key_id,
                version=number,
            )
        self._give(process, key_id, number, count)
