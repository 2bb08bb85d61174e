"""From a checked description to a complete plan. Pure: the same arguments always give the same plan.

What the routers are told is in `topology.planned_routers`; subnets come from `topology.addresses`.
"""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Final

from emulators.settings import SETTINGS_PATH as DEVICE_SETTINGS_PATH
from emulators.settings import EmulatedDeviceSettings, ProfileSettings
from node.settings import SETTINGS_PATH as NODE_SETTINGS_PATH
from node.settings import DeviceSettings, LinkKind, NeighbourSettings, NodeSettings
from topology import naming
from topology.addresses import allocate
from topology.layout import Layout, QkdEnd
from topology.model import PROFILES, QkdLink, TestbedDescription
from topology.naming import Kind, full_name
from topology.plan import (
    Attachment,
    AuthorityRef,
    CertificatePlan,
    CertificateRef,
    CertificateRole,
    ContainerPlan,
    LinkPlan,
    Mount,
    NetworkPlan,
    NodeAccess,
    Plan,
    PlannedFile,
    RequestedImpairment,
    SaePlan,
    SeedRef,
    VolumePlan,
)
from topology.planned_access import access_container, node_access
from topology.planned_routers import router_container

# The user that nodes and devices run as in their images.
APPLICATION_UID: Final = 10001
# Docker must not take the gateway's address for the host, nor hide who sends: both belong to the router.
ROUTED_NETWORK_OPTIONS: Final = {
    "com.docker.network.bridge.inhibit_ipv4": "true",
    "com.docker.network.bridge.enable_ip_masquerade": "false",
}
OPERATOR: Final = "operator"


def make_plan(
    description: TestbedDescription,
    name: str,
    subnet_base: IPv4Network,
    lit_at: float,
    host_ports: Mapping[str, int] | None = None,
) -> Plan:
    """Plan the testbed `name` inside `subnet_base`, with fibres in operation since `lit_at` (Unix time).

    `host_ports` gives host ports by listener: `kmstn1` is the SAE API of a node, `kmstn1/operator` its operator API;
    the description's own `ports` come first. Raises ValueError for a bad name, SubnetTooSmallError.
    """
    if not naming.is_testbed_name(name):
        raise ValueError(f'"{name}" cannot name a testbed: 1 to 20 of a-z, 0-9 and "-", first a letter')
    layout = lay_out(description, name, subnet_base)
    access = node_access(layout, {**(host_ports or {}), **description.ports})
    return Plan(
        testbed=name,
        shaping=description.shaping,
        subnet=subnet_base,
        networks=_networks(layout),
        volumes=tuple(VolumePlan(name, plain, full_name(name, plain)) for plain in (*layout.sites, *layout.ends)),
        containers=_containers(layout, lit_at, access),
        certificates=_certificates(layout),
        links=_links(layout),
        saes=tuple(
            SaePlan(sae, site.node, site.region, site.name) for site in layout.sites.values() for sae in site.saes
        ),
        access=access,
        hosts=layout.hosts(),
        allowed_pairs=None if description.policy.sae_pairs == "all" else tuple(description.policy.sae_pairs),
    )


def lay_out(description: TestbedDescription, name: str, subnet_base: IPv4Network) -> Layout:
    """Give every site and WAN link of the description its subnet; raises SubnetTooSmallError."""
    sites = [site for region in description.regions.values() for site in region.sites]
    wans = [naming.link_name(*link.between) for link in description.wan_links]
    return Layout.of(description, name, allocate(subnet_base, sites, wans))


