"""What is long in the agent gives way to a change, and not for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from django.db import connection

from tests.xks import journals
from tests.xks.test_agent_journal import begin
from vault import keys
from xks.agent_courtesy import LONGEST_S, Courtesy
from xks.journal_shipping import Shipper


class Clock:
    """Stands where the time is told, and moves when somebody waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, courtesy: Courtesy) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        monkeypatch.setattr("xks.agent_courtesy.time", self)
        monkeypatch.setattr(courtesy, "_pause", self)

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(round(seconds, 3))
        self.now += seconds


def test_nobody_waits_unless_somebody_is_in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    courtesy = Courtesy()
    clock = Clock(monkeypatch, courtesy)
    courtesy.give_way()
    assert clock.waits == []
    courtesy.hurry(0.3)
    courtesy.hurry(0.02)  # a look that follows makes the hurry no shorter
    courtesy.give_way()
    courtesy.give_way()
    assert clock.waits == [0.3]


def test_changes_without_end_hold_nobody_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    courtesy = Courtesy()
    clock = Clock(monkeypatch, courtesy)
    courtesy.hurry(60)
    courtesy.give_way()
    assert clock.waits == [LONGEST_S]


@pytest.mark.django_db
def test_the_shipper_asks_between_its_pieces_of_work_and_never_in_a_transaction(tmp_path: Path) -> None:
    keys.ensure_root_key(create_allowed=True)
    row, journal = begin(tmp_path)
    for _ in range(1000):
        journal.append(journals.record(at=time.time()))
    journal._close_file()
    asked: list[int] = []
    depth = len(connection.savepoint_ids)
    shipper = Shipper(tmp_path, batch=400, give_way=lambda: asked.append(len(connection.savepoint_ids)))
    assert shipper.ship(row)[0] == 1000
    # Before and after reading each of three batches, and every 200 entries.
    assert len(asked) >= 3 * 2 + 1000 // 200
    assert set(asked) == {depth}


def test_a_wait_ends_by_itself() -> None:
    courtesy = Courtesy()
    courtesy.hurry(0.01)
    waiting = threading.Thread(target=courtesy.give_way)
    waiting.start()
    waiting.join(10)
    assert not waiting.is_alive()
