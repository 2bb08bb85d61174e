"""Thousands of connections that do nothing, while an honest SAE still gets its keys."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
import pytest_asyncio

from node.settings import LimitSettings
from tests.hostile.hostile_federation import APIS, HostileFederation
from tests.hostile.raw_http import PATIENCE_S, RawConnection

pytestmark = pytest.mark.asyncio(loop_scope="module")

CROWD = 2000
AT_A_TIME = 50
LIMITS = LimitSettings(
    handshake_timeout_s=20,
    request_timeout_s=20,
    shutdown_timeout_s=0.5,
    keep_alive_s=60,
    connections=300,
    handshakes=200,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HostileFederation]:
    """Nodes that wait long, so that only the numbers protect them."""
    started = HostileFederation(tmp_path_factory.mktemp("crowded"), limits=LIMITS)
    async with started:
        yield started


async def exchange(federation: HostileFederation) -> None:
    """Have an honest SAE get a key on a connection of its own, and the other fetch it."""
    await federation.sae("a2").aclose()
    federation.clients.clear()
    answer = await asyncio.wait_for(federation.sae("a2").get("/api/v1/keys/b/enc_keys"), PATIENCE_S)
    [key] = answer.json()["keys"]
    fetched = await federation.sae("b").get("/api/v1/keys/a2/dec_keys", params={"key_ID": key["key_ID"]})
    assert fetched.json()["keys"] == [key]


@pytest.mark.parametrize("api", APIS.values(), ids=APIS.keys())
async def test_idle_connections_of_one_client_do_not_keep_others_out(federation: HostileFederation, api: int) -> None:
    number = CROWD if api == 0 else 400
    crowd: list[RawConnection] = []
    context = federation.context(api)
    server = federation.nodes["n1"]._servers[api]._server
    for _ in range(0, number, AT_A_TIME):
        openings = [RawConnection.open(federation.ports["n1"][api], context) for _ in range(AT_A_TIME)]
        crowd += [
            one for one in await asyncio.gather(*openings, return_exceptions=True) if isinstance(one, RawConnection)
        ]
        assert len(server.server_state.connections) <= LIMITS.connections
    await exchange(federation)
    for connection in crowd:
        connection.close()
    assert len(crowd) >= number // 2


@pytest.mark.parametrize("api", APIS.values(), ids=APIS.keys())
async def test_handshakes_that_never_end_do_not_keep_others_out(federation: HostileFederation, api: int) -> None:
    number = CROWD if api == 0 else 400
    with ExitStack() as stack:
        for count in range(number):
            plain = stack.enter_context(socket.socket())
            plain.setblocking(False)
            plain.connect_ex(("127.0.0.1", federation.ports["n1"][api]))
            if count % 2:
                plain.setblocking(True)
                plain.settimeout(5)
                # The first bytes of a hello, and no more.
                plain.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            if count % AT_A_TIME == 0:
                await asyncio.sleep(0.01)
        await exchange(federation)


async def test_handshake_that_does_not_go_on_is_given_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with HostileFederation(tmp_path_factory.mktemp("quick")) as quick:
        reader, writer = await asyncio.open_connection("127.0.0.1", quick.ports["n1"][0])
        writer.write(b"\x16\x03\x01")
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()
