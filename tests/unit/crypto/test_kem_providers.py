"""Two providers of one mechanism: each opens the other's ciphertexts and reopens the other's stored keys."""

import itertools
import warnings

import pytest

from node.crypto.errors import KemError, KemUnavailableError
from node.crypto.kem import ML_KEM_768, ML_KEM_1024, Provider, kem
from node.crypto.kem_liboqs import enabled_mechanisms
from node.crypto.secret_bytes import SecretBytes
from node.crypto.suites import SUITES, suite_kem

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
    if SUITES[suite].mechanism not in enabled_mechanisms():
        with pytest.raises(KemUnavailableError, match=SUITES[suite].mechanism):
            suite_kem("liboqs", suite)
        return
    engine = suite_kem("liboqs", suite)
    pair = engine.generate()
    ciphertext, secret = engine.encapsulate(pair.public)
    assert engine.decapsulate(SecretBytes(pair.private.reveal()), ciphertext) == secret
    assert engine.decapsulate(engine.generate().private, ciphertext) != secret


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
