"""ML-KEM-768 and ML-KEM-1024 (FIPS 203) from the `cryptography` package. Leaves out every other mechanism."""

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mlkem

from node.crypto.errors import KemError, KemUnavailableError
from node.crypto.kem import ML_KEM_768, ML_KEM_1024, Kem, KemKeyPair
from node.crypto.secret_bytes import SecretBytes

KEYS_IN_USE: Final = 16


class _MlKem:
    """One parameter set of ML-KEM; private keys are the 64-byte seed."""

    def __init__(
        self,
        name: str,
        public_class: type[mlkem.MLKEM768PublicKey] | type[mlkem.MLKEM1024PublicKey],
        private_class: type[mlkem.MLKEM768PrivateKey] | type[mlkem.MLKEM1024PrivateKey],
    ) -> None:
        self.name: Final = name
        self._public_class = public_class
        self._private_class = private_class
        self._in_use: dict[bytes, mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey] = {}

    def generate(self) -> KemKeyPair:
        """Make a fresh key pair."""
        key = self._private_class.generate()
        return KemKeyPair(key.public_key().public_bytes_raw(), SecretBytes(key.private_bytes_raw()))

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return (ciphertext, secret); `cryptography` gives them the other way round."""
        try:
            secret, ciphertext = self._public_class.from_public_bytes(public).encapsulate()
        except ValueError as error:
            raise KemError(f"not a public key of {self.name} ({len(public)} bytes)") from error
        return ciphertext, secret

    def decapsulate(self, private: SecretBytes, ciphertext: bytes) -> bytes:
        """Return the secret of a ciphertext."""
        key = self._expanded(private)
        try:
            return key.decapsulate(ciphertext)
        except ValueError as error:
            raise KemError(f"not a ciphertext of {self.name} ({len(ciphertext)} bytes)") from error

    def _expanded(self, private: SecretBytes) -> mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey:
        """Expanding a seed costs twice as much as decapsulating, so the keys in use are kept expanded."""
        seed = private.reveal()
        if (key := self._in_use.get(seed)) is None:
            try:
                key = self._private_class.from_seed_bytes(seed)
            except ValueError:
                # The cause is dropped on purpose: nothing about a private key belongs in a traceback.
                raise KemError(f"not a private key of {self.name} ({len(private)} bytes)") from None
            while len(self._in_use) >= KEYS_IN_USE:
                del self._in_use[next(iter(self._in_use))]
            self._in_use[seed] = key
        return key


_MECHANISMS: Final = {
    ML_KEM_768: _MlKem(ML_KEM_768, mlkem.MLKEM768PublicKey, mlkem.MLKEM768PrivateKey),
    ML_KEM_1024: _MlKem(ML_KEM_1024, mlkem.MLKEM1024PublicKey, mlkem.MLKEM1024PrivateKey),
}


def cryptography_kem(mechanism: str) -> Kem:
    """Return the mechanism; raise `KemUnavailableError` if it is not ML-KEM or OpenSSL is too old for it."""
    try:
        found = _MECHANISMS[mechanism]
    except KeyError:
        raise KemUnavailableError(f"cryptography has no {mechanism!r}; it has {', '.join(_MECHANISMS)}") from None
    try:
        found.generate()
    except UnsupportedAlgorithm as error:
        raise KemUnavailableError(f"the OpenSSL under cryptography has no {mechanism}") from error
    return found
