"""Which neighbour leads to which node: least cost over the routes that neighbours advertise. Pure, no controller.

A path-vector protocol in the manner of BGP. Inside a domain the path names nodes; towards another domain it is cut to
the domains passed, so that inner topology stays private. A route that would come back to this node, or to this domain
after leaving it, is not used. A neighbour that stops answering takes its routes with it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from node.wire.federation import MAX_COST, RouteAdvert

# An advert carries no longer path; farther nodes are out of reach.
LONGEST_PATH = 32


@dataclass(frozen=True, slots=True)
class Route:
    """The way to `destination`: first to `next_hop`; paths start there and leave this node out."""

    destination: str
    next_hop: str
    cost: int
    node_path: tuple[str, ...]
    domain_path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Adjacency:
    """A neighbour as routing sees it."""

    node: str
    domain: str
    cost: int


class RoutingTable:
    """Routes of one node, kept from what its reachable neighbours say."""

    def __init__(self, node: str, domain: str, neighbours: Iterable[Adjacency]) -> None:
        self._node = node
        self._domain = domain
        self._neighbours = {neighbour.node: neighbour for neighbour in neighbours}
        self._heard: dict[str, tuple[RouteAdvert, ...]] = {}
        self._best: dict[str, Route] = {}

    def learn(self, neighbour: str, adverts: tuple[RouteAdvert, ...]) -> None:
        """Replace all that this neighbour said before."""
        if self._heard.get(neighbour) != adverts:
            self._heard[neighbour] = adverts
            self._choose()

    def lose(self, neighbour: str) -> None:
        """Forget a neighbour that does not answer."""
        if self._heard.pop(neighbour, None) is not None:
            self._choose()

    def route(self, destination: str, avoid: str | None = None) -> Route | None:
        """Return the best route, or the best that does not begin with `avoid`."""
        best = self._best.get(destination)
        if best is None or best.next_hop != avoid:
            return best
        others = [route for route in self._candidates() if route.destination == destination and route.next_hop != avoid]
        return min(others, key=_preference, default=None)

    def routes(self) -> tuple[Route, ...]:
        """Return the route in use for each destination."""
        return tuple(sorted(self._best.values(), key=lambda route: route.destination))

    def adverts_for(self, domain: str) -> tuple[RouteAdvert, ...]:
        """Return what a neighbour of the given domain is told."""
        inside = domain == self._domain
        own = RouteAdvert(node=self._node, cost=0, node_path=(self._node,), domain_path=())
        carried = (route for route in self.routes() if max(len(route.node_path), len(route.domain_path)) < LONGEST_PATH)
        return (own, *(self._advert(route, inside) for route in carried))

    def _advert(self, route: Route, inside: bool) -> RouteAdvert:
        path = (self._node, *route.node_path) if inside else (self._node,)
        return RouteAdvert(node=route.destination, cost=route.cost, node_path=path, domain_path=route.domain_path)

    def _choose(self) -> None:
        best: dict[str, Route] = {}
        for candidate in self._candidates():
            known = best.get(candidate.destination)
            if known is None or _preference(candidate) < _preference(known):
                best[candidate.destination] = candidate
        self._best = best

    def _candidates(self) -> Iterable[Route]:
        for name, adverts in self._heard.items():
            neighbour = self._neighbours[name]
            for advert in adverts:
                if (route := self._through(neighbour, advert)) is not None:
                    yield route

    def _through(self, neighbour: Adjacency, advert: RouteAdvert) -> Route | None:
        foreign = neighbour.domain != self._domain
        domain_path = (neighbour.domain, *advert.domain_path) if foreign else advert.domain_path
        node_path = (neighbour.node,) if foreign else advert.node_path
        if advert.node == self._node or self._node in node_path or self._domain in domain_path:
            return None
        if neighbour.cost + advert.cost > MAX_COST:
            return None
        return Route(advert.node, neighbour.node, neighbour.cost + advert.cost, node_path, domain_path)


def _preference(route: Route) -> tuple[int, int, str]:
    return route.cost, len(route.node_path) + len(route.domain_path), route.next_hop
