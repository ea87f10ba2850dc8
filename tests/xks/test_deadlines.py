"""One timer for all bodies that are being read."""

from __future__ import annotations

import asyncio

import pytest

from xks.deadlines import Deadlines
from xks.errors import DependencyTimeoutException

BUDGET_S = 0.05


async def read(deadlines: Deadlines, seconds: float) -> str:
    with deadlines:
        await asyncio.sleep(seconds)
        return "came"


async def test_what_comes_in_time_comes_through_and_what_does_not_is_ended() -> None:
    deadlines = Deadlines(BUDGET_S)
    began = asyncio.get_running_loop().time()
    quick, slow, never = await asyncio.gather(
        read(deadlines, 0), read(deadlines, 10), read(deadlines, 10), return_exceptions=True
    )
    took = asyncio.get_running_loop().time() - began
    assert quick == "came"
    assert isinstance(slow, DependencyTimeoutException)
    assert isinstance(never, DependencyTimeoutException)
    assert BUDGET_S * 0.9 <= took < 5


async def test_each_has_its_whole_time_whenever_it_began() -> None:
    deadlines = Deadlines(0.2)
    first = asyncio.create_task(read(deadlines, 10))
    await asyncio.sleep(0.15)
    second = asyncio.create_task(read(deadlines, 0.15))  # still under way when the first one ends
    with pytest.raises(DependencyTimeoutException):
        await first
    assert await second == "came"


async def test_a_task_goes_on_after_its_time_was_over() -> None:
    deadlines = Deadlines(0.01)
    with pytest.raises(DependencyTimeoutException):
        await read(deadlines, 10)
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await read(deadlines, 0) == "came"


async def test_somebody_elses_cancellation_stays_one() -> None:
    deadlines = Deadlines(10)
    task = asyncio.create_task(read(deadlines, 10))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_both_cancelled_at_once_is_a_cancellation() -> None:
    deadlines = Deadlines(0.01)
    task = asyncio.create_task(read(deadlines, 10))
    await asyncio.sleep(0)
    deadlines._ends[task] = 0.0
    deadlines._end_due()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_body_that_comes_in_the_same_turn_in_which_its_time_is_over_is_late() -> None:
    deadlines = Deadlines(10)
    come: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def body() -> int:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(DependencyTimeoutException), deadlines:
            await come
        await asyncio.sleep(0)
        return task.cancelling()

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    come.set_result(None)
    deadlines._ends[task] = 0.0
    deadlines._end_due()
    assert await task == 0
