"""What each region's router is told: gateways of its sites, routes to the other regions, and what it does to packets.

A site at the far end of a WAN link is reached over that very link, so that what two border nodes exchange meets the
figures of their link. All other sites of other regions are reached by the shortest way in milliseconds.
"""

import json
from collections.abc import Mapping
from heapq import heappop, heappush
from ipaddress import IPv4Address
from typing import Any, Final

from topology import naming
from topology.layout import Layout, QkdEnd
from topology.model import WanLink
from topology.naming import Kind, full_name
from topology.plan import ContainerPlan, PlannedFile

SETTINGS_PATH: Final = "/etc/router/settings.json"


def router_container(layout: Layout, region: str) -> ContainerPlan:
    """The router of a region: a leg on each of its sites and on each of its WAN links."""
    name = naming.router_name(region)
    sites = [
        layout.leg(naming.site_network(site.name), site.subnet[naming.ROUTER_HOST]) for site in layout.sites_of(region)
    ]
    wans = [
        layout.leg(naming.wan_network(naming.link_name(*link.between)), layout.wan_addresses(link)[side])
        for link, side in _links_at(layout, region)
    ]
    settings = json.dumps(router_settings(layout, region), indent=1)
    return ContainerPlan(
        testbed=layout.testbed,
        plain_name=name,
        name=full_name(layout.testbed, name),
        kind=Kind.ROUTER,
        image="router",
        networks=(*sites, *wans),
        region=region,
        files=(PlannedFile(SETTINGS_PATH, settings.encode() + b"\n"),),
        capabilities=("NET_ADMIN",),
        sysctls={"net.ipv4.ip_forward": "1"},
    )


def router_settings(layout: Layout, region: str) -> dict[str, Any]:
    """The settings file of a region's router, as JSON values."""
    return {
        "router": naming.router_name(region),
        "gateways": [
            {"subnet": str(site.subnet), "address": str(site.subnet[naming.GATEWAY_HOST])}
            for site in layout.sites_of(region)
        ],
        "routes": _routes(layout, region),
        "shaping": layout.description.shaping,
        "impairments": [*_site_impairments(layout, region), *_wan_impairments(layout, region)],
    }


def _links_at(layout: Layout, region: str) -> list[tuple[WanLink, int]]:
    """The WAN links of a region, each with the side (0 or 1) that the region is on."""
    return [
        (link, layout.regions_at(link).index(region))
        for link in layout.description.wan_links
        if region in layout.regions_at(link)
    ]


def _routes(layout: Layout, region: str) -> list[dict[str, str]]:
    direct = {link.between[1 - side]: (link, side) for link, side in _links_at(layout, region)}
    shortest = _first_links(layout, region)
    routes = []
    for site in layout.sites.values():
        hop = direct.get(site.node) or shortest.get(site.region)
        if hop is not None and site.region != region:
            routes.append({"subnet": str(site.subnet), "via": str(_far_end(layout, *hop))})
    return routes


def _far_end(layout: Layout, link: WanLink, side: int) -> IPv4Address:
    return layout.wan_addresses(link)[1 - side]


def _first_links(layout: Layout, origin: str) -> Mapping[str, tuple[WanLink, int]]:
    """The first link on the shortest way from a region to each other one (Dijkstra over delays)."""
    first: dict[str, tuple[WanLink, int]] = {}
    done: set[str] = set()
    # The counter keeps equal distances in the description's order.
    queue: list[tuple[float, int, str, tuple[WanLink, int] | None]] = [(0.0, 0, origin, None)]
    count = 0
    while queue:
        distance, _, region, hop = heappop(queue)
        if region in done:
            continue
        done.add(region)
        if hop is not None:
            first[region] = hop
        for link, side in _links_at(layout, region):
            count += 1
            other = layout.regions_at(link)[1 - side]
            heappush(queue, (distance + link.delay, count, other, hop or (link, side)))
    return first


def _site_impairments(layout: Layout, region: str) -> list[dict[str, Any]]:
    return [_site_impairment(layout, end) for end in layout.ends.values() if layout.sites[end.node].region == region]


def _site_impairment(layout: Layout, end: QkdEnd) -> dict[str, Any]:
    return {
        "link": end.link_name,
        "out": str(layout.sites[end.peer].subnet),
        "src": str(layout.sites[end.node].subnet),
        "delay_ms": end.delay_ms,
        "jitter_ms": 0.0,
        "loss_percent": 0.0,
        "rate_mbps": None,
    }


def _wan_impairments(layout: Layout, region: str) -> list[dict[str, Any]]:
    return [
        {
            "link": naming.link_name(*link.between),
            "out": str(layout.wan_subnet(link)),
            "src": None,
            "delay_ms": link.delay,
            "jitter_ms": link.jitter,
            "loss_percent": link.loss,
            "rate_mbps": link.rate,
        }
        for link, _ in _links_at(layout, region)
    ]
