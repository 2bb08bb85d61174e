"""What an attacker, or a confused neighbour, may try with one hop message: all but the honest case is refused."""

import os
from dataclasses import fields, replace
from typing import Any

import pytest

from node.crypto.aead import OneMessageKey, decrypt
from node.crypto.errors import HopRefusedError, KemError
from node.crypto.hybrid_transport import (
    HopContext,
    ProtectedBodies,
    Protection,
    _key,
    link_keys_needed,
    open_protected,
    protect,
)
from node.crypto.kem import KemKeyPair
from node.crypto.suites import suite_kem

KEM = suite_kem("cryptography", "mlkem768-v1")
BODIES = [bytes(range(64)), b"\x5a" * 32]
LINK_KEYS = [[os.urandom(32), os.urandom(32)], [os.urandom(32)]]
QKD = HopContext(
    suite="mlkem768-v1",
    protection=Protection.QKD_PQC,
    transfer_id="transfer-1",
    sender="kmstn1",
    receiver="kmstn2",
    kem_key_id="kem-key-1",
    initiator_sae_id="sae-a",
    target_sae_ids=("sae-b", "sae-c"),
    key_ids=("key-1", "key-2"),
    link_key_ids=(("link-1", "link-2"), ("link-3",)),
    path=("kmstn0", "kmstn1"),
    hop=1,
    purpose="pool",
    callback="https://kmstn1:8020/ack",
)
PQC = replace(QKD, protection=Protection.PQC, link_key_ids=())
CHANGED: dict[str, Any] = {
    "suite": "mlkem1024-v1",
    "protection": Protection.PQC,
    "transfer_id": "transfer-2",
    "sender": "kmstn3",
    "receiver": "kmstn3",
    "kem_key_id": "kem-key-2",
    "initiator_sae_id": "sae-b",
    "target_sae_ids": ("sae-b",),
    "key_ids": ("key-2", "key-1"),
    "link_key_ids": (("link-2", "link-1"), ("link-3",)),
    "path": ("kmstn1",),
    "hop": 2,
    "purpose": "session",
    "callback": None,
}


@pytest.fixture(scope="module")
def pair() -> KemKeyPair:
    return KEM.generate()


@pytest.fixture(scope="module")
def over_qkd(pair: KemKeyPair) -> ProtectedBodies:
    return protect(BODIES, QKD, KEM, pair.public, LINK_KEYS)


@pytest.fixture(scope="module")
def over_wan(pair: KemKeyPair) -> ProtectedBodies:
    return protect(BODIES, PQC, KEM, pair.public)


def flipped(text: bytes, position: int = 0) -> bytes:
    return text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :]


@pytest.mark.parametrize("size", [8, 32, 33, 64, 512])
def test_receiver_gets_the_bodies_and_no_byte_is_added(pair: KemKeyPair, size: int) -> None:
    number = link_keys_needed(size)
    link_keys = [[os.urandom(32) for _ in range(number)]]
    context = replace(QKD, key_ids=("key-1",), link_key_ids=(tuple(f"link-{i}" for i in range(number)),))
    body = os.urandom(size)
    protected = protect([body], context, KEM, pair.public, link_keys)
    assert [len(value) for value in protected.values] == [size]
    assert open_protected(protected, context, KEM, pair.private, link_keys) == (body,)


def test_receiver_gets_the_bodies_over_a_link_without_qkd(pair: KemKeyPair, over_wan: ProtectedBodies) -> None:
    assert open_protected(over_wan, PQC, KEM, pair.private) == tuple(BODIES)


def test_every_field_of_the_context_has_an_attack_below() -> None:
    assert set(CHANGED) == {field.name for field in fields(HopContext)}


@pytest.mark.parametrize("field", sorted(CHANGED))
def test_message_moved_to_another_context_over_qkd(pair: KemKeyPair, over_qkd: ProtectedBodies, field: str) -> None:
    context = replace(QKD, **{field: CHANGED[field]})
    with pytest.raises(HopRefusedError):
        open_protected(over_qkd, context, KEM, pair.private, LINK_KEYS)


@pytest.mark.parametrize("field", sorted(set(CHANGED) - {"protection", "link_key_ids"}))
def test_message_moved_to_another_context_without_qkd(pair: KemKeyPair, over_wan: ProtectedBodies, field: str) -> None:
    context = replace(PQC, **{field: CHANGED[field]})
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(over_wan, context, KEM, pair.private)


def test_kem_broken_but_link_keys_secret(pair: KemKeyPair, over_qkd: ProtectedBodies) -> None:
    guessed = [[bytes(32), bytes(32)], [bytes(32)]]
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(over_qkd, QKD, KEM, pair.private, guessed)


