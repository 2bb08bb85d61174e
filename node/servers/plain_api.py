"""An ASGI application that is a table of handlers and nothing else.

Every hop and every key passes here, so a request meets no framework on its way: no middleware, no dependency
injection, no telemetry. What it keeps of Starlette is `Request` and `Response`.
"""

import logging
import time
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

log = logging.getLogger("kmstn.api")

Handler = Callable[[Request], Awaitable[Response]]


class PlainApi:
    """Answers requests with the handler that `find(method, path)` returns.

    What a handler raises, `answer_error` turns into an answer; what that does not know (None) is logged and answered
    with `internal_error`.
    """

    def __init__(
        self,
        find: Callable[[str, str], Handler],
        answer_error: Callable[[Request, Exception], Response | None],
        internal_error: Callable[[], Response],
    ) -> None:
        self._find = find
        self._answer_error = answer_error
        self._internal_error = internal_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        begun = time.perf_counter()
        request = Request(scope, receive)
        try:
            answer = await self._find(scope["method"], scope["path"])(request)
        except ClientDisconnect:
            return log.info("%s went away before its request was complete", scope["client"])
        except Exception as error:
            answer = self._answer_error(request, error) or self._unexpected(request)
        # W3C Server Timing: what the client cannot see is how much of its waiting was the network.
        answer.raw_headers.append((b"server-timing", b"total;dur=%.2f" % (1000 * (time.perf_counter() - begun))))
        return await answer(scope, receive, send)

    def _unexpected(self, request: Request) -> Response:
        # Not `request.url`: it is made from the Host header, which may be anything.
        log.exception("unexpected failure answering %s %r", request.method, request.scope["path"][:200])
        return self._internal_error()
