"""Which subnet each network of a testbed gets, and which host port each listener: always the same for the same names.

Whether they are free on this machine is for the runtime to see; it tries the candidates in their order.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Network
from typing import Final

SITE_PREFIX: Final = 24
WAN_PREFIX: Final = 29
CANDIDATE_PREFIX: Final = 16
FIRST_HOST_PORT: Final = 20_000
HOST_PORTS: Final = 10_000


class SubnetTooSmallError(ValueError):
    """The given subnet cannot hold the testbed's networks; the text says what it would take."""


@dataclass(frozen=True)
class Allocation:
    """The subnets of a testbed, by the names they were asked for."""

    access: IPv4Network
    sites: dict[str, IPv4Network]
    wans: dict[str, IPv4Network]


def allocate(base: IPv4Network, sites: Sequence[str], wans: Sequence[str]) -> Allocation:
    """Cut `base` up: the lower half into /24 for access and sites, the upper half into /29 for WAN links.

    The halves keep a WAN link's subnet the same when a site is added. Raises SubnetTooSmallError.
    """
    needed = _longest_prefix(len(sites), len(wans))
    if base.prefixlen > needed:
        told = f"{base} is too small for {len(sites)} sites and {len(wans)} WAN links: at least a /{needed}"
        raise SubnetTooSmallError(told)
    lower, upper = base.subnets(prefixlen_diff=1)
    site_subnets = lower.subnets(new_prefix=SITE_PREFIX)
    access = next(site_subnets)
    wan_subnets = upper.subnets(new_prefix=WAN_PREFIX)
    return Allocation(
        access,
        dict(zip(sites, site_subnets, strict=False)),
        dict(zip(wans, wan_subnets, strict=False)),
    )


def _longest_prefix(sites: int, wans: int) -> int:
    prefix = SITE_PREFIX - 1
    while 2 ** (SITE_PREFIX - prefix - 1) < sites + 1 or 2 ** (WAN_PREFIX - prefix - 1) < wans:
        prefix -= 1
    return prefix


def candidate_subnets(name: str) -> Iterator[IPv4Network]:
    """Yield every 10.X.0.0/16 once, in an order that follows from the testbed's name."""
    start = _digest(name) % 256
    for step in range(256):
        yield IPv4Network((f"10.{(start + step * 37) % 256}.0.0", CANDIDATE_PREFIX))


def candidate_ports(name: str, listeners: Sequence[str]) -> Iterator[dict[str, int]]:
    """Yield blocks of consecutive host ports for the listeners, in an order that follows from the testbed's name."""
    blocks = HOST_PORTS // max(1, len(listeners))
    start = _digest(name) % blocks
    for step in range(blocks):
        first = FIRST_HOST_PORT + (start + step) % blocks * len(listeners)
        yield {listener: first + index for index, listener in enumerate(listeners)}


def _digest(name: str) -> int:
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Clash:
    """A wanted subnet that somebody else has; as text, a sentence that names the owner."""

    wanted: IPv4Network
    owner: str
    network: IPv4Network

    def __str__(self) -> str:
        return f"subnet {self.wanted} overlaps {self.network}, which belongs to {self.owner}"


def check_clashes(wanted: Iterable[IPv4Network], existing: Iterable[tuple[str, IPv4Network]]) -> list[Clash]:
    """Every wanted subnet that overlaps an existing one, given as (owner, network)."""
    known = list(existing)
    return [Clash(mine, owner, other) for mine in wanted for owner, other in known if mine.overlaps(other)]
