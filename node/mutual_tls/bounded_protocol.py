"""HTTP/1.1 of uvicorn with bounds that uvicorn lacks: how long a request may take to arrive, and how much of it.

A client that is slow, endless or silent costs one connection for a bounded time and a bounded number of bytes; what it
sends is dropped with it. When all connections are taken, room is made at the cost of the client that holds most.
The hot path pays for a few comparisons: one timer per connection looks after it, none is started per request.
"""

import asyncio
import logging
from collections import Counter
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from node.settings import LimitSettings

log = logging.getLogger("kmstn.connections")

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
# Twice the longest body of any API: chunked coding has a price, and 100 % for it is generous.
MAX_REQUEST_BYTES = 8 * 1024 * 1024
MAX_PIPELINED_REQUESTS = 16

_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class RequestTooLargeError(Exception):
    """Raised into the parser, which ends the connection."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection; `client_key` tells clients apart, `None` where the server does not know them."""

    client_key: bytes | None = None

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], limits: LimitSettings):
        super().__init__(config, server_state, app_state)
        # Requests are not logged, not even where something else gives the logger of uvicorn a handler.
        self.access_log = False
        self._limits = limits
        self._receiving_since: float | None = None
        self._stalled_since: float | None = None
        self._used_at = 0.0
        self._received_bytes = 0
        self._watchdog: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: a connection without a request is a request that does not arrive."""
        super().connection_made(transport)
        self._receiving_since = self._used_at = self.loop.time()
        self._watchdog = self.loop.call_later(self._limits.request_timeout_s, self._look)
        if len(self.connections) > self._limits.connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, and tell the request that is being answered, which uvicorn forgets when others wait."""
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def data_received(self, data: bytes) -> None:
        """Take in bytes, as long as they are a request of bounded size."""
        if self._receiving_since is None:
            self._receiving_since = self.loop.time()
        self._received_bytes += len(data)
        super().data_received(data)
        if self._received_bytes > MAX_HEAD_BYTES and self._receiving_since is not None:
            self._check_size()

    def on_message_begin(self) -> None:
        """Count anew."""
        self._receiving_since = self._used_at = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Refuse a head that is too long, and requests that are sent without waiting for answers."""
        if self._received_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._check_head()
        if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
            raise RequestTooLargeError("too many requests at a time")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop blaming the client: the rest is up to the application."""
        self._receiving_since = None
        self._received_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; not where the client would take the answer for that to another request."""
        cycle = self._answering
        if self.pipeline or (cycle is not None and cycle.response_started and not cycle.response_complete):
            self.transport.close()
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        """Remember since when the client does not read."""
        super().pause_writing()
        self._stalled_since = self.loop.time()

    def resume_writing(self) -> None:
        """Forget it."""
        super().resume_writing()
        self._stalled_since = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _busy(self) -> bool:
        """Whether the application works on a request that has arrived in full."""
        cycle = self._answering
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _look(self) -> None:
        now, limits = self.loop.time(), self._limits
        if self._receiving_since is not None and self._busy:
            # What comes after the request that is being answered is not read meanwhile: no fault of the client.
            self._receiving_since = now
        receiving_s = 0.0 if self._receiving_since is None else now - self._receiving_since
        stalled_s = 0.0 if self._stalled_since is None else now - self._stalled_since
        if receiving_s >= limits.request_timeout_s:
            self._end("did not send a whole request within %g s", limits.request_timeout_s, _TIMED_OUT)
        elif stalled_s >= limits.response_timeout_s:
            self._end("did not read its answer within %g s", limits.response_timeout_s)
        else:
            due_s = min(limits.request_timeout_s - receiving_s, limits.response_timeout_s - stalled_s)
            self._watchdog = self.loop.call_later(due_s, self._look)

    def _end(self, reason: str, figure: float, answer: bytes = b"") -> None:
        log.info(f"closed a connection of %s: it {reason}", self.client, figure)
        idle = self._answering is None or self._answering.response_complete
        if answer and idle and not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
        else:
            self.transport.abort()

    def _check_size(self) -> None:
        """Look at a request that is longer than a head may be, and has not ended yet."""
        in_body = self.cycle is not None and self.scope is self.cycle.scope
        if self._received_bytes > (MAX_REQUEST_BYTES if in_body else MAX_HEAD_BYTES):
            self._end("sent more than %g bytes for one request", self._received_bytes)
        elif len(self.headers) > MAX_HEADERS:
            self._end("sent more than %g headers", MAX_HEADERS)

    def _check_head(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            raise RequestTooLargeError("the head of the request is too long")

    def _make_room(self) -> None:
        """Close the connection that was unused longest of the client that holds most of them."""
        others = [other for other in self.connections if isinstance(other, BoundedProtocol) and other is not self]
        holders = Counter(other.client_key for other in others)
        (greediest, _number), *_rest = holders.most_common(1)
        candidates = [other for other in others if other.client_key == greediest]
        loser = min(candidates, key=lambda other: (other._busy, other._used_at))
        loser._end("gave way to others, all %g connections were in use", self._limits.connections)
        self.connections.discard(loser)
