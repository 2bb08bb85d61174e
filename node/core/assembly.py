"""The parts of one node, joined: all that decides and remembers, on a world that is handed in, and what keeps it going.

`app` hands in sockets, disk and the real clock; the simulation hands in its own. What is served to whom is not here.
"""

import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Protocol

from node.core.arrivals import Arrivals
from node.core.destination import Destination
from node.core.federation import Federation
from node.core.gateway import Gateway
from node.core.hop import HopTransport
from node.core.kem_keys import KemKeyring
from node.core.key_delivery import KeyDelivery
from node.core.key_request import Admission
from node.core.link_key_stock import LinkKeyStock, keep_in_stock
from node.core.neighbours import NeighbourWatch
from node.core.pool import Pools
from node.core.ports import Ledger, QkdDevice
from node.core.relay import Relay
from node.core.world import World
from node.errors import KmstnError, StoreError
from node.settings import NodeSettings
from node.wire.federation import SignedAdvert

log = logging.getLogger("kmstn")

SWEEP_INTERVAL_S = 5.0


class Housekeeping(Protocol):
    """Where housekeeping says how it went: the node's health."""

    store_failure: str | None
    counters: Counter[str]


class Core:
    """One node without its sockets: `prepare` it, serve its parts, then `begin`."""

    def __init__(
        self,
        settings: NodeSettings,
        world: World,
        devices: Mapping[str, QkdDevice],
        owner_of: Callable[[bytes, float], tuple[str, str]],
        sign: Callable[[bytes], SignedAdvert],
    ) -> None:
        """`devices` by neighbour; `owner_of` maps a certificate to (domain, node); `sign` signs this node's adverts."""
        self.settings = settings
        self._world = world
        self._keyring = KemKeyring(settings.suites, settings.kem_provider, settings.kem_key_lifetime_s)
        self.federation = Federation(settings, self._keyring, owner_of, sign)
        arrivals = Arrivals()
        self.relay = self._make_relay(arrivals)
        self.pools = Pools(settings, self.federation, self.relay, world)
        self.gateway = Gateway(settings, self.federation, self.relay, world)
        self.delivery = KeyDelivery(settings, _admission(settings), self.federation, self.relay, world, arrivals)
        self.stocks = {name: self._stock(name, device) for name, device in devices.items()}
        self.watches = {name: self._watch(name) for name in world.peers}

    async def prepare(self) -> None:
        """Have KEM keys and an advert of this node's own, before anybody is served. Raises StoreError."""
        await self._renew_kem_keys()
        self.federation.advertise_self(self._world.clock.now())

    def begin(self, health: Housekeeping) -> None:
        """Start all that goes on for ever, and take up what was under way when the node stopped."""
        loops: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self.pools.run,
            self.delivery.repeat_overdue,
            *([self.gateway.run] if self.settings.foreign_kms else []),
            partial(self._keep_house, health),
            *(watch.run for watch in self.watches.values()),
            *(partial(keep_in_stock, stock, self._world.clock) for stock in self.stocks.values()),
        ]
        for loop in loops:
            self._world.background.spawn(self._for_ever(loop))
        self._world.background.spawn(self._resume())

    async def _for_ever(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop that should not end; when the store or anything else fails under it, say so and begin it again."""
        while True:
            try:
                await loop()
            except KmstnError as error:
                log.error("%s", error)
            except Exception:
                log.exception("unexpected failure; going on")
            await self._world.clock.sleep(SWEEP_INTERVAL_S / 5)

    async def _renew_kem_keys(self) -> None:
        """Load the stored KEM keys, make new ones where due: durable before they are published."""
        now = self._world.clock.now()
        self._keyring.install(await self._world.store.transact(lambda ledger: ledger.kem_keys()))
        renewed = self._keyring.renewals(now)

        def keep(ledger: Ledger) -> None:
            ledger.drop_kem_keys(now)
            for key in renewed:
                ledger.add_kem_key(key)

        await self._world.store.transact(keep)
        self._keyring.install(renewed)
        self._keyring.forget_expired(now)

    async def _resume(self) -> None:
        """Take up what was under way when the node stopped."""
        parcels = await self._world.store.transact(lambda ledger: ledger.open_parcels())
        if not parcels:
            return
        await self._world.clock.sleep(2 * self.settings.advert_interval_s)
        for parcel in parcels:
            self.delivery.resending.begin(parcel, self.relay.take_up)

    async def _keep_house(self, health: Housekeeping) -> None:
        """Drop what expired, renew KEM keys and the advert in time; for ever."""
        advertised_at = self._world.clock.now()
        while True:
            await self._world.clock.sleep(SWEEP_INTERVAL_S)
            now = self._world.clock.now()
            try:
                await self._sweep(now, health)
                await self._renew_kem_keys()
                health.store_failure = None
            except StoreError as error:
                log.error("%s", error)
                health.store_failure = str(error)
                continue
            self.federation.directory.forget_expired(now)
            self.relay.forget_expired(now)
            if now - advertised_at > self.settings.advert_lifetime_s / 4:
                self.federation.advertise_self(now)
                advertised_at = now

    async def _sweep(self, now: float, health: Housekeeping) -> None:
        """Drop what expired, some in each transaction, so that others are served between."""
        more, unfetched = True, 0
        try:
            while more:
                expired, more = await self._world.store.transact(lambda ledger: ledger.sweep(now))
                unfetched += len(expired)
        finally:
            if unfetched:
                health.counters["keys_expired_unfetched"] += unfetched
                log.warning("%d keys expired before their slaves fetched them", unfetched)

    def _make_relay(self, arrivals: Arrivals) -> Relay:
        settings = self.settings
        hops = HopTransport(settings.node, self._keyring, settings.kem_provider)
        saes, clock = frozenset(settings.saes), self._world.clock
        destination = Destination(settings.node, saes, self._keyring, settings.kem_provider, clock)
        destination.inbound_limit = settings.limits.inbound_blocks
        base_url = settings.peer_url or f"https://{settings.node}:{settings.peer_port}"
        callback_url = f"{base_url}/kmapi/v1/ext_keys/ack"
        relay = Relay(settings.node, callback_url, self.federation, hops, destination, self._world)
        relay.on_arrival = arrivals.notify
        relay.pool_reserve = settings.pool.reserve_link_keys
        relay.synchronous_transfers = settings.delivery.transfer_mode == "synchronous"
        relay.answer_timeout_s = settings.delivery.relay_timeout_s
        return relay

    def _stock(self, neighbour: str, device: QkdDevice) -> LinkKeyStock:
        settings = self.federation.neighbour(neighbour)
        if settings is None or settings.device is None:
            raise ValueError(f"no QKD link leads to {neighbour}")
        world = self._world
        stock = LinkKeyStock(settings.link, settings.device, device, world.peers[neighbour], world.store, world.clock)
        stock.inbound_limit = self.settings.limits.inbound_link_keys
        return stock

    def _watch(self, name: str) -> NeighbourWatch:
        return NeighbourWatch(
            name, self._world.peers[name], self.federation, self._world.clock, self.settings.advert_interval_s
        )


def _admission(settings: NodeSettings) -> Admission:
    pairs = None if settings.allowed_pairs is None else frozenset(settings.allowed_pairs)
    return Admission(frozenset(settings.saes), pairs, settings.keys)
