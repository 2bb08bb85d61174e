"""The checked-in vectors: what they say is what the code gives, what it opens, and what its description says."""

import hashlib
import hmac
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.crypto.end_to_end_seal import SealContext, Sealed, open_sealed
from node.crypto.errors import RefusedError
from node.crypto.hybrid_transport import HopContext, ProtectedBodies, Protection, open_protected
from node.crypto.kem import Provider, kem
from node.crypto.kem_combined import CombinedKem, combine, split
from node.crypto.pool_wrap import WrapContext, Wrapped, unwrap
from node.crypto.secret_bytes import SecretBytes
from node.crypto.suites import suite_kem, suite_named
from tests.vectors.inputs import FOLDER, FixedKem
from tests.vectors.make_vectors import all_vectors, serialised, stale
from tests.vectors.refused import altered, opens

VECTORS = FOLDER
NO_KEY = SecretBytes(b"")


def vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def unhex(value: Any) -> Any:
    return tuple(unhex(item) for item in value) if isinstance(value, list) else bytes.fromhex(value)


def as_tuples(value: Any) -> Any:
    return tuple(as_tuples(item) for item in value) if isinstance(value, list) else value


def context_of(vector: dict[str, Any]) -> dict[str, Any]:
    return {name: as_tuples(value) for name, value in vector["context"].items()}


def hop_context(vector: dict[str, Any]) -> HopContext:
    fields = context_of(vector)
    return HopContext(**{**fields, "protection": Protection(fields["protection"])})


def name_of(vector: dict[str, Any]) -> str:
    return f"{vector['context'].get('protection', 'seal')}, {vector['context']['suite']}"


def engine_of(vector: dict[str, Any]) -> FixedKem:
    return FixedKem(unhex(vector["kem_ciphertext"]), unhex(vector["kem_secret"]))


@pytest.mark.parametrize("name", sorted(all_vectors()))
def test_code_that_no_longer_gives_the_published_vectors(name: str) -> None:
    assert (VECTORS / name).read_text() == serialised(all_vectors()[name])


@pytest.mark.parametrize("vector", vectors("hop.json"), ids=name_of)
def test_hop_vector_opens(vector: dict[str, Any]) -> None:
    protected = ProtectedBodies(*(unhex(vector[part]) for part in ("kem_ciphertext", "values", "tags")))
    opened = open_protected(protected, hop_context(vector), engine_of(vector), NO_KEY, unhex(vector["link_keys"]))
    assert opened == unhex(vector["bodies"])


def canonical(label: str, fields: dict[str, Any]) -> bytes:
    return json.dumps({"label": label, "fields": fields}, sort_keys=True, separators=(",", ":")).encode()


