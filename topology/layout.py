"""A description turned to look at: sites by node, link ends by device, and the address of each.

An intermediate of `topology.planner`, kept apart so that what asks "where is that?" has one place to ask.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final, Literal

from topology import naming
from topology.addresses import Allocation
from topology.model import QkdLink, TestbedDescription, WanLink
from topology.plan import Attachment

# The group index of standard single-mode fibre, about 1.468, over the speed of light.
FIBRE_DELAY_MS_PER_KM: Final = 0.0049


@dataclass(frozen=True)
class SitePlace:
    """A site with its region, its node and its subnet."""

    name: str
    region: str
    node: str
    saes: tuple[str, ...]
    subnet: IPv4Network


@dataclass(frozen=True)
class QkdEnd:
    """One end of a QKD link: the device beside `node` that faces the one beside `peer`."""

    device: str
    node: str
    peer: str
    end: Literal["a", "b"]
    link: QkdLink
    host: int

    @property
    def link_name(self) -> str:
        """The link's name, the same at both ends."""
        return naming.link_name(*self.link.between)

    @property
    def delay_ms(self) -> float:
        """What light takes through the link's fibre, one way."""
        return round(self.link.fibre_km * FIBRE_DELAY_MS_PER_KM, 4)


@dataclass(frozen=True)
class Layout:
    """Where everything is: `sites` by node, `ends` by device."""

    description: TestbedDescription
    testbed: str
    subnets: Allocation
    sites: Mapping[str, SitePlace]
    ends: Mapping[str, QkdEnd]

    @classmethod
    def of(cls, description: TestbedDescription, testbed: str, subnets: Allocation) -> "Layout":
        """Lay out a description that has been checked."""
        sites = {
            site.node: SitePlace(name, region, site.node, tuple(site.saes), subnets.sites[name])
            for region, members in description.regions.items()
            for name, site in members.sites.items()
        }
        return cls(description, testbed, subnets, sites, _qkd_ends(description))

    def ip(self, plain_name: str) -> IPv4Address:
        """The address of a node or device on its site's network; raises KeyError for any other name."""
        if plain_name in self.sites:
            return self.sites[plain_name].subnet[naming.NODE_HOST]
        end = self.ends[plain_name]
        return self.sites[end.node].subnet[end.host]

    def address(self, plain_name: str) -> str:
        """The same as text."""
        return str(self.ip(plain_name))

    def hosts(self) -> dict[str, str]:
        """The address of each node and device."""
        return {name: self.address(name) for name in (*self.sites, *self.ends)}

    def leg(self, plain_network: str, address: str | IPv4Address) -> Attachment:
        """An attachment to one of the testbed's networks."""
        return Attachment(naming.full_name(self.testbed, plain_network), IPv4Address(address))

    def sites_of(self, region: str) -> list[SitePlace]:
        """The sites of a region, in the description's order."""
        return [site for site in self.sites.values() if site.region == region]

    def wan_subnet(self, link: WanLink) -> IPv4Network:
        """The network between the link's two routers."""
        return self.subnets.wans[naming.link_name(*link.between)]

    def wan_addresses(self, link: WanLink) -> tuple[IPv4Address, IPv4Address]:
        """The addresses of the link's two routers on it, in the order of its ends."""
        subnet = self.wan_subnet(link)
        return subnet[naming.WAN_HOSTS[0]], subnet[naming.WAN_HOSTS[1]]

    def regions_at(self, link: WanLink) -> tuple[str, str]:
        """The regions that a WAN link joins."""
        return self.sites[link.between[0]].region, self.sites[link.between[1]].region

    def routers_of(self, link: WanLink) -> tuple[str, str]:
        """The routers at the two ends of a WAN link."""
        first, second = self.regions_at(link)
        return naming.router_name(first), naming.router_name(second)


def _qkd_ends(description: TestbedDescription) -> dict[str, QkdEnd]:
    ends: dict[str, QkdEnd] = {}
    for region in description.regions.values():
        for link in region.qkd_links:
            first, second = link.between
            for node, peer, end in ((first, second, "a"), (second, first, "b")):
                device = naming.device_name(node, peer)
                host = naming.FIRST_DEVICE_HOST + sum(other.node == node for other in ends.values())
                ends[device] = QkdEnd(device, node, peer, "a" if end == "a" else "b", link, host)
    return ends
