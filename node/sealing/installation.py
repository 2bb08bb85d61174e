"""The first start of a node: data key and store are made together or not at all, whatever crash comes between.

draft of the store  ->  counter in the TPM  ->  store made in the draft  ->  SEALED KEY WRITTEN  ->  draft renamed
     (marks an installation under way)                                       (from here on: installed)
Whatever else is found half there is refused: a node never starts over beside what it once had.
"""

from collections.abc import Callable
from pathlib import Path

from node.sealing.errors import SealedKeyMissingError
from node.storage.store_file import DATABASE_NAME, sync_folder

DRAFT_NAME = f"{DATABASE_NAME}.new"


def is_installed(state_dir: Path, sealed_key: Path) -> bool:
    """Whether there is a sealed key, and so must be a store; raises SealedKeyMissingError if only a store is there."""
    draft, store = state_dir / DRAFT_NAME, state_dir / DATABASE_NAME
    if sealed_key.exists():
        if draft.exists() and not store.exists():
            _finish(draft, store)
        return True
    if any(state_dir.glob(f"{DATABASE_NAME}*")) and not draft.exists():
        raise SealedKeyMissingError(
            f"{state_dir} holds a store, but not {sealed_key.name}, which opens it: put that file back, or remove the "
            "volume to start over without the stored keys"
        )
    if store.exists():
        raise SealedKeyMissingError(f"{state_dir} holds a store and {DRAFT_NAME}, but not {sealed_key.name}")
    return False


def refuse_counting_tpm(state_dir: Path, sealed_key: Path, has_counted: bool) -> None:
    """Raise SealedKeyMissingError if the TPM guarded a store that is gone without trace."""
    if has_counted and not (state_dir / DRAFT_NAME).exists():
        raise SealedKeyMissingError(
            f"{state_dir} holds neither {sealed_key.name} nor a store, but its TPM has guarded one: put both files "
            "back, or remove the volume to start over without the stored keys"
        )


def install(state_dir: Path, make_store: Callable[[Path], None], write_key: Callable[[], None]) -> None:
    """Take the steps; `make_store` fills the draft, `write_key` is what makes the installation stand."""
    draft = state_dir / DRAFT_NAME
    draft.touch()
    sync_folder(state_dir)
    make_store(draft)
    write_key()
    _finish(draft, state_dir / DATABASE_NAME)


def _finish(draft: Path, store: Path) -> None:
    draft.replace(store)
    sync_folder(store.parent)
