"""Keeping link keys of one QKD link in stock at both ends, ahead of demand, so that no hop waits for a device.

The sender is master at its own device: it fetches keys, keeps them, and announces their IDs; the receiver fetches the
same keys as slave from its device, keeps them, and says so. Only a key that both ends hold is ever used. After a crash
or a lost answer the sender announces again what was not confirmed; what the receiver's device does not have is dropped
at both ends and counted.

The sender spends the oldest first, before its message leaves. Of a message that is lost the receiver keeps the keys:
so the sender tells from time to time which is its oldest, and what the receiver had before that is dropped there, after
a grace in which messages that are under way arrive. Should one that lives be dropped, a transfer is refused and all are
confirmed anew.
"""

import logging
from collections.abc import Collection
from functools import partial

from node.core.keys import Direction, KeyBlock
from node.core.ports import Clock, Ledger, PeerNode, QkdDevice, Store
from node.errors import CannotServeError, DeviceError, PeerError
from node.settings import DeviceSettings
from node.wire.federation import LinkKeyAnnouncement, LinkKeyHoldings

log = logging.getLogger("kmstn.link_keys")

# How often the receiver hears which link key is the oldest, if there is nothing else to announce.
REMIND_INTERVAL_S = 10.0
# Longer than any message is under way.
UNMATCHED_GRACE_S = 30.0


class LinkKeyStock:
    """One QKD link, both directions, as one of its nodes sees it."""

    # Link keys kept as the receiver.
    inbound_limit = 4096

    def __init__(
        self,
        link: str,
        settings: DeviceSettings,
        device: QkdDevice,
        peer: PeerNode,
        store: Store,
        clock: Clock,
    ) -> None:
        self.link = link
        self._hearing = False
        self.settings = settings
        self._device = device
        self._peer = peer
        self._store = store
        self._clock = clock
        self._announced_at = -REMIND_INTERVAL_S
        # Inbound link keys that the sender has spent, and since when that is known.
        self._spent: dict[str, float] = {}
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
        if held or self._clock.now() - self._announced_at >= REMIND_INTERVAL_S:
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

        Raises CannotServeError where the sender announces more at once than is kept, or while its last word is worked
        on.
        """
        if self._hearing:
            raise CannotServeError(f"link {self.link}: an announcement is being worked on")
        self._hearing = True
        try:
            return await self._hear(tuple(dict.fromkeys(announcement.key_ids)), announcement.oldest)
        finally:
            self._hearing = False

    async def _hear(self, key_ids: tuple[str, ...], oldest: str | None) -> LinkKeyHoldings:
        known = await self._store.transact(lambda ledger: ledger.known_link_keys(key_ids))
        unknown = [key_id for key_id in key_ids if key_id not in known]
        if len(unknown) > self.inbound_limit:
            raise CannotServeError(f"link {self.link}: no more than {self.inbound_limit} link keys are kept")
        fetched = {key.key_id: key for key in (await self._fetch(unknown) if unknown else ())}
        # In the order of the announcement, whatever that of the device: it tells which are older.
        keys = [fetched[key_id] for key_id in unknown if key_id in fetched]
        dropped = await self._store.transact(partial(self._keep_inbound, keys=keys, oldest=oldest))
        self._count_unmatched(len(dropped), "were never used by the other end")
        held = (known | fetched.keys()) - set(dropped)
        absent = tuple(key_id for key_id in key_ids if key_id not in held)
        return LinkKeyHoldings(held=tuple(sorted(held)), absent=absent)

    def _keep_inbound(self, ledger: Ledger, keys: Collection[KeyBlock], oldest: str | None) -> tuple[str, ...]:
        """Store link keys, and drop what the sender spent or what there is no room for; returns what was dropped."""
        if keys:
            ledger.add_link_keys(self.link, Direction.IN, keys, ready=True)
        now, spent = self._clock.now(), ledger.inbound_link_keys_before(self.link, oldest) if oldest else ()
        self._spent = {key_id: self._spent.get(key_id, now) for key_id in spent}
        unmatched = [key_id for key_id, since in self._spent.items() if now - since >= UNMATCHED_GRACE_S]
        if unmatched:
            ledger.drop_link_keys(unmatched)
        excess = ledger.link_key_counts().get((self.link, Direction.IN, True), 0) - self.inbound_limit
        surplus = ledger.oldest_inbound_link_keys(self.link, excess) if excess > 0 else ()
        if surplus:
            ledger.drop_link_keys(surplus)
        return (*unmatched, *surplus)

    def _count_unmatched(self, number: int, why: str) -> None:
        if number:
            self.unmatched += number
            log.warning("link %s: %d link keys %s, dropped", self.link, number, why)

    async def _announce(self) -> None:
        limit = self.settings.batch_keys
        key_ids, oldest = await self._store.transact(
            lambda ledger: (ledger.unconfirmed_link_keys(self.link, limit), ledger.oldest_link_key(self.link))
        )
        if oldest is None:
            return
        announcement = LinkKeyAnnouncement(link=self.link, key_ids=key_ids, oldest=oldest)
        holdings = await self._peer.announce_link_keys(announcement)
        self._announced_at = self._clock.now()
        if not key_ids:
            return
        mine = set(key_ids)
        held, absent = mine & set(holdings.held), mine & set(holdings.absent)
        self._count_unmatched(len(absent), "are not at the other end")

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
