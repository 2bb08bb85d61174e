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
from node.core.destination import weakest
from node.core.federation import Federation
from node.core.key_request import Admission, KeyOrder
from node.core.keys import Direction, Grade, KeyBlock, KeyRecord, KeyState, Parcel, grade_of
from node.core.outcomes import Outcome
from node.core.ports import Ledger
from node.core.relay import Relay, World
from node.core.sealing_origin import draft, sealed, wrapped
from node.errors import BadRequestError, CannotServeError, InsufficientKeyMaterialError, KmstnError, NotAuthorisedError
from node.settings import NodeSettings
from node.wire import etsi014
from node.wire.etsi020 import AckStatus
from node.wire.federation import Purpose

log = logging.getLogger("kmstn.delivery")


@dataclass(frozen=True, slots=True)
class _Share:
    """The slaves of one order that are at home at one node."""

    home: str
    slaves: tuple[str, ...]


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

    async def enc_keys(self, order: KeyOrder) -> tuple[KeyBlock, ...]:
        """Draw keys for master and slaves; durable here before they are returned.

        Raises NoRouteError, InsufficientKeyMaterialError or CannotServeError: then no slave can fetch any of them.
        """
        shares = self._shares(order)
        randomness = self._world.randomness
        keys = tuple(KeyBlock(randomness.uuid(), randomness.bytes(order.size_bits // 8)) for _ in range(order.number))
        remote = [share for share in shares if share.home != self._settings.node]
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
        if len(set(key_ids)) != len(key_ids) or len(key_ids) > self._settings.keys.max_key_per_request:
            limit = f"1 to {self._settings.keys.max_key_per_request} different IDs"
            raise BadRequestError("key_IDs are out of bounds", {"key_IDs": limit})
        deadline = self._world.clock.now() + self._settings.delivery.arrival_wait_s
        fetch = partial(_fetch, caller=caller, master_sae=master_sae, key_ids=key_ids)
        while True:
            taken = await self._world.store.transact(fetch)
            if isinstance(taken, tuple):
                return taken
            left_s = deadline - self._world.clock.now()
            if left_s <= 0 or not await self._arrivals.wait(taken.missing, left_s):
                raise BadRequestError(
                    etsi014.KEYS_NOT_FOUND, {"key_IDs": f"{len(taken.missing)} of {len(key_ids)} not found"}
                )

    async def stored_key_count(self, slave_sae: str) -> int:
        """Return how many keys of the default size could be delivered now without relaying."""
        home = self._federation.home_of(slave_sae)
        if home == self._settings.node:
            return self._settings.keys.max_key_count
        counts = await self._world.store.transact(lambda ledger: ledger.block_counts())
        return max(0, counts.get((home, Direction.OUT, True), 0) // 2)

    def home_of(self, sae: str) -> str:
        """Return the node that serves an SAE; raises NoRouteError."""
        return self._federation.home_of(sae)

    async def repeat_overdue(self) -> None:
        """Send wrapped keys again whose arrival was not acknowledged, until they expire; for ever."""
        while True:
            await self._world.clock.sleep(self._settings.delivery.relay_timeout_s)
            now = self._world.clock.now()
            younger = now + self._settings.delivery.key_lifetime_s - self._settings.delivery.relay_timeout_s
            for parcel in await self._world.store.transact(lambda ledger: ledger.open_parcels()):
                overdue = parcel.expires_at < younger
                if parcel.purpose is Purpose.WRAPPED_KEY and parcel.upstream is None and overdue:
                    await self._relay.resume(parcel)

    def _shares(self, order: KeyOrder) -> list[_Share]:
        homes: dict[str, list[str]] = {}
        for slave in order.slave_saes:
            homes.setdefault(self._federation.home_of(slave), []).append(slave)
        return [_Share(home, tuple(slaves)) for home, slaves in homes.items()]

    async def _deliver(self, order: KeyOrder, keys: tuple[KeyBlock, ...], share: _Share) -> None:
        if self._settings.delivery.pattern != "reactive":
            try:
                return await self._send_wrapped(order, keys, share)
            except InsufficientKeyMaterialError:
                if self._settings.delivery.pattern == "proactive":
                    raise
        await self._relay_now(order, keys, share, self._records(order, keys, Grade.PQC, (), KeyState.UNDERWAY))
        return None

    async def _send_wrapped(self, order: KeyOrder, keys: tuple[KeyBlock, ...], share: _Share) -> None:
        parcel = self._draft(Purpose.WRAPPED_KEY, order, keys, share)

        def prepare(ledger: Ledger, parcel: Parcel) -> Parcel:
            ready, grades = wrapped(ledger, parcel)
            way = (self._settings.node, *self._federation.route_to(share.home).node_path)
            _add_records(ledger, self._records(order, keys, weakest(grades), way, KeyState.UNDERWAY))
            return ready

        awaited = await self._relay.send(parcel, prepare)
        if self._settings.delivery.answer == "eager":
            await self._await_relayed(parcel, awaited)

    async def _relay_now(
        self, order: KeyOrder, keys: tuple[KeyBlock, ...], share: _Share, records: Collection[KeyRecord] = ()
    ) -> Outcome:
        """Relay and wait; `records` are in the books before the keys leave, and get grade and way with the outcome."""
        parcel = self._draft(Purpose.SESSION_KEY, order, keys, share)
        seal_key = self._federation.seal_key(share.home)
        provider = self._settings.kem_provider

        def prepare(ledger: Ledger, bare: Parcel) -> Parcel:
            _add_records(ledger, records)
            return sealed(bare, seal_key, provider)

        return await self._await_relayed(parcel, await self._relay.send(parcel, prepare))

    async def _await_relayed(self, parcel: Parcel, awaited: "asyncio.Future[Outcome]") -> Outcome:
        try:
            outcome = await asyncio.wait_for(awaited, self._settings.delivery.relay_timeout_s)
        except TimeoutError:
            opened = await self._world.store.transact(lambda ledger: ledger.parcels_of(parcel.key_ids))
            self._world.background.spawn(
                self._relay.give_up(next(iter(opened.values()), parcel), "no acknowledgement in time")
            )
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
            if share.home != self._settings.node:
                try:
                    outcomes.append(await self._relay_now(order, keys, share))
                except KmstnError:
                    self._void(order, keys, done)
                    raise
                done.append(share)
        grade = grade_of(tuple(hop for outcome in outcomes for hop in outcome.protections))
        path = max((outcome.path for outcome in outcomes), key=len, default=(self._settings.node,))
        local = next((share.slaves for share in shares if share.home == self._settings.node), ())
        state = KeyState.DEPOSITED if local else KeyState.RELAYED

        def keep(ledger: Ledger) -> None:
            _add_records(ledger, self._records(order, keys, grade, path, state))
            for key in keys:
                ledger.deposit(key, local)

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
        ends = (self._settings.node, share.home)
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


def _fetch(ledger: Ledger, caller: str, master_sae: str, key_ids: tuple[str, ...]) -> "tuple[KeyBlock, ...] | _NotHere":
    records = {key_id: record for key_id in key_ids if (record := ledger.record(key_id)) is not None}
    if any(caller not in record.slave_saes for record in records.values()):
        raise NotAuthorisedError("the SAE was not named as a slave of one of these keys", {"SAE_ID": caller})
    missing = tuple(key_id for key_id in key_ids if key_id not in records)
    if missing:
        return _NotHere(missing)
    keys = []
    for key_id in key_ids:
        value = ledger.fetch_deposit(key_id, caller) if records[key_id].master_sae == master_sae else None
        if value is None:
            raise _FetchedBeforeError(etsi014.KEYS_NOT_FOUND, {"key_IDs": "fetched before, voided or another master's"})
        keys.append(KeyBlock(key_id, value))
        if not ledger.deposits_left(key_id):
            ledger.update_record(key_id, KeyState.DELIVERED)
    return tuple(keys)


def _add_records(ledger: Ledger, records: Collection[KeyRecord]) -> None:
    for record in records:
        ledger.add_record(record)