def _networks(layout: Layout) -> tuple[NetworkPlan, ...]:
    def network(plain: str, kind: Kind, subnet: IPv4Network) -> NetworkPlan:
        return NetworkPlan(
            layout.testbed,
            plain,
            full_name(layout.testbed, plain),
            kind,
            subnet,
            subnet[1],
            None,
            ROUTED_NETWORK_OPTIONS,
        )

    access = network(naming.ACCESS_NETWORK, Kind.ACCESS_NET, layout.subnets.access)
    sites = (network(naming.site_network(s.name), Kind.SITE, s.subnet) for s in layout.sites.values())
    wans = (network(naming.wan_network(w), Kind.WAN, subnet) for w, subnet in layout.subnets.wans.items())
    return (
        replace(access, gateway=None, options={}),
        # The third quarter of a site's subnet is for containers that somebody attaches.
        *(replace(site, dynamic_range=list(site.subnet.subnets(2))[2]) for site in sites),
        *wans,
    )


def _containers(layout: Layout, lit_at: float, access: tuple[NodeAccess, ...]) -> tuple[ContainerPlan, ...]:
    routers = (router_container(layout, region) for region in layout.description.regions)
    devices = (_device_container(layout, end, lit_at) for end in layout.ends.values())
    nodes = (_node_container(layout, node) for node in layout.sites)
    return (*routers, *devices, *nodes, access_container(layout, access))


def _identity(folder: str, role: CertificateRole, name: str, domains: tuple[str, ...]) -> tuple[PlannedFile, ...]:
    own = domains[0]
    return (
        PlannedFile(f"{folder}/tls.crt", CertificateRef(own, role, name, "certificate"), 0o644, APPLICATION_UID),
        PlannedFile(f"{folder}/tls.key", CertificateRef(own, role, name, "key"), 0o400, APPLICATION_UID),
        *(
            PlannedFile(f"{folder}/domains/{domain}.crt", AuthorityRef(domain), 0o644, APPLICATION_UID)
            for domain in domains
        ),
    )


def _node_container(layout: Layout, node: str) -> ContainerPlan:
    site = layout.sites[node]
    settings = node_settings(layout, node)
    name = full_name(layout.testbed, node)
    devices = [end.device for end in layout.ends.values() if end.node == node]
    known = {*devices, *(neighbour.node for neighbour in settings.neighbours)}
    identity = str(settings.identity_dir)
    return ContainerPlan(
        testbed=layout.testbed,
        plain_name=node,
        name=name,
        kind=Kind.NODE,
        image="node",
        networks=(_leg(layout, site.name, layout.address(node)),),
        region=site.region,
        site=site.name,
        files=(
            PlannedFile(str(NODE_SETTINGS_PATH), _json(settings), 0o644, APPLICATION_UID),
            *_identity(identity, "node", node, (site.region, *settings.trusted_domains)),
        ),
        volumes=(Mount(name, str(settings.state_dir)),),
        extra_hosts={host: address for host, address in layout.hosts().items() if host in known},
        depends=(naming.router_name(site.region), *devices),
    )


def node_settings(layout: Layout, node: str) -> NodeSettings:
    """What one node is told at its start."""
    site, description = layout.sites[node], layout.description
    pairs = description.policy.sae_pairs
    mine = None if pairs == "all" else tuple(pair for pair in pairs if set(pair) & set(site.saes))
    qkd = (_qkd_neighbour(layout, end) for end in layout.ends.values() if end.node == node)
    wan = (
        _neighbour(layout, link.between, node, LinkKind.WAN, link.delay)
        for link in description.wan_links
        if node in link.between
    )
    return NodeSettings(
        node=node,
        domain=site.region,
        site=site.name,
        saes=site.saes,
        neighbours=(*qkd, *wan),
        trusted_domains=description.trusted_by(site.region),
        allowed_pairs=mine,
        delivery=description.delivery,
        pool=description.pool,
        keys=description.keys,
        kem_provider=description.kem_provider,
        sealing=description.sealing,
        suites=tuple(description.suites),
    )


def _qkd_neighbour(layout: Layout, end: QkdEnd) -> NeighbourSettings:
    plain = _neighbour(layout, end.link.between, end.node, LinkKind.QKD, end.delay_ms)
    device = DeviceSettings(name=end.device, url=f"https://{end.device}:8443")
    return plain.model_copy(update={"device": device})


