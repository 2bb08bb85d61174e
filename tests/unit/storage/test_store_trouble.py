"""A full, read-only or damaged disk: refused with the reason, nothing acknowledged lost, nothing begun anew."""

import asyncio
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from node.core.keys import Direction, Grade, KeyBlock, KeyRecord, KeyState, PoolBlock
from node.core.ports import Ledger
from node.errors import StoreDamagedError, StoreError, StoreForeignError, StoreMissingError
from node.storage.database import DATABASE_NAME, Database
from node.storage.value_cipher import ValueCipher
from tests.unit.storage.small_stores import DATA_KEY, LINK, at_once, link_key, made, opened, parcel, stocked

ROOT = Path(__file__).parents[3]
KEY_IDS = [f"k{number}" for number in range(300)]
NOBODY = 65534


def pragma(store: Database, text: str) -> int:
    assert store._connection is not None
    row = store._connection.execute(f"PRAGMA {text}").fetchone()
    return int(row[0]) if row else 0


async def fill(store: Database) -> list[str]:
    """Put link keys into the store until it refuses; return the IDs of those that it acknowledged."""
    acknowledged: list[str] = []
    while store.failure is None:
        batch = [f"more{len(acknowledged) + number}" for number in range(10)]
        with suppress(StoreError):
            await store.transact(lambda ledger, batch=batch: stocked(ledger, batch))  # type: ignore[misc]
            acknowledged += batch
    assert "refused to write" in store.failure
    return acknowledged


async def held(store: Database, key_ids: list[str]) -> bool:
    found: set[str] = set()
    for begin in range(0, len(key_ids), 500):
        some = key_ids[begin : begin + 500]
        found |= await store.transact(lambda ledger, some=some: ledger.known_link_keys(some))  # type: ignore[misc]
    return found == set(key_ids)


async def test_full_store_says_so_loses_nothing_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        pragma(store, f"max_page_count = {pragma(store, 'page_count') + 4}")
        acknowledged = await fill(store)
        assert acknowledged
        assert store.failure is not None
        assert "full" in store.failure
        with pytest.raises(StoreError, match="full"):
            await store.transact(lambda ledger: stocked(ledger, KEY_IDS))
        assert await held(store, acknowledged), "what is there can still be read"
        pragma(store, "max_page_count = 100000")
        assert not await held(store, KEY_IDS)
        await store.transact(lambda ledger: stocked(ledger, KEY_IDS))
        assert store.failure is None
        assert await held(store, acknowledged + KEY_IDS)
    async with opened(tmp_path) as store:
        assert await held(store, acknowledged + KEY_IDS)


async def test_read_only_disk_is_told_while_running_and_tried_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.transact(lambda ledger: stocked(ledger, ["k1"]))
        pragma(store, "query_only = ON")
        with pytest.raises(StoreError, match="readonly"):
            await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0))
        with pytest.raises(StoreError, match="readonly"):
            await store.transact(lambda ledger: ledger.link_key_counts())
        assert "readonly" in (store.failure or "")
        pragma(store, "query_only = OFF")
        assert await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0)) == (link_key("k1"),)
        assert store.failure is None


