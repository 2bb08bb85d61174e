"""Wrapped keys: refused unless value, tag, context and every block are the ones they were wrapped with."""

import hashlib
from dataclasses import fields, replace
from typing import Any

import pytest

from node.crypto.aead import time_as_text
from node.crypto.errors import WrapRefusedError
from node.crypto.pool_wrap import WrapContext, Wrapped, blocks_needed, unwrap, wrap

KEYS = (b"k" * 32, b"l" * 40)
BLOCKS = tuple(hashlib.sha256(bytes([i])).digest() for i in range(4))
CONTEXT = WrapContext(
    origin="kmstn1",
    destination="kmstn7",
    initiator_sae_id="sae-a",
    target_sae_ids=("sae-b",),
    key_ids=("key-1", "key-2"),
    block_ids=("block-0", "block-1", "block-2", "block-3"),
    purpose="session",
    expires_at=time_as_text(1000.0),
)
WRAPPED = wrap(KEYS, BLOCKS, CONTEXT)
CHANGED: dict[str, Any] = {
    "origin": "kmstn2",
    "destination": "kmstn6",
    "initiator_sae_id": "sae-x",
    "target_sae_ids": ("sae-x",),
    "key_ids": ("key-2", "key-1"),
    "block_ids": ("block-0", "block-1", "block-3", "block-2"),
    "purpose": "pool",
    "expires_at": time_as_text(1000.5),
}


def flipped(text: bytes) -> bytes:
    return bytes([text[0] ^ 1]) + text[1:]


@pytest.mark.parametrize(
    ("sizes", "blocks"), [([8], 2), ([32], 2), ([33], 3), ([512], 17), ([32, 32, 40], 5), ([32] * 128, 129)]
)
def test_request_spends_its_pads_and_one_block_for_authentication(sizes: list[int], blocks: int) -> None:
    assert blocks_needed(sizes) == blocks


def test_destination_gets_the_keys_and_no_byte_is_added() -> None:
    assert [len(value) for value in WRAPPED.values] == [32, 40]
    assert unwrap(WRAPPED, BLOCKS, CONTEXT) == KEYS


def test_no_block_pads_two_keys() -> None:
    pads = [bytes(a ^ b for a, b in zip(k, v, strict=True)) for k, v in zip(KEYS, WRAPPED.values, strict=True)]
    assert pads == [BLOCKS[1], (BLOCKS[2] + BLOCKS[3])[:40]]


def test_every_field_of_the_context_has_an_attack_below() -> None:
    assert set(CHANGED) == {field.name for field in fields(WrapContext)}


@pytest.mark.parametrize("field", sorted(CHANGED))
def test_wrapped_keys_moved_to_another_context(field: str) -> None:
    with pytest.raises(WrapRefusedError, match="does not authenticate"):
        unwrap(WRAPPED, BLOCKS, replace(CONTEXT, **{field: CHANGED[field]}))


@pytest.mark.parametrize(
    "wrapped",
    [
        replace(WRAPPED, values=(flipped(WRAPPED.values[0]), WRAPPED.values[1])),
        replace(WRAPPED, values=(WRAPPED.values[0], WRAPPED.values[1][:-1])),
        replace(WRAPPED, tag=flipped(WRAPPED.tag)),
        replace(WRAPPED, tag=WRAPPED.tag[:15]),
        replace(WRAPPED, tag=b""),
    ],
    ids=["value", "shorter value", "tag", "shorter tag", "no tag"],
)
def test_tampered_wrap(wrapped: Wrapped) -> None:
    with pytest.raises(WrapRefusedError, match="does not authenticate"):
        unwrap(wrapped, BLOCKS, CONTEXT)


def test_forger_who_knows_every_pad_but_not_the_authentication_block() -> None:
    forged = wrap((b"m" * 32, KEYS[1]), (bytes(32), *BLOCKS[1:]), CONTEXT)
    with pytest.raises(WrapRefusedError, match="does not authenticate"):
        unwrap(forged, BLOCKS, CONTEXT)


@pytest.mark.parametrize(
    ("blocks", "context", "why"),
    [
        (BLOCKS[:3], CONTEXT, "3 blocks and 4 block IDs where 4 are needed"),
        (BLOCKS, replace(CONTEXT, block_ids=CONTEXT.block_ids[:3]), "4 blocks and 3 block IDs"),
        (BLOCKS, replace(CONTEXT, block_ids=("block-0", "block-1", "block-2", "block-1")), "used twice"),
        ((*BLOCKS[:3], b"short"), CONTEXT, "not 32 bytes"),
        (BLOCKS, replace(CONTEXT, key_ids=("key-1",)), "2 keys"),
    ],
)
def test_blocks_that_do_not_fit_are_refused_at_both_ends(
    blocks: tuple[bytes, ...], context: WrapContext, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        wrap(KEYS, blocks, context)
    with pytest.raises(WrapRefusedError, match=why):
        unwrap(WRAPPED, blocks, context)
