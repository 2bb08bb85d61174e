"""What a run can be blamed for: the four truths of every delivered key, healing, and surprises."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from tests.simulation.trace import Trace


class Truth(StrEnum):
    """What must hold (the first four are those of the product)."""

    BOTH_OR_NEITHER = "1 both or neither"
    NEVER_TWICE = "2 never twice"
    NOBODY_ELSE = "3 nobody else"
    WHICH_WAY = "4 which way"
    HEALS = "5 heals"
    NO_SURPRISE = "6 no surprise"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not happen, and when it was noticed."""

    truth: Truth
    text: str
    at_s: float

    def __str__(self) -> str:
        return f"truth {self.truth}: {self.text} (at {self.at_s:.4f} s)"


class Verdict:
    """Collects violations; `reached` is set by the first."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.violations: list[Violation] = []
        self.reached = asyncio.Event()

    def blame(self, truth: Truth, text: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(truth, text, asyncio.get_running_loop().time()))
        self.trace.say("VIOLATION of truth %s: %s", truth, text)
        self.reached.set()

    def check(self, holds: bool, truth: Truth, text: str) -> None:
        """Note a violation unless it holds."""
        if not holds:
            self.blame(truth, text)
