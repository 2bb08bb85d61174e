"""Broken ledgers: what is spent, remembered, swept."""

from collections.abc import Collection, Sequence
from typing import Any

from node.core.destination import Destination
from node.core.keys import Grade, KeyBlock, PoolBlock
from node.core.ports import Ledger
from node.storage.ledger import SqliteLedger


def link_key_stays_after_sending() -> list[tuple[Any, str, Any]]:
    """Taking link keys to send does not delete them: the next message takes them again."""

    def take(self: SqliteLedger, link: str, number: int, reserve: int) -> tuple[KeyBlock, ...] | None:
        if self._stock("link", link) < number + reserve:
            return None
        query = "SELECT key_id, sealed FROM link_key WHERE link = ? AND direction = 'out' AND ready = 1 LIMIT ?"
        return self._opened(self._sql(query, (link, number)).fetchall())

    return [(_owner("take_link_keys"), "take_link_keys", take)]


def link_key_stays_after_receiving() -> list[tuple[Any, str, Any]]:
    """A receiver keeps the link keys that it has used."""

    def take(self: SqliteLedger, link: str, key_ids: Sequence[str]) -> tuple[KeyBlock, ...] | None:
        query = f"SELECT key_id, sealed FROM link_key WHERE key_id IN ({','.join('?' * len(key_ids))})"
        found = {key.key_id: key for key in self._opened(self._sql(query, tuple(key_ids)).fetchall())}
        return tuple(found[key_id] for key_id in key_ids) if len(found) == len(key_ids) else None

    return [(_owner("take_named_link_keys"), "take_named_link_keys", take)]


def pool_block_stays_after_wrap() -> list[tuple[Any, str, Any]]:
    """Wrapping does not delete the pool blocks: the next key is wrapped with the same."""

    def take(self: SqliteLedger, peer: str, number: int) -> tuple[PoolBlock, ...] | None:
        query = (
            "SELECT key_id, grade, sealed FROM pool_block WHERE peer = ? AND direction = 'out' AND ready = 1 LIMIT ?"
        )
        rows = self._sql(query, (peer, number)).fetchall()
        return self._blocks(rows) if len(rows) == number else None

    return [(_owner("take_blocks"), "take_blocks", take)]


def transfer_ids_are_not_remembered() -> list[tuple[Any, str, Any]]:
    """A transfer that comes twice is taken for new twice."""
    return [(_owner("remember_transfer"), "remember_transfer", lambda *_arguments: True)]


def deposit_is_handed_out_twice() -> list[tuple[Any, str, Any]]:
    """Fetching a key does not delete it."""

    def fetch(self: SqliteLedger, key_id: str, slave_sae: str) -> bytes | None:
        query = "SELECT sealed FROM deposit WHERE key_id = ? AND slave_sae = ?"
        row = self._sql(query, (key_id, slave_sae)).fetchone()
        return self._open("deposit", key_id, row[0]) if row else None

    return [(_owner("fetch_deposit"), "fetch_deposit", fetch)]


def deposit_for_the_wrong_slave() -> list[tuple[Any, str, Any]]:
    """The node of two SAEs keeps a key for the other one."""
    whole, swap = _owner("deposit").__dict__["deposit"], {"a1": "a2", "a2": "a1"}

    def deposit(self: SqliteLedger, keys: Collection[KeyBlock], slave_saes: Collection[str]) -> None:
        whole(self, keys, tuple(swap.get(slave, slave) for slave in slave_saes))

    return [(_owner("deposit"), "deposit", deposit)]


def sweep_takes_what_lives() -> list[tuple[Any, str, Any]]:
    """Housekeeping drops keys long before they expire."""
    whole = SqliteLedger.__dict__["sweep"]
    return [(SqliteLedger, "sweep", lambda self, now: whole(self, now + 110.0))]


def sweep_takes_nothing() -> list[tuple[Any, str, Any]]:
    """Housekeeping leaves what has expired."""
    return [(SqliteLedger, "sweep", lambda _self, _now: ((), False))]


def blocks_count_whatever_the_outcome() -> list[tuple[Any, str, Any]]:
    """Pool blocks that were not relayed are counted as shared."""

    def drop(self: SqliteLedger, key_ids: Collection[str]) -> None:
        self.confirm_blocks(key_ids, Grade.PQC)

    return [(_owner("drop_blocks"), "drop_blocks", drop)]


def voids_are_not_remembered() -> list[tuple[Any, str, Any]]:
    """A key that arrives after the request to void it is kept."""
    whole = Destination.__dict__["void"]

    def void(self: Destination, ledger: Ledger, key_id: str, initiator: str) -> Any:
        return whole(self, ledger, key_id, initiator) if ledger.record(key_id) is not None else None

    return [(Destination, "void", void)]


def _owner(name: str) -> Any:
    """Return the class among the ledger's bases that defines a method."""
    return next(base for base in SqliteLedger.__mro__ if name in base.__dict__)
