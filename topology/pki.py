"""One certificate authority per region, the certificates it issues, and the seeds of the fibres, kept in a folder.

What is there and still good is kept; what is missing, damaged, close to its end or issued for other names is made
anew. A CA's private key never leaves the folder. Layout: `<domain>/ca.{crt,key}`, `<domain>/<role>/<ID>.{crt,key}`
with the ID percent-encoded, `fibres/<link>.seed`. Folders have mode 0700, files 0600.
"""

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from topology.certificates import IssuedPair, authority_is_good, issue_authority, issue_leaf, leaf_is_good
from topology.plan import AuthorityRef, CertificatePlan, CertificateRef, CertificateRole, FileContent, Plan, SeedRef

SEED_BYTES: Final = 32
AUTHORITY_LIFETIME: Final = timedelta(days=3650)
LEAF_LIFETIME: Final = timedelta(days=90)
# A leaf is renewed in its last third, a CA when it would not outlive the next leaves.
LEAF_REMAINDER: Final = timedelta(days=30)
AUTHORITY_REMAINDER: Final = 2 * LEAF_LIFETIME


@dataclass(frozen=True)
class Pki:
    """The certificates of a testbed; `issued` are those that this run made anew, as (domain, role, name)."""

    directory: Path
    issued: tuple[tuple[str, CertificateRole, str], ...] = ()

    def certificate(self, domain: str, role: CertificateRole, name: str) -> bytes:
        """A certificate, PEM; raises FileNotFoundError when none was issued."""
        return _leaf_path(self.directory, domain, role, name).with_suffix(".crt").read_bytes()

    def key(self, domain: str, role: CertificateRole, name: str) -> bytes:
        """The private key of a certificate, PEM (PKCS 8, unencrypted); raises FileNotFoundError."""
        return _leaf_path(self.directory, domain, role, name).with_suffix(".key").read_bytes()

    def authority(self, domain: str) -> bytes:
        """The certificate of a domain's CA, PEM; raises FileNotFoundError."""
        return _authority_path(self.directory, domain).with_suffix(".crt").read_bytes()


def ensure_pki(directory: Path, plan: Plan, now: datetime) -> Pki:
    """Make sure that the folder holds every certificate of the plan, good at `now` (time zone aware)."""
    _make_folder(directory)
    domains = dict.fromkeys(certificate.domain for certificate in plan.certificates)
    authorities = {domain: _ensure_authority(directory, domain, now) for domain in domains}
    issued = _ensure_leaves(directory, authorities, plan.certificates, now)
    return Pki(directory, tuple(issued))


def drop_seed(directory: Path, link: str) -> None:
    """Forget what the ends of a fibre share: the next `ensure_seed` makes it anew."""
    _seed_path(directory, link).unlink(missing_ok=True)


def _seed_path(directory: Path, link: str) -> Path:
    return directory / "fibres" / f"{quote(link, safe='')}.seed"


def ensure_seed(directory: Path, link: str) -> bytes:
    """The 32 bytes that both ends of a fibre share: made at the first call, the same ever after."""
    path = _seed_path(directory, link)
    try:
        seed = path.read_bytes()
    except FileNotFoundError:
        seed = b""
    if len(seed) != SEED_BYTES:
        seed = secrets.token_bytes(SEED_BYTES)
        _write(path, seed)
    return seed


def resolve(content: FileContent, pki: Pki) -> bytes:
    """The bytes that a planned file holds; raises FileNotFoundError for a certificate that was never issued."""
    match content:
        case CertificateRef(domain, role, name, "certificate"):
            return pki.certificate(domain, role, name)
        case CertificateRef(domain, role, name):
            return pki.key(domain, role, name)
        case AuthorityRef(domain):
            return pki.authority(domain)
        case SeedRef(link):
            return ensure_seed(pki.directory, link)
    return content


def _ensure_authority(directory: Path, domain: str, now: datetime) -> IssuedPair:
    path = _authority_path(directory, domain)
    kept = _read(path)
    if kept is not None and authority_is_good(kept, domain, now + AUTHORITY_REMAINDER):
        return kept
    made = issue_authority(domain, now, now + AUTHORITY_LIFETIME)
    _keep(path, made)
    return made


def _ensure_leaves(
    directory: Path, authorities: dict[str, IssuedPair], wanted: Iterable[CertificatePlan], now: datetime
) -> Iterable[tuple[str, CertificateRole, str]]:
    for certificate in wanted:
        path = _leaf_path(directory, certificate.domain, certificate.role, certificate.name)
        authority = authorities[certificate.domain]
        kept = _read(path)
        if kept is not None and leaf_is_good(kept, authority, certificate, now, now + LEAF_REMAINDER):
            continue
        _keep(path, issue_leaf(authority, certificate, now, now + LEAF_LIFETIME))
        yield certificate.domain, certificate.role, certificate.name


def _authority_path(directory: Path, domain: str) -> Path:
    return directory / quote(domain, safe="") / "ca.crt"


def _leaf_path(directory: Path, domain: str, role: CertificateRole, name: str) -> Path:
    # A capital is encoded too, or two IDs would share a file where the file system does not tell case.
    encoded = "".join(f"%{ord(c):02X}" if c.isupper() or c in ".~" else quote(c, safe="") for c in name)
    return directory / quote(domain, safe="") / role / f"{encoded}.crt"


def _read(path: Path) -> IssuedPair | None:
    """The certificate and key at a path; None when they are missing, damaged or not each other's."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = load_pem_private_key(path.with_suffix(".key").read_bytes(), password=None)
    except (OSError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    return IssuedPair(certificate, key)


def _keep(path: Path, pair: IssuedPair) -> None:
    # Interrupted between the two, the pair does not match and is made anew by the next run.
    _write(path.with_suffix(".key"), pair.key_pem())
    _write(path, pair.certificate_pem())


def _write(path: Path, data: bytes) -> None:
    _make_folder(path.parent)
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    os.replace(draft, path)


def _make_folder(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
