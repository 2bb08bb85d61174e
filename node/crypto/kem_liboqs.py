"""Any mechanism that the installed liboqs has enabled. The one file that imports `oqs`.

`oqs` is imported at the first use only, and only when OQS_INSTALL_PATH names a prefix whose `lib` holds liboqs: without
it the package would try to clone and compile liboqs at import, which a node must never do. Its warning that package and
library differ in version is silenced knowingly: the image pins both, and the tests open ciphertexts across providers.
"""

import os
import secrets
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

from node.crypto.errors import KemError, KemUnavailableError
from node.crypto.kem import ML_KEM_768, ML_KEM_1024, ML_KEM_SEED_SIZE_BYTES, Kem, KemKeyPair
from node.crypto.secret_bytes import SecretBytes

INSTALL_PATH_VARIABLE = "OQS_INSTALL_PATH"
KEYS_IN_USE: Final = 16
# Here the private form is the seed of FIPS 203, so that keys move between providers.
_SEEDED: Final = frozenset({ML_KEM_768, ML_KEM_1024})


class _LiboqsKem:
    """One mechanism of liboqs; a fresh `KeyEncapsulation` per call, because those are not safe to share."""

    def __init__(self, name: str, oqs: ModuleType) -> None:
        self.name: Final = name
        self._oqs = oqs
        with oqs.KeyEncapsulation(name) as engine:
            self._sizes: Final = engine.details
        self._in_use: dict[bytes, bytes] = {}

    def generate(self) -> KemKeyPair:
        """Make a fresh key pair: from a seed for ML-KEM, as liboqs will have it for all others."""
        with self._oqs.KeyEncapsulation(self.name) as engine:
            if self.name in _SEEDED:
                seed = secrets.token_bytes(ML_KEM_SEED_SIZE_BYTES)
                return KemKeyPair(bytes(engine.generate_keypair_seed(seed)), SecretBytes(seed))
            public = bytes(engine.generate_keypair())
            return KemKeyPair(public, SecretBytes(bytes(engine.export_secret_key())))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return (ciphertext, secret)."""
        if len(public) != self._sizes["length_public_key"]:
            raise KemError(f"not a public key of {self.name} ({len(public)} bytes)")
        with self._oqs.KeyEncapsulation(self.name) as engine:
            try:
                ciphertext, secret = engine.encap_secret(public)
            except RuntimeError as error:
                raise KemError(f"not a public key of {self.name} ({len(public)} bytes)") from error
        return bytes(ciphertext), bytes(secret)

    def decapsulate(self, private: SecretBytes, ciphertext: bytes) -> bytes:
        """Return the secret of a ciphertext."""
        if len(ciphertext) != self._sizes["length_ciphertext"]:
            raise KemError(f"not a ciphertext of {self.name} ({len(ciphertext)} bytes)")
        expected = ML_KEM_SEED_SIZE_BYTES if self.name in _SEEDED else self._sizes["length_secret_key"]
        if len(private) != expected:
            raise KemError(f"not a private key of {self.name} ({len(private)} bytes)")
        return self._open(private.reveal(), ciphertext)

    def _open(self, private: bytes, ciphertext: bytes) -> bytes:
        expanded = self._expanded(private) if self.name in _SEEDED else private
        with self._oqs.KeyEncapsulation(self.name, expanded) as engine:
            try:
                return bytes(engine.decap_secret(ciphertext))
            except RuntimeError as error:
                raise KemError(f"{self.name} did not decapsulate") from error

    def _expanded(self, seed: bytes) -> bytes:
        """Expanding a seed costs more than decapsulating, so the keys in use are kept expanded."""
        if (expanded := self._in_use.get(seed)) is None:
            with self._oqs.KeyEncapsulation(self.name) as engine:
                engine.generate_keypair_seed(seed)
                expanded = bytes(engine.export_secret_key())
            while len(self._in_use) >= KEYS_IN_USE:
                del self._in_use[next(iter(self._in_use))]
            self._in_use[seed] = expanded
        return expanded


def liboqs_kem(mechanism: str) -> Kem:
    """Return the mechanism; raise `KemUnavailableError` without liboqs, or if it has not got the mechanism enabled."""
    oqs = _load_oqs()
    enabled = oqs.get_enabled_kem_mechanisms()
    if mechanism not in enabled:
        raise KemUnavailableError(f"liboqs has no {mechanism!r} enabled; it has {', '.join(enabled)}")
    return _LiboqsKem(mechanism, oqs)


def enabled_mechanisms() -> tuple[str, ...]:
    """Return the names of all KEMs enabled in the installed liboqs; raise `KemUnavailableError` without one."""
    return tuple(_load_oqs().get_enabled_kem_mechanisms())


@cache
def _load_oqs() -> ModuleType:
    prefix = os.environ.get(INSTALL_PATH_VARIABLE)
    if not prefix:
        raise KemUnavailableError(f"liboqs needs {INSTALL_PATH_VARIABLE}, the prefix whose lib holds liboqs.so")
    if not any(Path(prefix).glob("lib*/liboqs.so*")):
        raise KemUnavailableError(f"{INSTALL_PATH_VARIABLE}={prefix} holds no lib/liboqs.so")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"liboqs version", category=UserWarning)
            import oqs
    except (ImportError, OSError, AttributeError, RuntimeError, SystemExit) as error:
        raise KemUnavailableError(f"liboqs in {prefix} cannot be loaded: {error}") from error
    module: ModuleType = oqs
    return module
