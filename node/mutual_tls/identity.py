"""Who the other side of a connection is, read from its certificate and from nothing else.

A certificate counts only if the CA of the very domain that its URI names has issued it directly: so the CA of one
domain cannot speak for another, although a plane that federates domains must trust several CAs in its handshake.
It must be a client's leaf, signed with a hash and for a key of today's strength whatever OpenSSL is configured to
accept, and not be revoked. What an identity may do is not decided here.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from node.identity_uri import URI_PREFIX, Role, parse_certificate_uri
from node.mutual_tls.revocation import RevocationLists

__all__ = ["UNREADABLE", "CertificateRefusedError", "Identity", "Role", "TrustAnchors", "weakness_of"]

CACHE_CERTIFICATES = 4096
MAX_REASON_CHARACTERS = 300
MIN_RSA_BITS = 2048
MIN_CURVE_BITS = 256

_STRONG_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512, hashes.SHA3_256, hashes.SHA3_384, hashes.SHA3_512)
# What reading a certificate of somebody else's making may raise.
UNREADABLE = (
    *(ValueError, TypeError, UnsupportedAlgorithm),
    *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
)


class CertificateRefusedError(Exception):
    """The certificate identifies nobody; `reason` is a sentence for the log."""

    def __init__(self, reason: str) -> None:
        self.reason = reason[:MAX_REASON_CHARACTERS]
        super().__init__(self.reason)


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
    """A certificate whose issuer has been checked; its dates and revocation still have to be, every time."""

    identity: Identity
    serial: int
    not_before: datetime
    not_after: datetime


class TrustAnchors:
    """The CAs that are trusted, each for its own domain only."""

    def __init__(self, authorities: Mapping[str, x509.Certificate], revoked: RevocationLists | None = None) -> None:
        self._authorities = dict(authorities)
        self._revoked = revoked
        self._vouched: dict[bytes, _Vouched] = {}

    @classmethod
    def load(cls, directory: Path, domains: Collection[str] | None = None) -> "TrustAnchors":
        """Read `<domain>.crt` for each domain (all there are if None); raises FileNotFoundError, ValueError."""
        wanted = sorted(path.stem for path in directory.glob("*.crt")) if domains is None else domains
        found = {d: x509.load_pem_x509_certificate((directory / f"{d}.crt").read_bytes()) for d in wanted}
        return cls(found, RevocationLists(directory, found))

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
        if self._revoked is not None:
            reason = self._revoked.refusal(vouched.identity.domain, vouched.serial, now.timestamp())
            if reason is not None:
                raise CertificateRefusedError(f"{vouched.identity}: {reason}")
        return vouched.identity

    def _vouch(self, der: bytes) -> _Vouched:
        try:
            certificate = x509.load_der_x509_certificate(der)
            identity = _claimed_identity(certificate)
            weakness = weakness_of(certificate)
        except UNREADABLE as error:
            raise CertificateRefusedError(f"unreadable certificate: {error}") from error
        authority = self._authorities.get(identity.domain)
        if authority is None:
            raise CertificateRefusedError(f"{identity}: this domain is not trusted here")
        if weakness is not None:
            raise CertificateRefusedError(f"{identity}: {weakness}")
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, *UNREADABLE) as error:
            raise CertificateRefusedError(f"{identity}: not issued by the CA of {identity.domain}") from error
        return _Vouched(
            identity,
            certificate.serial_number,
            max(certificate.not_valid_before_utc, authority.not_valid_before_utc),
            min(certificate.not_valid_after_utc, authority.not_valid_after_utc),
        )


def _claimed_identity(certificate: x509.Certificate) -> Identity:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise CertificateRefusedError("certificate has no subject alternative name") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise CertificateRefusedError(f"certificate has {len(uris)} URIs, must have one {URI_PREFIX} URI and no other")
    return Identity(*parse_certificate_uri(uris[0]))


def weakness_of(certificate: x509.Certificate) -> str | None:
    """Say what makes a certificate unfit for a client, None if nothing does; raises one of `UNREADABLE`."""
    usages = [e.value for e in certificate.extensions if isinstance(e.value, x509.ExtendedKeyUsage)]
    if not any(ExtendedKeyUsageOID.CLIENT_AUTH in usage for usage in usages):
        return "certificate is not meant for clients"
    if any(e.value.ca for e in certificate.extensions if isinstance(e.value, x509.BasicConstraints)):
        return "a CA's certificate identifies nobody"
    if any(e.critical and isinstance(e.value, x509.UnrecognizedExtension) for e in certificate.extensions):
        return "certificate has an unknown critical extension"
    algorithm = certificate.signature_hash_algorithm
    if algorithm is not None and not isinstance(algorithm, _STRONG_HASHES):
        return f"certificate is signed with the weak hash {algorithm.name}"
    return _weak_key(certificate)


def _weak_key(certificate: x509.Certificate) -> str | None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return None if key.key_size >= MIN_RSA_BITS else f"an RSA key of {key.key_size} bits is too weak"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return None if key.curve.key_size >= MIN_CURVE_BITS else f"the curve {key.curve.name} is too weak"
    if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return None
    return "a key of this kind is not accepted"
