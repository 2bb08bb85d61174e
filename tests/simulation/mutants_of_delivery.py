"""Broken order of events: promises before they are durable, repeats that repeat too much, voids that are forgotten."""

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from node.core.assembly import Core
from node.core.hop import HopTransport, Incoming
from node.core.key_delivery import KeyDelivery
from node.core.key_request import KeyOrder
from node.core.keys import Direction, KeyBlock, Parcel
from node.core.link_key_stock import LinkKeyStock
from node.core.outcomes import Outcome, acknowledgement
from node.core.ports import Ledger
from node.core.relay import Relay
from node.errors import KmstnError
from node.wire.etsi020 import AckStatus, ExtKeyContainer
from node.wire.federation import LinkKeyAnnouncement, LinkKeyHoldings


def send_before_commit() -> list[tuple[Any, str, Any]]:
    """A transfer leaves, then the books are written."""

    async def send(self: Relay, parcel: Parcel, prepare: Any) -> Any:
        route = self._federation.route_to(parcel.end_to_end.destination)
        dispatch = self._dispatch(route.next_hop, parcel.purpose)
        parcel = replace(parcel, downstream=route.next_hop)
        early: list[tuple[Parcel, ExtKeyContainer]] = []

        def try_out(ledger: Ledger) -> None:
            ready = prepare(ledger, parcel)
            early.append((ready, self._protect(ledger, ready, dispatch)))
            raise _UndoneError

        with contextlib.suppress(_UndoneError):
            await self._world.store.transact(try_out)
        sent, container = early[0]
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._back.awaited[sent.key_ids[0]] = outcome, sent.expires_at
        self._world.background.spawn(self._transfer(sent, container))
        await self._world.clock.sleep(0.001)

        def begin(ledger: Ledger) -> None:
            ready = prepare(ledger, parcel)
            self._protect(ledger, ready, dispatch)
            ledger.add_parcel(sent)

        await self._world.store.transact(begin)
        return outcome

    return [(Relay, "send", send)]


def answer_before_commit() -> list[tuple[Any, str, Any]]:
    """The master has its keys before anything is in the books."""
    whole = KeyDelivery.__dict__["_send_wrapped"]

    async def send(self: KeyDelivery, order: KeyOrder, keys: tuple[KeyBlock, ...], share: Any) -> None:
        self._world.background.spawn(_quietly(whole(self, order, keys, share)))

    return [(KeyDelivery, "_send_wrapped", send)]


def accept_before_commit() -> list[tuple[Any, str, Any]]:
    """A neighbour hears 202 before the acceptance is durable: a crash loses it."""
    whole = Relay.__dict__["accept"]

    async def accept(self: Relay, sender: str, incoming: Incoming) -> None:
        self._world.background.spawn(_quietly(whole(self, sender, incoming)))

    return [(Relay, "accept", accept)]


def acknowledge_before_storing() -> list[tuple[Any, str, Any]]:
    """The destination says `relayed`, then it stores."""
    whole = Relay.__dict__["_arrive"]

    async def arrive(self: Relay, sender: str, incoming: Incoming) -> None:
        await self._back._tell(sender, _relayed(incoming))
        await whole(self, sender, incoming)

    return [(Relay, "_arrive", arrive)]


def transit_acknowledges_itself() -> list[tuple[Any, str, Any]]:
    """A node on the way says `relayed` as soon as it has taken over."""
    whole = Relay.__dict__["_pass_on"]

    async def pass_on(self: Relay, sender: str, incoming: Incoming, next_hop: str) -> None:
        await whole(self, sender, incoming, next_hop)
        self._world.background.spawn(self._back._tell(sender, _relayed(incoming)))

    return [(Relay, "_pass_on", pass_on)]


def repeat_with_the_same_link_keys() -> list[tuple[Any, str, Any]]:
    """A transfer is repeated under a new ID, with the link keys of the first attempt."""
    whole, taken = HopTransport.__dict__["_take"], {}

    def take(self: HopTransport, ledger: Any, parcel: Parcel, link: Any, dispatch: Any) -> Any:
        place = (self._node, parcel.parcel_id, link.link)
        if place not in taken:
            taken[place] = whole(self, ledger, parcel, link, dispatch)
        return taken[place]

    return [(HopTransport, "_take", take)]


