"""Whether a description that has the right shape also makes sense: names, links, policies, ports and reachability.

Every check reports all it finds as problems with the path of keys that leads to the place; where that is in a file
is for `topology.load` to say.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from pydantic import TypeAdapter, ValidationError

from node.settings import SaeId
from topology.addresses import SubnetTooSmallError, allocate
from topology.model import PROFILES, TestbedDescription
from topology.naming import FIRST_DEVICE_HOST, LAST_DEVICE_HOST, RESERVED_NAMES, is_host_name, is_testbed_name

Path = tuple[str | int, ...]

LONGEST_NODE_NAME: Final = 18
LONGEST_REGION_NAME: Final = 30
_SAE_ID: Final = TypeAdapter[str](SaeId)
_ODD_CHARACTER: Final = re.compile(r"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, at a path in the description; `on_key` points at the last key, not at its value."""

    path: Path
    message: str
    suggestion: str | None = None
    on_key: bool = False


def find_problems(description: TestbedDescription, *, reachability: bool = True) -> list[Problem]:
    """Everything that keeps this description from being built; empty when it can be."""
    problems = [
        *_check_names(description),
        *_check_ids(description),
        *_check_qkd_links(description),
        *_check_wan_links(description),
        *_check_policy(description),
        *_check_ports(description),
        *_check_subnet(description),
    ]
    # A dangling or misplaced link would show a second time as a node that nobody can reach.
    return list(_check_reachability(description)) if reachability and not problems else problems


def closest(word: object, known: Iterable[str]) -> str | None:
    """What was probably meant by `word`, if anything known comes near."""
    return next(iter(get_close_matches(str(word), list(known), n=1, cutoff=0.5)), None)


def _check_names(description: TestbedDescription) -> Iterator[Problem]:
    if not is_testbed_name(description.testbed):
        yield Problem(
            ("testbed",),
            f'"{description.testbed}" cannot name a testbed: 1 to 20 of a-z, 0-9 and "-", first a letter',
        )
    if not description.regions:
        yield Problem(("regions",), "there are no regions")
    sites: dict[str, str] = {}
    for name, region in description.regions.items():
        here: Path = ("regions", name)
        yield from _check_host_name(here, "a region", name, LONGEST_REGION_NAME, on_key=True)
        if not region.sites:
            yield Problem(here, f'region "{name}" has no sites, so no node', on_key=True)
        for site in region.sites:
            there = (*here, "sites", site)
            yield from _check_host_name(there, "a site", site, LONGEST_REGION_NAME, on_key=True)
            if site in sites:
                yield Problem(there, f'region "{sites[site]}" has a site "{site}" already', on_key=True)
            sites.setdefault(site, name)


def _check_host_name(path: Path, what: str, name: str, longest: int, *, on_key: bool) -> Iterator[Problem]:
    if not is_host_name(name, longest):
        rule = f'1 to {longest} of a-z, 0-9 and "-", first a letter, last not "-"'
        yield Problem(path, f'"{name}" cannot name {what}: {rule}', on_key=on_key)


def _check_ids(description: TestbedDescription) -> Iterator[Problem]:
    holders: dict[str, str] = {}
    for region_name, region in description.regions.items():
        for site_name, site in region.sites.items():
            here: Path = ("regions", region_name, "sites", site_name)
            yield from _check_node_name((*here, "node"), site.node)
            for place, sae in [
                ((*here, "node"), site.node),
                *(((*here, "saes", i), s) for i, s in enumerate(site.saes)),
            ]:
                yield from _check_sae_id(place, sae)
                what = "node" if place[-1] == "node" else "SAE"
                if sae in holders:
                    yield Problem(place, f'{what} "{sae}" is a duplicate: {holders[sae]} has this ID already')
                holders.setdefault(sae, f'a {what} at site "{site_name}"')


def _check_node_name(path: Path, node: str) -> Iterator[Problem]:
    yield from _check_host_name(path, "a node", node, LONGEST_NODE_NAME, on_key=False)
    if node in RESERVED_NAMES or node.startswith("router-") or "-to-" in node:
        yield Problem(path, f'"{node}" cannot name a node: the testbed gives such names to its own containers')


