"""When each packet of a link is let go, where the kernel has no netem: delay, jitter, loss and rate in user space.

`DelayLine` decides, without clock, socket or randomness of its own; `run` serves every line of a router in one loop
that sleeps in `select` alone. Packets of one line never overtake one another, as in `tc_arguments`.
"""

import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from nfqueue import PacketQueue
from tc_arguments import RATE_QUEUE_MS, Impairment

# So many packets are taken from one queue before the packets that have become due are let go.
_BURST_PACKETS = 64
# The kernel may wake a sleeper this late, in nanoseconds; the default of 50 000 would be felt in every packet.
_TIMER_SLACK_NS = 1000


class DelayLine:
    """The packets of one impairment, first in, first out.

    `unit_random` returns numbers in [0, 1). All times are seconds on one monotonic clock.
    """

    def __init__(self, impairment: Impairment, unit_random: Callable[[], float]) -> None:
        self._delay_s = impairment.delay_ms / 1e3
        self._jitter_s = impairment.jitter_ms / 1e3
        self._loss = impairment.loss_percent / 100
        self._bytes_per_s = None if impairment.rate_mbps is None else impairment.rate_mbps * 1e6 / 8
        self._random = unit_random
        self._line_free_s = 0.0
        self._last_due_s = 0.0
        self._held: deque[tuple[float, int]] = deque()

    def admit(self, packet_id: int, length_bytes: int, now_s: float) -> bool:
        """Take a packet; False means that the link loses it, by chance or because the rate's queue is full."""
        if self._loss and self._random() < self._loss:
            return False
        sent_s = now_s
        if self._bytes_per_s is not None:
            start_s = max(self._line_free_s, now_s)
            if start_s - now_s > RATE_QUEUE_MS / 1e3:
                return False
            sent_s = self._line_free_s = start_s + length_bytes / self._bytes_per_s
        wobble_s = (2 * self._random() - 1) * self._jitter_s if self._jitter_s else 0.0
        self._last_due_s = max(self._last_due_s, sent_s + max(0.0, self._delay_s + wobble_s))
        self._held.append((self._last_due_s, packet_id))
        return True

    def next_due_s(self) -> float | None:
        """Return when the next packet is to go; None while nothing is held."""
        return self._held[0][0] if self._held else None

    def take_due(self, now_s: float) -> int | None:
        """Forget the packets due by `now_s` and return the ID of the last of them; None when there is none."""
        last = None
        while self._held and self._held[0][0] <= now_s:
            last = self._held.popleft()[1]
        return last


def run(lines: Sequence[tuple[PacketQueue, DelayLine]], clock: Callable[[], float] = time.monotonic) -> NoReturn:
    """Serve `lines` for ever. Idle, it waits without a time-out and uses no CPU."""
    _ask_for_exact_timers()
    queues = {queue.fileno(): (queue, line) for queue, line in lines}
    while True:
        ready, _, _ = select.select(list(queues), [], [], _patience_s(lines, clock()))
        for descriptor in ready:
            _receive(*queues[descriptor], clock)
        for queue, line in lines:
            last = line.take_due(clock())
            if last is not None:
                queue.release_up_to(last)


def _patience_s(lines: Sequence[tuple[PacketQueue, DelayLine]], now_s: float) -> float | None:
    due = [due_s for _, line in lines if (due_s := line.next_due_s()) is not None]
    return max(0.0, min(due) - now_s) if due else None


def _receive(queue: PacketQueue, line: DelayLine, clock: Callable[[], float]) -> None:
    def take(packet_id: int, length_bytes: int) -> None:
        if not line.admit(packet_id, length_bytes, clock()):
            queue.drop(packet_id)

    queue.receive(_BURST_PACKETS, take)


def _ask_for_exact_timers() -> None:
    try:
        Path("/proc/self/timerslack_ns").write_text(str(_TIMER_SLACK_NS))
    except OSError:
        return  # Without it packets are some 50 us later.
