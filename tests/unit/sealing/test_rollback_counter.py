"""Every order in which a crash may come between store and counter, and every older copy, with a counter in memory."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from node.crypto.secret_bytes import SecretBytes
from node.errors import StoreError
from node.sealing.epochs import keep_epochs
from node.sealing.errors import RollbackCounterError, SealingError, StoreRolledBackError, TpmUnavailableError
from node.sealing.rollback_counter import RollbackCounter
from node.sealing.swtpm import SoftwareTpm
from node.storage.database import DATABASE_NAME
from tests.unit.storage.small_stores import DATA_KEY, made, opened, stocked


class Crash(Exception):
    """The node ends here."""


class CounterInMemory:
    """A TPM's counter that crashes, or fails, at a call if told so."""

    def __init__(self, value: int = 0) -> None:
        self.value = value
        self.trouble: Exception | None = None
        self.trouble_comes_late = False

    def counted(self, _secret: bytes) -> int:
        return self.value

    def count(self, _secret: bytes) -> None:
        if self.trouble is not None and not self.trouble_comes_late:
            raise self.trouble
        self.value += 1
        if self.trouble is not None:
            raise self.trouble


def guard_of(counter: CounterInMemory, make_durable: Callable[[], None] = lambda: None) -> RollbackCounter:
    @contextmanager
    def reach() -> Iterator[CounterInMemory]:
        yield counter

    return RollbackCounter(SecretBytes(DATA_KEY), reach, make_durable)


def start_and_stop(folder: Path, counter: CounterInMemory) -> None:
    async def run() -> None:
        async with opened(folder, guard=guard_of(counter)) as store:
            await store.transact(lambda ledger: stocked(ledger, ["k"]))

    asyncio.run(run())


def start_and_crash(folder: Path, counter: CounterInMemory) -> None:
    """Open the store and leave it as a killed process does."""
    store = made(folder, guard=guard_of(counter))
    try:
        store.open()
    finally:
        if store._connection is not None:
            store._connection.close()


@pytest.mark.parametrize("late", [False, True], ids=["before the TPM counted", "after the TPM counted"])
@pytest.mark.parametrize("crashes", [1, 2, 3])
def test_crash_between_store_and_counter_never_locks_the_node_out(tmp_path: Path, crashes: int, late: bool) -> None:
    counter = CounterInMemory()
    start_and_stop(tmp_path, counter)
    for _ in range(crashes):
        counter.trouble, counter.trouble_comes_late = Crash(), late
        with pytest.raises(Crash):
            start_and_crash(tmp_path, counter)
    counter.trouble = None
    start_and_stop(tmp_path, counter)


def test_no_copy_of_an_earlier_epoch_is_ever_taken(tmp_path: Path) -> None:
    """Copies from starts, stops and crashes on both sides of the counter; all but those of the last epoch are old."""
    live, counter = tmp_path / "live", CounterInMemory()
    live.mkdir()
    copies: list[Path] = []

    def keep_a_copy() -> None:
        copies.append(tmp_path / f"copy{len(copies)}")
        shutil.copytree(live, copies[-1])

    start_and_stop(live, counter)
    for late in (None, False, True, None):
        keep_a_copy()
        if late is None:
            start_and_crash(live, counter)
            keep_a_copy()
            start_and_stop(live, counter)
        else:
            counter.trouble, counter.trouble_comes_late = Crash(), late
            with pytest.raises(Crash):
                start_and_crash(live, counter)
            counter.trouble = None
            keep_a_copy()
            start_and_stop(live, counter)
    assert len(copies) == 8
    for copy in copies:
        before = counter.value
        with pytest.raises(StoreRolledBackError, match="Put the newest store back"):
            start_and_stop(copy, counter)
        assert counter.value == before, "a refusal counts nothing"
    start_and_stop(live, counter)


def test_counter_older_than_the_store_is_told(tmp_path: Path) -> None:
    counter = CounterInMemory()
    start_and_stop(tmp_path, counter)
    counter.value -= 2
    with pytest.raises(RollbackCounterError, match="older state of the TPM"):
        start_and_stop(tmp_path, counter)


