"""TLS contexts of every plane: always mutual, never trusting more CAs than the plane has to.

SAE, operator and device planes trust the own domain and take TLS 1.2 or higher (ETSI GS QKD 014, 5.1). The peer
plane trusts the federated domains as well and takes TLS 1.3 with a hybrid group only. A handshake proves possession
of a certificate from a trusted CA; whose it is, `identity.TrustAnchors` says.
"""

import logging
import ssl
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from node.mutual_tls.tls_groups import PEER_PLANE_GROUPS, restrict_groups

logger = logging.getLogger("kmstn.tls")

CERTIFICATE_FILE = "tls.crt"
KEY_FILE = "tls.key"
AUTHORITIES_FOLDER = "domains"
FOREIGN_FOLDER = "foreign"

# OpenSSL's X509_V_ERR_* numbers that deserve a plain name in log and counters.
_VERIFY_REASONS = {
    7: "not signed by its CA",
    9: "not yet valid",
    10: "expired",
    18: "unknown CA",
    19: "unknown CA",
    20: "unknown CA",
    21: "unknown CA",
    22: "certificate chain too long",
    23: "revoked",
    24: "issued by a certificate that is no CA's",
    25: "path length of a CA exceeded",
    26: "certificate not meant for this purpose",
    34: "unknown critical extension",
    47: "name constraints of the CA violated",
    48: "name constraints of the CA violated",
    66: "key too weak",
    67: "key of a CA too weak",
    68: "signed with a weak hash",
    79: "issued by a certificate that is no CA's",
}


class ServerContext(ssl.SSLContext):
    """A server's context that knows how many handshakes it refused, by reason."""

    refused_handshakes: Counter[str]


class _LoggedHandshake(ssl.SSLObject):
    """The server's end of a connection; says why a handshake failed, which asyncio and uvloop keep to themselves.

    The peer's address is not known at this depth: both hand over memory buffers, not the socket.
    """

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            reason = handshake_failure(error)
            logger.warning("refused a TLS handshake: %s", reason)
            if isinstance(self.context, ServerContext):
                self.context.refused_handshakes[reason] += 1
            raise


def server_context(
    identity_dir: Path, domains: Collection[str], *, peer_plane: bool, groups: str | None = None
) -> ServerContext:
    """Make a context for clients of the given domains; `groups` replaces the plane's own TLS groups.

    Raises FileNotFoundError or ssl.SSLError for a missing or unusable identity, TlsGroupUnsupportedError.
    """
    context = _new_server_context()
    _configure(context, identity_dir, domains)
    _bind_plane(context, peer_plane, groups)
    return context


def foreign_server_context(identity_dir: Path, kms: Collection[str]) -> ServerContext:
    """Make a context for foreign KMSs: TLS 1.3, of any group, and their own CAs only; raises like `server_context`."""
    context = _new_server_context()
    _configure(context, identity_dir, kms, FOREIGN_FOLDER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def foreign_client_context(identity_dir: Path, kms: str) -> ssl.SSLContext:
    """Make a context for the server of one foreign KMS; raises like `server_context`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _configure(context, identity_dir, (kms,), FOREIGN_FOLDER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def client_context(
    identity_dir: Path, domains: Collection[str], *, peer_plane: bool, groups: str | None = None
) -> ssl.SSLContext:
    """Make a context for servers of the given domains; raises like `server_context`.

    Name only the domain of the server in question: the host name is checked, but any of the CAs may issue any.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _configure(context, identity_dir, domains)
    _bind_plane(context, peer_plane, groups)
    return context


def handshake_failure(error: ssl.SSLError) -> str:
    """Name the reason of a failed handshake, in few words that do not depend on the peer's input."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_REASONS.get(error.verify_code, error.verify_message)
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "no certificate"
    return (error.reason or "connection closed during the handshake").lower().replace("_", " ")


def _new_server_context() -> ServerContext:
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.refused_handshakes = Counter()
    context.sslobject_class = _LoggedHandshake
    # Every connection verifies the certificate anew: a resumed session would outlive its expiry.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def _configure(
    context: ssl.SSLContext, identity_dir: Path, authorities: Collection[str], folder: str = AUTHORITIES_FOLDER
) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(identity_dir / CERTIFICATE_FILE, identity_dir / KEY_FILE)
    for name in authorities:
        context.load_verify_locations(cafile=identity_dir / folder / f"{name}.crt")


def _bind_plane(context: ssl.SSLContext, peer_plane: bool, groups: str | None) -> None:
    if peer_plane:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        groups = groups or PEER_PLANE_GROUPS
    if groups is not None:
        restrict_groups(context, groups)
