"""A node's disk: real SQLite in memory, real ledger, group commit in virtual time, and everything that disks do.

What is committed stays; what is not is gone when the node crashes. A crash can be set for any durable step: just
before the commit (the whole group is lost) or just after it (kept, but nobody hears). A full disk refuses for a while.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable, Collection
from contextvars import Context, copy_context
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from node.core.ports import Ledger
from node.errors import StoreError
from node.storage.value_cipher import ValueCipher
from tests.simulation.trace import Trace
from tests.simulation.watched_ledger import WatchedLedger, Witness

T = TypeVar("T")

MAX_GROUP = 256
SYNC_S = (0.0005, 0.004)
SLOW_SYNC_S = (0.05, 0.4)
SLOW_SYNCS = 0.02


class Moment(StrEnum):
    """When, at a durable step, a crash strikes."""

    BEFORE_COMMIT = "before its commit"
    AFTER_COMMIT = "after its commit, before anybody heard"


@dataclass(frozen=True, slots=True)
class _Work:
    run: Callable[[Ledger], Any]
    outcome: "asyncio.Future[Any]"
    context: Context


class Disk:
    """What survives a crash of its node; a `Store` is opened on it by each new process."""

    def __init__(
        self, node: str, rng: random.Random, witness: Witness, trace: Trace, full: Collection[tuple[float, float]] = ()
    ) -> None:
        self.node = node
        self.rng = rng
        self.trace = trace
        self.step = 0
        self.crash_steps: dict[int, Moment] = {}
        self.on_crash: Callable[[str], None] = lambda _reason: None
        self.on_conflict: Callable[[str], None] = lambda _text: None
        self._full = tuple(full)
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.deserialize(_empty_store())
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.ledger = WatchedLedger(self.connection, ValueCipher(rng.randbytes(32)), node, witness)

    def is_full(self) -> bool:
        """Tell whether it refuses to write now."""
        now = asyncio.get_running_loop().time()
        return any(begin <= now < end for begin, end in self._full)

    def close(self) -> None:
        """Throw it away."""
        self.connection.close()


class SimulatedStore:
    """The `Store` of one process; after the process crashed nothing of it runs any more."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._queue: list[_Work] = []
        self._closed = False

    async def transact(self, work: Callable[[Ledger], T]) -> T:
        """Run the work in one transaction; returns when synced. Raises what the work raised, or StoreError."""
        if self._closed:
            raise asyncio.CancelledError
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        if not self._queue:
            loop.call_later(self._sync_s(), self._commit)
        self._queue.append(_Work(work, outcome, copy_context()))
        return await outcome

    def crash(self) -> None:
        """Lose what is queued."""
        self._closed = True
        self._queue.clear()

    def _sync_s(self) -> float:
        rng = self._disk.rng
        return rng.uniform(*(SLOW_SYNC_S if rng.random() < SLOW_SYNCS else SYNC_S))

    def _commit(self) -> None:
        if self._closed:
            return
        disk = self._disk
        group, self._queue = self._queue[:MAX_GROUP], self._queue[MAX_GROUP:]
        if self._queue:
            asyncio.get_running_loop().call_later(self._sync_s(), self._commit)
        if disk.is_full():
            disk.trace.say("disk is full", where=disk.node)
            _answer(group, [(None, StoreError("the store refused to write: the disk is full"))] * len(group))
            return
        disk.connection.execute("BEGIN IMMEDIATE")
        outcomes = [self._run(work, len(group) == 1) for work in group]
        told, disk.ledger.told = disk.ledger.told, []
        if told:
            disk.step += 1
        moment = disk.crash_steps.get(disk.step) if told else None
        if moment is Moment.BEFORE_COMMIT:
            disk.connection.execute("ROLLBACK")
            disk.on_crash(f"at durable step {disk.step}, {moment}")
            return
        disk.connection.execute("COMMIT")
        for tell in told:
            tell()
        if moment is Moment.AFTER_COMMIT:
            disk.on_crash(f"at durable step {disk.step}, {moment}")
        else:
            _answer(group, outcomes)

    def _run(self, work: _Work, alone: bool) -> tuple[Any, Exception | None]:
        """Run one piece of work; what raises is undone, alone in its group by undoing the group."""
        connection, ledger = self._disk.connection, self._disk.ledger
        before = len(ledger.told)
        if not alone:
            connection.execute("SAVEPOINT work")
        ledger.begin_work()
        try:
            result = work.context.run(work.run, ledger)
        except Exception as raised:
            for statement in ("ROLLBACK", "BEGIN") if alone else ("ROLLBACK TO work", "RELEASE work"):
                connection.execute(statement)
            del ledger.told[before:]
            if isinstance(raised, sqlite3.Error):
                self._disk.on_conflict(f"{raised}")
                return None, StoreError(f"the store did not take it: {raised}")
            return None, raised
        if not alone:
            connection.execute("RELEASE work")
        if len(ledger.told) == before + 1:
            ledger.told.pop()
        return result, None


def _answer(group: list[_Work], outcomes: list[tuple[Any, Exception | None]]) -> None:
    for work, (result, raised) in zip(group, outcomes, strict=True):
        if work.outcome.done():
            continue
        if raised is None:
            work.outcome.set_result(result)
        else:
            work.outcome.set_exception(raised)


@cache
def _empty_store() -> bytes:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(files("node.storage").joinpath("schema.sql").read_text())
    return connection.serialize()
