"""The answers of ETSI GS QKD 020 to what went wrong, and the checks of its requests that every 020 API makes.

One table maps errors to status and problem type, for nodes and foreign KMSs alike.
"""

import logging

from starlette.requests import Request
from starlette.responses import Response

from node.errors import (
    BadRequestError,
    CannotServeError,
    DeviceError,
    KmstnError,
    NotAuthorisedError,
    OutcomeUnknownError,
    printable,
)
from node.servers.bodies import json_response
from node.wire.etsi020 import ExtKeyContainer, MessageFormatError, VoidContainer, problem

log = logging.getLogger("kmstn.peer_api")

MAX_LOGGED_CHARACTERS = 500


def check_key_ids(container: ExtKeyContainer) -> None:
    """Check that each key has an ID of its own; raises BadRequestError."""
    if len({key.key_id for key in container.keys}) != len(container.keys):
        raise BadRequestError("a key ID stands twice", {"keys": "key_id"})


def check_callback(url: str | None, base_url: str) -> None:
    """Acknowledgements go to the neighbour's own API and nowhere else, whatever it asks for; without a URL, nowhere."""
    if url is not None and not url.startswith(base_url.rstrip("/") + "/"):
        raise BadRequestError("the callback is not the caller's own", {"ack_callback_url": "another host or port"})


def check_named(container: VoidContainer) -> None:
    """Check that a request to void says what; raises BadRequestError."""
    if not container.key_ids and container.all_confirmation is not True:
        details = {"no_all_confirmation": "no key_ids, and all_confirmation is not true"}
        raise BadRequestError("no keys named", details, slug="no-key-ids-or-confirmation")


async def not_found(request: Request) -> Response:
    """Answer a path that the standard has not."""
    title = f"{request.method} {request.scope['path'][:200]!r} is not part of ETSI GS QKD 020"
    return json_response(problem(404, "bad-request-general-error", title, {}), 404)


def internal_error() -> Response:
    """Answer what nobody foresaw."""
    return json_response(problem(500, "server-side-general-error", "the request could not be processed", {}), 500)


def answer_error(request: Request, error: Exception) -> Response | None:
    """Answer what a handler raised; None for what is no error of a node."""
    if isinstance(error, MessageFormatError):
        title = "the body is not what ETSI GS QKD 020 describes"
        return json_response(problem(400, error.slug, title, error.details), 400)
    if not isinstance(error, KmstnError):
        return None
    # Not `request.url`: it is made from the Host header, which may be anything.
    where, said = request.scope["path"][:MAX_LOGGED_CHARACTERS], printable(str(error), MAX_LOGGED_CHARACTERS)
    status, slug, details = 503, "server-side-general-error", {"cannot_serve": str(error)}
    if isinstance(error, NotAuthorisedError):
        status, slug, details = 401, "unauthorized", error.details
    elif isinstance(error, BadRequestError):
        status, slug, details = 400, error.slug, error.details
        log.warning("refused a request on %r: %s %s", where, said, printable(str(error.details), MAX_LOGGED_CHARACTERS))
    elif isinstance(error, OutcomeUnknownError):
        status, slug, details = 408, "timeout", {"timeout": str(error)}
        log.info("no outcome in time for %r: %s", where, said)
    elif isinstance(error, CannotServeError):
        slug, details = error.slug, {error.reason: str(error)}
        log.info("cannot serve %r: %s", where, said)
    elif not isinstance(error, DeviceError):
        log.error("%r: %s", where, said)
    return json_response(problem(status, slug, str(error), details), status)
