"""Sending many parcels again: several at once to each neighbour, so that a slow one holds up nobody else."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

from node.core.keys import Parcel
from node.core.ports import Background
from node.errors import KmstnError

log = logging.getLogger("kmstn.relay")

AT_ONCE = 16

_Resend = Callable[[Parcel], Coroutine[Any, Any, None]]


class Resending:
    """Parcels that wait to be sent again, by the neighbour that they were last sent to."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._queues: dict[str, deque[tuple[Parcel, _Resend]]] = {}
        self._workers: Counter[str] = Counter()
        self._unfinished: set[str] = set()

    def begin(self, parcel: Parcel, resend: _Resend) -> None:
        """Have it sent when its turn comes; one that waits, or is being sent, is left at that."""
        if parcel.parcel_id in self._unfinished:
            return
        self._unfinished.add(parcel.parcel_id)
        neighbour = parcel.downstream
        self._queues.setdefault(neighbour, deque()).append((parcel, resend))
        if self._workers[neighbour] < AT_ONCE:
            self._workers[neighbour] += 1
            self._background.spawn(self._work(neighbour))

    async def _work(self, neighbour: str) -> None:
        queue = self._queues[neighbour]
        try:
            while queue:
                await self._send(*queue.popleft())
        finally:
            self._workers[neighbour] -= 1

    async def _send(self, parcel: Parcel, resend: _Resend) -> None:
        """One that fails must not keep the others of its neighbour waiting."""
        try:
            await resend(parcel)
        except KmstnError as error:
            log.error("parcel %s was not sent again: %s", parcel.parcel_id, error)
        except Exception:
            log.exception("parcel %s was not sent again", parcel.parcel_id)
        finally:
            self._unfinished.discard(parcel.parcel_id)
