"""Three hosts around a router, as network namespaces: a, b and c, each in a subnet of its own. Standard library only.

Host h has the address 10.99.N.10 and the default route 10.99.N.1, which the router program must add.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROUTER = Path(__file__).parents[2] / "images" / "router" / "router.py"
NUMBERS = {"a": 1, "b": 2, "c": 3}


def subnet(host: str) -> str:
    """Return the subnet of a host."""
    return f"10.99.{NUMBERS[host]}.0/24"


def impairment(out: str, src: str | None, delay_ms: float, loss_percent: float = 0.0) -> dict[str, Any]:
    """Return an entry of the router's settings, from host to host."""
    return {
        "link": f"{src}-{out}",
        "out": subnet(out),
        "src": None if src is None else subnet(src),
        "delay_ms": delay_ms,
        "jitter_ms": 0.0,
        "loss_percent": loss_percent,
        "rate_mbps": None,
    }


class ThreeHosts:
    """The namespaces `PREFIX-a`, `-b`, `-c` and `-r`; a host has no link to the router until `connect`."""

    def __init__(self, prefix: str, folder: Path) -> None:
        self._prefix = prefix
        self._settings = folder / "settings.json"
        self._state = folder / "state.json"
        for name in (*NUMBERS, "r"):
            _run("ip", "netns", "add", self._namespace(name))
            _run("ip", "-n", self._namespace(name), "link", "set", "lo", "up")
        self.in_router("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def connect(self, host: str) -> None:
        """Join a host to the router, which has an address of its own but is not the gateway yet."""
        here, router, number = self._namespace(host), self._namespace("r"), NUMBERS[host]
        _run("ip", "link", "add", "leg", "netns", here, "type", "veth", "peer", "name", f"to-{host}", "netns", router)
        _run("ip", "-n", here, "address", "add", f"10.99.{number}.10/24", "dev", "leg")
        _run("ip", "-n", router, "address", "add", f"10.99.{number}.2/24", "dev", f"to-{host}")
        _run("ip", "-n", here, "link", "set", "leg", "up")
        _run("ip", "-n", router, "link", "set", f"to-{host}", "up")
        _run("ip", "-n", here, "route", "add", "default", "via", f"10.99.{number}.1")

    def remove(self) -> None:
        """Take the namespaces away, and all that is in them."""
        for name in (*NUMBERS, "r"):
            subprocess.run(["ip", "netns", "del", self._namespace(name)], check=False)

    def write_settings(self, shaping: str, *impairments: dict[str, Any]) -> None:
        """Write the router's settings for all three hosts, which takes effect at its next start."""
        gateways = [{"subnet": subnet(host), "address": f"10.99.{number}.1"} for host, number in NUMBERS.items()]
        content = {"router": "router-test", "gateways": gateways, "routes": [], "shaping": shaping}
        self._settings.write_text(json.dumps(content | {"impairments": impairments}))

    def start_router(self, path: str | None = None) -> subprocess.Popen[str]:
        """Start the router program, with another search path for its commands if given."""
        environment: Mapping[str, str] = os.environ | ({} if path is None else {"PATH": path})
        self._state.unlink(missing_ok=True)
        program = [sys.executable, str(ROUTER), "--settings", str(self._settings), "--state", str(self._state)]
        enter = ["nsenter", f"--net=/run/netns/{self._namespace('r')}"]
        return subprocess.Popen([*enter, *program], env=environment, stderr=subprocess.PIPE, text=True)

    def state(self, timeout_s: float = 20.0) -> dict[str, Any]:
        """Wait for the router's state file and forget it, so that the next call waits for the next start's."""
        end_s = time.monotonic() + timeout_s
        while not self._state.exists():
            if time.monotonic() > end_s:
                raise TimeoutError(f"the router has written no state within {timeout_s:g} s")
            time.sleep(0.02)
        content: dict[str, Any] = json.loads(self._state.read_text())
        self._state.unlink()
        return content

    def in_router(self, *command: str) -> str:
        """Run a command in the router's namespace and return its output."""
        return _run("ip", "netns", "exec", self._namespace("r"), *command)

    def rtts_ms(self, source: str, target: str, count: int = 15) -> list[float]:
        """Ping and return the round-trip time of each answer; the first one, which waits for ARP, is left out."""
        address = f"10.99.{NUMBERS[target]}.10"
        command = ["ip", "netns", "exec", self._namespace(source), "ping", "-n", "-i", "0.1", "-W", "1", address]
        done = subprocess.run([*command, "-c", str(count + 1)], capture_output=True, text=True, timeout=60, check=False)
        return [
            float(rtt) for number, rtt in re.findall(r"icmp_seq=(\d+) .*time=([\d.]+) ms", done.stdout) if number != "1"
        ]

    def median_rtt_ms(self, source: str, target: str) -> float:
        """Return the median round-trip time; infinite when nothing answers."""
        return statistics.median(self.rtts_ms(source, target) or [float("inf")])

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}`: {done.stderr.strip()}")
    return done.stdout
