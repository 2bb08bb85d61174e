"""What the core needs from outside, in one place: `app` hands in the real one, the simulation its own."""

from dataclasses import dataclass, field

from node.core.ports import Background, Clock, PeerNode, Randomness, Store


@dataclass(frozen=True, slots=True)
class World:
    """Storage, time, chance, work in the background; nodes next to this one and foreign KMSs, by name."""

    store: Store
    clock: Clock
    randomness: Randomness
    background: Background
    peers: dict[str, PeerNode]
    foreign_kms: dict[str, PeerNode] = field(default_factory=dict)

    def neighbour(self, name: str) -> PeerNode:
        """Return who is called so: a node, or a foreign KMS."""
        return self.foreign_kms[name] if name in self.foreign_kms else self.peers[name]
