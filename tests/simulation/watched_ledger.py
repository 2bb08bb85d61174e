"""The real ledger, telling a witness what each transaction did, once and only if it is committed."""

import sqlite3
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol

from node.core.keys import Direction, Grade, KeyBlock, KeyRecord, KeyState, Parcel, PoolBlock
from node.storage.ledger import SqliteLedger
from node.storage.value_cipher import ValueCipher


class Witness(Protocol):
    """Who is told; `node` is the node whose disk it is. Between two calls of `work_began` lies one transaction."""

    def work_began(self, node: str) -> None: ...
    def link_keys_added(self, node: str, direction: Direction, key_ids: tuple[str, ...]) -> None: ...
    def link_keys_confirmed(self, node: str, key_ids: tuple[str, ...]) -> None: ...
    def link_keys_dropped(self, node: str, key_ids: tuple[str, ...]) -> None: ...
    def link_keys_taken(self, node: str, link: str, key_ids: tuple[str, ...]) -> None: ...
    def link_keys_used(self, node: str, link: str, key_ids: tuple[str, ...]) -> None: ...
    def blocks_kept(self, node: str, key_ids: tuple[str, ...]) -> None: ...
    def blocks_taken(self, node: str, peer: str, key_ids: tuple[str, ...]) -> None: ...
    def blocks_used(self, node: str, peer: str, key_ids: tuple[str, ...]) -> None: ...
    def transfer_remembered(self, node: str, transfer_id: str) -> None: ...
    def parcel_kept(self, node: str, parcel: Parcel) -> None: ...
    def record_added(self, node: str, record: KeyRecord) -> None: ...
    def record_updated(
        self, node: str, key_id: str, state: KeyState, path: tuple[str, ...] | None, grade: Grade | None
    ) -> None: ...
    def deposited(self, node: str, key: KeyBlock, slaves: tuple[str, ...]) -> None: ...
    def fetched(self, node: str, key_id: str, slave: str) -> None: ...


class WatchedLedger(SqliteLedger):
    """`told` collects what there is to tell; the store empties it at each commit, and cuts it back at each rollback."""

    def __init__(self, connection: sqlite3.Connection, cipher: ValueCipher, node: str, witness: Witness) -> None:
        super().__init__(connection, cipher)
        self._node = node
        self._witness = witness
        self.told: list[Callable[[], None]] = []

    def begin_work(self) -> None:
        """Mark the beginning of one transaction."""
        self.told.append(partial(self._witness.work_began, self._node))

    def add_link_keys(self, link: str, direction: Direction, keys: Collection[KeyBlock], *, ready: bool) -> None:
        super().add_link_keys(link, direction, keys, ready=ready)
        self.told.append(partial(self._witness.link_keys_added, self._node, direction, _ids(keys)))

    def confirm_link_keys(self, key_ids: Collection[str]) -> None:
        super().confirm_link_keys(key_ids)
        self.told.append(partial(self._witness.link_keys_confirmed, self._node, tuple(key_ids)))

    def drop_link_keys(self, key_ids: Collection[str]) -> None:
        super().drop_link_keys(key_ids)
        self.told.append(partial(self._witness.link_keys_dropped, self._node, tuple(key_ids)))

    def take_link_keys(self, link: str, number: int, reserve: int) -> tuple[KeyBlock, ...] | None:
        if (taken := super().take_link_keys(link, number, reserve)) is not None:
            self.told.append(partial(self._witness.link_keys_taken, self._node, link, _ids(taken)))
        return taken

    def take_named_link_keys(self, link: str, key_ids: Sequence[str]) -> tuple[KeyBlock, ...] | None:
        if (taken := super().take_named_link_keys(link, key_ids)) is not None:
            self.told.append(partial(self._witness.link_keys_used, self._node, link, _ids(taken)))
        return taken

    def add_blocks(self, peer: str, direction: Direction, blocks: Collection[PoolBlock], *, ready: bool) -> None:
        super().add_blocks(peer, direction, blocks, ready=ready)
        if direction is Direction.IN:
            self.told.append(partial(self._witness.blocks_kept, self._node, _ids(blocks)))

    def take_blocks(self, peer: str, number: int) -> tuple[PoolBlock, ...] | None:
        if (taken := super().take_blocks(peer, number)) is not None:
            self.told.append(partial(self._witness.blocks_taken, self._node, peer, _ids(taken)))
        return taken

    def take_named_blocks(self, peer: str, key_ids: Sequence[str]) -> tuple[PoolBlock, ...] | None:
        if (taken := super().take_named_blocks(peer, key_ids)) is not None:
            self.told.append(partial(self._witness.blocks_used, self._node, peer, _ids(taken)))
        return taken

    def remember_transfer(self, transfer_id: str, sender: str, expires_at: float) -> bool:
        if first := super().remember_transfer(transfer_id, sender, expires_at):
            self.told.append(partial(self._witness.transfer_remembered, self._node, transfer_id))
        return first

    def add_parcel(self, parcel: Parcel) -> None:
        super().add_parcel(parcel)
        self.told.append(partial(self._witness.parcel_kept, self._node, parcel))

    def add_records(self, records: Collection[KeyRecord]) -> None:
        super().add_records(records)
        self.told += [partial(self._witness.record_added, self._node, record) for record in records]

    def update_record(
        self, key_id: str, state: KeyState, path: tuple[str, ...] | None = None, grade: Grade | None = None
    ) -> None:
        super().update_record(key_id, state, path, grade)
        self.told.append(partial(self._witness.record_updated, self._node, key_id, state, path, grade))

    def deposit(self, keys: Collection[KeyBlock], slave_saes: Collection[str]) -> None:
        super().deposit(keys, slave_saes)
        self.told += [partial(self._witness.deposited, self._node, key, tuple(slave_saes)) for key in keys]

    def fetch_deposit(self, key_id: str, slave_sae: str) -> bytes | None:
        if (value := super().fetch_deposit(key_id, slave_sae)) is not None:
            self.told.append(partial(self._witness.fetched, self._node, key_id, slave_sae))
        return value


def _ids(keys: Collection[KeyBlock] | Collection[PoolBlock]) -> tuple[str, ...]:
    return tuple(key.key_id for key in keys)
