"""Real TLS connections on the loopback: who gets in, who does not, and what is said about it."""

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop

from node.mutual_tls.client_certificate_protocol import RunningServer, client_certificate_der, serve
from node.mutual_tls.contexts import ServerContext, client_context, server_context
from node.mutual_tls.tls_groups import TlsGroupUnsupportedError, restrict_groups
from tests.certificates import Credential, issue, make_authority, write_identity

NOW = datetime.now(UTC)
HOME, PARTNER, FOREIGN = (make_authority(name) for name in ("home", "partner", "foreign"))
NODE = issue(HOME, "node", "kmstn1")


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Both loops drive TLS through their own code, so every test runs on both."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


async def echo_certificate(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers with the certificate it was shown."""
    body = client_certificate_der(scope)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Plane:
    """A server of kmstn1 in the domain "home"."""

    context: ServerContext
    server: RunningServer
    folder: Path

    def client(self, leaf: Credential, **options: Any) -> ssl.SSLContext:
        identity = write_identity(self.folder / leaf.certificate.serial_number.to_bytes(20).hex(), leaf, [HOME])
        return client_context(identity, ["home"], **({"peer_plane": False} | options))

    async def get(self, context: ssl.SSLContext, host: str = "localhost") -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, ssl=context, server_hostname=host)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
        finally:
            writer.close()
        if not answer:
            raise ConnectionResetError("closed without an answer")
        return answer.partition(b"\r\n\r\n")[2]


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    identity = write_identity(tmp_path / "server", NODE, [HOME, PARTNER])
    context = server_context(identity, ["home"], peer_plane=False)
    server = await serve(echo_certificate, context, "127.0.0.1", 0)
    yield Plane(context, server, tmp_path)
    await server.stop()


async def refused(plane: Plane, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture) -> str:
    """Try a connection that the server must refuse and return the reason that it logged."""
    with caplog.at_level(logging.WARNING, "kmstn.tls"), pytest.raises((ssl.SSLError, ConnectionError)):
        await plane.get(context)
    (reason,) = plane.context.refused_handshakes
    assert f"refused a TLS handshake: {reason}" in caplog.text
    return reason


async def test_application_sees_the_client_certificate_that_uvicorn_withholds(plane: Plane) -> None:
    sae = issue(HOME, "sae", "sae-1")
    assert await plane.get(plane.client(sae)) == sae.der


async def test_client_without_certificate_is_refused(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.load_verify_locations(plane.folder / "server/domains/home.crt")
    assert await refused(plane, anonymous, caplog) == "no certificate"


async def test_expired_certificate_is_refused(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    old = issue(HOME, "sae", "sae-1", not_before=NOW - timedelta(days=2), not_after=NOW - timedelta(days=1))
    assert await refused(plane, plane.client(old), caplog) == "expired"


async def test_foreign_domain_certificate_is_refused(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    assert await refused(plane, plane.client(issue(FOREIGN, "sae", "sae-1")), caplog) == "unknown CA"


async def test_partner_domain_is_not_trusted_on_a_plane_of_the_own_domain(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    assert await refused(plane, plane.client(issue(PARTNER, "node", "kmstn5")), caplog) == "unknown CA"


async def test_server_certificate_cannot_be_used_by_a_client(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    reason = await refused(plane, plane.client(issue(HOME, "device", "kmstn1-to-kmstn2")), caplog)
    assert reason == "certificate not meant for this purpose"


async def test_client_refuses_a_server_of_another_name(plane: Plane) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for 'kmstn2'"):
        await plane.get(plane.client(issue(HOME, "sae", "sae-1")), host="kmstn2")


async def test_tls_1_1_is_refused(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    old = plane.client(issue(HOME, "sae", "sae-1"))
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    assert await refused(plane, old, caplog) == "unsupported protocol"


async def test_peer_plane_refuses_tls_1_2(tmp_path: Path) -> None:
    identity = write_identity(tmp_path / "server", NODE, [HOME])
    context = server_context(identity, ["home"], peer_plane=True, groups="prime256v1")
    server = await serve(echo_certificate, context, "127.0.0.1", 0)
    plane = Plane(context, server, tmp_path)
    client = plane.client(NODE)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await plane.get(client)
    assert list(context.refused_handshakes) == ["unsupported protocol"]
    await server.stop()


@pytest.mark.parametrize(
    ("server_groups", "client_groups", "agreed"),
    [
        ("prime256v1", "prime256v1", True),
        ("prime256v1", "X25519:prime256v1", True),
        ("prime256v1", "X25519", False),
        pytest.param("X25519MLKEM768", "X25519MLKEM768", True, marks=pytest.mark.node_image),
        pytest.param("X25519MLKEM768", "X25519", False, marks=pytest.mark.node_image),
        pytest.param("X25519", "X25519MLKEM768", False, marks=pytest.mark.node_image),
    ],
)
async def test_client_that_offers_only_other_groups_is_refused(
    tmp_path: Path, server_groups: str, client_groups: str, agreed: bool
) -> None:
    identity = write_identity(tmp_path / "server", NODE, [HOME])
    context = server_context(identity, ["home"], peer_plane=True, groups=server_groups)
    server = await serve(echo_certificate, context, "127.0.0.1", 0)
    plane = Plane(context, server, tmp_path)
    client = plane.client(NODE, peer_plane=True, groups=client_groups)
    if agreed:
        assert await plane.get(client) == NODE.der
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await plane.get(client)
        assert sum(context.refused_handshakes.values()) == 1
    await server.stop()


@pytest.mark.node_image
def test_peer_plane_takes_the_hybrid_group_by_itself(tmp_path: Path) -> None:
    server_context(write_identity(tmp_path, NODE, [HOME]), ["home"], peer_plane=True)


def test_unknown_group_is_an_error_and_not_a_weaker_context() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(TlsGroupUnsupportedError, match="NoSuchGroup"):
        restrict_groups(context, "NoSuchGroup")


async def test_port_in_use_raises(plane: Plane) -> None:
    with pytest.raises(OSError, match="in use"):
        await serve(echo_certificate, plane.context, "127.0.0.1", plane.server.port)


async def test_signals_stay_with_the_process(plane: Plane) -> None:
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in signals]
    server = await serve(echo_certificate, plane.context, "127.0.0.1", 0)
    assert [signal.getsignal(number) for number in signals] == before
    await server.stop()


async def test_answers_do_not_wait_for_the_acknowledgement_of_the_peer(plane: Plane) -> None:
    client = plane.client(issue(HOME, "sae", "sae-1"))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", plane.server.port, ssl=client, server_hostname="localhost"
    )
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    (connection,) = plane.server._server.server_state.connections
    plain = connection.transport.get_extra_info("socket")
    assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    writer.close()
