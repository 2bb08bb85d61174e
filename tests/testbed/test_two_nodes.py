"""What people do with a testbed, on the smallest one: it converges, heals, refuses, lets others in, and goes."""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.conftest import PROJECT, Bed, run

pytestmark = pytest.mark.docker


def exchange(bed: Bed) -> dict[str, object]:
    done = bed.invoke("exchange", "--all-pairs", "--json")
    assert done.code == 0, done.stdout + done.stderr
    document: dict[str, object] = done.document
    return document


def test_every_pair_holds_identical_keys_of_grade_qkd(two_nodes: Bed) -> None:
    document = exchange(two_nodes)
    assert document["different"] == document["failed"] == 0
    assert {one["grade"] for one in document["exchanges"]} == {"qkd"}  # type: ignore[attr-defined]


def test_up_again_changes_nothing(two_nodes: Bed) -> None:
    before = two_nodes.ids()
    again = two_nodes.up()
    assert again.code == 0, again.stderr
    assert again.document["changed"] is False
    assert two_nodes.ids() == before


def test_up_heals_what_was_removed_stopped_and_disconnected(two_nodes: Bed) -> None:
    two_nodes.docker("rm", "-f", two_nodes.container("kmstn1-to-kmstn2"))
    two_nodes.docker("stop", "-t", "1", two_nodes.container("kmstn2"))
    network = two_nodes.docker("network", "ls", "--filter", two_nodes.label, "--format", "{{.Name}}").split()
    site = next(name for name in network if "site" in name)
    for container in json.loads(two_nodes.docker("network", "inspect", site))[0]["Containers"].values():
        if "router" in container["Name"]:
            two_nodes.docker("network", "disconnect", "-f", site, container["Name"])
    healed = two_nodes.up()
    assert healed.code == 0, healed.stderr
    assert healed.document["proof"]["identical"] is True
    exchange(two_nodes)


@pytest.mark.parametrize("what", ["kmstn1", "kmstn2", "router-galicia-south"])
def test_exchanges_work_again_after_a_restart_without_up(two_nodes: Bed, what: str) -> None:
    two_nodes.docker("restart", "-t", "2", two_nodes.container(what))
    for _ in range(60):
        if two_nodes.invoke("exchange", "--all-pairs", "--json").code == 0:
            break
        time.sleep(0.2)
    exchange(two_nodes)


def test_status_shows_nodes_devices_links_and_what_shapes_them(two_nodes: Bed) -> None:
    for _ in range(40):
        done = two_nodes.invoke("status", "--json")
        if done.code == 0:
            break
        time.sleep(0.5)
    assert done.code == 0, done.document["problems"]
    document = done.document
    assert {node["name"] for node in document["nodes"]} == {"kmstn1", "kmstn2"}
    assert all(node["healthy"] and node["sealing"].startswith("tpm") for node in document["nodes"])
    assert all(node["memory_mib"] <= 100 for node in document["nodes"])
    [link] = document["links"]
    assert link["backend"] in {"netem", "nfqueue"}
    assert link["verdict"] == "ok"
    assert all(device["stored_keys"] > 0 for device in document["devices"])


def test_curl_line_of_credentials_works_as_it_stands(two_nodes: Bed, tmp_path: Path) -> None:
    sae = two_nodes.invoke("status", "--json").document["nodes"][0]["saes"][0]
    written = two_nodes.invoke("credentials", sae, "--out", str(tmp_path), "--json").document
    done = subprocess.run(shlex.split(written["curl"]), capture_output=True, text=True, check=True, cwd=PROJECT)
    assert json.loads(done.stdout)["master_SAE_ID"] == sae
    assert Path(written["key"]).stat().st_mode & 0o077 == 0


def test_client_without_certificate_is_refused_and_the_reason_is_in_the_nodes_log(two_nodes: Bed) -> None:
    url = two_nodes.invoke("status", "--json").document["nodes"][0]["sae_api"]
    refused = run("curl", "-sk", f"{url}/api/v1/keys/x/status")
    assert refused.code != 0
    log = two_nodes.invoke("logs", "kmstn1", "--tail", "20").stdout
    assert "no certificate" in log


def test_somebody_elses_container_can_be_attached_and_does_not_hold_up_down(two_nodes: Bed) -> None:
    image = two_nodes.docker("inspect", "--format", "{{.Config.Image}}", two_nodes.container("kmstn1")).strip()
    own = "test-attached-client"
    run("docker", "rm", "-fv", own)
    two_nodes.docker("run", "-d", "--name", own, "--label", "kmstn.test=attach", image, "sleep", "300")
    try:
        site = json.loads(two_nodes.invoke("status", "--json").stdout)["nodes"][0]
        joined = two_nodes.invoke("attach", own, "vigo-campus", "--json")
        assert joined.code == 0, joined.stderr
        url = joined.document["sae_api"]
        host = url.removeprefix("https://").split(":")[0]
        reach = f"import socket; socket.create_connection(('{host}', 8443), 5)"
        two_nodes.docker("exec", own, "python", "-c", reach)
        assert site["name"] == host
    finally:
        run("docker", "rm", "-fv", own)


def test_interrupted_up_is_finished_by_the_next() -> None:
    bed = Bed("test-cut", "two-nodes")
    bed.invoke("down")
    try:
        for kind in ("network", "container"):
            assert kill_up_when_there_is_a(bed, kind) == -signal.SIGKILL, kind
        finished = bed.up()
        assert finished.code == 0, finished.stderr
        assert finished.document["proof"]["identical"] is True
    finally:
        down = bed.invoke("down")
    assert down.code == 0
    assert bed.left_over() == []
    assert not (PROJECT / ".testbeds" / bed.name).exists()


def kill_up_when_there_is_a(bed: Bed, kind: str) -> int:
    """Begin `up` and kill it, as a crash would, as soon as Docker has a thing of this kind; returns its exit code."""
    command = (sys.executable, "-m", "invoke", "up", "--file", bed.file, "--name", bed.name, "--json")
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL) as process:
        for _ in range(600):
            if bed.docker(kind, "ls", "-q", "--filter", bed.label) or process.poll() is not None:
                break
            time.sleep(0.02)
        process.kill()
    return process.returncode


@pytest.fixture
def foreign_network() -> Iterator[str]:
    name = "test-foreign-network"
    run("docker", "network", "rm", name)
    run("docker", "network", "create", "--subnet", "10.211.7.0/24", "--label", "kmstn.test=clash", name)
    yield name
    run("docker", "network", "rm", name)


def test_fixed_subnet_that_is_taken_is_refused_naming_the_owner(tmp_path: Path, foreign_network: str) -> None:
    text = (PROJECT / "topology" / "testbeds" / "two-nodes.yaml").read_text()
    file = tmp_path / "clash.yaml"
    file.write_text(text + "\nsubnet: 10.211.0.0/16\n")
    bed = Bed("test-clash", str(file))
    refused = bed.up()
    assert refused.code == 1
    assert foreign_network in refused.stderr
    assert bed.left_over() == []


def test_wrong_description_is_refused_with_its_place_before_anything_starts(tmp_path: Path) -> None:
    text = (PROJECT / "topology" / "testbeds" / "two-nodes.yaml").read_text()
    file = tmp_path / "wrong.yaml"
    file.write_text(text.replace("regions:", "regoins:"))
    bed = Bed("test-wrong", str(file))
    refused = bed.up()
    assert refused.code == 2
    assert f"{file}:" in refused.stderr
    assert "regions" in refused.stderr
    assert bed.left_over() == []
