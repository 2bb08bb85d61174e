"""Link keys that the sender spent on messages that never came: the receiver lets go of its copies, and no others."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from node.core.keys import Direction, KeyBlock
from node.core.link_key_stock import REMIND_INTERVAL_S, UNMATCHED_GRACE_S, LinkKeyStock
from node.errors import CannotServeError
from node.settings import DeviceSettings
from node.storage.database import Database
from node.wire.federation import LinkKeyAnnouncement, LinkKeyHoldings
from tests.unit.core.relay_pair import Clock, Wire
from tests.unit.storage.small_stores import LINK, link_key, made

LIMIT = 40


def named(number: int) -> str:
    return f"{number:08}-0000-4000-8000-000000000000"


class Fibre:
    """Both devices of one link: each has whatever key is asked for."""

    def __init__(self) -> None:
        self.made = 0

    async def stored_key_count(self) -> int:
        return 1000

    async def enc_keys(self, number: int) -> tuple[KeyBlock, ...]:
        self.made += number
        return tuple(link_key(named(n)) for n in range(self.made - number, self.made))

    async def dec_keys(self, key_ids: Sequence[str]) -> tuple[KeyBlock, ...]:
        return tuple(link_key(key_id) for key_id in sorted(key_ids, reverse=True))


class Telling(Wire):
    """A wire that delivers announcements."""

    stock: LinkKeyStock

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[LinkKeyAnnouncement] = []

    async def announce_link_keys(self, announcement: LinkKeyAnnouncement) -> LinkKeyHoldings:
        self.heard.append(announcement)
        return await self.stock.announced(LinkKeyAnnouncement.model_validate_json(announcement.model_dump_json()))


class Link:
    """A sender with keys in stock, and the receiver."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.clock, self.wire, self.fibre = clock, Telling(), Fibre()
        self.stores: list[Database] = []
        settings = DeviceSettings(name="qkd", url="https://qkd:443", prefetch_keys=16, batch_keys=8)
        stocks = []
        for name in ("sender", "receiver"):
            (folder / name).mkdir()
            store = made(folder / name)
            store.open()
            self.stores.append(store)
            stocks.append(LinkKeyStock(LINK, settings, self.fibre, self.wire, store, clock))
            stocks[-1].inbound_limit = LIMIT
        self.sender, self.receiver = stocks
        self.wire.stock = self.receiver

    async def top_up(self) -> None:
        while await self.sender.top_up():
            pass

    async def lose(self, number: int) -> list[str]:
        """Spend link keys on messages that do not arrive."""
        taken = await self.stores[0].transact(lambda ledger: ledger.take_link_keys(LINK, number, 0))
        return [key.key_id for key in taken or ()]

    async def held(self, key_ids: Sequence[str]) -> set[str]:
        return await self.stores[1].transact(lambda ledger: ledger.known_link_keys(key_ids))

    async def inbound(self) -> int:
        counts = await self.stores[1].transact(lambda ledger: ledger.link_key_counts())
        return counts.get((LINK, Direction.IN, True), 0)


@pytest_asyncio.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    joined = Link(tmp_path, Clock())
    await joined.top_up()
    yield joined
    for store in joined.stores:
        store.close()


async def test_keys_spent_on_lost_messages_are_dropped_once_none_can_be_under_way(link: Link) -> None:
    lost = await link.lose(5)
    await link.top_up()
    assert await link.held(lost) == set(lost), "a message may still be under way"
    link.clock.time += UNMATCHED_GRACE_S
    await link.top_up()
    assert await link.held(lost) == set()
    assert link.receiver.unmatched == 5
    assert await link.inbound() == 16


async def test_oldest_is_told_also_when_nothing_is_new_but_seldom(link: Link) -> None:
    before = len(link.wire.heard)
    await link.top_up()
    assert len(link.wire.heard) == before
    link.clock.time += REMIND_INTERVAL_S
    await link.top_up()
    await link.top_up()
    assert [(a.key_ids, a.oldest) for a in link.wire.heard[before:]] == [((), named(0))]


async def test_key_that_is_named_as_oldest_later_than_another_costs_no_live_key(link: Link) -> None:
    """Announcements that overtake one another: the late one names an older key, and nothing is dropped for it."""
    await link.receiver.announced(LinkKeyAnnouncement(link=LINK, key_ids=(), oldest=named(4)))
    await link.receiver.announced(LinkKeyAnnouncement(link=LINK, key_ids=(), oldest=named(0)))
    await link.receiver.announced(LinkKeyAnnouncement(link=LINK, key_ids=(), oldest=named(999)))
    link.clock.time += UNMATCHED_GRACE_S
    await link.receiver.announced(LinkKeyAnnouncement(link=LINK, key_ids=(), oldest=named(4)))
    assert await link.inbound() == 16


async def test_receiver_at_its_limit_goes_on_with_the_newest_keys(link: Link) -> None:
    """However many messages are lost at once, the link stays alive."""
    for _ in range(10):
        assert await link.lose(8)
        await link.top_up()
    assert await link.inbound() == LIMIT
    live = await link.stores[0].transact(lambda ledger: ledger.take_link_keys(LINK, 16, 0))
    assert live is not None
    assert await link.held([key.key_id for key in live]) == {key.key_id for key in live}
    assert link.receiver.unmatched == 10 * 8 + 16 - LIMIT


async def test_more_keys_at_once_than_are_kept_are_refused(link: Link) -> None:
    with pytest.raises(CannotServeError, match="no more than 40"):
        await link.receiver.announced(
            LinkKeyAnnouncement(link=LINK, key_ids=tuple(named(1000 + n) for n in range(LIMIT + 1)))
        )
    assert await link.inbound() == 16
