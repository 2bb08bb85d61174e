"""UNSAFE: the data key in a file, for machines and tests without a TPM. Whoever reads the disk reads the store."""

import logging
import os
import secrets
from pathlib import Path

from node.crypto.secret_bytes import SecretBytes

log = logging.getLogger("kmstn.sealing")

FILE_NAME = "data-key.UNSAFE"


def plaintext_data_key(state_dir: Path) -> SecretBytes:
    """Return the data key in the file, making it at the first start."""
    log.warning("sealing is off: the data key is in plaintext in %s", state_dir / FILE_NAME)
    path = state_dir / FILE_NAME
    if not path.exists():
        write_durably(path, secrets.token_bytes(32))
    return SecretBytes(path.read_bytes())


def write_durably(path: Path, content: bytes) -> None:
    """Write a file that is there in whole or not at all, whatever happens; readable by its owner only."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
