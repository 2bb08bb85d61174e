"""ETSI GS QKD 014 towards SAEs: Get status, Get key, Get key with key IDs. Who asks is in the certificate alone."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response

from node.core.demands import asking_for_provenance, provenance
from node.core.key_delivery import KeyDelivery
from node.core.key_request import NO_SAE_ID, check_sae_id
from node.core.keys import KeyBlock, KeyRecord
from node.errors import (
    BadRequestError,
    CannotServeError,
    KmstnError,
    NotAuthorisedError,
    RequestRefusedError,
)
from node.servers.bodies import json_response, read_body
from node.servers.callers import Callers
from node.servers.plain_api import PlainApi
from node.settings import NodeSettings
from node.wire import etsi014

log = logging.getLogger("kmstn.sae_api")

PREFIX = b"/api/v1/keys/"
MAX_BODY_BYTES = 256 * 1024

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")

Method = Callable[[str, str, Request], Awaitable[Response]]


def sae_api(
    settings: NodeSettings, delivery: KeyDelivery, callers: Callers, refused: Callable[[], str | None]
) -> PlainApi:
    """Make the application; `refused` says why the node serves nobody now, None if it does."""

    async def status(caller: str, slave_sae: str, _request: Request) -> Response:
        delivery.admission.check_pair(caller, slave_sae)
        _serving(refused)
        stored = await delivery.stored_key_count(slave_sae)
        return json_response(etsi014.to_json_bytes(_status(settings, delivery, caller, slave_sae, stored)))

    async def enc_keys(caller: str, slave_sae: str, request: Request) -> Response:
        if request.method == "GET":
            wanted = etsi014.key_request_from_query(request.query_params.multi_items())
        else:
            wanted = etsi014.parse_key_request(await read_body(request, MAX_BODY_BYTES))
        order = delivery.admission.order(caller, slave_sae, wanted)
        _serving(refused)
        keys = await delivery.enc_keys(order)
        if not order.demands.provenance:
            return _container(keys)
        return _container(keys, await delivery.records([key.key_id for key in keys]))

    async def dec_keys(caller: str, master_sae: str, request: Request) -> Response:
        if request.method == "GET":
            wanted = etsi014.key_ids_from_query(request.query_params.multi_items())
        else:
            wanted = etsi014.parse_key_ids(await read_body(request, MAX_BODY_BYTES))
        asked = asking_for_provenance(wanted)
        _serving(refused)
        key_ids = tuple(entry.key_ID for entry in wanted.key_IDs)
        keys = await delivery.dec_keys(caller, master_sae, key_ids)
        return _container(keys, await delivery.records(asked)) if asked else _container(keys)

    methods: dict[tuple[str, str], Method] = {
        ("GET", "status"): status,
        ("GET", "enc_keys"): enc_keys,
        ("POST", "enc_keys"): enc_keys,
        ("GET", "dec_keys"): dec_keys,
        ("POST", "dec_keys"): dec_keys,
    }

    async def serve(request: Request) -> Response:
        """Serve /api/v1/keys/SAE/METHOD: who calls is known before anything of the request is looked at."""
        caller = callers.identify(request).name
        delivery.admission.admit(caller)
        other_sae, _, name = _within_api(request.scope["raw_path"]).rpartition(b"/")
        method = methods.get((request.method, name.decode("latin-1"))) if other_sae else None
        if method is None:
            raise BadRequestError(f"{request.method[:16]} on this path is not part of ETSI GS QKD 014")
        return await method(caller, _decoded(other_sae), request)

    return PlainApi(lambda _method, _path: serve, _answer_error, _internal_error)


def _within_api(raw_path: bytes) -> bytes:
    return raw_path.removeprefix(PREFIX) if raw_path.startswith(PREFIX) else b""


def _decoded(encoded: bytes) -> str:
    """Undo percent-encoding, once: an ID may hold encoded slashes, and unencoded ones too; raises BadRequestError."""
    if b"%" not in encoded:
        sae = encoded.decode("latin-1")
    elif _BROKEN_ESCAPE.search(encoded):
        raise BadRequestError(NO_SAE_ID, {"SAE_ID": "broken percent-encoding"})
    else:
        sae = unquote_to_bytes(encoded).decode("utf-8", "replace")
    check_sae_id("SAE_ID", sae)
    return sae


def _serving(refused: Callable[[], str | None]) -> None:
    if (reason := refused()) is not None:
        raise CannotServeError(reason)


def _container(keys: tuple[KeyBlock, ...], ways: Mapping[str, KeyRecord] | None = None) -> Response:
    """Answer keys; those whose record is given, with the way that it says they took."""
    wire = (etsi014.Key.of(key.key_id, key.value) for key in keys)
    if ways:
        wire = (key.model_copy(update={"key_ID_extension": provenance(ways.get(key.key_ID))}) for key in wire)
    return json_response(etsi014.to_json_bytes(etsi014.KeyContainer(keys=tuple(wire))))


def _status(settings: NodeSettings, delivery: KeyDelivery, master: str, slave: str, stored: int) -> etsi014.Status:
    keys = settings.keys
    return etsi014.Status(
        source_KME_ID=settings.node,
        target_KME_ID=delivery.home_of(slave),
        master_SAE_ID=master,
        slave_SAE_ID=slave,
        key_size=keys.key_size,
        stored_key_count=stored,
        max_key_count=keys.max_key_count,
        max_key_per_request=keys.max_key_per_request,
        max_key_size=keys.max_key_size,
        min_key_size=keys.min_key_size,
        max_SAE_ID_count=keys.max_sae_id_count,
        status_extension={
            "kmstn_pattern": settings.delivery.pattern,
            "kmstn_max_bits_per_request": keys.max_bits_per_request,
        },
    )


def _internal_error() -> Response:
    """The standard knows no other fault of the server's than 503."""
    return json_response(etsi014.to_json_bytes(etsi014.Error(message="the request could not be processed")), 503)


def _answer_error(request: Request, error: Exception) -> Response | None:
    if isinstance(error, etsi014.RequestFormatError):
        return json_response(etsi014.to_json_bytes(error.error), 400)
    if not isinstance(error, KmstnError):
        return None
    if isinstance(error, RequestRefusedError):
        details = [{name: text} for name, text in error.details.items()] or None
        body = etsi014.Error(message=str(error), details=details)
        return json_response(etsi014.to_json_bytes(body), 401 if isinstance(error, NotAuthorisedError) else 400)
    if isinstance(error, CannotServeError):
        return json_response(etsi014.to_json_bytes(etsi014.Error(message=str(error))), 503)
    # What failed inside, and where on which disk, is the operator's to know.
    log.error("%s %r: %s", request.method, request.scope["raw_path"][:200], error)
    return _internal_error()
