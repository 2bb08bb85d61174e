"""The one interface of every key encapsulation mechanism (KEM), and the choice of its provider.

A mechanism goes by its liboqs name (`ML-KEM-768`, `FrodoKEM-640-AES`, ...). Keys and ciphertexts are raw bytes as the
mechanism's standard encodes them. The private form of ML-KEM is the 64-byte seed d || z of FIPS 203 (clause 7.1) with
every provider, so a stored key reopens with either; other mechanisms have one provider and its own private form.
Leaves out which suite names which mechanism (`suites`) and the life of keys.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

from node.crypto.errors import KemUnavailableError
from node.crypto.secret_bytes import SecretBytes

ML_KEM_768 = "ML-KEM-768"
ML_KEM_1024 = "ML-KEM-1024"
ML_KEM_SEED_SIZE_BYTES = 64
# Between the names of mechanisms that are combined into one.
COMBINES = "+"

Provider = Literal["cryptography", "liboqs"]


@dataclass(frozen=True)
class KemKeyPair:
    """A public key and its private form, which prints as its length only."""

    public: bytes
    private: SecretBytes


class Kem(Protocol):
    """A key encapsulation mechanism; instances hold no keys and may be shared between tasks and threads."""

    @property
    def name(self) -> str:
        """The mechanism, e.g. `ML-KEM-768`."""

    def generate(self) -> KemKeyPair:
        """Make a fresh key pair from the provider's own random source."""

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return (ciphertext, secret) for the holder of `public`; raise `KemError` for a malformed public key."""

    def decapsulate(self, private: SecretBytes, ciphertext: bytes) -> bytes:
        """Return the secret; raise `KemError` for a malformed private key or a ciphertext of the wrong length.

        A well-formed ciphertext for another key gives another secret, not an error (implicit rejection).
        """


def kem(provider: Provider, mechanism: str) -> Kem:
    """Return the mechanism from the provider; raise `KemUnavailableError` where this installation lacks it."""
    if provider == "cryptography":
        from node.crypto.kem_cryptography import cryptography_kem

        return cryptography_kem(mechanism)
    if provider == "liboqs":
        from node.crypto.kem_liboqs import liboqs_kem

        return liboqs_kem(mechanism)
    raise KemUnavailableError(f"no KEM provider is called {provider!r}")


def public_key_id(mechanism: str, public: bytes) -> str:
    """Name a public key by 128 bits of SHA-256 over mechanism and key, in hex: a `kem_key_id` that binds the key."""
    return hashlib.sha256(mechanism.encode() + b"\0" + public).hexdigest()[:32]