def hkdf(material: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-256, written out; no salt."""
    pseudorandom = hmac.digest(bytes(32), material, "sha256")
    block, output = b"", b""
    for counter in range(1, math.ceil(size / 32) + 1):
        block = hmac.digest(pseudorandom, block + info + bytes([counter]), "sha256")
        output += block
    return output[:size]


@pytest.mark.parametrize("vector", vectors("hop.json"), ids=name_of)
def test_another_implementation_gets_the_hop_from_its_description(vector: dict[str, Any]) -> None:
    context = vector["context"]
    associated = canonical("kmstn hop v1", context)
    label = f"kmstn hop v1 {context['protection']}".encode()
    for index, body in enumerate(unhex(vector["bodies"])):
        link_keys = unhex(vector["link_keys"])[index] if vector["link_keys"] else ()
        secrets = (bytes.fromhex(vector["kem_secret"]), *link_keys)
        info = {
            "suite": context["suite"],
            "protection": context["protection"],
            "kem_ciphertext_sha256": hashlib.sha256(bytes.fromhex(vector["kem_ciphertext"])).hexdigest(),
            "context_sha256": hashlib.sha256(associated).hexdigest(),
            "index": index,
            "number": len(context["key_ids"]),
        }
        material = b"".join(len(secret).to_bytes(4, "big") + secret for secret in secrets)
        described = len(label).to_bytes(4, "big") + label + canonical("kmstn hop v1", info)
        key = hkdf(material, described, 44)
        pad = b"".join(link_keys)[: len(body)] or bytes(len(body))
        padded = bytes(a ^ b for a, b in zip(body, pad, strict=True))
        expected = unhex(vector["values"])[index] + unhex(vector["tags"])[index]
        assert AESGCM(key[:32]).encrypt(key[32:], padded, associated) == expected


def test_end_to_end_seal_vector_opens() -> None:
    for vector in vectors("end_to_end_seal.json"):
        sealed = Sealed(*(unhex(vector[part]) for part in ("kem_ciphertext", "ciphertexts", "tags")))
        context = SealContext(**context_of(vector))
        assert open_sealed(sealed, context, engine_of(vector), NO_KEY) == unhex(vector["bodies"])


def test_pool_wrap_vector_opens() -> None:
    for vector in vectors("pool_wrap.json"):
        wrapped = Wrapped(unhex(vector["values"]), unhex(vector["tag"]))
        keys = unwrap(wrapped, unhex(vector["blocks"]), WrapContext(**context_of(vector)))
        assert keys == unhex(vector["keys"])


@pytest.mark.parametrize("provider", ["cryptography", pytest.param("liboqs", marks=pytest.mark.node_image)])
@pytest.mark.parametrize("vector", vectors("ml_kem.json"), ids=lambda vector: vector["mechanism"])
def test_provider_that_disagrees_about_ml_kem(provider: Provider, vector: dict[str, str]) -> None:
    engine, seed = kem(provider, vector["mechanism"]), SecretBytes(bytes.fromhex(vector["seed"]))
    assert engine.decapsulate(seed, bytes.fromhex(vector["ciphertext"])).hex() == vector["secret"]
    assert engine.decapsulate(seed, bytes.fromhex(vector["invalid_ciphertext"])).hex() == vector["implicit_rejection"]
    ciphertext, secret = engine.encapsulate(bytes.fromhex(vector["public"]))
    assert engine.decapsulate(seed, ciphertext) == secret


def test_check_names_the_file_that_is_not_fresh(tmp_path: Path) -> None:
    copy = shutil.copytree(VECTORS, tmp_path / "vectors")
    assert stale(copy) == []
    (copy / "hop.json").write_text((copy / "hop.json").read_text().replace("kmstn1", "kmstn3"))
    (copy / "pool_wrap.json").unlink()
    assert stale(copy) == ["hop.json", "pool_wrap.json"]


def flips(text: bytes) -> Iterator[bytes]:
    """Yield the text with one bit flipped, for every byte a bit of its own."""
    for position in range(len(text)):
        yield text[:position] + bytes([text[position] ^ (1 << position % 8)]) + text[position + 1 :]


def flipped_anywhere(parts: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    for index, part in enumerate(parts):
        for changed in flips(part):
            yield (*parts[:index], changed, *parts[index + 1 :])


def refused(opener: Callable[..., object], *arguments: object) -> bool:
    try:
        opener(*arguments)
    except RefusedError:
        return True
    return False


@pytest.mark.parametrize("vector", vectors("hop.json"), ids=name_of)
def test_hop_vector_with_one_bit_flipped(vector: dict[str, Any]) -> None:
    context, link_keys, engine = hop_context(vector), unhex(vector["link_keys"]), engine_of(vector)
    right = ProtectedBodies(*(unhex(vector[part]) for part in ("kem_ciphertext", "values", "tags")))
    changed = [replace(right, kem_ciphertext=flipped) for flipped in flips(right.kem_ciphertext)]
    changed += [replace(right, values=flipped) for flipped in flipped_anywhere(right.values)]
    changed += [replace(right, tags=flipped) for flipped in flipped_anywhere(right.tags)]
    assert all(refused(open_protected, one, context, engine, NO_KEY, link_keys) for one in changed)
    other_keys = [
        (*link_keys[:i], flipped, *link_keys[i + 1 :])
        for i, keys in enumerate(link_keys)
        for flipped in flipped_anywhere(keys)
    ]
    assert all(refused(open_protected, right, context, engine, NO_KEY, keys) for keys in other_keys)


@pytest.mark.parametrize("vector", vectors("end_to_end_seal.json"), ids=name_of)
def test_end_to_end_seal_vector_with_one_bit_flipped(vector: dict[str, Any]) -> None:
    context = SealContext(**context_of(vector))
    right = Sealed(*(unhex(vector[part]) for part in ("kem_ciphertext", "ciphertexts", "tags")))
    changed = [replace(right, kem_ciphertext=flipped) for flipped in flips(right.kem_ciphertext)]
    changed += [replace(right, ciphertexts=flipped) for flipped in flipped_anywhere(right.ciphertexts)]
    changed += [replace(right, tags=flipped) for flipped in flipped_anywhere(right.tags)]
    assert all(refused(open_sealed, one, context, engine_of(vector), NO_KEY) for one in changed)


def test_pool_wrap_vector_with_one_bit_flipped() -> None:
    (vector,) = vectors("pool_wrap.json")
    context, blocks = WrapContext(**context_of(vector)), unhex(vector["blocks"])
    right = Wrapped(unhex(vector["values"]), unhex(vector["tag"]))
    changed = [replace(right, values=flipped) for flipped in flipped_anywhere(right.values)]
    changed += [replace(right, tag=flipped) for flipped in flips(right.tag)]
    assert all(refused(unwrap, one, blocks, context) for one in changed)


@pytest.mark.parametrize("vector", vectors("ml_kem.json"), ids=lambda vector: vector["mechanism"])
def test_ml_kem_vector_with_one_bit_flipped_gives_another_secret(vector: dict[str, str]) -> None:
    engine, seed = kem("cryptography", vector["mechanism"]), SecretBytes(bytes.fromhex(vector["seed"]))
    secrets = {engine.decapsulate(seed, flipped).hex() for flipped in flips(bytes.fromhex(vector["ciphertext"]))}
    assert vector["secret"] not in secrets
    assert len(secrets) == len(bytes.fromhex(vector["ciphertext"]))


CONTEXTS = {"hop.json": HopContext, "end_to_end_seal.json": SealContext, "pool_wrap.json": WrapContext}


def test_every_field_of_every_context_is_changed_in_some_refused_vector() -> None:
    changed = {
        (vector["of"], vector["path"][1]) for vector in vectors("refused.json") if vector["path"][0] == "context"
    }
    assert changed == {(file, field.name) for file, context in CONTEXTS.items() for field in fields(context)}


@pytest.mark.parametrize("file", CONTEXTS)
def test_refused_vectors_do_not_open_and_are_one_change_away_from_one_that_does(file: str) -> None:
    own = [vector for vector in vectors("refused.json") if vector["of"] == file]
    originals = vectors(file)
    assert all(opens(file, original) for original in originals)
    assert len(own) > 10 * len(originals)
    for vector in own:
        changed = altered(originals[vector["number"]], vector["path"], vector["value"])
        assert changed != originals[vector["number"]]
        assert not opens(file, changed), vector["path"]


def test_combined_kem_vector_opens_and_is_what_its_description_says() -> None:
    (vector,) = vectors("combined_kem.json")
    engine = CombinedKem([kem("cryptography", mechanism) for mechanism in vector["mechanisms"]])
    private, ciphertext = SecretBytes(unhex(vector["private"])), unhex(vector["ciphertext"])
    assert engine.decapsulate(private, ciphertext).hex() == vector["secret"]
    assert described_secret(vector, unhex(vector["public"])) == vector["secret"]
    made, secret = engine.encapsulate(unhex(vector["public"]))
    assert engine.decapsulate(private, made) == secret


def described_secret(vector: dict[str, Any], public: bytes) -> str:
    """Combine the secrets of the components from the description alone."""
    label = b"kmstn combined KEM v1"
    info = {
        "mechanisms": vector["mechanisms"],
        "ciphertext_sha256": hashlib.sha256(unhex(vector["ciphertext"])).hexdigest(),
        "public_sha256": hashlib.sha256(public).hexdigest(),
    }
    material = b"".join(len(secret).to_bytes(4, "big") + secret for secret in unhex(vector["component_secrets"]))
    return hkdf(material, len(label).to_bytes(4, "big") + label + canonical(label.decode(), info), 32).hex()


@pytest.mark.parametrize("vector", vectors("liboqs_kem.json"), ids=lambda vector: vector["suite"])
def test_secret_of_a_liboqs_vector_follows_from_those_of_its_components(vector: dict[str, Any]) -> None:
    secrets = unhex(vector["component_secrets"])
    mechanisms = suite_named(vector["suite"]).mechanisms
    assert len(secrets) == len(mechanisms)
    if len(secrets) == 1:
        assert vector["secret"] == vector["component_secrets"][0]
        return
    *_own, public_digest = split(unhex(vector["private"])) or []
    combined = combine("+".join(mechanisms), secrets, unhex(vector["ciphertext"]), public_digest)
    assert combined.hex() == vector["secret"]
    for broken in (0, 1):
        guess = [*secrets]
        guess[broken] = bytes(len(guess[broken]))
        assert combine("+".join(mechanisms), guess, unhex(vector["ciphertext"]), public_digest) != combined


@pytest.mark.node_image
@pytest.mark.parametrize("provider", ["cryptography", "liboqs"])
@pytest.mark.parametrize("vector", vectors("liboqs_kem.json"), ids=lambda vector: vector["suite"])
def test_liboqs_vector_opens_whoever_provides_ml_kem(provider: Provider, vector: dict[str, Any]) -> None:
    engine, private = suite_kem(provider, vector["suite"]), SecretBytes(unhex(vector["private"]))
    assert engine.decapsulate(private, unhex(vector["ciphertext"])).hex() == vector["secret"]
