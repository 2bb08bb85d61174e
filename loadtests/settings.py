"""Who takes part in a load test: SAEs, the node of each, the pairs that exchange keys, and their certificates.

Reads the settings file and the identity folder that the testbed puts into the container; refuses what does not fit
together before any user starts. Standard library only, as the load image carries Locust and nothing of the node's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

SETTINGS_FILE = Path("/etc/load/settings.json")
IDENTITY_FOLDER = Path("/etc/load/identity")


class SettingsError(Exception):
    """The settings or the identities cannot be used; the text says what and where."""


@dataclass(frozen=True)
class Sae:
    """A secure application entity: its ID, its node's name and URL, and the domain both belong to."""

    name: str
    node: str
    url: str
    domain: str


@dataclass(frozen=True)
class SaePair:
    """The SAE that asks for keys and the SAE that fetches them by ID."""

    master: Sae
    slave: Sae


@dataclass(frozen=True)
class Credentials:
    """Files of one SAE; `authority` is the one CA that its node is verified with."""

    certificate: Path
    key: Path
    authority: Path


def read_pairs(path: Path) -> tuple[SaePair, ...]:
    """Read the pairs in the order of the file; raises SettingsError."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON: {error}") from error
    try:
        saes = {entry["sae"]: _sae(entry) for entry in document["saes"]}
        pairs = tuple(_pair(saes, *names) for names in document["pairs"])
    except (KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path}: {type(error).__name__}: {error}") from error
    if not pairs:
        raise SettingsError(f"{path}: no pair of SAEs to exchange keys")
    return pairs


def credentials(folder: Path, sae: Sae) -> Credentials:
    """Locate the files of an SAE; raises SettingsError if one is missing."""
    found = Credentials(
        folder / f"{sae.name}.crt", folder / f"{sae.name}.key", folder / "domains" / f"{sae.domain}.crt"
    )
    for file in (found.certificate, found.key, found.authority):
        if not file.is_file():
            raise SettingsError(f"SAE {sae.name!r} has no {file}")
    return found


def shuffled(pairs: Sequence[SaePair], seed: int) -> tuple[SaePair, ...]:
    """Put the pairs into the order that the seed decides, the same on every machine."""
    # Deciding who talks to whom needs repeatability, not secrecy.
    return tuple(Random(seed).sample(pairs, len(pairs)))  # noqa: S311


def pair_of_user(pairs: Sequence[SaePair], user: int) -> SaePair:
    """Assign user number `user` (from 0) its pair; the shares of any two pairs differ by one user at most."""
    return pairs[user % len(pairs)]


def _sae(entry: dict[str, Any]) -> Sae:
    values = [entry[member] for member in ("sae", "node", "url", "domain")]
    if not all(isinstance(value, str) and value for value in values):
        raise TypeError(f"an SAE's sae, node, url and domain are strings, here {values}")
    sae = Sae(*values)
    if not sae.url.startswith("https://"):
        raise TypeError(f"SAE {sae.name!r} would not use TLS at {sae.url!r}")
    return sae


def _pair(saes: dict[str, Sae], master: str, slave: str) -> SaePair:
    if master == slave:
        raise TypeError(f"SAE {master!r} is paired with itself")
    return SaePair(saes[master], saes[slave])
