"""The `Ledger` in SQL: what one transaction may read and write. Taking a key deletes its row, in the same transaction.

Numbers in stock are kept by triggers (schema.sql), so that asking for them costs the same however many keys are stored.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

from node.core.kem_keys import KemKey
from node.core.keys import Direction, Grade, KeyBlock, KeyRecord, KeyState, Parcel, PoolBlock
from node.core.ports import SWEEP_SLICE
from node.storage.foreign_ledger import ForeignKeys
from node.storage.parcel_codec import parcel_from_bytes, parcel_to_bytes
from node.storage.tables import Tables, question_marks


@lru_cache(maxsize=1024)
def _names_to_json(names: tuple[str, ...]) -> str:
    return json.dumps(names)


class _LinkKeys(Tables):
    def add_link_keys(self, link: str, direction: Direction, keys: Collection[KeyBlock], *, ready: bool) -> None:
        self._many(
            "INSERT OR IGNORE INTO link_key (key_id, link, direction, ready, sealed) VALUES (?, ?, ?, ?, ?)",
            [(key.key_id, link, direction, int(ready), self._seal("link_key", key.key_id, key.value)) for key in keys],
        )

    def confirm_link_keys(self, key_ids: Collection[str]) -> None:
        self._many("UPDATE link_key SET ready = 1 WHERE key_id = ? AND direction = 'out'", [(k,) for k in key_ids])

    def drop_link_keys(self, key_ids: Collection[str]) -> None:
        self._many("DELETE FROM link_key WHERE key_id = ?", [(key_id,) for key_id in key_ids])

    def doubt_link_keys(self, link: str) -> None:
        self._sql("UPDATE link_key SET ready = 0 WHERE link = ? AND direction = 'out' AND ready = 1", (link,))

    def unconfirmed_link_keys(self, link: str, limit: int) -> tuple[str, ...]:
        query = (
            "SELECT key_id FROM link_key WHERE link = ? AND direction = 'out' AND ready = 0 ORDER BY position LIMIT ?"
        )
        return tuple(row[0] for row in self._sql(query, (link, limit)))

    def oldest_link_key(self, link: str) -> str | None:
        one = (
            "SELECT * FROM (SELECT position, key_id FROM link_key WHERE link = ? AND direction = 'out' AND ready = {} "
            "ORDER BY position LIMIT 1)"
        )
        row = self._sql(f"{one.format(0)} UNION ALL {one.format(1)} ORDER BY 1", (link, link)).fetchone()
        return row[1] if row else None

    def inbound_link_keys_before(self, link: str, key_id: str) -> tuple[str, ...]:
        query = (
            "SELECT key_id FROM link_key WHERE link = ?1 AND direction = 'in' AND ready = 1 AND position < "
            "(SELECT position FROM link_key WHERE key_id = ?2 AND link = ?1 AND direction = 'in')"
        )
        return tuple(row[0] for row in self._sql(query, (link, key_id)))

    def oldest_inbound_link_keys(self, link: str, number: int) -> tuple[str, ...]:
        query = (
            "SELECT key_id FROM link_key WHERE link = ? AND direction = 'in' AND ready = 1 ORDER BY position LIMIT ?"
        )
        return tuple(row[0] for row in self._sql(query, (link, number)))

    def known_link_keys(self, key_ids: Collection[str]) -> set[str]:
        query = f"SELECT key_id FROM link_key WHERE key_id IN ({question_marks(key_ids)})"
        return {row[0] for row in self._sql(query, tuple(key_ids))}

    def take_link_keys(self, link: str, number: int, reserve: int) -> tuple[KeyBlock, ...] | None:
        if self._stock("link", link) < number + reserve:
            return None
        chosen = (
            "SELECT position FROM link_key WHERE link = ? AND direction = 'out' AND ready = 1 ORDER BY position LIMIT ?"
        )
        rows = self._sql(
            f"DELETE FROM link_key WHERE position IN ({chosen}) RETURNING key_id, sealed",
            (link, number),
        ).fetchall()
        return self._opened(rows) if len(rows) == number else None

    def take_named_link_keys(self, link: str, key_ids: Sequence[str]) -> tuple[KeyBlock, ...] | None:
        query = (
            "DELETE FROM link_key WHERE link = ? AND direction = 'in' "
            f"AND key_id IN ({question_marks(key_ids)}) RETURNING key_id, sealed"
        )
        taken = {key.key_id: key for key in self._opened(self._sql(query, (link, *key_ids)).fetchall())}
        return tuple(taken[key_id] for key_id in key_ids) if len(taken) == len(key_ids) else None

    def link_key_counts(self) -> dict[tuple[str, Direction, bool], int]:
        return self._counts("link")

    def _opened(self, rows: Iterable[tuple[str, bytes]]) -> tuple[KeyBlock, ...]:
        return tuple(KeyBlock(key_id, self._open("link_key", key_id, sealed)) for key_id, sealed in rows)


class _Pools(Tables):
    def add_blocks(self, peer: str, direction: Direction, blocks: Collection[PoolBlock], *, ready: bool) -> None:
        rows = [
            (b.key_id, peer, direction, int(ready), b.grade, self._seal("pool_block", b.key_id, b.value))
            for b in blocks
        ]
        self._many(
            "INSERT OR IGNORE INTO pool_block (key_id, peer, direction, ready, grade, sealed) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )

    def confirm_blocks(self, key_ids: Collection[str], grade: str) -> None:
        self._many(
            "UPDATE pool_block SET ready = 1, grade = ? WHERE key_id = ? AND direction = 'out'",
            [(grade, key_id) for key_id in key_ids],
        )

    def drop_blocks(self, key_ids: Collection[str]) -> None:
        self._many("DELETE FROM pool_block WHERE key_id = ?", [(key_id,) for key_id in key_ids])

    def drop_inbound_block(self, peer: str, key_id: str) -> bool:
        query = "DELETE FROM pool_block WHERE key_id = ? AND peer = ? AND direction = 'in'"
        return self._sql(query, (key_id, peer)).rowcount == 1

    def drop_oldest_inbound_blocks(self, peer: str, number: int) -> int:
        chosen = (
            "SELECT position FROM pool_block WHERE peer = ? AND direction = 'in' AND ready = 1 "
            "ORDER BY position LIMIT ?"
        )
        return self._sql(f"DELETE FROM pool_block WHERE position IN ({chosen})", (peer, number)).rowcount

    def drop_pool(self, peer: str) -> int:
        query = "DELETE FROM pool_block WHERE peer = ? AND direction = 'out' AND ready = 1"
        return self._sql(query, (peer,)).rowcount

    def take_blocks(self, peer: str, number: int) -> tuple[PoolBlock, ...] | None:
        if self._stock("pool", peer) < number:
            return None
        chosen = (
            "SELECT position FROM pool_block WHERE peer = ? AND direction = 'out' AND ready = 1 "
            "ORDER BY position LIMIT ?"
        )
        query = f"DELETE FROM pool_block WHERE position IN ({chosen}) RETURNING key_id, grade, sealed"
        rows = self._sql(query, (peer, number)).fetchall()
        return self._blocks(rows) if len(rows) == number else None

    def take_named_blocks(self, peer: str, key_ids: Sequence[str]) -> tuple[PoolBlock, ...] | None:
        query = (
            "DELETE FROM pool_block WHERE peer = ? AND direction = 'in' "
            f"AND key_id IN ({question_marks(key_ids)}) RETURNING key_id, grade, sealed"
        )
        taken = {block.key_id: block for block in self._blocks(self._sql(query, (peer, *key_ids)).fetchall())}
        return tuple(taken[key_id] for key_id in key_ids) if len(taken) == len(key_ids) else None

    def block_counts(self) -> dict[tuple[str, Direction, bool], int]:
        return self._counts("pool")

    def _blocks(self, rows: Iterable[tuple[str, str, bytes]]) -> tuple[PoolBlock, ...]:
        return tuple(PoolBlock(k, self._open("pool_block", k, sealed), Grade(grade)) for k, grade, sealed in rows)


class _Parcels(Tables):
    def remember_transfer(self, transfer_id: str, sender: str, expires_at: float) -> bool:
        query = "INSERT OR IGNORE INTO transfer VALUES (?, ?, ?)"
        return self._sql(query, (transfer_id, sender, expires_at)).rowcount == 1

    def add_parcel(self, parcel: Parcel) -> None:
        sealed = self._seal("parcel", parcel.parcel_id, parcel_to_bytes(parcel))
        self._sql("INSERT INTO parcel VALUES (?, ?, ?)", (parcel.parcel_id, parcel.expires_at, sealed))
        self._many("INSERT INTO parcel_key VALUES (?, ?)", [(key_id, parcel.parcel_id) for key_id in parcel.key_ids])

    def parcels_of(self, key_ids: Collection[str]) -> dict[str, Parcel]:
        query = (
            "SELECT key_id, parcel_id, sealed FROM parcel_key JOIN parcel USING (parcel_id) "
            f"WHERE key_id IN ({question_marks(key_ids)})"
        )
        rows = self._sql(query, tuple(key_ids)).fetchall()
        parcels = {parcel_id: self._parcel(parcel_id, sealed) for _key, parcel_id, sealed in rows}
        return {key_id: parcels[parcel_id] for key_id, parcel_id, _sealed in rows}

    def acknowledge(self, key_ids: Collection[str]) -> None:
        query = f"DELETE FROM parcel_key WHERE key_id IN ({question_marks(key_ids)}) RETURNING parcel_id"
        touched = {row[0] for row in self._sql(query, tuple(key_ids)).fetchall()}
        rest = "NOT EXISTS (SELECT 1 FROM parcel_key WHERE parcel_key.parcel_id = parcel.parcel_id)"
        self._many(f"DELETE FROM parcel WHERE parcel_id = ? AND {rest}", [(one,) for one in touched])

    def open_parcels(self) -> tuple[Parcel, ...]:
        return tuple(self._parcel(*row) for row in self._sql("SELECT parcel_id, sealed FROM parcel").fetchall())

    def overdue_parcels(self, expires_before: float, after: str, limit: int) -> tuple[Parcel, ...]:
        query = "SELECT parcel_id, sealed FROM parcel WHERE parcel_id > ? AND expires_at < ? ORDER BY parcel_id LIMIT ?"
        return tuple(self._parcel(*row) for row in self._sql(query, (after, expires_before, limit)).fetchall())

    def _parcel(self, parcel_id: str, sealed: bytes) -> Parcel:
        return parcel_from_bytes(self._open("parcel", parcel_id, sealed))


class _Records(Tables):
    def add_records(self, records: Collection[KeyRecord]) -> None:
        rows = [
            (
                record.key_id,
                record.master_sae,
                _names_to_json(record.slave_saes),
                record.size_bits,
                record.grade,
                _names_to_json(record.path),
                record.state,
                record.expires_at,
            )
            for record in records
        ]
        self._many("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def record(self, key_id: str) -> KeyRecord | None:
        row = self._sql("SELECT * FROM record WHERE key_id = ?", (key_id,)).fetchone()
        if row is None:
            return None
        _id, master, slaves, size_bits, grade, path, state, expires_at = row
        slave_saes, nodes = tuple(json.loads(slaves)), tuple(json.loads(path))
        return KeyRecord(key_id, master, slave_saes, size_bits, Grade(grade), nodes, KeyState(state), expires_at)

    def update_record(
        self, key_id: str, state: KeyState, path: tuple[str, ...] | None = None, grade: Grade | None = None
    ) -> None:
        self._sql("UPDATE record SET state = ? WHERE key_id = ?", (state, key_id))
        if path is not None:
            self._sql("UPDATE record SET path = ? WHERE key_id = ?", (_names_to_json(path), key_id))
        if grade is not None:
            self._sql("UPDATE record SET grade = ? WHERE key_id = ?", (grade, key_id))

    def deposit(self, keys: Collection[KeyBlock], slave_saes: Collection[str]) -> None:
        sealed = [(key.key_id, self._seal("deposit", key.key_id, key.value)) for key in keys]
        rows = [(key_id, slave, value) for key_id, value in sealed for slave in slave_saes]
        self._many("INSERT INTO deposit VALUES (?, ?, ?)", rows)

    def fetch_deposit(self, key_id: str, slave_sae: str) -> bytes | None:
        query = "DELETE FROM deposit WHERE key_id = ? AND slave_sae = ? RETURNING sealed"
        row = self._sql(query, (key_id, slave_sae)).fetchone()
        return self._open("deposit", key_id, row[0]) if row else None

    def drop_deposits(self, key_id: str) -> int:
        return self._sql("DELETE FROM deposit WHERE key_id = ?", (key_id,)).rowcount

    def deposits_left(self, key_id: str) -> int:
        return int(self._sql("SELECT count(*) FROM deposit WHERE key_id = ?", (key_id,)).fetchone()[0])

    def some_key_ids_between(
        self, master_sae: str, slave_saes: Collection[str], after: str, limit: int
    ) -> tuple[tuple[str, ...], str | None]:
        query = (
            "SELECT key_id, slave_saes FROM record WHERE master_sae = ? AND key_id > ? "
            "AND state IN ('deposited', 'delivered', 'voided') ORDER BY key_id LIMIT ?"
        )
        rows = self._sql(query, (master_sae, after, limit)).fetchall()
        wanted = set(slave_saes)
        found = tuple(key_id for key_id, slaves in rows if not wanted.isdisjoint(json.loads(slaves)))
        return found, rows[-1][0] if len(rows) == limit else None

    def forget_voids(self, number_kept: int) -> None:
        row = self._sql("SELECT number FROM stock WHERE kind = 'void'").fetchone()
        if row and row[0] > number_kept:
            oldest = "SELECT key_id FROM record WHERE slave_saes = '[]' ORDER BY expires_at LIMIT ?"
            self._sql(f"DELETE FROM record WHERE key_id IN ({oldest})", (row[0] - number_kept,))


class _KemKeys(Tables):
    def add_kem_key(self, key: KemKey) -> None:
        sealed = self._seal("kem_key", key.key_id, key.private)
        row = (key.key_id, key.purpose, key.suite, key.public, sealed, key.expires_at)
        self._sql("INSERT INTO kem_key VALUES (?, ?, ?, ?, ?, ?)", row)

    def kem_keys(self) -> tuple[KemKey, ...]:
        rows = self._sql("SELECT key_id, purpose, suite, public, sealed, expires_at FROM kem_key").fetchall()
        return tuple(
            KemKey(purpose, suite, key_id, public, self._open("kem_key", key_id, sealed), expires_at)
            for key_id, purpose, suite, public, sealed, expires_at in rows
        )

    def drop_kem_keys(self, expired_before: float) -> None:
        self._sql("DELETE FROM kem_key WHERE expires_at < ?", (expired_before,))


class SqliteLedger(_LinkKeys, _Pools, _Parcels, _Records, ForeignKeys, _KemKeys):
    """Everything one transaction may do, in SQL."""

    def sweep(self, now: float, limit: int = SWEEP_SLICE) -> tuple[tuple[str, ...], bool]:
        due = "SELECT {0} FROM {1} WHERE expires_at < ? ORDER BY expires_at LIMIT ?"
        dropped = [
            self._sql(f"DELETE FROM {table} WHERE {key} IN ({due.format(key, table)})", (now, limit)).rowcount
            for table, key in (("transfer", "transfer_id"), ("parcel", "parcel_id"))
        ]
        oldest = "SELECT kms, key_id FROM foreign_key WHERE expires_at < ? ORDER BY expires_at LIMIT ?"
        dropped.append(self._sql(f"DELETE FROM foreign_key WHERE (kms, key_id) IN ({oldest})", (now, limit)).rowcount)
        # A block whose parcel expired unacknowledged must not stay pending for ever. The stock tells of whom there are
        # pending ones, so that the index leads to them.
        pending = (
            "SELECT position FROM pool_block WHERE direction = 'out' AND ready = 0 "
            "AND peer IN (SELECT owner FROM stock WHERE kind = 'pool' AND direction = 'out' AND ready = 0 "
            "AND number > 0) "
            "AND NOT EXISTS (SELECT 1 FROM parcel_key WHERE parcel_key.key_id = pool_block.key_id) LIMIT ?"
        )
        dropped.append(self._sql(f"DELETE FROM pool_block WHERE position IN ({pending})", (limit,)).rowcount)
        records = f"DELETE FROM record WHERE key_id IN ({due.format('key_id', 'record')}) RETURNING key_id"
        expired = [row[0] for row in self._sql(records, (now, limit)).fetchall()]
        unfetched = tuple(key_id for key_id in expired if self.drop_deposits(key_id))
        return unfetched, max(*dropped, len(expired)) == limit
