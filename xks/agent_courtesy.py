"""Lets the agent's long work give way while the data plane waits for a change.

All of an agent's threads share one interpreter.  On a busy machine whoever holds it may be put aside by the kernel
for tens of milliseconds, and a reader that needs it ten times for one change then waits ten times.  So what is long
(shipping journals) asks in between whether somebody is in a hurry.
"""

from __future__ import annotations

import threading
import time
from typing import Final

LOOK_S: Final = 0.02
"""A look at the database may take so long, seconds, before it is known whether anything has changed."""
CHANGE_S: Final = 0.3
"""A change is loaded, sent to the workers, applied and confirmed within so long, seconds."""
LONGEST_S: Final = 0.5
"""Nobody waits longer at a time, seconds: changes without end must not keep the journals out of the database."""


class Courtesy:
    """Of one agent; may be used from any thread."""

    def __init__(self) -> None:
        self._until = 0.0
        self._pause = threading.Event()

    def hurry(self, seconds: float) -> None:
        """Ask the others to give way for so long from now."""
        self._until = max(self._until, time.monotonic() + seconds)

    def give_way(self) -> None:
        """Wait while somebody is in a hurry, LONGEST_S at most."""
        left = min(self._until - time.monotonic(), LONGEST_S)
        if left > 0:
            self._pause.wait(left)
