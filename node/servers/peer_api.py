"""ETSI GS QKD 020 towards neighbouring nodes, and our announcement of link keys beside it.

The caller is the neighbour that its certificate names; whoever is not a neighbour of this node is refused.
"""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from node.core.federation import Federation
from node.core.hop import Incoming
from node.core.link_key_stock import LinkKeyStock
from node.core.relay import Relay
from node.errors import (
    BadRequestError,
    NotAuthorisedError,
    UnsupportedExtensionError,
)
from node.servers.bodies import json_response, read_body
from node.servers.callers import Callers
from node.servers.plain_api import Handler, PlainApi
from node.servers.problems import answer_error, check_callback, check_key_ids, check_named, internal_error, not_found
from node.settings import NeighbourSettings
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
from node.wire.federation import (
    END_TO_END,
    FEDERATION,
    HYBRID_TRANSPORT,
    LINK_KEYS_PATH,
    EndToEnd,
    FederationAdvert,
    HybridTransport,
    LinkKeyAnnouncement,
    extension,
)

log = logging.getLogger("kmstn.peer_api")

MAX_LOGGED_CHARACTERS = 500


def peer_api(federation: Federation, relay: Relay, stocks: Mapping[str, LinkKeyStock], callers: Callers) -> PlainApi:
    """Make the application; `stocks` by neighbour."""

    def neighbour_of(request: Request) -> NeighbourSettings:
        caller = callers.identify(request)
        settings = federation.neighbour(caller.name)
        if settings is None or settings.domain != caller.domain:
            log.warning("peer API refused %s: not a neighbour of this node", caller)
            raise NotAuthorisedError("not a neighbour of this node", {"node": caller.name})
        return settings

    async def versions(request: Request) -> Response:
        return json_response(_versions(federation.advert_for(neighbour_of(request).node)))

    async def ext_keys(request: Request) -> Response:
        neighbour = neighbour_of(request)
        container = parse(ExtKeyContainer, await read_body(request, MAX_BODY_BYTES))
        check_callback(container.ack_callback_url, neighbour.url)
        return await _take_over(relay, neighbour.node, _read_headers(container))

    async def ack(request: Request) -> Response:
        neighbour = neighbour_of(request)
        acks = parse_acks(await read_body(request, MAX_BODY_BYTES))
        await relay.acknowledged(neighbour.node, acks)
        return Response(status_code=200)

    async def void(request: Request) -> Response:
        neighbour = neighbour_of(request)
        container = parse(VoidContainer, await read_body(request, MAX_BODY_BYTES), "void-request-not-understood")
        check_callback(container.ack_callback_url, neighbour.url)
        check_named(container)
        if container.ack_callback_url is None:
            return json_response(dump_acks(await relay.void_and_answer(neighbour.node, container)))
        await relay.void(neighbour.node, container)
        return Response(status_code=202)

    async def link_keys(request: Request) -> Response:
        neighbour = neighbour_of(request)
        announcement = parse(LinkKeyAnnouncement, await read_body(request, MAX_BODY_BYTES))
        stock = stocks.get(neighbour.node)
        if stock is None or stock.link != announcement.link:
            raise BadRequestError("no such QKD link between us", {"link": announcement.link[:64]})
        return json_response(dump(await stock.announced(announcement)))

    table: dict[tuple[str, str], Handler] = {
        ("GET", "/kmapi/versions"): versions,
        ("POST", "/kmapi/v1/ext_keys"): ext_keys,
        ("POST", "/kmapi/v1/ext_keys/ack"): ack,
        ("POST", "/kmapi/v1/ext_keys/void"): void,
        ("POST", LINK_KEYS_PATH): link_keys,
    }
    return PlainApi(lambda method, path: table.get((method, path), not_found), answer_error, internal_error)


async def _take_over(relay: Relay, sender: str, incoming: Incoming) -> Response:
    if incoming.container.ack_callback_url is None:
        return json_response(dump_acks(await relay.accept_and_answer(sender, incoming)))
    await relay.accept(sender, incoming)
    # What goes on from here leaves before the answer does: the key waits for it, the neighbour does not.
    await asyncio.sleep(0)
    return Response(status_code=202)


@lru_cache(maxsize=4)
def _versions(advert: FederationAdvert) -> bytes:
    """Serialise the answer once for as long as the advert stays the same: neighbours ask every second."""
    own = extension(FEDERATION, advert)
    return dump(VersionContainer(versions=("v1",), capabilities=(SYNCHRONOUS_MODE,), extension=own))


def _read_headers(container: ExtKeyContainer) -> Incoming:
    mandatory = container.extension_mandatory or {}
    unknown = sorted(set(mandatory) - {HYBRID_TRANSPORT, END_TO_END})
    if unknown:
        raise UnsupportedExtensionError(f"not supported: {', '.join(unknown)[:200]}")
    if HYBRID_TRANSPORT not in mandatory or END_TO_END not in mandatory:
        wrong = {"extension_mandatory": f"{HYBRID_TRANSPORT} and {END_TO_END} are required between these nodes"}
        raise BadRequestError("bare keys are not accepted", wrong, slug="missing-parameters")
    check_key_ids(container)
    header = _read(HybridTransport, HYBRID_TRANSPORT, mandatory)
    end_to_end = _read(EndToEnd, END_TO_END, mandatory)
    return Incoming(container, header, end_to_end, str(uuid.uuid4()))


def _read(model: Any, name: str, members: Mapping[str, Any]) -> Any:
    try:
        return model.model_validate(members[name])
    except ValidationError as error:
        findings = error.errors(include_url=False, include_context=False, include_input=False)[:8]
        wrong = {".".join((name, *map(str, finding["loc"]))): finding["msg"] for finding in findings}
        raise BadRequestError("an extension cannot be read", wrong) from None
