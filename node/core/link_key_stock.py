"""Keeping link keys of one QKD link in stock at both ends, ahead of demand, so that no hop waits for a device.

The sender is master at its own device: it fetches keys, keeps them, and announces their IDs; the receiver fetches the
same keys as slave from its device, keeps them, and says so. Only a key that both ends hold is ever used. After a crash
or a lost answer the sender announces again what was not confirmed; what the receiver's device does not have is dropped
at both ends and counted.
"""

import logging
from collections.abc import Collection

from node.core.keys import Direction, KeyBlock
from node.core.ports import Clock, Ledger, PeerNode, QkdDevice, Store
from node.errors import CannotServeError, DeviceError, PeerError
from node.settings import DeviceSettings
from node.wire.federation import LinkKeyAnnouncement, LinkKeyHoldings

log = logging.getLogger("kmstn.link_keys")


class LinkKeyStock:
    """One QKD link, both directions, as one of its nodes sees it."""

    def __init__(
        self,
        link: str,
        settings: DeviceSettings,
        device: QkdDevice,
        peer: PeerNode,
        store: Store,
        inbound_limit: int = 4096,
    ) -> None:
        self.link = link
        self._inbound_limit = inbound_limit
        self._hearing = False
        self.settings = settings
        self._device = device
        self._peer = peer
        self._store = store
        self.failure: str | None = "not asked yet"
        self.stored_keys: int | None = None
        self.unmatched = 0

    async def top_up(self) -> bool:
        """One round as the sender; returns whether there may be more to do at once. Raises DeviceError, PeerError."""
        counts = await self._store.transact(lambda ledger: ledger.link_key_counts())
        held, ready = (counts.get((self.link, Direction.OUT, confirmed), 0) for confirmed in (False, True))
        wanted = min(self.settings.batch_keys, self.settings.prefetch_keys - held - ready)
        if wanted > 0 and not held:
            keys = await self._device.enc_keys(wanted)
            self.failure = None
            await self._keep(Direction.OUT, keys, ready=False)
            held = len(keys)
        if held:
            await self._announce()
        return held + ready < self.settings.prefetch_keys and bool(held)

    async def look_at_device(self) -> None:
        """Ask the device how many keys it stores; its failure is kept for the node's health."""
        try:
            self.stored_keys = await self._device.stored_key_count()
        except DeviceError as error:
            self.fail(error)
        else:
            self.failure = None

    def fail(self, error: DeviceError) -> None:
        """Remember and log, once, why the device does not serve."""
        if self.failure != str(error):
            log.warning("device %s: %s", self.settings.name, error)
        self.failure, self.stored_keys = str(error), None

    async def announced(self, announcement: LinkKeyAnnouncement) -> LinkKeyHoldings:
        """Fetch, as the receiver, what the sender holds; raises DeviceError if the device cannot tell now.

        Raises CannotServeError where the sender announces more than is kept, or while its last word is worked on.
        """
        if self._hearing:
            raise CannotServeError(f"link {self.link}: an announcement is being worked on")
        self._hearing = True
        try:
            return await self._hear(tuple(dict.fromkeys(announcement.key_ids)))
        finally:
            self._hearing = False

    async def _hear(self, key_ids: tuple[str, ...]) -> LinkKeyHoldings:
        known, stored = await self._store.transact(
            lambda ledger: (ledger.known_link_keys(key_ids), ledger.link_key_counts())
        )
        unknown = [key_id for key_id in key_ids if key_id not in known]
        if unknown and stored.get((self.link, Direction.IN, True), 0) + len(unknown) > self._inbound_limit:
            raise CannotServeError(f"link {self.link}: no more than {self._inbound_limit} link keys are kept")
        fetched = await self._fetch(unknown) if unknown else ()
        await self._keep(Direction.IN, fetched, ready=True)
        held = known | {key.key_id for key in fetched}
        absent = tuple(key_id for key_id in key_ids if key_id not in held)
        return LinkKeyHoldings(held=tuple(sorted(held)), absent=absent)

    async def _announce(self) -> None:
        limit = self.settings.batch_keys
        key_ids = await self._store.transact(lambda ledger: ledger.unconfirmed_link_keys(self.link, limit))
        if not key_ids:
            return
        holdings = await self._peer.announce_link_keys(LinkKeyAnnouncement(link=self.link, key_ids=key_ids))
        mine = set(key_ids)
        held, absent = mine & set(holdings.held), mine & set(holdings.absent)
        self.unmatched += len(absent)
        if absent:
            log.warning("link %s: %d link keys are not at the other end, dropped", self.link, len(absent))

        def settle(ledger: Ledger) -> None:
            ledger.confirm_link_keys(held)
            ledger.drop_link_keys(absent)

        await self._store.transact(settle)

    async def _fetch(self, key_ids: list[str]) -> tuple[KeyBlock, ...]:
        """Fetch in one request, or, where the device refuses because some are unknown, one by one."""
        try:
            return await self._device.dec_keys(key_ids)
        except UnknownLinkKeysError:
            if len(key_ids) == 1:
                return ()
        fetched: list[KeyBlock] = []
        for key_id in key_ids:
            fetched.extend(await self._fetch([key_id]))
        return tuple(fetched)

    async def _keep(self, direction: Direction, keys: Collection[KeyBlock], *, ready: bool) -> None:
        if keys:
            await self._store.transact(lambda ledger: ledger.add_link_keys(self.link, direction, keys, ready=ready))


class UnknownLinkKeysError(DeviceError):
    """The device answered 400: it does not have all of the keys asked for."""


async def keep_in_stock(stock: LinkKeyStock, clock: Clock) -> None:
    """Top up one link for ever; a device or neighbour that fails is asked again after the poll interval."""
    while True:
        more = False
        try:
            more = await stock.top_up()
        except DeviceError as error:
            stock.fail(error)
        except PeerError as error:
            log.debug("link %s: %s", stock.link, error)
        if not more:
            await stock.look_at_device()
            await clock.sleep(stock.settings.poll_interval_s)
