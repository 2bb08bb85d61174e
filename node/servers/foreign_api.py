"""ETSI GS QKD 020 towards foreign KMSs: as published, on a port of its own that no certificate of ours opens.

The caller is the foreign KMS that its certificate names. Members of `extension_mandatory` are all unknown here: a
foreign KMS that needs one is answered that it is not supported.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from starlette.requests import Request
from starlette.responses import Response

from node.core.foreign import neighbour_name
from node.core.gateway import Gateway
from node.core.relay import Relay
from node.errors import NotAuthorisedError, UnsupportedExtensionError
from node.mutual_tls.client_certificate_protocol import client_certificate_der
from node.mutual_tls.foreign_identity import ForeignAnchors
from node.mutual_tls.identity import CertificateRefusedError
from node.servers.bodies import json_response, read_body
from node.servers.plain_api import Handler, PlainApi
from node.servers.problems import answer_error, check_callback, check_key_ids, check_named, internal_error, not_found
from node.settings import ForeignKmsSettings
from node.wire.etsi020 import (
    MAX_BODY_BYTES,
    SYNCHRONOUS_MODE,
    ExtKeyContainer,
    VersionContainer,
    VoidContainer,
    dump,
    dump_acks,
    parse,
    parse_acks,
)

log = logging.getLogger("kmstn.access")


class ForeignCallers:
    """Identifies foreign KMSs by their certificates."""

    def __init__(
        self, anchors: ForeignAnchors, settings: Mapping[str, ForeignKmsSettings], now: Callable[[], float]
    ) -> None:
        """`settings` by the name of the KMS."""
        self._anchors = anchors
        self._settings = settings
        self._now = now

    def identify(self, request: Request) -> ForeignKmsSettings:
        """Return who calls; raises NotAuthorisedError and logs why."""
        try:
            der = client_certificate_der(request.scope)
            return self._settings[self._anchors.identify(der, datetime.fromtimestamp(self._now(), UTC))]
        except (LookupError, CertificateRefusedError) as error:
            log.warning("API for foreign KMSs refused an unknown client: %s", error)
            raise NotAuthorisedError("the certificate does not open this API", {"certificate": str(error)}) from error


def foreign_api(gateway: Gateway, relay: Relay, callers: ForeignCallers) -> PlainApi:
    """Make the application."""

    async def versions(request: Request) -> Response:
        callers.identify(request)
        return json_response(_versions())

    async def ext_keys(request: Request) -> Response:
        settings = callers.identify(request)
        container = parse(ExtKeyContainer, await read_body(request, MAX_BODY_BYTES))
        check_callback(container.ack_callback_url, settings.url)
        check_key_ids(container)
        if unknown := sorted(container.extension_mandatory or {}):
            raise UnsupportedExtensionError(f"not supported: {', '.join(unknown)[:200]}")
        kms = neighbour_name(settings.name)
        if container.ack_callback_url is None:
            return json_response(dump_acks(await gateway.accept_and_answer(kms, container)))
        await gateway.accept(kms, container)
        # What goes on from here leaves before the answer does: the key waits for it, the KMS does not.
        await asyncio.sleep(0)
        return Response(status_code=202)

    async def ack(request: Request) -> Response:
        settings = callers.identify(request)
        acks = parse_acks(await read_body(request, MAX_BODY_BYTES))
        await relay.acknowledged(neighbour_name(settings.name), acks)
        return Response(status_code=200)

    async def void(request: Request) -> Response:
        settings = callers.identify(request)
        container = parse(VoidContainer, await read_body(request, MAX_BODY_BYTES), "void-request-not-understood")
        check_callback(container.ack_callback_url, settings.url)
        check_named(container)
        kms = neighbour_name(settings.name)
        if container.ack_callback_url is None:
            return json_response(dump_acks(await gateway.void_and_answer(kms, container)))
        await gateway.void(kms, container)
        return Response(status_code=202)

    table: dict[tuple[str, str], Handler] = {
        ("GET", "/kmapi/versions"): versions,
        ("POST", "/kmapi/v1/ext_keys"): ext_keys,
        ("POST", "/kmapi/v1/ext_keys/ack"): ack,
        ("POST", "/kmapi/v1/ext_keys/void"): void,
    }
    return PlainApi(lambda method, path: table.get((method, path), not_found), answer_error, internal_error)


@lru_cache(maxsize=1)
def _versions() -> bytes:
    return dump(VersionContainer(versions=("v1",), capabilities=(SYNCHRONOUS_MODE,)))
