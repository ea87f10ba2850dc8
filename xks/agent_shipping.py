"""The agent's shipper: brings journals into the database, at the database's pace and nobody else's.

A thread of its own with its own connection.  A full, slow or absent database only lets the journals wait on the
node's disk; workers answer on, and keys and anchors have threads of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import structlog
from django.db import Error
from django.utils import timezone

from vault.keys import RootKeyError
from xks.agent_courtesy import Courtesy
from xks.agent_database import close_own_connection, use_own_connection
from xks.journal_format import SegmentDamaged
from xks.journal_shipping import ShippedElsewhere, Shipper, unshipped
from xks.request_partitions import keep_store

log = structlog.get_logger("keystead.agent")

REPEAT_ALARM_S = 10.0
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
BATCHES_A_TURN = 4
"""Of one journal, before the next one has its turn."""
REST = 2.0
"""Of the time that a turn took, in which the shipper leaves the processor to others.

So it takes a third of one core at most, which is above 3,000 records a second: without a pause it took a sixth of
the requests that a saturated machine of two cores could answer.  What does not come through waits on the disk.
"""


class Shipping:
    """What the thread does, a turn at a time; ``request_days``: for how long single records stay."""

    def __init__(
        self, node_name: str, folder: Path, *, request_days: int = 30, courtesy: Courtesy | None = None
    ) -> None:
        """``courtesy``: when to give way to a change."""
        self._node_name = node_name
        self._keep = timedelta(days=request_days)
        self.courtesy = courtesy or Courtesy()
        self._shipper = Shipper(folder, give_way=self.courtesy.give_way)

    def turn(self) -> bool:
        """Ship a little of each journal; whether more is left. Raises django.db.Error, OSError, RootKeyError."""
        keep_store(timezone.now(), self._keep)
        left = False
        for chain in unshipped(self._node_name):
            try:
                left |= self._shipper.ship(chain, batches=BATCHES_A_TURN)[1]
            except SegmentDamaged as damage:
                # Sealing looks closer, says so and signs it; the other journals are not to wait for that.
                log.error("a journal cannot be shipped to its end", chain=chain.id.hex, cause=str(damage))
            except ShippedElsewhere as told:
                log.warning("somebody else ships this node's journals", where=str(told))
        return left


class ShippingThread(threading.Thread):
    """Takes turns about every second, at once while there is more, and seldom while the database does not answer."""

    def __init__(self, shipping: Shipping, *, failed: Callable[[BaseException], None], beat_s: float) -> None:
        super().__init__(name="shipping", daemon=True)
        self._shipping = shipping
        self._failed = failed
        self._beat_s = beat_s
        self._stopping = threading.Event()
        self._failures = 0
        self._alarmed_at: float | None = None

    def stop(self) -> None:
        """End after the transaction under way. What is left is shipped after the next start."""
        self._stopping.set()

    def run(self) -> None:
        """See Thread."""
        try:
            use_own_connection(snapshots=False)
            pause = 0.0
            while not self._stopping.wait(pause):
                pause = self._turn()
        except BaseException as error:
            self._failed(error)
        finally:
            close_own_connection()

    def _turn(self) -> float:
        began = time.monotonic()
        try:
            left = self._shipping.turn()
        except (Error, psycopg.Error) as error:
            close_own_connection()
            return self._alarm("journals wait on this node's disk: the database does not take them", error)
        except (OSError, RootKeyError) as error:
            return self._alarm("journals cannot be shipped", error)
        self._failures, self._alarmed_at = 0, None
        return max((time.monotonic() - began) * REST, 0.01) if left else self._beat_s

    def _alarm(self, event: str, error: Exception) -> float:
        now = time.monotonic()
        if self._alarmed_at is None or now - self._alarmed_at >= REPEAT_ALARM_S:
            self._alarmed_at = now
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.critical(event, alarm=True, cause=cause)
        pause = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        return pause
