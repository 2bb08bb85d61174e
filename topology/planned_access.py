"""The access container: a TCP proxy that gives each node's two APIs a port on the host, TLS passing through untouched.

Its first leg is an ordinary network, where its default route stays; the others are the site networks. It does not
forward packets, or sites would have a way around their router.
"""

from collections.abc import Mapping
from typing import Final

from topology import naming
from topology.layout import Layout
from topology.naming import Kind, full_name
from topology.plan import ContainerPlan, NodeAccess, PlannedFile, PublishedPort

CONFIGURATION_PATH: Final = "/etc/haproxy/haproxy.cfg"
FIRST_SAE_PORT: Final = 10001
FIRST_OPERATOR_PORT: Final = 20001
_HEAD: Final = """\
global
    maxconn 4096

defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"""


def operator_listener(node: str) -> str:
    """What the operator API of a node is called among the listeners; its SAE API goes by the node's own name."""
    return f"{node}/operator"


def node_access(layout: Layout, host_ports: Mapping[str, int]) -> tuple[NodeAccess, ...]:
    """Where each node's APIs come out; a listener without a host port leaves the choice to the engine."""
    return tuple(
        NodeAccess(
            node=site.node,
            region=site.region,
            sae_port=FIRST_SAE_PORT + index,
            operator_port=FIRST_OPERATOR_PORT + index,
            sae_host_port=host_ports.get(site.node),
            operator_host_port=host_ports.get(operator_listener(site.node)),
        )
        for index, site in enumerate(layout.sites.values())
    )


def access_container(layout: Layout, access: tuple[NodeAccess, ...]) -> ContainerPlan:
    """The proxy with all its listeners."""
    sites = [
        layout.leg(naming.site_network(site.name), site.subnet[naming.ACCESS_HOST]) for site in layout.sites.values()
    ]
    return ContainerPlan(
        testbed=layout.testbed,
        plain_name=naming.ACCESS,
        name=full_name(layout.testbed, naming.ACCESS),
        kind=Kind.ACCESS,
        image="access",
        networks=(layout.leg(naming.ACCESS_NETWORK, layout.subnets.access[naming.ACCESS_HOST]), *sites),
        files=(PlannedFile(CONFIGURATION_PATH, _configuration(layout, access).encode()),),
        sysctls={"net.ipv4.ip_forward": "0"},
        ports=tuple(port for item in access for port in _published(item)),
    )


def _published(item: NodeAccess) -> tuple[PublishedPort, PublishedPort]:
    return (
        PublishedPort(item.sae_port, item.sae_host_port),
        PublishedPort(item.operator_port, item.operator_host_port),
    )


def _configuration(layout: Layout, access: tuple[NodeAccess, ...]) -> str:
    listeners = [
        (f"{item.node}-{api}", port, f"{layout.address(item.node)}:{target}")
        for item in access
        for api, port, target in (("sae", item.sae_port, 8443), ("operator", item.operator_port, 8090))
    ]
    parts = [f"\nlisten {name}\n    bind :{port}\n    server node {target}\n" for name, port, target in listeners]
    return _HEAD + "".join(parts)
