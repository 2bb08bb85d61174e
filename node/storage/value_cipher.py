"""Sealing values at rest: AES-256-GCM under the node's data key, bound to the row that holds them."""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.errors import StoreDamagedError

_NONCE_SIZE_BYTES = 12


class ValueCipher:
    """Seals and opens the BLOBs of the store; `place` names the row, so that values cannot be moved."""

    def __init__(self, data_key: bytes) -> None:
        self._aead = AESGCM(data_key)

    def seal(self, place: str, value: bytes) -> bytes:
        """Return nonce and ciphertext; a fresh 96-bit nonce each time."""
        nonce = secrets.token_bytes(_NONCE_SIZE_BYTES)
        return nonce + self._aead.encrypt(nonce, value, place.encode())

    def open(self, place: str, sealed: bytes) -> bytes:
        """Return the value; raises StoreDamagedError if the row was altered or written under another data key."""
        try:
            return self._aead.decrypt(sealed[:_NONCE_SIZE_BYTES], sealed[_NONCE_SIZE_BYTES:], place.encode())
        except (InvalidTag, ValueError):
            message = f"{place}: the stored value was altered, or sealed under another data key"
            raise StoreDamagedError(message) from None
