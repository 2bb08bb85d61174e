"""The books of all nodes as they stand on disk: what no refused request may change. Never a sealed value."""

import asyncio
import sqlite3
from typing import Any

from tests.integration.node.small_federation import SmallFederation

TABLES = {
    "link_key": "key_id, link, direction, ready",
    "pool_block": "key_id, peer, direction, ready, grade",
    "transfer": "transfer_id, sender",
    "parcel": "parcel_id",
    "parcel_key": "key_id, parcel_id",
    "record": "key_id, master_sae, slave_saes, state, path, grade",
    "deposit": "key_id, slave_sae",
    "kem_key": "key_id, purpose",
}

EXPIRING = {"transfer", "kem_key"}

Books = dict[tuple[str, str], frozenset[tuple[Any, ...]]]


def read_books(federation: SmallFederation) -> Books:
    """Read every table of every node."""
    return {(node, table): rows for node in federation.nodes for table, rows in _tables(federation, node)}


def differences(before: Books, after: Books) -> list[str]:
    """Name the tables that differ, with a few of the rows. What expires by itself may go."""
    return [
        f"{node} {table}: gone {sorted(before[node, table] - rows)[:3]}, new {sorted(rows - before[node, table])[:3]}"
        for (node, table), rows in after.items()
        if (rows - before[node, table] if table in EXPIRING else rows != before[node, table])
    ]


async def books_at_rest(federation: SmallFederation) -> Books:
    """Wait until the nodes have nothing under way and their books stay the same for a while."""
    async with asyncio.timeout(30):
        await federation.settled()
        books = read_books(federation)
        while True:
            await asyncio.sleep(0.25)
            again = read_books(federation)
            pending = any(rows for (_node, table), rows in again.items() if table == "parcel")
            held = any(not row[3] for (_node, table), rows in again.items() if table == "link_key" for row in rows)
            if again == books and not pending and not held:
                return again
            books = again


def _tables(federation: SmallFederation, node: str) -> list[tuple[str, frozenset[tuple[Any, ...]]]]:
    path = federation.root / f"state-{node}" / "kmstn.db"
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return [
            (table, frozenset(connection.execute(f"SELECT {columns} FROM {table}").fetchall()))
            for table, columns in TABLES.items()
        ]
    finally:
        connection.close()
