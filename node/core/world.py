"""What the core needs from outside, in one place: `app` hands in the real one, the simulation its own."""

from dataclasses import dataclass

from node.core.ports import Background, Clock, PeerNode, Randomness, Store


@dataclass(frozen=True, slots=True)
class World:
    """Storage, time, chance, work in the background, and the neighbours by name."""

    store: Store
    clock: Clock
    randomness: Randomness
    background: Background
    peers: dict[str, PeerNode]
