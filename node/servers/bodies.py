"""Reading request bodies with a bound, and answering bytes that are JSON already."""

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from node.errors import BadRequestError

JSON = "application/json"
# JSON between systems is UTF-8 (RFC 8259, 8.1), whatever a client calls it.
CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii"})


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Return the body; raises BadRequestError as soon as it is longer than the limit, or of another type.

    Without a Content-Type it is taken for JSON.
    """
    content_type = request.headers.get("content-type", JSON)
    if content_type != JSON:
        _check_type(content_type)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit_bytes:
                raise BadRequestError("the body is too long", {"body": f"at most {limit_bytes} bytes"})
    except ClientDisconnect:
        raise BadRequestError("the client went away before the end of the body", {"body": "incomplete"}) from None
    return bytes(body)


def json_response(body: bytes, status: int = 200) -> Response:
    """Answer bytes that are JSON."""
    return Response(body, status, media_type=JSON)


def _check_type(content_type: str) -> None:
    media_type, _, parameters = content_type.lower().partition(";")
    named = (parameter.partition("=") for parameter in parameters.split(";"))
    charset = next((value.strip(' "') for name, _, value in named if name.strip() == "charset"), "")
    if media_type.strip() not in ("", JSON):
        raise BadRequestError("the body is not application/json", {"Content-Type": content_type[:64]})
    if charset not in CHARSETS:
        raise BadRequestError("the body is not in UTF-8", {"Content-Type": content_type[:64]})
