"""Routes on fixed and random graphs: they lead where they say, never in a circle, and tell other domains nothing."""

import heapq
import random
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.core.routing import Adjacency, RoutingTable
from node.wire.federation import RouteAdvert

Link = tuple[str, str]


@dataclass
class Network:
    """Nodes with their domains, links with their costs, and the routing table of each node."""

    domain_of: dict[str, str]
    cost_of: dict[Link, int]
    tables: dict[str, RoutingTable] = field(init=False)

    def __post_init__(self) -> None:
        self.tables = {
            node: RoutingTable(
                node, domain, [Adjacency(n, self.domain_of[n], self.cost(node, n)) for n in self.neighbours(node)]
            )
            for node, domain in self.domain_of.items()
        }

    def neighbours(self, node: str) -> list[str]:
        return [b if a == node else a for a, b in self.cost_of if node in (a, b)]

    def cost(self, a: str, b: str) -> int:
        return self.cost_of[(a, b) if (a, b) in self.cost_of else (b, a)]

    def settle(self, order: random.Random) -> None:
        """Exchange adverts, in another order each round, until nobody changes a route."""
        for _round in range(10 * len(self.tables)):
            before = {node: table.routes() for node, table in self.tables.items()}
            for node in order.sample(sorted(self.tables), len(self.tables)):
                for neighbour in self.neighbours(node):
                    told = self.tables[neighbour].adverts_for(self.domain_of[node])
                    self.tables[node].learn(neighbour, told)
            if before == {node: table.routes() for node, table in self.tables.items()}:
                return
        raise AssertionError("routes never settle")

    def cut(self, link: Link) -> None:
        del self.cost_of[link]
        a, b = link
        self.tables[a].lose(b)
        self.tables[b].lose(a)

    def way(self, origin: str, destination: str) -> list[str] | None:
        """Follow next hops; None without a route at the origin, AssertionError for a circle or a dead end."""
        if self.tables[origin].route(destination) is None:
            return None
        way = [origin]
        while way[-1] != destination:
            route = self.tables[way[-1]].route(destination)
            assert route is not None, f"dead end after {way}"
            assert route.next_hop in self.neighbours(way[-1]), f"{way[-1]} uses a link that is cut"
            assert route.next_hop not in way, f"{way} goes in a circle"
            way.append(route.next_hop)
        return way

    def within_reach(self, origin: str, *, domains: set[str] | None = None) -> dict[str, int]:
        """Return the least cost to every node in reach of the origin over nodes of the given domains (Dijkstra)."""
        costs: dict[str, int] = {}
        heap = [(0, origin)]
        while heap:
            cost, node = heapq.heappop(heap)
            if node in costs or (domains is not None and self.domain_of[node] not in domains):
                continue
            costs[node] = cost
            for neighbour in self.neighbours(node):
                heapq.heappush(heap, (cost + self.cost(node, neighbour), neighbour))
        return costs

    def domains_hang_together(self) -> bool:
        return all(
            {n for n, d in self.domain_of.items() if d == domain} <= set(self.within_reach(node, domains={domain}))
            for node, domain in self.domain_of.items()
        )


@st.composite
def networks(draw: st.DrawFn, domains: int = 3) -> Network:
    """Draw up to eight nodes whose domains hang together inside, joined by random links."""
    number = draw(st.integers(2, 8))
    names = [f"n{i}" for i in range(number)]
    domain_of = {name: f"d{draw(st.integers(0, domains - 1))}" for name in names}
    wanted = set(draw(st.lists(st.sampled_from(list(combinations(names, 2))), max_size=12)))
    for domain in set(domain_of.values()):
        members = [name for name in names if domain_of[name] == domain]
        wanted |= {(draw(st.sampled_from(members[:i])), member) for i, member in enumerate(members) if i}
    return Network(domain_of, {link: draw(st.integers(1, 9)) for link in sorted(wanted)})


def assert_routes_lead_where_they_say(network: Network) -> None:
    for origin in network.tables:
        for route in network.tables[origin].routes():
            way = network.way(origin, route.destination)
            assert way is not None
            assert route.cost == sum(network.cost(a, b) for a, b in pairwise(way))
            passed = [network.domain_of[node] for node in way]
            left = [a for a, b in pairwise(passed) if a != b]
            assert passed[-1] not in left
            assert len(set(left)) == len(left), f"{way} comes back to a domain it left"


def assert_all_in_reach_have_routes(network: Network) -> None:
    for origin, table in network.tables.items():
        assert {route.destination for route in table.routes()} == set(network.within_reach(origin)) - {origin}


