"""Where a testbed goes on this machine: its addresses and host ports, chosen once and kept until `down`.

What the description fixes is taken as it is, and a clash is an error that names the owner; what follows from the
testbed's name moves on to the next candidate until it is free.
"""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

from topology.addresses import Clash, candidate_ports, candidate_subnets, check_clashes
from topology.engine import Engine
from topology.errors import SubnetClash, TestbedError
from topology.model import TestbedDescription
from topology.planned_access import OPERATOR_LISTENER

ROUTES = Path("/proc/net/route")


def choose_subnet(engine: Engine, description: TestbedDescription, name: str) -> IPv4Network:
    """Return a free network for all subnets of the testbed; raises SubnetClash naming whose a fixed one is."""
    taken = list(_taken(engine, name))
    if description.subnet is not None:
        clashes = check_clashes([description.subnet], taken)
        if clashes:
            raise SubnetClash(_explained(clashes))
        return description.subnet
    clashes = []
    for candidate in candidate_subnets(name):
        found = check_clashes([candidate], taken)
        if not found:
            return candidate
        clashes += found
    raise SubnetClash(_explained(clashes[:3]))


def choose_ports(description: TestbedDescription, name: str, remote: bool) -> dict[str, int]:
    """Return a free host port for every listener; raises TestbedError naming a fixed port that is taken."""
    for listener, port in description.ports.items():
        if not remote and not _is_free(port):
            raise TestbedError(
                f"port {port} of 127.0.0.1, which the description fixes for {listener}, is in use: stop what listens "
                f"there (`ss -ltnp sport = :{port}` names it), or change `ports` in the description"
            )
    nodes = [site.node for region in description.regions.values() for site in region.sites.values()]
    listeners = [*nodes, OPERATOR_LISTENER]
    fixed = set(description.ports.values())
    for ports in candidate_ports(name, listeners):
        if not fixed & set(ports.values()) and (remote or all(_is_free(port) for port in ports.values())):
            return ports
    raise TestbedError("no block of free ports is left between 20000 and 29999 on 127.0.0.1")


def _taken(engine: Engine, name: str) -> Iterator[tuple[str, IPv4Network]]:
    """Every network that the testbed must keep clear of, with its owner; the testbed's own do not count."""
    own: list[IPv4Network] = []
    for network in engine.networks():
        if network.testbed == name:
            own += network.subnets
            continue
        owner = f"testbed {network.testbed}" if network.testbed else "somebody else"
        yield from ((f"the Docker network {network.name} of {owner}", subnet) for subnet in network.subnets)
    for device, route in _host_routes():
        if not any(route.subnet_of(subnet) for subnet in own):
            yield f"a route of this machine through {device}", route


def _host_routes() -> Iterator[tuple[str, IPv4Network]]:
    """This machine's routes but the default one; none where the kernel does not show them."""
    if not ROUTES.exists():
        return
    for line in ROUTES.read_text().splitlines()[1:]:
        device, destination, _gateway, _flags, _count, _use, _metric, mask = line.split()[:8]
        address, netmask = (int.from_bytes(bytes.fromhex(text), "little") for text in (destination, mask))
        if netmask:
            yield device, IPv4Network((address & netmask, netmask.bit_count()))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _explained(clashes: list[Clash]) -> str:
    sentences = "; ".join(map(str, clashes))
    return f"{sentences}. Remove the owner, or set another `subnet` in the description"
