"""What runs as the only process of the user-mode kernel: real netem between three hosts, observed and written down.

Started as `init` by `test_netem_in_user_mode_linux`, on the host's own root, which is mounted read-only. It judges
nothing; the test reads `observations.json`.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.kernel.three_hosts import ThreeHosts, impairment

RESULT = Path("/run/result")
_POWER_OFF = 0x4321FEDC


def main(result_folder: str, modules_folder: str) -> None:
    """Prepare the guest, observe, write down, power off: whatever happens, the machine must end."""
    try:
        prepare(result_folder, modules_folder)
        write_down("observations.json", json.dumps(observe()))
    except BaseException:
        traceback.print_exc()
    finally:
        ctypes.CDLL(None).sync()
        ctypes.CDLL(None).reboot(_POWER_OFF)


def prepare(result_folder: str, modules_folder: str) -> None:
    """Mount what the commands need, and the host's result folder as the only place to write to; load the modules."""
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")):
        subprocess.run(["mount", "-t", kind, kind, target], check=True)
    RESULT.mkdir()
    subprocess.run(["mount", "-t", "hostfs", "-o", result_folder, "none", str(RESULT)], check=True)
    root = Path("/run/root/lib")
    root.mkdir(parents=True)
    (root / "modules").symlink_to(modules_folder)
    for module in ("veth", "sch_netem", "sch_htb", "cls_u32"):
        subprocess.run(["modprobe", "-d", "/run/root", module], check=True)


def observe() -> dict[str, Any]:
    """Start the router, ping, start it again with other settings, ping again."""
    hosts = ThreeHosts("guest", Path("/run"))
    for host in "abc":
        hosts.connect(host)
    hosts.write_settings("required", impairment("b", "a", 10), impairment("b", "c", 30), impairment("a", None, 10))
    router = hosts.start_router()
    first = observation(hosts)
    router.terminate()
    router.wait()
    hosts.write_settings("required", impairment("b", "a", 25), impairment("b", None, 50), impairment("a", None, 15))
    router = hosts.start_router()
    second = observation(hosts)
    hosts.write_settings("off")
    router.send_signal(signal.SIGHUP)
    return {"first": first, "second": second, "off": observation(hosts)}


def observation(hosts: ThreeHosts) -> dict[str, Any]:
    """Return the router's state, the kernel's own word, and the round trips."""
    state = hosts.state(timeout_s=60.0)
    return {
        "state": state,
        "qdiscs": hosts.in_router("tc", "qdisc", "show"),
        "filters": hosts.in_router("tc", "filter", "show", "dev", "to-b"),
        "rtt_ms": {pair: hosts.median_rtt_ms(pair[0], pair[1]) for pair in ("ab", "cb", "ac")},
    }


def write_down(name: str, content: str) -> None:
    """Write a file that the host sees."""
    (RESULT / name).write_text(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
