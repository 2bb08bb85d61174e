"""Certificates for tests: a CA per domain and leaves that are right, or wrong in one respect."""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.identity_uri import Role, certificate_uri

USAGES = {
    Role.NODE: [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    Role.DEVICE: [ExtendedKeyUsageOID.SERVER_AUTH],
    Role.SAE: [ExtendedKeyUsageOID.CLIENT_AUTH],
    Role.OPERATOR: [ExtendedKeyUsageOID.CLIENT_AUTH],
}


@dataclass(frozen=True)
class Credential:
    """A certificate with its private key."""

    domain: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)


def make_authority(
    domain: str,
    *,
    excluded_dns: Sequence[str] = (),
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Credential:
    """Make the CA of a domain, self-signed; it may not speak for the excluded names and those below them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{domain} CA")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = _builder(name, name, key, not_before, not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    if excluded_dns:
        constraints = x509.NameConstraints(None, [x509.DNSName(host) for host in excluded_dns])
        builder = builder.add_extension(constraints, critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Credential(domain, builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: Credential,
    role: Role | str,
    name: str,
    *,
    dns: Iterable[str] = (),
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    uris: Sequence[str] | None = None,
) -> Credential:
    """Issue a leaf in the authority's domain; nodes and devices also get localhost and 127.0.0.1.

    `uris` replaces the URI that the leaf should have, for certificates that claim too much.
    """
    role = Role(role)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    builder = _builder(subject, authority.certificate.subject, key, not_before, not_after)
    if uris is None:
        uris = [certificate_uri(authority.domain, role, name)]
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    if role in (Role.NODE, Role.DEVICE):
        names += [x509.DNSName(host) for host in (*dns, "localhost")]
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(USAGES[role]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    return Credential(authority.domain, builder.sign(authority.key, hashes.SHA256()), key)


def revocation_list(authority: Credential, revoked: Iterable[Credential]) -> bytes:
    """Make the list of certificates that a CA takes back, PEM."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(now).next_update(now + timedelta(days=1))
    for leaf in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(leaf.certificate.serial_number).revocation_date(now)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def write_identity(directory: Path, leaf: Credential, authorities: Iterable[Credential]) -> Path:
    """Write tls.crt, tls.key and domains/<domain>.crt; returns the directory."""
    (directory / "domains").mkdir(parents=True, exist_ok=True)
    (directory / "tls.crt").write_bytes(_pem(leaf))
    (directory / "tls.key").write_bytes(
        leaf.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    for authority in authorities:
        (directory / "domains" / f"{authority.domain}.crt").write_bytes(_pem(authority))
    return directory


def _pem(credential: Credential) -> bytes:
    return credential.certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    not_before: datetime | None,
    not_after: datetime | None,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before or now - timedelta(hours=1))
        .not_valid_after(not_after or now + timedelta(days=30))
    )
