"""What one seed means: topology, settings, orders, and the faults that befall them. All of it is drawn here, once."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from node.settings import (
    DeliverySettings,
    DeviceSettings,
    LinkKind,
    NeighbourSettings,
    NodeSettings,
    PoolSettings,
)
from tests.simulation.devices import BadDay
from tests.simulation.disk import Moment
from tests.simulation.network import Storm

SETTLED_S = 4.0
SIZES_BITS = (128, 256, 256, 256, 512, 1024)
PATTERNS = ("proactive", "reactive", "both", "both")


@dataclass(frozen=True, slots=True)
class Link:
    """Two neighbouring nodes."""

    ends: tuple[str, str]
    kind: LinkKind
    cost: int = 1

    @property
    def name(self) -> str:
        """The link's name."""
        return "-".join(self.ends)


@dataclass(frozen=True, slots=True)
class Topology:
    """Nodes by name with (domain, SAEs), and links."""

    nodes: Mapping[str, tuple[str, tuple[str, ...]]]
    links: tuple[Link, ...]

    @property
    def homes(self) -> dict[str, str]:
        """The node of each SAE."""
        return {sae: node for node, (_domain, saes) in self.nodes.items() for sae in saes}

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains."""
        return tuple(sorted({domain for domain, _saes in self.nodes.values()}))


@dataclass(frozen=True, slots=True)
class Order:
    """One request of a master, and how its slaves fetch: seconds after the answer, how often, even if they have it."""

    at: float
    master: str
    slaves: tuple[str, ...]
    number: int
    size_bits: int
    fetch_after_s: float
    fetches: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Crash:
    """A node dies: at a time, or at its n-th durable step after the start of the faults."""

    node: str
    down_s: float
    at: float | None = None
    step: int = 0
    moment: Moment = Moment.BEFORE_COMMIT


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a run is made from."""

    seed: int
    topology: Topology
    delivery: DeliverySettings
    pool: PoolSettings
    kem_key_lifetime_s: float
    orders: tuple[Order, ...]
    faults_end: float
    storms: tuple[Storm, ...] = ()
    crashes: tuple[Crash, ...] = ()
    full_disks: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    bad_days: Mapping[str, tuple[BadDay, ...]] = field(default_factory=dict)
    skews_s: Mapping[str, float] = field(default_factory=dict)
    keys_per_s: float = 20.0
    storage_keys: int = 200

    def settings(self, node: str) -> NodeSettings:
        """Return what a node is told."""
        domain, saes = self.topology.nodes[node]
        return NodeSettings(
            node=node,
            domain=domain,
            site=node,
            saes=saes,
            neighbours=tuple(self._neighbours(node)),
            trusted_domains=tuple(other for other in self.topology.domains if other != domain),
            delivery=self.delivery,
            pool=self.pool,
            sealing="unsafe-plaintext",
            peer_url=f"https://{node}",
            advert_interval_s=3.0,
            advert_lifetime_s=40.0,
            kem_key_lifetime_s=self.kem_key_lifetime_s,
        )

    def _neighbours(self, node: str) -> Iterable[NeighbourSettings]:
        for link in self.topology.links:
            if node in link.ends:
                other = link.ends[0] if link.ends[1] == node else link.ends[1]
                device = DeviceSettings(
                    name=f"{node}-device", url="https://device", prefetch_keys=24, batch_keys=8, poll_interval_s=2.5
                )
                yield NeighbourSettings(
                    node=other,
                    domain=self.topology.nodes[other][0],
                    url=f"https://{other}",
                    link=link.name,
                    kind=link.kind,
                    cost=link.cost,
                    device=device if link.kind is LinkKind.QKD else None,
                )


THREE_NODES = Topology(
    {"n1": ("east", ("a1", "a2")), "n2": ("east", ("b",)), "n3": ("west", ("c",))},
    (Link(("n1", "n2"), LinkKind.QKD), Link(("n2", "n3"), LinkKind.WAN)),
)


def draw(seed: int, *, faults: bool = True) -> Scenario:
    """Draw the scenario of a seed: six in seven are the three nodes, the others larger networks."""
    rng = random.Random(f"scenario {seed}")
    topology = THREE_NODES if rng.random() < 0.85 else _random_topology(rng)
    faults_end = SETTLED_S + rng.uniform(5.0, 9.0)
    pattern = rng.choice(PATTERNS)
    lifetime_s = rng.choice((15.0, 120.0, 120.0, 120.0))
    calm = Scenario(
        seed=seed,
        topology=topology,
        delivery=DeliverySettings(
            pattern=pattern,
            answer="eager" if rng.random() < 0.25 else "lazy",
            arrival_wait_s=rng.choice((0.5, 2.0)),
            relay_timeout_s=rng.choice((3.0, 3.0, 8.0)),
            key_lifetime_s=lifetime_s,
        ),
        pool=PoolSettings(target_blocks=8, batch_blocks=4, refill_interval_s=2.0, reserve_link_keys=4),
        kem_key_lifetime_s=rng.choice((20.0, 3600.0, 3600.0)),
        orders=tuple(_orders(rng, topology, faults_end)),
        faults_end=faults_end,
        keys_per_s=rng.choice((8.0, 30.0)),
    )
    return _with_faults(calm, rng) if faults else calm


