"""What a testbed is made of, down to the last address and file: the data that `topology.planner` fills in.

A plan holds no secret: private keys and fibre seeds appear as references, which the runtime resolves when it puts
files into a container. Two equal descriptions give equal plans, and a thing's `spec` says whether a running one is
still the planned one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from topology.naming import Kind, labels

CertificateRole = Literal["node", "device", "sae", "operator"]
ImageRole = Literal["node", "device", "router", "access"]


@dataclass(frozen=True)
class CertificateRef:
    """One half of a certificate's pair of files, PEM."""

    domain: str
    role: CertificateRole
    name: str
    part: Literal["certificate", "key"]


@dataclass(frozen=True)
class AuthorityRef:
    """The certificate of a domain's CA, PEM."""

    domain: str


@dataclass(frozen=True)
class SeedRef:
    """The 32 random bytes that both ends of a fibre share."""

    link: str


FileContent = bytes | CertificateRef | AuthorityRef | SeedRef


@dataclass(frozen=True)
class PlannedFile:
    """A file to put into a container between its creation and its start."""

    path: str
    content: FileContent
    mode: int = 0o644
    uid: int = 0


@dataclass(frozen=True)
class NetworkPlan:
    """A Docker network; `dynamic_range` is where addresses come from that the plan does not fix."""

    testbed: str
    plain_name: str
    name: str
    kind: Kind
    subnet: IPv4Network
    gateway: IPv4Address | None = None
    dynamic_range: IPv4Network | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """Hash of everything planned about this network."""
        return spec_hash(self)

    @property
    def labels(self) -> dict[str, str]:
        """The labels to create it with."""
        return labels(self.testbed, self.kind, self.plain_name, self.spec)


@dataclass(frozen=True)
class VolumePlan:
    """A named volume: what a container keeps over restarts and re-creations."""

    testbed: str
    plain_name: str
    name: str

    @property
    def labels(self) -> dict[str, str]:
        """The labels to create it with."""
        return labels(self.testbed, Kind.VOLUME, self.plain_name, spec_hash(self))


@dataclass(frozen=True)
class Attachment:
    """One leg of a container: a network's full name and the fixed address on it."""

    network: str
    address: IPv4Address


@dataclass(frozen=True)
class Mount:
    """A named volume (full name) at a path inside the container."""

    volume: str
    path: str


@dataclass(frozen=True)
class PublishedPort:
    """A container port reachable from the host; `host_port` None lets the engine choose."""

    container_port: int
    host_port: int | None
    host_ip: str = "127.0.0.1"


@dataclass(frozen=True)
class ContainerPlan:
    """A container. The first attachment is the one to create it with; `depends` are plain names to start before it."""

    testbed: str
    plain_name: str
    name: str
    kind: Kind
    image: ImageRole
    networks: tuple[Attachment, ...]
    region: str | None = None
    site: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[PlannedFile, ...] = ()
    volumes: tuple[Mount, ...] = ()
    capabilities: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[PublishedPort, ...] = ()
    command: tuple[str, ...] | None = None
    depends: tuple[str, ...] = ()
    memory_mib: int | None = None

    @property
    def spec(self) -> str:
        """Hash of everything planned about this container; secrets take part by reference only."""
        return spec_hash(self)

    @property
    def labels(self) -> dict[str, str]:
        """The labels to create it with."""
        return labels(self.testbed, self.kind, self.plain_name, self.spec)


@dataclass(frozen=True)
class CertificatePlan:
    """A certificate for the PKI to issue; the subject alternative names come beside the identity URI."""

    domain: str
    role: CertificateRole
    name: str
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()


@dataclass(frozen=True)
class RequestedImpairment:
    """What the description asks of one direction of a link."""

    delay_ms: float
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    rate_mbps: float | None = None


@dataclass(frozen=True)
class LinkPlan:
    """A shaped link: `between` are nodes, `routers` shape its two directions, `addresses` answer pings across it.

    WAN: the routers' own addresses on the link's network. Site: the two nodes' addresses, one router for both.
    """

    name: str
    kind: Literal["wan", "site"]
    between: tuple[str, str]
    routers: tuple[str, str]
    addresses: tuple[IPv4Address, IPv4Address]
    requested: RequestedImpairment


@dataclass(frozen=True)
class SaePlan:
    """Where an SAE is registered."""

    sae: str
    node: str
    region: str
    site: str


@dataclass(frozen=True)
class NodeAccess:
    """Where one node's two APIs come out of the access container."""

    node: str
    region: str
    sae_port: int
    operator_port: int
    sae_host_port: int | None
    operator_host_port: int | None


@dataclass(frozen=True)
class Plan:
    """Everything that `up` has to bring about."""

    testbed: str
    shaping: Literal["required", "best-effort", "off"]
    subnet: IPv4Network
    networks: tuple[NetworkPlan, ...]
    volumes: tuple[VolumePlan, ...]
    containers: tuple[ContainerPlan, ...]
    certificates: tuple[CertificatePlan, ...]
    links: tuple[LinkPlan, ...]
    saes: tuple[SaePlan, ...]
    access: tuple[NodeAccess, ...]
    hosts: Mapping[str, str]
    allowed_pairs: tuple[tuple[str, str], ...] | None

    def container(self, plain_name: str) -> ContainerPlan:
        """The planned container of that name; raises KeyError when there is none."""
        return {container.plain_name: container for container in self.containers}[plain_name]

    def network(self, plain_name: str) -> NetworkPlan:
        """The planned network of that name; raises KeyError when there is none."""
        return {network.plain_name: network for network in self.networks}[plain_name]


def plain(thing: object) -> object:
    """A plan, or a part of one, as JSON values; file contents in bytes appear as text."""
    if is_dataclass(thing):
        return {member.name: plain(getattr(thing, member.name)) for member in fields(thing)}
    if isinstance(thing, Mapping):
        return {str(key): plain(value) for key, value in thing.items()}
    if isinstance(thing, tuple):
        return [plain(item) for item in thing]
    if isinstance(thing, bytes):
        return thing.decode()
    if isinstance(thing, Enum):
        return thing.value
    return thing if thing is None or isinstance(thing, str | int | float) else str(thing)


def spec_hash(thing: object) -> str:
    """A short fingerprint of a part of a plan, the same on every machine."""
    return hashlib.sha256(json.dumps(plain(thing), sort_keys=True).encode()).hexdigest()[:16]
