"""Whatever makes a node another one changes its measured state."""

import shutil
from pathlib import Path

import pytest

from node.sealing.choice import open_sealing
from node.sealing.errors import SealedKeyMissingError
from node.sealing.measure import PACKAGE, measured_state
from node.settings import DeliverySettings, NodeSettings

SETTINGS = NodeSettings(node="kmstn1", domain="east", site="here")


def test_changed_code_is_another_state(tmp_path: Path) -> None:
    copy = tmp_path / "node"
    shutil.copytree(PACKAGE, copy)
    assert measured_state(SETTINGS, copy) == measured_state(SETTINGS)
    (copy / "app.py").write_text((copy / "app.py").read_text() + "\n# changed")
    assert measured_state(SETTINGS, copy) != measured_state(SETTINGS)


def test_another_node_is_another_state() -> None:
    assert measured_state(SETTINGS.model_copy(update={"node": "kmstn2"})) != measured_state(SETTINGS)


def test_figures_an_operator_may_change_are_not_measured() -> None:
    changed = SETTINGS.model_copy(update={"delivery": DeliverySettings(pattern="reactive")})
    assert measured_state(changed) == measured_state(SETTINGS)


def test_plaintext_sealing_does_not_start_over_beside_a_store(tmp_path: Path) -> None:
    (tmp_path / "kmstn.db").write_bytes(b"a store")
    unsafe = SETTINGS.model_copy(update={"state_dir": tmp_path, "sealing": "unsafe-plaintext"})
    with pytest.raises(SealedKeyMissingError), open_sealing(unsafe):
        pass
