"""Requests to void keys: met where their targets are at home, passed on towards there, their outcomes told on the way
back. What is voided before it arrives is remembered by `destination`, so a request may overtake the transfer.
"""

import logging
from collections.abc import Iterator, Sequence

from node.core.answers import Reply
from node.core.destination import Destination
from node.core.federation import Federation
from node.core.keys import KeyState
from node.core.outcomes import Outcome, acknowledgement, key_ids_between, void_outcomes
from node.core.ports import Clock, Ledger, PeerNode, Store
from node.errors import BadRequestError, PeerError, PeerRefusedError
from node.wire.etsi020 import MAX_KEYS, AckContainer, AckStatus, KeyIdEntry, VoidContainer

log = logging.getLogger("kmstn.relay")

REMEMBERED = 10_000
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
        return None if home == self._node else self._federation.onward(home, sender).next_hop

    async def here(self, store: Store, request: VoidContainer) -> tuple[AckContainer, ...]:
        """Void, durably; returns what came of it."""
        initiator, targets = request.initiator_sae_id, request.target_sae_ids

        def drop(ledger: Ledger) -> dict[str, KeyState | None]:
            key_ids = request.key_ids or key_ids_between(ledger, initiator, targets)
            return {key_id: self._destination.void(ledger, key_id, initiator) for key_id in key_ids}

        # Where there was nothing to void, that is an outcome too.
        outcomes = void_outcomes(await store.transact(drop)) or {AckStatus.VOIDED: []}
        return tuple(
            acknowledgement(part, initiator, targets, Outcome(status))
            for status, group in outcomes.items()
            for part in _parts(group)
        )

    async def send(self, neighbour: PeerNode, request: VoidContainer, reply: Reply | None = None) -> None:
        """Pass a request on, in asynchronous mode, some times until it is taken; `reply` hears of the outcomes."""
        if reply is not None:
            parties = (request.initiator_sae_id, frozenset(request.target_sae_ids))
            self._replies.update(dict.fromkeys(request.key_ids or (parties,), reply))
            while len(self._replies) > REMEMBERED:
                self._replies.pop(next(iter(self._replies)))
        ours = request.model_copy(update={"ack_callback_url": self._callback_url})
        for attempt in range(ATTEMPTS):
            try:
                return await neighbour.void(ours)
            except PeerError as error:
                log.warning("a request to void keys was not taken: %s", error)
                if isinstance(error, PeerRefusedError):
                    return None  # It will say the same again.
            await self._clock.sleep(PAUSE_S * 2**attempt)
        return None

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
