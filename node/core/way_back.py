"""The way back: what became of parcels, written into the books and told to the node before or to whoever waits here."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any

from node.core.answers import Answer
from node.core.foreign import is_foreign
from node.core.keys import Parcel
from node.core.outcomes import (
    Outcome,
    acknowledgement,
    close_acknowledged,
    close_books,
    fails_as_a_whole,
    is_of,
    is_open,
    seen_from_here,
    weaker,
)
from node.core.ports import Ledger
from node.core.world import World
from node.errors import PeerError, PeerRefusedError
from node.wire.etsi020 import AckContainer, AckStatus

log = logging.getLogger("kmstn.relay")

ACK_ATTEMPTS = 4
RETRY_PAUSE_S = 0.3
# Keys whose books were closed not long ago: being told of them again is nothing to refuse.
SETTLED_REMEMBERED = 20_000


class WayBack:
    """Acknowledgements of one node, in both directions.

    `awaited` by parcel: who waits here, and until when; `answers`: neighbours that wait in synchronous mode;
    `under_way` by first key: parcels in transit since this node started.
    """

    def __init__(
        self,
        world: World,
        send_again_later: Callable[[Parcel], Coroutine[Any, Any, None]],
        void_downstream: Callable[[Parcel], None],
    ) -> None:
        self._world = world
        self._send_again_later = send_again_later
        self._void_downstream = void_downstream
        self.awaited: dict[str, tuple[asyncio.Future[Outcome], float]] = {}
        self.answers: dict[str, Answer] = {}
        self.under_way: dict[str, Parcel] = {}
        # What a foreign KMS is told is on record; `gateway` sees to it.
        self.tell_foreign: Callable[[str, tuple[AckContainer, ...]], None] = lambda _kms, _acks: None
        self._so_far: dict[str, Outcome] = {}
        self._settled: dict[str, None] = {}

    async def settle(self, sender: str, ack: AckContainer, key_ids: list[str], outcome: Outcome) -> bool:
        """Close what these acknowledgements close, in one transaction; keys that did not go through the sender stay.

        One key may go to several nodes, to each for other targets: an acknowledgement is of the parcel for its own.
        In transit, the node before hears of it first: should this node stop before its books are closed, it sends the
        parcel again after its restart, and is told once more what became of it. Returns whether this node knows one of
        the keys, or knew it lately.
        """
        known = self.under_way.get(key_ids[0]) if key_ids else None
        ahead = (
            known is not None
            and known.upstream is not None
            and not is_foreign(known.upstream)
            and known.key_ids == tuple(key_ids)
            and is_of(ack, known, sender)
        )
        if known is not None and ahead:
            self.report(known, seen_from_here(known, outcome), key_ids)

        work = partial(close_acknowledged, ack=ack, sender=sender, outcome=outcome)
        closings, present = await self._world.store.transact(work)
        for closing in closings:
            parcel = closing.parcel
            if closing.owed:
                self._world.background.spawn(self._send_again_later(parcel))
                continue
            self.forget(parcel)
            if not ahead:
                self.report(parcel, seen_from_here(parcel, outcome), closing.key_ids, whole=closing.whole)
            if closing.in_part and fails_as_a_whole(parcel, outcome):
                self._void_downstream(parcel)
        return ahead or present or not key_ids or any(key_id in self._settled for key_id in key_ids)

    async def fail(self, parcel: Parcel, reason: str) -> bool:
        """End a parcel that could not be sent; False if it is not open: acknowledged after all, or sent anew since."""
        outcome = Outcome(AckStatus.FAILED, message=reason)

        def close(ledger: Ledger) -> bool:
            if open_here := is_open(ledger, parcel):
                close_books(ledger, parcel, outcome, parcel.key_ids)
            return open_here

        failed = await self._world.store.transact(close)
        if failed:
            self.forget(parcel)
            self.report(parcel, outcome, parcel.key_ids)
        return failed

    def forget(self, parcel: Parcel) -> None:
        """Note that a parcel is under way no more."""
        self.under_way.pop(parcel.key_ids[0], None)
        self._settled.update(dict.fromkeys(parcel.key_ids))
        while len(self._settled) > SETTLED_REMEMBERED:
            self._settled.pop(next(iter(self._settled)))

    def report(self, parcel: Parcel, outcome: Outcome, key_ids: Collection[str], *, whole: bool = True) -> None:
        """Tell the node before, or whoever waits here: once the `whole` parcel is closed."""
        if parcel.upstream is not None:
            return self.acknowledge(parcel, outcome, key_ids)
        if parcel.parcel_id in self._so_far:
            outcome = weaker(self._so_far.pop(parcel.parcel_id), outcome)
        if not whole and parcel.parcel_id in self.awaited:
            self._so_far[parcel.parcel_id] = outcome
            return None
        awaited, _expiry = self.awaited.pop(parcel.parcel_id, (None, 0.0))
        if awaited is not None and not awaited.done():
            awaited.set_result(outcome)
        return None

    def acknowledge(self, parcel: Parcel, outcome: Outcome, key_ids: Collection[str]) -> None:
        """Say to the node before what became of keys: by a call back, or where it waits, if it waits still."""
        ack = acknowledgement(key_ids, parcel.initiator_sae, parcel.target_saes, outcome)
        if is_foreign(parcel.upstream):
            self.tell_foreign(parcel.upstream or "", (ack,))
        elif not parcel.synchronous:
            self.call(parcel.upstream or "", (ack,))
        elif (answer := self.answers.get(parcel.parcel_id)) is not None:
            answer.take((ack,))

    def call(self, neighbour: str, acks: tuple[AckContainer, ...]) -> None:
        """Call a neighbour back."""
        self._world.background.spawn(self._tell(neighbour, *acks))

    def forget_expired(self, now: float) -> None:
        """Let go of what will not be acknowledged any more."""
        self.under_way = {key: parcel for key, parcel in self.under_way.items() if parcel.expires_at > now}
        self.awaited = {parcel: waiting for parcel, waiting in self.awaited.items() if waiting[1] > now}
        self._so_far = {parcel: outcome for parcel, outcome in self._so_far.items() if parcel in self.awaited}

    async def _tell(self, neighbour: str, *acks: AckContainer) -> None:
        for attempt in range(ACK_ATTEMPTS):
            try:
                return await self._world.neighbour(neighbour).ack(acks)
            except PeerError as error:
                log.warning("%s did not take an acknowledgement: %s", neighbour, error)
                if isinstance(error, PeerRefusedError):
                    return None  # It will say the same again.
            await self._world.clock.sleep(RETRY_PAUSE_S * 2**attempt)
        return None
