"""What vectors are made from: fixed bytes, a KEM that is fixed, what the files hold now, and byte strings as text."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from node.crypto.kem import KemKeyPair
from node.crypto.secret_bytes import SecretBytes

FOLDER = Path(__file__).parent
KEM_SECRET = hashlib.sha256(b"vector KEM secret").digest()
KEM_CIPHERTEXT = hashlib.sha256(b"vector KEM ciphertext").digest()


class FixedKem:
    """A KEM for vectors: its secret and ciphertext never change, and its keys mean nothing."""

    name = "fixed"

    def __init__(self, ciphertext: bytes = KEM_CIPHERTEXT, secret: bytes = KEM_SECRET) -> None:
        self._ciphertext = ciphertext
        self._secret = secret

    def generate(self) -> KemKeyPair:
        """Return the key pair that means nothing."""
        return KemKeyPair(b"public", SecretBytes(b"private"))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return the fixed ciphertext and secret."""
        return self._ciphertext, self._secret

    def decapsulate(self, private: SecretBytes, ciphertext: bytes) -> bytes:
        """Return the fixed secret."""
        return self._secret


FIXED: Final = FixedKem()


def material(name: str, size_bytes: int) -> bytes:
    """Return fixed bytes that look random: SHAKE-128 of a name."""
    return hashlib.shake_128(name.encode()).digest(size_bytes)


def kept_vectors(name: str) -> list[dict[str, Any]]:
    """Return what a file holds now."""
    path = FOLDER / name
    vectors: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return vectors


def in_hex(texts: Any) -> list[str]:
    """Write byte strings as text."""
    return [text.hex() for text in texts]


def from_hex(value: Any) -> Any:
    """Read byte strings, nested as they are."""
    return tuple(from_hex(item) for item in value) if isinstance(value, list) else bytes.fromhex(value)


def as_tuples(value: Any) -> Any:
    """Turn JSON's arrays into what contexts hold."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list) else value
