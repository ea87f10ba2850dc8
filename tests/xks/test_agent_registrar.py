"""What the registrar keeps and forgets of workers' confirmations around a database that went backwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vault.node_alarms import STALENESS_OVER
from xks.agent_registrar import Registrar
from xks.agent_registry import ProcessName
from xks.agent_state import NodeState, Refusal

WORKER = ProcessName("boot", 0, 1, 2)


class Table:
    """In place of the database: what the registrar tells it, and something that happens meanwhile."""

    def __init__(self) -> None:
        self.forgot: list[bool] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def tell(self, *_told: Any, forget_confirmed: bool) -> None:
        self.forgot.append(forget_confirmed)
        self.meanwhile()


def made() -> tuple[Registrar, Table, NodeState]:
    table, state = Table(), NodeState(60.0)
    registrar = Registrar(
        table,  # type: ignore[arg-type]  # as far as it is used here
        seen=lambda beat, at: None,
        failed=lambda error: None,
        generation=lambda: 2,
        beat_s=1.0,
        state=state,
    )
    registrar.joined(WORKER, 2)
    registrar.confirmed(WORKER, 2, "of the old history")
    return registrar, table, state


def test_what_was_confirmed_of_another_history_is_forgotten_once() -> None:
    registrar, table, state = made()
    entry = registrar._entries[WORKER]
    state.refuse(Refusal("mark", held=2, found=1))
    registrar._tell_node(registrar._entries)
    assert (entry.confirmed, table.forgot) == (None, [True])


def test_a_confirmation_that_comes_while_an_alarm_is_told_is_kept() -> None:
    """The node goes stale while it refuses, and that is being told while an operator's word arrives."""
    registrar, table, state = made()
    entry = registrar._entries[WORKER]
    state.refuse(Refusal("mark", held=2, found=1))
    registrar._tell_node(registrar._entries)
    state.raise_alarm(STALENESS_OVER, "No news.")
    table.meanwhile = lambda: registrar.confirmed(WORKER, 1, "of the accepted history")
    registrar._tell_node(registrar._entries)
    assert entry.confirmed == (1, "of the accepted history")
    assert table.forgot == [True, False]


def test_a_second_refusal_forgets_again() -> None:
    registrar, table, state = made()
    entry = registrar._entries[WORKER]
    state.refuse(Refusal("mark", held=2, found=1))
    registrar._tell_node(registrar._entries)
    state.current(1, 0.0)
    registrar.confirmed(WORKER, 1, "of the accepted history")
    registrar._tell_node(registrar._entries)
    assert entry.confirmed is not None
    state.refuse(Refusal("another mark", held=1, found=0))
    registrar._tell_node(registrar._entries)
    assert (entry.confirmed, table.forgot) == (None, [True, False, True])