def repeat_the_same_transfer() -> list[tuple[Any, str, Any]]:
    """A parcel goes out again as the very message that went out before."""
    whole = HopTransport.__dict__["send"]
    messages: dict[tuple[str, str, str], ExtKeyContainer] = {}

    def send(self: HopTransport, ledger: Any, parcel: Parcel, link: Any, dispatch: Any) -> ExtKeyContainer:
        place = (self._node, parcel.parcel_id, link.link)
        if place not in messages:
            messages[place] = whole(self, ledger, parcel, link, dispatch)
        return messages[place]

    return [(HopTransport, "send", send)]


def wrapped_keys_are_sent_once() -> list[tuple[Any, str, Any]]:
    """Nothing that was not acknowledged is sent again, as long as the node runs."""

    async def rest(self: KeyDelivery) -> None:
        while True:
            await self._world.clock.sleep(60.0)

    return [(KeyDelivery, "repeat_overdue", rest)]


def nothing_is_taken_up_after_a_restart() -> list[tuple[Any, str, Any]]:
    """What was under way when a node stopped is left lying."""

    async def resume(_self: Core) -> None:
        return None

    return [(Core, "_resume", resume)]


def voiding_is_forgotten() -> list[tuple[Any, str, Any]]:
    """Keys that are given up are not voided where they were relayed to."""

    async def void(_self: Relay, _parcel: Parcel) -> None:
        return None

    return [(Relay, "_void_downstream", void)]


def answered_keys_are_voided() -> list[tuple[Any, str, Any]]:
    """A wrapped key whose master has it is given up when the next node does not answer."""
    whole = Relay.__dict__["_transfer"]

    async def transfer(self: Relay, parcel: Parcel, container: ExtKeyContainer) -> None:
        await whole(self, parcel, container)
        opened = await self._world.store.transact(lambda ledger: ledger.parcels_of(parcel.key_ids))
        if opened and parcel.upstream is None:
            await self._world.clock.sleep(1.0)
            await self.give_up(parcel, "broken on purpose")

    return [(Relay, "_transfer", transfer)]


def link_keys_are_announced_before_they_are_stored() -> list[tuple[Any, str, Any]]:
    """The other end hears of link keys that a crash may lose."""
    whole = LinkKeyStock.__dict__["_keep"]

    async def keep(self: LinkKeyStock, direction: Direction, keys: Collection[KeyBlock], *, ready: bool) -> None:
        if direction is Direction.OUT and keys:
            key_ids = tuple(key.key_id for key in keys)
            await self._peer.announce_link_keys(LinkKeyAnnouncement(link=self.link, key_ids=key_ids))
        await whole(self, direction, keys, ready=ready)

    return [(LinkKeyStock, "_keep", keep)]


def link_keys_are_confirmed_unseen() -> list[tuple[Any, str, Any]]:
    """The receiver says that it holds whatever was announced."""
    whole = LinkKeyStock.__dict__["announced"]

    async def announced(self: LinkKeyStock, announcement: LinkKeyAnnouncement) -> LinkKeyHoldings:
        await whole(self, announcement)
        return LinkKeyHoldings(held=announcement.key_ids, absent=())

    return [(LinkKeyStock, "announced", announced)]


def absent_link_keys_are_counted() -> list[tuple[Any, str, Any]]:
    """The sender counts on link keys that the receiver said it lacks."""
    from node.storage.ledger import SqliteLedger

    owner: Any = next(base for base in SqliteLedger.__mro__ if "drop_link_keys" in base.__dict__)

    def drop(self: SqliteLedger, key_ids: Collection[str]) -> None:
        self.confirm_link_keys(key_ids)

    return [(owner, "drop_link_keys", drop)]


class _UndoneError(Exception):
    """Undoes a transaction."""


def _relayed(incoming: Incoming) -> Any:
    container = incoming.container
    key_ids = [key.key_id for key in container.keys]
    outcome = Outcome(AckStatus.RELAYED)
    return acknowledgement(key_ids, container.initiator_sae_id, container.target_sae_ids, outcome)


async def _quietly(work: Any) -> None:
    with contextlib.suppress(KmstnError):
        await work