def _check_sae_id(path: Path, sae: str) -> Iterator[Problem]:
    try:
        _SAE_ID.validate_python(sae)
    except ValidationError:
        odd = _ODD_CHARACTER.search(sae)
        why = f"the character {odd[0]!r} may not stand in a URI" if odd else f"it has {len(sae)} characters"
        yield Problem(path, f'"{sae}" cannot be an SAE ID: {why}; allowed are 1 to 64 characters of RFC 3986')


def _check_ends(path: Path, between: tuple[str, str], nodes: Sequence[str]) -> Iterator[Problem]:
    for index, node in enumerate(between):
        if node not in nodes:
            yield Problem((*path, "between", index), f'there is no node "{node}"', closest(node, nodes))
    if between[0] == between[1]:
        yield Problem((*path, "between"), f'"{between[0]}" is linked to itself')


def _check_repeats(places: Iterable[tuple[Path, tuple[str, str]]], what: str, *, ordered: bool) -> Iterator[Problem]:
    seen: set[tuple[str, ...]] = set()
    for path, pair in places:
        key = tuple(pair if ordered else sorted(pair))
        if key in seen:
            yield Problem(path, f"{what} between {pair[0]} and {pair[1]} is there twice")
        seen.add(key)


def _check_qkd_links(description: TestbedDescription) -> Iterator[Problem]:
    regions = description.regions_of_nodes()
    for name, region in description.regions.items():
        places: list[tuple[Path, tuple[str, str]]] = []
        ends: list[str] = []
        for index, link in enumerate(region.qkd_links):
            here: Path = ("regions", name, "qkd_links", index)
            places.append(((*here, "between"), link.between))
            ends.extend(link.between)
            yield from _check_ends(here, link.between, list(regions))
            for position, node in enumerate(link.between):
                if regions.get(node, name) != name:
                    told = f'"{node}" is in region "{regions[node]}", and QKD links stay inside one; use wan_links'
                    yield Problem((*here, "between", position), told)
            if link.profile not in PROFILES:
                told = f'there is no device profile "{link.profile}"; known: {", ".join(PROFILES)}'
                yield Problem((*here, "profile"), told, closest(link.profile, PROFILES))
        yield from _check_repeats(places, "the QKD link", ordered=False)
        crowded = {node for node in ends if ends.count(node) > LAST_DEVICE_HOST - FIRST_DEVICE_HOST + 1}
        for node in sorted(crowded):
            yield Problem(("regions", name, "qkd_links"), f'"{node}" has more QKD links than its site has addresses')


def _check_wan_links(description: TestbedDescription) -> Iterator[Problem]:
    regions = description.regions_of_nodes()
    arrivals: set[tuple[str, str]] = set()
    # A misspelt region among those that trust each other is reported where it stands, not at every link.
    trust_is_known = not any(_check_policy(description))
    for index, link in enumerate(description.wan_links):
        here: Path = ("wan_links", index)
        yield from _check_ends(here, link.between, list(regions))
        first, second = (regions.get(node) for node in link.between)
        if first is None or second is None or link.between[0] == link.between[1]:
            continue
        if first == second:
            yield Problem((*here, "between"), f'both nodes are in region "{first}"; use its qkd_links')
        elif trust_is_known and second not in description.trusted_by(first):
            yield Problem((*here, "between"), f'regions "{first}" and "{second}" do not trust each other by policy')
        for origin, node in ((first, link.between[1]), (second, link.between[0])):
            if (origin, node) in arrivals and first != second:
                told = f'region "{origin}" has a WAN link to "{node}" already: routers cannot tell two such links apart'
                yield Problem((*here, "between"), told)
            arrivals.add((origin, node))


def _check_policy(description: TestbedDescription) -> Iterator[Problem]:
    if description.policy.trust != "all":
        yield from _check_pairs("trust", description.policy.trust, list(description.regions), "region")
    if description.policy.sae_pairs != "all":
        yield from _check_pairs("sae_pairs", description.policy.sae_pairs, list(description.nodes_of_saes()), "SAE")


