"""What a client may cost before and after its handshake, on both event loops: each bounds TLS in code of its own."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from node.mutual_tls.client_certificate_protocol import RunningServer, serve
from node.mutual_tls.contexts import client_context, server_context
from node.settings import LimitSettings
from tests.certificates import issue, make_authority, write_identity

HOME = make_authority("home")
LIMITS = LimitSettings(
    handshake_timeout_s=0.5,
    request_timeout_s=0.5,
    response_timeout_s=0.5,
    shutdown_timeout_s=0.2,
    connections=4,
    handshakes=4,
)
PATIENCE_S = 10
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Both loops drive TLS through their own code, so every test runs on both."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


async def much(_scope: Any, _receive: Any, send: Any) -> None:
    """An ASGI application that answers more than any buffer takes."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"20000000")]})
    for _ in range(20):
        await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def little(_scope: Any, _receive: Any, send: Any) -> None:
    """An ASGI application that answers nothing."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class Plane:
    """A server with tight limits."""

    def __init__(self, folder: Path, limits: LimitSettings) -> None:
        at_server = write_identity(folder / "server", issue(HOME, "node", "n1"), [HOME])
        self.context = server_context(at_server, ["home"], peer_plane=False)
        at_client = write_identity(folder / "client", issue(HOME, "sae", "a1"), [HOME])
        self.client = client_context(at_client, ["home"], peer_plane=False)
        self.limits = limits
        self.server: RunningServer

    async def start(self, app: Any) -> None:
        self.server = await serve(app, self.context, "127.0.0.1", 0, self.limits)

    async def open(self, *, tls: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not tls:
            return await asyncio.open_connection("127.0.0.1", self.server.port)
        opening = asyncio.open_connection("127.0.0.1", self.server.port, ssl=self.client, server_hostname="localhost")
        return await asyncio.wait_for(opening, PATIENCE_S)

    async def connections_left(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.server._server.server_state.connections) > number:
                await asyncio.sleep(0.02)


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    started = Plane(tmp_path, LIMITS)
    await started.start(little)
    yield started
    await started.server.stop()


async def ended(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE_S)
    except (ConnectionError, ssl.SSLError):
        return b""


async def test_handshake_that_does_not_begin_ends(plane: Plane) -> None:
    reader, writer = await plane.open(tls=False)
    assert await ended(reader) == b""
    writer.close()


async def test_handshakes_beyond_the_limit_push_out_the_oldest(plane: Plane) -> None:
    silent = [await plane.open(tls=False) for _ in range(20)]
    reader, writer = await plane.open()
    writer.write(REQUEST)
    assert b" 200 " in await asyncio.wait_for(reader.readline(), PATIENCE_S)
    for other, mine in silent:
        assert await ended(other) == b""
        mine.close()
    writer.close()


async def test_connections_beyond_the_limit_push_out_the_idle(plane: Plane) -> None:
    opened = [await plane.open() for _ in range(12)]
    await plane.connections_left(LIMITS.connections)
    reader, writer = opened[-1]
    writer.write(REQUEST)
    assert b" 200 " in await asyncio.wait_for(reader.readline(), PATIENCE_S)
    for _reader, mine in opened:
        mine.transport.abort()


async def test_request_that_does_not_come_is_timed_out(plane: Plane) -> None:
    reader, writer = await plane.open()
    writer.write(REQUEST[:5])
    assert b" 408 " in await ended(reader)
    writer.transport.abort()


async def test_connection_in_use_is_not_timed_out(plane: Plane) -> None:
    reader, writer = await plane.open()
    for _ in range(8):
        writer.write(REQUEST)
        assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        await asyncio.sleep(0.15)
    writer.transport.abort()


async def test_client_that_does_not_say_goodbye_is_let_go(plane: Plane) -> None:
    _reader, writer = await plane.open()
    writer.write(REQUEST[:5])
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await plane.connections_left(0)
    writer.transport.abort()


async def test_answer_that_is_not_read_is_given_up(tmp_path: Path) -> None:
    plane = Plane(tmp_path, LIMITS)
    await plane.start(much)
    plain = socket.create_connection(("127.0.0.1", plane.server.port))
    plain.setblocking(False)
    opening = asyncio.open_connection(sock=plain, ssl=plane.client, server_hostname="localhost", limit=1000)
    _reader, writer = await asyncio.wait_for(opening, PATIENCE_S)
    writer.write(REQUEST)
    await asyncio.sleep(0.05)
    assert len(plane.server._server.server_state.connections) == 1
    await plane.connections_left(0)
    writer.transport.abort()
    await plane.server.stop()
