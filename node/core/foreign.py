"""The nouns of keys that pass between this node and a KMS that speaks ETSI GS QKD 020 and nothing of ours.

In parcels and routes such a KMS has the name `foreign:NAME`, which no node can have. No rules, no I/O.
"""

from dataclasses import dataclass, field

from node.core.keys import Direction
from node.wire.etsi020 import AckStatus

PREFIX = "foreign:"


def neighbour_name(kms: str) -> str:
    """Return how a foreign KMS is called among neighbours."""
    return PREFIX + kms


def is_foreign(neighbour: str | None) -> bool:
    """Tell whether this neighbour is a foreign KMS."""
    return neighbour is not None and neighbour.startswith(PREFIX)


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """What is remembered of a key that came from a foreign KMS, or went there; never the key. Times in Unix seconds.

    `digest` = of its value, so that the same key sent twice is told from another under its ID; empty for those sent.
    `outcome` = None while it is not known; `told` = the foreign KMS took our word for it, or needs none.
    """

    key_id: str
    direction: Direction
    initiator_sae: str
    target_saes: tuple[str, ...]
    digest: bytes = field(repr=False)
    expires_at: float
    outcome: AckStatus | None = None
    told: bool = False
