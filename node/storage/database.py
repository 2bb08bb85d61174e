"""The node's SQLite database: group commit on the event loop, every secret sealed under the data key.

Whatever asks for a transaction in one turn of the loop shares the commit of the next, so the cost of a sync is shared
just when there is much to do. The loop waits for the sync: handing it to a thread and back costs more than a sync on
a disk that is fit for this, and a node that cannot commit cannot serve either.
Each piece of work runs in a savepoint: if it raises, it alone is undone. The caller hears of success only after the
sync. What the work does is in `ledger`, what is looked at before the first in `store_file`; this file knows grouping,
failures and epochs.
An epoch is what a copy of the store belongs to. The next one is first written here and then counted by the guard (a
TPM's counter, which never goes back): a crash between the two leaves a store that is one ahead, which no older copy is.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from node.core.ports import Ledger
from node.errors import KmstnError, StoreDamagedError, StoreError
from node.storage.ledger import SqliteLedger
from node.storage.store_file import DATABASE_NAME, is_damage, open_store, sealed_epoch
from node.storage.value_cipher import ValueCipher

__all__ = ["DATABASE_NAME", "Database", "RollbackGuard"]

log = logging.getLogger("kmstn.storage")

TRIAL_SIZE_BYTES = 64 * 1024

T = TypeVar("T")

_Outcome = tuple[Any, Exception | None]


class RollbackGuard(Protocol):
    """Knows which epoch the newest store has."""

    def settle(self, epoch: int) -> None:
        """Count the epoch if it is the next one; blocks. Raises KmstnError if it is neither that nor the newest."""


@dataclass(frozen=True, slots=True)
class _Work:
    run: Callable[[Ledger], Any]
    outcome: "asyncio.Future[Any]"


class Database:
    """The `Store` of a running node; `open` it, `close` it. All calls are made from one event loop's thread.

    `failure` says why it does not take writes now, None if it does. A full disk is tried again after each transaction
    that succeeds, and some do: they free space. Damage is final.
    """

    def __init__(self, path: Path, cipher: ValueCipher, guard: RollbackGuard | None = None) -> None:
        self._path = path
        self._cipher = cipher
        self._guard = guard
        self._waiting: list[_Work] = []
        self._connection: sqlite3.Connection | None = None
        self._epoch = self._counted_epoch = 0
        self._final = False
        self.failure: str | None = None

    def open(self) -> None:
        """Open the database and begin an epoch; raises StoreError saying what is wrong, or what the guard raises."""
        self._connection, self._epoch = open_store(self._path, self._cipher)
        try:
            self._count_epoch()
            self._write_epoch()
            self._count_epoch()
        except BaseException:
            self._connection.close()
            self._connection = None
            raise

    def close(self) -> None:
        """Finish what waits, make copies taken so far old ones, close the file."""
        self._commit()
        if self._connection is None:
            return
        try:
            if self._guard is not None and self.failure is None:
                self._write_epoch()
                self._count_epoch()
        except KmstnError as error:
            log.warning("copies of the store taken since the last epoch will pass for new: %s", error)
        finally:
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

    async def next_epoch(self) -> None:
        """Make every copy of the store taken so far an old one. Raises StoreError, or what the guard raises."""
        if self._guard is None or self._connection is None:
            return
        if self._counted_epoch == self._epoch:
            self._write_epoch()
        epoch = self._epoch
        await asyncio.to_thread(self._guard.settle, epoch)
        self._counted_epoch = epoch

    def give_up(self, reason: str) -> None:
        """Take no transaction any more."""
        if not self._final:
            log.critical("the store is not served any more: %s", reason)
        self.failure, self._final = reason, True

    def _count_epoch(self) -> None:
        if self._guard is not None:
            self._guard.settle(self._epoch)
            self._counted_epoch = self._epoch

    def _write_epoch(self) -> None:
        """Write the next epoch, unless the present one is not counted yet: the guard takes one step at a time."""
        if self._connection is None or (self._guard is not None and self._counted_epoch != self._epoch):
            return
        try:
            self._connection.execute("UPDATE store SET sealed = ?", (sealed_epoch(self._cipher, self._epoch + 1),))
        except sqlite3.Error as failure:
            raise self._failed(failure) from failure
        self._epoch += 1

    def _commit(self) -> None:
        group, self._waiting = self._waiting, []
        if not group:
            return
        if self._connection is None:
            outcomes: list[_Outcome] = [(None, StoreError(f"{self._path} is closed"))] * len(group)
        elif self._final:
            outcomes = [(None, StoreError(self.failure))] * len(group)
        else:
            outcomes = self._commit_group(self._connection, group)
        for work, (result, raised) in zip(group, outcomes, strict=True):
            if isinstance(raised, StoreDamagedError):
                self.give_up(str(raised))
            _settle(work.outcome, result, raised)

    def _commit_group(self, connection: sqlite3.Connection, group: list[_Work]) -> list[_Outcome]:
        ledger = SqliteLedger(connection, self._cipher)
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [_run(connection, ledger, work) for work in group]
            connection.execute("COMMIT")
        except sqlite3.Error as failure:
            self._roll_back(connection)
            return [(None, self._failed(failure))] * len(group)
        if self.failure is not None:
            self._try_to_write(connection)
        return outcomes

    def _try_to_write(self, connection: sqlite3.Connection) -> None:
        """Commit something large: what succeeded may have written nothing, or found a last free page."""
        try:
            connection.execute("INSERT INTO trial VALUES (zeroblob(?))", (TRIAL_SIZE_BYTES,))
            connection.execute("DELETE FROM trial")
        except sqlite3.Error as failure:
            self._failed(failure)
        else:
            log.warning("the store takes writes again")
            self.failure = None

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error as failure:
            self.give_up(f"a transaction could not be undone: {failure}")

    def _failed(self, failure: sqlite3.Error) -> StoreError:
        damaged = is_damage(failure)
        message = f"{self._path.name} is damaged: {failure}" if damaged else f"the store refused to write: {failure}"
        if damaged:
            self.give_up(message)
        elif self.failure is None:
            log.error("%s", message)
            self.failure = message
        error = StoreDamagedError(message) if damaged else StoreError(message)
        error.__cause__ = failure
        return error


def _run(connection: sqlite3.Connection, ledger: Ledger, work: _Work) -> _Outcome:
    connection.execute("SAVEPOINT work")
    try:
        result = work.run(ledger)
    except sqlite3.OperationalError:
        raise
    except Exception as raised:
        if is_damage(raised):
            raise
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
