"""What a node gets from its sealer: the data key, and a word on how it was kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.crypto.secret_bytes import SecretBytes
from node.sealing.errors import SealedKeyMissingError
from node.sealing.measure import measured_state
from node.sealing.swtpm import running_swtpm
from node.sealing.unsafe_plaintext_sealer import FILE_NAME, plaintext_data_key
from node.settings import NodeSettings
from node.storage.database import DATABASE_NAME

DATA_KEY_SIZE_BYTES = 32


@dataclass(frozen=True)
class Sealing:
    """The released data key and how it is kept, for the status."""

    data_key: SecretBytes
    description: str


@contextmanager
def open_sealing(settings: NodeSettings) -> Iterator[Sealing]:
    """Release the data key as the settings say; the TPM runs until the context ends. Raises SealingError."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    if settings.sealing == "unsafe-plaintext":
        key_file = settings.state_dir / FILE_NAME
        if not key_file.exists():
            refuse_orphaned_store(settings.state_dir, key_file)
        yield Sealing(plaintext_data_key(settings.state_dir), "UNSAFE: data key in plaintext on disk")
        return
    with running_swtpm(settings.state_dir / "tpm") as tpm:
        yield Sealing(_unseal(settings, tpm), "tpm: swtpm, released to the measured state in PCR 11")


def _unseal(settings: NodeSettings, tpm: str) -> SecretBytes:
    from node.sealing.tpm_sealer import TpmSealer

    blob = settings.state_dir / "data-key.tpm"
    with TpmSealer(tpm, measured_state(settings)) as sealer:
        if blob.exists():
            return sealer.unseal(blob)
        refuse_orphaned_store(settings.state_dir, blob)
        return sealer.seal_new(blob, DATA_KEY_SIZE_BYTES)


def refuse_orphaned_store(state_dir: Path, sealed_key: Path) -> None:
    """Raise SealedKeyMissingError if there is a store that a new data key could not open."""
    if (state_dir / DATABASE_NAME).exists():
        raise SealedKeyMissingError(
            f"{state_dir} holds a store, but not {sealed_key.name}, which opens it: put that file back, "
            "or remove the volume to start over without the stored keys"
        )
