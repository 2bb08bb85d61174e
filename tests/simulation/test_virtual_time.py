"""The simulation is deterministic, and takes no real time."""

import asyncio
import time

import pytest

from tests.simulation.simulation import simulate
from tests.simulation.virtual_time import StandstillError, run_virtual


def test_hours_pass_at_once_and_in_order() -> None:
    async def sleepers() -> list[str]:
        woken: list[str] = []

        async def sleep(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append(f"{name} at {asyncio.get_running_loop().time():g}")

        await asyncio.gather(sleep("late", 7200.0), sleep("early", 0.5))
        return woken

    begin = time.monotonic()
    assert run_virtual(sleepers()) == ["early at 0.5", "late at 7200"]
    assert time.monotonic() - begin < 5.0


def test_waiting_for_what_never_comes_is_an_error() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(StandstillError):
        run_virtual(wait())


def test_the_same_seed_is_the_same_run() -> None:
    first, second = simulate(3, trace=True), simulate(3, trace=True)
    assert first.digest == second.digest
    assert first.digest != simulate(4).digest


def test_without_faults_every_order_that_material_allows_is_served() -> None:
    for seed in range(6):
        report = simulate(seed, faults=False)
        assert report.violations == ()
        assert report.tally.unheard == 0
        scarce = ("fewer than", "insufficient-key-material")
        assert all(any(word in refusal for word in scarce) for refusal in report.tally.refusals)
