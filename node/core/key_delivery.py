"""Serving SAEs: Get key and Get key with key IDs of ETSI GS QKD 014.

Proactive: a fresh key is wrapped with blocks of the pool shared with the slave's node, committed, answered, and sent
after. Reactive, when the pool is empty or the description wants it: the key is relayed now, and answered once its
arrival is known. SAEs of one node share keys without any transfer.
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from node.core.arrivals import Arrivals
from node.core.demands import SUITE, DemandNotMetError, check_grade, check_way_taken, check_way_to
from node.core.destination import weakest
from node.core.federation import Federation
from node.core.foreign import is_foreign
from node.core.giving_up import give_up_in_time
from node.core.key_request import Admission, KeyOrder
from node.core.keys import Direction, Grade, KeyBlock, KeyRecord, KeyState, Parcel
from node.core.outcomes import Outcome
from node.core.ports import Ledger
from node.core.relay import Relay
from node.core.resending import Resending
from node.core.sealing_origin import draft, sealed, wrapped
from node.core.world import World
from node.crypto.pool_wrap import blocks_needed
from node.errors import (
    BadRequestError,
    CannotServeError,
    InsufficientKeyMaterialError,
    KmstnError,
    NoRouteError,
    NotAuthorisedError,
)
from node.settings import NodeSettings
from node.wire import etsi014
from node.wire.etsi020 import AckStatus
from node.wire.federation import Purpose

log = logging.getLogger("kmstn.delivery")

# Parcels looked at in one transaction.
SLICE = 250


@dataclass(frozen=True, slots=True)
class _Share:
    """The slaves of one order that are at home at one node, or behind one foreign KMS beside it."""

    home: str
    slaves: tuple[str, ...]
    foreign: bool = False


class KeyDelivery:
    """The SAE side of one node."""

    def __init__(
        self,
        settings: NodeSettings,
        admission: Admission,
        federation: Federation,
        relay: Relay,
        world: World,
        arrivals: Arrivals,
    ) -> None:
        self._settings = settings
        self.admission = admission
        self._federation = federation
        self._relay = relay
        self._world = world
        self._arrivals = arrivals
        self.resending = Resending(world.background)

    async def enc_keys(self, order: KeyOrder) -> tuple[KeyBlock, ...]:
        """Draw keys for master and slaves; durable here before they are returned.

        Raises NoRouteError, InsufficientKeyMaterialError or CannotServeError, BadRequestError for an additional slave
        that nobody advertises or a demand that is not met: then no slave can fetch any of them.
        """
        shares = self._shares(order)
        if order.demands.of_the_way:
            self._check_ways(order, shares)
        randomness = self._world.randomness
        keys = tuple(KeyBlock(randomness.uuid(), randomness.bytes(order.size_bits // 8)) for _ in range(order.number))
        remote = [share for share in shares if not self._is_here(share)]
        if len(shares) == 1 and remote:
            await self._deliver(order, keys, remote[0])
        else:
            await self._deliver_to_many(order, keys, shares)
        return keys

    async def dec_keys(self, caller: str, master_sae: str, key_ids: tuple[str, ...]) -> tuple[KeyBlock, ...]:
        """Hand keys to a slave, once: all of them or none. Waits a little for keys still on their way.

        Raises BadRequestError (unknown, fetched, voided or expired), NotAuthorisedError.
        """
        self.admission.admit(caller)
        _check_key_ids(key_ids, self._settings.keys.max_key_per_request)
        now = self._world.clock.now
        deadline = now() + self._settings.delivery.arrival_wait_s
        fetch = partial(_fetch, caller=caller, master_sae=master_sae, key_ids=key_ids)
        while True:
            taken = await self._world.store.transact(partial(fetch, now=now()))
            if isinstance(taken, tuple):
                return taken
            left_s = deadline - now()
            if left_s <= 0 or not await self._arrivals.wait(taken.missing, left_s):
                raise BadRequestError(
                    etsi014.KEYS_NOT_FOUND, {"key_IDs": f"{len(taken.missing)} of {len(key_ids)} not found"}
                )

    async def stored_key_count(self, slave_sae: str) -> int:
        """Return how many keys of the default size could be had now without relaying, one in each request.

        Each takes the blocks of its own size and one for authentication; several in one request share that one, so that
        there may be some more. For a slave at this node no number is too great; reactive delivery has nothing stored.
        """
        keys, (home, group) = self._settings.keys, self._federation.lives_with(slave_sae)
        if home == self._settings.node and not group:
            return keys.max_key_count
        if group or self._settings.delivery.pattern == "reactive" or not self._reachable(home):
            return 0
        counts = await self._world.store.transact(lambda ledger: ledger.block_counts())
        blocks = counts.get((home, Direction.OUT, True), 0)
        return min(keys.max_key_count, blocks // blocks_needed([keys.key_size // 8]))

    async def records(self, key_ids: Collection[str]) -> dict[str, KeyRecord]:
        """Return what is remembered of keys of this node, by ID; never the keys."""
        found = await self._world.store.transact(lambda ledger: [ledger.record(key_id) for key_id in key_ids])
        return {record.key_id: record for record in found if record is not None}

    def home_of(self, sae: str) -> str:
        """Return the node that serves an SAE; raises NoRouteError."""
        return self._federation.home_of(sae)

    async def repeat_overdue(self) -> None:
        """Send wrapped keys again whose arrival was not acknowledged, until they expire; for ever."""
        while True:
            await self._world.clock.sleep(self._settings.delivery.relay_timeout_s)
            now = self._world.clock.now()
            younger = now + self._settings.delivery.key_lifetime_s - self._settings.delivery.relay_timeout_s
            after: str | None = ""
            while after is not None:
                some = await self._world.store.transact(partial(_overdue, expires_before=younger, after=after))
                for parcel in some:
                    if parcel.purpose is Purpose.WRAPPED_KEY and parcel.upstream is None:
                        self.resending.begin(parcel, self._relay.resume)
                after = some[-1].parcel_id if len(some) == SLICE else None

    def _shares(self, order: KeyOrder) -> list[_Share]:
        slave, *additional = order.slave_saes
        homes: dict[tuple[str, tuple[str, ...]], list[str]] = {self._federation.lives_with(slave): [slave]}
        for slave in additional:
            try:
                homes.setdefault(self._federation.lives_with(slave), []).append(slave)
            except NoRouteError as error:
                raise BadRequestError(str(error), {"additional_slave_SAE_IDs": slave}) from error
        return [_Share(home, tuple(slaves), bool(group)) for (home, group), slaves in homes.items()]

    def _is_here(self, share: _Share) -> bool:
        return share.home == self._settings.node and not share.foreign

    def _reachable(self, home: str) -> bool:
        try:
            self._federation.hop_key(self._federation.route_to(home).next_hop)
        except NoRouteError:
            return False
        return True

    def _check_ways(self, order: KeyOrder, shares: list[_Share]) -> None:
        for share in shares:
            if share.foreign:
                raise DemandNotMetError({"way": f"{share.slaves[0]} lives behind a foreign KMS: TLS alone leads there"})
            if share.home != self._settings.node:
                check_way_to(share.home, order.demands, self._settings.node, self._federation)

    async def _deliver(self, order: KeyOrder, keys: tuple[KeyBlock, ...], share: _Share) -> None:
        # A foreign KMS may refuse a key: nobody holds one before it was taken.
        if self._settings.delivery.pattern != "reactive" and not share.foreign:
            try:
                return await self._send_wrapped(order, keys, share)
            except (InsufficientKeyMaterialError, DemandNotMetError):
                if self._settings.delivery.pattern == "proactive":
                    raise
        await self._relay_now(order, keys, share, self._records(order, keys, Grade.PQC, (), KeyState.UNDERWAY))
        return None

    async def _send_wrapped(self, order: KeyOrder, keys: tuple[KeyBlock, ...], share: _Share) -> None:
        if order.demands.suite is not None:
            raise DemandNotMetError({SUITE: "nobody remembers how the blocks came"})
        parcel = self._draft(Purpose.WRAPPED_KEY, order, keys, share)

        def prepare(ledger: Ledger, parcel: Parcel) -> Parcel:
            ready, grades = wrapped(ledger, parcel)
            check_grade(weakest(grades), order.demands)
            way = (self._settings.node, *self._federation.route_to(share.home).node_path)
            ledger.add_records(self._records(order, keys, weakest(grades), way, KeyState.UNDERWAY))
            return ready

        awaited = await self._relay.send(parcel, prepare)
        if self._settings.delivery.answer == "eager":
            await self._await_relayed(parcel, awaited)

    async def _relay_now(
        self, order: KeyOrder, keys: tuple[KeyBlock, ...], share: _Share, records: Collection[KeyRecord] = ()
    ) -> Outcome:
        """Relay and wait; `records` are in the books before the keys leave, and get grade and way with the outcome."""
        parcel = self._draft(Purpose.SESSION_KEY, order, keys, share)
        seal_key = None if is_foreign(parcel.end_to_end.destination) else self._federation.seal_key(share.home)
        provider = self._settings.kem_provider

        def prepare(ledger: Ledger, bare: Parcel) -> Parcel:
            ledger.add_records(records)
            return bare if seal_key is None else sealed(bare, seal_key, provider)

        outcome = await self._await_relayed(parcel, await self._relay.send(parcel, prepare))
        try:
            check_way_taken(outcome.path, outcome.grade, order.demands, self._federation)
        except DemandNotMetError:
            self._world.background.spawn(give_up_in_time(parcel, self._relay, self._federation, self._world))
            raise
        return outcome

    async def _await_relayed(self, parcel: Parcel, awaited: "asyncio.Future[Outcome]") -> Outcome:
        try:
            outcome = await asyncio.wait_for(awaited, self._settings.delivery.relay_timeout_s)
        except TimeoutError:
            self._world.background.spawn(give_up_in_time(parcel, self._relay, self._federation, self._world))
            message = f"{parcel.end_to_end.destination} did not acknowledge the keys in time; they were voided"
            raise CannotServeError(message) from None
        if outcome.status is not AckStatus.RELAYED:
            raise CannotServeError(f"the keys could not be relayed: {outcome.message}")
        return outcome

    async def _deliver_to_many(self, order: KeyOrder, keys: tuple[KeyBlock, ...], shares: list[_Share]) -> None:
        """Relay to every remote home first, then commit here; if one home fails, the others' copies are voided."""
        outcomes: list[Outcome] = []
        done: list[_Share] = []
        for share in shares:
            if not self._is_here(share):
                try:
                    outcomes.append(await self._relay_now(order, keys, share))
                except KmstnError:
                    self._void(order, keys, done)
                    raise
                done.append(share)
        grade = weakest([outcome.grade for outcome in outcomes])
        path = max((outcome.path for outcome in outcomes), key=len, default=(self._settings.node,))
        local = next((share.slaves for share in shares if self._is_here(share)), ())
        state = KeyState.DEPOSITED if local else KeyState.RELAYED

        def keep(ledger: Ledger) -> None:
            ledger.add_records(self._records(order, keys, grade, path, state))
            ledger.deposit(keys, local)

        try:
            await self._world.store.transact(keep)
        except KmstnError:
            self._void(order, keys, done)
            raise

    def _void(self, order: KeyOrder, keys: tuple[KeyBlock, ...], shares: list[_Share]) -> None:
        for share in shares:
            parcel = self._draft(Purpose.SESSION_KEY, order, keys, share)
            self._world.background.spawn(self._relay.void_own(parcel))

    def _draft(self, purpose: Purpose, order: KeyOrder, keys: tuple[KeyBlock, ...], share: _Share) -> Parcel:
        expires_at = self._world.clock.now() + self._settings.delivery.key_lifetime_s
        kms = self._federation.foreign_kms_of(share.slaves) if share.home == self._settings.node else None
        ends = (self._settings.node, kms or share.home)
        return draft(purpose, keys, (order.master_sae, share.slaves), ends, self._world.randomness.uuid(), expires_at)

    def _records(
        self, order: KeyOrder, keys: tuple[KeyBlock, ...], grade: Grade, path: tuple[str, ...], state: KeyState
    ) -> list[KeyRecord]:
        expires_at = self._world.clock.now() + self._settings.delivery.key_lifetime_s
        return [
            KeyRecord(key.key_id, order.master_sae, order.slave_saes, order.size_bits, grade, path, state, expires_at)
            for key in keys
        ]


