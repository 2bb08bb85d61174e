"""The router program on a kernel that has netem: a user-mode Linux on this machine's own root, read-only.

Times here are those of a slow guest, so each round trip is only held between what was asked and well below the next.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.debian_tools import need

pytestmark = pytest.mark.kernel

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
GUEST = Path(__file__).with_name("netem_guest.py")
BOOT_AND_RUN_TIMEOUT_S = 240.0
TOOLS = ("ip", "tc", "ping", "nsenter", "modprobe", "mount")


@pytest.fixture(scope="module")
def observations(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    kernel = require_kernel()
    folder = tmp_path_factory.mktemp("guest")
    console = run_guest(kernel, folder)
    result = folder / "observations.json"
    if not result.exists():
        pytest.fail("the guest observed nothing; its last words:\n" + "\n".join(console.splitlines()[-40:]))
    content: Mapping[str, Any] = json.loads(result.read_text())
    return content


def require_kernel() -> str:
    """Return the path of the user-mode kernel, installing it where that is possible; else skip with the reason."""
    need((*TOOLS, KERNEL))
    kernel = shutil.which(KERNEL)
    if kernel is None or not MODULES.is_dir():
        pytest.skip(f"user-mode-linux is installed without {KERNEL} or {MODULES}")
    return kernel


def run_guest(kernel: str, folder: Path) -> str:
    """Boot, wait for the power-off, and return what the console said."""
    version = next(MODULES.iterdir()).name
    boot = ["mem=256M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "quiet", "con=null"]
    # Without `console=` the kernel would append one, behind the `--` and so to the arguments of init.
    console = ["console=tty0", "con0=null,fd:1", f"uml_dir={folder}"]
    guest = [f"init={sys.executable}", "--", "-B", str(GUEST), str(folder), str(MODULES)]
    log = folder / "console.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [kernel, *boot, *console, *guest],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(BOOT_AND_RUN_TIMEOUT_S)
        finally:
            end_session(process)
    return f"kernel {version}, {BOOT_AND_RUN_TIMEOUT_S:g} s at most\n" + log.read_text(errors="replace")


def end_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("start", ["first", "second"])
def test_netem_is_chosen_where_the_kernel_has_it(observations: Mapping[str, Any], start: str) -> None:
    state = observations[start]["state"]
    assert (state["ready"], state["backend"], state["reason"]) == (True, "netem", "")
    assert all("netem" in entry["arguments"] for entry in state["applied"])


def test_ten_milliseconds_each_way_are_twenty_there_and_back(observations: Mapping[str, Any]) -> None:
    assert 19.0 <= observations["first"]["rtt_ms"]["ab"] < 29.0


def test_another_source_subnet_has_the_delay_of_its_own_class(observations: Mapping[str, Any]) -> None:
    assert 29.0 <= observations["first"]["rtt_ms"]["cb"] < 45.0


def test_an_interface_without_classes_shapes_every_source(observations: Mapping[str, Any]) -> None:
    assert 9.0 <= observations["first"]["rtt_ms"]["ac"] < 19.0


def test_a_second_start_puts_its_own_settings_in_force(observations: Mapping[str, Any]) -> None:
    assert 39.0 <= observations["second"]["rtt_ms"]["ab"] < 49.0
    assert 49.0 <= observations["second"]["rtt_ms"]["cb"] < 75.0


def test_a_second_start_leaves_no_class_of_the_first(observations: Mapping[str, Any]) -> None:
    for start, filters in (("first", 2), ("second", 1)):
        assert observations[start]["qdiscs"].count("qdisc netem") == 3
        assert observations[start]["qdiscs"].count("qdisc htb") == 1
        assert observations[start]["filters"].count("match ") == filters


def test_shaping_turned_off_leaves_no_qdisc(observations: Mapping[str, Any]) -> None:
    assert observations["off"]["state"]["backend"] == "none"
    assert "netem" not in observations["off"]["qdiscs"]
    assert observations["off"]["rtt_ms"]["ab"] < 9.0
