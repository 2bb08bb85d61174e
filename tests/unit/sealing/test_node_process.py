"""`python -m node` as a process, with its TPM: it serves, and when it cannot, ends with the code that says why.

In the node image.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from node.identity_uri import Role
from node.sealing.choice import BLOB_NAME
from node.storage.database import DATABASE_NAME
from tests.certificates import issue, make_authority, write_identity

pytestmark = pytest.mark.node_image

ROOT = Path(__file__).parents[3]
PORTS = {"sae_port": 18443, "peer_port": 18020, "operator_port": 18090}


class NodeProcess:
    """A node's folder, and the node in it as a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.write_settings("kmstn1")

    def write_settings(self, node: str) -> None:
        told = {"node": node, "domain": "east", "site": "here", "bind": "127.0.0.1", **PORTS}
        folders = {"state_dir": str(self.state), "identity_dir": str(self.folder / "identity")}
        (self.folder / "settings.json").write_text(json.dumps({**told, **folders}))

    def start(self) -> "subprocess.Popen[str]":
        code = "import pathlib, sys, node.__main__ as m; sys.exit(m.main(pathlib.Path(sys.argv[1])))"
        command = [sys.executable, "-c", code, str(self.folder / "settings.json")]
        return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stderr=subprocess.PIPE, text=True)

    def serve(self, end_by: signal.Signals = signal.SIGTERM) -> int:
        """Start it, wait until it serves, end it; return its exit code."""
        process = self.start()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", PORTS["operator_port"]), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        assert process.poll() is None, process.communicate()[1]
        assert (Path("/proc") / str(process.pid) / "mem").stat().st_uid == 0, "its memory is nobody's to read"
        process.send_signal(end_by)
        process.communicate(timeout=30)
        return process.returncode

    def refuse(self) -> tuple[int, str]:
        """Start it and return its exit code and last words."""
        process = self.start()
        _, said = process.communicate(timeout=60)
        return process.returncode, next(line for line in said.splitlines() if "CRITICAL" in line)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a node that was started for the first time, stopped, started again and killed."""
    folder = tmp_path_factory.mktemp("node")
    authority = make_authority("east")
    write_identity(folder / "identity", issue(authority, Role.NODE, "kmstn1", dns=("localhost",)), [authority])
    node = NodeProcess(folder)
    assert node.serve() == 0
    assert node.serve(signal.SIGKILL) == -signal.SIGKILL
    return folder


@pytest.fixture
def node(installed: Path, tmp_path: Path) -> NodeProcess:
    shutil.copytree(installed, tmp_path / "node")
    return NodeProcess(tmp_path / "node")


def test_node_that_was_killed_serves_again(node: NodeProcess) -> None:
    assert node.serve() == 0


def rename_node(node: NodeProcess) -> None:
    node.write_settings("kmstn2")


def damage_blob(node: NodeProcess) -> None:
    (node.state / BLOB_NAME).write_bytes(b"damaged")


def damage_store(node: NodeProcess) -> None:
    path = node.state / DATABASE_NAME
    path.write_bytes(path.read_bytes()[:-2048])


def put_old_store_in_place(node: NodeProcess) -> None:
    shutil.copytree(node.state, node.folder / "old")
    assert node.serve() == 0
    for path in node.state.glob(f"{DATABASE_NAME}*"):
        path.unlink()
    for path in (node.folder / "old").glob(f"{DATABASE_NAME}*"):
        shutil.copy(path, node.state / path.name)


def put_old_tpm_in_place(node: NodeProcess) -> None:
    shutil.copytree(node.state / "tpm", node.folder / "old")
    assert node.serve() == 0
    assert node.serve() == 0
    shutil.rmtree(node.state / "tpm")
    shutil.copytree(node.folder / "old", node.state / "tpm")


def make_read_only(node: NodeProcess) -> None:
    assert node.serve() == 0
    (node.state / DATABASE_NAME).chmod(0o400)


def remove_log(node: NodeProcess) -> None:
    (node.state / f"{DATABASE_NAME}-wal").unlink()


TROUBLES: dict[str, tuple[Callable[[NodeProcess], object], int, str]] = {
    "sealed key missing": (lambda node: (node.state / BLOB_NAME).unlink(), 10, "holds a store"),
    "sealed key damaged": (damage_blob, 11, "damaged"),
    "identity changed": (rename_node, 12, "identity is east/kmstn2"),
    "TPM gone": (lambda node: shutil.rmtree(node.state / "tpm"), 13, "wiped or replaced"),
    "TPM damaged": (lambda node: (node.state / "tpm" / "tpm2-00.permall").write_bytes(b"x"), 15, "does not run"),
    "older TPM": (put_old_tpm_in_place, 16, "older state of the TPM"),
    "log of the crash removed": (remove_log, 17, "older copy"),
    "older store": (put_old_store_in_place, 17, "older copy"),
    "store missing": (lambda node: (node.state / DATABASE_NAME).unlink(), 20, "missing or empty"),
    "store damaged": (damage_store, 21, "cannot open"),
    "store read-only": (make_read_only, 23, "readonly"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_node_that_cannot_start_says_why_and_ends_with_the_code_of_the_page(node: NodeProcess, trouble: str) -> None:
    make, code, words = TROUBLES[trouble]
    make(node)
    for _ in range(2):
        ended, said = node.refuse()
        assert ended == code, said
        assert words in said
