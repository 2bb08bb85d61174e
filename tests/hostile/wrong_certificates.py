"""Certificates that are wrong in one respect each, as a table: what is wrong, and what the node must say about it."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.identity_uri import Role, certificate_uri
from tests.certificates import Credential, make_authority

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
EXCLUDED = "forbidden.example"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Wanted:
    """What a certificate is to say; the defaults make a good one."""

    signer: Credential
    role: Role
    name: str
    domain: str = "east"
    uris: tuple[str, ...] | None = None
    others: tuple[x509.GeneralName, ...] = ()
    alternative_names: bool = True
    usages: tuple[x509.ObjectIdentifier, ...] | None = (CLIENT,)
    authority: bool | None = None
    algorithm: Any = field(default_factory=hashes.SHA256)
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    not_before: datetime = NOW - DAY
    not_after: datetime = NOW + DAY
    extra: tuple[x509.ExtensionType, ...] = ()
    identifier: bool = True


def make(wanted: Wanted) -> Credential:
    """Issue it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted.name[:64] or "-")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(wanted.signer.certificate.subject)
        .public_key(wanted.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(wanted.not_before)
        .not_valid_after(wanted.not_after)
    )
    if wanted.alternative_names:
        uris = wanted.uris if wanted.uris is not None else (certificate_uri(wanted.domain, wanted.role, wanted.name),)
        names = [*(x509.UniformResourceIdentifier(uri) for uri in uris), *wanted.others]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if wanted.usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(wanted.usages), critical=False)
    if wanted.authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(wanted.authority, None), critical=True)
    if wanted.identifier:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(wanted.signer.key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    for extension in wanted.extra:
        builder = builder.add_extension(extension, critical=True)
    return Credential(wanted.domain, builder.sign(wanted.signer.key, wanted.algorithm), wanted.key)


@dataclass(frozen=True)
class Presented:
    """What a client presents: a leaf with its key, and what it sends along as chain."""

    leaf: Credential
    chain: tuple[Credential, ...] = ()
    der: bytes | None = None

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write chain and key; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        leaf = self.leaf.certificate.public_bytes(serialization.Encoding.PEM)
        if self.der is not None:
            leaf = _pem(self.der)
        rest = [one.certificate.public_bytes(serialization.Encoding.PEM) for one in self.chain]
        key = self.leaf.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "chain.pem").write_bytes(b"".join([leaf, *rest]))
        (folder / "key.pem").write_bytes(key)
        return folder / "chain.pem", folder / "key.pem"


def _pem(der: bytes) -> bytes:
    lines = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n"


@dataclass(frozen=True)
class Case:
    """One kind of wrong certificate; `says` are words of which one must be in the log."""

    name: str
    make: Callable[[Wanted, dict[str, Credential]], Presented]
    says: tuple[str, ...]


def _changed(**changes: Any) -> Callable[[Wanted, dict[str, Credential]], Presented]:
    def change(right: Wanted, _authorities: dict[str, Credential]) -> Presented:
        made = {name: value(right) if callable(value) else value for name, value in changes.items()}
        return Presented(make(replace(right, **made)))

    return change


def _uri(spelling: str) -> Callable[[Wanted, dict[str, Credential]], Presented]:
    """Spell the URI; {role} and {name} stand for the right ones."""
    return _changed(uris=lambda right: (spelling.format(role=right.role.value, name=right.name),))


def _signed_by(signer: Callable[[Wanted, dict[str, Credential]], Sequence[Credential]], **changes: Any) -> Any:
    def change(right: Wanted, authorities: dict[str, Credential]) -> Presented:
        chain = tuple(signer(right, authorities))
        return Presented(make(replace(right, signer=chain[0], **changes)), chain)

    return change


def _namesake(_right: Wanted, _authorities: dict[str, Credential]) -> list[Credential]:
    return [make_authority("east")]


def _stranger(_right: Wanted, _authorities: dict[str, Credential]) -> list[Credential]:
    return [make_authority("elsewhere")]


def _leaf_as_signer(right: Wanted, _authorities: dict[str, Credential]) -> list[Credential]:
    return [make(right)]


