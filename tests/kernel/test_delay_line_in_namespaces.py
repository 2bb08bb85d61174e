"""The router program between real namespaces of this machine's kernel, made to use the NFQUEUE delay line.

`tc` is kept from it, so that the delay line is what is tried even where the kernel has netem.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.debian_tools import need
from tests.kernel.three_hosts import ThreeHosts, impairment

pytestmark = pytest.mark.kernel

WITHOUT_TC = ("ip", "iptables", "iptables-restore")
WITHOUT_ANY_BACKEND = ("ip",)

Start = Callable[[tuple[str, ...]], subprocess.Popen[str]]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[ThreeHosts]:
    if os.geteuid():
        pytest.skip("network namespaces need root")
    need((*WITHOUT_TC, "ping", "nsenter"))
    three = ThreeHosts(f"rt{os.getpid()}", tmp_path)
    try:
        yield three
    finally:
        three.remove()


@pytest.fixture
def start(hosts: ThreeHosts, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(tools: tuple[str, ...]) -> subprocess.Popen[str]:
        folder = tmp_path / "tools"
        folder.mkdir(exist_ok=True)
        for tool in tools:
            (folder / tool).symlink_to(shutil.which(tool) or tool)
        nsenter = Path(shutil.which("nsenter") or "nsenter")
        (folder / "nsenter").symlink_to(nsenter)
        started.append(hosts.start_router(str(folder)))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def connect_all(hosts: ThreeHosts) -> None:
    for host in "abc":
        hosts.connect(host)


def test_twenty_milliseconds_each_way_are_forty_there_and_back(hosts: ThreeHosts, start: Start) -> None:
    connect_all(hosts)
    hosts.write_settings("required", impairment("b", None, 20.0), impairment("a", None, 20.0))
    start(WITHOUT_TC)
    state = hosts.state()
    assert (state["ready"], state["backend"]) == (True, "nfqueue")
    assert "tc is not installed" in state["reason"]
    assert state["applied"][0]["arguments"] == ["dev", "to-b", "nfqueue", "0", "delay", "20ms"]
    assert 38.0 <= hosts.median_rtt_ms("a", "b") < 80.0


def test_only_packets_from_the_source_subnet_are_delayed(hosts: ThreeHosts, start: Start) -> None:
    connect_all(hosts)
    hosts.write_settings("required", impairment("b", "a", 40.0))
    start(WITHOUT_TC)
    hosts.state()
    assert 38.0 <= hosts.median_rtt_ms("a", "b") < 80.0
    assert hosts.median_rtt_ms("c", "b") < 20.0


def test_a_source_subnet_has_precedence_over_the_rest_of_its_interface(hosts: ThreeHosts, start: Start) -> None:
    connect_all(hosts)
    hosts.write_settings("required", impairment("b", None, 80.0), impairment("b", "a", 20.0))
    start(WITHOUT_TC)
    hosts.state()
    assert 19.0 <= hosts.median_rtt_ms("a", "b") < 60.0
    assert hosts.median_rtt_ms("c", "b") >= 78.0


def test_a_link_that_loses_everything_answers_nothing(hosts: ThreeHosts, start: Start) -> None:
    connect_all(hosts)
    hosts.write_settings("required", impairment("b", "a", 0.0, loss_percent=100.0))
    start(WITHOUT_TC)
    hosts.state()
    assert hosts.rtts_ms("a", "b", count=5) == []
    assert len(hosts.rtts_ms("c", "b", count=5)) == 5


def test_a_hangup_puts_the_new_settings_in_force_and_takes_the_old_ones_away(hosts: ThreeHosts, start: Start) -> None:
    connect_all(hosts)
    hosts.write_settings("required", impairment("b", "a", 60.0), impairment("c", None, 5.0))
    router = start(WITHOUT_TC)
    hosts.state()
    hosts.write_settings("required", impairment("b", "a", 20.0))
    router.send_signal(signal.SIGHUP)
    assert len(hosts.state()["applied"]) == 1
    assert hosts.in_router("iptables", "-t", "mangle", "-S").count("NFQUEUE") == 1
    assert 19.0 <= hosts.median_rtt_ms("a", "b") < 58.0


def test_shaping_off_leaves_no_rule(hosts: ThreeHosts, start: Start) -> None:
    connect_all(hosts)
    hosts.write_settings("off", impairment("b", "a", 60.0))
    start(WITHOUT_TC)
    assert hosts.state() == {"ready": True, "backend": "none", "reason": "shaping is off", "applied": []}
    assert "NFQUEUE" not in hosts.in_router("iptables", "-t", "mangle", "-S")
    assert hosts.median_rtt_ms("a", "b") < 30.0


def test_required_shaping_without_a_backend_ends_the_router_with_the_reason(hosts: ThreeHosts, start: Start) -> None:
    connect_all(hosts)
    hosts.write_settings("required", impairment("b", "a", 60.0))
    router = start(WITHOUT_ANY_BACKEND)
    stderr = router.communicate(timeout=20)[1]
    assert router.returncode == 1
    assert "shaping is required and no backend works: netem: the image has no tc" in stderr
    assert hosts.state()["ready"] is False


def test_best_effort_without_a_backend_routes_unshaped_and_says_so(hosts: ThreeHosts, start: Start) -> None:
    connect_all(hosts)
    hosts.write_settings("best-effort", impairment("b", "a", 60.0))
    start(WITHOUT_ANY_BACKEND)
    state = hosts.state()
    assert (state["ready"], state["backend"], state["applied"]) == (True, "none", [])
    assert "iptables-restore is not installed" in state["reason"]
    assert hosts.median_rtt_ms("a", "b") < 30.0


def test_a_network_connected_after_the_start_is_waited_for(hosts: ThreeHosts, start: Start) -> None:
    hosts.connect("a")
    hosts.connect("b")
    hosts.write_settings("best-effort")
    start(WITHOUT_TC)
    with pytest.raises(TimeoutError):
        hosts.state(timeout_s=0.5)
    hosts.connect("c")
    assert hosts.state()["ready"] is True
    assert len(hosts.rtts_ms("a", "c", count=3)) == 3


def test_termination_is_obeyed_with_packets_in_flight_and_the_way_stays_open(hosts: ThreeHosts, start: Start) -> None:
    connect_all(hosts)
    hosts.write_settings("required", impairment("b", None, 500.0))
    router = start(WITHOUT_TC)
    hosts.state()
    assert hosts.rtts_ms("a", "b", count=2)
    router.terminate()
    assert router.wait(timeout=5) == 0
    assert hosts.median_rtt_ms("a", "b") < 100.0
