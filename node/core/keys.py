"""The nouns of key delivery: link keys, pool blocks, session keys, parcels. No rules, no I/O.

Key material lives in fields that stay out of every repr.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from node.wire.federation import EndToEnd, HopProtection, Purpose

BLOCK_SIZE_BYTES = 32


class Grade(StrEnum):
    """How a key travelled: `qkd` when every hop spent QKD material (or there was none), else `pqc`."""

    QKD = "qkd"
    PQC = "pqc"


class Direction(StrEnum):
    """Which end spends the material first: `out` when this node is the sender."""

    OUT = "out"
    IN = "in"


class KeyState(StrEnum):
    """Where a session key stands in the books of one node."""

    UNDERWAY = "underway"
    RELAYED = "relayed"
    DEPOSITED = "deposited"
    DELIVERED = "delivered"
    VOIDED = "voided"


def grade_of(protections: tuple[HopProtection, ...]) -> Grade:
    """Return the grade of a way from the protections of its hops, in order."""
    return Grade.QKD if all(protection == "qkd+pqc" for protection in protections) else Grade.PQC


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """A link key, pool block or session key: its ID (UUID) and bytes."""

    key_id: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PoolBlock:
    """A 256-bit block taken from a pool, with the grade of the way it came."""

    key_id: str
    value: bytes = field(repr=False)
    grade: Grade


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What a node remembers of a session key; never the key. Times in Unix seconds."""

    key_id: str
    master_sae: str
    slave_saes: tuple[str, ...]
    size_bits: int
    grade: Grade
    path: tuple[str, ...]
    state: KeyState
    expires_at: float


@dataclass(frozen=True, slots=True)
class Parcel:
    """Bodies on their way from origin to destination, as one node of the way holds them.

    The bodies are sealed end to end: a transit node holds only what it cannot open. `path` ends with the node that
    holds the parcel, `protections` has one entry for each hop behind it, `upstream` is None at the origin. `carried`
    is what `carried_extensions` packed. Of a `synchronous` transfer the node before waits; it is never called back.
    """

    parcel_id: str
    purpose: Purpose
    initiator_sae: str
    target_saes: tuple[str, ...]
    key_ids: tuple[str, ...]
    bodies: tuple[bytes, ...] = field(repr=False)
    end_to_end: EndToEnd
    path: tuple[str, ...]
    protections: tuple[HopProtection, ...]
    upstream: str | None
    downstream: str
    expires_at: float
    carried: str = field(default="", repr=False)
    synchronous: bool = False
