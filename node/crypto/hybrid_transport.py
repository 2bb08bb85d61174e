"""Protecting key bodies on one hop between two neighbouring nodes, with a KEM and, on a QKD link, with link keys.

Construction, per body i of a transfer (one KEM encapsulation per transfer):

    AD      = canonical encoding of the whole hop context
    pad_i   = the link keys of body i, one 256-bit key per 256-bit block (cut to the body's length); none on `pqc`
    padded  = body_i XOR pad_i                                   (the body itself on `pqc`)
    key_i, nonce_i = HKDF-SHA256(KEM secret || link keys of i,   each behind its length;
                                 info = suite and protection, SHA-256(KEM ciphertext), AD, i and the number of bodies)
    value_i, tag_i = AES-256-GCM(key_i, nonce_i, padded, AD)

The combiner is the labelled concatenation of ETSI TS 103 744 (CatKDF) and NIST SP 800-56C Rev. 2 (Z || T).

What is claimed, and what is not:
- Who lacks the link keys (only the KEM is broken) or the KEM secret (only the link is tapped) cannot derive key_i, so
  learns nothing about the body and cannot alter it, as long as HKDF-SHA256 behaves as a random oracle and
  AES-256-GCM is sound. Both claims are computational, against quantum computers too (symmetric, 256 bits).
- It is NOT claimed that secrecy is information-theoretic when the KEM is broken. The same link key is pad and KDF
  input, so the tag is a function of the pad, and unbounded computation could use it. Leaving the link key out of the
  KDF would give perfect secrecy in that case, but with the KEM broken anybody could then flip bits of a key in transit.
  A one-time MAC with further link keys would give both; the design spends one link key per block, and keeps integrity.
- What the pad adds: if AES-GCM, and only that, should fall, the body is still under a one-time pad.
- Replay within the same context is not noticed here: the receiver keeps the transfer IDs and link key IDs it has seen.

The derived nonce is safe because each key encrypts one message: every call of `protect` encapsulates afresh.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from node.crypto.aead import OneMessageKey, associated_data, decrypt, derive_one_message_key, encrypt, xor
from node.crypto.errors import HopRefusedError, KemError
from node.crypto.kem import Kem
from node.crypto.secret_bytes import SecretBytes

LINK_KEY_SIZE_BYTES: Final = 32
_LABEL: Final = "kmstn hop v1"


class Protection(StrEnum):
    """What stands between the bodies and an eavesdropper on this hop."""

    QKD_PQC = "qkd+pqc"
    PQC = "pqc"


@dataclass(frozen=True)
class HopContext:
    """Everything both ends of a hop must agree on; every field is associated data and part of key derivation.

    `key_ids` and `link_key_ids` are in the order of the bodies; `link_key_ids` is empty on a `pqc` hop. `path` holds
    the nodes passed so far, `hop` counts from 0, `callback` is the acknowledgement address, None if synchronous.
    """

    suite: str
    protection: Protection
    transfer_id: str
    sender: str
    receiver: str
    kem_key_id: str
    initiator_sae_id: str
    target_sae_ids: tuple[str, ...]
    key_ids: tuple[str, ...]
    link_key_ids: tuple[tuple[str, ...], ...]
    path: tuple[str, ...]
    hop: int
    purpose: str
    callback: str | None = None

    def encode(self) -> bytes:
        """Return the context as associated data."""
        return associated_data(_LABEL, **vars(self))


@dataclass(frozen=True)
class ProtectedBodies:
    """What travels: one KEM ciphertext, and per body a value of the body's length and a tag of 16 bytes."""

    kem_ciphertext: bytes
    values: tuple[bytes, ...]
    tags: tuple[bytes, ...]


def link_keys_needed(body_size_bytes: int) -> int:
    """Return how many 256-bit link keys a body of this size spends on a `qkd+pqc` hop."""
    return math.ceil(body_size_bytes / LINK_KEY_SIZE_BYTES)


