"""Turn what an engine has into what a plan says, and take it away again.

What is as planned is left alone; what has stopped is started; what differs, is incomplete or belongs to no plan any
more is removed and made anew. So a second run changes nothing, and a run after an interrupted one finishes its work.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from topology.engine import ContainerWish, Engine, Found, FoundContainer, ReadyFile
from topology.naming import LABEL_SPEC, Kind
from topology.plan import ContainerPlan, FileContent, NetworkPlan, Plan, PlannedFile, VolumePlan
from topology.progress import Progress

Item = TypeVar("Item")

WORKERS = 4
REMOVAL_WORKERS = 8
START_ORDER = (Kind.ACCESS, Kind.ROUTER, Kind.NODE, Kind.DEVICE)
# Docker's states of a container that was left half made; such a one may lack files or networks.
UNFINISHED = ("created", "dead", "removing")


@dataclass(frozen=True)
class Wanted:
    """A plan with every file at hand: wishes by full name, volumes with their labels by full name."""

    plan: Plan
    wishes: Mapping[str, ContainerWish]
    volumes: Mapping[str, Mapping[str, str]]
    sealed_volumes: Mapping[str, str]
    """Volume of a node -> the node: what it holds opens only to the software that sealed it."""


@dataclass(frozen=True)
class Changes:
    """What was done, by full names; `dropped_stores` are nodes whose sealed store had to go."""

    created: tuple[str, ...] = ()
    started: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    dropped_stores: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.created or self.started or self.removed)


def prepare(plan: Plan, tags: Mapping[str, str], resolve: Callable[[FileContent], bytes]) -> Wanted:
    """Look up every image and file of the plan; `tags` maps an image's role to its tag."""
    sealed = {
        mount.volume: (container.plain_name, tags[container.image])
        for container in plan.containers
        if container.kind is Kind.NODE
        for mount in container.volumes
    }
    return Wanted(
        plan,
        wishes={one.name: _wish(one, tags[one.image], resolve) for one in plan.containers},
        volumes={volume.name: _volume_labels(volume, sealed.get(volume.name, ("", ""))[1]) for volume in plan.volumes},
        sealed_volumes={volume: node for volume, (node, _) in sealed.items()},
    )


def _wish(container: ContainerPlan, image: str, resolve: Callable[[FileContent], bytes]) -> ContainerWish:
    files = tuple(_ready(file, resolve) for file in container.files)
    return ContainerWish(
        name=container.name,
        hostname=container.plain_name,
        image=image,
        labels={**container.labels, LABEL_SPEC: _full_spec(container.spec, image, files)},
        networks=container.networks,
        environment=container.environment,
        files=files,
        volumes=container.volumes,
        capabilities=container.capabilities,
        sysctls=container.sysctls,
        extra_hosts=container.extra_hosts,
        ports=container.ports,
        command=container.command,
        memory_mib=container.memory_mib,
    )


def _ready(file: PlannedFile, resolve: Callable[[FileContent], bytes]) -> ReadyFile:
    return ReadyFile(file.path, resolve(file.content), file.mode, file.uid)


def _full_spec(spec: str, image: str, files: Iterable[ReadyFile]) -> str:
    digest = hashlib.sha256(f"{spec} {image}".encode())
    for file in files:
        digest.update(hashlib.sha256(file.content).digest())
    return digest.hexdigest()[:16]


def _volume_labels(volume: VolumePlan, image: str) -> dict[str, str]:
    """A node's volume is good for one image only: the TPM in it releases the data key to that software alone."""
    return {**volume.labels, LABEL_SPEC: _full_spec(volume.labels[LABEL_SPEC], image, ())}


@dataclass(frozen=True)
class _Work:
    """What has to go and what has to come, decided before anything is touched."""

    old_containers: tuple[str, ...]
    old_networks: tuple[str, ...]
    old_volumes: tuple[str, ...]
    new_networks: tuple[NetworkPlan, ...]
    new_volumes: tuple[str, ...]
    new_containers: frozenset[str]
    stopped: frozenset[str]


