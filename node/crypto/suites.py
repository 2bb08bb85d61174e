"""The names of the suites that hops and end-to-end seals use, and the KEM or KEMs each one means.

A suite fixes everything but the keys: KEM, HKDF-SHA256 with the labels of this package, AES-256-GCM. A change of any
of these is a new name, hence the version at its end. A name with `+` means both KEMs at once (`kem_combined`).
Leaves out which suites a node accepts: that is its setting, negotiated from `versions`. A name here promises nothing
about strength (ML-KEM-512 has one too), nor that an image has the mechanism: HQC is off in ours.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from node.crypto.errors import KemUnavailableError, UnknownSuiteError
from node.crypto.kem import COMBINES, ML_KEM_768, ML_KEM_1024, Kem, Provider, kem
from node.crypto.kem_combined import CombinedKem

# What both providers have; for all else there is liboqs only.
_SHARED: Final = frozenset({ML_KEM_768, ML_KEM_1024})


@dataclass(frozen=True)
class Suite:
    """A suite's name on the wire and the KEMs it combines, in the order of their keys and ciphertexts."""

    name: str
    mechanisms: tuple[str, ...]

    @property
    def mechanism(self) -> str:
        """The one name of its KEM, as `Kem.name` has it."""
        return COMBINES.join(self.mechanisms)


_SINGLE: Final = {
    "mlkem512": "ML-KEM-512",
    "mlkem768": ML_KEM_768,
    "mlkem1024": ML_KEM_1024,
    "frodokem640aes": "FrodoKEM-640-AES",
    "frodokem640shake": "FrodoKEM-640-SHAKE",
    "frodokem976aes": "FrodoKEM-976-AES",
    "frodokem976shake": "FrodoKEM-976-SHAKE",
    "frodokem1344aes": "FrodoKEM-1344-AES",
    "frodokem1344shake": "FrodoKEM-1344-SHAKE",
    "mceliece348864": "Classic-McEliece-348864",
    "mceliece348864f": "Classic-McEliece-348864f",
    "mceliece460896": "Classic-McEliece-460896",
    "mceliece460896f": "Classic-McEliece-460896f",
    "bikel1": "BIKE-L1",
    "bikel3": "BIKE-L3",
    "sntrup761": "sntrup761",
    "hqc128": "HQC-128",
    "hqc192": "HQC-192",
    "hqc256": "HQC-256",
}
# A structured lattice with a KEM of another kind: plain lattice, code, or another ring.
_COMBINED: Final = (
    ("mlkem768", "frodokem976aes"),
    ("mlkem768", "mceliece348864"),
    ("mlkem768", "bikel1"),
    ("mlkem768", "sntrup761"),
    ("mlkem1024", "frodokem1344aes"),
    ("mlkem1024", "mceliece348864"),
    ("mlkem1024", "mceliece460896"),
)


def _named(*parts: str) -> Suite:
    return Suite("+".join(parts) + "-v1", tuple(_SINGLE[part] for part in parts))


SUITES: Final = {suite.name: suite for suite in (*map(_named, _SINGLE), *(_named(*parts) for parts in _COMBINED))}


def suite_named(name: str) -> Suite:
    """Return the suite; raise `UnknownSuiteError` for a name that is not ours."""
    try:
        return SUITES[name]
    except KeyError:
        raise UnknownSuiteError(f"no suite is called {name!r}") from None


@lru_cache
def suite_kem(provider: Provider, name: str) -> Kem:
    """Return the KEM of a suite, ML-KEM from the provider asked for and all else from liboqs.

    Raises `UnknownSuiteError`, or `KemUnavailableError` where this installation lacks a mechanism.
    """
    suite = suite_named(name)
    components = [_component(provider, mechanism, name) for mechanism in suite.mechanisms]
    return components[0] if len(components) == 1 else CombinedKem(components)


def provider_of(preferred: Provider, mechanism: str) -> Provider:
    """Return where a mechanism comes from: ML-KEM from the provider that is preferred, all else from liboqs."""
    return preferred if mechanism in _SHARED else "liboqs"


def _component(preferred: Provider, mechanism: str, suite: str) -> Kem:
    try:
        return kem(provider_of(preferred, mechanism), mechanism)
    except KemUnavailableError as error:
        raise KemUnavailableError(f"suite {suite} needs {mechanism}: {error}") from error
