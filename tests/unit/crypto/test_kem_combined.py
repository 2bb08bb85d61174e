"""Two KEMs as one: whoever broke one of them, or bends its ciphertexts, has nothing of the combination."""

import hashlib
import itertools
from collections.abc import Callable

import pytest

from node.crypto.errors import KemError
from node.crypto.kem import ML_KEM_768, ML_KEM_1024, Kem, KemKeyPair, kem
from node.crypto.kem_combined import CombinedKem, combine, join, split
from node.crypto.secret_bytes import SecretBytes

FIRST, SECOND = kem("cryptography", ML_KEM_768), kem("cryptography", ML_KEM_1024)
COMBINED = CombinedKem([FIRST, SECOND])


class BrokenKem:
    """A KEM whose secret everybody knows, whatever key and ciphertext: the worst that can befall a component."""

    name = "broken"

    def generate(self) -> KemKeyPair:
        return KemKeyPair(b"public", SecretBytes(b"private"))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        return b"ciphertext", bytes(32)

    def decapsulate(self, private: SecretBytes, ciphertext: bytes) -> bytes:
        return bytes(32)


@pytest.fixture(scope="module")
def pair() -> KemKeyPair:
    return COMBINED.generate()


@pytest.fixture(scope="module")
def encapsulated(pair: KemKeyPair) -> tuple[bytes, bytes]:
    return COMBINED.encapsulate(pair.public)


def parts(text: bytes) -> list[bytes]:
    found = split(text)
    assert found is not None
    return found


def flipped(text: bytes, position: int) -> bytes:
    return text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :]


def test_receiver_gets_the_secret(pair: KemKeyPair, encapsulated: tuple[bytes, bytes]) -> None:
    ciphertext, secret = encapsulated
    stored = SecretBytes(bytes.fromhex(pair.private.reveal().hex()))
    assert COMBINED.decapsulate(stored, ciphertext) == secret
    assert len(secret) == 32
    assert COMBINED.name == "ML-KEM-768+ML-KEM-1024"


def test_every_encapsulation_has_another_secret(pair: KemKeyPair) -> None:
    made = [COMBINED.encapsulate(pair.public) for _ in range(4)]
    assert len({secret for _ciphertext, secret in made}) == len({ciphertext for ciphertext, _secret in made}) == 4


@pytest.mark.parametrize("broken", [0, 1])
def test_attacker_with_the_private_key_of_one_component_and_all_that_is_public(
    pair: KemKeyPair, encapsulated: tuple[bytes, bytes], broken: int
) -> None:
    ciphertext, secret = encapsulated
    own = parts(pair.private.reveal())
    own[1 - broken] = parts(COMBINED.generate().private.reveal())[1 - broken]
    assert COMBINED.decapsulate(SecretBytes(join(own)), ciphertext) != secret


@pytest.mark.parametrize("known", [0, 1])
def test_attacker_with_one_component_secret_who_leaves_out_guesses_or_repeats_the_other(
    pair: KemKeyPair, encapsulated: tuple[bytes, bytes], known: int
) -> None:
    ciphertext, secret = encapsulated
    component, private, text = (FIRST, SECOND)[known], parts(pair.private.reveal())[known], parts(ciphertext)[known]
    held = component.decapsulate(SecretBytes(private), text)
    digest = hashlib.sha256(pair.public).digest()
    guesses: list[list[bytes]] = [[held], [held, held], [held, b""], [b"", held], [held, bytes(32)], [bytes(32), held]]
    assert secret not in [combine(COMBINED.name, guess, ciphertext, digest) for guess in guesses]
    assert secret not in [combine(component.name, [held], text, digest), held]


@pytest.mark.parametrize("order", [0, 1])
def test_secret_stands_while_one_component_is_broken_altogether(order: int) -> None:
    components: list[Kem] = [FIRST, BrokenKem()]
    combined = CombinedKem(components[::-1] if order else components)
    pair = combined.generate()
    ciphertext, secret = combined.encapsulate(pair.public)
    assert combined.decapsulate(pair.private, ciphertext) == secret
    assert combined.decapsulate(combined.generate().private, ciphertext) != secret


@pytest.mark.parametrize("order", [0, 1])
def test_other_ciphertext_for_the_same_secret_of_a_broken_component_gives_another_secret(order: int) -> None:
    components: list[Kem] = [FIRST, BrokenKem()]
    combined = CombinedKem(components[::-1] if order else components)
    pair = combined.generate()
    ciphertext, secret = combined.encapsulate(pair.public)
    texts = parts(ciphertext)
    texts[0 if order else 1] = b"ciphertexT"
    assert combined.decapsulate(pair.private, join(texts)) != secret


def test_one_bit_of_any_part_of_the_ciphertext_flipped(pair: KemKeyPair, encapsulated: tuple[bytes, bytes]) -> None:
    ciphertext, secret = encapsulated
    for index, position in itertools.product((0, 1), (0, 500, 1087)):
        texts = parts(ciphertext)
        texts[index] = flipped(texts[index], position)
        assert COMBINED.decapsulate(pair.private, join(texts)) != secret


def test_secret_is_bound_to_the_public_keys_of_its_receiver(
    pair: KemKeyPair, encapsulated: tuple[bytes, bytes]
) -> None:
    ciphertext, secret = encapsulated
    own = parts(pair.private.reveal())
    assert own[2] == hashlib.sha256(pair.public).digest()
    assert COMBINED.decapsulate(SecretBytes(join([*own[:2], bytes(32)])), ciphertext) != secret


def test_order_of_the_components_counts(pair: KemKeyPair) -> None:
    secrets, digest = [b"one", b"two"], bytes(32)
    made = {
        combine("A+B", secrets, b"text", digest),
        combine("B+A", secrets, b"text", digest),
        combine("A+B", secrets[::-1], b"text", digest),
        combine("A+B", secrets, b"other", digest),
        combine("A+B", [b"onet", b"wo"], b"text", digest),
    }
    assert len(made) == 5


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: b"",
        lambda text: text[:-1],
        lambda text: text + b"\0",
        lambda text: text[:3],
        lambda text: join(parts(text)[:1]),
        lambda text: join([*parts(text), b"more"]),
        lambda text: join(parts(text)[::-1]),
        lambda text: join([b"".join(parts(text)), b""]),
        lambda text: b"\xff\xff\xff\xff" + text,
    ],
)
def test_malformed_public_key_ciphertext_and_private_key(
    pair: KemKeyPair, encapsulated: tuple[bytes, bytes], changed: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(KemError):
        COMBINED.encapsulate(changed(pair.public))
    with pytest.raises(KemError):
        COMBINED.decapsulate(pair.private, changed(encapsulated[0]))
    with pytest.raises(KemError) as caught:
        COMBINED.decapsulate(SecretBytes(changed(pair.private.reveal())), encapsulated[0])
    assert parts(pair.private.reveal())[0].hex() not in str(caught.value)


@pytest.mark.parametrize("components", [[], [FIRST], [FIRST, FIRST]])
def test_fewer_than_two_different_kems_are_not_combined(components: list[Kem]) -> None:
    with pytest.raises(ValueError, match="two or more different KEMs"):
        CombinedKem(components)
