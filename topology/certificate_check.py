"""What is wrong with the certificates that a testbed keeps, in words: dates, chain, role, name, key. Only reads.

It looks at them as the nodes do, where they lie on disk: `<domain>/ca.crt`, `<domain>/<role>/<ID, encoded>.crt`.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from node.identity_uri import Role, parse_certificate_uri

EXPIRES_SOON: Final = timedelta(days=7)
SERVERS: Final = {Role.NODE, Role.DEVICE}
CLIENTS: Final = {Role.NODE, Role.SAE, Role.OPERATOR}

_UNREADABLE = (OSError, ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension)


def problems_of(directory: Path, now: datetime) -> tuple[int, list[str]]:
    """Return how many certificates a PKI folder holds, and a sentence for each thing that is wrong with one."""
    paths = sorted(directory.glob("*/ca.crt")) + sorted(directory.glob("*/*/*.crt"))
    found = [f"{path.relative_to(directory)}: {problem}" for path in paths for problem in explain(path, now)]
    return len(paths), found


def explain(path: Path, now: datetime) -> list[str]:
    """Say all that is wrong with the certificate at a path; nothing if it is good at `now` (time zone aware)."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = load_pem_private_key(path.with_suffix(".key").read_bytes(), password=None)
        problems = _dates(certificate, now)
        if key.public_key() != certificate.public_key():
            problems.append("its private key is another certificate's")
        return problems if path.stem == "ca" else problems + _chain(certificate, path) + _names(certificate, path)
    except _UNREADABLE as error:
        return [f"cannot be read: {error}"]


def _dates(certificate: x509.Certificate, now: datetime) -> list[str]:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        return [f"is valid from {begins:%Y-%m-%d %H:%M} UTC only"]
    if now > ends:
        return [f"expired at {ends:%Y-%m-%d %H:%M} UTC"]
    return [f"expires in {(ends - now).days} days"] if now + EXPIRES_SOON > ends else []


def _chain(certificate: x509.Certificate, path: Path) -> list[str]:
    authority = x509.load_pem_x509_certificate((path.parent.parent / "ca.crt").read_bytes())
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return [f"was not issued by the CA of {unquote(path.parent.parent.name)}"]
    return []


def _names(certificate: x509.Certificate, path: Path) -> list[str]:
    extensions = {type(extension.value): extension.value for extension in certificate.extensions}
    names, usage = extensions.get(x509.SubjectAlternativeName), extensions.get(x509.ExtendedKeyUsage)
    uris = (
        names.get_values_for_type(x509.UniformResourceIdentifier)
        if isinstance(names, x509.SubjectAlternativeName)
        else []
    )
    if len(uris) != 1:
        return [f"has {len(uris)} URIs where one must say whose it is"]
    said = parse_certificate_uri(uris[0])
    expected = tuple(unquote(part) for part in (path.parent.parent.name, path.parent.name, path.stem))
    problems = (
        [] if said == expected else [f"is of {' '.join(said)}, but lies where that of {' '.join(expected)} should"]
    )
    usages = list(usage) if isinstance(usage, x509.ExtendedKeyUsage) else []
    if said[1] in CLIENTS and ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        problems.append("is not meant for clients")
    if said[1] in SERVERS and ExtendedKeyUsageOID.SERVER_AUTH not in usages:
        problems.append("is not meant for servers")
    return problems