def protect(
    bodies: Sequence[bytes],
    context: HopContext,
    kem: Kem,
    receiver_public_key: bytes,
    link_keys: Sequence[Sequence[bytes]] = (),
) -> ProtectedBodies:
    """Protect bodies for the neighbour; `link_keys` holds per body the fresh link keys that `context` names.

    All randomness is the KEM's. Raises `KemError` for a malformed public key, and `ValueError` if the numbers or sizes
    of bodies, IDs and link keys do not fit each other.
    """
    mismatch = _mismatch([len(body) for body in bodies], context, link_keys)
    if mismatch:
        raise ValueError(mismatch)
    kem_ciphertext, kem_secret = kem.encapsulate(receiver_public_key)
    encoded = context.encode()
    values, tags = [], []
    for index, body in enumerate(bodies):
        body_link_keys = link_keys[index] if link_keys else ()
        key = _key(context, encoded, kem_ciphertext, (kem_secret, *body_link_keys), index)
        value, tag = encrypt(key, _padded(body, body_link_keys), encoded)
        values.append(value)
        tags.append(tag)
    return ProtectedBodies(kem_ciphertext, tuple(values), tuple(tags))


def open_protected(
    protected: ProtectedBodies,
    context: HopContext,
    kem: Kem,
    private_key: SecretBytes,
    link_keys: Sequence[Sequence[bytes]] = (),
) -> tuple[bytes, ...]:
    """Open what the neighbour protected, all bodies or none.

    `context` is what the receiver holds true, not only what the message says. Raises `HopRefusedError` if anything does
    not match; the message never tells which check failed beyond shapes that anybody can see.
    """
    mismatch = _mismatch([len(value) for value in protected.values], context, link_keys)
    if mismatch or len(protected.tags) != len(protected.values):
        raise HopRefusedError(mismatch or "there is not one tag per value")
    try:
        kem_secret = kem.decapsulate(private_key, protected.kem_ciphertext)
    except KemError as error:
        raise HopRefusedError(str(error)) from error
    encoded = context.encode()
    bodies = []
    for index, value in enumerate(protected.values):
        body_link_keys = link_keys[index] if link_keys else ()
        key = _key(context, encoded, protected.kem_ciphertext, (kem_secret, *body_link_keys), index)
        padded = decrypt(key, value, protected.tags[index], encoded)
        if padded is None:
            raise HopRefusedError(f"transfer {context.transfer_id} from {context.sender} does not authenticate")
        bodies.append(_padded(padded, body_link_keys))
    return tuple(bodies)


def _key(
    context: HopContext, encoded: bytes, kem_ciphertext: bytes, secrets: tuple[bytes, ...], index: int
) -> OneMessageKey:
    info = associated_data(
        _LABEL,
        suite=context.suite,
        protection=context.protection.value,
        kem_ciphertext_sha256=hashlib.sha256(kem_ciphertext).hexdigest(),
        context_sha256=hashlib.sha256(encoded).hexdigest(),
        index=index,
        number=len(context.key_ids),
    )
    return derive_one_message_key(secrets, f"{_LABEL} {context.protection.value}", info)


def _padded(body: bytes, link_keys: Sequence[bytes]) -> bytes:
    """Put the one-time pad on, or take it off: the same operation; a `pqc` hop has none."""
    return xor(body, b"".join(link_keys)[: len(body)]) if link_keys else body


def _mismatch(sizes: Sequence[int], context: HopContext, link_keys: Sequence[Sequence[bytes]]) -> str | None:
    """Say what does not fit between bodies, context and link keys; None if all does."""
    if not sizes or len(sizes) != len(context.key_ids) or 0 in sizes:
        return f"{len(sizes)} bodies (none empty) for {len(context.key_ids)} key IDs"
    if context.protection is Protection.PQC:
        return "a pqc hop has no link keys" if link_keys or context.link_key_ids else None
    if len(link_keys) != len(sizes) or len(context.link_key_ids) != len(sizes):
        return f"link keys for {len(link_keys)} bodies, their IDs for {len(context.link_key_ids)}, bodies {len(sizes)}"
    for size, keys, ids in zip(sizes, link_keys, context.link_key_ids, strict=True):
        if not len(keys) == len(ids) == link_keys_needed(size):
            return f"{len(keys)} link keys and {len(ids)} IDs for a body of {size} bytes"
    spent = [key_id for ids in context.link_key_ids for key_id in ids]
    if len(set(spent)) != len(spent):
        return "a link key is used twice"
    if any(len(key) != LINK_KEY_SIZE_BYTES for keys in link_keys for key in keys):
        return f"a link key is not {LINK_KEY_SIZE_BYTES} bytes long"
    return None