@pytest.mark.parametrize(("body", "link_key"), [(0, 0), (0, 1), (1, 0)])
def test_any_one_link_key_unknown(pair: KemKeyPair, over_qkd: ProtectedBodies, body: int, link_key: int) -> None:
    held = [list(keys) for keys in LINK_KEYS]
    held[body][link_key] = flipped(held[body][link_key], 31)
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(over_qkd, QKD, KEM, pair.private, held)


def test_link_tapped_but_kem_intact(over_qkd: ProtectedBodies) -> None:
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(over_qkd, QKD, KEM, KEM.generate().private, LINK_KEYS)
    pad = b"".join(LINK_KEYS[0])
    assert bytes(a ^ b for a, b in zip(over_qkd.values[0], pad, strict=True)) != BODIES[0]


def keys_derived_with(
    secrets: tuple[bytes, ...], protected: ProtectedBodies, context: HopContext, index: int
) -> OneMessageKey:
    """Derive as the receiver does, from whatever secrets the attacker holds: nothing else of it is secret."""
    return _key(context, context.encode(), protected.kem_ciphertext, secrets, index)


def opens(protected: ProtectedBodies, context: HopContext, key: OneMessageKey, index: int) -> bool:
    return decrypt(key, protected.values[index], protected.tags[index], context.encode()) is not None


def test_attacker_who_broke_the_kem_and_knows_every_body_and_link_key_but_one(
    pair: KemKeyPair, over_qkd: ProtectedBodies
) -> None:
    secret = KEM.decapsulate(pair.private, over_qkd.kem_ciphertext)
    first, second, other = *LINK_KEYS[0], LINK_KEYS[1][0]
    assert opens(over_qkd, QKD, keys_derived_with((secret, first, second), over_qkd, QKD, 0), 0)
    unknown = [(), (second,), (first,), (first, first), (first, other), (first, bytes(32)), (second, first)]
    as_pqc = replace(QKD, protection=Protection.PQC, link_key_ids=())
    for held in unknown:
        for context in (QKD, as_pqc):
            assert not opens(over_qkd, context, keys_derived_with((secret, *held), over_qkd, context, 0), 0)
    # Knowing the body gives away its pad only where the ciphertext under AES-GCM is known to be the padded body.
    guess = bytes(a ^ b for a, b in zip(over_qkd.values[0], BODIES[0], strict=True))
    assert guess != first + second
    assert not opens(over_qkd, QKD, keys_derived_with((secret, guess[:32], guess[32:]), over_qkd, QKD, 0), 0)


def test_attacker_who_holds_every_link_key_and_knows_every_body_but_not_the_kem_secret(
    pair: KemKeyPair, over_qkd: ProtectedBodies
) -> None:
    link_keys = LINK_KEYS[0]
    guesses = [(), (bytes(32),), (over_qkd.kem_ciphertext[:32],), (link_keys[0],)]
    for guess in guesses:
        key = keys_derived_with((*guess, *link_keys), over_qkd, QKD, 0)
        assert not opens(over_qkd, QKD, key, 0)
    # Nor does the secret of another encapsulation to the same key help, whoever made it.
    _ciphertext, another = KEM.encapsulate(pair.public)
    assert not opens(over_qkd, QKD, keys_derived_with((another, *link_keys), over_qkd, QKD, 0), 0)
    stripped = bytes(a ^ b for a, b in zip(over_qkd.values[0], b"".join(link_keys), strict=True))
    assert stripped != BODIES[0]


def test_secrets_of_another_body_of_the_same_transfer_do_not_open(pair: KemKeyPair, over_wan: ProtectedBodies) -> None:
    secret = KEM.decapsulate(pair.private, over_wan.kem_ciphertext)
    assert opens(over_wan, PQC, keys_derived_with((secret,), over_wan, PQC, 1), 1)
    assert not opens(over_wan, PQC, keys_derived_with((secret,), over_wan, PQC, 0), 1)


def test_grade_downgraded_to_pqc_by_one_who_broke_the_kem(pair: KemKeyPair, over_qkd: ProtectedBodies) -> None:
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(over_qkd, PQC, KEM, pair.private)


def test_grade_raised_to_qkd_without_link_keys(pair: KemKeyPair, over_wan: ProtectedBodies) -> None:
    with pytest.raises(HopRefusedError):
        open_protected(over_wan, QKD, KEM, pair.private)


