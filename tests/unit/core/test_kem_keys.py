"""Rotation of a node's KEM keys: a successor at half life, the old key opens until it expires, and not for others."""

import pytest

from node.core.kem_keys import KemKey, KemKeyring
from node.crypto.suites import suite_kem
from node.wire.federation import KemPublicKey

SUITE, OTHER = "mlkem768-v1", "mlkem1024-v1"
LIFETIME_S = 100.0


def keyring(*suites: str) -> KemKeyring:
    return KemKeyring(suites or (SUITE,), "cryptography", LIFETIME_S)


def renewed(ring: KemKeyring, now: float) -> tuple[KemKey, ...]:
    made = ring.renewals(now)
    ring.install(made)
    return made


def published(ring: KemKeyring, purpose: str = "seal") -> KemPublicKey:
    (key,) = [key for key in ring.published() if key.purpose == purpose]
    return key


def test_first_round_makes_one_key_for_each_purpose_and_suite() -> None:
    ring = keyring(SUITE, OTHER)
    made = renewed(ring, 0.0)
    assert sorted((key.purpose, key.suite) for key in made) == sorted(
        (purpose, suite) for purpose in ("hop", "seal") for suite in (SUITE, OTHER)
    )
    assert len({key.private for key in made}) == 4
    assert {key.key_id for key in ring.published()} == {key.key_id for key in made}
    assert ring.renewals(0.0) == ()


def test_key_made_but_not_yet_stored_is_not_published() -> None:
    ring = keyring()
    ring.renewals(0.0)
    assert ring.published() == ()


def test_successor_is_published_from_half_life_on_and_not_before() -> None:
    ring = keyring()
    renewed(ring, 0.0)
    first = published(ring)
    assert renewed(ring, 49.0) == ()
    assert published(ring) == first
    assert len(renewed(ring, 50.0)) == 2
    assert published(ring).key_id != first.key_id


def test_old_key_opens_what_is_under_way_until_it_expires_and_no_longer() -> None:
    ring = keyring()
    renewed(ring, 0.0)
    first = published(ring)
    ciphertext, secret = suite_kem("cryptography", SUITE).encapsulate(first.public_key)
    renewed(ring, 50.0)
    ring.forget_expired(99.0)
    private = ring.private_key("seal", SUITE, first.key_id)
    assert private is not None
    assert suite_kem("cryptography", SUITE).decapsulate(private, ciphertext) == secret
    ring.forget_expired(100.0)
    assert ring.private_key("seal", SUITE, first.key_id) is None
    assert published(ring).key_id != first.key_id


def test_restarted_node_opens_with_its_stored_keys_and_makes_no_new_ones() -> None:
    stored = renewed(keyring(), 0.0)
    restarted = keyring()
    restarted.install(stored)
    assert restarted.renewals(10.0) == ()
    assert {key.key_id for key in restarted.published()} == {key.key_id for key in stored}


@pytest.mark.parametrize(("purpose", "suite"), [("hop", SUITE), ("seal", OTHER)])
def test_key_named_for_another_purpose_or_suite_does_not_open(purpose: str, suite: str) -> None:
    ring = keyring(SUITE, OTHER)
    renewed(ring, 0.0)
    (seal_key,) = [key for key in ring.published() if (key.purpose, key.suite) == ("seal", SUITE)]
    assert ring.private_key("seal", SUITE, seal_key.key_id) is not None
    assert ring.private_key(purpose, suite, seal_key.key_id) is None  # type: ignore[arg-type]


def test_unknown_key_does_not_open() -> None:
    ring = keyring()
    renewed(ring, 0.0)
    assert ring.private_key("seal", SUITE, "0" * 32) is None


def test_key_of_a_suite_taken_out_of_the_settings_is_neither_published_nor_used() -> None:
    stored = renewed(keyring(SUITE, OTHER), 0.0)
    restarted = keyring(OTHER)
    restarted.install(stored)
    assert {key.suite for key in restarted.published()} == {OTHER}
    for key in stored:
        assert (restarted.private_key(key.purpose, key.suite, key.key_id) is not None) == (key.suite == OTHER)
    assert restarted.accepts(OTHER)
    assert not restarted.accepts(SUITE)
