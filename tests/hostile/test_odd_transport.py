"""Clients that are slow, endless, silent, or do not speak HTTP as it is meant, at each API and with a good certificate.

What they get is an answer or the end of the connection, within the times that the node is configured with; and an
honest client is served all the while.
"""

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import Callable

import pytest

from tests.hostile.books import books_at_rest, differences, read_books
from tests.hostile.hostile_federation import APIS, PATHS, PEER_API, SAE_API, HostileFederation
from tests.hostile.raw_http import ClosedError, RawConnection, RawRequest, as_json

pytestmark = pytest.mark.asyncio(loop_scope="module")

POST = "/api/v1/keys/b/enc_keys"
ON_EVERY_API = pytest.mark.parametrize("api", APIS.values(), ids=APIS.keys())


def get(api: int) -> bytes:
    return RawRequest("GET", PATHS[api]).encode()


async def honest_clients_are_served(federation: HostileFederation) -> None:
    answer = await federation.sae("a1").get("/api/v1/keys/b/enc_keys")
    assert answer.status_code == 200
    fetched = await federation.sae("b").post("/api/v1/keys/a1/dec_keys", json=_ids(answer.json()))
    assert fetched.json()["keys"] == answer.json()["keys"]
    assert (await federation.peer("n2", at="n1").get("/kmapi/versions")).status_code == 200


def _ids(container: dict[str, list[dict[str, str]]]) -> dict[str, list[dict[str, str]]]:
    return {"key_IDs": [{"key_ID": key["key_ID"]} for key in container["keys"]]}


# Slow clients.


@ON_EVERY_API
async def test_connection_without_a_request_is_closed(federation: HostileFederation, api: int) -> None:
    async with await federation.open(api) as connection:
        assert b" 408 " in await connection.closed()


@ON_EVERY_API
async def test_head_that_comes_byte_by_byte_is_cut_off(federation: HostileFederation, api: int) -> None:
    pieces = [bytes([byte]) for byte in get(api)[:-2]] + [b"x: y\r\n"] * 1000
    async with await federation.open(api) as connection:
        sent = await connection.send_slowly(pieces, 0.05)
        assert sent < 100
        assert await connection.closed() in (
            b"",
            b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        )
    await honest_clients_are_served(federation)


@pytest.mark.parametrize(("api", "path"), [(SAE_API, POST), (PEER_API, "/kmapi/v1/ext_keys")])
async def test_body_that_comes_byte_by_byte_is_cut_off(federation: HostileFederation, api: int, path: str) -> None:
    before = await books_at_rest(federation)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n".encode()
    async with await federation.open(api) as connection:
        await connection.send(head)
        assert await connection.send_slowly([b" "] * 400, 0.05) < 100
        await connection.closed()
    assert not differences(before, read_books(federation))


@ON_EVERY_API
async def test_empty_lines_do_not_keep_a_connection_open(federation: HostileFederation, api: int) -> None:
    async with await federation.open(api) as connection:
        await connection.send(get(api))
        assert (await connection.answer()).status == 200
        assert await connection.send_slowly([b"\r\n"] * 400, 0.05) < 100


async def test_client_that_does_not_read_its_answers_is_cut_off(federation: HostileFederation) -> None:
    plain = socket.create_connection(("127.0.0.1", federation.ports["n1"][PEER_API]))
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    opening = asyncio.open_connection(
        sock=plain, ssl=federation.context(PEER_API), server_hostname="localhost", limit=1
    )
    connection = RawConnection(*await opening)
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(400):
        if connection.writer.transport.is_closing():
            break
        try:
            connection.writer.write(get(PEER_API))
            await asyncio.wait_for(connection.writer.drain(), 0.2)
        except (ConnectionError, TimeoutError):
            break
    await _gone(federation, PEER_API, plain.getsockname())
    connection.close()


async def _gone(federation: HostileFederation, api: int, address: tuple[str, int]) -> None:
    """Wait until the node has let go of a client."""
    server = federation.nodes["n1"]._servers[api]._server
    async with asyncio.timeout(20):
        while any(getattr(connection, "client", None) == address for connection in server.server_state.connections):
            await asyncio.sleep(0.05)


# Endless and huge requests.


def huge_content_length() -> bytes:
    return b"Content-Length: 1000000000\r\n\r\n" + b"[" * 65536


def endless_chunks() -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n" + (b"8000\r\n" + b" " * 32768 + b"\r\n") * 2


def tiny_chunks() -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 20_000


def endless_trailers() -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:b\r\n" * 20_000


def endless_chunk_extension() -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n1;x=" + b"y" * 65536