def _false_as_signer(right: Wanted, _authorities: dict[str, Credential]) -> list[Credential]:
    return [make(replace(right, authority=False))]


def _intermediate(right: Wanted, _authorities: dict[str, Credential]) -> list[Credential]:
    return [make(replace(right, name="intermediate", authority=True, alternative_names=False, usages=None))]


def _self_signed(right: Wanted, _authorities: dict[str, Credential]) -> Presented:
    own = make(right)
    return Presented(make(replace(right, signer=own, key=own.key, name=right.name)))


def _tampered(right: Wanted, _authorities: dict[str, Credential]) -> Presented:
    leaf = make(right)
    der = bytearray(leaf.der)
    der[-1] ^= 1
    return Presented(leaf, der=bytes(der))


def _signed_with_sha1(right: Wanted, _authorities: dict[str, Credential]) -> Presented:
    """Put SHA-1 in the place of SHA-256 and sign anew, which `cryptography` does no more."""
    leaf = make(right)
    strong, weak = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300906072a8648ce3d0401")
    body = leaf.certificate.tbs_certificate_bytes[4:].replace(strong, weak, 1)
    to_sign = b"\x30\x82" + len(body).to_bytes(2) + body
    digest = hashlib.sha1(to_sign).digest()
    signature = b"\x00" + right.signer.key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA1())))
    content = to_sign + weak + b"\x03" + len(signature).to_bytes(1) + signature
    return Presented(leaf, der=b"\x30\x82" + len(content).to_bytes(2) + content)


def _by_the_partner(domain: str) -> Callable[[Wanted, dict[str, Credential]], Presented]:
    def change(right: Wanted, authorities: dict[str, Credential]) -> Presented:
        return Presented(make(replace(right, signer=authorities["west"], domain=domain)))

    return change


