"""Flows of the test's own, over a real target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloudkeys.flows import FLOWS
from cloudkeys.models import CspAccount, Operation
from cloudkeys.operations import KINDS, start_operation
from cloudkeys.operations.kinds import Kind, StepKind
from cloudkeys.operations.steps import Flow, StepContext
from vault.actors import Actor
from vault.changes import change
from vault.permissions import Permission

Declare = Callable[..., str]
Start = Callable[..., Operation]


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declare a kind of operation on a CSP account: names and functions of its steps, and options of Kind and Flow."""

    def make(name: str, run: dict[str, Any], undo: dict[str, Any] | None = None, **options: Any) -> str:
        flow_options = {
            key: options.pop(key)
            for key in ("undo_on_failure", "on_failed", "on_cancelled")
            if key in options
        }
        steps = tuple(StepKind(step, step.capitalize()) for step in run)
        permission = options.pop("permission", Permission.CSP_ACCOUNTS_MANAGE)
        kind = Kind(name, name, permission, steps, targets=("cspaccount",), **options)
        monkeypatch.setitem(KINDS, name, kind)
        monkeypatch.setitem(FLOWS, name, Flow(run=run, undo=undo or {}, **flow_options))
        return name

    return make


@pytest.fixture
def start(owner: Actor, account: CspAccount) -> Start:
    """Ask for an operation of that kind on the account."""

    def ask(kind: str, **given: Any) -> Operation:
        with change(owner):
            return start_operation(owner, kind, account, input=given)

    return ask


@pytest.fixture
def calls() -> list[str]:
    """What steps have done, in order."""
    return []


@pytest.fixture
def step(calls: list[str]) -> Callable[[str], Callable[[StepContext], None]]:
    """A step that notes its name."""
    return lambda name: lambda ctx: calls.append(name)
