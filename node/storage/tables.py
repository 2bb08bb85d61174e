"""What the parts of the ledger share: statements on one connection, values sealed under the store's cipher."""

import sqlite3
from collections.abc import Collection

from node.core.keys import Direction
from node.storage.value_cipher import ValueCipher


def question_marks(values: Collection[object]) -> str:
    """Return as many parameters for an SQL statement."""
    return ",".join("?" * len(values))


class Tables:
    """One connection inside a transaction."""

    def __init__(self, connection: sqlite3.Connection, cipher: ValueCipher) -> None:
        self._sql = connection.execute
        self._many = connection.executemany
        self._cipher = cipher

    def _seal(self, table: str, key_id: str, value: bytes) -> bytes:
        return self._cipher.seal(f"{table}:{key_id}", value)

    def _open(self, table: str, key_id: str, sealed: bytes) -> bytes:
        return self._cipher.open(f"{table}:{key_id}", sealed)

    def _counts(self, kind: str) -> dict[tuple[str, Direction, bool], int]:
        rows = self._sql("SELECT owner, direction, ready, number FROM stock WHERE kind = ?", (kind,))
        return {(owner, Direction(direction), bool(ready)): number for owner, direction, ready, number in rows}

    def _stock(self, kind: str, owner: str) -> int:
        query = "SELECT number FROM stock WHERE kind = ? AND owner = ? AND direction = 'out' AND ready = 1"
        row = self._sql(query, (kind, owner)).fetchone()
        return int(row[0]) if row else 0
