"""What a keeper of HSMs does where the database takes nothing now: SQLite has one writer, and another may be at work for long."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import structlog
from django.db import DatabaseError, connection

log = structlog.get_logger("keystead.hsm")

LOCK_WAIT_S: Final = 2.0
"""A member's thread waits so long for somebody else's transaction to end, not the usual 20 s: its helper may be down."""


def wait_briefly() -> None:
    """Let the calling thread's own connection give up soon where another process holds SQLite's write lock."""
    if connection.vendor == "sqlite":
        settings = connection.settings_dict
        connection.settings_dict = {**settings, "OPTIONS": {**settings["OPTIONS"], "timeout": LOCK_WAIT_S}}
        connection.close()


@contextlib.contextmanager
def unwritten(what: str) -> Iterator[None]:
    """Go on where the database does not take this now; the helper matters more."""
    try:
        yield
    except DatabaseError as error:
        log.warning("hsm: the database takes nothing now; not written: %s", what, error=first_line(error))


def first_line(error: Exception) -> str:
    """Return what a database said, for the log."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
