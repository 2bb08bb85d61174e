"""Waiting for keys on their way: woken by the right key, by no other, and nothing is left behind."""

import asyncio

import pytest

from node.core.arrivals import Arrivals

LONG_S = 30.0


async def begun(waiting: "asyncio.Task[bool]") -> None:
    await asyncio.sleep(0)
    assert not waiting.done()


async def test_any_one_of_the_awaited_keys_wakes() -> None:
    arrivals = Arrivals()
    waiting = asyncio.create_task(arrivals.wait(["a", "b"], LONG_S))
    await begun(waiting)
    arrivals.notify(["b", "x"])
    assert await waiting


async def test_all_who_wait_for_a_key_are_woken() -> None:
    arrivals = Arrivals()
    waiting = [asyncio.create_task(arrivals.wait(["a"], LONG_S)) for _ in range(3)]
    await begun(waiting[-1])
    arrivals.notify(["a"])
    assert await asyncio.gather(*waiting) == [True] * 3


async def test_other_key_does_not_wake() -> None:
    arrivals = Arrivals()
    waiting = asyncio.create_task(arrivals.wait(["a"], 0.02))
    await begun(waiting)
    arrivals.notify(["b"])
    assert not await waiting


async def test_key_that_came_before_does_not_count_as_an_arrival() -> None:
    arrivals = Arrivals()
    arrivals.notify(["a"])
    assert not await arrivals.wait(["a"], 0.01)


async def test_neither_arrival_nor_time_out_nor_a_caller_that_hung_up_leaves_a_trace() -> None:
    arrivals = Arrivals()
    hung_up = asyncio.create_task(arrivals.wait(["a", "b"], LONG_S))
    served = asyncio.create_task(arrivals.wait(["b"], LONG_S))
    await begun(served)
    hung_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hung_up
    arrivals.notify(["b"])
    assert await served
    assert not await arrivals.wait(["c"], 0.01)
    assert arrivals._waiting == {}
