"""UNSAFE: the data key in a file, for machines and tests without a TPM. Whoever reads the disk reads the store."""

import logging
import os
import secrets
from pathlib import Path

from node.crypto.secret_bytes import SecretBytes
from node.sealing.errors import SealedKeyDamagedError
from node.storage.store_file import sync_folder

log = logging.getLogger("kmstn.sealing")

FILE_NAME = "data-key.UNSAFE"
_SIZE_BYTES = 32


def new_plaintext_key() -> SecretBytes:
    """Draw a data key."""
    return SecretBytes(secrets.token_bytes(_SIZE_BYTES))


def plaintext_data_key(path: Path) -> SecretBytes:
    """Return the data key in the file; raises SealedKeyDamagedError."""
    log.warning("sealing is off: the data key is in plaintext in %s", path)
    data_key = SecretBytes(path.read_bytes())
    if len(data_key) != _SIZE_BYTES:
        raise SealedKeyDamagedError(f"{path.name} is damaged: it holds {len(data_key)} bytes and not {_SIZE_BYTES}")
    return data_key


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is there in whole or not at all, whatever happens; readable by its owner only."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)
