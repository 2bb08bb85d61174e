"""How both ends of a QKD link come to the same keys: both derive them from one seed, which stands for the fibre.

Key number i of a direction has a value and a key ID that only holders of the seed can compute. The ID hides i and can
be opened again, so that the receiving end needs no table and no word from the sending end. The direction goes into
every derivation: the masters at the two ends can never be given the same key.
"""

import hmac
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from uuid import UUID

SEED_BYTES = 32
INDEX_BYTES = 6
DIGEST_BYTES = sha256().digest_size


class Direction(StrEnum):
    """From the end whose node asks for the key (the master) to the end whose node fetches it by ID."""

    A_TO_B = "a-to-b"
    B_TO_A = "b-to-a"


@dataclass(frozen=True, slots=True)
class FibreKey:
    """A key as it lies in the stores of both ends."""

    key_id: str
    value: bytes = field(repr=False)


class Fibre:
    """One link's keys, of both directions."""

    def __init__(self, link: str, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"the seed of link {link} has {len(seed)} bytes, must have {SEED_BYTES}")
        self._secret = hmac.digest(seed, b"kmstn emulated fibre\x00" + link.encode(), "sha256")

    def key(self, direction: Direction, index: int, size_bits: int) -> FibreKey:
        """Derive key number `index`; its size must be whole bytes."""
        length, counted = size_bits // 8, index.to_bytes(INDEX_BYTES)
        blocks = range(-(-length // DIGEST_BYTES))
        value = b"".join(self._derive(b"value", direction, counted + block.to_bytes(2)) for block in blocks)
        return FibreKey(self.key_id(direction, index), value[:length])

    def key_id(self, direction: Direction, index: int) -> str:
        """Name key number `index`: a version 4 UUID of 6 masked index bytes and a 74-bit tag over the index."""
        tag = self._tag(direction, index)
        return str(UUID(bytes=_xor(index.to_bytes(INDEX_BYTES), self._mask(direction, tag)) + tag))

    def index(self, direction: Direction, key_id: str) -> int | None:
        """Say which key this is; None if this direction of this link never named one so."""
        try:
            raw = UUID(key_id).bytes
        except ValueError:
            return None
        tag = raw[INDEX_BYTES:]
        index = int.from_bytes(_xor(raw[:INDEX_BYTES], self._mask(direction, tag)))
        return index if hmac.compare_digest(tag, self._tag(direction, index)) else None

    def _tag(self, direction: Direction, index: int) -> bytes:
        tag = bytearray(self._derive(b"tag", direction, index.to_bytes(INDEX_BYTES))[: 16 - INDEX_BYTES])
        # RFC 9562, 5.4: version 4 and variant 0b10 have fixed places, here at the tag's first and third byte.
        tag[0] = tag[0] & 0x0F | 0x40
        tag[2] = tag[2] & 0x3F | 0x80
        return bytes(tag)

    def _mask(self, direction: Direction, tag: bytes) -> bytes:
        return self._derive(b"mask", direction, tag)[:INDEX_BYTES]

    def _derive(self, purpose: bytes, direction: Direction, context: bytes) -> bytes:
        return hmac.digest(self._secret, b"\x00".join((purpose, direction.encode(), context)), "sha256")


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
