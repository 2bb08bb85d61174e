"""Choosing the key exchange groups of one TLS context, which Python offers from 3.15 on.

Before that the group list is set by OpenSSL's own call, on the pointer that CPython keeps right behind the object
header of an SSLContext. OpenSSL's configuration file is no way out: it would bind every plane of the process.
"""

import _ssl
import ctypes
import ssl
from typing import Any

PEER_PLANE_GROUPS = "X25519MLKEM768"

# From OpenSSL's ssl.h: the call behind the macro SSL_CTX_set1_groups_list.
_SSL_CTRL_SET_GROUPS_LIST = 92


class TlsGroupUnsupportedError(Exception):
    """The context cannot be bound to the wanted groups, hence must not be used."""


def restrict_groups(context: ssl.SSLContext, groups: str) -> None:
    """Let the context agree to these groups only (OpenSSL names, joined by colons).

    Raises TlsGroupUnsupportedError if this Python or its OpenSSL cannot.
    """
    native: Any = getattr(context, "set_groups", None)
    if native is None:
        _restrict_by_openssl(context, groups)
        return
    try:
        native(groups)
    except (ssl.SSLError, ValueError) as error:
        raise TlsGroupUnsupportedError(_unsupported(groups)) from error


def _restrict_by_openssl(context: ssl.SSLContext, groups: str) -> None:
    try:
        openssl = ctypes.CDLL(_ssl.__file__)
        control, clear_errors = openssl.SSL_CTX_ctrl, openssl.ERR_clear_error
    except (AttributeError, OSError) as error:
        raise TlsGroupUnsupportedError(f"cannot reach the OpenSSL of this Python to set {groups}") from error
    control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    control.restype = ctypes.c_long
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    if control(pointer, _SSL_CTRL_SET_GROUPS_LIST, 0, groups.encode("ascii")) != 1:
        # The failure stays in OpenSSL's queue otherwise, where the next handshake would trip over it.
        clear_errors()
        raise TlsGroupUnsupportedError(_unsupported(groups))


def _unsupported(groups: str) -> str:
    return f"{ssl.OPENSSL_VERSION} does not know all TLS groups of {groups!r}"
