"""Kill a piece of work after its n-th external call or commit, for every n, and see what the next worker makes of it.

`every_crash_point` finds the points by itself: it runs a scenario with a crash after point 0, after point 1, and so on,
until a run comes to its end without reaching its crash. That takes minutes, so `make test` tries every third point, beginning
at one that the run's seed chooses, and `make test-long` all of them (the fixture `crash_stride`). A crash is a
BaseException, which no handler of the product catches; what `finally` blocks write would be written by no killed worker,
so they must write nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from botocore.client import BaseClient
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from cloudkeys.flows import FLOWS
from cloudkeys.models import Operation
from cloudkeys.operations import runner
from cloudkeys.operations.steps import Later

MOST_POINTS = 200
SOME = 3
MOST_ROUNDS = 200


class Crash(BaseException):
    """The worker is dead from here on."""


_stride = [1]


@pytest.fixture(params=[pytest.param(SOME, id="some"), pytest.param(1, id="all", marks=pytest.mark.long)])
def crash_stride(request: pytest.FixtureRequest) -> Iterator[int]:
    """How far the points are apart that this test tries."""
    _stride.append(request.param)
    yield request.param
    _stride.pop()


@dataclass
class CrashPoints:
    """Counts what has happened outside this process; raises Crash after the point number `at` (None: never)."""

    at: int | None = None
    seen: list[str] = field(default_factory=list)

    def reach(self, name: str) -> None:
        """Something outside has happened and cannot be taken back."""
        self.seen.append(name)
        if self.at is not None and len(self.seen) - 1 == self.at:
            raise Crash(name)


@contextmanager
def crash_points(at: int | None) -> Iterator[CrashPoints]:
    """Count every answered AWS call and every commit of the database while the block lasts."""
    points = CrashPoints(at)
    call = BaseClient._make_api_call
    commit = BaseDatabaseWrapper.commit

    def counted_call(client: Any, operation: str, request: Any) -> Any:
        answer = call(client, operation, request)
        points.reach(f"aws {operation}")
        return answer

    def counted_commit(connection: Any) -> None:
        commit(connection)
        points.reach("commit")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", counted_call)
        patch.setattr(BaseDatabaseWrapper, "commit", counted_commit)
        yield points


@contextmanager
def before_step(kind: str, step: str, act: Callable[[], object]) -> Iterator[None]:
    """Let something happen, once, just before that step of a flow runs."""
    steps = FLOWS[kind].run
    original = steps[step]
    acts = [act]

    def acted(ctx: Any) -> Any:
        if acts:
            acts.pop()()
        return original(ctx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(steps, step, acted)
        yield


@contextmanager
def held_at(kind: str, step: str) -> Iterator[None]:
    """Let a flow come as far as that step, and wait there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FLOWS[kind].run, step, lambda ctx: Later(0.0, "held by a test"))
        yield


def run_to_end(operation: Operation, pass_time: Callable[[], None] | None = None) -> Operation:
    """Run an operation, and those that wait behind it, to the end; time that it waits for is taken as passed.

    `pass_time` moves what else tells the time (dates on rows) before each round.
    """
    for _ in range(MOST_ROUNDS):
        unfinished = Operation.objects.filter(target_id=operation.target_id, state__in=Operation.UNFINISHED)
        if not unfinished.exists():
            operation.refresh_from_db()
            return operation
        if pass_time is not None:
            pass_time()
        unfinished.update(next_try_at=None)
        runner.sweep()
    operation.refresh_from_db()
    raise AssertionError(f"{operation.kind} does not end: {operation.steps} {operation.error}")


def let_leases_run_out() -> None:
    """What a killed worker held is free once its lease has run out."""
    Operation.objects.exclude(lease_owner="").update(lease_until=timezone.now() - timedelta(seconds=1))


def every_crash_point(
    scenario: Callable[[int], Any],
    begin: Callable[[Any], Operation],
    check: Callable[[Any, Operation, str], None],
    *,
    pass_time: Callable[[Any], None] | None = None,
    between: Callable[[Any], None] | None = None,
) -> list[str]:
    """Crash after every point, or some (`crash_stride`); returns the names of all points. `scenario` makes a fresh world for the n-th run.

    `begin` asks for the operation (it commits, before any point counts); `check` looks at everything at the end and is
    told where the crash was; `between` looks at the moment after it, before anybody takes the work up.
    """
    for number in range(random.randrange(_stride[-1]), MOST_POINTS, _stride[-1]):
        world = scenario(number)
        operation = begin(world)
        where = "nowhere"
        clock = partial(pass_time, world) if pass_time is not None else None
        with crash_points(number) as points:
            try:
                run_to_end(operation, clock)
            except Crash as crash:
                where = f"after point {number}, {crash}"
        if where != "nowhere":
            if between is not None:
                between(world)
            _nobody_else_may_touch(operation)
            let_leases_run_out()
        check(world, run_to_end(operation, clock), where)
        if where == "nowhere":
            return points.seen
    raise AssertionError(f"more than {MOST_POINTS} points")


def _nobody_else_may_touch(operation: Operation) -> None:
    """While the dead worker's lease still runs, nobody can tell it from a living one: no second worker may start."""
    operation.refresh_from_db()
    if operation.lease_owner:
        before = (operation.lease_owner, operation.step, operation.memo)
        assert runner.run_operation(operation.pk) is runner.Outcome.NOT_CLAIMED
        operation.refresh_from_db()
        assert (operation.lease_owner, operation.step, operation.memo) == before
