"""Someone reads or edits the store's files without the data key: no key byte to find, no row to move."""

import base64
import sqlite3
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

VALUES = {place: f"the {place} value of 32 bytes".ljust(32, "!").encode() for place in ("link", "pool", "kem", "dep")}
BODY = b"a body on its way, 32 bytes long"


def one_of_each(ledger: Ledger) -> None:
    ledger.add_link_keys(LINK, Direction.OUT, [KeyBlock("k1", VALUES["link"])], ready=True)
    ledger.add_link_keys(LINK, Direction.OUT, [KeyBlock("k2", bytes(32))], ready=True)
    ledger.add_blocks("n9", Direction.OUT, [PoolBlock("b1", VALUES["pool"], Grade.QKD)], ready=True)
    ledger.add_kem_key(KemKey("hop", "mlkem768-v1", "e1", b"public", VALUES["kem"], 1e12))
    ledger.deposit(KeyBlock("s1", VALUES["dep"]), ["b", "c"])
    ledger.add_parcel(parcel("p1", ("s2",), bodies=(BODY,)))
    ledger.add_parcel(parcel("p2", ("s3",), bodies=(BODY[::-1],)))


def forms(value: bytes) -> list[bytes]:
    """Return how a value might show in a file: as it is, in hex, and in base64 wherever its group begins."""
    encoded = [base64.b64encode(b"\0" * shift + value)[4:-4] for shift in range(3)]
    return [value[:16], value[16:], value.hex().encode(), *encoded]


def everything_on_disk(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_no_key_byte_is_on_disk_in_clear_while_running_after_a_delete_and_after_a_stop(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.transact(one_of_each)
        states = [everything_on_disk(tmp_path)]
        assert f"{DATABASE_NAME}-wal" in states[0]
        await store.transact(lambda ledger: ledger.take_link_keys(LINK, 1, 0))
        await store.transact(lambda ledger: ledger.fetch_deposit("s1", "b"))
        states.append(everything_on_disk(tmp_path))
    states.append(everything_on_disk(tmp_path))
    for state in states:
        assert b"public" in b"".join(state.values()), "the search looks at files that hold the rows"
        for name, content in state.items():
            for value in (*VALUES.values(), BODY):
                assert not any(form in content for form in forms(value)), name


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