async def limited(folder: Path) -> None:
    """Run in a process of its own: fill up a disk that is made small, report, make it large, report, and be killed."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    store = made(folder)
    store.open()
    acknowledged = await fill(store)
    print(store.failure, *acknowledged, sep="\n", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.transact(lambda ledger: stocked(ledger, ["after"]))
    print("after" if store.failure is None else store.failure, flush=True)
    os.kill(os.getpid(), 9)


def test_disk_that_takes_no_more_bytes_loses_nothing_not_even_by_a_crash(tmp_path: Path) -> None:
    """The write itself fails here, in the log and at the sync, where a limit on pages fails before it."""
    code = (
        "import asyncio, sys, pathlib, tests.unit.storage.test_store_trouble as t; "
        "asyncio.run(t.limited(pathlib.Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    failure, *acknowledged = done.stdout.splitlines()
    assert "refused to write" in failure, done.stderr
    assert len(acknowledged) > 100
    assert acknowledged[-1] == "after"

    async def check() -> None:
        async with opened(tmp_path) as store:
            assert await held(store, acknowledged)

    asyncio.run(check())


def test_store_that_may_only_be_read_is_refused_when_it_opens() -> None:
    folder = Path(tempfile.mkdtemp())
    at_once(folder, lambda ledger: stocked(ledger, ["k1"]))
    (folder / DATABASE_NAME).chmod(0o444)
    folder.chmod(0o555)
    reader, writer = os.pipe()
    if os.fork() == 0:
        if os.getuid() == 0:
            os.setuid(NOBODY)
        try:
            made(folder).open()
        except StoreError as error:
            os.write(writer, f"{type(error).__name__} {error}".encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    said = os.read(reader, 1000).decode()
    os.close(reader)
    assert said.startswith("StoreError cannot open") or said.startswith("StoreError the store refused to write"), said
    folder.chmod(0o755)
    (folder / DATABASE_NAME).chmod(0o600)
    assert at_once(folder, lambda ledger: ledger.take_link_keys(LINK, 1, 0)) == (link_key("k1"),)
    shutil.rmtree(folder)


def everything(ledger: Ledger) -> None:
    stocked(ledger, KEY_IDS)
    ledger.add_blocks(
        "n9", Direction.OUT, [PoolBlock(f"b{n}", bytes([n]) * 32, Grade.QKD) for n in range(50)], ready=True
    )
    for number in range(50):
        key_id = f"s{number}"
        record = KeyRecord(key_id, "a", ("b",), 256, Grade.QKD, ("n1", "n2"), KeyState.DEPOSITED, 1e12)
        ledger.add_records([record])
        ledger.deposit([KeyBlock(key_id, bytes([number]) * 32)], ["b"])
        ledger.add_parcel(parcel(f"p{number}", (f"x{number}",)))


def all_right(ledger: Ledger) -> bool:
    """Take out everything that `everything` put in and compare."""
    keys = ledger.take_link_keys(LINK, len(KEY_IDS), 0)
    blocks = ledger.take_blocks("n9", 50)
    deposits = [ledger.fetch_deposit(f"s{n}", "b") for n in range(50)]
    parcels = ledger.open_parcels()
    return (
        keys == tuple(link_key(key_id) for key_id in KEY_IDS)
        and blocks == tuple(PoolBlock(f"b{n}", bytes([n]) * 32, Grade.QKD) for n in range(50))
        and deposits == [bytes([n]) * 32 for n in range(50)]
        and {one.parcel_id for one in parcels} == {f"p{n}" for n in range(50)}
    )


def refused(folder: Path, kind: type[StoreError]) -> None:
    """Expect the opening to be refused, and the refusal to leave everything as it is."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(kind, match="cannot open"):
        Database(folder / DATABASE_NAME, ValueCipher(DATA_KEY)).open()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a byte": lambda whole, chance: changed(whole, chance, 1),
    "16 bytes": lambda whole, chance: changed(whole, chance, 16),
    "half a page": lambda whole, chance: changed(whole, chance, 2048),
    "a page": lambda whole, chance: changed(whole, chance, 4096),
    "cut": lambda whole, chance: whole[: chance.randrange(1, len(whole))],
}


