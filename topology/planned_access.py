"""The access container: a TCP proxy that gives nodes ports on the host, TLS passing through untouched.

Each SAE API has a port of its own, since clients name it by an IP address. The operator APIs share one: the testbed's
own client says in its TLS hello which node it means. Publishing a port costs Docker up to half a second each way.

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
OPERATOR_PORT: Final = 20001
# Among the listeners, an SAE API goes by its node's name, and the one port of all operator APIs by this.
OPERATOR_LISTENER: Final = "operator"
_HEAD: Final = """\
global
    maxconn 4096

defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"""
_OPERATOR_FRONTEND: Final = f"""
frontend operator
    bind :{OPERATOR_PORT}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
"""


def node_access(layout: Layout, host_ports: Mapping[str, int]) -> tuple[NodeAccess, ...]:
    """Where each node's APIs come out; a listener without a host port leaves the choice to the engine."""
    return tuple(
        NodeAccess(
            node=site.node,
            region=site.region,
            sae_port=FIRST_SAE_PORT + index,
            operator_port=OPERATOR_PORT,
            sae_host_port=host_ports.get(site.node),
            operator_host_port=host_ports.get(OPERATOR_LISTENER),
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
        ports=_published(access),
    )


def _published(access: tuple[NodeAccess, ...]) -> tuple[PublishedPort, ...]:
    own = [PublishedPort(item.sae_port, item.sae_host_port) for item in access]
    return (*own, PublishedPort(OPERATOR_PORT, access[0].operator_host_port))


def _configuration(layout: Layout, access: tuple[NodeAccess, ...]) -> str:
    nodes = {item.node: layout.address(item.node) for item in access}
    parts = [
        f"\nlisten {item.node}-sae\n    bind :{item.sae_port}\n    server node {nodes[item.node]}:8443\n"
        for item in access
    ]
    named = [f"    use_backend {node}-operator if {{ req.ssl_sni -i {node} }}\n" for node in nodes]
    parts += [_OPERATOR_FRONTEND, *named]
    parts += [f"\nbackend {node}-operator\n    server node {address}:8090\n" for node, address in nodes.items()]
    return _HEAD + "".join(parts)
