"""Someone reads or edits the store's files without the data key: no key byte to find, no row to move."""

import base64
import hashlib
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from node.core.kem_keys import KemKey
from node.core.keys import Direction, Grade, KeyBlock, PoolBlock
from node.core.ports import Ledger
from node.errors import StoreError
from node.storage.database import DATABASE_NAME
from node.storage.value_cipher import ValueCipher
from tests.unit.storage.small_stores import LINK, at_once, opened, parcel

ROOT = Path(__file__).parents[3]
VALUES = {place: hashlib.sha256(place.encode()).digest() for place in ("link", "pool", "kem", "dep")}
BODY = b"a body on its way, 32 bytes long"


def one_of_each(ledger: Ledger) -> None:
    ledger.add_link_keys(LINK, Direction.OUT, [KeyBlock("k1", VALUES["link"])], ready=True)
    ledger.add_link_keys(LINK, Direction.OUT, [KeyBlock("k2", bytes(32))], ready=True)
    ledger.add_blocks("n9", Direction.OUT, [PoolBlock("b1", VALUES["pool"], Grade.QKD)], ready=True)
    ledger.add_kem_key(KemKey("hop", "mlkem768-v1", "e1", b"public", VALUES["kem"], 1e12))
    ledger.deposit([KeyBlock("s1", VALUES["dep"])], ["b", "c"])
    ledger.add_parcel(parcel("p1", ("s2",), bodies=(BODY,)))
    ledger.add_parcel(parcel("p2", ("s3",), bodies=(BODY[::-1],)))


def forms(value: bytes) -> list[bytes]:
    """Return how a value might show in a file: as it is, in hex, and in base64 wherever its group begins."""
    encoded = [base64.b64encode(b"\0" * shift + value)[4:-4] for shift in range(3)]
    urlsafe = [base64.urlsafe_b64encode(b"\0" * shift + value)[4:-4] for shift in range(3)]
    return [value[:16], value[16:], value.hex().encode(), value.hex().upper().encode(), *encoded, *urlsafe]


def found_in_clear(state: dict[str, bytes]) -> list[str]:
    """Return which files hold which value in which form; looks at files that do hold the rows."""
    assert b"public" in b"".join(state.values())
    wanted = {name: forms(value) for name, value in (*VALUES.items(), ("body", BODY), ("body reversed", BODY[::-1]))}
    return [
        f"{file}: {name}"
        for file, content in state.items()
        for name, shapes in wanted.items()
        if any(shape in content for shape in shapes)
    ]


def everything_on_disk(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_no_key_byte_is_on_disk_in_clear_while_running_after_a_delete_and_after_a_stop(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.transact(one_of_each)
        states = [everything_on_disk(tmp_path)]
        assert f"{DATABASE_NAME}-wal" in states[0]
        await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0))
        await store.transact(lambda ledger: ledger.fetch_deposit("s1", "b"))
        states.append(everything_on_disk(tmp_path))
    states.append(everything_on_disk(tmp_path))
    assert [found for state in states for found in found_in_clear(state)] == []


def test_the_search_finds_what_is_in_clear() -> None:
    for shown in (VALUES["kem"], VALUES["kem"].hex().encode(), base64.b64encode(b"12" + VALUES["kem"] + b"more")):
        assert found_in_clear({"a file": b"public" + shown}) == ["a file: kem"]


async def work_until_killed(folder: Path) -> None:
    """Run in a process of its own: put in one of each, spend some, let all expire, put in again, and be killed."""
    async with opened(folder) as store:
        await store.transact(one_of_each)
        await store.transact(large)
        await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0))
        await store.transact(lambda ledger: ledger.take_blocks("n9", 1))
        await store.transact(lambda ledger: ledger.sweep(2e12))
        print("swept", flush=True)
        sys.stdin.readline()
        await store.transact(one_of_each_again)
        store.transact(large).send(None)
        store._commit()
        os.kill(os.getpid(), 9)


def one_of_each_again(ledger: Ledger) -> None:
    ledger.drop_kem_keys(2e12)
    ledger.drop_deposits("s1")
    ledger.drop_link_keys(["k1", "k2"])
    one_of_each(ledger)


def large(ledger: Ledger) -> None:
    """Write so much in one transaction that SQLite has to spill from its memory."""
    for number in range(40):
        bodies = tuple(VALUES["pool"] * 64 for _ in range(8))
        key_ids = tuple(f"large{number}-{index}-{os.urandom(4).hex()}" for index in range(8))
        ledger.add_parcel(parcel(f"large{number}-{os.urandom(4).hex()}", key_ids, bodies=bodies))
    ledger.sweep(0)


