"""Numbers in stock, which triggers keep, against a count of the rows, after any sequence of operations."""

import sqlite3
from importlib.resources import files
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.keys import Direction, Grade, KeyBlock, PoolBlock
from node.storage.ledger import SqliteLedger
from node.storage.value_cipher import ValueCipher

KEY_IDS = st.lists(st.sampled_from([f"k{i}" for i in range(5)]), min_size=1, max_size=3)
OWNERS = st.sampled_from(["x", "y"])
WAYS = st.sampled_from(list(Direction))
NUMBERS = st.integers(1, 3)
OPERATIONS = st.one_of(
    st.tuples(st.just("add_link_keys"), OWNERS, WAYS, KEY_IDS, st.booleans()),
    st.tuples(st.just("add_blocks"), OWNERS, WAYS, KEY_IDS, st.booleans()),
    st.tuples(st.just("confirm_link_keys"), KEY_IDS),
    st.tuples(st.just("doubt_link_keys"), OWNERS),
    st.tuples(st.just("drop_link_keys"), KEY_IDS),
    st.tuples(st.just("take_link_keys"), OWNERS, NUMBERS, st.integers(0, 2)),
    st.tuples(st.just("take_named_link_keys"), OWNERS, KEY_IDS),
    st.tuples(st.just("confirm_blocks"), KEY_IDS, st.just("pqc")),
    st.tuples(st.just("drop_blocks"), KEY_IDS),
    st.tuples(st.just("drop_pool"), OWNERS),
    st.tuples(st.just("drop_oldest_inbound_blocks"), OWNERS, NUMBERS),
    st.tuples(st.just("take_blocks"), OWNERS, NUMBERS),
    st.tuples(st.just("take_named_blocks"), OWNERS, KEY_IDS),
    st.tuples(st.just("sweep"), st.just(1e12), NUMBERS),
)


def carry_out(ledger: SqliteLedger, name: str, *arguments: Any) -> None:
    if name == "add_link_keys":
        owner, way, key_ids, ready = arguments
        ledger.add_link_keys(owner, way, [KeyBlock(key_id, b"value") for key_id in key_ids], ready=ready)
    elif name == "add_blocks":
        owner, way, key_ids, ready = arguments
        ledger.add_blocks(owner, way, [PoolBlock(k, b"value", Grade.QKD) for k in key_ids], ready=ready)
    else:
        getattr(ledger, name)(*arguments)


def scanned(connection: sqlite3.Connection, table: str, owner: str) -> dict[tuple[str, Direction, bool], int]:
    query = f"SELECT {owner}, direction, ready, count(*) FROM {table} GROUP BY 1, 2, 3"
    return {(name, Direction(way), bool(ready)): number for name, way, ready, number in connection.execute(query)}


def present(counts: dict[tuple[str, Direction, bool], int]) -> dict[tuple[str, Direction, bool], int]:
    return {slot: number for slot, number in counts.items() if number}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(OPERATIONS, st.booleans()), min_size=6, max_size=30))
def test_counts_never_drift_from_the_rows(operations: list[tuple[tuple[Any, ...], bool]]) -> None:
    """Some of the work is undone, as when it raises: its counts must be undone with it."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.executescript(files("node.storage").joinpath("schema.sql").read_text())
    ledger = SqliteLedger(connection, ValueCipher(bytes(32)))
    for operation, undone in operations:
        connection.execute("SAVEPOINT work")
        carry_out(ledger, *operation)
        if undone:
            connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")
        assert present(ledger.link_key_counts()) == scanned(connection, "link_key", "link")
        assert present(ledger.block_counts()) == scanned(connection, "pool_block", "peer")
    connection.close()
