"""Whether the store is the newest one: its epoch against a counter in the TPM that never goes back.

The store writes the next epoch before the TPM counts it. So an honest store is at the counter, or one ahead when a
crash came between; each older copy is behind. Not noticed: a copy put back within the epoch in which it was taken, or
together with a copy of the TPM's own state, which only a TPM of hardware prevents.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from node.crypto.aead import derive
from node.crypto.secret_bytes import SecretBytes
from node.sealing.errors import RollbackCounterError, StoreRolledBackError

_SECRET_SIZE_BYTES = 32


class Counter(Protocol):
    """Where it counts: `Tpm`. Each call raises SealingError if the TPM does not do it."""

    def counted(self, secret: bytes) -> int: ...
    def count(self, secret: bytes) -> None: ...


class RollbackCounter:
    """The store's `RollbackGuard`; `reach` opens a conversation with the TPM, `make_durable` syncs what it keeps."""

    def __init__(
        self,
        data_key: SecretBytes,
        reach: Callable[[], AbstractContextManager[Counter]],
        make_durable: Callable[[], None],
    ) -> None:
        self._secret = counter_secret(data_key)
        self._reach = reach
        self._make_durable = make_durable
        # What was counted may not be synced: by a process before this one, or because syncing failed.
        self._synced = False
        # A TPM talks to one at a time, and a node that stops may still be waiting for it.
        self._talking = threading.Lock()

    def settle(self, epoch: int) -> None:
        """Count the epoch if it is the next; raises StoreRolledBackError, RollbackCounterError, TpmUnavailableError."""
        with self._talking, self._reach() as counter:
            newest = counter.counted(self._secret)
            if epoch < newest:
                raise StoreRolledBackError(
                    f"the store is of epoch {epoch} and the TPM has counted {newest}: an older copy was put in its "
                    "place, so keys that were used would be used again. Put the newest store back, or remove the "
                    "volume to start over without the stored keys"
                )
            if epoch > newest + 1:
                raise RollbackCounterError(
                    f"the TPM's rollback counter has counted {newest} only, and the store is of epoch {epoch}: an "
                    "older state of the TPM was put in its place. Put the newest back, or remove the volume to start "
                    "over without the stored keys"
                )
            if epoch == newest + 1:
                self._synced = False
                counter.count(self._secret)
            if not self._synced:
                self._make_durable()
                self._synced = True


def counter_secret(data_key: SecretBytes) -> bytes:
    """Return what reads and counts: whoever has the data key, and nobody else."""
    return derive([data_key.reveal()], "kmstn: rollback counter", b"", _SECRET_SIZE_BYTES)
