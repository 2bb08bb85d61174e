"""The KEM interface over `cryptography`, and what a node says where a provider is missing."""

import copy
import pickle
import sys

import pytest

from node.crypto import kem_liboqs
from node.crypto.errors import KemError, KemUnavailableError, UnknownSuiteError
from node.crypto.kem import ML_KEM_768, ML_KEM_1024, Provider, kem, public_key_id
from node.crypto.secret_bytes import SecretBytes
from node.crypto.suites import SUITES, provider_of, suite_kem, suite_named

MECHANISMS = [ML_KEM_768, ML_KEM_1024]
PROVIDERS: tuple[Provider, ...] = ("cryptography", "liboqs")
# FIPS 203, table 3: public key and ciphertext.
SIZES = {ML_KEM_768: (1184, 1088), ML_KEM_1024: (1568, 1568)}


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_stored_private_key_reopens(mechanism: str) -> None:
    engine = kem("cryptography", mechanism)
    pair = engine.generate()
    ciphertext, secret = engine.encapsulate(pair.public)
    stored = SecretBytes(bytes.fromhex(pair.private.reveal().hex()))
    assert engine.decapsulate(stored, ciphertext) == secret
    assert (len(pair.public), len(ciphertext)) == SIZES[mechanism]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_tampered_ciphertext_gives_another_secret_and_no_error(mechanism: str) -> None:
    engine = kem("cryptography", mechanism)
    pair = engine.generate()
    ciphertext, secret = engine.encapsulate(pair.public)
    other = engine.decapsulate(pair.private, bytes([ciphertext[0] ^ 1]) + ciphertext[1:])
    assert other != secret
    assert len(other) == len(secret)


@pytest.mark.parametrize("public", [b"", b"\0" * 1183, b"\0" * 1568, b"\xff" * 1184])
def test_malformed_public_key(public: bytes) -> None:
    with pytest.raises(KemError, match=rf"not a public key of ML-KEM-768 .{len(public)} bytes"):
        kem("cryptography", ML_KEM_768).encapsulate(public)


def test_malformed_ciphertext_and_private_key() -> None:
    engine = kem("cryptography", ML_KEM_768)
    pair = engine.generate()
    with pytest.raises(KemError, match=r"not a ciphertext of ML-KEM-768 .1087 bytes"):
        engine.decapsulate(pair.private, b"\0" * 1087)
    with pytest.raises(KemError, match=r"not a private key of ML-KEM-768 .63 bytes") as caught:
        engine.decapsulate(SecretBytes(b"s" * 63), b"\0" * 1088)
    assert "sss" not in str(caught.value)


def test_key_pair_and_its_failures_print_no_private_bytes() -> None:
    private = kem("cryptography", ML_KEM_768).generate().private
    shown = f"{private} {private!r} {[private]}"
    assert private.reveal().hex() not in shown
    assert "64 bytes" in shown


def test_secret_bytes_do_not_leave_by_the_back_door() -> None:
    secret = SecretBytes(b"secret")
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(secret)
    with pytest.raises(TypeError, match="not hashable"):
        hash(secret)
    assert secret == SecretBytes(b"secret")
    assert secret != SecretBytes(b"secreT")
    assert secret != b"secret"


def test_key_id_binds_mechanism_and_key() -> None:
    ids = {public_key_id("A", b"key"), public_key_id("B", b"key"), public_key_id("A", b"kez")}
    assert len(ids) == 3
    assert {len(key_id) for key_id in ids} == {32}


def test_unknown_names_are_refused_by_name() -> None:
    with pytest.raises(UnknownSuiteError, match="mlkem768-v2"):
        suite_named("mlkem768-v2")
    with pytest.raises(KemUnavailableError, match="FrodoKEM-640-AES"):
        suite_kem("cryptography", "frodokem640aes-v1")
    with pytest.raises(KemUnavailableError, match=r"mlkem768\+frodokem976aes-v1 needs FrodoKEM-976-AES"):
        suite_kem("cryptography", "mlkem768+frodokem976aes-v1")
    with pytest.raises(KemUnavailableError, match="no KEM provider is called 'other'"):
        kem("other", ML_KEM_768)  # type: ignore[arg-type]


def test_suite_names_say_what_they_mean_and_carry_a_version() -> None:
    for name, suite in SUITES.items():
        parts = name.removesuffix("-v1").split("+")
        assert name.endswith("-v1")
        assert len(parts) == len(set(suite.mechanisms)) == len(suite.mechanisms)
        assert suite.mechanisms == tuple(mechanism for part in parts for mechanism in SUITES[f"{part}-v1"].mechanisms)
    assert len({suite.mechanism for suite in SUITES.values()}) == len(SUITES)


def test_only_ml_kem_has_a_choice_of_provider() -> None:
    for provider in PROVIDERS:
        assert [provider_of(provider, mechanism) for mechanism in MECHANISMS] == [provider] * 2
        assert provider_of(provider, "FrodoKEM-976-AES") == provider_of(provider, "ML-KEM-512") == "liboqs"


@pytest.mark.parametrize("prefix", [None, "", "/nowhere"])
def test_liboqs_that_is_not_installed_is_neither_cloned_nor_built(
    monkeypatch: pytest.MonkeyPatch, prefix: str | None
) -> None:
    kem_liboqs._load_oqs.cache_clear()
    monkeypatch.delenv(kem_liboqs.INSTALL_PATH_VARIABLE, raising=False)
    monkeypatch.delitem(sys.modules, "oqs", raising=False)
    if prefix is not None:
        monkeypatch.setenv(kem_liboqs.INSTALL_PATH_VARIABLE, prefix)
    with pytest.raises(KemUnavailableError, match="OQS_INSTALL_PATH"):
        kem("liboqs", ML_KEM_768)
    assert "oqs" not in sys.modules
