"""Why Docker does not answer: each cause has a message of its own, with the remedy that fits."""

import json
import socket
from pathlib import Path

import pytest

from topology.docker_host import DEFAULT_ADDRESS, daemon_address, is_remote, why_unreachable
from topology.docker_runtime import DockerEngine
from topology.errors import EngineUnreachable


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


def refused(address: str, monkeypatch: pytest.MonkeyPatch) -> EngineUnreachable:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(EngineUnreachable) as caught:
        DockerEngine().facts()
    return caught.value


def test_docker_host_without_a_socket_behind_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = refused(f"unix://{tmp_path}/none.sock", monkeypatch)
    assert f"DOCKER_HOST=unix://{tmp_path}/none.sock" in error.problem
    assert "unset DOCKER_HOST" in error.remedy


def test_docker_host_where_nobody_listens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = refused(f"tcp://127.0.0.1:{port}", monkeypatch)
    assert "Connection refused" in error.problem


def test_docker_host_that_makes_no_sense_is_an_error_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "DOCKER_HOST=nonsense://x" in refused("nonsense://x", monkeypatch).problem


def test_missing_permission_names_the_group_to_join() -> None:
    error = why_unreachable(ConnectionError("aborted", PermissionError(13, "Permission denied")))
    assert "may not use" in error.problem
    assert "usermod -aG docker" in error.remedy


def test_socket_without_a_daemon_says_start_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stale = tmp_path / "docker.sock"
    stale.touch()
    monkeypatch.setattr("topology.docker_host.DEFAULT_ADDRESS", f"unix://{stale}")
    error = why_unreachable(ConnectionRefusedError(111, "Connection refused"))
    assert "Connection refused" in error.problem
    assert "systemctl start docker" in error.remedy


def test_no_socket_at_all_says_how_to_install_docker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("topology.docker_host.DEFAULT_ADDRESS", f"unix://{tmp_path}/none")
    monkeypatch.setattr("sys.platform", "linux")
    error = why_unreachable(FileNotFoundError(2, "No such file or directory"))
    assert "does not exist" in error.problem
    assert "apt-get install docker.io" in error.remedy


def write_context(folder: Path, name: str, address: str) -> None:
    meta = folder / "contexts" / "meta" / "1"
    meta.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"currentContext": name}))
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": address}}}))


def test_context_of_the_docker_command_is_followed_unless_docker_host_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert daemon_address() == DEFAULT_ADDRESS
    write_context(tmp_path / "docker", "rootless", "unix:///run/user/1000/docker.sock")
    assert daemon_address() == "unix:///run/user/1000/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "ssh://somewhere")
    assert daemon_address() == "ssh://somewhere"
    assert is_remote()


def test_damaged_docker_configuration_falls_back_to_the_usual_socket(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text("{")
    assert daemon_address() == DEFAULT_ADDRESS
