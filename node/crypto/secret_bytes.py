"""Bytes that must not be shown: private KEM keys, data keys. Leaves out erasure, which Python cannot promise."""

import hmac
from typing import final


@final
class SecretBytes:
    """Secret bytes whose repr, str and format give the length only; `reveal` is the one way out."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes themselves."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"SecretBytes(<{len(self._value)} bytes>)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretBytes) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        raise TypeError("secret bytes are not hashable: a hash would be a fingerprint of the secret")

    def __reduce__(self) -> str:
        raise TypeError("secret bytes are not pickled; store them sealed")
