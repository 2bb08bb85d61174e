"""Which foreign KMS is on the other side of a connection: one whose own CA issued its certificate, in its own name.

Foreign certificates carry no URI of ours. Each foreign KMS has a CA file of its own, which speaks for nobody else, and
a DNS name that its certificates must carry, as a client and as a server.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from node.mutual_tls.contexts import FOREIGN_FOLDER
from node.mutual_tls.identity import UNREADABLE, CertificateRefusedError, weakness_of
from node.mutual_tls.revocation import RevocationLists


@dataclass(frozen=True, slots=True)
class _Kms:
    certificate_name: str
    authority: x509.Certificate


class ForeignAnchors:
    """The CAs of foreign KMSs, each for its own KMS only."""

    def __init__(self, identity_dir: Path, certificate_names: Mapping[str, str]) -> None:
        """`certificate_names` by KMS; raises FileNotFoundError, ValueError for a CA file that is none."""
        folder = identity_dir / FOREIGN_FOLDER
        self._kms = {
            name: _Kms(certificate_name, x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes()))
            for name, certificate_name in certificate_names.items()
        }
        self._revoked = RevocationLists(folder, {name: kms.authority for name, kms in self._kms.items()})

    def identify(self, der: bytes, now: datetime) -> str:
        """Say which foreign KMS this is a certificate of, at `now`; raises CertificateRefusedError."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            names = _dns_names(certificate)
            weakness = weakness_of(certificate)
        except UNREADABLE as error:
            raise CertificateRefusedError(f"unreadable certificate: {error}") from error
        if weakness is not None:
            raise CertificateRefusedError(weakness)
        name = next((name for name, kms in self._kms.items() if _is_of(certificate, names, kms)), None)
        if name is None:
            raise CertificateRefusedError(f"no foreign KMS has a certificate for {names or 'no DNS name'} of this CA")
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise CertificateRefusedError(f"the certificate of {name} is not valid now")
        reason = self._revoked.refusal(name, certificate.serial_number, now.timestamp())
        if reason is not None:
            raise CertificateRefusedError(f"{name}: {reason}")
        return name


def _dns_names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def _is_of(certificate: x509.Certificate, names: list[str], kms: _Kms) -> bool:
    if kms.certificate_name not in names:
        return False
    try:
        certificate.verify_directly_issued_by(kms.authority)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True
