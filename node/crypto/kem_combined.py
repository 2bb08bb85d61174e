"""Several KEMs as one, so that a suite holds for as long as any one of them does.

Construction, for component KEMs 1..n, each with its own key pair:

    public     = pk_1, ..., pk_n                      every part behind its length (4 bytes, big endian)
    private    = sk_1, ..., sk_n, SHA-256(public)     likewise
    ciphertext = ct_1, ..., ct_n                      likewise, where (ct_i, k_i) = Encaps_i(pk_i)
    secret     = HKDF-SHA256(k_1 || ... || k_n, each behind its length;
                             info = label, names of the mechanisms, SHA-256(ciphertext), SHA-256(public)), 32 bytes

This is the concatenation of ETSI TS 103 744, clause "CatKDF" (secret = k_1 || k_2; label; context made of the messages
exchanged) on the two-step derivation of NIST SP 800-56C Rev. 2, which lets a further secret be concatenated to an
approved one; NIST SP 800-227 takes the same shape as its key combiner for KEMs. Lengths of secrets are fixed for each
mechanism, so their 4 bytes are constants.

Why breaking one KEM, or all but one, reveals nothing. Giacon, Heuer and Poettering (KEM Combiners, PKC 2018) show that
K = W(k_1, ..., k_n; ct_1, ..., ct_n) is IND-CCA if one component is, provided that W is a split-key pseudorandom
function: pseudorandom in each single k_i while all others are the adversary's choice. A random oracle over all secrets
and all ciphertexts is one (their section 3.2): as long as k_i is unknown the oracle was never asked at that point, but
with probability q / 2^256 for q questions. HKDF-SHA256 stands for the oracle; the argument rests on that, not on any
component but the one left standing. Quantum questions cost no more than a square root (2^128, Grover).

Why ciphertexts are bound. Were the secret made of k_1 and k_2 alone, an attacker who broke KEM 2, or knows a way to
change ct_2 and keep k_2, could hand the receiver another ciphertext for the same secret, and so use it as a decryption
oracle: IND-CCA of the whole would hang on every component, where it should hang on any one. With SHA-256 over all of
the ciphertext, whose parts cannot be shifted against each other (lengths), another ciphertext is another secret.

Why public keys are bound. Not every KEM makes its secret depend on its public key (Classic McEliece does not). Binding
them keeps a secret to one receiver, and makes attacks on many receivers at once no cheaper than on each. Their digest
is part of the private form, since most mechanisms cannot recompute a public key.

What is not claimed: anything against who holds all component secrets, and forward secrecy (keys rotate in `kem_keys`).
A component that rejects implicitly still does: the secret is another one, and the AEAD above it refuses. Components
may come from different providers: their private forms do not tell.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from node.crypto.aead import associated_data, derive
from node.crypto.errors import KemError
from node.crypto.kem import COMBINES, Kem, KemKeyPair
from node.crypto.secret_bytes import SecretBytes

SECRET_SIZE_BYTES: Final = 32
_LABEL: Final = "kmstn combined KEM v1"
_LENGTH_SIZE_BYTES: Final = 4


class CombinedKem:
    """Two or more different KEMs as one; itself a `Kem`."""

    def __init__(self, components: Sequence[Kem]) -> None:
        names = [component.name for component in components]
        if len(names) < 2 or len(set(names)) != len(names):
            raise ValueError(f"two or more different KEMs are combined, not {names}")
        self.name: Final = COMBINES.join(names)
        self._components = tuple(components)

    def generate(self) -> KemKeyPair:
        """Make a fresh key pair of every component."""
        pairs = [component.generate() for component in self._components]
        public = join([pair.public for pair in pairs])
        private = join([*(pair.private.reveal() for pair in pairs), hashlib.sha256(public).digest()])
        return KemKeyPair(public, SecretBytes(private))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return (ciphertext, secret); raise `KemError` if any part of the key is malformed."""
        parts = self._split(public, "public key", len(self._components))
        done = [component.encapsulate(part) for component, part in zip(self._components, parts, strict=True)]
        ciphertext = join([part for part, _secret in done])
        secrets = [secret for _part, secret in done]
        return ciphertext, combine(self.name, secrets, ciphertext, hashlib.sha256(public).digest())

    def decapsulate(self, private: SecretBytes, ciphertext: bytes) -> bytes:
        """Return the secret; raise `KemError` for a malformed private key or ciphertext."""
        *privates, public_digest = self._split(private.reveal(), "private key", len(self._components) + 1)
        parts = self._split(ciphertext, "ciphertext", len(self._components))
        secrets = [
            component.decapsulate(SecretBytes(own), part)
            for component, own, part in zip(self._components, privates, parts, strict=True)
        ]
        return combine(self.name, secrets, ciphertext, public_digest)

    def _split(self, text: bytes, what: str, number: int) -> list[bytes]:
        parts = split(text)
        if parts is None or len(parts) != number:
            raise KemError(f"not a {what} of {self.name} ({len(text)} bytes)")
        return parts


def combine(name: str, secrets: Sequence[bytes], ciphertext: bytes, public_digest: bytes) -> bytes:
    """Derive the one secret of a combination from those of its components, as drawn above."""
    context = associated_data(
        _LABEL,
        mechanisms=name.split(COMBINES),
        ciphertext_sha256=hashlib.sha256(ciphertext).hexdigest(),
        public_sha256=public_digest.hex(),
    )
    return derive(secrets, _LABEL, context, SECRET_SIZE_BYTES)


def join(parts: Sequence[bytes]) -> bytes:
    """Put parts behind each other, each behind its length."""
    return b"".join(len(part).to_bytes(_LENGTH_SIZE_BYTES, "big") + part for part in parts)


def split(text: bytes) -> list[bytes] | None:
    """Take apart what `join` made; None for anything else."""
    parts = []
    while text:
        size = int.from_bytes(text[:_LENGTH_SIZE_BYTES], "big")
        part, rest = text[_LENGTH_SIZE_BYTES : _LENGTH_SIZE_BYTES + size], text[_LENGTH_SIZE_BYTES + size :]
        if len(text) < _LENGTH_SIZE_BYTES + size:
            return None
        parts.append(part)
        text = rest
    return parts
