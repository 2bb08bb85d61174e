"""What can go wrong in the node's cryptography, drawn as one tree.

CryptoError
├── KemError                  the peer's public key or ciphertext is not one of this mechanism, or ours does not open
│   └── KemUnavailableError   this installation lacks the provider or the mechanism
├── UnknownSuiteError         the suite is not one of ours (an unsupported mandatory extension)
└── RefusedError              somebody else's bytes do not authenticate: nothing of them may be kept
    ├── HopRefusedError       ... on a hop between neighbours
    ├── SealRefusedError      ... in an end-to-end seal
    └── WrapRefusedError      ... in a key wrapped with pool blocks

A caller's own mistake (a missing link key, a wrong number of blocks) is a `ValueError`.
No message ever holds key bytes, and a refusal never says which check failed.
"""


class CryptoError(Exception):
    """Anything the node's cryptography refuses."""


class KemError(CryptoError):
    """A KEM was given a public key, private key or ciphertext that is not of its mechanism."""


class KemUnavailableError(KemError):
    """The provider or the mechanism is not in this installation."""


class UnknownSuiteError(CryptoError):
    """A suite name that this node does not know."""


class RefusedError(CryptoError):
    """Bytes that do not authenticate in the context they came in."""


class HopRefusedError(RefusedError):
    """A hop message was tampered with, replayed elsewhere, or protected with other secrets."""


class SealRefusedError(RefusedError):
    """An end-to-end seal was tampered with, or was made for another node or context."""


class WrapRefusedError(RefusedError):
    """A wrapped key was tampered with, or was wrapped with other pool blocks or for another context."""