def _check_pairs(key: str, pairs: Sequence[tuple[str, str]], known: Sequence[str], what: str) -> Iterator[Problem]:
    for index, pair in enumerate(pairs):
        for position, name in enumerate(pair):
            if name not in known:
                yield Problem(("policy", key, index, position), f'there is no {what} "{name}"', closest(name, known))
        if pair[0] == pair[1]:
            yield Problem(("policy", key, index), f'"{pair[0]}" is paired with itself')
    places = [(("policy", key, index), pair) for index, pair in enumerate(pairs)]
    yield from _check_repeats(places, f"the pair of {what}s", ordered=what == "SAE")


def _check_ports(description: TestbedDescription) -> Iterator[Problem]:
    nodes = list(description.regions_of_nodes())
    holders: dict[int, str] = {}
    for node, port in description.ports.items():
        here: Path = ("ports", node)
        if node not in nodes:
            yield Problem(here, f'there is no node "{node}"', closest(node, nodes), on_key=True)
        if not 1 <= port <= 65535:
            yield Problem(here, f"{port} is not a port: 1 to 65535")
        elif port in holders:
            yield Problem(here, f'port {port} is given to "{holders[port]}" already')
        holders.setdefault(port, node)


def _check_subnet(description: TestbedDescription) -> Iterator[Problem]:
    subnet = description.subnet
    if subnet is None:
        return
    if not subnet.is_private or subnet.is_loopback or subnet.is_link_local:
        told = f"{subnet} is not private: take one inside 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
        yield Problem(("subnet",), told)
    sites = [site for region in description.regions.values() for site in region.sites]
    try:
        allocate(subnet, sites, [f"{index}" for index in range(len(description.wan_links))])
    except SubnetTooSmallError as error:
        yield Problem(("subnet",), str(error))


def _check_reachability(description: TestbedDescription) -> Iterator[Problem]:
    island = _islands(description)
    nodes, regions = description.nodes_of_saes(), description.regions_of_nodes()
    reported: set[tuple[str, str]] = set()
    for path, master, slave in _exchanging_pairs(description):
        first, second = nodes[master], nodes[slave]
        why = None
        if island[first] != island[second]:
            why, pair = f"no links lead from {first} to {second}", (island[first], island[second])
        elif regions[first] != regions[second] and regions[second] not in description.trusted_by(regions[first]):
            told = f'regions "{regions[first]}" and "{regions[second]}" do not trust each other'
            why, pair = told, (regions[first], regions[second])
        if why is None or (not path[1:] and tuple(sorted(pair)) in reported):
            continue
        reported.add((min(pair), max(pair)))
        where = path if path[1:] else _place_of(description, second)
        yield Problem(where, f'SAEs "{master}" and "{slave}" may exchange keys by policy, but {why}')


def _exchanging_pairs(description: TestbedDescription) -> Iterator[tuple[Path, str, str]]:
    if description.policy.sae_pairs != "all":
        for index, (master, slave) in enumerate(description.policy.sae_pairs):
            yield ("policy", "sae_pairs", index), master, slave
        return
    # One SAE speaks for all at its node.
    spokesmen = list({node: sae for sae, node in reversed(description.nodes_of_saes().items())}.values())[::-1]
    for index, slave in enumerate(spokesmen):
        yield from ((("policy",), master, slave) for master in spokesmen[:index])


def _place_of(description: TestbedDescription, node: str) -> Path:
    for name, region in description.regions.items():
        for site, members in region.sites.items():
            if members.node == node:
                return ("regions", name, "sites", site, "node")
    return ("regions",)


def _islands(description: TestbedDescription) -> dict[str, str]:
    """For each node, the name of one node that stands for all it can reach."""
    island = {node: node for node in description.regions_of_nodes()}
    links = [link.between for region in description.regions.values() for link in region.qkd_links]
    for first, second in [*links, *(link.between for link in description.wan_links)]:
        merged, gone = island[first], island[second]
        island = {node: merged if name == gone else name for node, name in island.items()}
    return island
