"""AES-256-GCM with the tag apart, one encoding of associated data, and HKDF-SHA256 with labels.

Every key made here encrypts exactly one message, so the nonce is derived beside the key and never travels.
Leaves out which secrets go in and who may hold them: `hybrid_transport` and `end_to_end_seal` decide that.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_SIZE_BYTES: Final = 32
NONCE_SIZE_BYTES: Final = 12
TAG_SIZE_BYTES: Final = 16

_Scalar = str | int | None
Field: TypeAlias = "_Scalar | Sequence[Field]"


@dataclass(frozen=True, repr=False)
class OneMessageKey:
    """An AES-256-GCM key with its nonce, for one message; nothing of it is printed."""

    key: bytes
    nonce: bytes


def associated_data(label: str, /, **fields: Field) -> bytes:
    """Encode a label and named fields so that no two different inputs give the same bytes.

    The encoding is JSON with members sorted, no spaces and ASCII only; tuples are arrays. Bytes go in as hex or base64
    text. Raises `TypeError` for anything but text, whole numbers, booleans, None and sequences of these.
    """
    for value in fields.values():
        _check_field(value)
    document = {"label": label, "fields": fields}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def time_as_text(unix_s: float) -> str:
    """Write a time as associated data can hold it: the 8 bytes of an IEEE 754 double, most significant first, in hex.

    No two times give the same text, and a time that was sent as JSON comes back as the same double.
    """
    return struct.pack(">d", unix_s).hex()


def derive(secrets: Sequence[bytes], label: str, context: bytes, size_bytes: int) -> bytes:
    """Derive bytes from all the secrets by HKDF-SHA256 (RFC 5869), under a label and a context.

    The input keying material is the concatenation of the secrets, each behind its length (4 bytes), as the labelled
    concatenation of ETSI TS 103 744 (CatKDF) and NIST SP 800-56C Rev. 2, clause 2. Whoever lacks any one of the secrets
    cannot tell the output from random, as long as HKDF behaves as a random function.
    """
    material = b"".join(len(secret).to_bytes(4, "big") + secret for secret in secrets)
    encoded_label = label.encode()
    info = len(encoded_label).to_bytes(4, "big") + encoded_label + context
    return HKDF(algorithm=SHA256(), length=size_bytes, salt=None, info=info).derive(material)


def derive_one_message_key(secrets: Sequence[bytes], label: str, context: bytes) -> OneMessageKey:
    """Derive the key and nonce for the one message that this context describes."""
    material = derive(secrets, label, context, KEY_SIZE_BYTES + NONCE_SIZE_BYTES)
    return OneMessageKey(material[:KEY_SIZE_BYTES], material[KEY_SIZE_BYTES:])


def encrypt(key: OneMessageKey, plaintext: bytes, associated: bytes) -> tuple[bytes, bytes]:
    """Return (ciphertext as long as the plaintext, tag of 16 bytes)."""
    joined = AESGCM(key.key).encrypt(key.nonce, plaintext, associated)
    return joined[:-TAG_SIZE_BYTES], joined[-TAG_SIZE_BYTES:]


def decrypt(key: OneMessageKey, ciphertext: bytes, tag: bytes, associated: bytes) -> bytes | None:
    """Return the plaintext, or None if anything at all does not match (a short tag never does)."""
    if len(tag) != TAG_SIZE_BYTES:
        return None
    try:
        return AESGCM(key.key).decrypt(key.nonce, ciphertext + tag, associated)
    except InvalidTag:
        return None


def xor(left: bytes, right: bytes) -> bytes:
    """Combine two strings of the same length; raise `ValueError` if they are not."""
    if len(left) != len(right):
        raise ValueError(f"cannot combine {len(left)} bytes with {len(right)}")
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")


def _check_field(value: object) -> None:
    if value is None or isinstance(value, str | int):
        return
    if isinstance(value, list | tuple):
        for item in value:
            _check_field(item)
        return
    raise TypeError(f"associated data cannot hold a {type(value).__name__}")
