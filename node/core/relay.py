"""Parcels on their way: sent by an origin, forwarded by transit nodes, kept by destinations, acknowledged back.

Acceptance is durable before the neighbour hears 202, and what goes out next is recorded in the same commit. A transfer
is repeated as a new one, with fresh link keys; an identical one is a replay. A session key, for which an SAE waits,
goes in synchronous mode first: its outcome comes with the answer. All else, and every repeat, is asynchronous.
When an outcome stays unknown the keys are voided, never used for anything else.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from node.core.answers import Answer
from node.core.destination import Destination, ParcelRefusedError
from node.core.federation import Federation
from node.core.foreign import is_foreign
from node.core.handing_out import outcome_before, plain_transfer, sent_keys
from node.core.hop import Dispatch, HopTransport, Incoming, expected_protection
from node.core.keys import Parcel
from node.core.outcomes import (
    Outcome,
    close_books,
    is_given_up,
    is_open,
    keep_to_void,
    outcome_of,
)
from node.core.ports import Ledger, PeerNode
from node.core.voiding import Voids
from node.core.way_back import WayBack
from node.core.world import World
from node.errors import (
    BadRequestError,
    CannotServeError,
    InsufficientKeyMaterialError,
    NoRouteError,
    PeerRefusedError,
    PeerUncertainError,
    ReplayedTransferError,
)
from node.wire.etsi020 import AckContainer, AckStatus, ExtKeyContainer, VoidContainer
from node.wire.federation import HYBRID_TRANSPORT, Purpose

log = logging.getLogger("kmstn.relay")

SEND_ATTEMPTS = 2
RETRY_PAUSE_S = 0.3
OWED_PAUSE_S = 2.0
LONGEST_LIFETIME_S = 86_400.0


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
        self._back = WayBack(world, self._send_again_later, self._void_downstream)
        self._resumed: set[str] = set()
        self._owed: set[str] = set()
        self._voids = Voids(node, callback_url, federation, destination, world.clock)
        self.on_arrival: Callable[[Collection[str]], None] = lambda _key_ids: None
        self.pool_reserve = 0
        self.synchronous_transfers = False
        self.answer_timeout_s = 8.0

    async def send(self, parcel: Parcel, prepare: Callable[[Ledger, Parcel], Parcel]) -> "asyncio.Future[Outcome]":
        """Start a parcel on its way: returns, once its first hop is durable, what will hold its outcome.

        `prepare` completes the parcel in the same transaction (seals it, takes pool blocks, writes records).
        Raises CannotServeError when it cannot leave; nothing is kept then.
        """
        route = self._federation.route_to(parcel.end_to_end.destination)
        dispatch = self._dispatch(route.next_hop, parcel.purpose, at_once=True)
        parcel = replace(parcel, downstream=route.next_hop)

        def begin(ledger: Ledger) -> tuple[Parcel, ExtKeyContainer]:
            ready = prepare(ledger, parcel)
            container = self._protect(ledger, ready, dispatch)
            ledger.add_parcel(ready)
            return ready, container

        sent, container = await self._world.store.transact(begin)
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._back.awaited[sent.parcel_id] = outcome, sent.expires_at
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
            if (kms := self._federation.foreign_kms_of(container.target_sae_ids)) is not None:
                return await self._hand_out(sender, incoming, kms)
            return await self._arrive(sender, incoming)
        try:
            route = self._federation.onward(end.destination, sender)
        except NoRouteError as error:
            raise BadRequestError(str(error), {error.reason: str(error)}, slug="key-routing-error") from error
        return await self._pass_on(sender, incoming, route.next_hop)

    async def forward(self, take: Callable[[Ledger], Parcel | None]) -> None:
        """Take over keys of a foreign KMS, in one transaction; the parcel that comes of it, if any, is sent on its way.

        Raises what `take` raises, or CannotServeError: nothing is kept then.
        """

        def begin(ledger: Ledger) -> tuple[Parcel, ExtKeyContainer] | None:
            parcel = take(ledger)
            if parcel is None:
                return None
            container = self._protect(ledger, parcel, self._dispatch(parcel.downstream, parcel.purpose, at_once=True))
            ledger.add_parcel(parcel)
            return parcel, container

        begun = await self._world.store.transact(begin)
        if begun is not None:
            self._back.under_way[begun[0].key_ids[0]] = begun[0]
            self._world.background.spawn(self._transfer(*begun))

    async def accept_and_answer(self, sender: str, incoming: Incoming) -> tuple[AckContainer, ...]:
        """Take over a transfer in synchronous mode; returns what became of its keys, and never calls back.

        Raises OutcomeUnknownError when that takes too long, and what `accept` raises.
        """
        answer = Answer([key.key_id for key in incoming.container.keys])
        self._back.answers[incoming.parcel_id] = answer
        try:
            await self.accept(sender, incoming)
            return await answer.within(self.answer_timeout_s)
        finally:
            del self._back.answers[incoming.parcel_id]

    async def acknowledged(self, sender: str, acks: Collection[AckContainer]) -> None:
        """Take over what a neighbour says of keys that went out through it, and tell the node before.

        Raises BadRequestError if all that it speaks of are keys that this node never heard of.
        """
        strange = known = False
        # All are read before the first is acted upon: a request that is refused has changed nothing.
        for ack, outcome in [(ack, outcome_of(ack)) for ack in acks]:
            key_ids = [entry.key_id for entry in ack.key_id_container]
            if is_foreign(sender) and ack.ack_status is AckStatus.RELAYED:
                self._world.background.spawn(self.void_what_came_late(sender, ack))
            if ack.ack_status not in (AckStatus.RELAYED, AckStatus.FAILED):
                self._voids.acknowledged(ack)
            elif not await self._back.settle(sender, ack, key_ids, outcome):
                strange = True
                continue
            known = True
        if strange and not known:
            wrong = {"key_id_container": "none of these keys went this way"}
            raise BadRequestError("the keys are not present", wrong, slug="key-not-present")

    async def void(self, sender: str, request: VoidContainer) -> None:
        """Take over a request to void keys: here if their targets are at home here, else towards their home.

        What is done here is durable when this returns. Raises BadRequestError, NoRouteError.
        """
        reply = partial(self._back.call, sender)
        next_hop = await self._way_of_void(sender, request)
        if next_hop is None:
            reply(await self._voids.here(self._world.store, request))
        else:
            self._world.background.spawn(self._voids.send(self._world.neighbour(next_hop), request, reply))

    async def void_and_answer(self, sender: str, request: VoidContainer) -> tuple[AckContainer, ...]:
        """Void in synchronous mode; returns what came of it. Raises OutcomeUnknownError, and what `void` raises."""
        next_hop = await self._way_of_void(sender, request)
        if next_hop is None:
            return await self._voids.here(self._world.store, request)
        answer = Answer(request.key_ids)
        self._world.background.spawn(self._voids.send(self._world.neighbour(next_hop), request, answer.take))
        return await answer.within(self.answer_timeout_s)

    def tell_foreign(self, tell: Callable[[str, tuple[AckContainer, ...]], None]) -> None:
        """Have outcomes of keys that came from a foreign KMS told to it that way."""
        self._back.tell_foreign = tell

    async def end(self, parcel: Parcel, reason: str) -> None:
        """End a parcel that came from a foreign KMS: the KMS hears that it failed, what was sent on is voided."""
        if await self._back.fail(parcel, reason):
            self._void_downstream(parcel)

    async def give_up(self, parcel: Parcel, reason: str) -> None:
        """End an own parcel whose outcome is unknown: voided along its way, its keys never used.

        Session keys stay open until the request to void them was taken: a restart in between asks again. Pool blocks
        that were acknowledged after all stay: they may be in use by now, and without this node nobody uses them.
        """
        if parcel.purpose is Purpose.POOL_BLOCK:
            if await self._back.fail(parcel, reason):
                self._void_downstream(parcel)
            return
        outcome = Outcome(AckStatus.FAILED, message=reason)
        if parcel.purpose is Purpose.SESSION_KEY:
            await self._world.store.transact(partial(keep_to_void, parcel=parcel))
            self._world.background.spawn(self._void_and_close(parcel))
        else:
            closing = partial(close_books, parcel=parcel, outcome=outcome, key_ids=parcel.key_ids)
            await self._world.store.transact(closing)
            self._void_downstream(parcel)
        self._back.forget(parcel)
        self._back.report(parcel, outcome, parcel.key_ids)

    async def _void_and_close(self, parcel: Parcel) -> None:
        def close(ledger: Ledger) -> None:
            if is_open(ledger, parcel):
                ledger.acknowledge(parcel.key_ids)

        while self._world.clock.now() < parcel.expires_at:
            if await self._voids.ask(*self._void_of(parcel)):
                return await self._world.store.transact(close)
        return None

    async def resume(self, parcel: Parcel) -> None:
        """Send an open parcel again, as a new transfer: after a restart, or when its acknowledgement is overdue.

        What is being sent again already is left at that.
        """
        if parcel.parcel_id in self._resumed:
            return
        self._resumed.add(parcel.parcel_id)
        try:
            await self._resume(parcel)
        finally:
            self._resumed.discard(parcel.parcel_id)

    async def _resume(self, parcel: Parcel) -> None:
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
            await self._transfer(again, container, may_be_taken=True)

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
        self._void_downstream(replace(parcel, downstream=route.next_hop))

    # The way out.

    def _dispatch(self, neighbour: str, purpose: Purpose, *, at_once: bool = False) -> Dispatch | None:
        """Decide about the next transfer to a neighbour; None for a foreign KMS, to which keys go as they are."""
        if is_foreign(neighbour):
            return None
        reserve = self.pool_reserve if purpose is Purpose.POOL_BLOCK else 0
        offered = self.synchronous_transfers and self._world.peers[neighbour].synchronous_mode
        waits = at_once and offered and purpose is Purpose.SESSION_KEY
        callback = None if waits else self._callback_url
        return Dispatch(self._world.randomness.uuid(), self._federation.hop_key(neighbour), callback, reserve)

    def _protect(self, ledger: Ledger, parcel: Parcel, dispatch: Dispatch | None) -> ExtKeyContainer:
        if dispatch is None:
            ledger.add_foreign_keys(parcel.downstream, sent_keys(parcel))
            return plain_transfer(parcel)
        return self._hops.send(ledger, parcel, self._federation.link_to(parcel.downstream), dispatch)

    def _redirect(self, ledger: Ledger, parcel: Parcel) -> ExtKeyContainer | None:
        open_here = ledger.parcels_of(parcel.key_ids)
        # Wrapped keys are authenticated together, so what is still owed of them goes again with the rest.
        enough = bool(open_here) if parcel.purpose is Purpose.WRAPPED_KEY else set(open_here) == set(parcel.key_ids)
        if not enough or not is_open(ledger, parcel) or is_given_up(ledger, parcel, parcel.key_ids[0]):
            return None
        container = self._protect(ledger, parcel, self._dispatch(parcel.downstream, parcel.purpose))
        ledger.acknowledge(parcel.key_ids)
        ledger.add_parcel(parcel)
        return container

    async def _transfer(self, parcel: Parcel, container: ExtKeyContainer, *, may_be_taken: bool = False) -> None:
        """Send until the neighbour took it or refused it, or the attempts are used up.

        `may_be_taken`: it was sent before. A refusal then says nothing of what became of that, so it is voided too.
        """
        message = ""
        for attempt in range(SEND_ATTEMPTS):
            try:
                if attempt:
                    await self._world.clock.sleep(RETRY_PAUSE_S)
                    again = await self._world.store.transact(partial(self._redirect, parcel=parcel))
                    if again is None:
                        return
                    container = again
                await self._hand_over(parcel.downstream, container)
                return
            except PeerRefusedError as error:
                log.warning("%s refused keys from %s: %s", parcel.downstream, parcel.end_to_end.origin, error)
                await self._doubt(parcel, str(error))
                if parcel.purpose is Purpose.WRAPPED_KEY and parcel.upstream is None:
                    return  # The master holds the key: `delivery` repeats the parcel, with a newer KEM key.
                message = str(error)
                break
            except (PeerUncertainError, CannotServeError) as error:
                log.warning("%s may have taken keys: %s", parcel.downstream, error)
                message, may_be_taken = str(error), True
        if parcel.purpose is Purpose.WRAPPED_KEY and parcel.upstream is None:
            return  # As above.
        await self._end_unsent(parcel, message, may_be_taken=may_be_taken)

    async def _hand_over(self, neighbour: str, container: ExtKeyContainer) -> None:
        """Send once; what the neighbour says at once of the keys counts as its acknowledgement."""
        if acks := await self._world.neighbour(neighbour).ext_keys(container):
            await self.acknowledged(neighbour, acks)

    async def _end_unsent(self, parcel: Parcel, reason: str, *, may_be_taken: bool) -> None:
        if parcel.purpose is Purpose.SESSION_KEY and parcel.upstream is None and may_be_taken:
            if await self._world.store.transact(partial(is_open, parcel=parcel)):
                await self.give_up(parcel, reason)
        # The master may hold a wrapped key, so that is not voided: its origin sends it again until it expires.
        elif await self._back.fail(parcel, reason) and may_be_taken and parcel.purpose is not Purpose.WRAPPED_KEY:
            self._void_downstream(parcel)

    async def _send_again_later(self, parcel: Parcel) -> None:
        if parcel.parcel_id in self._owed:
            return
        self._owed.add(parcel.parcel_id)
        try:
            await self._world.clock.sleep(OWED_PAUSE_S)
        finally:
            self._owed.discard(parcel.parcel_id)
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

        def keep(ledger: Ledger) -> tuple[Parcel, tuple[tuple[Outcome, tuple[str, ...]], ...]]:
            self._first_time(ledger, sender, incoming)
            parcel = self._hops.receive(ledger, incoming, link)
            protection = expected_protection(link.kind, parcel.purpose)
            here = replace(parcel, path=(*parcel.path, self._node), protections=(*parcel.protections, protection))
            return here, self._destination.arrived(ledger, here)

        parcel, outcomes = await self._world.store.transact(keep)
        for outcome, key_ids in outcomes:
            if outcome.status is AckStatus.FAILED:
                log.warning("keys from %s refused: %s", incoming.end_to_end.origin, outcome.message)
            else:
                self.on_arrival(key_ids)
            self._back.acknowledge(parcel, outcome, key_ids)

    async def _pass_on(self, sender: str, incoming: Incoming, next_hop: str) -> None:
        link = self._federation.link_to(sender)
        dispatch = self._dispatch(next_hop, incoming.header.purpose, at_once=True)

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
            self._back.under_way[parcel.key_ids[0]] = parcel
            self._world.background.spawn(self._transfer(parcel, container))

    async def _hand_out(self, sender: str, incoming: Incoming, kms: str) -> None:
        """Open a parcel, here at the end of our part of its way, and send its keys on to the foreign KMS."""
        link = self._federation.link_to(sender)
        if incoming.header.purpose is not Purpose.SESSION_KEY:
            wrong = {HYBRID_TRANSPORT: "purpose: a foreign KMS is sent session keys only"}
            raise BadRequestError("the targets live behind a foreign KMS", wrong)

        def take_over(ledger: Ledger) -> tuple[Parcel, ExtKeyContainer | None, Outcome | None]:
            self._first_time(ledger, sender, incoming)
            parcel = self._hops.receive(ledger, incoming, link)
            protection = expected_protection(link.kind, parcel.purpose)
            here = replace(
                parcel,
                path=(*parcel.path, self._node),
                protections=(*parcel.protections, protection),
                downstream=kms,
            )
            known = ledger.foreign_keys(kms, here.key_ids)
            if (outcome := outcome_before(here, known)) is not None:
                return here, None, outcome
            try:
                plain = self._destination.opened(here)
            except ParcelRefusedError as error:
                return here, None, Outcome(AckStatus.FAILED, here.path, here.protections, str(error), error.refusal)
            ledger.acknowledge(here.key_ids)
            ledger.add_parcel(plain)
            return plain, self._protect(ledger, plain, None), None

        parcel, container, outcome = await self._world.store.transact(take_over)
        if outcome is not None:
            self._back.acknowledge(parcel, outcome, parcel.key_ids)
        elif container is not None:
            self._back.under_way[parcel.key_ids[0]] = parcel
            self._world.background.spawn(self._transfer(parcel, container))

    def _first_time(self, ledger: Ledger, sender: str, incoming: Incoming) -> None:
        if not ledger.remember_transfer(incoming.header.transfer_id, sender, incoming.header.expires_at):
            raise ReplayedTransferError(f"transfer {incoming.header.transfer_id} was accepted before")

    def forget_expired(self, now: float) -> None:
        """Let go of what will not be acknowledged any more."""
        self._back.forget_expired(now)

    # Voiding.

    async def _way_of_void(self, sender: str, request: VoidContainer) -> str | None:
        """Return where a request to void goes on to; what it names is not sent any more to a foreign KMS."""
        next_hop = self._voids.next_hop(sender, request)
        if next_hop is not None and is_foreign(next_hop):
            opened = await self._world.store.transact(lambda ledger: ledger.parcels_of(request.key_ids))
            for parcel in {one.parcel_id: one for one in opened.values()}.values():
                if parcel.downstream == next_hop and parcel.initiator_sae == request.initiator_sae_id:
                    await self._back.fail(parcel, "the keys were voided")
        return next_hop

    async def void_what_came_late(self, kms: str, ack: AckContainer) -> None:
        """Have keys voided that a foreign KMS says it keeps, though they were given up."""
        key_ids = [entry.key_id for entry in ack.key_id_container]
        known = await self._world.store.transact(lambda ledger: ledger.foreign_keys(kms, key_ids))
        late = tuple(key.key_id for key in known.values() if key.outcome in (AckStatus.FAILED, AckStatus.VOIDED))
        if late:
            request = VoidContainer(
                key_ids=late, initiator_sae_id=ack.initiator_sae_id, target_sae_ids=ack.target_sae_ids
            )
            await self._voids.send(self._world.neighbour(kms), request)

    def _void_downstream(self, parcel: Parcel) -> None:
        self._world.background.spawn(self._voids.send(*self._void_of(parcel)))

    def _void_of(self, parcel: Parcel) -> tuple[PeerNode, VoidContainer]:
        """Return whom to ask to void a parcel's keys, and how."""
        request = VoidContainer(
            key_ids=parcel.key_ids,
            initiator_sae_id=parcel.initiator_sae,
            target_sae_ids=parcel.target_saes,
            ack_callback_url=self._callback_url,
        )
        return self._world.neighbour(parcel.downstream), request
