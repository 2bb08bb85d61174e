"""Voiding of very many keys: in small transactions, at a cost that other keys in the store do not raise."""

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from node.core import voiding
from node.core.keys import Grade, KeyBlock, KeyRecord, KeyState
from node.core.ports import Ledger
from node.core.voiding import SLICE
from node.storage.store_file import DATABASE_NAME
from node.wire.etsi020 import AckStatus, VoidContainer
from tests.unit.core.relay_pair import Pair

T = TypeVar("T")


def record(key_id: str, master: str = "a", state: KeyState = KeyState.DEPOSITED) -> KeyRecord:
    return KeyRecord(key_id, master, ("b",), 256, Grade.QKD, ("n1", "n2"), state, 4e9)


def ids(number: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(number)]


def request(key_ids: tuple[str, ...] = (), initiator: str = "a") -> VoidContainer:
    return VoidContainer(
        key_ids=key_ids, initiator_sae_id=initiator, target_sae_ids=("b",), ack_callback_url="https://n1/ack"
    )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


class Counting:
    """A store that counts transactions."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.transactions = 0

    async def transact(self, work: Callable[[Ledger], T]) -> T:
        self.transactions += 1
        result: T = await self._store.transact(work)
        return result


async def void(pair: Pair, asked: VoidContainer) -> tuple[dict[AckStatus, set[str]], int]:
    counting = Counting(pair.n2.store)
    told: dict[AckStatus, set[str]] = {}
    for ack in await pair.n2.core.relay._voids.here(counting, asked):
        told.setdefault(ack.ack_status, set()).update(entry.key_id for entry in ack.key_id_container)
    return told, counting.transactions


async def test_all_keys_of_a_pair_are_voided_in_slices(pair: Pair) -> None:
    mine, others, fetched = ids(2 * SLICE + 7), ids(SLICE + 1), ids(3)

    def fill(ledger: Ledger) -> None:
        ledger.add_records([record(key_id) for key_id in mine])
        ledger.add_records([record(key_id, master="a2") for key_id in others])
        ledger.add_records([record(key_id, state=KeyState.DELIVERED) for key_id in fetched])
        ledger.deposit([KeyBlock(key_id, bytes(32)) for key_id in (*mine, *others)], ["b"])

    await pair.n2.store.transact(fill)
    told, transactions = await void(pair, request())
    assert told == {AckStatus.VOIDED: set(mine), AckStatus.FAILED_TO_VOID: set(fetched)}
    assert transactions >= 3
    assert pair.n2.books()["deposit"] == len(others)


async def test_keys_voided_by_their_ids_are_voided_in_slices_too(pair: Pair) -> None:
    named = ids(SLICE + 1)
    told, transactions = await void(pair, request(tuple(named)))
    assert told == {AckStatus.NOT_PRESENT: set(named)}
    assert transactions == 2


async def test_no_more_voids_of_unknown_keys_are_remembered_than_the_limit(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest are dropped, and nothing else: keys that are here, and those that were here, stay."""
    monkeypatch.setattr(voiding, "VOIDS_REMEMBERED", 10)
    here = ids(2)
    await pair.n2.store.transact(lambda ledger: ledger.add_records([record(key_id) for key_id in here]))
    await void(pair, request((here[0],)))
    rounds = [ids(6) for _ in range(4)]
    for named in rounds:
        pair.clock.time += 1
        await void(pair, request(tuple(named)))
    known = await pair.n2.store.transact(
        lambda ledger: [[ledger.record(key_id) is not None for key_id in named] for named in (here, *rounds)]
    )
    assert known[0] == [True, True]
    assert known[1:3] == [[False] * 6] * 2
    assert (sum(known[3]), sum(known[4])) == (4, 6)
    pair.n2.store.close()
    pair.n2.store.open()  # Its books are looked through.


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (
            "SELECT key_id, slave_saes FROM record WHERE master_sae = 'a' AND key_id > '' "
            "AND state IN ('deposited', 'delivered', 'voided') ORDER BY key_id LIMIT 500",
            "record_parties",
        ),
        ("SELECT key_id FROM record WHERE slave_saes = '[]' ORDER BY expires_at LIMIT 5", "record_strangers"),
    ],
)
async def test_what_is_voided_is_found_without_a_scan(pair: Pair, tmp_path: Path, query: str, index: str) -> None:
    with closing(sqlite3.connect(tmp_path / "n2" / DATABASE_NAME)) as connection:
        [plan] = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert f"INDEX {index}" in plan
