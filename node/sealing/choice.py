"""What a node gets from its sealer: the data key, a guard against older copies of the store, and a word on both."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from node.crypto.secret_bytes import SecretBytes
from node.sealing.installation import install, is_installed, refuse_counting_tpm
from node.sealing.measure import measured_state
from node.sealing.rollback_counter import RollbackCounter, counter_secret
from node.sealing.swtpm import SoftwareTpm, running_swtpm
from node.sealing.unsafe_plaintext_sealer import FILE_NAME, new_plaintext_key, plaintext_data_key, write_durably
from node.settings import NodeSettings
from node.storage.database import RollbackGuard
from node.storage.store_file import create_store
from node.storage.value_cipher import ValueCipher

if TYPE_CHECKING:
    from node.sealing.tpm_commands import Tpm

BLOB_NAME = "data-key.tpm"
TPM_DIRECTORY = "tpm"
DATA_KEY_SIZE_BYTES = 32

_PLAINTEXT = "UNSAFE: data key in plaintext on disk, older copies of the store pass for new"
_TPM = "tpm: swtpm, data key released to the measured state in PCR 11, rollback counter in NV memory"


@dataclass(frozen=True)
class Sealing:
    """The released data key, how it is kept (for the status), and who knows which store is the newest."""

    data_key: SecretBytes
    description: str
    guard: RollbackGuard | None


@contextmanager
def open_sealing(settings: NodeSettings) -> Iterator[Sealing]:
    """Release the data key as the settings say, at the first start make it and an empty store with it.

    The TPM runs until the context ends. Raises SealingError, StoreError, OSError.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    if settings.sealing == "unsafe-plaintext":
        yield Sealing(_plaintext_key(settings.state_dir), _PLAINTEXT, None)
        return
    blob = settings.state_dir / BLOB_NAME
    installed = is_installed(settings.state_dir, blob)
    with running_swtpm(settings.state_dir / TPM_DIRECTORY, may_make=not installed) as swtpm:
        data_key = _tpm_key(settings, swtpm, blob, installed)
        guard = RollbackCounter(data_key, lambda: _conversation(swtpm), swtpm.make_durable)
        yield Sealing(data_key, _TPM, guard)


def _plaintext_key(state_dir: Path) -> SecretBytes:
    key_file = state_dir / FILE_NAME
    if not is_installed(state_dir, key_file):
        data_key = new_plaintext_key()
        install(
            state_dir,
            lambda draft: create_store(draft, ValueCipher(data_key.reveal()), epoch=0),
            lambda: write_durably(key_file, data_key.reveal()),
        )
    return plaintext_data_key(key_file)


def _tpm_key(settings: NodeSettings, swtpm: SoftwareTpm, blob: Path, installed: bool) -> SecretBytes:
    # The TPM stack is in the node image only.
    from node.sealing.tpm_sealer import TpmSealer

    with _conversation(swtpm) as tpm:
        sealer = TpmSealer(tpm, measured_state(settings))
        if installed:
            return sealer.unseal(blob)
        refuse_counting_tpm(settings.state_dir, blob, tpm.has_counted())
        data_key = sealer.new_key(DATA_KEY_SIZE_BYTES)
        install(
            settings.state_dir,
            lambda draft: _make_store(draft, tpm, swtpm, data_key),
            lambda: sealer.seal(data_key, blob),
        )
        return data_key


def _make_store(draft: Path, tpm: "Tpm", swtpm: SoftwareTpm, data_key: SecretBytes) -> None:
    secret = counter_secret(data_key)
    tpm.make_counter(secret)
    swtpm.make_durable()
    create_store(draft, ValueCipher(data_key.reveal()), tpm.counted(secret))


@contextmanager
def _conversation(swtpm: SoftwareTpm) -> "Iterator[Tpm]":
    from node.sealing.tpm_commands import Tpm

    with swtpm.conversation() as tcti, Tpm(tcti) as tpm:
        yield tpm
