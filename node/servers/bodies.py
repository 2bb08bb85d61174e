"""Reading request bodies with a bound, and answering bytes that are JSON already."""

from starlette.requests import Request
from starlette.responses import Response

from node.errors import BadRequestError

JSON = "application/json"


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Return the body; raises BadRequestError as soon as it is longer than the limit, or of another type."""
    media_type = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if media_type != JSON:
        raise BadRequestError("the body is not application/json", {"Content-Type": media_type[:64]})
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise BadRequestError("the body is too long", {"body": f"at most {limit_bytes} bytes"})
    return bytes(body)


def json_response(body: bytes, status: int = 200) -> Response:
    """Answer bytes that are JSON."""
    return Response(body, status, media_type=JSON)
