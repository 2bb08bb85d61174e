"""Parcels on their way: sent by an origin, forwarded by transit nodes, kept by destinations, acknowledged back.

Acceptance is durable before the neighbour hears 202, and what goes out next is recorded in the same commit. A transfer
is repeated as a new one, with fresh link keys; an identical one is a replay. When an outcome stays unknown the keys
are voided, never used for anything else.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial

from node.core.destination import Destination, ParcelRefusedError
from node.core.federation import Federation
from node.core.hop import Dispatch, HopTransport, Incoming, expected_protection
from node.core.keys import KeyState, Parcel
from node.core.outcomes import (
    Outcome,
    acknowledgement,
    close_books,
    is_still_owed,
    key_ids_between,
    outcome_of,
    void_outcomes,
)
from node.core.ports import Background, Clock, Ledger, PeerNode, Randomness, Store
from node.errors import (
    BadRequestError,
    CannotServeError,
    InsufficientKeyMaterialError,
    NoRouteError,
    PeerError,
    PeerRefusedError,
    PeerUncertainError,
    ReplayedTransferError,
)
from node.wire.etsi020 import AckContainer, AckStatus, ExtKeyContainer, VoidContainer
from node.wire.federation import HYBRID_TRANSPORT, Purpose

log = logging.getLogger("kmstn.relay")

ACK_ATTEMPTS = 4
SEND_ATTEMPTS = 2
RETRY_PAUSE_S = 0.3
OWED_PAUSE_S = 2.0
LONGEST_LIFETIME_S = 86_400.0


@dataclass(frozen=True, slots=True)
class World:
    """What the relay needs from outside, in one place."""

    store: Store
    clock: Clock
    randomness: Randomness
    background: Background
    peers: dict[str, PeerNode]


class Relay:
    """The relay of one node."""

    def __init__(
        self,
        node: str,
        callback_url: str,
        federation: Federation,
        hops: HopTransport,
        destination: Destination,
        world: World,
    ) -> None:
        self._node = node
        self._callback_url = callback_url
        self._federation = federation
        self._hops = hops
        self._destination = destination
        self._world = world
        self._awaited: dict[str, tuple[asyncio.Future[Outcome], float]] = {}
        self._under_way: dict[str, Parcel] = {}
        self._void_routes: dict[str, str] = {}
        self.on_arrival: Callable[[Collection[str]], None] = lambda _key_ids: None
        self.pool_reserve = 0

    async def send(self, parcel: Parcel, prepare: Callable[[Ledger, Parcel], Parcel]) -> "asyncio.Future[Outcome]":
        """Start a parcel on its way: returns, once its first hop is durable, what will hold its outcome.

        `prepare` completes the parcel in the same transaction (seals it, takes pool blocks, writes records).
        Raises CannotServeError when it cannot leave; nothing is kept then.
        """
        route = self._federation.route_to(parcel.end_to_end.destination)
        dispatch = self._dispatch(route.next_hop, parcel.purpose)
        parcel = replace(parcel, downstream=route.next_hop)

        def begin(ledger: Ledger) -> tuple[Parcel, ExtKeyContainer]:
            ready = prepare(ledger, parcel)
            container = self._protect(ledger, ready, dispatch)
            ledger.add_parcel(ready)
            return ready, container

        sent, container = await self._world.store.transact(begin)
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._awaited[sent.parcel_id] = outcome, sent.expires_at
        self._world.background.spawn(self._transfer(sent, container))
        return outcome

    async def accept(self, sender: str, incoming: Incoming) -> None:
        """Take over a transfer from a neighbour; durable when this returns.

        Raises BadRequestError (nothing kept), or CannotServeError.
        """
        end, header, container = incoming.end_to_end, incoming.header, incoming.container
        now = self._world.clock.now()
        if not now < header.expires_at <= now + LONGEST_LIFETIME_S:
            raise BadRequestError("the transfer has expired, or would live too long", {HYBRID_TRANSPORT: "expires_at"})
        if end.destination == self._node:
            parties = (container.initiator_sae_id, *container.target_sae_ids)
            self._federation.check_origin(header.purpose, header.path, end.origin, parties)
            return await self._arrive(sender, incoming)
        try:
            route = self._federation.route_to(end.destination, avoid=sender)
        except NoRouteError as error:
            slug, known = "key-routing-error", self._federation.routing.route(end.destination)
            if known is not None:
                raise BadRequestError(str(error), {"invalid_routing": "leads back"}, slug=slug) from error
            raise
        return await self._pass_on(sender, incoming, route.next_hop)

    async def acknowledged(self, sender: str, acks: Collection[AckContainer]) -> None:
        """Take over what a neighbour says of keys that went out through it, and tell the node before."""
        # All are read before the first is acted upon: a request that is refused has changed nothing.
        for ack, outcome in [(ack, outcome_of(ack)) for ack in acks]:
            key_ids = [entry.key_id for entry in ack.key_id_container]
            if ack.ack_status in (AckStatus.RELAYED, AckStatus.FAILED):
                await self._settle(sender, ack, key_ids, outcome)
            else:
                self._pass_void_ack(ack, key_ids)

    async def void(self, sender: str, request: VoidContainer) -> None:
        """Take over a request to void keys: here if their targets are at home here, else towards their home."""
        home = self._federation.end_of(request.target_sae_ids[0])
        key_ids = request.key_ids
        if home == self._node:
            await self._void_here(sender, request)
            return
        next_hop = self._federation.route_to(home, avoid=sender).next_hop
        self._void_routes.update(dict.fromkeys(key_ids, sender))
        while len(self._void_routes) > 10_000:
            self._void_routes.pop(next(iter(self._void_routes)))
        self._world.background.spawn(self._send_void(next_hop, request))

    async def give_up(self, parcel: Parcel, reason: str) -> None:
        """End an own parcel whose outcome is unknown: voided along its way, its keys never used."""
        await self._finish(parcel, Outcome(AckStatus.FAILED, message=reason), parcel.key_ids)
        await self._void_downstream(parcel)

    async def resume(self, parcel: Parcel) -> None:
        """Send an open parcel again, as a new transfer: after a restart, or when its acknowledgement is overdue."""
        try:
            again = replace(
                parcel,
                downstream=self._federation.route_to(parcel.end_to_end.destination, avoid=parcel.upstream).next_hop,
            )
            container = await self._world.store.transact(partial(self._redirect, parcel=again))
        except CannotServeError as error:
            log.info("parcel %s waits: %s", parcel.parcel_id, error)
            return
        if container is not None:
            await self._transfer(again, container)

    async def take_up(self, parcel: Parcel) -> None:
        """Go on, after a restart, with a parcel whose outcome is not known.

        Transit and wrapped keys go out again. Nobody waits any more for blocks and keys of this node's own: voided.
        """
        if parcel.upstream is not None or parcel.purpose is Purpose.WRAPPED_KEY:
            await self.resume(parcel)
        else:
            await self.give_up(parcel, "the origin restarted")

    async def void_own(self, parcel: Parcel) -> None:
        """Have keys of this node voided where they were relayed to."""
        route = self._federation.route_to(parcel.end_to_end.destination)
        await self._void_downstream(replace(parcel, downstream=route.next_hop))

    # The way out.

    def _dispatch(self, neighbour: str, purpose: Purpose) -> Dispatch:
        reserve = self.pool_reserve if purpose is Purpose.POOL_BLOCK else 0
        return Dispatch(self._world.randomness.uuid(), self._federation.hop_key(neighbour), self._callback_url, reserve)

    def _protect(self, ledger: Ledger, parcel: Parcel, dispatch: Dispatch) -> ExtKeyContainer:
        return self._hops.send(ledger, parcel, self._federation.link_to(parcel.downstream), dispatch)

    def _redirect(self, ledger: Ledger, parcel: Parcel) -> ExtKeyContainer | None:
        open_here = ledger.parcels_of(parcel.key_ids)
        if set(open_here) != set(parcel.key_ids) or {one.parcel_id for one in open_here.values()} != {parcel.parcel_id}:
            return None
        container = self._protect(ledger, parcel, self._dispatch(parcel.downstream, parcel.purpose))
        ledger.acknowledge(parcel.key_ids)
        ledger.add_parcel(parcel)
        return container

    async def _transfer(self, parcel: Parcel, container: ExtKeyContainer) -> None:
        """Send until the neighbour took it or refused it, or the attempts are used up."""
        message = ""
        for attempt in range(SEND_ATTEMPTS):
            try:
                if attempt:
                    await self._world.clock.sleep(RETRY_PAUSE_S)
                    again = await self._world.store.transact(partial(self._redirect, parcel=parcel))
                    if again is None:
                        return
                    container = again
                await self._world.peers[parcel.downstream].ext_keys(container)
                return
            except PeerRefusedError as error:
                log.warning("%s refused keys from %s: %s", parcel.downstream, parcel.end_to_end.origin, error)
                await self._doubt(parcel, str(error))
                if parcel.purpose is Purpose.WRAPPED_KEY and parcel.upstream is None:
                    return  # The master holds the key: `delivery` repeats the parcel, with a newer KEM key.
                await self._fail(parcel, str(error))
                return
            except (PeerUncertainError, CannotServeError) as error:
                log.warning("%s may have taken keys: %s", parcel.downstream, error)
                message = str(error)
        if parcel.purpose is Purpose.WRAPPED_KEY and parcel.upstream is None:
            return  # As above.
        # The master may hold a wrapped key, so that is not voided: its origin sends it again until it expires.
        if await self._fail(parcel, message) and parcel.purpose is not Purpose.WRAPPED_KEY:
            await self._void_downstream(parcel)

    async def _send_again_later(self, parcel: Parcel) -> None:
        await self._world.clock.sleep(OWED_PAUSE_S)
        if self._world.clock.now() < parcel.expires_at:
            await self.resume(parcel)

    async def _doubt(self, parcel: Parcel, refusal: str) -> None:
        """Have all link keys of a link confirmed anew when the other end lacks one: it may have lost its store."""
        if "link_key_ids" in refusal:
            link = self._federation.link_to(parcel.downstream).link
            await self._world.store.transact(lambda ledger: ledger.doubt_link_keys(link))

    # The way in.

    async def _arrive(self, sender: str, incoming: Incoming) -> None:
        link = self._federation.link_to(sender)

        def keep(ledger: Ledger) -> Outcome:
            self._first_time(ledger, sender, incoming)
            parcel = self._hops.receive(ledger, incoming, link)
            protection = expected_protection(link.kind, parcel.purpose)
            here = replace(parcel, path=(*parcel.path, self._node), protections=(*parcel.protections, protection))
            try:
                self._destination.keep(ledger, here)
            except ParcelRefusedError as error:
                return Outcome(AckStatus.FAILED, here.path, here.protections, str(error))
            return Outcome(AckStatus.RELAYED, here.path, here.protections)

        outcome = await self._world.store.transact(keep)
        key_ids = [key.key_id for key in incoming.container.keys]
        if outcome.status is AckStatus.FAILED:
            log.warning("keys from %s refused: %s", incoming.end_to_end.origin, outcome.message)
        else:
            self.on_arrival(key_ids)
        container = incoming.container
        ack = acknowledgement(key_ids, container.initiator_sae_id, container.target_sae_ids, outcome)
        self._world.background.spawn(self._tell(sender, ack))

    async def _pass_on(self, sender: str, incoming: Incoming, next_hop: str) -> None:
        link = self._federation.link_to(sender)
        dispatch = self._dispatch(next_hop, incoming.header.purpose)

        def take_over(ledger: Ledger) -> tuple[Parcel, ExtKeyContainer | None, str]:
            self._first_time(ledger, sender, incoming)
            parcel = self._hops.receive(ledger, incoming, link)
            protection = expected_protection(link.kind, parcel.purpose)
            ours = replace(
                parcel,
                path=(*parcel.path, self._node),
                protections=(*parcel.protections, protection),
                downstream=next_hop,
            )
            try:
                container = self._protect(ledger, ours, dispatch)
            except InsufficientKeyMaterialError as error:
                return ours, None, str(error)
            if ledger.parcels_of(parcel.key_ids):
                # Sent again: what became of it was not heard of. It is passed on again, and its end hears it once more.
                ledger.acknowledge(parcel.key_ids)
            ledger.add_parcel(ours)
            return ours, container, ""

        parcel, container, shortage = await self._world.store.transact(take_over)
        if shortage:
            raise InsufficientKeyMaterialError(shortage)
        if container is not None:
            self._under_way[parcel.key_ids[0]] = parcel
            self._world.background.spawn(self._transfer(parcel, container))

    def _first_time(self, ledger: Ledger, sender: str, incoming: Incoming) -> None:
        if not ledger.remember_transfer(incoming.header.transfer_id, sender, incoming.header.expires_at):
            raise ReplayedTransferError(f"transfer {incoming.header.transfer_id} was accepted before")

    # The way back.

    async def _settle(self, sender: str, ack: AckContainer, key_ids: list[str], outcome: Outcome) -> None:
        """Close what these acknowledgements close, in one transaction; keys that did not go through the sender stay.

        One key may go to several nodes, to each for other targets: an acknowledgement is of the parcel for its own.
        In transit, the node before hears of it first: should this node stop before its books are closed, it sends the
        parcel again after its restart, and is told once more what became of it.
        """
        known = self._under_way.get(key_ids[0]) if key_ids else None
        ahead = (
            known is not None
            and known.upstream is not None
            and known.key_ids == tuple(key_ids)
            and _is_of(ack, known, sender)
        )
        if known is not None and ahead:
            self._report(known, outcome, key_ids)

        def close(ledger: Ledger) -> list[tuple[Parcel, list[str]]]:
            groups: dict[str, tuple[Parcel, list[str]]] = {}
            for key_id, parcel in ledger.parcels_of(key_ids).items():
                if _is_of(ack, parcel, sender):
                    groups.setdefault(parcel.parcel_id, (parcel, []))[1].append(key_id)
            for parcel, its_keys in groups.values():
                if not is_still_owed(parcel, outcome):
                    close_books(ledger, parcel, outcome, its_keys)
            return list(groups.values())

        for parcel, its_keys in await self._world.store.transact(close):
            if is_still_owed(parcel, outcome):
                self._world.background.spawn(self._send_again_later(parcel))
                continue
            self._forget(parcel)
            if not ahead:
                self._report(parcel, outcome, its_keys)

    async def _finish(self, parcel: Parcel, outcome: Outcome, key_ids: Collection[str]) -> None:
        await self._world.store.transact(partial(close_books, parcel=parcel, outcome=outcome, key_ids=key_ids))
        self._forget(parcel)
        self._report(parcel, outcome, key_ids)

    async def _fail(self, parcel: Parcel, reason: str) -> bool:
        """End a parcel that could not be sent; False if it is not open: acknowledged after all, or sent anew since."""
        outcome = Outcome(AckStatus.FAILED, message=reason)

        def close(ledger: Ledger) -> bool:
            open_here = {one.parcel_id for one in ledger.parcels_of(parcel.key_ids).values()} == {parcel.parcel_id}
            if open_here:
                close_books(ledger, parcel, outcome, parcel.key_ids)
            return open_here

        failed = await self._world.store.transact(close)
        if failed:
            self._forget(parcel)
            self._report(parcel, outcome, parcel.key_ids)
        return failed

    def _forget(self, parcel: Parcel) -> None:
        self._under_way.pop(parcel.key_ids[0], None)

    def _report(self, parcel: Parcel, outcome: Outcome, key_ids: Collection[str]) -> None:
        """Tell the node before, or whoever waits here."""
        if parcel.upstream is not None:
            ack = acknowledgement(key_ids, parcel.initiator_sae, parcel.target_saes, outcome)
            self._world.background.spawn(self._tell(parcel.upstream, ack))
        else:
            awaited, _expiry = self._awaited.pop(parcel.parcel_id, (None, 0.0))
            if awaited is not None and not awaited.done():
                awaited.set_result(outcome)

    def forget_expired(self, now: float) -> None:
        """Let go of what will not be acknowledged any more."""
        self._under_way = {key: parcel for key, parcel in self._under_way.items() if parcel.expires_at > now}
        self._awaited = {parcel: waiting for parcel, waiting in self._awaited.items() if waiting[1] > now}

    async def _tell(self, neighbour: str, ack: AckContainer) -> None:
        for attempt in range(ACK_ATTEMPTS):
            try:
                return await self._world.peers[neighbour].ack((ack,))
            except PeerError as error:
                log.warning("%s did not take an acknowledgement: %s", neighbour, error)
            await self._world.clock.sleep(RETRY_PAUSE_S * 2**attempt)
        return None

    # Voiding.

    async def _void_here(self, sender: str, request: VoidContainer) -> None:
        """Void, durably; what came of it is told in the background."""
        initiator, targets = request.initiator_sae_id, request.target_sae_ids

        def drop(ledger: Ledger) -> dict[str, KeyState | None]:
            key_ids = request.key_ids or key_ids_between(ledger, initiator, targets)
            return {key_id: self._destination.void(ledger, key_id, initiator) for key_id in key_ids}

        states = await self._world.store.transact(drop)
        for status, group in void_outcomes(states).items():
            ack = acknowledgement(group, initiator, targets, Outcome(status))
            self._world.background.spawn(self._tell(sender, ack))

    async def _void_downstream(self, parcel: Parcel) -> None:
        request = VoidContainer(
            key_ids=parcel.key_ids,
            initiator_sae_id=parcel.initiator_sae,
            target_sae_ids=parcel.target_saes,
            ack_callback_url=self._callback_url,
        )
        await self._send_void(parcel.downstream, request)

    async def _send_void(self, neighbour: str, request: VoidContainer) -> None:
        ours = request.model_copy(update={"ack_callback_url": self._callback_url})
        try:
            await self._world.peers[neighbour].void(ours)
        except PeerError as error:
            log.warning("%s did not take a request to void keys: %s", neighbour, error)

    def _pass_void_ack(self, ack: AckContainer, key_ids: list[str]) -> None:
        upstreams = {self._void_routes.pop(key_id, None) for key_id in key_ids} - {None}
        for upstream in upstreams:
            if upstream is not None:
                self._world.background.spawn(self._tell(upstream, ack))


def _is_of(ack: AckContainer, parcel: Parcel, sender: str) -> bool:
    """Tell whether an acknowledgement is of this parcel, from the neighbour that it was sent to."""
    parties = (ack.initiator_sae_id, frozenset(ack.target_sae_ids))
    return parcel.downstream == sender and parties == (parcel.initiator_sae, frozenset(parcel.target_saes))
