"""A transit node has the sealed bodies in its hands; whatever it does to them, the destination refuses."""

from dataclasses import fields, replace
from typing import Any

import pytest

from node.crypto.aead import time_as_text
from node.crypto.end_to_end_seal import SealContext, Sealed, open_sealed, seal_for
from node.crypto.errors import KemError, SealRefusedError
from node.crypto.kem import KemKeyPair
from node.crypto.suites import suite_kem

KEM = suite_kem("cryptography", "mlkem768-v1")
BODIES = (b"a" * 32, b"b" * 32, b"c" * 7)
CONTEXT = SealContext(
    suite="mlkem768-v1",
    origin="kmstn1",
    destination="kmstn7",
    kem_key_id="kem-key-1",
    initiator_sae_id="sae-a",
    target_sae_ids=("sae-b",),
    key_ids=("key-1", "key-2", "key-3"),
    purpose="session",
    expires_at=time_as_text(1000.0),
)
CHANGED: dict[str, Any] = {
    "suite": "mlkem1024-v1",
    "origin": "kmstn2",
    "destination": "kmstn6",
    "kem_key_id": "kem-key-2",
    "initiator_sae_id": "sae-x",
    "target_sae_ids": ("sae-b", "sae-x"),
    "key_ids": ("key-1", "key-2", "key-4"),
    "purpose": "pool",
    "expires_at": time_as_text(1000.5),
}


@pytest.fixture(scope="module")
def pair() -> KemKeyPair:
    return KEM.generate()


@pytest.fixture(scope="module")
def sealed(pair: KemKeyPair) -> Sealed:
    return seal_for(BODIES, CONTEXT, KEM, pair.public)


def test_destination_gets_the_bodies_and_no_byte_is_added(pair: KemKeyPair, sealed: Sealed) -> None:
    assert [len(ciphertext) for ciphertext in sealed.ciphertexts] == [32, 32, 7]
    assert open_sealed(sealed, CONTEXT, KEM, pair.private) == BODIES


def test_transit_node_with_a_key_of_its_own_reads_nothing(sealed: Sealed) -> None:
    with pytest.raises(SealRefusedError, match="does not authenticate"):
        open_sealed(sealed, CONTEXT, KEM, KEM.generate().private)


def test_every_field_of_the_context_has_an_attack_below() -> None:
    assert set(CHANGED) == {field.name for field in fields(SealContext)}


@pytest.mark.parametrize("field", sorted(CHANGED))
def test_seal_moved_to_another_context(pair: KemKeyPair, sealed: Sealed, field: str) -> None:
    with pytest.raises(SealRefusedError, match="does not authenticate"):
        open_sealed(sealed, replace(CONTEXT, **{field: CHANGED[field]}), KEM, pair.private)


def test_sealed_bodies_change_places(pair: KemKeyPair, sealed: Sealed) -> None:
    order = (1, 0, 2)
    swapped = replace(
        sealed,
        ciphertexts=tuple(sealed.ciphertexts[i] for i in order),
        tags=tuple(sealed.tags[i] for i in order),
    )
    with pytest.raises(SealRefusedError, match="does not authenticate"):
        open_sealed(swapped, CONTEXT, KEM, pair.private)


@pytest.mark.parametrize("part", ["kem_ciphertext", "ciphertexts", "tags"])
def test_one_bit_of_a_seal_flipped(pair: KemKeyPair, sealed: Sealed, part: str) -> None:
    def flip(text: bytes) -> bytes:
        return text[:-1] + bytes([text[-1] ^ 0x80])

    whole = getattr(sealed, part)
    changed: Any = flip(whole) if isinstance(whole, bytes) else (*whole[:-1], flip(whole[-1]))
    with pytest.raises(SealRefusedError, match="does not authenticate"):
        open_sealed(replace(sealed, **{part: changed}), CONTEXT, KEM, pair.private)


def test_parts_left_out_of_a_seal(pair: KemKeyPair, sealed: Sealed) -> None:
    with pytest.raises(SealRefusedError, match="one tag per key ID"):
        open_sealed(replace(sealed, tags=sealed.tags[:2]), CONTEXT, KEM, pair.private)
    with pytest.raises(SealRefusedError, match="not a ciphertext of ML-KEM-768"):
        open_sealed(replace(sealed, kem_ciphertext=b""), CONTEXT, KEM, pair.private)


def test_seal_for_a_key_that_is_none_is_not_made() -> None:
    with pytest.raises(KemError, match="not a public key"):
        seal_for(BODIES, CONTEXT, KEM, b"")
    with pytest.raises(ValueError, match="2 bodies for 3 key IDs"):
        seal_for(BODIES[:2], CONTEXT, KEM, KEM.generate().public)