def _orders(rng: random.Random, topology: Topology, faults_end: float) -> Iterable[Order]:
    saes = sorted(topology.homes)
    for _ in range(rng.randint(6, 14)):
        master, *others = rng.sample(saes, len(saes))
        wanted = 1 if rng.random() < 0.75 else min(rng.randint(2, 3), len(others))
        yield Order(
            at=rng.uniform(SETTLED_S, faults_end),
            master=master,
            slaves=tuple(others[:wanted]),
            number=rng.choice((1, 1, 1, 2, 4)),
            size_bits=rng.choice(SIZES_BITS),
            fetch_after_s=rng.choice((0.0, rng.uniform(0.0, 1.0), rng.uniform(1.0, 8.0), 1000.0)),
            fetches=rng.choice((1, 2, 2, 3)),
            again=rng.random() < 0.3,
        )


def _random_topology(rng: random.Random) -> Topology:
    number, domains = rng.randint(4, 6), ("east", "west", "north")[: rng.randint(2, 3)]
    names = [f"n{index + 1}" for index in range(number)]
    domain_of = {name: domains[index % len(domains)] for index, name in enumerate(names)}
    nodes = {}
    for index, name in enumerate(names):
        saes = (f"s{index + 1}",) if index < 2 or rng.random() < 0.6 else ()
        nodes[name] = (domain_of[name], saes)
    links: dict[frozenset[str], Link] = {}

    def join(one: str, other: str) -> None:
        kind = LinkKind.QKD if domain_of[one] == domain_of[other] else LinkKind.WAN
        first, second = sorted((one, other))
        links.setdefault(frozenset((one, other)), Link((first, second), kind, rng.randint(1, 3)))

    by_domain = {domain: [name for name in names if domain_of[name] == domain] for domain in domains}
    for members in by_domain.values():
        for index in range(1, len(members)):
            join(members[index], rng.choice(members[:index]))
    for index in range(1, len(domains)):
        join(rng.choice(by_domain[domains[index]]), rng.choice(by_domain[rng.choice(domains[:index])]))
    for _ in range(rng.randint(0, 2)):
        join(*rng.sample(names, 2))
    return Topology(nodes, tuple(links.values()))


def _with_faults(calm: Scenario, rng: random.Random) -> Scenario:
    nodes = sorted(calm.topology.nodes)
    begin, end = SETTLED_S, calm.faults_end
    return Scenario(
        seed=calm.seed,
        topology=calm.topology,
        delivery=calm.delivery,
        pool=calm.pool,
        kem_key_lifetime_s=calm.kem_key_lifetime_s,
        orders=calm.orders,
        faults_end=end,
        storms=tuple(_storms(rng, calm.topology, begin, end)),
        crashes=tuple(_crashes(rng, nodes, begin, end)),
        full_disks={node: (_span(rng, begin, end, 3.0),) for node in nodes if rng.random() < 0.1},
        bad_days={link.name: (_bad_day(rng, begin, end),) for link in calm.topology.links if rng.random() < 0.4},
        skews_s={node: rng.uniform(-4.0, 4.0) for node in nodes},
        keys_per_s=calm.keys_per_s,
    )


def _storms(rng: random.Random, topology: Topology, begin: float, end: float) -> Iterable[Storm]:
    machines = [frozenset(link.ends) for link in topology.links]
    machines += [frozenset((end, f"{end}-device")) for link in topology.links for end in link.ends]
    machines += [frozenset((sae, home)) for sae, home in topology.homes.items()]
    for ends in machines:
        if rng.random() < 0.6:
            start, stop = _span(rng, begin, end, end - begin)
            yield Storm(
                ends,
                start,
                stop,
                lose_request=rng.choice((0.0, 0.1, 0.4)),
                lose_answer=rng.choice((0.0, 0.1, 0.4)),
                duplicate=rng.choice((0.0, 0.2, 0.5)),
                delay=rng.choice((0.0, 0.2, 0.5)),
                longest_delay_s=rng.choice((0.1, 1.0, 6.0)),
                cut=rng.random() < 0.1,
            )


def _crashes(rng: random.Random, nodes: list[str], begin: float, end: float) -> Iterable[Crash]:
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        node, down_s = rng.choice(nodes), rng.uniform(0.2, 5.0)
        if rng.random() < 0.3:
            yield Crash(node, down_s, at=rng.uniform(begin, end))
        else:
            moment = rng.choice((Moment.BEFORE_COMMIT, Moment.AFTER_COMMIT))
            yield Crash(node, down_s, step=rng.randint(1, 40), moment=moment)


def _span(rng: random.Random, begin: float, end: float, longest_s: float) -> tuple[float, float]:
    start = rng.uniform(begin, end)
    return start, min(end, start + rng.uniform(0.2, longest_s))


def _bad_day(rng: random.Random, begin: float, end: float) -> BadDay:
    start, stop = _span(rng, begin, end, end - begin)
    refuses, slow, loses = (rng.choice((0.0, 0.3, 1.0)), rng.choice((0.0, 0.3)), rng.choice((0.0, 0.0, 0.3)))
    return BadDay(start, stop, refuses, slow, loses)