def bring_about(engine: Engine, wanted: Wanted, progress: Progress) -> Changes:
    """Make the engine's containers, networks and volumes of this testbed the wanted ones; raises `EngineError`."""
    work = _compare(engine, wanted)
    if work.old_containers or work.old_networks or work.old_volumes:
        with progress.step("removing what differs from the plan"):
            _remove(engine, work.old_containers, work.old_networks, work.old_volumes)
    if work.new_networks or work.new_volumes:
        with progress.step(f"{len(work.new_networks)} networks"):
            _each(engine.create_network, work.new_networks)
            _each(lambda name: engine.create_volume(name, wanted.volumes[name]), work.new_volumes)
    _start(engine, wanted, work, progress)
    return Changes(
        created=tuple(sorted(work.new_containers)),
        started=tuple(sorted(work.stopped)),
        removed=work.old_containers,
        dropped_stores=tuple(wanted.sealed_volumes[name] for name in work.old_volumes if name in wanted.sealed_volumes),
    )


def _start(engine: Engine, wanted: Wanted, work: _Work, progress: Progress) -> None:
    """Create and start what is to come, a few at a time: the slowest kind first, and no kind waits for another."""
    coming = [
        container.name
        for kind in START_ORDER
        for container in wanted.plan.containers
        if container.kind is kind and (container.name in work.new_containers or container.name in work.stopped)
    ]

    def bring(name: str) -> None:
        if name in work.new_containers:
            engine.create_container(wanted.wishes[name])
        engine.start(name)

    if coming:
        with progress.step(f"{len(coming)} containers"):
            _each(bring, coming)


def _compare(engine: Engine, wanted: Wanted) -> _Work:
    testbed = wanted.plan.testbed
    found = {one.name: one for one in engine.containers(testbed) if one.kind != Kind.LOAD}
    networks = {one.name: one for one in engine.networks(testbed)}
    volumes = {one.name: one for one in engine.volumes(testbed)}
    good_networks = {name: networks[name].network_id for name in _as_planned(networks, _network_specs(wanted))}
    good_volumes = _as_planned(volumes, {name: labels[LABEL_SPEC] for name, labels in wanted.volumes.items()})
    good = {
        name
        for name, wish in wanted.wishes.items()
        if name in found and _is_good(found[name], wish, good_networks, good_volumes)
    }
    return _Work(
        old_containers=tuple(sorted(found.keys() - good)),
        old_networks=tuple(sorted(networks.keys() - good_networks.keys())),
        old_volumes=tuple(sorted(volumes.keys() - good_volumes)),
        new_networks=tuple(network for network in wanted.plan.networks if network.name not in good_networks),
        new_volumes=tuple(sorted(wanted.volumes.keys() - good_volumes)),
        new_containers=frozenset(wanted.wishes.keys() - good),
        stopped=frozenset(name for name in good if found[name].state != "running"),
    )


def _network_specs(wanted: Wanted) -> dict[str, str]:
    return {network.name: network.spec for network in wanted.plan.networks}


def _as_planned(found: Mapping[str, Found], specs: Mapping[str, str]) -> set[str]:
    return {name for name, one in found.items() if specs.get(name) == one.spec}


def _is_good(
    found: FoundContainer, wish: ContainerWish, good_networks: Mapping[str, str], good_volumes: set[str]
) -> bool:
    """Whether a container may stay: as planned, finished, and on the networks and volumes that stay."""
    return (
        found.spec == wish.labels[LABEL_SPEC]
        and found.state not in UNFINISHED
        and all(found.networks.get(leg.network) == good_networks.get(leg.network, "") for leg in wish.networks)
        and all(mount.volume in good_volumes for mount in wish.volumes)
    )


def take_away(engine: Engine, testbed: str) -> int:
    """Remove everything that carries the testbed's label, whatever state it is in; returns how many things."""
    containers = [one.name for one in engine.containers(testbed)]
    networks = [one.name for one in engine.networks(testbed)]
    volumes = [one.name for one in engine.volumes(testbed)]
    _remove(engine, containers, networks, volumes)
    return len(containers) + len(networks) + len(volumes)


def _remove(engine: Engine, containers: Iterable[str], networks: Iterable[str], volumes: Iterable[str]) -> None:
    _each(engine.remove_container, containers, REMOVAL_WORKERS)
    _each(engine.remove_network, networks)
    _each(engine.remove_volume, volumes)


def _each(work: Callable[[Item], object], items: Iterable[Item], workers: int = WORKERS) -> None:
    """Do `work` for every item, a few at a time; the first failure stops those not yet begun and is raised."""
    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(work, item) for item in items]
        try:
            for one in running:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