@pytest.mark.parametrize("position", [0, 31])
def test_tampered_value(pair: KemKeyPair, over_qkd: ProtectedBodies, position: int) -> None:
    tampered = replace(over_qkd, values=(over_qkd.values[0], flipped(over_qkd.values[1], position)))
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(tampered, QKD, KEM, pair.private, LINK_KEYS)


@pytest.mark.parametrize("size", [0, 4, 12, 15, 17])
def test_tag_of_another_length(pair: KemKeyPair, over_qkd: ProtectedBodies, size: int) -> None:
    tag = (over_qkd.tags[1] + b"\0")[:size]
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(replace(over_qkd, tags=(over_qkd.tags[0], tag)), QKD, KEM, pair.private, LINK_KEYS)


def test_tampered_tag(pair: KemKeyPair, over_qkd: ProtectedBodies) -> None:
    tampered = replace(over_qkd, tags=(flipped(over_qkd.tags[0]), over_qkd.tags[1]))
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(tampered, QKD, KEM, pair.private, LINK_KEYS)


def test_tampered_kem_ciphertext(pair: KemKeyPair, over_qkd: ProtectedBodies) -> None:
    tampered = replace(over_qkd, kem_ciphertext=flipped(over_qkd.kem_ciphertext))
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(tampered, QKD, KEM, pair.private, LINK_KEYS)


def test_kem_ciphertext_of_another_length(pair: KemKeyPair, over_qkd: ProtectedBodies) -> None:
    with pytest.raises(HopRefusedError, match="not a ciphertext of ML-KEM-768"):
        open_protected(replace(over_qkd, kem_ciphertext=b"short"), QKD, KEM, pair.private, LINK_KEYS)


def test_bodies_of_one_transfer_change_places(pair: KemKeyPair) -> None:
    context = replace(PQC, key_ids=("key-1", "key-2"))
    protected = protect([b"a" * 32, b"b" * 32], context, KEM, pair.public)
    swapped = replace(protected, values=protected.values[::-1], tags=protected.tags[::-1])
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(swapped, context, KEM, pair.private)


def test_body_dropped_from_a_transfer(pair: KemKeyPair, over_wan: ProtectedBodies) -> None:
    fewer = replace(over_wan, values=over_wan.values[:1], tags=over_wan.tags[:1])
    with pytest.raises(HopRefusedError):
        open_protected(fewer, PQC, KEM, pair.private)
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(fewer, replace(PQC, key_ids=PQC.key_ids[:1]), KEM, pair.private)


def test_tag_left_out(pair: KemKeyPair, over_wan: ProtectedBodies) -> None:
    with pytest.raises(HopRefusedError, match="one tag per value"):
        open_protected(replace(over_wan, tags=over_wan.tags[:1]), PQC, KEM, pair.private)


def test_peer_names_the_same_link_key_twice(pair: KemKeyPair, over_qkd: ProtectedBodies) -> None:
    context = replace(QKD, link_key_ids=(("link-1", "link-2"), ("link-1",)))
    with pytest.raises(HopRefusedError, match="used twice"):
        open_protected(over_qkd, context, KEM, pair.private, LINK_KEYS)


def test_same_bodies_sent_twice_do_not_look_alike(pair: KemKeyPair, over_wan: ProtectedBodies) -> None:
    again = protect(BODIES, PQC, KEM, pair.public)
    assert not set(again.values) & set(over_wan.values)
    assert again.kem_ciphertext != over_wan.kem_ciphertext


@pytest.mark.parametrize(
    ("context", "link_keys", "why"),
    [
        (QKD, (), "link keys for 0 bodies"),
        (QKD, [LINK_KEYS[0][:1], LINK_KEYS[1]], "1 link keys and 2 IDs for a body of 64 bytes"),
        (QKD, [LINK_KEYS[0], [b"short"]], "not 32 bytes"),
        (replace(QKD, link_key_ids=(("link-1", "link-2"), ("link-2",))), LINK_KEYS, "used twice"),
        (PQC, LINK_KEYS, "a pqc hop has no link keys"),
        (replace(QKD, protection=Protection.PQC), (), "a pqc hop has no link keys"),
        (replace(PQC, key_ids=("key-1",)), (), "2 bodies"),
    ],
)
def test_sender_with_link_keys_that_do_not_fit_sends_nothing(
    pair: KemKeyPair, context: HopContext, link_keys: list[list[bytes]], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        protect(BODIES, context, KEM, pair.public, link_keys)


def test_neighbour_advertises_a_public_key_that_is_none() -> None:
    with pytest.raises(KemError, match="not a public key of ML-KEM-768"):
        protect(BODIES, PQC, KEM, b"\xff" * 1184)
