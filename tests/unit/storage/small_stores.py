"""What the storage tests share: an opened store, keys with values that are easy to find, parcels that name keys."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from node.core.keys import Direction, KeyBlock, Parcel
from node.core.ports import Ledger
from node.storage.database import DATABASE_NAME, Database, RollbackGuard
from node.storage.store_file import create_store
from node.storage.value_cipher import ValueCipher
from node.wire.federation import EndToEnd, Purpose

T = TypeVar("T")

DATA_KEY = bytes(range(32))
LINK = "n1-n2"


def made(folder: Path, data_key: bytes = DATA_KEY, guard: RollbackGuard | None = None, epoch: int = 0) -> Database:
    """Return the store in the folder, not opened yet; an empty one if there is none."""
    path = folder / DATABASE_NAME
    if not path.exists():
        create_store(path, ValueCipher(data_key), epoch)
    return Database(path, ValueCipher(data_key), guard)


@asynccontextmanager
async def opened(
    folder: Path, data_key: bytes = DATA_KEY, guard: RollbackGuard | None = None
) -> AsyncIterator[Database]:
    """Open the store in the folder, and close it."""
    store = made(folder, data_key, guard)
    store.open()
    try:
        yield store
    finally:
        store.close()


def at_once(folder: Path, work: Callable[[Ledger], T], data_key: bytes = DATA_KEY) -> T:
    """Open the store, do one piece of work, close it."""

    async def run() -> T:
        async with opened(folder, data_key) as store:
            return await store.transact(work)

    return asyncio.run(run())


def link_key(key_id: str) -> KeyBlock:
    """Return a link key whose 32 bytes tell its ID."""
    return KeyBlock(key_id, f"bytes of {key_id}".ljust(32, "!").encode())


def stocked(ledger: Ledger, key_ids: Iterable[str], direction: Direction = Direction.OUT) -> None:
    """Put link keys with these IDs into stock, ready for use."""
    ledger.add_link_keys(LINK, direction, [link_key(key_id) for key_id in key_ids], ready=True)


def parcel(parcel_id: str, key_ids: tuple[str, ...], expires_at: float = 1e12, **changes: Any) -> Parcel:
    """Return a parcel that carries keys with these IDs."""
    members: dict[str, Any] = {
        "parcel_id": parcel_id,
        "purpose": Purpose.SESSION_KEY,
        "initiator_sae": "a",
        "target_saes": ("b",),
        "key_ids": key_ids,
        "bodies": tuple(b"body of " + key_id.encode() for key_id in key_ids),
        "end_to_end": EndToEnd(origin="n1", destination="n2", kem_ciphertext=b"\x00\xff", tags=(b"\xfe" * 16,)),
        "path": ("n1",),
        "protections": (),
        "upstream": None,
        "downstream": "n2",
        "expires_at": expires_at,
    }
    return Parcel(**{**members, **changes})
