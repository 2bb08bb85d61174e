"""Sweeping a store: little by little, and without looking at what has not expired."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from node.core.keys import Direction, Grade, KeyBlock, KeyRecord, KeyState, PoolBlock
from node.core.ports import Ledger
from node.storage.store_file import DATABASE_NAME
from tests.unit.storage.small_stores import at_once, opened, parcel


def fill(ledger: Ledger) -> None:
    """Ten of each kind that expire at 100, one that does not; five blocks pending that no parcel carries."""
    for number in range(11):
        expires_at = 100.0 if number < 10 else 1e12
        ledger.remember_transfer(f"t{number}", "n1", expires_at)
        ledger.add_parcel(parcel(f"p{number}", (f"pk{number}", f"pl{number}"), expires_at))
        state = KeyState.DEPOSITED
        ledger.add_records([KeyRecord(f"r{number}", "a", ("b",), 256, Grade.QKD, ("n1",), state, expires_at)])
        if number % 2:
            ledger.deposit([KeyBlock(f"r{number}", bytes(32))], ["b"])
    blocks = [PoolBlock(name, bytes(32), Grade.QKD) for name in ("pk0", "pk10", *"vwxyz")]
    ledger.add_blocks("n2", Direction.OUT, blocks, ready=False)
    ledger.add_blocks("n2", Direction.OUT, [PoolBlock("ready", bytes(32), Grade.QKD)], ready=True)


async def test_sweep_drops_no_more_than_the_limit_at_once_and_all_in_the_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.transact(fill)
        unfetched: list[str] = []
        rounds, more = 0, True
        while more:
            expired, more = await store.transact(lambda ledger: ledger.sweep(200.0, 3))
            unfetched += expired
            rounds += 1
            with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
                left = [
                    connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                    for table in ("transfer", "parcel", "parcel_key", "record")
                ]
            least = max(11 - 3 * rounds, 1)
            assert left == [least, least, 2 * least, least]
        assert rounds == 4
        assert sorted(unfetched) == ["r1", "r3", "r5", "r7", "r9"]
        blocks = await store.transact(lambda ledger: ledger.block_counts())
        assert blocks["n2", Direction.OUT, False] == 1, "that of the parcel that has not expired"
        assert blocks["n2", Direction.OUT, True] == 1


@pytest.mark.parametrize("table", ["transfer", "parcel", "record"])
def test_what_expired_is_found_without_a_scan(tmp_path: Path, table: str) -> None:
    at_once(tmp_path, lambda _: None)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        query = f"EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE expires_at < 1 ORDER BY expires_at LIMIT 5"
        [plan] = [row[3] for row in connection.execute(query)]
    assert f"INDEX {table}_expiry" in plan
