"""Why a data key is not released; each message says what it means and what recovers.

SealingError
├── SealedKeyMissingError        a store without its sealed key: starting over would lose it in silence
├── MeasuredStateChangedError    other software or another identity than the key was sealed to
├── TpmReplacedError             the TPM is not the one that sealed the key, or was wiped
├── TpmLockoutError              the TPM is in dictionary-attack lockout
└── TpmUnavailableError          the TPM does not start or does not answer
"""


class SealingError(Exception):
    """The node has no data key and serves nothing."""


class SealedKeyMissingError(SealingError):
    """A store is there, the sealed key that opens it is not."""


class MeasuredStateChangedError(SealingError):
    """The TPM measured something else than the key was sealed to."""


class TpmReplacedError(SealingError):
    """The sealed key does not belong to this TPM."""


class TpmLockoutError(SealingError):
    """The TPM refuses authorisations for some time."""


class TpmUnavailableError(SealingError):
    """No TPM, or one that fails."""
