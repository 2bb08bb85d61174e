"""The four truths hold under crashes, full disks, bad networks and bad devices; and the oracle would notice if not.

Both run as the commands do, in processes of their own with fixed hashes, so that a seed replays exactly.
`SIMULATION_SEEDS` (as FIRST-LAST) asks for more.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.simulation.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
SEEDS = os.environ.get("SIMULATION_SEEDS", "0-199")


def test_the_truths_hold_whatever_fails() -> None:
    _run("--seeds", SEEDS, "--jobs", "2")


def test_every_mutant_is_caught() -> None:
    assert len(MUTANTS) >= 20
    _run("--mutants", "--jobs", "2")


def _run(*arguments: str) -> None:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-12000:]}\n{done.stderr[-4000:]}"
