"""Serving an ASGI application over mutual TLS, with the client's certificate in reach of the application.

uvicorn does not hand the certificate on; the protocol class here does, once per connection. It leans on uvicorn's
inner shape (`connection_made`, `on_message_begin`, `scope`), hence uvicorn's version is pinned and a test fails
loudly when the certificate stops arriving. Several servers share one loop: signals stay with the process.
What a client may cost in time, bytes and connections is bounded in `bounded_protocol` and `acceptor`.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn

from node.mutual_tls.acceptor import Acceptor, fitting_limits
from node.mutual_tls.bounded_protocol import BoundedProtocol
from node.settings import LimitSettings

Application = Callable[[Any, Any, Any], Awaitable[None]]

GRACEFUL_SHUTDOWN_S = 1
BACKLOG_CONNECTIONS = 2048


class ClientCertificateProtocol(BoundedProtocol):
    """HTTP/1.1 whose request scopes carry `extensions.tls.client_certificate_der`."""

    _extensions: dict[str, Any] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the certificate that the handshake has just verified."""
        connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        der = None if connection is None else connection.getpeercert(binary_form=True)
        self.client_key = der
        super().connection_made(transport)
        self._extensions = {"tls": {"client_certificate_der": der}}

    def on_message_begin(self) -> None:
        """Hand it to every request on the connection."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]


def client_certificate_der(scope: Mapping[str, Any]) -> bytes:
    """Return the client's certificate of a request; raises LookupError if the server did not provide it."""
    der = (scope.get("extensions") or {}).get("tls", {}).get("client_certificate_der")
    if not isinstance(der, bytes):
        raise LookupError("the request carries no client certificate")
    return der


@dataclass(frozen=True)
class RunningServer:
    """A server that accepts connections until `stop`."""

    port: int
    _server: uvicorn.Server
    _serving: asyncio.Task[None]

    async def stop(self) -> None:
        """Stop accepting, let requests under way end within the graceful shutdown time, close."""
        self._server.should_exit = True
        await self._serving

    async def wait(self) -> None:
        """Return when the server has stopped; raises what made it stop."""
        await asyncio.shield(self._serving)


async def serve(
    app: Application, context: ssl.SSLContext, host: str, port: int, limits: LimitSettings | None = None
) -> RunningServer:
    """Accept connections on host:port (0: any free port) when this returns; raises OSError if it is taken."""
    limits = fitting_limits(limits or LimitSettings())
    config = uvicorn.Config(
        app,
        http=ClientCertificateProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG_CONNECTIONS,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
    )
    config.load()
    listener = _listen(host, port)
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # `Server.serve` would take over the signal handlers of the process, `Server.startup` would accept without bounds.
    make_protocol = partial(ClientCertificateProtocol, config, server.server_state, {}, limits)
    acceptor = Acceptor(listener, context, make_protocol, limits)
    server.servers = [acceptor]  # type: ignore[list-item]
    server.started = True
    acceptor.start()
    return RunningServer(listener.getsockname()[1], server, asyncio.create_task(_serve_until_told(server, listener)))


async def _serve_until_told(server: uvicorn.Server, listener: socket.socket) -> None:
    await server.main_loop()
    await server.shutdown(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Inherited by the accepted connections: answers are small and must not wait for the peer's ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
