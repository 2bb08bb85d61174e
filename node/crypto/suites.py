"""The names of the suites that hops and end-to-end seals use, and the KEM each one means.

A suite fixes everything but the keys: KEM, HKDF-SHA256 with the labels of this package, AES-256-GCM. A change of any
of these is a new name. Leaves out which suites a node accepts: that is its setting, negotiated from `versions`.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from node.crypto.errors import UnknownSuiteError
from node.crypto.kem import ML_KEM_768, ML_KEM_1024, Kem, Provider, kem


@dataclass(frozen=True)
class Suite:
    """A suite's name on the wire and the KEM it names."""

    name: str
    mechanism: str


SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite("mlkem768-v1", ML_KEM_768),
        Suite("mlkem1024-v1", ML_KEM_1024),
        Suite("frodokem640aes-v1", "FrodoKEM-640-AES"),
        Suite("frodokem976aes-v1", "FrodoKEM-976-AES"),
        Suite("frodokem1344aes-v1", "FrodoKEM-1344-AES"),
        Suite("mceliece348864-v1", "Classic-McEliece-348864"),
        Suite("bikel1-v1", "BIKE-L1"),
        Suite("hqc128-v1", "HQC-128"),
    )
}


def suite_named(name: str) -> Suite:
    """Return the suite; raise `UnknownSuiteError` for a name that is not ours."""
    try:
        return SUITES[name]
    except KeyError:
        raise UnknownSuiteError(f"no suite is called {name!r}") from None


@lru_cache
def suite_kem(provider: Provider, name: str) -> Kem:
    """Return the KEM of a suite; raise `UnknownSuiteError`, or `KemUnavailableError` where the provider lacks it."""
    return kem(provider, suite_named(name).mechanism)
