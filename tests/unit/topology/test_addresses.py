"""Subnets and host ports: never overlapping, stable, and a clash names its owner."""

from ipaddress import IPv4Network
from itertools import combinations, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topology.addresses import SubnetTooSmallError, allocate, candidate_ports, candidate_subnets, check_clashes


@given(
    prefix=st.integers(min_value=12, max_value=23),
    sites=st.integers(min_value=0, max_value=40),
    wans=st.integers(min_value=0, max_value=60),
)
def test_subnets_lie_inside_and_never_overlap_or_are_refused(prefix: int, sites: int, wans: int) -> None:
    base = IPv4Network(("172.16.0.0", prefix))
    names = [f"s{index}" for index in range(sites)], [f"w{index}" for index in range(wans)]
    try:
        made = allocate(base, *names)
    except SubnetTooSmallError:
        # Refused only when it truly does not fit: one half for sites and access, the other for WAN links.
        half = base.num_addresses // 2
        assert (sites + 1) * 256 > half or wans * 8 > half
        return
    subnets = [made.access, *made.sites.values(), *made.wans.values()]
    assert (list(made.sites), list(made.wans)) == names
    assert all(subnet.subnet_of(base) for subnet in subnets)
    assert not [pair for pair in combinations(subnets, 2) if pair[0].overlaps(pair[1])]


def test_one_more_site_leaves_every_other_subnet_alone() -> None:
    base = IPv4Network("10.1.0.0/16")
    before, after = allocate(base, ["a"], ["w"]), allocate(base, ["a", "b"], ["w"])
    assert (after.sites["a"], after.wans) == (before.sites["a"], before.wans)


def test_a_subnet_too_small_says_what_it_would_take() -> None:
    with pytest.raises(SubnetTooSmallError, match="at least a /20"):
        allocate(IPv4Network("10.0.0.0/24"), ["a"] * 7, ["w"] * 3)


@given(name=st.text(max_size=20))
def test_candidates_are_all_of_ten_slash_eight_once_and_stable(name: str) -> None:
    candidates = list(candidate_subnets(name))
    assert len(set(candidates)) == 256
    assert candidates == list(candidate_subnets(name))


@given(name=st.text(max_size=20), count=st.integers(min_value=1, max_value=200))
def test_candidate_ports_are_in_range_and_distinct(name: str, count: int) -> None:
    listeners = [f"n{index}" for index in range(count)]
    for ports in islice(candidate_ports(name, listeners), 3):
        assert list(ports) == listeners
        assert len(set(ports.values())) == count
        assert all(20_000 <= port < 30_000 for port in ports.values())


def test_a_clash_names_the_owner() -> None:
    existing = [("network bridge", IPv4Network("172.17.0.0/16")), ("route via eth0", IPv4Network("10.88.0.0/13"))]
    (clash,) = check_clashes([IPv4Network("10.88.1.0/24"), IPv4Network("10.99.0.0/24")], existing)
    assert str(clash) == "subnet 10.88.1.0/24 overlaps 10.88.0.0/13, which belongs to route via eth0"