ENDLESS = [huge_content_length, endless_chunks, tiny_chunks, endless_trailers, endless_chunk_extension]
CONTINUED = {huge_content_length: b"[" * 65536, endless_chunks: b"8000\r\n" + b" " * 32768 + b"\r\n"}


@pytest.mark.parametrize("make", ENDLESS)
@pytest.mark.parametrize(("api", "path"), [(SAE_API, POST), (PEER_API, "/kmapi/v1/ext_keys")])
async def test_endless_body_ends(federation: HostileFederation, api: int, path: str, make: Callable[[], bytes]) -> None:
    before = read_books(federation)
    async with await federation.open(api) as connection:
        start = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode() + make()
        more = CONTINUED.get(make, make().partition(b"\r\n\r\n")[2][-4000:])
        assert await connection.send_slowly([start, *[more] * 4000], 0) < 4000
        answer = await connection.closed()
    assert answer[:12] in (b"", b"HTTP/1.1 400")
    assert not differences(before, read_books(federation))


@ON_EVERY_API
@pytest.mark.parametrize(
    "headers",
    [b"x: y\r\n" * 5000, b"x: " + b"y" * 1_000_000 + b"\r\n", b"y" * 1_000_000 + b": x\r\n"],
    ids=["many", "long value", "long name"],
)
async def test_flood_of_headers_is_refused(federation: HostileFederation, api: int, headers: bytes) -> None:
    async with await federation.open(api) as connection:
        await connection.send_slowly([get(api)[:-2], headers, b"\r\n"], 0)
        assert (await connection.closed())[:12] in (b"", b"HTTP/1.1 400")


@ON_EVERY_API
async def test_endless_target_is_refused(federation: HostileFederation, api: int) -> None:
    async with await federation.open(api) as connection:
        await connection.send_slowly([b"GET /"] + [b"x" * 10_000] * 100, 0)
        assert (await connection.closed())[:12] in (b"", b"HTTP/1.1 400")


@ON_EVERY_API
async def test_requests_sent_without_waiting_for_answers_are_answered_in_order_up_to_a_limit(
    federation: HostileFederation, api: int
) -> None:
    async with await federation.open(api) as connection:
        await connection.send(get(api) * 5)
        assert [(await connection.answer()).status for _ in range(5)] == [200] * 5
        await connection.send_slowly([get(api) * 5000], 0)
        answers = await connection.closed()
        assert answers.count(b"HTTP/1.1 200") < 100


# Bodies.

