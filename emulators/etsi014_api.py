"""The device's ETSI GS QKD 014 interface: requests in, answers and error bodies out.

Who calls is read from the certificate; what is answered, `device` decides; before keys leave, `store` has it.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from emulators.device import Device, NotAllowedError, StoreEmptyError, UnfitRequestError
from emulators.fibre import FibreKey
from emulators.settings import ProfileSettings
from emulators.store import Store
from node.mutual_tls.client_certificate_protocol import client_certificate_der
from node.mutual_tls.identity import CertificateRefusedError, TrustAnchors
from node.wire import etsi014

logger = logging.getLogger("qkd-device.etsi014")

MAX_BODY_BYTES = 64 * 1024

# IDs may hold any URI character, an encoded slash included, hence the `path` convertor.
KEYS_PATH = "/api/v1/keys/{sae_id:path}"


class BodyTooLargeError(Exception):
    """A body that no request of the standard needs."""


class Etsi014Api:
    """The three methods of table 2."""

    def __init__(
        self,
        device: Device,
        store: Store,
        anchors: TrustAnchors,
        profile: ProfileSettings,
        now: Callable[[], float],
    ) -> None:
        self._device = device
        self._store = store
        self._anchors = anchors
        self._profile = profile
        self._now = now

    async def get_status(self, sae_id: str, request: Request) -> Response:
        """Get status."""
        self._admit(request, sae_id)
        await self._dawdle(0)
        return _answer(self._device.status(self._now()))

    async def get_key(self, sae_id: str, request: Request) -> Response:
        """Get key, by POST or by GET."""
        self._admit(request, sae_id)
        if request.method == "GET":
            asked = etsi014.key_request_from_query(request.query_params.multi_items())
        else:
            asked = etsi014.parse_key_request(await _body(request))
        await self._dawdle(min(asked.number, self._profile.max_keys_per_request))
        position, keys = self._device.hand_out(asked, self._now())
        self._store.save_position(position)
        return _key_container(keys)

    async def get_key_with_key_ids(self, sae_id: str, request: Request) -> Response:
        """Get key with key IDs, by POST or by GET."""
        self._admit(request, sae_id)
        if request.method == "GET":
            asked = etsi014.key_ids_from_query(request.query_params.multi_items())
        else:
            asked = etsi014.parse_key_ids(await _body(request))
        key_ids = [entry.key_ID for entry in asked.key_IDs]
        await self._dawdle(min(len(key_ids), self._profile.max_keys_per_request))
        indices, keys = self._device.fetch(key_ids)
        self._store.save_fetched(indices, self._device.oldest_kept)
        return _key_container(keys)

    def _admit(self, request: Request, opposite: str) -> None:
        try:
            der = client_certificate_der(request.scope)
            caller = self._anchors.identify(der, datetime.fromtimestamp(self._now(), UTC))
        except (LookupError, CertificateRefusedError) as error:
            raise NotAllowedError(str(error)) from error
        self._device.admit(caller, opposite)

    async def _dawdle(self, keys: int) -> None:
        # Before the decision, not after: a caller who loses patience must not cost keys.
        await asyncio.sleep((self._profile.api_latency_ms + keys * self._profile.api_latency_per_key_ms) / 1000)


def make_application(api: Etsi014Api) -> FastAPI:
    """Wire methods to paths and errors to answers."""
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    application.add_api_route(f"{KEYS_PATH}/status", api.get_status, methods=["GET"])
    application.add_api_route(f"{KEYS_PATH}/enc_keys", api.get_key, methods=["GET", "POST"])
    application.add_api_route(f"{KEYS_PATH}/dec_keys", api.get_key_with_key_ids, methods=["GET", "POST"])
    for error in (*_ANSWERS, HTTPException):
        application.add_exception_handler(error, _refuse)
    return application


# Which error is answered how; 401 has no body (table 4).
_ANSWERS: dict[type[Exception], HTTPStatus] = {
    etsi014.RequestFormatError: HTTPStatus.BAD_REQUEST,
    UnfitRequestError: HTTPStatus.BAD_REQUEST,
    BodyTooLargeError: HTTPStatus.BAD_REQUEST,
    NotAllowedError: HTTPStatus.UNAUTHORIZED,
    StoreEmptyError: HTTPStatus.SERVICE_UNAVAILABLE,
    sqlite3.Error: HTTPStatus.SERVICE_UNAVAILABLE,
}


async def _refuse(request: Request, error: Exception) -> Response:
    logger.info("%s %s refused: %s", request.method, request.url.path, error)
    if isinstance(error, HTTPException):
        return _answer(etsi014.Error(message=str(error.detail)), error.status_code)
    status = next(status for kind, status in _ANSWERS.items() if isinstance(error, kind))
    if status is HTTPStatus.UNAUTHORIZED:
        return Response(status_code=status)
    if isinstance(error, etsi014.RequestFormatError):
        return _answer(error.error, status)
    return _answer(etsi014.Error(message=str(error)), status)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLargeError(f"body shall have at most {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _key_container(keys: Sequence[FibreKey]) -> Response:
    return _answer(etsi014.KeyContainer(keys=tuple(etsi014.Key.of(key.key_id, key.value) for key in keys)))


def _answer(wire: etsi014.Wire, status: int = HTTPStatus.OK) -> Response:
    return Response(etsi014.to_json_bytes(wire), status_code=status, media_type="application/json")
