"""Wrapping session keys with pool blocks: a one-time pad, and a one-time authenticator from one further block.

Per request: each key takes as many 256-bit blocks as its size needs (the last one cut), and one further block is the
key of Poly1305 over context and all values. Used once, Poly1305 with a uniformly random key is a Wegman-Carter
authenticator: whatever computing power the forger has, a forgery passes with probability at most
8 * ceil(L / 16) / 2^106 for a message of L bytes (Bernstein, FSE 2005). So, given uniformly random and secret blocks
that are used once, both secrecy and integrity of the wrap are information-theoretic; the blocks themselves are as good
as the way they came (see `hybrid_transport`). Spending blocks once is the pool's business, before this is called.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.poly1305 import Poly1305

from node.crypto.aead import associated_data, xor
from node.crypto.errors import WrapRefusedError

BLOCK_SIZE_BYTES: Final = 32
_LABEL: Final = "kmstn pool wrap v2"


@dataclass(frozen=True)
class WrapContext:
    """What both ends must agree on, all of it authenticated; `key_ids` in the keys' order, `block_ids` as spent.

    `expires_at` is what `aead.time_as_text` gives.
    """

    origin: str
    destination: str
    initiator_sae_id: str
    target_sae_ids: tuple[str, ...]
    key_ids: tuple[str, ...]
    block_ids: tuple[str, ...]
    purpose: str
    expires_at: str


@dataclass(frozen=True)
class Wrapped:
    """What travels: a value per key, of the key's length, and one tag of 16 bytes for the request."""

    values: tuple[bytes, ...]
    tag: bytes


def blocks_needed(key_sizes_bytes: Sequence[int]) -> int:
    """Return how many blocks one request spends: the pads of all keys, and one for authentication."""
    return 1 + sum(math.ceil(size / BLOCK_SIZE_BYTES) for size in key_sizes_bytes)


def wrap(keys: Sequence[bytes], blocks: Sequence[bytes], context: WrapContext) -> Wrapped:
    """Wrap the keys of one request with exactly `blocks_needed` fresh pool blocks.

    Raises `ValueError` if the numbers or sizes of keys, IDs and blocks do not fit each other.
    """
    mismatch = _mismatch([len(key) for key in keys], blocks, context)
    if mismatch:
        raise ValueError(mismatch)
    values = _pad(keys, blocks[1:])
    return Wrapped(values, Poly1305.generate_tag(blocks[0], _message(values, context)))


def unwrap(wrapped: Wrapped, blocks: Sequence[bytes], context: WrapContext) -> tuple[bytes, ...]:
    """Return the keys, all or none; raise `WrapRefusedError` if anything does not match. The blocks are spent."""
    mismatch = _mismatch([len(value) for value in wrapped.values], blocks, context)
    if mismatch:
        raise WrapRefusedError(mismatch)
    try:
        Poly1305.verify_tag(blocks[0], _message(wrapped.values, context), wrapped.tag)
    except InvalidSignature:
        raise WrapRefusedError(f"a wrapped key from {context.origin} does not authenticate") from None
    return _pad(wrapped.values, blocks[1:])


def _pad(texts: Sequence[bytes], blocks: Sequence[bytes]) -> tuple[bytes, ...]:
    padded, used = [], 0
    for text in texts:
        number = math.ceil(len(text) / BLOCK_SIZE_BYTES)
        padded.append(xor(text, b"".join(blocks[used : used + number])[: len(text)]))
        used += number
    return tuple(padded)


def _message(values: Sequence[bytes], context: WrapContext) -> bytes:
    return associated_data(_LABEL, values=[value.hex() for value in values], **vars(context))


def _mismatch(sizes: Sequence[int], blocks: Sequence[bytes], context: WrapContext) -> str | None:
    if not sizes or 0 in sizes or len(sizes) != len(context.key_ids):
        return f"{len(sizes)} keys (none empty) for {len(context.key_ids)} key IDs"
    needed = blocks_needed(sizes)
    if not len(blocks) == len(context.block_ids) == needed:
        return f"{len(blocks)} blocks and {len(context.block_ids)} block IDs where {needed} are needed"
    if len(set(context.block_ids)) != needed:
        return "a block is used twice"
    if any(len(block) != BLOCK_SIZE_BYTES for block in blocks):
        return f"a block is not {BLOCK_SIZE_BYTES} bytes long"
    return None
