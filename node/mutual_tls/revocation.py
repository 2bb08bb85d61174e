"""Which certificates their CA has taken back: `<domain>.crl` beside `<domain>.crt`, read anew when the file changes.

A list counts if the domain's own CA signed it. One that does not count is reported and the last good one stays in
force; where there never was a good one, no certificate of the domain is accepted until the file is put right or
removed. A list past its next update still revokes. A certificate is looked up at every request, so that a connection
which is open already does not outlive the revocation of its certificate.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

log = logging.getLogger("kmstn.access")

LOOK_INTERVAL_S = 1.0

_Stamp = tuple[int, int] | None


class RevocationLists:
    """The lists of some domains, in the folder of their CAs."""

    def __init__(self, directory: Path, authorities: Mapping[str, x509.Certificate]) -> None:
        self._directory = directory
        self._authorities = dict(authorities)
        self._stamps: dict[str, _Stamp] = {}
        self._serials: dict[str, frozenset[int] | None] = {}
        self._looked_at = float("-inf")

    def refusal(self, domain: str, serial: int, now: float) -> str | None:
        """Return why a certificate is refused at `now` (Unix seconds), None if it is not."""
        if abs(now - self._looked_at) >= LOOK_INTERVAL_S:
            self._looked_at = now
            for name in self._authorities:
                self._look(name)
        serials = self._serials.get(domain, frozenset())
        if serials is None:
            return f"the revocation list of {domain} cannot be used"
        return "certificate was revoked" if serial in serials else None

    def _look(self, domain: str) -> None:
        path = self._directory / f"{domain}.crl"
        stamp = _stamp(path)
        if stamp == self._stamps.get(domain):
            return
        self._stamps[domain] = stamp
        if stamp is None:
            self._serials[domain] = frozenset()
            log.warning("%s is gone: no certificate of %s is revoked any more", path.name, domain)
            return
        try:
            self._serials[domain] = serials = _read(path, self._authorities[domain])
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            self._serials.setdefault(domain, None)
            log.error("%s cannot be used, what was revoked before stays so: %s", path.name, error)
        else:
            log.info("%s revokes %d certificates", path.name, len(serials))


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _read(path: Path, authority: x509.Certificate) -> frozenset[int]:
    revoked = x509.load_pem_x509_crl(path.read_bytes())
    if revoked.issuer != authority.subject or not revoked.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]
        raise ValueError("the CA of the domain did not sign it")
    return frozenset(entry.serial_number for entry in revoked)
