"""Vectors of KEMs: ML-KEM from fixed seeds, both ML-KEMs as one, and what only liboqs has.

Valid ciphertexts of ML-KEM are random: they are kept from the file as it is, and drawn anew where there is none. Keys
and ciphertexts of mechanisms that only liboqs has are kept likewise; they are drawn, and opened again, where liboqs is:
in the node image.
"""

import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric import mlkem

from node.crypto.errors import KemUnavailableError
from node.crypto.kem import ML_KEM_768, ML_KEM_SEED_SIZE_BYTES, kem
from node.crypto.kem_combined import CombinedKem, join, split
from node.crypto.secret_bytes import SecretBytes
from node.crypto.suites import suite_kem
from tests.vectors.inputs import in_hex, kept_vectors, material

COMBINED_SUITE = "mlkem1024+mceliece348864-v1"
# Those whose private keys are small enough for a file; all others are opened across providers in the node image.
LIBOQS_SUITES = ("bikel1-v1", "mceliece348864-v1", "sntrup761-v1", COMBINED_SUITE, "mlkem768+frodokem976aes-v1")


def ml_kem_vector(mechanism: str) -> dict[str, Any]:
    """A key from a fixed seed d || z, a valid ciphertext for it, and one that it must reject implicitly."""
    engine = kem("cryptography", mechanism)
    seed = material(f"{mechanism} seed", ML_KEM_SEED_SIZE_BYTES)
    public = public_key_of(mechanism, seed)
    valid = kept_ciphertext(mechanism) or engine.encapsulate(public)[0]
    invalid = material(f"{mechanism} invalid ciphertext", len(valid))
    return {
        "mechanism": mechanism,
        "seed": seed.hex(),
        "public": public.hex(),
        "ciphertext": valid.hex(),
        "secret": engine.decapsulate(SecretBytes(seed), valid).hex(),
        "invalid_ciphertext": invalid.hex(),
        "implicit_rejection": engine.decapsulate(SecretBytes(seed), invalid).hex(),
    }


def combined_vector(components: list[dict[str, Any]]) -> dict[str, Any]:
    """Both ML-KEMs as one, from their own vectors: nothing random is left."""
    engine = CombinedKem([kem("cryptography", component["mechanism"]) for component in components])
    public = join([bytes.fromhex(component["public"]) for component in components])
    seeds = [bytes.fromhex(component["seed"]) for component in components]
    private = SecretBytes(join([*seeds, hashlib.sha256(public).digest()]))
    ciphertext = join([bytes.fromhex(component["ciphertext"]) for component in components])
    return {
        "mechanisms": [component["mechanism"] for component in components],
        "private": private.reveal().hex(),
        "public": public.hex(),
        "ciphertext": ciphertext.hex(),
        "component_secrets": [component["secret"] for component in components],
        "secret": engine.decapsulate(private, ciphertext).hex(),
    }


def liboqs_vector(suite: str) -> dict[str, Any]:
    """Return a key, a ciphertext and its secret for a suite that needs liboqs; without liboqs, as the file has them.

    Public keys are left out for their size (261 kB of Classic McEliece): decapsulation needs none.
    """
    kept = next((vector for vector in kept_vectors("liboqs_kem.json") if vector["suite"] == suite), None)
    try:
        engines = [suite_kem("liboqs", name) for name in parts_of(suite)]
    except KemUnavailableError:
        if kept is None:
            raise
        return kept
    if kept is None:
        pair = suite_kem("liboqs", suite).generate()
        private, ciphertext = pair.private.reveal(), suite_kem("liboqs", suite).encapsulate(pair.public)[0]
    else:
        private, ciphertext = bytes.fromhex(kept["private"]), bytes.fromhex(kept["ciphertext"])
    single = len(engines) == 1
    privates, texts = ([private], [ciphertext]) if single else ((split(private) or [])[:-1], split(ciphertext) or [])
    opened = zip(engines, privates, texts, strict=True)
    return {
        "suite": suite,
        "private": private.hex(),
        "ciphertext": ciphertext.hex(),
        "component_secrets": in_hex(engine.decapsulate(SecretBytes(own), text) for engine, own, text in opened),
        "secret": suite_kem("liboqs", suite).decapsulate(SecretBytes(private), ciphertext).hex(),
    }


def parts_of(suite: str) -> list[str]:
    """Return the suites of the single mechanisms that a suite combines."""
    return [f"{part}-v1" for part in suite.removesuffix("-v1").split("+")]


def public_key_of(mechanism: str, seed: bytes) -> bytes:
    """Expand a seed by `cryptography` itself, which our KEM interface has no need of."""
    if mechanism == ML_KEM_768:
        return mlkem.MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
    return mlkem.MLKEM1024PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()


def kept_ciphertext(mechanism: str) -> bytes | None:
    """Return the valid ciphertext that the file already holds."""
    kept = (vector for vector in kept_vectors("ml_kem.json") if vector["mechanism"] == mechanism)
    return next((bytes.fromhex(vector["ciphertext"]) for vector in kept), None)