@dataclass(frozen=True, slots=True)
class _NotHere:
    missing: tuple[str, ...]


class _FetchedBeforeError(BadRequestError):
    """One of the keys was fetched before: what this transaction took is put back by raising."""


def _overdue(ledger: Ledger, expires_before: float, after: str) -> tuple[Parcel, ...]:
    return ledger.overdue_parcels(expires_before, after, SLICE)


def _check_key_ids(key_ids: tuple[str, ...], limit: int) -> None:
    if len(key_ids) > limit:
        raise BadRequestError("too many key_IDs in one request", {"key_IDs": f"1 to {limit}"})
    named: set[str] = set()
    for key_id in key_ids:
        if key_id in named:
            raise BadRequestError("a key_ID is listed twice", {"key_IDs": f"{key_id} stands twice"})
        named.add(key_id)


def _fetch(
    ledger: Ledger, caller: str, master_sae: str, key_ids: tuple[str, ...], now: float
) -> "tuple[KeyBlock, ...] | _NotHere":
    records = {key_id: record for key_id in key_ids if (record := ledger.record(key_id)) is not None}
    # A key that was voided before it came has no slaves: whose it was is not known, so it is not found.
    if any(caller not in record.slave_saes for record in records.values() if record.slave_saes):
        raise NotAuthorisedError("the SAE was not named as a slave of one of these keys", {"SAE_ID": caller})
    missing = tuple(key_id for key_id in key_ids if key_id not in records)
    if missing:
        return _NotHere(missing)
    keys = []
    for key_id in key_ids:
        record = records[key_id]
        fetchable = record.master_sae == master_sae and record.expires_at > now
        value = ledger.fetch_deposit(key_id, caller) if fetchable else None
        if value is None:
            wrong = "fetched before, voided, expired or another master's"
            raise _FetchedBeforeError(etsi014.KEYS_NOT_FOUND, {"key_IDs": wrong})
        keys.append(KeyBlock(key_id, value))
        if not ledger.deposits_left(key_id):
            ledger.update_record(key_id, KeyState.DELIVERED)
    return tuple(keys)