def test_no_key_byte_is_on_disk_in_clear_after_sweeps_and_a_crash_temporary_files_included(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys, pathlib, tests.unit.storage.test_secrets_at_rest as t; "
        "asyncio.run(t.work_until_killed(pathlib.Path(sys.argv[1])))"
    )
    environment = {**os.environ, "SQLITE_TMPDIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "swept\n"
    running = everything_on_disk(tmp_path)
    worker.communicate("go on\n", timeout=60)
    crashed = everything_on_disk(tmp_path)
    assert len(crashed[f"{DATABASE_NAME}-wal"]) > 1_000_000, "the crash left a log"
    at_once(tmp_path, lambda ledger: ledger.link_key_counts())
    after = everything_on_disk(tmp_path)
    assert [found for state in (running, crashed, after) for found in found_in_clear(state)] == []


async def test_temporary_tables_and_sorting_stay_in_memory(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        assert store._connection is not None
        assert store._connection.execute("PRAGMA temp_store").fetchone() == (2,)
        assert store._connection.execute("PRAGMA secure_delete").fetchone() == (1,)


def test_store_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    at_once(tmp_path, one_of_each)
    assert (tmp_path / DATABASE_NAME).stat().st_mode & 0o077 == 0


def test_sealed_row_of_a_spent_key_is_wiped_from_the_file(tmp_path: Path) -> None:
    """The data key would open it: so forward secrecy of spent keys asks that the row is gone, not only unlinked."""
    at_once(tmp_path, one_of_each)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        (sealed,) = connection.execute("SELECT sealed FROM link_key WHERE key_id = 'k1'").fetchone()
    assert sealed in (tmp_path / DATABASE_NAME).read_bytes()
    at_once(tmp_path, lambda ledger: ledger.take_link_keys(LINK, 1, 0))
    assert not any(sealed in content for content in everything_on_disk(tmp_path).values())


def read_all(ledger: Ledger) -> None:
    ledger.take_link_keys(LINK, 2, 0)
    ledger.take_blocks("n9", 1)
    ledger.kem_keys()
    ledger.fetch_deposit("s1", "b")
    ledger.open_parcels()


MOVES = {
    "link key to another ID": "UPDATE link_key SET sealed = (SELECT sealed FROM link_key WHERE key_id = 'k1')",
    "two link keys change IDs": "UPDATE link_key SET key_id = CASE key_id WHEN 'k1' THEN 'x' ELSE 'y' END",
    "link key into the pool": "UPDATE pool_block SET sealed = (SELECT sealed FROM link_key WHERE key_id = 'k1')",
    "link key under the same ID into the pool": "UPDATE pool_block SET key_id = 'k1', "
    "sealed = (SELECT sealed FROM link_key WHERE key_id = 'k1')",
    "pool block to a slave": "UPDATE deposit SET sealed = (SELECT sealed FROM pool_block)",
    "deposit into the KEM keys": "UPDATE kem_key SET sealed = (SELECT sealed FROM deposit LIMIT 1)",
    "parcel to another ID": "UPDATE parcel SET sealed = (SELECT sealed FROM parcel WHERE parcel_id = 'p1')",
    "value cut short": "UPDATE deposit SET sealed = substr(sealed, 1, 20)",
}


@pytest.mark.parametrize("move", MOVES)
def test_sealed_value_moved_to_another_row_does_not_open(tmp_path: Path, move: str) -> None:
    at_once(tmp_path, one_of_each)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)) as connection:
        assert connection.execute(MOVES[move]).rowcount > 0
    with pytest.raises(StoreError, match="was altered"):
        at_once(tmp_path, read_all)


def test_store_that_nobody_touched_opens(tmp_path: Path) -> None:
    at_once(tmp_path, one_of_each)
    at_once(tmp_path, read_all)


def test_same_value_sealed_twice_does_not_look_alike() -> None:
    cipher = ValueCipher(bytes(32))
    sealed = {cipher.seal("link_key:k1", b"value") for _ in range(100)}
    assert len({one[:12] for one in sealed}) == 100
    assert {cipher.open("link_key:k1", one) for one in sealed} == {b"value"}


def test_every_bit_of_a_sealed_value_counts() -> None:
    cipher = ValueCipher(bytes(32))
    sealed = cipher.seal("link_key:k1", b"value")
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreError, match="link_key:k1"):
            cipher.open("link_key:k1", bytes(changed))
