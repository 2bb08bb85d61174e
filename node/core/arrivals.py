"""Waiting for keys that are still on their way to this node."""

import asyncio
from collections.abc import Collection


class Arrivals:
    """Wakes those who wait for one of the keys that arrived."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def notify(self, key_ids: Collection[str]) -> None:
        """Wake everyone who waits for one of these keys."""
        for key_id in key_ids:
            for event in self._waiting.get(key_id, ()):
                event.set()

    async def wait(self, key_ids: Collection[str], timeout_s: float) -> bool:
        """Return True as soon as one of the keys arrived, False after the time-out."""
        event = asyncio.Event()
        for key_id in key_ids:
            self._waiting.setdefault(key_id, set()).add(event)
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            return False
        finally:
            self._leave(key_ids, event)
        return True

    def _leave(self, key_ids: Collection[str], event: asyncio.Event) -> None:
        for key_id in key_ids:
            events = self._waiting.get(key_id, set())
            events.discard(event)
            if not events:
                self._waiting.pop(key_id, None)
