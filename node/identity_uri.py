"""How a certificate names its holder: the URI `urn:kmstn:<domain>:<role>:<ID, percent-encoded>`.

Format and parsing only, so that whoever issues certificates and whoever checks them share one spelling.
Whether a certificate may be believed is decided in `node.mutual_tls.identity`.
"""

import re
from enum import StrEnum
from urllib.parse import quote, unquote

URI_PREFIX = "urn:kmstn:"
MAX_NAME_CHARACTERS = 255

_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


class Role(StrEnum):
    """What the holder of a certificate is in its domain."""

    NODE = "node"
    DEVICE = "device"
    SAE = "sae"
    OPERATOR = "operator"


def certificate_uri(domain: str, role: Role, name: str) -> str:
    """Spell the URI for a holder; raises ValueError for a domain or name that cannot stand in it."""
    if not _DOMAIN.fullmatch(domain):
        raise ValueError(f"domain {domain!r} has characters that a certificate URI cannot carry")
    if not name:
        raise ValueError("a certificate must name its holder")
    # Names are written to logs and shown to people.
    if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise ValueError(f"the name {name[:64]!r} is too long or has control characters")
    return f"{URI_PREFIX}{domain}:{role.value}:{quote(name, safe='')}"


def parse_certificate_uri(uri: str) -> tuple[str, Role, str]:
    """Return (domain, role, name); raises ValueError unless this is exactly what `certificate_uri` spells."""
    parts = uri.split(":")
    if len(parts) != 5 or not uri.startswith(URI_PREFIX):
        raise ValueError(f"{uri!r} is not of the form {URI_PREFIX}<domain>:<role>:<ID>")
    domain, role, name = parts[2:]
    if role not in set(Role):
        raise ValueError(f"{uri!r} names the unknown role {role!r}")
    holder = (domain, Role(role), unquote(name))
    # Two spellings of one ID would let two certificates claim it unseen, hence only the canonical one counts.
    if certificate_uri(*holder) != uri:
        raise ValueError(f"{uri!r} is not in canonical spelling")
    return holder
