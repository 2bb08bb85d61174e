"""Filling pools ahead of demand: for every node whose SAEs ours may need keys with, a stock of 256-bit blocks.

A block is drawn here, sealed to the other node and relayed hop by hop; it counts once its arrival was acknowledged.
The emptiest pool is filled first, and link keys are left over for reactive relay.
"""

import asyncio
import logging
from collections.abc import Iterable
from functools import partial

from node.core.federation import Federation
from node.core.giving_up import give_up_in_time
from node.core.keys import BLOCK_SIZE_BYTES, Direction, Grade, KeyBlock, Parcel, PoolBlock
from node.core.ports import Ledger
from node.core.relay import Relay
from node.core.sealing_origin import draft, sealed
from node.core.world import World
from node.crypto.kem import Provider
from node.errors import CannotServeError
from node.settings import NodeSettings
from node.wire.etsi020 import AckStatus
from node.wire.federation import KemPublicKey, Purpose

log = logging.getLogger("kmstn.pool")


class Pools:
    """The pools of one node, as the origin of their blocks."""

    def __init__(self, settings: NodeSettings, federation: Federation, relay: Relay, world: World) -> None:
        self._settings = settings
        self._federation = federation
        self._relay = relay
        self._world = world
        self._provider: Provider = settings.kem_provider
        self._filling: set[str] = set()

    async def run(self) -> None:
        """Fill for ever."""
        while True:
            for peer in await self._wanting():
                self._filling.add(peer)
                self._world.background.spawn(self._fill(peer))
            await self._world.clock.sleep(self._settings.pool.refill_interval_s)

    async def counts(self) -> dict[tuple[str, Direction, bool], int]:
        """Return blocks by (peer, direction, ready)."""
        return await self._world.store.transact(lambda ledger: ledger.block_counts())

    def peers(self) -> tuple[str, ...]:
        """Return the nodes that this one keeps a pool with."""
        if not self._settings.saes or self._settings.delivery.pattern == "reactive":
            return ()
        others = (advert for advert in self._federation.directory.nodes() if advert.node != self._settings.node)
        return tuple(advert.node for advert in others if self._may_pair(advert.saes))

    def _may_pair(self, saes: Iterable[str]) -> bool:
        pairs = self._settings.allowed_pairs
        if pairs is None:
            return bool(tuple(saes))
        mine, theirs = set(self._settings.saes), set(saes)
        return any(master in mine and slave in theirs for master, slave in pairs)

    async def _wanting(self) -> list[str]:
        counts = await self.counts()

        def stock(peer: str) -> int:
            return sum(counts.get((peer, Direction.OUT, ready), 0) for ready in (True, False))

        target = self._settings.pool.target_blocks
        return sorted((p for p in self.peers() if p not in self._filling and stock(p) < target), key=stock)

    async def _fill(self, peer: str) -> None:
        try:
            await self._fill_once(peer)
        except CannotServeError as error:
            log.debug("the pool with %s waits: %s", peer, error)
        finally:
            self._filling.discard(peer)

    async def _fill_once(self, peer: str) -> None:
        randomness, now = self._world.randomness, self._world.clock.now()
        number = min(self._settings.pool.batch_blocks, self._settings.pool.target_blocks)
        blocks = [KeyBlock(randomness.uuid(), randomness.bytes(BLOCK_SIZE_BYTES)) for _ in range(number)]
        own = self._settings.node
        timeout_s = self._settings.delivery.relay_timeout_s
        parcel = draft(Purpose.POOL_BLOCK, blocks, (own, (peer,)), (own, peer), randomness.uuid(), now + 4 * timeout_s)
        prepare = partial(_prepare, blocks=blocks, key=self._federation.seal_key(peer), provider=self._provider)
        awaited = await self._relay.send(parcel, prepare)
        try:
            outcome = await asyncio.wait_for(awaited, timeout_s)
        except TimeoutError:
            return await give_up_in_time(parcel, self._relay, self._federation, self._world)
        if outcome.status is not AckStatus.RELAYED:
            log.info("blocks for %s were not relayed: %s", peer, outcome.message)
            await self._world.clock.sleep(self._settings.pool.refill_interval_s)
        return None


def _prepare(ledger: Ledger, parcel: Parcel, blocks: list[KeyBlock], key: KemPublicKey, provider: Provider) -> Parcel:
    pending = [PoolBlock(block.key_id, block.value, Grade.PQC) for block in blocks]
    ledger.add_blocks(parcel.end_to_end.destination, Direction.OUT, pending, ready=False)
    return sealed(parcel, key, provider)
