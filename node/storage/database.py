"""The node's SQLite database: one writer thread, group commit, every secret sealed under the data key.

All work goes through one thread, so no two transactions meet; what is queued while a commit syncs shares the next one.
Each piece of work runs in a savepoint: if it raises, it alone is undone. The caller hears of success only after the
sync. What the work does is in `ledger`; this file knows connections, threads and failures.
"""

import asyncio
import queue
import sqlite3
import threading
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
MAX_GROUP = 256


@dataclass(frozen=True, slots=True)
class _Work:
    run: Callable[[Ledger], Any]
    loop: asyncio.AbstractEventLoop
    outcome: "asyncio.Future[Any]"


class Database:
    """The `Store` of a running node; `open` it, `close` it."""

    def __init__(self, path: Path | str, cipher: ValueCipher) -> None:
        self._path = path
        self._cipher = cipher
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="kmstn-store", daemon=True)
        self._opened: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def open(self) -> None:
        """Open or create the database and start the writer; raises StoreError saying what is wrong with it."""
        self._thread.start()
        if (failure := self._opened.get()) is not None:
            raise StoreError(f"cannot open {self._path}: {failure}") from failure

    def close(self) -> None:
        """Finish what is queued, then stop the writer."""
        self._queue.put(None)
        self._thread.join()

    async def transact(self, work: Callable[[Ledger], T]) -> T:
        """Run the work in one transaction; returns when synced. Raises what the work raised, or StoreError."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Work(work, loop, outcome))
        return await outcome

    def _write(self) -> None:
        try:
            connection = self._connect()
        except (sqlite3.Error, OSError) as failure:
            self._opened.put(failure)
            return
        ledger = SqliteLedger(connection, self._cipher)
        self._opened.put(None)
        stopping = False
        while not stopping:
            group, stopping = self._next_group()
            if group:
                _commit_group(connection, ledger, group)
        connection.close()

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

    def _next_group(self) -> tuple[list[_Work], bool]:
        group: list[_Work] = []
        while len(group) < MAX_GROUP:
            try:
                work = self._queue.get(block=not group)
            except queue.Empty:
                break
            if work is None:
                return group, True
            group.append(work)
        return group, False


def _commit_group(connection: sqlite3.Connection, ledger: SqliteLedger, group: list[_Work]) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        outcomes = [_run(connection, ledger, work) for work in group]
        connection.execute("COMMIT")
    except sqlite3.Error as failure:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        error = StoreError(f"the store refused to write: {failure}")
        error.__cause__ = failure
        outcomes = [(None, error)] * len(group)
    for work, (result, raised) in zip(group, outcomes, strict=True):
        work.loop.call_soon_threadsafe(_settle, work.outcome, result, raised)


def _run(connection: sqlite3.Connection, ledger: SqliteLedger, work: _Work) -> tuple[Any, Exception | None]:
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
