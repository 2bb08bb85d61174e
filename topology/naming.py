"""What everything in a testbed is called: containers, networks, volumes, labels, and the host numbers on a network.

A plain name is what the description and the standards say (`kmstn1`); the full name puts the testbed before it, so
that several testbeds can run side by side on one engine.
"""

import re
from enum import StrEnum
from typing import Final

LABEL_TESTBED: Final = "kmstn.testbed"
LABEL_KIND: Final = "kmstn.kind"
LABEL_NAME: Final = "kmstn.name"
LABEL_SPEC: Final = "kmstn.spec"

# Host numbers on a site's /24. The gateway belongs to the router, which adds it to its own leg.
GATEWAY_HOST: Final = 1
NODE_HOST: Final = 10
FIRST_DEVICE_HOST: Final = 20
LAST_DEVICE_HOST: Final = 119
ACCESS_HOST: Final = 250
LOAD_HOST: Final = 251
ROUTER_HOST: Final = 254
# On the /29 between two routers, in the order of the link's ends.
WAN_HOSTS: Final = (2, 3)

LONGEST_TESTBED_NAME: Final = 20

ACCESS: Final = "access"
LOAD: Final = "load"
ACCESS_NETWORK: Final = "access-net"
RESERVED_NAMES: Final = frozenset({ACCESS, LOAD, ACCESS_NETWORK, "localhost"})


class Kind(StrEnum):
    """What a labelled thing is; the value of the label `kmstn.kind`."""

    NODE = "node"
    DEVICE = "device"
    ROUTER = "router"
    ACCESS = "access"
    LOAD = "load"
    SITE = "site"
    WAN = "wan"
    ACCESS_NET = "access-net"
    VOLUME = "volume"


def full_name(testbed: str, plain_name: str) -> str:
    """The name that Docker knows a container, network or volume by."""
    return f"{testbed}-{plain_name}"


def device_name(node: str, peer: str) -> str:
    """The QKD device that stands beside `node` and serves the link to `peer`."""
    return f"{node}-to-{peer}"


def link_name(first: str, second: str) -> str:
    """The name of a link, in the order in which the description gives its ends."""
    return f"{first}-{second}"


def router_name(region: str) -> str:
    """The one router of a region."""
    return f"router-{region}"


def site_network(site: str) -> str:
    """The network of one trusted site."""
    return f"site-{site}"


def wan_network(link: str) -> str:
    """The point-to-point network of one WAN link."""
    return f"wan-{link}"


def labels(testbed: str, kind: Kind, plain_name: str, spec: str) -> dict[str, str]:
    """The labels by which a testbed's things are found again; `spec` tells whether one is still as planned."""
    return {LABEL_TESTBED: testbed, LABEL_KIND: kind.value, LABEL_NAME: plain_name, LABEL_SPEC: spec}


def is_host_name(name: str, longest: int) -> bool:
    """Whether `name` can be part of the host names that a testbed uses."""
    return len(name) <= longest and re.fullmatch(r"[a-z](?:[a-z0-9-]*[a-z0-9])?", name, re.ASCII) is not None


def is_testbed_name(name: str) -> bool:
    """Whether `name` can name a testbed; with the longest node names a device still has a valid host name."""
    return is_host_name(name, LONGEST_TESTBED_NAME)