def _neighbour(
    layout: Layout, between: tuple[str, str], node: str, kind: LinkKind, delay_ms: float
) -> NeighbourSettings:
    other = between[1] if node == between[0] else between[0]
    return NeighbourSettings(
        node=other,
        domain=layout.sites[other].region,
        url=f"https://{other}:8020",
        link=naming.link_name(*between),
        kind=kind,
        # A hop costs 1 for the work at its node and 1 for each millisecond on the way.
        cost=1 + round(delay_ms),
    )


def _device_container(layout: Layout, end: QkdEnd, lit_at: float) -> ContainerPlan:
    site = layout.sites[end.node]
    settings = EmulatedDeviceSettings(
        device=end.device,
        domain=site.region,
        link=end.link_name,
        end=end.end,
        node=end.node,
        peer_device=naming.device_name(end.peer, end.node),
        peer_node=end.peer,
        lit_at=lit_at,
        profile=_profile(end.link),
    )
    name = full_name(layout.testbed, end.device)
    return ContainerPlan(
        testbed=layout.testbed,
        plain_name=end.device,
        name=name,
        kind=Kind.DEVICE,
        image="device",
        networks=(_leg(layout, site.name, layout.address(end.device)),),
        region=site.region,
        site=site.name,
        files=(
            PlannedFile(str(DEVICE_SETTINGS_PATH), _json(settings), 0o644, APPLICATION_UID),
            *_identity(str(settings.identity_dir), "device", end.device, (site.region,)),
            PlannedFile(str(settings.fibre_seed_path), SeedRef(end.link_name), 0o400, APPLICATION_UID),
        ),
        volumes=(Mount(name, str(settings.state_dir)),),
        depends=(naming.router_name(site.region),),
    )


def _profile(link: QkdLink) -> ProfileSettings:
    profile = PROFILES[link.profile]
    if link.secret_key_rate is None:
        return profile
    return profile.model_copy(update={"secret_key_rate_bps": link.secret_key_rate})


def _leg(layout: Layout, site: str, address: str) -> Attachment:
    return layout.leg(naming.site_network(site), address)


def _json(settings: NodeSettings | EmulatedDeviceSettings) -> bytes:
    return settings.model_dump_json(indent=1).encode() + b"\n"


def _certificates(layout: Layout) -> tuple[CertificatePlan, ...]:
    def server(domain: str, role: CertificateRole, plain: str) -> CertificatePlan:
        names = (plain, full_name(layout.testbed, plain), "localhost")
        return CertificatePlan(domain, role, plain, names, ("127.0.0.1",))

    sites = layout.sites.values()
    return (
        *(server(site.region, "node", site.node) for site in sites),
        *(server(layout.sites[end.node].region, "device", end.device) for end in layout.ends.values()),
        *(CertificatePlan(site.region, "sae", sae) for site in sites for sae in site.saes),
        *(CertificatePlan(region, "operator", OPERATOR) for region in layout.description.regions),
    )


def _links(layout: Layout) -> tuple[LinkPlan, ...]:
    return (*(_site_link(layout, end) for end in layout.ends.values() if end.end == "a"), *_wan_links(layout))


def _site_link(layout: Layout, end: QkdEnd) -> LinkPlan:
    router = naming.router_name(layout.sites[end.node].region)
    addresses = (layout.ip(end.node), layout.ip(end.peer))
    requested = RequestedImpairment(end.delay_ms)
    return LinkPlan(end.link_name, "site", end.link.between, (router, router), addresses, requested)


def _wan_links(layout: Layout) -> tuple[LinkPlan, ...]:
    return tuple(
        LinkPlan(
            name=naming.link_name(*link.between),
            kind="wan",
            between=link.between,
            routers=layout.routers_of(link),
            addresses=layout.wan_addresses(link),
            requested=RequestedImpairment(link.delay, link.jitter, link.loss, link.rate),
        )
        for link in layout.description.wan_links
    )
