"""Why a data key is not released or a store not served; each message says what it means and what recovers.

SealingError
├── SealedKeyMissingError        a store, or a TPM that has counted, without the sealed key
├── SealedKeyDamagedError        the file with the sealed key is not what was written
├── MeasuredStateChangedError    other software or another identity than the key was sealed to
├── TpmReplacedError             the TPM is not the one that sealed the key, or was wiped
├── TpmLockoutError              the TPM is in dictionary-attack lockout
├── TpmUnavailableError          the TPM does not start or does not answer
├── RollbackCounterError         the TPM's counter is gone, somebody else's, or older than the store
└── StoreRolledBackError         the store is older than the TPM's counter
"""

from node.errors import KmstnError


class SealingError(KmstnError):
    """The node has no data key, or no store that it may use, and serves nothing."""


class SealedKeyMissingError(SealingError):
    """What the sealed key belongs to is there, the sealed key is not."""


class SealedKeyDamagedError(SealingError):
    """The sealed key's file was altered, cut or overwritten."""


class MeasuredStateChangedError(SealingError):
    """The TPM measured something else than the key was sealed to."""


class TpmReplacedError(SealingError):
    """The sealed key does not belong to this TPM."""


class TpmLockoutError(SealingError):
    """Somebody tried authorisations at the TPM until it locked itself."""


class TpmUnavailableError(SealingError):
    """No TPM, or one that fails."""


class RollbackCounterError(SealingError):
    """Whether the store is the newest cannot be told."""


class StoreRolledBackError(SealingError):
    """An older copy of the store was put in the place of the newest."""