async def test_each_interval_makes_older_copies_old_while_the_node_runs(tmp_path: Path) -> None:
    counter = CounterInMemory()
    async with opened(tmp_path, guard=guard_of(counter)) as store:
        await store.next_epoch()
        for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal"):
            (tmp_path / "copy").mkdir(exist_ok=True)
            shutil.copy(tmp_path / name, tmp_path / "copy" / name)
        await store.next_epoch()
    with pytest.raises(StoreRolledBackError):
        made(tmp_path / "copy", guard=guard_of(counter)).open()


@pytest.mark.parametrize("late", [False, True], ids=["not counted", "counted, answer lost"])
async def test_tpm_that_fails_for_some_time_costs_no_step(tmp_path: Path, late: bool) -> None:
    counter, health = CounterInMemory(), SimpleNamespace(tpm_failure=None)
    async with opened(tmp_path, guard=guard_of(counter)) as store:
        counter.trouble, counter.trouble_comes_late = TpmUnavailableError("it does not answer"), late
        keeping = asyncio.create_task(keep_epochs(store, 0.01, asyncio.sleep, health))
        async with asyncio.timeout(10):
            while health.tpm_failure is None:
                await asyncio.sleep(0.01)
        counter.trouble = None
        async with asyncio.timeout(10):
            while health.tpm_failure is not None:
                await asyncio.sleep(0.01)
        assert store.failure is None
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
    async with opened(tmp_path, guard=guard_of(counter)):
        pass


@pytest.mark.parametrize("trouble", [TpmUnavailableError("cannot sync"), OSError("cannot sync"), ValueError("a bug")])
async def test_whatever_fails_is_seen_in_health_and_tried_again(tmp_path: Path, trouble: Exception) -> None:
    """The step that was counted is synced before the node is called healthy."""
    counter, health, synced = CounterInMemory(), SimpleNamespace(tpm_failure=None), 0
    failing = False

    def make_durable() -> None:
        nonlocal synced
        if failing:
            raise trouble
        synced = counter.value

    async with opened(tmp_path, guard=guard_of(counter, make_durable)) as store:
        failing = True
        keeping = asyncio.create_task(keep_epochs(store, 0.01, asyncio.sleep, health))
        async with asyncio.timeout(10):
            while health.tpm_failure is None:
                await asyncio.sleep(0)
        assert str(trouble) in health.tpm_failure
        assert not keeping.done()
        counted, failing = counter.value, False
        async with asyncio.timeout(10):
            while health.tpm_failure is not None:
                await asyncio.sleep(0)
        assert synced >= counted
        assert store.failure is None
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def test_state_of_the_tpm_that_cannot_be_synced_is_a_failure_of_the_tpm(tmp_path: Path) -> None:
    with pytest.raises(TpmUnavailableError, match="cannot sync"):
        SoftwareTpm(None, tmp_path / "gone").make_durable()  # type: ignore[arg-type]


async def test_node_that_finds_itself_overtaken_stops_serving(tmp_path: Path) -> None:
    """Two nodes on one TPM, or a counter counted by somebody: this store is not the newest any more."""
    counter, health = CounterInMemory(), SimpleNamespace(tpm_failure=None)
    async with opened(tmp_path, guard=guard_of(counter)) as store:
        counter.value += 5
        await asyncio.wait_for(keep_epochs(store, 0.01, asyncio.sleep, health), 10)
        assert store.failure is not None
        assert "older copy" in store.failure
        with pytest.raises(StoreError, match="older copy"):
            await store.transact(lambda ledger: stocked(ledger, ["k"]))


def test_stop_without_a_tpm_is_a_stop(tmp_path: Path) -> None:
    counter = CounterInMemory()

    async def run() -> None:
        async with opened(tmp_path, guard=guard_of(counter)):
            counter.trouble = SealingError("gone")

    asyncio.run(run())
    counter.trouble = None
    start_and_stop(tmp_path, counter)
