"""Our extensions of ETSI GS QKD 020: adverts in `versions`, the headers of a hop, the announcement of link keys.

32473 is the Private Enterprise Number reserved for documentation. Nothing here decides anything.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from node.settings import SaeId
from node.wire.etsi020 import Base64, KeyId, Wire020

FEDERATION = "E32473_federation"
HYBRID_TRANSPORT = "E32473_hybrid_transport"
END_TO_END = "E32473_end_to_end"
PROVENANCE = "E32473_provenance"
LINK_KEYS_PATH = "/federation/v1/link_keys"

# `tls`: to or from a foreign KMS, which knows none of our transport.
HopProtection = Literal["qkd+pqc", "pqc", "tls"]
# Why a destination kept no key, where the origin must draw a conclusion: it lacks the pool blocks, or has other ones.
Refusal = Literal["does-not-open"]

# A path may cost no more, or sums of costs that neighbours make up would outgrow what can be said on the wire.
MAX_COST = 1_000_000
# Enough for 1024 keys of 4096 bits and one block that authenticates; fewer than SQLite takes in one statement.
MAX_BLOCK_IDS = 16_385
Name = Annotated[str, Field(max_length=128)]
Domain = Annotated[str, Field(max_length=255)]
BodyLinkKeyIds = Annotated[tuple[KeyId, ...], Field(max_length=16)]


class Purpose(StrEnum):
    """What a transfer carries."""

    POOL_BLOCK = "pool-block"
    SESSION_KEY = "session-key"
    WRAPPED_KEY = "wrapped-key"


class Strict(BaseModel):
    """A message of ours: unknown members are an error, since every one of them is authenticated."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class KemPublicKey(Strict):
    """A KEM key that others encapsulate to: `hop` by neighbours, `seal` by any node of the federation."""

    purpose: Literal["hop", "seal"]
    suite: Name
    key_id: Name
    public_key: Base64


class NodeAdvert(Strict):
    """What a node says of itself, signed with the key of its certificate. Times in Unix seconds.

    `foreign_saes` are those of `saes` that live behind a foreign KMS, by KMS: keys for them are relayed when asked for,
    in transfers of their own, and answered once the foreign KMS has taken them.
    """

    node: SaeId
    domain: Domain
    saes: tuple[SaeId, ...] = Field(max_length=1024)
    foreign_saes: tuple[tuple[SaeId, ...], ...] = Field(default=(), max_length=16)
    suites: tuple[Name, ...] = Field(max_length=32)
    kem_keys: tuple[KemPublicKey, ...] = Field(max_length=64)
    issued_at: float = Field(allow_inf_nan=False)
    expires_at: float = Field(allow_inf_nan=False)


class SignedAdvert(Strict):
    """A `NodeAdvert` as its origin serialised it, with signature and certificate (DER)."""

    body: Base64
    signature: Base64
    certificate: Base64


class RouteAdvert(Strict):
    """A neighbour reaches `node`: over `node_path` inside its domain, then through `domain_path`."""

    node: SaeId
    cost: int = Field(ge=0, le=MAX_COST)
    node_path: tuple[SaeId, ...] = Field(max_length=32)
    domain_path: tuple[Domain, ...] = Field(max_length=32)


class FederationAdvert(Strict):
    """Member `E32473_federation` of the extension in `versions`."""

    adverts: tuple[SignedAdvert, ...] = Field(max_length=1024)
    routes: tuple[RouteAdvert, ...] = Field(max_length=1024)


class EndToEnd(Strict):
    """How the destination opens the bodies: sealed to its KEM key, or wrapped with pool blocks."""

    origin: SaeId
    destination: SaeId
    suite: Name | None = None
    kem_key_id: Name | None = None
    kem_ciphertext: Base64 | None = None
    tags: tuple[Base64, ...] = Field(default=(), max_length=1024)
    block_ids: tuple[KeyId, ...] = Field(default=(), max_length=MAX_BLOCK_IDS)
    master_sae: SaeId | None = None
    slave_saes: tuple[SaeId, ...] = Field(default=(), max_length=64)


class HybridTransport(Strict):
    """Member `E32473_hybrid_transport` of `extension_mandatory`: what protects this hop."""

    suite: Name
    protection: HopProtection
    transfer_id: KeyId
    kem_key_id: Name
    kem_ciphertext: Base64
    tags: tuple[Base64, ...] = Field(max_length=1024)
    link_key_ids: tuple[BodyLinkKeyIds, ...] = Field(default=(), max_length=1024)
    purpose: Purpose
    path: tuple[SaeId, ...] = Field(min_length=1, max_length=32)
    protections: tuple[HopProtection, ...] = Field(max_length=32)
    expires_at: float = Field(allow_inf_nan=False)


class Provenance(Strict):
    """Member `E32473_provenance` of an acknowledgement: the way the keys really took, and what befell them there."""

    path: tuple[SaeId, ...] = Field(max_length=33)
    protections: tuple[HopProtection, ...] = Field(max_length=32)
    refusal: Refusal | None = None


class LinkKeyAnnouncement(Wire020):
    """The sender of a QKD link holds these link keys; the receiver is to fetch them from its own device.

    `oldest` is the oldest link key that the sender still holds: what came before it is spent.
    """

    link: Domain
    key_ids: tuple[KeyId, ...] = Field(max_length=1024)
    oldest: KeyId | None = None


class LinkKeyHoldings(Wire020):
    """Which of the announced link keys the receiver holds, and which its device does not have."""

    held: tuple[KeyId, ...] = Field(max_length=1024)
    absent: tuple[KeyId, ...] = Field(max_length=1024)


def extension(name: str, message: Strict) -> dict[str, Any]:
    """Return the JSON form of an extension member."""
    return {name: message.model_dump(mode="json", exclude_none=True)}
