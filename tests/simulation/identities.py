"""Certificates of a simulated federation, issued once per process: their dates must fit the simulated calendar."""

import datetime
from dataclasses import dataclass
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.crypto.advert_signature import AdvertSigner
from node.identity_uri import Role, certificate_uri

EPOCH = 1_800_000_000.0
_LIFE = datetime.timedelta(days=300)


@dataclass(frozen=True, slots=True)
class Authority:
    """The CA of a domain."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Holder:
    """Whoever has a certificate, in DER, and can sign with it."""

    der: bytes
    signer: AdvertSigner


@cache
def authority(domain: str) -> Authority:
    """Return the CA of a domain."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"{domain} CA")
    builder = _builder(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return Authority(builder.sign(key, hashes.SHA256()), key)


@cache
def holder(domain: str, role: Role, name: str) -> Holder:
    """Return the holder of a certificate in a domain."""
    issuer, key = authority(domain), ec.generate_private_key(ec.SECP256R1())
    uri = x509.UniformResourceIdentifier(certificate_uri(domain, role, name))
    builder = _builder(_name(name), issuer.certificate.subject, key)
    builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    der = builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return Holder(der, AdvertSigner(key, der))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    at = datetime.datetime.fromtimestamp(EPOCH, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _LIFE)
        .not_valid_after(at + _LIFE)
    )
