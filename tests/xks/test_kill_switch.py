"""The kill switch whole: real agent and workers, clients under load, and the proof from their journal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from bench_kill_switch import measure

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("deaf", [False, True], ids=["notified", "every notification lost"])
def test_nothing_is_answered_once_all_have_confirmed(deaf: bool) -> None:
    """On a database of its own; `make bench-kill-switch` is the long form of this."""
    settings = {"KEYSTEAD_NODE_NAME": f"node-{os.getpid()}"}
    found = measure(deaf, switches=3, clients=2, settings=settings)
    assert (found["switches"], found["confirmed_by_all"]) == (3, 3)
    assert found["accepted"] > 20
    assert found["refused"] > 0
    assert found["accepted_after_confirmation"] == 0
    assert found["last_switch_proof"] == "PROVEN"
