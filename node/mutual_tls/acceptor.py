"""Accepting TLS connections with bounds on what has not shown a certificate yet.

asyncio's own server starts any number of handshakes and waits a minute for each. Here the time of a handshake and the
number of those under way are limited; when there are too many, the oldest gives way: an honest client's takes
milliseconds, so it is never the oldest for long.
"""

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Callable

from node.settings import LimitSettings

log = logging.getLogger("kmstn.connections")

# When the process has no file descriptor left for a connection, it tries again after this.
ACCEPT_PAUSE_S = 0.2


class Acceptor:
    """Accepts from `start` to `close`; stands in for an `asyncio.Server` where uvicorn shuts down."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        limits: LimitSettings,
    ) -> None:
        self._listener = listener
        self._context = context
        self._make_protocol = make_protocol
        self._limits = limits
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._accepting: asyncio.Task[None] | None = None
        self.given_up = 0

    def start(self) -> None:
        """Begin to accept."""
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Accept no more, and drop what has not finished its handshake."""
        for task in (*self._handshakes, *filter(None, (self._accepting,))):
            task.cancel()

    async def wait_closed(self) -> None:
        """Return when nothing is left of it."""
        await asyncio.gather(*self._handshakes, *filter(None, (self._accepting,)), return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _address = await loop.sock_accept(self._listener)
            except OSError as error:
                log.error("cannot accept a connection: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if len(self._handshakes) >= self._limits.handshakes:
                self._drop_oldest()
            task = loop.create_task(self._shake_hands(connection))
            self._handshakes[task] = None
            task.add_done_callback(self._forget)

    async def _shake_hands(self, connection: socket.socket) -> None:
        limits = self._limits
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=limits.handshake_timeout_s,
                ssl_shutdown_timeout=limits.shutdown_timeout_s,
            )
        except OSError as error:
            # What TLS found wrong, `contexts` has logged already; the rest is clients that went away or said nothing.
            log.debug("a handshake failed: %s", error)

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._handshakes))
        self._forget(oldest)
        oldest.cancel()
        self.given_up += 1
        if self.given_up & (self.given_up - 1) == 0:
            log.warning("%d handshakes gave way to others: %d at a time", self.given_up, self._limits.handshakes)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)


def fitting_limits(limits: LimitSettings) -> LimitSettings:
    """Lower the numbers of connections so that one server leaves descriptors to the rest of the process."""
    descriptors, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limits.model_copy(
        update={
            "connections": min(limits.connections, max(16, descriptors // 4)),
            "handshakes": min(limits.handshakes, max(16, descriptors // 16)),
        }
    )
