"""One load test as asked for: its options, shared by `python -m loadtests` and `locust -f`, and what it is made of.

Leaves out how many users run and for how long: that is Locust's.
"""

import argparse
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from loadtests.measurements import Measurements
from loadtests.sae_client import Observer, SaeClient
from loadtests.settings import (
    IDENTITY_FOLDER,
    SETTINGS_FILE,
    Credentials,
    Sae,
    SaePair,
    credentials,
    pair_of_user,
    read_pairs,
    shuffled,
)

# 20 users with one key of 256 bits every 2 s ask for 2.6 kb/s in all, which one QKD link of 2-3 kb/s can feed.
DEFAULT_PACE_S = 2.0
DEFAULT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class LoadRun:
    """A load test's fixed part and its tally; sizes in bits, None for the node's default."""

    pairs: tuple[SaePair, ...]
    files: dict[Sae, Credentials]
    pace_s: float
    number: int
    size_bits: int | None
    timeout_s: float
    measurements: Measurements = field(default_factory=Measurements)
    _users: "count[int]" = field(default_factory=count)

    def next_pair(self) -> SaePair:
        """Assign the next user its pair."""
        return pair_of_user(self.pairs, next(self._users))

    def client(self, sae: Sae, observe: Observer) -> SaeClient:
        """Make a client with a connection of its own."""
        return SaeClient(sae, self.files[sae], self.timeout_s, observe)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `load_run` to a parser."""
    add = parser.add_argument
    add("--pace-s", type=positive_seconds, default=DEFAULT_PACE_S, help="seconds between a user's exchanges")
    add("--number", type=positive_integer, default=1, help="keys per exchange")
    add("--size", type=positive_integer, default=None, metavar="BITS", help="key size; the node's default if left out")
    add("--seed", type=int, default=0, help="decides the order in which users get their SAE pairs")
    add("--timeout-s", type=positive_seconds, default=DEFAULT_TIMEOUT_S, help="longest wait for an answer")
    add("--settings", type=Path, default=SETTINGS_FILE, help="who takes part")
    add("--identity", type=Path, default=IDENTITY_FOLDER, help="certificates of the SAEs and CAs of the domains")


def load_run(options: argparse.Namespace) -> LoadRun:
    """Put a run together from parsed options; raises SettingsError."""
    pairs = shuffled(read_pairs(options.settings), options.seed)
    files = {sae: credentials(options.identity, sae) for pair in pairs for sae in (pair.master, pair.slave)}
    return LoadRun(pairs, files, options.pace_s, options.number, options.size, options.timeout_s)


def positive_seconds(text: str) -> float:
    """Parse a finite time above zero; raises ValueError."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def positive_integer(text: str) -> int:
    """Parse an integer above zero; raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value
