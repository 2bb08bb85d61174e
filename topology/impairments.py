"""What a link is asked to do to packets, the round trip that leads to, and the verdict on a measured one.

Pure. The `tc` arguments that carry an impairment out are the router's own (`images/router/tc_arguments.py`): it alone
knows its kernel, and reports the arguments in force in its state file.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypedDict

# A measured round trip is as asked within the larger of the two, beside what jitter explains.
TOLERANCE_MS = 2.0
TOLERANCE_FRACTION = 0.15


class RouterEntry(TypedDict):
    """One member of `impairments` in the router's settings."""

    link: str
    out: str
    src: str | None
    delay_ms: float
    jitter_ms: float
    loss_percent: float
    rate_mbps: float | None


@dataclass(frozen=True)
class Impairment:
    """What one direction of a link does to packets; `rate_mbps` None is as fast as the machine.

    Raises ValueError for a negative value, a jitter above the delay, a loss outside 0 to 100, a rate of zero.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    rate_mbps: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no link can do."""
        if not 0 <= self.jitter_ms <= self.delay_ms:
            raise ValueError(f"jitter {self.jitter_ms:g} ms must lie between 0 and the delay, {self.delay_ms:g} ms")
        if not 0 <= self.loss_percent <= 100:
            raise ValueError(f"loss {self.loss_percent:g} % must lie between 0 and 100 %")
        if self.rate_mbps is not None and not self.rate_mbps > 0:
            raise ValueError(f"rate {self.rate_mbps:g} Mbit/s must be above 0; leave it out for no limit")

    @property
    def changes_nothing(self) -> bool:
        """Whether packets pass as if there were no impairment."""
        return not self.delay_ms and not self.loss_percent and self.rate_mbps is None

    def __str__(self) -> str:
        """Say what was requested, for `status`: `12 ms +- 1 ms, loss 0.5 %, 100 Mbit/s`."""
        parts = [f"{self.delay_ms:g} ms" + (f" +- {self.jitter_ms:g} ms" if self.jitter_ms else "")]
        if self.loss_percent:
            parts.append(f"loss {self.loss_percent:g} %")
        if self.rate_mbps is not None:
            parts.append(f"{self.rate_mbps:g} Mbit/s")
        return ", ".join(parts)

    def router_entry(self, link: str, out: str, src: str | None = None) -> RouterEntry:
        """Return the entry for the router that sends into subnet `out`, `src` narrowing it to packets from there."""
        return RouterEntry(
            link=link,
            out=out,
            src=src,
            delay_ms=self.delay_ms,
            jitter_ms=self.jitter_ms,
            loss_percent=self.loss_percent,
            rate_mbps=self.rate_mbps,
        )


def expected_rtt_ms(directions: Iterable[Impairment]) -> float:
    """Return the mean round-trip time of a small packet through `directions`: every one passed, there and back."""
    return sum(direction.delay_ms for direction in directions)


def expected_rtt_jitter_ms(directions: Iterable[Impairment]) -> float:
    """Return by how much a single round trip may differ from the mean."""
    return sum(direction.jitter_ms for direction in directions)


def verdict(requested_rtt_ms: float, measured_rtt_ms: float | None, rtt_jitter_ms: float = 0.0) -> Literal["ok", "off"]:
    """Judge a measured round trip (None: no answer): `ok` within max(2 ms, 15 %) plus the jitter of the round trip."""
    if measured_rtt_ms is None:
        return "off"
    allowed_ms = max(TOLERANCE_MS, TOLERANCE_FRACTION * requested_rtt_ms) + rtt_jitter_ms
    return "ok" if abs(measured_rtt_ms - requested_rtt_ms) <= allowed_ms else "off"
