"""The file of the store: making it, opening it, and looking through it before anything is served from it.

Nothing here repairs, and opening never makes a file: a store that is gone or damaged must not look like a new one.
Every page, sealed value and count is looked at, some 5 microseconds a row, so that damage is found at the start and
not by an SAE. What is in the clear (IDs, states, expiry) is checked for form only.
"""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from node.core.keys import Grade, KeyState
from node.errors import StoreDamagedError, StoreError, StoreForeignError, StoreMissingError
from node.storage.value_cipher import ValueCipher

DATABASE_NAME = "kmstn.db"

_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cell_size_check = ON",
    "PRAGMA trusted_schema = OFF",
)
_PLACE = "store"
_EPOCH_SIZE_BYTES = 8
# Tables with sealed values, and the column that names the value's place.
_SEALED = (
    ("link_key", "key_id"),
    ("pool_block", "key_id"),
    ("parcel", "parcel_id"),
    ("deposit", "key_id"),
    ("kem_key", "key_id"),
    ("foreign_key", "kms || ':' || key_id"),
)
_NOT_STORES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def create_store(path: Path, cipher: ValueCipher, epoch: int) -> None:
    """Make an empty store in place of what is there, in one durable file; raises StoreError."""
    try:
        # SQLite would play a log that was left there into the new file.
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.write_bytes(b"")
        path.chmod(0o600)
        with closing(_connect(path)) as connection:
            schema = files("node.storage").joinpath("schema.sql").read_text()
            connection.executescript(f"BEGIN;\n{schema}\nCOMMIT;")
            connection.execute("INSERT INTO store VALUES (1, ?)", (sealed_epoch(cipher, epoch),))
        sync_folder(path.parent)
    except (sqlite3.Error, OSError) as failure:
        raise StoreError(f"cannot make {path}: {failure}") from failure


def open_store(path: Path, cipher: ValueCipher) -> tuple[sqlite3.Connection, int]:
    """Open what `create_store` made and return it with its epoch; raises StoreError saying what is wrong with it."""
    try:
        if not path.exists() or path.stat().st_size == 0:
            raise StoreMissingError("it is missing or empty, though a data key for it is there")
        connection = _connect(path)
        try:
            return connection, _looked_through(connection, cipher)
        except BaseException:
            connection.close()
            raise
    except StoreError as error:
        raise type(error)(f"cannot open {path}: {error}") from error
    except UnicodeError as failure:
        raise StoreDamagedError(f"cannot open {path}: damaged, as is the text that says where") from failure
    except (sqlite3.Error, OSError) as failure:
        kind = StoreDamagedError if is_damage(failure) else StoreError
        raise kind(f"cannot open {path}: {failure}") from failure


def is_damage(failure: Exception) -> bool:
    """Whether SQLite says that the file is not as it left it, rather than that it cannot read or write now."""
    # The low byte is the primary code, the others say more. Text that is no text is noticed by Python, without a code.
    damaged_text = isinstance(failure, sqlite3.OperationalError) and "decode to UTF-8" in str(failure)
    return damaged_text or getattr(failure, "sqlite_errorcode", 0) & 0xFF in _NOT_STORES


def sealed_epoch(cipher: ValueCipher, epoch: int) -> bytes:
    """Return what stands in the store's own row."""
    return cipher.seal(_PLACE, epoch.to_bytes(_EPOCH_SIZE_BYTES, "big"))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: without it SQLite would make the file.
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None)
    try:
        for setting in _SETTINGS:
            connection.execute(setting)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _looked_through(connection: sqlite3.Connection, cipher: ValueCipher) -> int:
    verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StoreDamagedError(f"damaged: {verdict}")
    if _tables(connection) != _expected_tables():
        raise StoreDamagedError("damaged: its tables are not those of this software")
    epoch = _epoch(connection, cipher)
    _open_every_value(connection, cipher)
    _check_books(connection)
    return epoch


def _tables(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    return set(connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def _expected_tables() -> set[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(files("node.storage").joinpath("schema.sql").read_text())
        return _tables(connection)


def _epoch(connection: sqlite3.Connection, cipher: ValueCipher) -> int:
    row = connection.execute("SELECT sealed FROM store").fetchone()
    if row is None:
        raise StoreDamagedError("damaged: its own row is missing")
    try:
        return int.from_bytes(cipher.open(_PLACE, row[0]), "big")
    except StoreDamagedError:
        raise StoreForeignError("it was written under another data key, or its own row was altered") from None


def _open_every_value(connection: sqlite3.Connection, cipher: ValueCipher) -> None:
    for table, name in _SEALED:
        for key_id, sealed in connection.execute(f"SELECT {name}, sealed FROM {table}"):  # noqa: S608 - constants
            cipher.open(f"{table}:{key_id}", sealed)


def _check_books(connection: sqlite3.Connection) -> None:
    """Compare the numbers in stock with the rows, and look at the form of what is in the clear."""
    kept = connection.execute("SELECT kind, owner, direction, ready, number FROM stock WHERE number <> 0")
    counted = connection.execute(
        "SELECT 'link', link, direction, ready, count(*) FROM link_key GROUP BY 2, 3, 4 "
        "UNION ALL SELECT 'pool', peer, direction, ready, count(*) FROM pool_block GROUP BY 2, 3, 4 "
        "UNION ALL SELECT 'void', '', 'in', 1, count(*) FROM record WHERE slave_saes = '[]' HAVING count(*) > 0 "
        "UNION ALL SELECT 'foreign', kms, 'in', 1, count(*) FROM foreign_key GROUP BY 2"
    )
    if set(kept) != set(counted):
        raise StoreDamagedError("damaged: its stock is not what is counted")
    if connection.execute("PRAGMA foreign_key_check").fetchone():
        raise StoreDamagedError("damaged: a key names a parcel that is not there")
    unreadable = connection.execute(
        "SELECT key_id FROM record WHERE NOT json_valid(slave_saes) OR NOT json_valid(path) "  # noqa: S608 - constants
        f"OR state NOT IN ({_listed(KeyState)}) OR grade NOT IN ({_listed(Grade)}) "
        f"UNION ALL SELECT key_id FROM pool_block WHERE grade NOT IN ({_listed(Grade)})"
    ).fetchone()
    if unreadable:
        raise StoreDamagedError(f"damaged: what is said of the key {unreadable[0]}")


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)
