"""An event loop whose clock jumps: whenever nothing is ready, it is at once the time of the next timer."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from heapq import heappop
from typing import Any, TypeVar

T = TypeVar("T")


class StandstillError(Exception):
    """Nothing is ready and no timer is set: whatever is waited for will never come."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Begins at 0 s; no sockets, no threads, no real waiting."""

    _ready: deque[Any]
    _scheduled: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self._virtual_now = 0.0

    def time(self) -> float:
        """Return virtual seconds."""
        return self._virtual_now

    def _run_once(self) -> None:
        """Run what is ready; if nothing is, it is the time of the next timer. Raises StandstillError."""
        ready, timers = self._ready, self._scheduled
        while timers and timers[0]._cancelled:
            heappop(timers)._scheduled = False
        if not ready:
            if not timers:
                raise StandstillError
            self._virtual_now = max(self._virtual_now, timers[0]._when)
        while timers and timers[0]._when <= self._virtual_now:
            timer = heappop(timers)
            timer._scheduled = False
            if not timer._cancelled:
                ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """Nobody sleeps, so nobody needs waking."""


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time; what is still under way then is cancelled."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(work)
    finally:
        leftovers = asyncio.all_tasks(loop)
        for task in leftovers:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*leftovers, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()
