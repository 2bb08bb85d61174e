"""The books of what passed between this node and foreign KMSs, in SQL: whose keys, what became of them, who knows."""

import json
from collections.abc import Collection, Iterable
from typing import Any

from node.core.foreign import ForeignKey
from node.core.keys import Direction
from node.storage.tables import Tables, question_marks
from node.wire.etsi020 import AckStatus

_COLUMNS = "key_id, direction, initiator_sae, target_saes, sealed, expires_at, outcome, told"


class ForeignKeys(Tables):
    """The `ForeignLedger` of one transaction."""

    def add_foreign_keys(self, kms: str, keys: Collection[ForeignKey]) -> None:
        """Remember keys; those that are known stay as they are."""
        rows = [
            (
                kms,
                key.key_id,
                key.direction,
                key.initiator_sae,
                json.dumps(key.target_saes),
                self._seal("foreign_key", f"{kms}:{key.key_id}", key.digest),
                key.expires_at,
                key.outcome,
                int(key.told),
            )
            for key in keys
        ]
        self._many("INSERT OR IGNORE INTO foreign_key VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def foreign_keys(self, kms: str, key_ids: Collection[str]) -> dict[str, ForeignKey]:
        """Return what is known of these keys, by ID."""
        query = f"SELECT {_COLUMNS} FROM foreign_key WHERE kms = ? AND key_id IN ({question_marks(key_ids)})"
        return {key.key_id: key for key in self._foreign(kms, self._sql(query, (kms, *key_ids)).fetchall())}

    def close_foreign_keys(self, kms: str, key_ids: Collection[str], outcome: AckStatus) -> None:
        """Write down what became of keys, once; of those that came from there, the KMS is to be told."""
        query = "UPDATE foreign_key SET outcome = ? WHERE kms = ? AND key_id = ? AND outcome IS NULL"
        self._many(query, [(outcome, kms, key_id) for key_id in key_ids])

    def foreign_keys_told(self, kms: str, key_ids: Collection[str]) -> None:
        """Note that the KMS has heard what became of keys."""
        query = "UPDATE foreign_key SET told = 1 WHERE kms = ? AND key_id = ?"
        self._many(query, [(kms, key_id) for key_id in key_ids])

    def untold_foreign_keys(self, kms: str, limit: int) -> tuple[ForeignKey, ...]:
        """Return keys whose outcome the KMS has not heard."""
        query = f"SELECT {_COLUMNS} FROM foreign_key WHERE kms = ? AND told = 0 AND outcome IS NOT NULL LIMIT ?"
        return tuple(self._foreign(kms, self._sql(query, (kms, limit)).fetchall()))

    def foreign_key_count(self, kms: str) -> int:
        """Return how many keys are remembered of one KMS."""
        row = self._sql("SELECT number FROM stock WHERE kind = 'foreign' AND owner = ?", (kms,)).fetchone()
        return int(row[0]) if row else 0

    def _foreign(self, kms: str, rows: Iterable[Any]) -> Iterable[ForeignKey]:
        for key_id, direction, initiator, targets, sealed, expires_at, outcome, told in rows:
            yield ForeignKey(
                key_id=key_id,
                direction=Direction(direction),
                initiator_sae=initiator,
                target_saes=tuple(json.loads(targets)),
                digest=self._open("foreign_key", f"{kms}:{key_id}", sealed),
                expires_at=expires_at,
                outcome=None if outcome is None else AckStatus(outcome),
                told=bool(told),
            )
