"""What a device must not forget, whatever kills it: how far it has handed out, and which keys were fetched.

Both are on disk before the answer leaves. No key bytes are stored: keys are derived anew from the fibre.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from emulators.device import Position

DATABASE_FILE = "device.sqlite3"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS position (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    next_index INTEGER NOT NULL, stock_keys REAL NOT NULL, as_of REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS fetched (key_index INTEGER PRIMARY KEY) STRICT;
"""


class Store:
    """The device's durable memory; every `save_` returns when the disk has it, and raises sqlite3.Error if not."""

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(state_dir / DATABASE_FILE, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(_SCHEMA)

    def position(self) -> Position | None:
        """Return the position last saved; None for a device that never handed out a key."""
        row = self._database.execute("SELECT next_index, stock_keys, as_of FROM position").fetchone()
        return None if row is None else Position(*row)

    def fetched(self) -> set[int]:
        """Return the indices of the keys that were fetched and are not too old to matter."""
        return {index for (index,) in self._database.execute("SELECT key_index FROM fetched")}

    def save_position(self, position: Position) -> None:
        """Remember how far the sending direction has come."""
        self._database.execute(
            "INSERT OR REPLACE INTO position VALUES (1, ?, ?, ?)",
            (position.next_index, position.stock_keys, position.as_of),
        )

    def save_fetched(self, indices: Iterable[int], oldest_kept: int) -> None:
        """Remember that these keys were fetched; forget those below `oldest_kept`."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany("INSERT INTO fetched VALUES (?)", [(index,) for index in indices])
            self._database.execute("DELETE FROM fetched WHERE key_index < ?", (oldest_kept,))
            self._database.execute("COMMIT")
        except sqlite3.Error:
            # A commit that failed on the disk may have ended the transaction already.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