def changed(whole: bytes, chance: random.Random, size: int) -> bytes:
    offset = chance.randrange(len(whole) - size)
    return (
        whole[:offset]
        + bytes(byte ^ chance.randrange(1, 256) for byte in whole[offset : offset + size])
        + whole[offset + size :]
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_anywhere_is_refused_when_the_store_opens_or_touches_no_key(tmp_path: Path, damage: str) -> None:
    """What may pass is damage to free space and to the text of records; a key that comes out is the right one."""
    at_once(tmp_path, everything)
    path = tmp_path / DATABASE_NAME
    whole = path.read_bytes()
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    refusals = 0
    for _ in range(40):
        damaged = DAMAGES[damage](whole, chance)
        path.write_bytes(damaged)
        store = Database(path, ValueCipher(DATA_KEY))
        try:
            store.open()
        except StoreError:
            refusals += 1
            assert path.read_bytes() == damaged
        else:
            store.close()
            assert at_once(tmp_path, all_right)
    assert refusals > (36 if damage == "cut" else 3)
    path.write_bytes(whole)
    assert at_once(tmp_path, all_right)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stock SET number = number + 1",
        "DELETE FROM stock",
        "DELETE FROM store",
        "DROP TRIGGER link_key_out",
        "DROP INDEX record_expiry",
        "CREATE TABLE another (x)",
        "UPDATE record SET path = '[' WHERE key_id = 's1'",
        "UPDATE record SET state = 'other' WHERE key_id = 's1'",
        "DELETE FROM parcel WHERE parcel_id = 'p1'",
        "UPDATE pool_block SET grade = 'gold' WHERE key_id = 'b3'",
        "UPDATE pool_block SET grade = CAST(x'ff' AS TEXT) WHERE key_id = 'b3'",
        "UPDATE stock SET owner = CAST(x'ff' AS TEXT)",
        "UPDATE record SET key_id = CAST(x'ff' AS TEXT), state = '' WHERE key_id = 's1'",
        "UPDATE link_key SET sealed = randomblob(60) WHERE key_id = 'k299'",
    ],
)
def test_edited_books_are_refused_when_the_store_opens(tmp_path: Path, statement: str) -> None:
    at_once(tmp_path, everything)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)) as connection:
        connection.execute(statement)
    refused(tmp_path, StoreDamagedError)


def test_other_data_key_is_noticed_at_the_opening_even_of_an_empty_store(tmp_path: Path) -> None:
    at_once(tmp_path, lambda _: None)
    with pytest.raises(StoreForeignError, match="another data key"):
        Database(tmp_path / DATABASE_NAME, ValueCipher(bytes(32))).open()


@pytest.mark.parametrize("left", [None, b""], ids=["missing", "empty"])
def test_store_that_is_not_there_is_not_made_anew(tmp_path: Path, left: bytes | None) -> None:
    if left is not None:
        (tmp_path / DATABASE_NAME).write_bytes(left)
    refused(tmp_path, StoreMissingError)


async def test_damage_found_while_running_ends_the_service(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.transact(lambda ledger: stocked(ledger, ["k1", "k2"]))
        with closing(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)) as other:
            other.execute("UPDATE link_key SET sealed = zeroblob(60) WHERE key_id = 'k1'")
        with pytest.raises(StoreDamagedError, match="link_key:k1"):
            await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0))
        assert "link_key:k1" in (store.failure or "")
        with pytest.raises(StoreError, match="link_key:k1"):
            await store.transact(lambda ledger: ledger.known_link_keys(["k2"]))
    refused(tmp_path, StoreDamagedError)


async def test_transaction_that_cannot_be_undone_ends_the_service_and_is_answered(tmp_path: Path) -> None:
    def breaks_the_connection(_ledger: Ledger) -> None:
        assert store._connection is not None
        store._connection.close()

    async with opened(tmp_path) as store:
        await store.transact(lambda ledger: stocked(ledger, ["k1"]))
        with pytest.raises(StoreError):
            await asyncio.wait_for(store.transact(breaks_the_connection), 10)
        assert store.failure is not None
        with pytest.raises(StoreError):
            await asyncio.wait_for(store.transact(lambda ledger: ledger.link_key_counts()), 10)
    async with opened(tmp_path) as store:
        assert await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0)) == (link_key("k1"),)
