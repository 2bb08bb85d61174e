"""The node's SQLite database: group commit on the event loop, every secret sealed under the data key.

Whatever asks for a transaction in one turn of the loop shares the commit of the next, so the cost of a sync is shared
just when there is much to do. The loop waits for the sync: handing it to a thread and back costs more than a sync on
a disk that is fit for this, and a node that cannot commit cannot serve either.
Each piece of work runs in a savepoint: if it raises, it alone is undone. The caller hears of success only after the
sync. What the work does is in `ledger`; this file knows the connection, grouping and failures.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from node.core.ports import Ledger
from node.errors import StoreError
from node.storage.ledger import SqliteLedger
from node.storage.value_cipher import ValueCipher

T = TypeVar("T")

DATABASE_NAME = "kmstn.db"

_Outcome = tuple[Any, Exception | None]


@dataclass(frozen=True, slots=True)
class _Work:
    run: Callable[[Ledger], Any]
    outcome: "asyncio.Future[Any]"


class Database:
    """The `Store` of a running node; `open` it, `close` it. All calls are made from one event loop's thread."""

    def __init__(self, path: Path | str, cipher: ValueCipher) -> None:
        self._path = path
        self._cipher = cipher
        self._waiting: list[_Work] = []
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open or create the database; raises StoreError saying what is wrong with it."""
        try:
            self._connection = self._connect()
        except (sqlite3.Error, OSError) as failure:
            raise StoreError(f"cannot open {self._path}: {failure}") from failure

    def close(self) -> None:
        """Finish what waits, then close the file."""
        self._commit()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def transact(self, work: Callable[[Ledger], T]) -> T:
        """Run the work in one transaction; returns when synced. Raises what the work raised, or StoreError."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._commit)
        self._waiting.append(_Work(work, outcome))
        return await outcome

    def _commit(self) -> None:
        group, self._waiting = self._waiting, []
        if not group:
            return
        if self._connection is None:
            outcomes: list[_Outcome] = [(None, StoreError(f"{self._path} is closed"))] * len(group)
        else:
            outcomes = _commit_group(self._connection, SqliteLedger(self._connection, self._cipher), group)
        for work, (result, raised) in zip(group, outcomes, strict=True):
            _settle(work.outcome, result, raised)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        if (verdict := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"damaged: {verdict}")
        connection.executescript(files("node.storage").joinpath("schema.sql").read_text())
        return connection


def _commit_group(connection: sqlite3.Connection, ledger: Ledger, group: list[_Work]) -> list[_Outcome]:
    try:
        connection.execute("BEGIN IMMEDIATE")
        outcomes = [_run(connection, ledger, work) for work in group]
        connection.execute("COMMIT")
    except sqlite3.Error as failure:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        error = StoreError(f"the store refused to write: {failure}")
        error.__cause__ = failure
        return [(None, error)] * len(group)
    return outcomes


def _run(connection: sqlite3.Connection, ledger: Ledger, work: _Work) -> _Outcome:
    connection.execute("SAVEPOINT work")
    try:
        result = work.run(ledger)
    except sqlite3.OperationalError:
        raise
    except Exception as raised:
        connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")
        if isinstance(raised, sqlite3.Error):
            return None, StoreError(f"the store did not take it: {raised}")
        return None, raised
    connection.execute("RELEASE work")
    return result, None


def _settle(outcome: "asyncio.Future[Any]", result: Any, raised: Exception | None) -> None:
    if outcome.done():
        return
    if raised is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(raised)