BODIES = {
    "deep": b"[" * 200_000,
    "deep object": b'{"extension_optional":[' + b'{"a":' * 50_000,
    "invalid UTF-8": b'{"number": "\xff\xfe"}',
    "lone surrogate": b'{"additional_slave_SAE_IDs": ["\\ud800"]}',
    "UTF-16": '{"number": 1}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"number": "x"}',
    "number without end": b'{"number": ' + b"9" * 100_000 + b"}",
    "many wrong members": b'{"additional_slave_SAE_IDs": [' + b"1," * 80_000 + b"1]}",
    "two documents": b'{"number": 1}{"number": 1}',
    "not a number": b'{"number": NaN}',
    "nothing but blanks": b" " * 100_000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize(("api", "path"), [(SAE_API, POST), (PEER_API, "/kmapi/v1/ext_keys")])
async def test_bodies_that_are_no_request_are_refused_in_few_words(
    federation: HostileFederation, api: int, path: str, body: bytes
) -> None:
    before = await books_at_rest(federation)
    async with await federation.open(api) as connection:
        await connection.send(RawRequest("POST", path, as_json(), body).encode())
        answer = await connection.answer()
    assert answer.status == 400, answer
    assert len(answer.body) < 20_000
    assert json.loads(answer.body)
    assert not differences(before, read_books(federation))


async def test_duplicate_members_are_taken_as_one(federation: HostileFederation) -> None:
    async with await federation.open(SAE_API) as connection:
        await connection.send(RawRequest("POST", POST, as_json(), b'{"number": 100000, "number": 1}').encode())
        answer = await connection.answer()
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert len(json.loads(answer.body)["keys"]) == 1


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip"])
async def test_compressed_body_is_not_unpacked(federation: HostileFederation, coding: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000 + b"{}")
    headers = as_json(**{"Content-Encoding": coding})
    async with await federation.open(SAE_API) as connection:
        await connection.send(RawRequest("POST", POST, headers, bomb).encode())
        assert (await connection.answer()).status == 400


# HTTP that is odd.

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
ODD_HTTP = {
    "both lengths": b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "negative length": b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "length in hex": b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 0x10\r\n\r\n",
    "length beyond 64 bits": b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "chunked twice": b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked misspelled": b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunk size no number": b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "chunk beyond 64 bits": b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "chunk without its end": b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx",
    "space before the colon": b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\n",
    "folded header": b"GET %s HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    "bare CR": b"GET %s HTTP/1.1\rHost: x\r\r",
    "NUL in a header": b"GET %s HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.7": b"GET %s HTTP/3.7\r\nHost: x\r\n\r\n",
    "TLS in TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "unknown method": b"KEYS %s HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "garbage": bytes(range(256)) * 20,
}
ANSWERED = {
    "no version": b"GET %s\r\n\r\n",
    "HTTP/0.9": b"GET %s HTTP/0.9\r\n\r\n",
    "HTTP/1.0": b"GET %s HTTP/1.0\r\n\r\n",
    "no host": b"GET %s HTTP/1.1\r\n\r\n",
    "host that is none": b"GET %s HTTP/1.1\r\nHost: [\r\n\r\n",
    "whole URL": b"GET https://elsewhere.example%s HTTP/1.1\r\nHost: x\r\n\r\n",
    "upgrade": b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "web socket": b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "expectation": b"GET %s HTTP/1.1\r\nHost: x\r\nExpect: 200-maybe\r\n\r\n",
    "forwarded": b"GET %s HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4\r\nX-Client-Cert: root\r\n\r\n",
}


@pytest.mark.parametrize("name", ODD_HTTP)
@ON_EVERY_API
async def test_what_is_no_http_is_refused_and_nothing_behind_it_is_read(
    federation: HostileFederation, api: int, name: str
) -> None:
    message = ODD_HTTP[name].replace(b"%s", PATHS[api].encode())
    async with await federation.open(api) as connection:
        await connection.send_slowly([message + SMUGGLED], 0)
        answers = await connection.closed()
    assert answers.count(b"HTTP/1.1 ") <= 1, answers
    assert b" 200 " not in answers
    assert answers[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 408", b"HTTP/1.1 404", b"HTTP/1.1 405"), answers


@pytest.mark.parametrize("name", ANSWERED)
@ON_EVERY_API
async def test_http_that_is_merely_unusual_is_answered(federation: HostileFederation, api: int, name: str) -> None:
    async with await federation.open(api) as connection:
        await connection.send(ANSWERED[name].replace(b"%s", PATHS[api].encode()))
        assert (await connection.answer()).status == 200


@ON_EVERY_API
async def test_unknown_path_with_a_host_that_is_none_is_answered(federation: HostileFederation, api: int) -> None:
    async with await federation.open(api) as connection:
        await connection.send(b"GET //[x HTTP/1.1\r\nHost: [\r\n\r\n")
        assert (await connection.answer()).status in (400, 404)


@ON_EVERY_API
async def test_client_that_leaves_in_the_middle_leaves_nothing_behind(federation: HostileFederation, api: int) -> None:
    before = await books_at_rest(federation)
    path = {SAE_API: POST, PEER_API: "/kmapi/v1/ext_keys"}.get(api, "/status")
    for abrupt in (True, False):
        connection = await federation.open(api)
        await connection.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode() + b'{"number"')
        await asyncio.sleep(0.02)
        plain = connection.writer.get_extra_info("socket")
        address = plain.getsockname()
        if abrupt:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        else:
            connection.writer.close()
        await _gone(federation, api, address)
        connection.close()
    assert not differences(before, read_books(federation))


@ON_EVERY_API
async def test_half_closed_connection_ends(federation: HostileFederation, api: int) -> None:
    connection = await federation.open(api)
    plain = connection.writer.get_extra_info("socket")
    address = plain.getsockname()
    await connection.send(get(api)[:-2])
    socket.socket(fileno=socket.dup(plain.fileno())).shutdown(socket.SHUT_WR)
    await _gone(federation, api, address)
    connection.close()


async def test_request_refused_before_its_body_came_is_answered_at_once(federation: HostileFederation) -> None:
    async with await federation.open(PEER_API) as connection:
        await connection.send(b"POST /elsewhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert (await connection.answer()).status == 404
        await connection.closed()


async def test_closed_connections_are_errors_of_the_client_alone(federation: HostileFederation) -> None:
    async with await federation.open(SAE_API) as connection:
        await connection.send(b"\x00\x01\x02")
        assert (await connection.answer()).status == 400
        with pytest.raises(ClosedError):
            await connection.answer()
    await honest_clients_are_served(federation)