CASES = [
    Case("expired", _changed(not_before=NOW - 2 * DAY, not_after=NOW - DAY), ("expired",)),
    Case("not yet valid", _changed(not_before=NOW + DAY, not_after=NOW + 2 * DAY), ("not yet valid",)),
    Case("of an unknown CA", _signed_by(_stranger), ("unknown CA",)),
    Case("of a CA with the right name and another key", _signed_by(_namesake), ("unknown CA",)),
    Case("of that CA, without saying which key", _signed_by(_namesake, identifier=False), ("unknown CA", "not signed")),
    Case("signed by itself", _self_signed, ("unknown CA",)),
    Case("with a signature that was tampered with", _tampered, ("not signed by its CA",)),
    Case("signed by a leaf", _signed_by(_leaf_as_signer), ("no CA's", "unknown CA")),
    Case("signed by a leaf that says CA:FALSE", _signed_by(_false_as_signer), ("no CA's", "unknown CA")),
    Case("below an intermediate CA that may not be", _signed_by(_intermediate), ("path length",)),
    Case("of a CA itself", _changed(authority=True), ("a CA's certificate identifies nobody", "path length")),
    Case("with a name that its CA may not give", _changed(others=(x509.DNSName(f"x.{EXCLUDED}"),)), ("constraints",)),
    Case("for servers only", _changed(usages=(SERVER,)), ("not meant for this purpose",)),
    Case("for signing code", _changed(usages=(ExtendedKeyUsageOID.CODE_SIGNING,)), ("not meant for this purpose",)),
    Case("without a usage", _changed(usages=None), ("not meant for clients",)),
    Case("of the partner domain", _by_the_partner("west"), ("unknown CA", "not a neighbour", "domain west")),
    Case(
        "of the partner's CA for this domain", _by_the_partner("east"), ("unknown CA", "not issued by the CA of east")
    ),
    Case("of another role: device", _changed(role=Role.DEVICE), ("role device",)),
    Case("of an unknown role", _uri("urn:kmstn:east:king:{name}"), ("unknown role",)),
    Case("with no alternative name, only CN", _changed(alternative_names=False), ("no subject alternative name",)),
    Case(
        "with an e-mail address for a URI",
        _changed(uris=(), others=(x509.RFC822Name("a1@east.example"),)),
        ("has 0 URIs",),
    ),
    Case("with a DNS name for a URI", _changed(uris=(), others=(x509.DNSName("a1.east"),)), ("has 0 URIs",)),
    Case(
        "with two of our URIs",
        _changed(uris=("urn:kmstn:east:sae:a1", "urn:kmstn:east:node:n2")),
        ("has 2 URIs",),
    ),
    Case(
        "with somebody else's URI beside ours",
        _changed(uris=lambda w: (certificate_uri("east", w.role, w.name), "spiffe://east/n1")),
        ("has 2 URIs",),
    ),
    Case("with a URI of another scheme", _uri("spiffe://east/{role}/{name}"), ("is not of the form",)),
    Case("with the scheme in capitals", _uri("URN:KMSTN:east:{role}:{name}"), ("is not of the form",)),
    Case("with the domain in capitals", _uri("urn:kmstn:EAST:{role}:{name}"), ("not trusted here",)),
    Case("with a dot after the domain", _uri("urn:kmstn:east.:{role}:{name}"), ("cannot carry",)),
    Case("with an unknown domain", _uri("urn:kmstn:elsewhere:{role}:{name}"), ("not trusted here",)),
    Case("with a slash after the name", _uri("urn:kmstn:east:{role}:{name}/"), ("not in canonical spelling",)),
    Case("with a blank after the name", _uri("urn:kmstn:east:{role}:{name} "), ("not in canonical spelling",)),
    Case("with a colon after the name", _uri("urn:kmstn:east:{role}:{name}:"), ("is not of the form",)),
    Case("with the role in capitals", _uri("urn:kmstn:east:OPERATOR:{name}"), ("unknown role",)),
    Case("with a letter that is percent-encoded", _uri("urn:kmstn:east:{role}:%61%31"), ("not in canonical spelling",)),
    Case("with percent signs that encode nothing", _uri("urn:kmstn:east:{role}:%zz"), ("not in canonical spelling",)),
    Case("encoded in what is no UTF-8", _uri("urn:kmstn:east:{role}:%FF%FE"), ("not in canonical spelling",)),
    Case("with an encoded NUL", _uri("urn:kmstn:east:{role}:{name}%00"), ("control characters",)),
    Case("with a bare NUL", _uri("urn:kmstn:east:{role}:{name}\x00.evil"), ("control characters", "canonical")),
    Case("with a line break for the log", _uri("urn:kmstn:east:{role}:x%0AINFO%20all%20well"), ("control characters",)),
    Case("with a name of 300 letters", _uri("urn:kmstn:east:{role}:" + 300 * "x"), ("too long",)),
    Case("with a name of 60 000 letters", _uri("urn:kmstn:east:{role}:" + 60_000 * "x"), ("too long", "excessive")),
    Case("without a name", _uri("urn:kmstn:east:{role}:"), ("must name its holder",)),
    # TLS 1.3 has no signature for such a key: the client cannot show it at all.
    Case(
        "with a P-224 key",
        _changed(key=lambda _w: ec.generate_private_key(ec.SECP224R1())),
        ("weak", "no certificate"),
    ),
    Case("with an RSA key of 1024 bits", _changed(key=lambda _w: rsa.generate_private_key(65537, 1024)), ("weak",)),
    Case("signed with SHA-1", _signed_with_sha1, ("weak hash",)),
    Case("signed with SHA-224", _changed(algorithm=hashes.SHA224()), ("weak hash",)),
    Case(
        "with an unknown critical extension",
        _changed(extra=(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1"), b"\x05\x00"),)),
        ("unknown critical extension",),
    ),
]
# Good certificates in the wrong place: API, role, name, and what the node must say.
MISPLACED = [
    ("SAE", Role.NODE, "n2", "role node does not open"),
    ("SAE", Role.OPERATOR, "operator", "role operator does not open"),
    ("peer", Role.SAE, "a1", "role sae does not open"),
    ("peer", Role.SAE, "n2", "role sae does not open"),
    ("peer", Role.OPERATOR, "operator", "role operator does not open"),
    ("peer", Role.NODE, "n1", "not a neighbour of this node"),
    ("peer", Role.NODE, "n9", "not a neighbour of this node"),
    ("operator", Role.SAE, "a1", "role sae does not open"),
    ("operator", Role.NODE, "n1", "role node does not open"),
]
