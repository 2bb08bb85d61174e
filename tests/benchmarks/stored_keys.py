"""What requests cost as stored keys grow, and how long a start takes with them.

    python -m tests.benchmarks.stored_keys [--sizes 1000 1000000]

One node, two SAEs of its own, no network: `enc_keys` and `dec_keys` of single keys through the core and the store on
disk, the sizes taken in turns so that a ratio is of one run.
"""

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from node.app import SystemRandomness
from node.core.keys import Grade, KeyBlock, KeyRecord, KeyState
from node.storage.database import Database
from node.storage.ledger import SqliteLedger
from node.storage.store_file import DATABASE_NAME, create_store, open_store
from node.storage.value_cipher import ValueCipher

DATA_KEY = bytes(range(32))
BATCH = 10_000
TURNS = 300
ROUNDS = 5


def fill(path: Path, cipher: ValueCipher, number: int) -> None:
    """Store keys that wait for their slave."""
    create_store(path, cipher, epoch=0)
    with closing(open_store(path, cipher)[0]) as connection:
        ledger, done = SqliteLedger(connection, cipher), 0
        while done < number:
            keys = _keys(min(BATCH, number - done))
            connection.execute("BEGIN")
            _store(ledger, keys)
            connection.execute("COMMIT")
            done += len(keys)


def _keys(number: int) -> list[KeyBlock]:
    randomness = SystemRandomness()
    return [KeyBlock(randomness.uuid(), randomness.bytes(32)) for _ in range(number)]


def _store(ledger: SqliteLedger, keys: list[KeyBlock]) -> None:
    until = time.time() + 86_400
    ledger.add_records(
        [
            KeyRecord(key.key_id, "master", ("slave",), 256, Grade.QKD, ("n1",), KeyState.DEPOSITED, until)
            for key in keys
        ]
    )
    ledger.deposit(keys, ("slave",))


async def microseconds_per_request(store: Database) -> tuple[float, float]:
    """Store one key, fetch one key, many times over; returns the medians of both."""
    storing, fetching = [], []
    for _ in range(TURNS):
        (key,) = _keys(1)
        begun = time.perf_counter()
        await store.transact(lambda ledger, key=key: _store(ledger, [key]))  # type: ignore[misc]
        stored = time.perf_counter()
        await store.transact(lambda ledger, key=key: _fetch(ledger, key.key_id))  # type: ignore[misc]
        storing.append(stored - begun)
        fetching.append(time.perf_counter() - stored)
    return 1e6 * statistics.median(storing), 1e6 * statistics.median(fetching)


def _fetch(ledger: SqliteLedger, key_id: str) -> None:
    record = ledger.record(key_id)
    if record is None or ledger.fetch_deposit(key_id, "slave") is None or ledger.deposits_left(key_id):
        raise AssertionError("the key is not there")
    ledger.update_record(key_id, KeyState.DELIVERED)


async def measure(folder: Path, sizes: list[int]) -> None:
    """Fill, open, measure in turns, print."""
    cipher = ValueCipher(DATA_KEY)
    stores, starts = {}, {}
    for size in sizes:
        path = folder / str(size) / DATABASE_NAME
        path.parent.mkdir()
        fill(path, cipher, size)
        store = Database(path, cipher)
        begun = time.perf_counter()
        store.open()
        starts[size] = time.perf_counter() - begun
        stores[size] = store
    figures: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    for _ in range(ROUNDS):
        for size, store in stores.items():
            figures[size].append(await microseconds_per_request(store))
    table = Table(box=None, header_style="bold")
    for head in ("stored keys", "open, s", "store a key, us", "fetch a key, us", "x the first", "x the first"):
        table.add_column(head)
    medians = {
        size: [statistics.median(column) for column in zip(*rows, strict=True)] for size, rows in figures.items()
    }
    for size, (storing, fetching) in medians.items():
        ratios = [now / first for now, first in zip((storing, fetching), medians[sizes[0]], strict=True)]
        table.add_row(
            str(size), f"{starts[size]:.2f}", f"{storing:.0f}", f"{fetching:.0f}", *(f"{ratio:.2f}" for ratio in ratios)
        )
    Console().print(table)
    for store in stores.values():
        store.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 1_000_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        uvloop.run(measure(Path(folder), options.sizes))


if __name__ == "__main__":
    main()
