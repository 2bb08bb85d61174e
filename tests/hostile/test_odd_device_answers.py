"""Whatever a QKD device answers, the node's client returns well-formed keys or raises a DeviceError that can be logged.

The answers are drawn by hypothesis around right ones; a few go over a real connection, where they are no HTTP at all.
"""

import asyncio
import base64
import json
import uuid
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.clients.http import Answer, HttpService
from node.clients.qkd_device import HttpQkdDevice
from node.errors import DeviceError
from node.identity_uri import Role
from node.mutual_tls.contexts import client_context, server_context
from tests.certificates import issue, make_authority, write_identity

EXAMPLES = settings(max_examples=1000, deadline=None, derandomize=True, database=None)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEY_IDS = st.uuids(version=4).map(str) | st.uuids().map(lambda one: str(one).upper()) | st.text(max_size=40)
VALUES = st.binary(min_size=0, max_size=40).map(lambda one: base64.b64encode(one).decode()) | st.text(max_size=50)
GOOD_VALUES = st.binary(min_size=32, max_size=32).map(lambda one: base64.b64encode(one).decode())
KEYS = st.fixed_dictionaries({"key_ID": KEY_IDS, "key": GOOD_VALUES | VALUES}) | JSON
CONTAINERS = st.fixed_dictionaries({"keys": st.lists(KEYS, max_size=6)}) | st.dictionaries(
    st.sampled_from(["keys", "Keys", "key_IDs", "message", "stored_key_count"]), JSON | st.lists(KEYS, max_size=3)
)
BODIES = (
    CONTAINERS.map(lambda value: json.dumps(value).encode())
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=200)
    | st.sampled_from([b"[" * 100_000, b'{"message": "\\ud800"}', b'{"message": "a\\nb\\u0000"}', b'{"a":' * 50_000])
    | st.sampled_from([b'{"stored_key_count": ' + b"9" * 3000 + b"}", b'{"stored_key_count": 1e400}', b"\xff" * 9])
)
STATUSES = st.sampled_from([200, 200, 200, 200, 201, 204, 301, 400, 401, 404, 500, 503, 599])


class Answering:
    """A service that answers one thing."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def request(self, _method: str, _path: str, _body: bytes | None = None) -> Answer:
        return self._answer


def _device(status: int, body: bytes) -> HttpQkdDevice:
    return HttpQkdDevice("n2", cast(HttpService, Answering(Answer(status, body))))


def _outcome(work: Any) -> Any:
    """Run a call that waits for nothing; return what it returned, or None after a DeviceError fit for the log."""
    try:
        work.send(None)
    except StopIteration as returned:
        return returned.value
    except DeviceError as error:
        text = str(error)
        assert text.isprintable(), repr(text)
        assert len(text) < 1000
        json.dumps(text, ensure_ascii=False).encode()
        return None
    raise AssertionError("it waits")


@EXAMPLES
@given(status=STATUSES, body=BODIES)
def test_keys_from_a_device_are_well_formed_or_refused(status: int, body: bytes) -> None:
    keys = _outcome(_device(status, body).enc_keys(4))
    for key in keys or ():
        assert str(uuid.UUID(key.key_id)) == key.key_id
        assert len(key.value) == 32
    assert keys is None or 1 <= len(keys) <= 4


@EXAMPLES
@given(status=STATUSES, body=BODIES, wanted=st.lists(st.uuids(version=4).map(str), min_size=1, max_size=4, unique=True))
def test_device_gives_the_keys_asked_for_or_none(status: int, body: bytes, wanted: list[str]) -> None:
    keys = _outcome(_device(status, body).dec_keys(wanted))
    assert keys is None or {key.key_id for key in keys} == set(wanted)


@EXAMPLES
@given(status=STATUSES, body=BODIES)
def test_number_of_stored_keys_is_a_number(status: int, body: bytes) -> None:
    count = _outcome(_device(status, body).stored_key_count())
    assert count is None or (0 <= count < 2**63 and not isinstance(count, bool))


RAW_ANSWERS = {
    "nothing": b"",
    "garbage": bytes(range(256)),
    "no status": b"HTTP/1.1\r\n\r\n",
    "status that is none": b"HTTP/1.1 abc OK\r\n\r\n",
    "status of 4 digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    "both lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "cut short": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "endless chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + b" " * 65535 + b"\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
    "line breaks": b"HTTP/1.1 200 OK\r\nX: a\rb\nc\r\n\r\n",
    "only continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nxxxx",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
    "gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
}
AGAIN = {"endless chunks"}


@pytest.mark.parametrize("name", RAW_ANSWERS)
async def test_device_that_does_not_speak_http_is_a_failed_device(name: str, tmp_path: Path) -> None:
    authority = make_authority("east")
    at_device = write_identity(tmp_path / "device", issue(authority, Role.DEVICE, "odd"), [authority])
    at_node = write_identity(tmp_path / "node", issue(authority, Role.NODE, "n1"), [authority])

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in range(200 if name in AGAIN else 1):
                writer.write(RAW_ANSWERS[name])
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    context = server_context(at_device, ("east",), peer_plane=False)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    service = HttpService(f"https://localhost:{port}", client_context(at_node, ("east",), peer_plane=False), 1.0)
    with pytest.raises(DeviceError) as caught:
        await HttpQkdDevice("n2", service).enc_keys(2)
    assert str(caught.value).isprintable()
    await service.close()
    server.close()
