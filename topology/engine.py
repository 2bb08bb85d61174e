"""What a testbed asks of a container engine, in plain values: the port that `docker_runtime` serves."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Protocol

from topology.images import ImageEngine
from topology.naming import LABEL_KIND, LABEL_NAME, LABEL_SPEC, LABEL_TESTBED
from topology.plan import Attachment, Mount, NetworkPlan, PublishedPort


@dataclass(frozen=True)
class ReadyFile:
    """A file as it goes into a container; its content may be a secret and stays out of `repr`."""

    path: str
    content: bytes = field(repr=False)
    mode: int = 0o644
    uid: int = 0


@dataclass(frozen=True)
class ContainerWish:
    """A container to create, with nothing left to look up."""

    name: str
    hostname: str
    image: str
    labels: Mapping[str, str]
    networks: tuple[Attachment, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[ReadyFile, ...] = ()
    volumes: tuple[Mount, ...] = ()
    capabilities: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[PublishedPort, ...] = ()
    command: tuple[str, ...] | None = None
    memory_mib: int | None = None
    user: str | None = None
    working_dir: str | None = None


@dataclass(frozen=True)
class Found:
    """A container, network or volume that the engine has, with its labels."""

    name: str
    labels: Mapping[str, str]

    @property
    def testbed(self) -> str:
        """The testbed it belongs to; empty for somebody else's."""
        return self.labels.get(LABEL_TESTBED, "")

    @property
    def kind(self) -> str:
        """The value of `kmstn.kind`."""
        return self.labels.get(LABEL_KIND, "")

    @property
    def plain_name(self) -> str:
        """The name as the description has it."""
        return self.labels.get(LABEL_NAME, self.name)

    @property
    def spec(self) -> str:
        """What it was made from."""
        return self.labels.get(LABEL_SPEC, "")


@dataclass(frozen=True)
class FoundContainer(Found):
    """`state` is Docker's word: created, running, paused, exited, dead; `networks` maps name to ID."""

    state: str
    image: str
    networks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FoundNetwork(Found):
    """A network; `subnets` are its IPv4 ranges."""

    network_id: str
    subnets: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True)
class EngineFacts:
    """What the daemon says about itself; memory in MiB."""

    server_version: str
    api_version: str
    operating_system: str
    kernel: str
    cpus: int
    memory_mib: int
    storage_path: str
    remote: bool


@dataclass(frozen=True)
class Finished:
    """How a container that ran to its end came out."""

    exit_code: int
    output: str


OutputSink = Callable[[str], None]
"""Told each line of a running container's output, without its line end."""


class Engine(ImageEngine, Protocol):
    """A Docker daemon. Calls may come from several threads; every failure is an `EngineError`."""

    def facts(self) -> EngineFacts:
        """Ask the daemon about itself."""

    def containers(self, testbed: str | None = None) -> list[FoundContainer]:
        """List a testbed's containers, running or not; without a name, those of all testbeds."""

    def networks(self, testbed: str | None = None) -> list[FoundNetwork]:
        """List a testbed's networks; without a name, all networks that the daemon has."""

    def volumes(self, testbed: str | None = None) -> list[Found]:
        """List a testbed's named volumes."""

    def create_network(self, plan: NetworkPlan) -> None:
        """Create a network as planned."""

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Create a named volume."""

    def create_container(self, wish: ContainerWish) -> None:
        """Create a container, put its files and connect its networks; does not start it."""

    def start(self, name: str) -> None:
        """Start a container; one that runs is left alone, a paused one goes on."""

    def restart(self, name: str) -> None:
        """Stop and start a container."""

    def remove_container(self, name: str) -> None:
        """Kill and remove a container with its anonymous volumes; nothing happens if there is none."""

    def remove_network(self, name: str) -> None:
        """Remove a network after detaching whatever is still on it."""

    def remove_volume(self, name: str) -> None:
        """Remove a named volume; nothing happens if there is none."""

    def attach(self, container: str, network: str, aliases: tuple[str, ...] = ()) -> str:
        """Give a container a further leg, and return its address there."""

    def log_tail(self, name: str, lines: int) -> list[str]:
        """Read the last lines a container wrote."""

    def follow_log(self, name: str, lines: int) -> Iterator[str]:
        """Yield the last lines and then every new one until the container ends."""

    def read_file(self, name: str, path: str) -> bytes | None:
        """Read one small file of a container; None when it is not there."""

    def memory_mib(self, name: str) -> float | None:
        """Measure a running container's memory without the page cache that could be dropped; None when not running."""

    def run(self, wish: ContainerWish, tell: OutputSink) -> Finished:
        """Run a container to its end and remove it: stderr goes to `tell`, stdout is returned."""

    def image_sizes(self) -> dict[str, int]:
        """Map every tag of this project's images to its size in bytes."""