@settings(max_examples=60, deadline=None)
@given(networks(), st.integers(0, 2**32), st.data())
def test_on_any_graph_next_hops_arrive_without_a_circle_and_again_after_a_link_is_lost(
    network: Network, seed: int, data: st.DataObject
) -> None:
    order = random.Random(seed)
    network.settle(order)
    assert_routes_lead_where_they_say(network)
    assert_all_in_reach_have_routes(network)
    if not network.cost_of:
        return
    network.cut(data.draw(st.sampled_from(sorted(network.cost_of))))
    network.settle(order)
    assert_routes_lead_where_they_say(network)
    # A domain that fell apart does not come together over another one: its ways would leave it and come back.
    if network.domains_hang_together():
        assert_all_in_reach_have_routes(network)


@settings(max_examples=40, deadline=None)
@given(networks(domains=1), st.integers(0, 2**32))
def test_inside_a_domain_no_cheaper_way_is_missed(network: Network, seed: int) -> None:
    network.settle(random.Random(seed))
    for origin, table in network.tables.items():
        least = network.within_reach(origin)
        assert {route.destination: route.cost for route in table.routes()} == {
            node: cost for node, cost in least.items() if node != origin
        }


@settings(max_examples=40, deadline=None)
@given(networks(), st.integers(0, 2**32))
def test_other_domain_learns_of_no_way_inside_this_one(network: Network, seed: int) -> None:
    network.settle(random.Random(seed))
    for node, table in network.tables.items():
        for told in table.adverts_for("another domain"):
            assert told.node_path == (node,)
            assert set(told.domain_path) <= set(network.domain_of.values()) - {network.domain_of[node]}


LINE = {"n1": "east", "n2": "east", "n3": "east"}


def settled(domain_of: dict[str, str], cost_of: dict[Link, int]) -> Network:
    network = Network(dict(domain_of), dict(cost_of))
    network.settle(random.Random(1))
    return network


def test_lost_neighbour_takes_the_routes_through_it_along() -> None:
    network = settled(LINE, {("n1", "n2"): 1, ("n2", "n3"): 1})
    assert network.way("n1", "n3") == ["n1", "n2", "n3"]
    network.tables["n1"].lose("n2")
    assert network.tables["n1"].routes() == ()


def test_destination_that_fell_off_is_withdrawn_and_not_counted_up_for_ever() -> None:
    network = settled(LINE, {("n1", "n2"): 1, ("n2", "n3"): 1, ("n1", "n3"): 1})
    network.cut(("n2", "n3"))
    network.cut(("n1", "n3"))
    network.settle(random.Random(1))
    assert network.tables["n1"].route("n3") is None
    assert network.tables["n2"].route("n3") is None


def test_dearer_direct_link_stands_back_behind_a_cheaper_way_round() -> None:
    network = settled(LINE, {("n1", "n2"): 1, ("n2", "n3"): 1, ("n1", "n3"): 3})
    assert network.way("n1", "n3") == ["n1", "n2", "n3"]


def test_failed_first_hop_is_avoided_where_there_is_another() -> None:
    network = settled(LINE, {("n1", "n2"): 1, ("n2", "n3"): 1, ("n1", "n3"): 3})
    other = network.tables["n1"].route("n3", avoid="n2")
    assert other is not None
    assert (other.next_hop, other.cost) == ("n3", 3)
    # The neighbour n1 goes through n2 itself, so it is no way out for n2.
    assert network.tables["n2"].route("n3", avoid="n3") is None
    network.cut(("n1", "n3"))
    assert network.tables["n1"].route("n3", avoid="n2") is None


@pytest.mark.parametrize(
    ("neighbour", "advert"),
    [
        ("inner", RouteAdvert(node="x", cost=1, node_path=("inner", "me", "x"), domain_path=())),
        ("inner", RouteAdvert(node="x", cost=1, node_path=("inner",), domain_path=("west", "east"))),
        ("outer", RouteAdvert(node="x", cost=1, node_path=("outer",), domain_path=("north", "east"))),
        ("inner", RouteAdvert(node="me", cost=0, node_path=("inner",), domain_path=())),
    ],
    ids=["through this node", "back into this domain", "back from outside", "to this node itself"],
)
def test_route_that_comes_back_is_not_used(neighbour: str, advert: RouteAdvert) -> None:
    table = RoutingTable("me", "east", [Adjacency("inner", "east", 1), Adjacency("outer", "west", 1)])
    table.learn(neighbour, (advert,))
    assert table.routes() == ()


def test_neighbour_in_another_domain_is_not_believed_about_nodes_it_should_not_name() -> None:
    table = RoutingTable("me", "east", [Adjacency("outer", "west", 2)])
    table.learn("outer", (RouteAdvert(node="x", cost=1, node_path=("secret", "me"), domain_path=()),))
    (route,) = table.routes()
    assert (route.node_path, route.domain_path, route.cost) == (("outer",), ("west",), 3)


def test_way_longer_than_an_advert_can_carry_is_left_out_and_not_an_error() -> None:
    names = [f"n{i:02}" for i in range(40)]
    network = Network(dict.fromkeys(names, "east"), dict.fromkeys(pairwise(names), 1))
    network.settle(random.Random(1))
