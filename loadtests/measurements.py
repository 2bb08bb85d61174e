"""What a load test counts: latency of every request, reasons of failures, and what became of every key issued.

A key that a master was given is compared or it is missing; there is no third fate, whatever broke in between.
Percentiles and rates are made in `report`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from loadtests.sae_client import Call, ReceivedKey
from loadtests.settings import SaePair

MAX_INCIDENTS = 100


@dataclass(frozen=True)
class Incident:
    """A key that differed or went missing; the ID of a key is no secret."""

    kind: Literal["different", "missing"]
    master_sae: str
    slave_sae: str
    key_id: str
    reason: str


class Measurements:
    """The tally of one run; latencies in milliseconds, of successful requests only."""

    def __init__(self) -> None:
        self.latencies_ms: dict[Call, list[float]] = {call: [] for call in Call}
        self.failures: dict[Call, Counter[str]] = {call: Counter() for call in Call}
        self.issued = 0
        self.compared = 0
        self.different = 0
        self.incidents: list[Incident] = []
        self._start = perf_counter()
        self._last_answer = self._start

    @property
    def missing(self) -> int:
        """Keys issued and not compared; while users run it contains those under way."""
        return self.issued - self.compared

    def start(self) -> None:
        """Start the clock."""
        self._start = self._last_answer = perf_counter()

    def elapsed_s(self, at_least_s: float = 0.0) -> float:
        """Seconds from the start to the last request's end, or `at_least_s` if that is longer."""
        return max(self._last_answer - self._start, at_least_s)

    def running_s(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._start

    def observe(self, call: Call, latency_ms: float, failure: Exception | None) -> None:
        """Count a finished request."""
        self._last_answer = perf_counter()
        if failure is None:
            self.latencies_ms[call].append(latency_ms)
        else:
            self.failures[call][str(failure)] += 1

    def issue(self, keys: Mapping[str, ReceivedKey]) -> None:
        """Count the keys that a master was given, before the slave asks for them."""
        self.issued += len(keys)

    def compare(
        self, pair: SaePair, issued: Mapping[str, ReceivedKey], fetched: Mapping[str, ReceivedKey], reason: str
    ) -> None:
        """Compare what both SAEs got; `reason` says why a key that was not fetched was not."""
        for key_id, key in issued.items():
            if key_id not in fetched:
                self._note(Incident("missing", pair.master.name, pair.slave.name, key_id, reason))
                continue
            self.compared += 1
            if not key.equals(fetched[key_id]):
                self.different += 1
                self._note(Incident("different", pair.master.name, pair.slave.name, key_id, "bytes differ"))

    def _note(self, incident: Incident) -> None:
        if len(self.incidents) < MAX_INCIDENTS:
            self.incidents.append(incident)
