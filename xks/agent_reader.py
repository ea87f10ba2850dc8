"""The agent's reader: a thread that asks the database what is current, loads it and passes it on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import psycopg
import structlog
from django.db import Error

from vault import node_alarms
from vault.keys import RootKeyAway, RootKeyError
from xks.agent_courtesy import CHANGE_S, LOOK_S, Courtesy
from xks.agent_database import close_own_connection, new_watch, use_own_connection
from xks.agent_hsm import hsm_groups
from xks.agent_keks import Keks
from xks.agent_loading import (
    Applied,
    Loaded,
    LogIncomplete,
    WentBackwards,
    check_history,
    load_changes,
    load_everything,
    mark_of,
)
from xks.agent_memory import Memory
from xks.agent_opening import LeftOut
from xks.agent_state import NodeState, Refusal
from xks.wire import HsmGroups, boot_clock

log = structlog.get_logger("keystead.agent")

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts while the database does not answer."""

HSM_AWAY = "the HSM that holds the root key does not answer"
ROOT_UNUSABLE = "the root key cannot be used"

MAX_ALARMS = 20
"""Rows named one by one when a load had to leave many out."""


class Reader(threading.Thread):
    """Finds out what is current, and passes it on."""

    def __init__(
        self,
        *,
        take: Callable[[Loaded | None, float], None],
        failed: Callable[[BaseException], None],
        poll_s: float,
        max_staleness_s: float,
        state: NodeState,
        memory: Memory | None = None,
        keks: Keks | None = None,
        take_hsms: Callable[[HsmGroups], None] = lambda groups: None,
        courtesy: Courtesy | None = None,
    ) -> None:
        """``memory``: what was applied last, also before a restart.

        ``keks`` opens the KEKs of key sets that HSMs wrap; ``take_hsms`` is told which HSM connections there are.
        """
        super().__init__(name="reader", daemon=True)
        self._take = take
        self._failed = failed
        self._poll_s = poll_s
        self._max_staleness_s = max_staleness_s
        self._stopping = threading.Event()
        self._failures = 0
        self._state = state
        self._memory = memory or Memory(None)
        self._recalled = self._memory.recall()
        self._watch = new_watch()
        self._take_hsms = take_hsms
        self._courtesy = courtesy or Courtesy()
        self._hsms: HsmGroups | None = None
        self._root_problem = ""
        self._keks = keks
        if keks is not None:
            keks.wake = self._watch.wake

    @property
    def refuses(self) -> bool:
        """Whether the database that was found is older than what is applied, and so refused."""
        return self._state.refusal is not None

    def run(self) -> None:
        """See Thread."""
        try:
            self._run()
        except BaseException as error:
            self._failed(error)
        finally:
            close_own_connection()

    def stop(self) -> None:
        """End soon, from any thread; may be called when it has ended already."""
        self._stopping.set()
        self._watch.wake()

    def close(self) -> None:
        """Let go of what ``stop`` needs; call once the thread has ended."""
        self._watch.close()

    def _run(self) -> None:
        use_own_connection(snapshots=True)
        applied: Applied | None = None
        try:
            while not self._stopping.is_set():
                try:
                    applied = self._look(applied)
                    self._watch.wait(self._poll_s)
                except (Error, psycopg.Error) as error:
                    self._lost(error)
        finally:
            self._memory.flush()
            self._watch.reset()

    def _look(self, applied: Applied | None) -> Applied | None:
        self._courtesy.hurry(LOOK_S)
        asked_at = boot_clock()
        hsms = msgspec.structs.replace(hsm_groups(), root_problem=self._root_problem)
        if hsms != self._hsms:
            # Before keys that refer to them; states change without a generation.
            self._hsms = hsms
            self._take_hsms(hsms)
        late = self._keks.take_late() if self._keks is not None else set()
        called = (self._keks.calls, self._keks.seconds) if self._keks is not None else (0, 0.0)
        try:
            if applied is None:
                if self._recalled is not None:
                    check_history(*self._recalled)
                loaded: Loaded | None = load_everything(self._max_staleness_s, self._keks)
            else:
                loaded = load_changes(applied, self._max_staleness_s, self._keks, late)
        except LogIncomplete as gap:
            log.warning("the log of changes has a gap; loading everything", gap=str(gap))
            return None
        except WentBackwards as refused:
            mark = mark_of(*self._recalled) if self._recalled is not None else ""
            if not self._state.is_accepted(mark):
                self._state.refuse(Refusal(mark, refused.applied, refused.found))
                return applied
            log.warning(
                "an operator has accepted the older database",
                held_generation=refused.applied,
                found_generation=refused.found,
            )
            asked_at = boot_clock()
            loaded = load_everything(self._max_staleness_s, self._keks)
            loaded.rollback_accepted = True
        except RootKeyError as error:
            self._root_problem = HSM_AWAY if isinstance(error, RootKeyAway) else ROOT_UNUSABLE
            self._state.raise_alarm(node_alarms.ROOT_KEY, str(error))
            return applied
        if self._failures:
            log.info("the database answers again")
        self._failures = 0
        self._root_problem = ""
        self._state.clear(node_alarms.ROOT_KEY)
        if loaded is not None:
            self._courtesy.hurry(CHANGE_S)
            took_s = boot_clock() - asked_at
            report_left_out(loaded.left_out)
            if loaded.left_out:
                self._state.raise_alarm(
                    node_alarms.ROWS_LEFT_OUT, f"{len(loaded.left_out)} rows; the log names them."
                )
            elif loaded.full:
                self._state.clear(node_alarms.ROWS_LEFT_OUT)
            if loaded.full:
                log.info(
                    "loaded everything",
                    generation=loaded.generation,
                    stores=len(loaded.stores),
                    keys=len(loaded.keys),
                    seconds=round(took_s, 3),
                    **self._hsm_figures(*called),
                )
            else:
                log.debug("loaded a change", generation=loaded.generation, seconds=round(took_s, 4))
            applied = Applied.after(loaded, applied)
            self._recalled = (applied.generation, applied.fingerprint)
            self._memory.remember(applied.generation, applied.fingerprint)
        self._memory.flush(now=False)
        if applied is not None:
            self._state.current(applied.generation, asked_at)
        self._take(loaded, asked_at)
        return applied

    def _hsm_figures(self, calls: int, seconds: float) -> dict[str, float]:
        """What this load asked of HSMs: one call a key set that one wraps; nothing where there is none."""
        keks = self._keks
        if keks is None or not keks.calls:
            return {}
        return {
            "hsm_calls": keks.calls - calls,
            "hsm_seconds": round(keks.seconds - seconds, 3),
            "key_sets_without_hsm": keks.missing,
        }

    def _lost(self, error: Exception) -> None:
        pause = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        if self._failures == 0:
            log.error("the database does not answer; trying again", cause=first_line(error))
        self._failures += 1
        close_own_connection()
        self._watch.reset()
        self._stopping.wait(pause)


def report_left_out(left_out: list[LeftOut]) -> None:
    """Raise an alarm for rows that the data plane does not get."""
    for item in left_out[:MAX_ALARMS]:
        log.critical(
            "a row was left out of the data plane",
            alarm=True,
            kind=item.kind,
            row_id=item.id,
            vault_id=str(item.vault_id),
            reason=item.reason,
        )
    if len(left_out) > MAX_ALARMS:
        log.critical("more rows were left out of the data plane", alarm=True, rows=len(left_out))


def first_line(error: Exception) -> str:
    """Return the first line of a driver's message; they hold no password."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
