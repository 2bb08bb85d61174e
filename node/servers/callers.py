"""Who calls: the identity in the client's certificate, checked for role and domain; refusals are logged."""

import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from fastapi import Request

from node.errors import NotAuthorisedError
from node.identity_uri import Role
from node.mutual_tls.client_certificate_protocol import client_certificate_der
from node.mutual_tls.identity import CertificateRefusedError, Identity, TrustAnchors

log = logging.getLogger("kmstn.access")


class Callers:
    """Identifies the callers of one API."""

    def __init__(
        self,
        api: str,
        anchors: TrustAnchors,
        roles: Collection[Role],
        now: Callable[[], float],
        domain: str | None = None,
    ) -> None:
        self._api = api
        self._anchors = anchors
        self._roles = roles
        self._now = now
        self._domain = domain

    def identify(self, request: Request) -> Identity:
        """Return who calls; raises NotAuthorisedError and logs why."""
        try:
            der = client_certificate_der(request.scope)
            caller = self._anchors.identify(der, datetime.fromtimestamp(self._now(), UTC))
        except (LookupError, CertificateRefusedError) as error:
            raise self._refused("an unknown client", str(error)) from error
        if caller.role not in self._roles:
            raise self._refused(str(caller), f"a certificate of role {caller.role.value} does not open this API")
        if self._domain is not None and caller.domain != self._domain:
            raise self._refused(str(caller), f"a certificate of domain {caller.domain} does not open this API")
        return caller

    def _refused(self, who: str, reason: str) -> NotAuthorisedError:
        log.warning("%s refused %s: %s", self._api, who, reason)
        return NotAuthorisedError("the certificate does not open this API", {"certificate": reason})
