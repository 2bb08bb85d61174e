"""The router's interfaces, addresses and routes.

Interfaces are known by address, since Docker gives them names in any order.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import commands

_IPV4 = Path("/proc/sys/net/ipv4")


class RouterError(Exception):
    """Why the router cannot do its work, in words for the operator."""


@dataclass(frozen=True)
class Gateway:
    """The address that the hosts of `subnet` have as their default route."""

    subnet: IPv4Network
    address: IPv4Address


@dataclass(frozen=True)
class Route:
    """Where packets for `subnet` go: to the neighbouring router at `via`."""

    subnet: IPv4Network
    via: IPv4Address


Interfaces = Mapping[str, Sequence[IPv4Interface]]


def read_interfaces() -> Interfaces:
    """Return every interface with its IPv4 addresses, as the kernel has them now."""
    return parse_interfaces(commands.run(["ip", "-json", "-4", "address", "show"]))


def parse_interfaces(listing: str) -> Interfaces:
    """Parse `ip -json -4 address show`."""
    return {
        str(entry["ifname"]): [IPv4Interface(f"{one['local']}/{one['prefixlen']}") for one in entry["addr_info"]]
        for entry in json.loads(listing or "[]")
        if entry
    }


def interface_in(subnet: IPv4Network, interfaces: Interfaces) -> str | None:
    """Return the name of the interface that has an address in `subnet`, or `subnet` in its own network."""
    for name, addresses in interfaces.items():
        if any(address.ip in subnet or subnet.subnet_of(address.network) for address in addresses):
            return name
    return None


def wait_for_interfaces(
    subnets: Iterable[IPv4Network],
    timeout_s: float = 10.0,
    read: Callable[[], Interfaces] = read_interfaces,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[IPv4Network, str]:
    """Return the interface of each subnet, waiting for networks that are connected a little after the start.

    Raises RouterError that names the subnets still missing after `timeout_s`.
    """
    wanted, end_s = sorted(set(subnets)), clock() + timeout_s
    while True:
        interfaces = read()
        found = {subnet: name for subnet in wanted if (name := interface_in(subnet, interfaces)) is not None}
        if len(found) == len(wanted):
            return found
        if clock() > end_s:
            missing = ", ".join(str(subnet) for subnet in wanted if subnet not in found)
            have = ", ".join(f"{name} {address}" for name, addresses in interfaces.items() for address in addresses)
            raise RouterError(f"no interface in {missing} after {timeout_s:g} s (there are: {have})")
        sleep(0.05)


def add_gateways(gateways: Iterable[Gateway], names: Mapping[IPv4Network, str]) -> None:
    """Give each site's interface the address that the site's hosts send to; again is the same."""
    for gateway in gateways:
        address = f"{gateway.address}/{gateway.subnet.prefixlen}"
        commands.run(["ip", "address", "replace", address, "dev", names[gateway.subnet]])


def add_routes(routes: Iterable[Route]) -> None:
    """Set the routes to the other regions; again is the same."""
    for route in routes:
        commands.run(["ip", "route", "replace", str(route.subnet), "via", str(route.via)])


def forward_packets(names: Iterable[str]) -> None:
    """See that the kernel forwards; raises RouterError when it does not and cannot be told to.

    Redirects are turned off where /proc/sys is writable. Docker mounts it read-only, and then they do no harm: a router
    of ours never sends a packet back out of the interface it came in by.
    """
    if (_IPV4 / "ip_forward").read_text().strip() != "1" and not _write(_IPV4 / "ip_forward", "1"):
        raise RouterError("IP forwarding is off: create the container with sysctl net.ipv4.ip_forward=1")
    for name in ("all", *names):
        _write(_IPV4 / "conf" / name / "send_redirects", "0")


def _write(path: Path, value: str) -> bool:
    try:
        path.write_text(value)
    except OSError:
        return False
    return True
