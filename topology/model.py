"""The shape of a testbed description: regions with sites and QKD links, WAN links between regions, and policies.

Types and units are decided here; whether names refer to something, and whether the whole makes sense, is decided in
`topology.checks`. Nothing here reads a file.
"""

from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from emulators.settings import ProfileSettings
from node.settings import DeliverySettings, KeySettings, PoolSettings
from topology.quantities import DelayMs, FibreKm, KeyRateBps, LossPercent, RateMbps

# What a `profile` of a QKD link can name.
PROFILES: Final[Mapping[str, ProfileSettings]] = {"generic": ProfileSettings()}


def _two_names(value: object) -> object:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise PydanticCustomError("two_names", "expected exactly two names, like [kmstn1, kmstn2]")


def _network(value: object) -> IPv4Network:
    try:
        return IPv4Network(value if isinstance(value, str) else "")
    except ValueError as error:
        sentence = f'"{value}" is not an IPv4 subnet like 10.88.0.0/16 ({error})'
        raise PydanticCustomError("subnet", "{sentence}", {"sentence": sentence}) from error


def _nothing_is_empty(value: object) -> object:
    return {} if value is None else value


NamePair = Annotated[
    tuple[str, str],
    BeforeValidator(_two_names),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}),
]
Subnet = Annotated[
    IPv4Network, BeforeValidator(_network), WithJsonSchema({"type": "string", "examples": ["10.88.0.0/16"]})
]
AllOrPairs = Annotated[
    Annotated[Literal["all"], Tag("<all>")] | Annotated[list[NamePair], Tag("<pairs>")],
    Discriminator(lambda value: "<pairs>" if isinstance(value, list) else "<all>"),
]
EmptyAllowed = BeforeValidator(_nothing_is_empty)


class Part(BaseModel):
    """A part of a description: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Site(Part):
    """A trusted site: one node, its devices, and the SAEs registered at that node."""

    node: str = Field(description="the key management node; also its SAE ID and host name")
    saes: list[str] = Field(default=[], description="IDs of the SAEs at this site")


class QkdLink(Part):
    """A quantum channel between two sites of one region, with a device at each end."""

    between: NamePair
    fibre_km: FibreKm
    profile: str = Field(default="generic", description="how the vendor's devices behave")
    secret_key_rate: KeyRateBps | None = Field(default=None, description="instead of the profile's own")


class WanLink(Part):
    """A classical link between border sites of two regions; the figures hold for each direction."""

    between: NamePair
    delay: DelayMs = Field(description="one way")
    jitter: DelayMs = 0.0
    loss: LossPercent = 0.0
    rate: RateMbps | None = Field(default=None, description="absent: as fast as the machine")


class Region(Part):
    """One QKD network under one operator: a domain, with a certificate authority of its own."""

    sites: Annotated[dict[str, Site], EmptyAllowed] = {}
    qkd_links: list[QkdLink] = []


class Policy(Part):
    """Who federates with whom, and which SAEs may exchange keys."""

    trust: AllOrPairs = Field(default="all", description="pairs of regions, both ways")
    sae_pairs: AllOrPairs = Field(default="all", description="[master, slave] pairs, one way")


class TestbedDescription(Part):
    """A whole testbed, as one YAML file describes it."""

    testbed: str = Field(description="name of the testbed; prefix of all its containers")
    shaping: Literal["required", "best-effort", "off"] = "best-effort"
    delivery: DeliverySettings = DeliverySettings()
    pool: PoolSettings = PoolSettings()
    keys: KeySettings = KeySettings()
    kem_provider: Literal["cryptography", "liboqs"] = "cryptography"
    sealing: Literal["tpm", "unsafe-plaintext"] = "tpm"
    suites: list[str] = Field(default=["mlkem768-v1"], min_length=1, description="hop suites accepted, best first")
    regions: dict[str, Annotated[Region, EmptyAllowed]]
    wan_links: list[WanLink] = []
    policy: Policy = Policy()
    ports: dict[str, int] = Field(default={}, description="fixed host ports of the nodes' SAE APIs")
    subnet: Subnet | None = Field(default=None, description="absent: derived from the name")

    # Pytest would take the class for a test case by its name.
    __test__ = False

    def regions_of_nodes(self) -> dict[str, str]:
        """The region of each node; of two nodes with one name, the first counts."""
        regions: dict[str, str] = {}
        for name, region in self.regions.items():
            for site in region.sites.values():
                regions.setdefault(site.node, name)
        return regions

    def nodes_of_saes(self) -> dict[str, str]:
        """The node at which each SAE is registered."""
        sites = (site for region in self.regions.values() for site in region.sites.values())
        return {sae: site.node for site in sites for sae in site.saes}

    def trusted_by(self, region: str) -> tuple[str, ...]:
        """The other regions that `region` has a federation agreement with, in the description's order."""
        others = [other for other in self.regions if other != region]
        if self.policy.trust == "all":
            return tuple(others)
        pairs = {frozenset(pair) for pair in self.policy.trust}
        return tuple(other for other in others if frozenset((region, other)) in pairs)


def part_at(path: tuple[Any, ...]) -> type[BaseModel]:
    """The part of a description that the keys at `path` belong to; a path is keys and list positions from the top."""
    match path:
        case ("regions", _, "sites", _, *_):
            return Site
        case ("regions", _, "qkd_links", _, *_):
            return QkdLink
        case ("regions", _, *_):
            return Region
        case ("wan_links", _, *_):
            return WanLink
        case ("policy", *_):
            return Policy
        case ("delivery", *_):
            return DeliverySettings
        case ("pool", *_):
            return PoolSettings
        case ("keys", *_):
            return KeySettings
    return TestbedDescription
