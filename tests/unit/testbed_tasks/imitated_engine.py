"""A container engine in memory: it keeps what it is told, hands out IDs, and can be made to fail once at one call."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from topology.engine import ContainerWish, EngineFacts, Finished, Found, FoundContainer, FoundNetwork, OutputSink
from topology.errors import EngineError
from topology.plan import NetworkPlan


class PowerCut(BaseException):
    """The run was killed: nothing in it may catch this."""


class ImitatedEngine:
    """Implements `topology.engine.Engine`, as far as converging asks; `cut_at` counts changing calls from 1."""

    def __init__(self) -> None:
        self.existing: dict[str, FoundContainer] = {}
        self.nets: dict[str, FoundNetwork] = {}
        self.vols: dict[str, Found] = {}
        self.guests: dict[str, set[str]] = {}
        self.calls: list[str] = []
        self.cut_at: int | None = None
        self._ids: Counter[str] = Counter()

    def _note(self, call: str, name: str) -> None:
        self.calls.append(f"{call} {name}")
        if self.cut_at is not None and len(self.calls) >= self.cut_at:
            raise PowerCut

    def _new_id(self, name: str) -> str:
        self._ids[name] += 1
        return f"{name}#{self._ids[name]}"

    def facts(self) -> EngineFacts:
        return EngineFacts("1", "1.41", "imitated", "6", 2, 4096, "/", remote=False)

    def containers(self, testbed: str | None = None) -> list[FoundContainer]:
        return [one for one in self.existing.values() if testbed in (None, one.testbed)]

    def networks(self, testbed: str | None = None) -> list[FoundNetwork]:
        return [one for one in self.nets.values() if testbed in (None, one.testbed)]

    def volumes(self, testbed: str | None = None) -> list[Found]:
        return [one for one in self.vols.values() if testbed in (None, one.testbed)]

    def create_network(self, plan: NetworkPlan) -> None:
        self._note("network", plan.name)
        self.nets[plan.name] = FoundNetwork(plan.name, plan.labels, self._new_id(plan.name), (plan.subnet,))

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        self._note("volume", name)
        self.vols[name] = Found(name, labels)

    def create_container(self, wish: ContainerWish) -> None:
        self._note("create", wish.name)
        if wish.name in self.existing:
            raise EngineError(f"the name {wish.name} is taken")
        legs = {leg.network: self.nets[leg.network].network_id for leg in wish.networks}
        for mount in wish.volumes:
            if mount.volume not in self.vols:
                raise EngineError(f"no volume {mount.volume}")
        self.existing[wish.name] = FoundContainer(wish.name, wish.labels, "created", wish.image, legs)

    def start(self, name: str) -> None:
        self._note("start", name)
        self.set_state(name, "running")

    def set_state(self, name: str, state: str) -> None:
        old = self.existing[name]
        self.existing[name] = FoundContainer(name, old.labels, state, old.image, old.networks)

    def restart(self, name: str) -> None:
        self.start(name)

    def remove_container(self, name: str) -> None:
        self._note("remove", name)
        self.existing.pop(name, None)

    def remove_network(self, name: str) -> None:
        self._note("remove network", name)
        network = self.nets.pop(name, None)
        if network and any(network.network_id in one.networks.values() for one in self.existing.values()):
            raise EngineError(f"{name} has active endpoints")

    def remove_volume(self, name: str) -> None:
        self._note("remove volume", name)
        self.vols.pop(name, None)

    def attach(self, container: str, network: str, aliases: tuple[str, ...] = ()) -> str:
        self.guests.setdefault(network, set()).add(container)
        return "10.0.0.130"

    def log_tail(self, name: str, lines: int) -> list[str]:
        return [f"{name} said this last"]

    def follow_log(self, name: str, lines: int) -> Iterator[str]:
        yield from self.log_tail(name, lines)

    def read_file(self, name: str, path: str) -> bytes | None:
        return None

    def memory_mib(self, name: str) -> float | None:
        return None

    def run(self, wish: ContainerWish, tell: OutputSink) -> Finished:
        return Finished(0, "")

    def image_sizes(self) -> dict[str, int]:
        return {}

    def has_image(self, tag: str) -> bool:
        return True

    def build(self, context_tar: bytes, tag: str, build_args: Mapping[str, str]) -> Iterator[str]:
        yield from ()

    def import_base(self, tar_path: Path, tag: str) -> None:
        return None

    def pull(self, name: str, timeout_s: float) -> bool:
        return False

    def tag(self, name: str, new_tag: str) -> None:
        return None
