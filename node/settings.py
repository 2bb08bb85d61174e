"""What one key management node is told at its start: a JSON file that the testbed plans and puts in place.

What an operator may set is a field here, with its unit in the name and its default beside it.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SETTINGS_PATH = Path("/etc/kmstn/settings.json")

# ETSI GS QKD 020: 1 to 64 characters, only those that RFC 3986 allows in a URI.
SaeId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+$")]


class Frozen(BaseModel):
    """A settings object: immutable, and an unknown member is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LinkKind(StrEnum):
    """What joins two neighbouring nodes."""

    QKD = "qkd"
    WAN = "wan"


class DeviceSettings(Frozen):
    """The QKD device beside this node that serves one QKD link."""

    name: str
    url: str
    prefetch_keys: int = Field(default=64, ge=1, description="link keys held per direction, ahead of demand")
    batch_keys: int = Field(default=16, ge=1, description="link keys asked for in one device request")
    poll_interval_s: float = Field(default=0.5, gt=0)
    timeout_s: float = Field(default=5.0, gt=0)


class NeighbourSettings(Frozen):
    """A node that this one exchanges ETSI 020 transfers with, over one link."""

    node: SaeId
    domain: str
    url: str = Field(description="base URL of its ETSI 020 API, e.g. https://kmstn2:8020")
    link: str = Field(description="name of the link in the description")
    kind: LinkKind
    cost: int = Field(default=1, ge=1, description="what routing adds for this hop")
    device: DeviceSettings | None = Field(default=None, description="present on QKD links only")


