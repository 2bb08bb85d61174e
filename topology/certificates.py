"""What is in a certificate of the testbed, and whether one still serves. Nothing here reads or writes a file.

ECDSA on P-256; a leaf is issued directly by its domain's CA and names its holder by the URI of `node.identity_uri`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.identity_uri import Role, certificate_uri
from topology.plan import CertificatePlan, CertificateRole

# Clocks of containers may differ a little from that of the machine that issues.
CLOCK_TOLERANCE: Final = timedelta(minutes=5)
_USAGES: Final[dict[CertificateRole, Sequence[x509.ObjectIdentifier]]] = {
    "node": (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    "device": (ExtendedKeyUsageOID.SERVER_AUTH,),
    "sae": (ExtendedKeyUsageOID.CLIENT_AUTH,),
    "operator": (ExtendedKeyUsageOID.CLIENT_AUTH,),
}


@dataclass(frozen=True)
class IssuedPair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def certificate_pem(self) -> bytes:
        """The certificate, PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self) -> bytes:
        """The private key, PEM, PKCS 8, unencrypted."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def issue_authority(domain: str, now: datetime, until: datetime) -> IssuedPair:
    """Make a domain's CA, which signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(_authority_name(domain))
    builder = _builder(name, name, key.public_key(), now, until)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    return IssuedPair(builder.sign(key, SHA256()), key)


def issue_leaf(authority: IssuedPair, wanted: CertificatePlan, now: datetime, until: datetime) -> IssuedPair:
    """Issue a certificate as planned, for a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    own_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id)
    builder = (
        _builder(_name(wanted.name), issuer.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_USAGES[wanted.role]), critical=False)
        .add_extension(_alternative_names(wanted), critical=False)
        .add_extension(authority_id, critical=False)
    )
    return IssuedPair(builder.sign(authority.key, SHA256()), key)


def authority_is_good(pair: IssuedPair, domain: str, until: datetime) -> bool:
    """Whether this is a CA of the domain that lasts until then."""
    certificate = pair.certificate
    return certificate.subject == _name(_authority_name(domain)) and certificate.not_valid_after_utc >= until


def leaf_is_good(
    pair: IssuedPair, authority: IssuedPair, wanted: CertificatePlan, now: datetime, until: datetime
) -> bool:
    """Whether this certificate is what is wanted, comes from this CA, and holds from now until then."""
    certificate = pair.certificate
    try:
        certificate.verify_directly_issued_by(authority.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    in_time = certificate.not_valid_before_utc <= now and certificate.not_valid_after_utc >= until
    return in_time and names == _alternative_names(wanted)


def _authority_name(domain: str) -> str:
    return f"{domain} CA"


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_TOLERANCE)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _alternative_names(wanted: CertificatePlan) -> x509.SubjectAlternativeName:
    uri = certificate_uri(wanted.domain, Role(wanted.role), wanted.name)
    return x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(uri),
            *(x509.DNSName(name) for name in wanted.dns),
            *(x509.IPAddress(ip_address(address)) for address in wanted.ips),
        ]
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
