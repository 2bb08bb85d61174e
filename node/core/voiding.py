"""Requests to void keys: met where their targets are at home, passed on towards there, their outcomes told on the way
back. What is voided before it arrives is remembered by `destination`, so a request may overtake the transfer.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial

from node.core.answers import Reply
from node.core.destination import Destination
from node.core.federation import Federation
from node.core.keys import KeyState
from node.core.outcomes import Outcome, acknowledgement, void_outcomes
from node.core.ports import Clock, Ledger, PeerNode, Store
from node.errors import BadRequestError, PeerError, PeerRefusedError, PeerUnauthorisedError
from node.wire.etsi020 import MAX_KEYS, AckContainer, AckStatus, KeyIdEntry, VoidContainer

log = logging.getLogger("kmstn.relay")

REMEMBERED = 10_000
# Keys that were voided before they came, of all initiators.
VOIDS_REMEMBERED = 100_000
# Keys voided in one transaction.
SLICE = 500
ATTEMPTS = 7
PAUSE_S = 0.3

_Parties = tuple[str, frozenset[str]]


class Voids:
    """The requests to void keys that pass through one node, or end at it."""

    def __init__(
        self, node: str, callback_url: str, federation: Federation, destination: Destination, clock: Clock
    ) -> None:
        self._node = node
        self._callback_url = callback_url
        self._federation = federation
        self._destination = destination
        self._clock = clock
        self._replies: dict[str | _Parties, Reply] = {}

    def next_hop(self, sender: str, request: VoidContainer) -> str | None:
        """Return which neighbour a request goes on to, None if it ends here.

        Raises BadRequestError (it leads back, or is ambiguous), NoRouteError.
        """
        homes = {self._federation.end_of(target) for target in request.target_sae_ids}
        home = homes.pop()
        wrong = {}
        if homes:
            wrong = {"target_sae_ids": "are at home at several nodes: one request for each"}
        elif not request.key_ids and home in request.target_sae_ids:
            wrong = {"key_ids": "blocks shared by nodes are voided by their IDs only"}
        if wrong:
            raise BadRequestError("it is not clear what to void", wrong, slug="void-request-not-understood")
        if home == self._node:
            kms = None if home in request.target_sae_ids else self._federation.foreign_kms_of(request.target_sae_ids)
            if kms is not None and kms == sender:
                leads = {"invalid_routing": "leads back to the sender"}
                raise BadRequestError("the targets are the sender's own", leads, slug="key-routing-error")
            return kms
        return self._federation.onward(home, sender).next_hop

    async def here(self, store: Store, request: VoidContainer) -> tuple[AckContainer, ...]:
        """Void, durably, some in each transaction, so that others are served between; returns what came of it."""
        initiator, targets = request.initiator_sae_id, request.target_sae_ids

        states: dict[str, KeyState | None] = {}
        for begin in range(0, len(request.key_ids), SLICE):
            named = request.key_ids[begin : begin + SLICE]
            states |= await store.transact(partial(self._drop, key_ids=named, initiator=initiator))

        def drop_some(ledger: Ledger, after: str) -> tuple[dict[str, KeyState | None], str | None]:
            key_ids, last = ledger.some_key_ids_between(initiator, targets, after, SLICE)
            return self._drop(ledger, key_ids, initiator), last

        after = None if request.key_ids else ""
        while after is not None:
            some, after = await store.transact(partial(drop_some, after=after))
            states |= some
        # Where there was nothing to void, that is an outcome too.
        outcomes = void_outcomes(states) or {AckStatus.VOIDED: []}
        return tuple(
            acknowledgement(part, initiator, targets, Outcome(status))
            for status, group in outcomes.items()
            for part in _parts(group)
        )

    def _drop(self, ledger: Ledger, key_ids: Sequence[str], initiator: str) -> dict[str, KeyState | None]:
        states = {key_id: self._destination.void(ledger, key_id, initiator) for key_id in key_ids}
        ledger.forget_voids(VOIDS_REMEMBERED)
        return states

    async def send(self, neighbour: PeerNode, request: VoidContainer, reply: Reply | None = None) -> None:
        """Pass a request on, whatever is answered."""
        await self.ask(neighbour, request, reply)

    async def ask(self, neighbour: PeerNode, request: VoidContainer, reply: Reply | None = None) -> bool:
        """Pass a request on, in asynchronous mode, some times until it is taken; `reply` hears of the outcomes.

        Returns whether it was answered, be it by a refusal.
        """
        if reply is not None:
            parties = (request.initiator_sae_id, frozenset(request.target_sae_ids))
            self._replies.update(dict.fromkeys(request.key_ids or (parties,), reply))
            while len(self._replies) > REMEMBERED:
                self._replies.pop(next(iter(self._replies)))
        ours = request.model_copy(update={"ack_callback_url": self._callback_url})
        for attempt in range(ATTEMPTS):
            try:
                await neighbour.void(ours)
                return True
            except PeerError as error:
                log.warning("a request to void keys was not taken: %s", error)
                if isinstance(error, PeerRefusedError) and not isinstance(error, PeerUnauthorisedError):
                    return True  # It will say the same again.
            await self._clock.sleep(PAUSE_S * 2**attempt)
        return False

    def acknowledged(self, ack: AckContainer) -> None:
        """Tell an outcome to whoever asked for it: for these keys, or for all between these SAEs."""
        of_all = self._replies.get((ack.initiator_sae_id, frozenset(ack.target_sae_ids)))
        replies: dict[Reply, list[KeyIdEntry]] = {} if of_all is None or ack.key_id_container else {of_all: []}
        for entry in ack.key_id_container:
            reply = self._replies.pop(entry.key_id, of_all)
            if reply is not None:
                replies.setdefault(reply, []).append(entry)
        for reply, entries in replies.items():
            reply((ack.model_copy(update={"key_id_container": tuple(entries)}),))


def _parts(key_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split what one acknowledgement cannot name; what is empty stays one part."""
    for begin in range(0, max(len(key_ids), 1), MAX_KEYS):
        yield key_ids[begin : begin + MAX_KEYS]
