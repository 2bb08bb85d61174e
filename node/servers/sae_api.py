"""ETSI GS QKD 014 towards SAEs: Get status, Get key, Get key with key IDs. Who asks is in the certificate alone."""

import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from node.core.key_delivery import KeyDelivery
from node.core.keys import KeyBlock
from node.errors import (
    BadRequestError,
    CannotServeError,
    KmstnError,
    NotAuthorisedError,
    RequestRefusedError,
)
from node.servers.bodies import json_response, read_body
from node.servers.callers import Callers
from node.servers.plain_api import Handler, PlainApi
from node.settings import NodeSettings
from node.wire import etsi014

log = logging.getLogger("kmstn.sae_api")

PREFIX = "/api/v1/keys/"
MAX_BODY_BYTES = 256 * 1024


def sae_api(
    settings: NodeSettings, delivery: KeyDelivery, callers: Callers, refused: Callable[[], str | None]
) -> PlainApi:
    """Make the application; `refused` says why the node serves nobody now, None if it does."""

    async def status(caller: str, slave_sae: str, _request: Request) -> Response:
        delivery.admission.admit(caller)
        stored = await delivery.stored_key_count(slave_sae)
        return json_response(etsi014.to_json_bytes(_status(settings, delivery, caller, slave_sae, stored)))

    async def enc_keys(caller: str, slave_sae: str, request: Request) -> Response:
        if request.method == "GET":
            wanted = etsi014.key_request_from_query(request.query_params.multi_items())
        else:
            wanted = etsi014.parse_key_request(await read_body(request, MAX_BODY_BYTES))
        order = delivery.admission.order(caller, slave_sae, wanted)
        _serving(refused)
        return _container(await delivery.enc_keys(order))

    async def dec_keys(caller: str, master_sae: str, request: Request) -> Response:
        if request.method == "GET":
            wanted = etsi014.key_ids_from_query(request.query_params.multi_items())
        else:
            wanted = etsi014.parse_key_ids(await read_body(request, MAX_BODY_BYTES))
        _serving(refused)
        key_ids = tuple(entry.key_ID for entry in wanted.key_IDs)
        return _container(await delivery.dec_keys(caller, master_sae, key_ids))

    methods: dict[tuple[str, str], Callable[[str, str, Request], Awaitable[Response]]] = {
        ("GET", "status"): status,
        ("GET", "enc_keys"): enc_keys,
        ("POST", "enc_keys"): enc_keys,
        ("GET", "dec_keys"): dec_keys,
        ("POST", "dec_keys"): dec_keys,
    }

    def find(method: str, path: str) -> Handler:
        """Find the method behind /api/v1/keys/SAE/METHOD; the SAE's ID may itself hold slashes."""
        other_sae, _, name = path.removeprefix(PREFIX).rpartition("/")
        serve = methods.get((method, name)) if path.startswith(PREFIX) and other_sae else None
        if serve is None:
            return _not_found
        return lambda request: serve(callers.identify(request).name, other_sae, request)

    return PlainApi(find, _answer_error, _internal_error)


def _serving(refused: Callable[[], str | None]) -> None:
    if (reason := refused()) is not None:
        raise CannotServeError(reason)


def _container(keys: tuple[KeyBlock, ...]) -> Response:
    container = etsi014.KeyContainer(keys=tuple(etsi014.Key.of(key.key_id, key.value) for key in keys))
    return json_response(etsi014.to_json_bytes(container))


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
    )


async def _not_found(request: Request) -> Response:
    message = f"{request.method} on this path is not part of ETSI GS QKD 014"
    return json_response(etsi014.to_json_bytes(etsi014.Error(message=message)), 400)


def _internal_error() -> Response:
    return json_response(etsi014.to_json_bytes(etsi014.Error(message="the request could not be processed")), 500)


def _answer_error(request: Request, error: Exception) -> Response | None:
    if isinstance(error, etsi014.RequestFormatError):
        return json_response(etsi014.to_json_bytes(error.error), 400)
    if not isinstance(error, KmstnError):
        return None
    status = 503
    if isinstance(error, NotAuthorisedError):
        status = 401
    elif isinstance(error, BadRequestError):
        status = 400
    elif not isinstance(error, CannotServeError):
        log.error("%s %s: %s", request.method, request.url.path, error)
    details = [{name: text} for name, text in error.details.items()] if isinstance(error, RequestRefusedError) else None
    body = etsi014.Error(message=str(error), details=details or None)
    return json_response(etsi014.to_json_bytes(body), status)
