"""The store's promises: what was taken stays taken, work that fails leaves nothing, and damage has a name."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from node.core.keys import Direction, Grade, KeyBlock, PoolBlock
from node.core.ports import Ledger
from node.errors import StoreError, StoreForeignError
from node.storage.database import DATABASE_NAME, Database
from node.storage.value_cipher import ValueCipher
from tests.unit.storage.small_stores import DATA_KEY, LINK, at_once, link_key, opened, parcel, stocked

PAGE_SIZE_BYTES = 4096


def test_link_key_taken_before_a_restart_is_not_there_after_it(tmp_path: Path) -> None:
    at_once(tmp_path, lambda ledger: stocked(ledger, ["k1", "k2", "k3"]))
    assert at_once(tmp_path, lambda ledger: ledger.take_link_keys(LINK, 2, 0)) == (link_key("k1"), link_key("k2"))
    assert at_once(tmp_path, lambda ledger: ledger.known_link_keys(["k1", "k2", "k3"])) == {"k3"}
    assert at_once(tmp_path, lambda ledger: ledger.take_link_keys(LINK, 2, 0)) is None
    assert at_once(tmp_path, lambda ledger: ledger.take_link_keys(LINK, 1, 0)) == (link_key("k3"),)


def test_link_key_named_a_second_time_after_a_restart(tmp_path: Path) -> None:
    at_once(tmp_path, lambda ledger: stocked(ledger, ["k1", "k2"], Direction.IN))
    taken = at_once(tmp_path, lambda ledger: ledger.take_named_link_keys(LINK, ["k2", "k1"]))
    assert taken == (link_key("k2"), link_key("k1"))
    assert at_once(tmp_path, lambda ledger: ledger.take_named_link_keys(LINK, ["k1"])) is None


def test_pool_block_taken_before_a_restart_is_not_there_after_it(tmp_path: Path) -> None:
    blocks = [PoolBlock(f"b{i}", bytes([i]) * 32, Grade.QKD) for i in range(2)]
    at_once(tmp_path, lambda ledger: ledger.add_blocks("n9", Direction.OUT, blocks, ready=True))
    assert at_once(tmp_path, lambda ledger: ledger.take_blocks("n9", 1)) == (blocks[0],)
    assert at_once(tmp_path, lambda ledger: ledger.take_blocks("n9", 2)) is None
    assert at_once(tmp_path, lambda ledger: ledger.take_blocks("n9", 1)) == (blocks[1],)


def test_key_is_fetched_once_by_each_slave_whatever_restarts(tmp_path: Path) -> None:
    at_once(tmp_path, lambda ledger: ledger.deposit([KeyBlock("s1", b"session")], ["b", "c"]))
    fetched = [at_once(tmp_path, lambda ledger: ledger.fetch_deposit("s1", "b")) for _ in range(2)]
    assert fetched == [b"session", None]
    assert at_once(tmp_path, lambda ledger: ledger.deposits_left("s1")) == 1


async def test_link_keys_of_the_wrong_direction_or_unconfirmed_or_in_reserve_are_not_spent(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.transact(lambda ledger: stocked(ledger, ["in"], Direction.IN))
        await store.transact(lambda ledger: ledger.add_link_keys(LINK, Direction.OUT, [link_key("held")], ready=False))
        assert await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0)) is None
        assert await store.transact(lambda ledger: ledger.take_named_link_keys(LINK, ["held"])) is None
        await store.transact(lambda ledger: ledger.confirm_link_keys(["held"]))
        assert await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, reserve=1)) is None
        assert await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0)) == (link_key("held"),)
        assert await store.transact(lambda ledger: ledger.take_named_link_keys("other link", ["in"])) is None


async def test_work_that_fails_leaves_nothing_and_its_neighbours_in_the_same_commit_stay(tmp_path: Path) -> None:
    def fails(ledger: Ledger) -> None:
        assert ledger.take_link_keys(LINK, 1, 0) is not None
        ledger.add_parcel(parcel("lost", ("x",)))
        stocked(ledger, ["never"])
        raise LookupError("on purpose")

    queued = threading.Event()
    async with opened(tmp_path) as store:
        await store.transact(lambda ledger: stocked(ledger, ["k1"]))
        # While the writer is kept busy the others queue up, and so share the next commit.
        busy = asyncio.create_task(store.transact(lambda _: queued.wait(30)))
        good = asyncio.create_task(store.transact(lambda ledger: stocked(ledger, ["k2"])))
        bad = asyncio.create_task(store.transact(fails))
        also_good = asyncio.create_task(store.transact(lambda ledger: stocked(ledger, ["k3"])))
        await asyncio.sleep(0)
        queued.set()
        outcomes = await asyncio.gather(busy, good, bad, also_good, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [bool, type(None), LookupError, type(None)]
    async with opened(tmp_path) as store:
        names = ["k1", "k2", "k3", "never"]
        assert await store.transact(lambda ledger: ledger.known_link_keys(names)) == {"k1", "k2", "k3"}
        assert await store.transact(lambda ledger: ledger.open_parcels()) == ()
        counts = await store.transact(lambda ledger: ledger.link_key_counts())
        assert counts[LINK, Direction.OUT, True] == 3


async def test_caller_that_hung_up_does_not_stop_the_writer(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        hung_up = asyncio.create_task(store.transact(lambda ledger: stocked(ledger, ["k1"])))
        await asyncio.sleep(0)
        hung_up.cancel()
        assert await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0)) == (link_key("k1"),)


async def test_work_queued_when_the_store_closes_is_still_done(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        waiting = [
            asyncio.ensure_future(store.transact(lambda ledger, i=i: stocked(ledger, [f"k{i}"])))  # type: ignore[misc]
            for i in range(20)
        ]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    async with opened(tmp_path) as store:
        assert len(await store.transact(lambda ledger: ledger.known_link_keys([f"k{i}" for i in range(20)]))) == 20


def test_other_data_key_opens_nothing_and_loses_nothing(tmp_path: Path) -> None:
    at_once(tmp_path, lambda ledger: stocked(ledger, ["k1"]))
    with pytest.raises(StoreForeignError, match="written under another data key"):
        at_once(tmp_path, lambda ledger: ledger.take_link_keys(LINK, 1, 0), bytes(32))
    assert at_once(tmp_path, lambda ledger: ledger.take_link_keys(LINK, 1, 0)) == (link_key("k1"),)


@pytest.mark.parametrize("damage", ["no database", "cut", "header"])
def test_damaged_file_is_named_when_the_store_opens(tmp_path: Path, damage: str) -> None:
    at_once(tmp_path, lambda ledger: stocked(ledger, [f"k{i}" for i in range(200)]))
    path = tmp_path / DATABASE_NAME
    whole = path.read_bytes()
    damaged = {"no database": b"key" * 5000, "cut": whole[: len(whole) // 2], "header": b"\0" * 100 + whole[100:]}
    path.write_bytes(damaged[damage])
    with pytest.raises(StoreError, match=f"cannot open .*{DATABASE_NAME}: "):
        Database(path, ValueCipher(DATA_KEY)).open()


def test_page_overwritten_anywhere_is_noticed_before_a_wrong_key_comes_out(tmp_path: Path) -> None:
    key_ids = [f"k{i}" for i in range(100)]
    at_once(tmp_path, lambda ledger: stocked(ledger, key_ids))
    path = tmp_path / DATABASE_NAME
    whole = path.read_bytes()
    noticed = 0
    for start in range(0, len(whole), PAGE_SIZE_BYTES):
        path.write_bytes(whole[:start] + bytes(PAGE_SIZE_BYTES) + whole[start + PAGE_SIZE_BYTES :])
        try:
            keys = at_once(tmp_path, lambda ledger: ledger.take_link_keys(LINK, 100, 0))
        except StoreError:
            noticed += 1
        else:
            assert keys == tuple(link_key(key_id) for key_id in key_ids)
    assert noticed > len(whole) // PAGE_SIZE_BYTES // 2


def test_folder_in_the_way_or_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).mkdir()
    for path in (tmp_path / DATABASE_NAME, tmp_path / "missing" / DATABASE_NAME):
        with pytest.raises(StoreError, match=r"cannot open .*(unable to open|missing)"):
            Database(path, ValueCipher(DATA_KEY)).open()


async def test_disk_that_fails_while_running_is_an_error_of_the_store_and_keeps_the_key(tmp_path: Path) -> None:
    def on_a_broken_disk(ledger: Ledger) -> None:
        ledger.take_link_keys(LINK, 1, 0)
        raise sqlite3.OperationalError("disk I/O error")

    async with opened(tmp_path) as store:
        await store.transact(lambda ledger: stocked(ledger, ["k1"]))
        with pytest.raises(StoreError, match="disk I/O error"):
            await store.transact(on_a_broken_disk)
        assert await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0)) == (link_key("k1"),)


def test_parcels_come_back_as_they_were(tmp_path: Path) -> None:
    first = parcel("p1", ("s1", "s2"), protections=("qkd+pqc", "pqc"), upstream="n0")
    second = parcel("p2", ("s3",), bodies=(bytes(range(256)),))
    at_once(tmp_path, lambda ledger: ledger.add_parcel(first))
    at_once(tmp_path, lambda ledger: ledger.add_parcel(second))
    assert at_once(tmp_path, lambda ledger: ledger.parcels_of(["s1", "s3", "x"])) == {"s1": first, "s3": second}
    at_once(tmp_path, lambda ledger: ledger.acknowledge(["s1"]))
    assert set(at_once(tmp_path, lambda ledger: ledger.open_parcels())) == {first, second}
    at_once(tmp_path, lambda ledger: ledger.acknowledge(["s2"]))
    assert at_once(tmp_path, lambda ledger: ledger.open_parcels()) == (second,)


def test_transfer_is_new_once_until_it_expires(tmp_path: Path) -> None:
    seen = [at_once(tmp_path, lambda ledger: ledger.remember_transfer("t1", "n1", 100.0)) for _ in range(2)]
    assert seen == [True, False]
    at_once(tmp_path, lambda ledger: ledger.sweep(100.0))
    assert not at_once(tmp_path, lambda ledger: ledger.remember_transfer("t1", "n1", 100.0))
    at_once(tmp_path, lambda ledger: ledger.sweep(100.5))
    assert at_once(tmp_path, lambda ledger: ledger.remember_transfer("t1", "n1", 200.0))
