"""The tools of the kernel tests: installed from Debian's packages where that is possible, else the reason to skip."""

import os
import shutil
import subprocess
from collections.abc import Iterable

import pytest

PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "iptables": "iptables",
    "iptables-restore": "iptables",
    "ping": "iputils-ping",
    "nsenter": "util-linux",
    "mount": "mount",
    "modprobe": "kmod",
    "linux.uml": "user-mode-linux",
}
TIMEOUT_S = 300


def need(tools: Iterable[str]) -> None:
    """Return once all tools are there; skip the test where they cannot be had."""
    missing = sorted({PACKAGES[tool] for tool in tools if shutil.which(tool) is None})
    if not missing:
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        pytest.skip(f"not installed: as root, `apt-get install {' '.join(missing)}`")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for attempt in (install, ["apt-get", "update", "-qq"], install):
        done = subprocess.run(attempt, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if attempt is install and done.returncode == 0:
            return
    pytest.skip(f"cannot be installed: {' '.join(missing)}: {done.stderr.strip()[-300:]}")
