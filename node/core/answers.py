"""Synchronous mode of ETSI GS QKD 020: a neighbour that gave no callback waits for the outcome of its request.

It is answered once every key it named has an outcome, or with a time-out; it is never called back. A reply is where
outcomes go, whether to a neighbour that waits or to the callback of one that does not.
"""

import asyncio
from collections.abc import Callable, Collection

from node.errors import OutcomeUnknownError
from node.wire.etsi020 import AckContainer

Reply = Callable[[tuple[AckContainer, ...]], None]


class Answer:
    """The answer to one request, as it grows; `take` is its `Reply`. Without named keys, the first reply is all."""

    def __init__(self, key_ids: Collection[str]) -> None:
        self._missing = set(key_ids)
        self._acks: list[AckContainer] = []
        self._complete = asyncio.Event()

    def take(self, acks: tuple[AckContainer, ...]) -> None:
        """Add outcomes."""
        self._acks += acks
        self._missing.difference_update(entry.key_id for ack in acks for entry in ack.key_id_container)
        if not self._missing:
            self._complete.set()

    async def within(self, timeout_s: float) -> tuple[AckContainer, ...]:
        """Return the whole answer; raises OutcomeUnknownError if it is not complete in time."""
        try:
            await asyncio.wait_for(self._complete.wait(), timeout_s)
        except TimeoutError:
            raise OutcomeUnknownError(f"the outcome is not known after {timeout_s:g} s") from None
        return tuple(self._acks)