class ForeignKmsSettings(Frozen):
    """A KMS beside this node that speaks ETSI GS QKD 020 as published and none of our extensions."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$", description="what this node calls it")
    url: str = Field(description="base URL of its ETSI 020 API; its acknowledgements are to be called there too")
    saes: tuple[SaeId, ...] = Field(min_length=1, description="the SAEs that are at home there")
    certificate_name: str = Field(description="DNS name that its certificates carry, as client and as server")


class DeliverySettings(Frozen):
    """How SAE requests are answered."""

    pattern: Literal["proactive", "reactive", "both"] = "both"
    answer: Literal["lazy", "eager"] = Field(
        default="lazy", description="eager: enc_keys waits for the target node's acknowledgement"
    )
    transfer_mode: Literal["synchronous", "asynchronous"] = Field(
        default="synchronous",
        description="of session keys, to neighbours that offer both: synchronous halves the messages of a relay",
    )
    arrival_wait_s: float = Field(default=2.0, ge=0, description="how long dec_keys waits for a key on its way")
    relay_timeout_s: float = Field(default=8.0, gt=0, description="reactive: limit for a relayed key's acknowledgement")
    key_lifetime_s: float = Field(default=600.0, gt=0, description="an unfetched key is dropped after this")


class PoolSettings(Frozen):
    """The stock of 256-bit blocks kept with each node that this one serves pairs with."""

    target_blocks: int = Field(default=16, ge=0)
    batch_blocks: int = Field(default=8, ge=1)
    refill_interval_s: float = Field(default=0.5, gt=0)
    reserve_link_keys: int = Field(default=16, ge=0, description="link keys that filling leaves for reactive relay")


class KeySettings(Frozen):
    """The figures of the ETSI 014 status, and the bounds of a request. Sizes in bits, in whole bytes."""

    key_size: int = Field(default=256, ge=8, multiple_of=8)
    min_key_size: int = Field(default=64, ge=8, multiple_of=8)
    max_key_size: int = Field(default=4096, ge=8, multiple_of=8)
    max_key_per_request: int = Field(default=128, ge=1, le=1024, description="an ETSI 020 transfer carries 1024 keys")
    max_key_count: int = Field(default=100_000, ge=0, description="the status never says that more are stored")
    max_sae_id_count: int = Field(default=8, ge=0, le=63, description="an ETSI 020 transfer has 64 targets")
    max_bits_per_request: int = Field(default=131_072, ge=8, description="bound of number times size")

    @model_validator(mode="after")
    def _fit_each_other(self) -> Self:
        if not self.min_key_size <= self.key_size <= self.max_key_size <= self.max_bits_per_request:
            raise ValueError("min_key_size <= key_size <= max_key_size <= max_bits_per_request does not hold")
        return self


class LimitSettings(Frozen):
    """What others may make this node hold and wait for, at each of its APIs; beyond it they are refused or cut off."""

    handshake_timeout_s: float = Field(default=10.0, gt=0)
    shutdown_timeout_s: float = Field(default=2.0, gt=0, description="for a client that does not say goodbye")
    request_timeout_s: float = Field(default=10.0, gt=0, description="for a whole request to arrive")
    response_timeout_s: float = Field(default=30.0, gt=0, description="how long a client may not read its answer")
    keep_alive_s: int = Field(default=75, ge=1)
    connections: int = Field(default=4096, ge=1)
    handshakes: int = Field(default=1024, ge=1, description="connections that have not shown a certificate yet")
    inbound_blocks: int = Field(default=4096, ge=1, description="pool blocks held for one origin")
    inbound_link_keys: int = Field(default=4096, ge=1, description="link keys held of one link, as its receiver")


class NodeSettings(Frozen):
    """Everything one node is told."""

    node: SaeId
    domain: str
    site: str
    saes: tuple[SaeId, ...] = ()
    neighbours: tuple[NeighbourSettings, ...] = ()
    foreign_kms: tuple[ForeignKmsSettings, ...] = Field(
        default=(), description="served on a port of their own; the CA of each is identity_dir/foreign/NAME.crt"
    )
    trusted_domains: tuple[str, ...] = Field(default=(), description="other domains, by federation agreement")
    allowed_pairs: tuple[tuple[SaeId, SaeId], ...] | None = Field(
        default=None, description="ordered (master, slave) pairs; absent: every pair may exchange keys"
    )
    delivery: DeliverySettings = DeliverySettings()
    pool: PoolSettings = PoolSettings()
    keys: KeySettings = KeySettings()
    limits: LimitSettings = LimitSettings()
    kem_provider: Literal["cryptography", "liboqs"] = "cryptography"
    sealing: Literal["tpm", "unsafe-plaintext"] = "tpm"
    rollback_interval_s: float = Field(
        default=300.0,
        gt=0,
        description="after this a copy of the store is an old one; costs a write of TPM NV memory",
    )
    suites: tuple[str, ...] = Field(default=("mlkem768-v1",), description="hop suites accepted, best first")

    state_dir: Path = Path("/var/lib/kmstn")
    identity_dir: Path = Path("/etc/kmstn/identity")
    bind: str = "0.0.0.0"  # noqa: S104 - a container listens on its site network and nowhere else.
    sae_port: int = 8443
    peer_port: int = 8020
    peer_url: str | None = Field(default=None, description="as neighbours know it; default https://NODE:PEER_PORT")
    foreign_port: int = Field(default=8021, description="open only if there are foreign KMSs")
    foreign_url: str | None = Field(default=None, description="as they know it; default https://NODE:FOREIGN_PORT")
    operator_port: int = 8090
    advert_interval_s: float = Field(default=1.0, gt=0)
    advert_lifetime_s: float = Field(default=30.0, gt=0)
    kem_key_lifetime_s: float = Field(default=3600.0, gt=0)

    @model_validator(mode="after")
    def _name_each_sae_once(self) -> Self:
        named = [*self.saes, *(sae for kms in self.foreign_kms for sae in kms.saes)]
        twice = sorted({sae for sae in named if named.count(sae) > 1})
        if twice:
            raise ValueError(f"SAEs are at home once, at this node or behind one foreign KMS: {', '.join(twice)}")
        if len({kms.name for kms in self.foreign_kms}) < len(self.foreign_kms):
            raise ValueError("each foreign KMS needs a name of its own")
        return self
