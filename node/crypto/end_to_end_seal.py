"""Sealing key bodies from their origin to their destination node, so that transit nodes forward but cannot read.

One KEM encapsulation to the destination's advertised key per batch; per body a key and nonce from HKDF-SHA256 over the
KEM secret (context, KEM ciphertext and index in the derivation), then AES-256-GCM. Ciphertexts are as long as the
bodies, because every further byte would cost QKD material on each hop; tags travel beside them.

The claim is computational and rests on the KEM alone, by design: the hops add the link keys. Origin is not
authenticated by the seal (anybody can encapsulate to a public key): the hops and mutual TLS do that, hop by hop.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from node.crypto.aead import OneMessageKey, associated_data, decrypt, derive_one_message_key, encrypt
from node.crypto.errors import KemError, SealRefusedError
from node.crypto.kem import Kem
from node.crypto.secret_bytes import SecretBytes

_LABEL: Final = "kmstn end-to-end seal v2"


@dataclass(frozen=True)
class SealContext:
    """What origin and destination must agree on; every field is associated data. `key_ids` in the bodies' order.

    `expires_at` is what `aead.time_as_text` gives: the destination forgets the keys then, and takes them no more.
    """

    suite: str
    origin: str
    destination: str
    kem_key_id: str
    initiator_sae_id: str
    target_sae_ids: tuple[str, ...]
    key_ids: tuple[str, ...]
    purpose: str
    expires_at: str

    def encode(self) -> bytes:
        """Return the context as associated data."""
        return associated_data(_LABEL, **vars(self))


@dataclass(frozen=True)
class Sealed:
    """What travels end to end: one KEM ciphertext, and per body a ciphertext of its length and a tag of 16 bytes."""

    kem_ciphertext: bytes
    ciphertexts: tuple[bytes, ...]
    tags: tuple[bytes, ...]


def seal_for(bodies: Sequence[bytes], context: SealContext, kem: Kem, destination_public_key: bytes) -> Sealed:
    """Seal bodies for the destination; raise `KemError` for a malformed key, `ValueError` unless one ID per body."""
    if not bodies or len(bodies) != len(context.key_ids):
        raise ValueError(f"{len(bodies)} bodies for {len(context.key_ids)} key IDs")
    kem_ciphertext, secret = kem.encapsulate(destination_public_key)
    encoded = context.encode()
    parts = [encrypt(_key(encoded, kem_ciphertext, secret, index), body, encoded) for index, body in enumerate(bodies)]
    return Sealed(kem_ciphertext, tuple(part[0] for part in parts), tuple(part[1] for part in parts))


def open_sealed(sealed: Sealed, context: SealContext, kem: Kem, private_key: SecretBytes) -> tuple[bytes, ...]:
    """Open what the origin sealed, all bodies or none; raise `SealRefusedError` if anything does not match."""
    if not len(sealed.ciphertexts) == len(sealed.tags) == len(context.key_ids):
        raise SealRefusedError("there is not one ciphertext and one tag per key ID")
    try:
        secret = kem.decapsulate(private_key, sealed.kem_ciphertext)
    except KemError as error:
        raise SealRefusedError(str(error)) from error
    encoded = context.encode()
    bodies = []
    for index, (ciphertext, tag) in enumerate(zip(sealed.ciphertexts, sealed.tags, strict=True)):
        body = decrypt(_key(encoded, sealed.kem_ciphertext, secret, index), ciphertext, tag, encoded)
        if body is None:
            raise SealRefusedError(f"the seal from {context.origin} does not authenticate")
        bodies.append(body)
    return tuple(bodies)


def _key(encoded: bytes, kem_ciphertext: bytes, secret: bytes, index: int) -> OneMessageKey:
    info = associated_data(
        _LABEL,
        kem_ciphertext_sha256=hashlib.sha256(kem_ciphertext).hexdigest(),
        context_sha256=hashlib.sha256(encoded).hexdigest(),
        index=index,
    )
    return derive_one_message_key((secret,), _LABEL, info)
