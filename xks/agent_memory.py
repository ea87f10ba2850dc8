"""What a node's agent has applied last, on disk: so that a database that went backwards is known after a restart too."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import structlog

log = structlog.get_logger("keystead.agent")

WRITE_EVERY_S = 1.0


class Memory:
    """One small file, replaced as a whole. Used by one thread."""

    def __init__(self, path: Path | None) -> None:
        """``path`` None: nothing is remembered."""
        self._path = path
        self._pending: tuple[int, str] | None = None
        self._written_at = 0.0

    def recall(self) -> tuple[int, str] | None:
        """Return generation and fingerprint that were applied last; None when nothing is known."""
        if self._path is None:
            return None
        try:
            held = json.loads(self._path.read_bytes())
            return int(held["generation"]), str(held["fingerprint"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.critical(
                "what this node has applied last cannot be read: a database that went backwards would not be noticed",
                alarm=True,
                path=str(self._path),
                cause=type(error).__name__,
            )
            return None

    def remember(self, generation: int, fingerprint: str) -> None:
        """Keep this; written at once or, when much changes, within a second."""
        self._pending = (generation, fingerprint)
        self.flush(now=False)

    def flush(self, *, now: bool = True) -> None:
        """Write what is pending."""
        if self._path is None or self._pending is None:
            return
        if not now and time.monotonic() - self._written_at < WRITE_EVERY_S:
            return
        generation, fingerprint = self._pending
        text = json.dumps({"generation": generation, "fingerprint": fingerprint})
        unfinished = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self._path)
        except OSError as error:
            # Serving goes on: only the comparison after a restart is at stake. It is tried again with the next change.
            log.error(
                "what this node has applied cannot be written down",
                path=str(self._path),
                cause=error.strerror,
            )
            return
        self._pending = None
        self._written_at = time.monotonic()
