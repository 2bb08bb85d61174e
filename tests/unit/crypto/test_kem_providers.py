"""Two providers of one mechanism: each opens the other's ciphertexts and reopens the other's stored keys."""

import itertools
import warnings
from dataclasses import replace

import pytest

from node.crypto.errors import HopRefusedError, KemError, KemUnavailableError
from node.crypto.hybrid_transport import open_protected, protect
from node.crypto.kem import ML_KEM_768, ML_KEM_1024, Provider, kem
from node.crypto.kem_combined import join, split
from node.crypto.kem_liboqs import KEYS_IN_USE, enabled_mechanisms
from node.crypto.secret_bytes import SecretBytes
from node.crypto.suites import SUITES, suite_kem
from tests.unit.crypto.test_hybrid_transport import BODIES, PQC

pytestmark = pytest.mark.node_image

PROVIDERS: tuple[Provider, ...] = ("cryptography", "liboqs")


@pytest.mark.parametrize("mechanism", [ML_KEM_768, ML_KEM_1024])
@pytest.mark.parametrize(("maker", "sender", "holder"), list(itertools.product(PROVIDERS, repeat=3)))
def test_providers_open_each_others_ciphertexts(
    mechanism: str, maker: Provider, sender: Provider, holder: Provider
) -> None:
    pair = kem(maker, mechanism).generate()
    ciphertext, secret = kem(sender, mechanism).encapsulate(pair.public)
    assert kem(holder, mechanism).decapsulate(pair.private, ciphertext) == secret


def test_providers_reject_a_tampered_ciphertext_alike() -> None:
    pair = kem("cryptography", ML_KEM_768).generate()
    ciphertext = b"\x17" * 1088
    assert len({kem(provider, ML_KEM_768).decapsulate(pair.private, ciphertext) for provider in PROVIDERS}) == 1


@pytest.mark.parametrize("suite", sorted(SUITES))
def test_every_suite_that_liboqs_enables_opens_what_it_sealed(suite: str) -> None:
    if missing := set(SUITES[suite].mechanisms) - set(enabled_mechanisms()):
        with pytest.raises(KemUnavailableError, match=f"{suite} needs {missing.pop()}".replace("+", r"\+")):
            suite_kem("liboqs", suite)
        return
    engine = suite_kem("liboqs", suite)
    pair = engine.generate()
    ciphertext, secret = engine.encapsulate(pair.public)
    assert engine.decapsulate(SecretBytes(pair.private.reveal()), ciphertext) == secret
    assert engine.decapsulate(engine.generate().private, ciphertext) != secret


def test_every_mechanism_that_liboqs_enables_has_a_suite() -> None:
    assert set(enabled_mechanisms()) <= {suite.mechanism for suite in SUITES.values()}


COMBINED = sorted(suite.name for suite in SUITES.values() if len(suite.mechanisms) > 1)


@pytest.mark.parametrize("suite", COMBINED)
def test_combinations_open_each_others_ciphertexts_whoever_provides_ml_kem(suite: str) -> None:
    for maker, sender, holder in (PROVIDERS * 2)[:3], (PROVIDERS * 2)[1:]:
        pair = suite_kem(maker, suite).generate()
        ciphertext, secret = suite_kem(sender, suite).encapsulate(pair.public)
        assert suite_kem(holder, suite).decapsulate(pair.private, ciphertext) == secret


@pytest.mark.parametrize("suite", COMBINED)
@pytest.mark.parametrize("broken", [0, 1])
def test_attacker_who_broke_one_kem_of_a_combination_opens_no_hop(suite: str, broken: int) -> None:
    engine = suite_kem("cryptography", suite)
    pair = engine.generate()
    context = replace(PQC, suite=suite)
    protected = protect(BODIES, context, engine, pair.public)
    assert open_protected(protected, context, engine, pair.private) == tuple(BODIES)
    known, other = split(pair.private.reveal()), split(engine.generate().private.reveal())
    assert known is not None
    assert other is not None
    known[1 - broken] = other[1 - broken]
    with pytest.raises(HopRefusedError, match="does not authenticate"):
        open_protected(protected, context, engine, SecretBytes(join(known)))


def test_key_that_liboqs_kept_expanded_is_not_taken_for_another() -> None:
    engine = kem("liboqs", ML_KEM_768)
    pairs = [engine.generate() for _ in range(KEYS_IN_USE + 4)]
    made = [engine.encapsulate(pair.public) for pair in pairs]
    for _ in range(2):
        opened = [engine.decapsulate(pair.private, text) for pair, (text, _secret) in zip(pairs, made, strict=True)]
        assert opened == [secret for _text, secret in made]


def test_image_has_another_kem_than_the_lattices_of_ml_kem() -> None:
    assert {"ML-KEM-768", "ML-KEM-1024"} < set(enabled_mechanisms())
    assert any(name.startswith(("Classic-McEliece", "FrodoKEM", "HQC", "BIKE")) for name in enabled_mechanisms())


def test_malformed_input_to_liboqs_is_refused_before_it_reaches_c() -> None:
    engine = kem("liboqs", ML_KEM_768)
    pair = engine.generate()
    with pytest.raises(KemError, match="not a public key"):
        engine.encapsulate(pair.public + b"\0")
    with pytest.raises(KemError, match="not a ciphertext"):
        engine.decapsulate(pair.private, b"")
    with pytest.raises(KemError, match="not a private key"):
        engine.decapsulate(SecretBytes(b"\0" * 2400), b"\0" * 1088)


def test_loading_liboqs_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kem("liboqs", ML_KEM_768).name == ML_KEM_768
