"""The TPM releases the data key to the software and TPM it was sealed to, and to nothing else (in the node image)."""

import shutil
from pathlib import Path

import pytest

from node.sealing.choice import open_sealing
from node.sealing.errors import MeasuredStateChangedError, SealedKeyMissingError, TpmReplacedError
from node.sealing.measure import measured_state
from node.sealing.swtpm import running_swtpm
from node.settings import NodeSettings

pytestmark = pytest.mark.node_image


def settings(state_dir: Path, node: str = "kmstn1") -> NodeSettings:
    return NodeSettings(node=node, domain="east", site="here", state_dir=state_dir)


def release(state_dir: Path, node: str = "kmstn1") -> bytes:
    with open_sealing(settings(state_dir, node)) as sealing:
        assert "tpm" in sealing.description
        return sealing.data_key.reveal()


def test_data_key_is_released_again_after_a_restart(tmp_path: Path) -> None:
    first = release(tmp_path)
    assert len(first) == 32
    assert release(tmp_path) == first


def test_no_byte_of_the_data_key_is_on_disk_in_clear(tmp_path: Path) -> None:
    data_key = release(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert data_key not in path.read_bytes(), path


def test_other_identity_does_not_get_the_data_key(tmp_path: Path) -> None:
    release(tmp_path)
    with pytest.raises(MeasuredStateChangedError, match="software or identity"):
        release(tmp_path, "kmstn2")


def test_data_key_is_released_once_per_start(tmp_path: Path) -> None:
    from node.sealing.tpm_sealer import TpmSealer

    release(tmp_path)
    with running_swtpm(tmp_path / "tpm") as tpm, TpmSealer(tpm, measured_state(settings(tmp_path))) as sealer:
        sealer.unseal(tmp_path / "data-key.tpm")
        with pytest.raises(MeasuredStateChangedError):
            sealer.unseal(tmp_path / "data-key.tpm")


def test_wiped_tpm_is_told_apart(tmp_path: Path) -> None:
    release(tmp_path)
    shutil.rmtree(tmp_path / "tpm")
    with pytest.raises(TpmReplacedError, match="wiped or replaced"):
        release(tmp_path)


def test_damaged_blob_is_told_apart(tmp_path: Path) -> None:
    release(tmp_path)
    (tmp_path / "data-key.tpm").write_bytes(b"{}")
    with pytest.raises(TpmReplacedError, match="damaged"):
        release(tmp_path)


def test_store_without_its_sealed_key_is_not_started_over(tmp_path: Path) -> None:
    (tmp_path / "kmstn.db").write_bytes(b"a store")
    with pytest.raises(SealedKeyMissingError, match="holds a store"):
        release(tmp_path)
    assert (tmp_path / "kmstn.db").read_bytes() == b"a store"
