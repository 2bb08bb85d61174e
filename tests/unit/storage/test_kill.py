"""`kill -9` at random instants: a link key is in stock or with the parcel it protects, never in both, never in neither.

A killed process leaves its writes to the operating system, so this shows atomic commits and not what the disk keeps
when the power goes.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from node.core.ports import Ledger
from tests.unit.storage.small_stores import at_once, stocked

ROOT = Path(__file__).parents[3]
KEY_IDS = [f"k{i}" for i in range(20_000)]
KILLS = 6
LONGEST_LIFE_S = 0.15


def spend_until_killed(folder: Path, life_s: float) -> set[str]:
    """Start the worker, kill it `life_s` after its first transaction could begin, return what it said was spent."""
    worker = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("spending_worker.py")), str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    try:
        assert worker.stdout.readline() == "begun\n"
        time.sleep(life_s)
    finally:
        worker.kill()
    said, _ = worker.communicate()
    # The last line may have been cut short by the kill.
    return {line.strip() for line in said.splitlines(keepends=True) if line.endswith("\n")}


def books(ledger: Ledger) -> tuple[set[str], set[str]]:
    """Return the IDs of the link keys in stock, and of those that protect a parcel."""
    in_stock: set[str] = set()
    for begin in range(0, len(KEY_IDS), 500):
        in_stock |= ledger.known_link_keys(KEY_IDS[begin : begin + 500])
    return in_stock, {parcel.parcel_id.removeprefix("parcel-") for parcel in ledger.open_parcels()}


def test_killed_at_any_instant_no_link_key_is_lost_or_there_twice(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    at_once(tmp_path, lambda ledger: stocked(ledger, KEY_IDS))
    confirmed: set[str] = set()
    for _ in range(KILLS):
        said = spend_until_killed(tmp_path, chance.uniform(0, LONGEST_LIFE_S))
        assert not said & confirmed, "a link key was spent again after the restart"
        confirmed |= said
        in_stock, with_parcel = at_once(tmp_path, books)
        assert not in_stock & with_parcel
        assert in_stock | with_parcel == set(KEY_IDS)
        assert confirmed <= with_parcel, "an acknowledged commit was lost"
    assert confirmed, "every worker was killed before its first commit"
    assert in_stock, "the stock ran out, so some kills came too late"
