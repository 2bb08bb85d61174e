"""Many seeds, or many mutants, in several processes; each run is the same whatever their number."""

import gc
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context

from tests.simulation.mutants import applied
from tests.simulation.simulation import Report, simulate

CHUNK = 5


def replay_command(seed: int, mutant: str | None = None) -> str:
    """Return the command that shows one seed again."""
    chosen = f" --mutant {mutant}" if mutant else ""
    return f"python -m tests.simulation --seed {seed} --trace{chosen}"


def campaign(seeds: range, jobs: int, mutant: str | None = None) -> Iterator[Report]:
    """Run seeds in `jobs` processes, under a mutant if one is named; yields reports as they come."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    with _pool(jobs) as pool:
        for done in as_completed([pool.submit(_run, chunk, mutant) for chunk in chunks]):
            yield from done.result()


def hunt(mutants: Iterable[str], seeds: range, jobs: int) -> Iterator[Report | None]:
    """For each mutant, in order, yield the first report with a violation; None if it survives all seeds."""
    with _pool(jobs) as pool:
        yield from pool.map(partial(_hunt_one, seeds=seeds), mutants)


def with_fixed_hashes() -> None:
    """Begin this process again with fixed string hashes, so that sets have the same order in every run."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_collect_seldom)


def _collect_seldom() -> None:
    gc.set_threshold(50_000, 20, 50)


def _run(seeds: range, mutant: str | None) -> list[Report]:
    with applied(mutant):
        return [simulate(seed) for seed in seeds]


def _hunt_one(mutant: str, seeds: range) -> Report | None:
    with applied(mutant):
        reports = (simulate(seed) for seed in seeds)
        return next((report for report in reports if report.violations), None)
