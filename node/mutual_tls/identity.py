"""Who the other side of a connection is, read from its certificate and from nothing else.

A certificate counts only if the CA of the very domain that its URI names has issued it directly: so the CA of one
domain cannot speak for another, although a plane that federates domains must trust several CAs in its handshake.
What an identity may do is not decided here.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from node.identity_uri import URI_PREFIX, Role, parse_certificate_uri

__all__ = ["CertificateRefusedError", "Identity", "Role", "TrustAnchors"]

CACHE_CERTIFICATES = 4096


class CertificateRefusedError(Exception):
    """The certificate identifies nobody; `reason` is a sentence for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """One party of the network: `name` is its SAE ID, KME ID or device name."""

    domain: str
    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.role} {self.name} of {self.domain}"


@dataclass(frozen=True, slots=True)
class _Vouched:
    """A certificate whose issuer has been checked; its dates still have to be, every time."""

    identity: Identity
    not_before: datetime
    not_after: datetime


class TrustAnchors:
    """The CAs that are trusted, each for its own domain only."""

    def __init__(self, authorities: Mapping[str, x509.Certificate]) -> None:
        self._authorities = dict(authorities)
        self._vouched: dict[bytes, _Vouched] = {}

    @classmethod
    def load(cls, directory: Path, domains: Collection[str] | None = None) -> "TrustAnchors":
        """Read `<domain>.crt` for each domain (all there are if None); raises FileNotFoundError, ValueError."""
        wanted = sorted(path.stem for path in directory.glob("*.crt")) if domains is None else domains
        return cls({d: x509.load_pem_x509_certificate((directory / f"{d}.crt").read_bytes()) for d in wanted})

    @property
    def domains(self) -> frozenset[str]:
        """The domains that a certificate can come from."""
        return frozenset(self._authorities)

    def identify(self, der: bytes, now: datetime) -> Identity:
        """Say whose certificate this is at `now` (time zone aware); raises CertificateRefusedError."""
        fingerprint = sha256(der).digest()
        vouched = self._vouched.get(fingerprint)
        if vouched is None:
            vouched = self._vouch(der)
            if len(self._vouched) >= CACHE_CERTIFICATES:
                self._vouched.clear()
            self._vouched[fingerprint] = vouched
        if now > vouched.not_after:
            raise CertificateRefusedError(f"certificate of {vouched.identity} expired at {vouched.not_after}")
        if now < vouched.not_before:
            raise CertificateRefusedError(f"certificate of {vouched.identity} is valid from {vouched.not_before} only")
        return vouched.identity

    def _vouch(self, der: bytes) -> _Vouched:
        try:
            certificate = x509.load_der_x509_certificate(der)
            identity = _claimed_identity(certificate)
        except ValueError as error:
            raise CertificateRefusedError(f"unreadable certificate: {error}") from error
        authority = self._authorities.get(identity.domain)
        if authority is None:
            raise CertificateRefusedError(f"{identity}: this domain is not trusted here")
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, TypeError, ValueError) as error:
            raise CertificateRefusedError(f"{identity}: not issued by the CA of {identity.domain}") from error
        return _Vouched(
            identity,
            max(certificate.not_valid_before_utc, authority.not_valid_before_utc),
            min(certificate.not_valid_after_utc, authority.not_valid_after_utc),
        )


def _claimed_identity(certificate: x509.Certificate) -> Identity:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise CertificateRefusedError("certificate has no subject alternative name") from error
    uris = [u for u in names.get_values_for_type(x509.UniformResourceIdentifier) if u.startswith(URI_PREFIX)]
    if len(uris) != 1:
        raise CertificateRefusedError(f"certificate has {len(uris)} {URI_PREFIX} URIs, must have exactly one")
    return Identity(*parse_certificate_uri(uris[0]))
