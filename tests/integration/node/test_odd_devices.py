"""A QKD device may be down, slow, empty or talk nonsense: the node stays up, says so in its health, and recovers."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node.clients.http import HttpService
from node.clients.qkd_device import HttpQkdDevice
from node.core.link_key_stock import UnknownLinkKeysError
from node.errors import DeviceError
from node.identity_uri import Role
from node.mutual_tls.client_certificate_protocol import serve
from node.mutual_tls.contexts import client_context, server_context
from tests.certificates import issue, make_authority, write_identity
from tests.integration.node.small_federation import SmallFederation, free_port

KEY_ID = "11111111-1111-4111-8111-111111111111"
KEY = base64.b64encode(bytes(32)).decode()


class OddDevice:
    """An ASGI application that answers one fixed thing, after a while if told so."""

    def __init__(self) -> None:
        self.status, self.body, self.delay_s = 200, b"", 0.0

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        await asyncio.sleep(self.delay_s)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@pytest.fixture
async def odd(tmp_path: Path) -> AsyncIterator[tuple[OddDevice, HttpQkdDevice]]:
    authority = make_authority("east")
    at_device = write_identity(
        tmp_path / "device", issue(authority, Role.DEVICE, "odd", dns=("localhost",)), [authority]
    )
    at_node = write_identity(tmp_path / "node", issue(authority, Role.NODE, "n1"), [authority])
    application = OddDevice()
    server = await serve(application, server_context(at_device, ("east",), peer_plane=False), "127.0.0.1", 0)
    context = client_context(at_node, ("east",), peer_plane=False)
    service = HttpService(f"https://localhost:{server.port}", context, timeout_s=0.5)
    yield application, HttpQkdDevice("n2", service)
    await service.close()
    await server.stop()


def keys(*entries: Any) -> bytes:
    return json.dumps({"keys": entries}).encode()


ODD_ANSWERS: list[tuple[int, bytes, str]] = [
    (200, b"", "cannot be read"),
    (200, b"<html>", "cannot be read"),
    (200, b"\xff\xfe", "cannot be read"),
    (200, b"[]", "cannot be read"),
    (200, b"{}", "cannot be read"),
    (200, keys(), "0 keys"),
    (200, keys({"key_ID": KEY_ID}), "cannot be read"),
    (200, keys({"key_ID": KEY_ID, "key": "%%%"}), "cannot be read"),
    (200, keys({"key_ID": "x", "key": KEY}), "not a UUID"),
    (200, keys({"key_ID": KEY_ID, "key": base64.b64encode(bytes(16)).decode()}), "256 bits"),
    (200, keys({"key_ID": KEY_ID, "key": KEY}, {"key_ID": KEY_ID, "key": KEY}), "one key ID twice"),
    (200, keys(*({"key_ID": KEY_ID, "key": KEY} for _ in range(9))), "9 keys where 2"),
    (503, b'{"message": "empty"}', "503"),
    (503, b"no json", "503"),
    (500, b"", "500"),
    (302, b"", "302"),
]


@pytest.mark.parametrize(("status", "body", "says"), ODD_ANSWERS)
async def test_odd_answer_is_a_device_error_that_says_what_is_wrong_and_shows_no_key(
    odd: tuple[OddDevice, HttpQkdDevice], status: int, body: bytes, says: str
) -> None:
    application, device = odd
    application.status, application.body = status, body
    with pytest.raises(DeviceError) as caught:
        await device.enc_keys(2)
    assert says in str(caught.value)
    assert KEY not in str(caught.value)


async def test_slow_device_is_given_up_after_the_time_out(odd: tuple[OddDevice, HttpQkdDevice]) -> None:
    application, device = odd
    application.delay_s = 5
    with pytest.raises(DeviceError, match=r"no answer within 0\.5 s"):
        await device.enc_keys(2)


@pytest.mark.parametrize("status", [400, 404])
async def test_ids_that_the_device_does_not_have_are_told_apart(
    odd: tuple[OddDevice, HttpQkdDevice], status: int
) -> None:
    application, device = odd
    application.status, application.body = status, b'{"message": "not found"}'
    with pytest.raises(UnknownLinkKeysError):
        await device.dec_keys([KEY_ID])


async def test_other_keys_than_asked_for_are_not_taken(odd: tuple[OddDevice, HttpQkdDevice]) -> None:
    application, device = odd
    application.body = keys({"key_ID": KEY_ID, "key": KEY})
    with pytest.raises(DeviceError, match="other keys"):
        await device.dec_keys(["22222222-2222-4222-8222-222222222222"])


async def test_node_names_a_device_that_is_down_and_uses_it_again_when_it_is_back(tmp_path: Path) -> None:
    federation = SmallFederation(tmp_path)
    right_port, federation.device_ports["n1"] = federation.device_ports["n1"], free_port()
    await federation.start_device("b", "n2")
    for name in ("n1", "n2", "n3"):
        await federation.start_node(name)
    try:
        await _until(federation, healthy=False, reason="device n1-to-n2")
        await federation.start_device("a", "n1")
        await _until(federation, healthy=True, reason="")
    finally:
        await federation.__aexit__()
    assert right_port != federation.device_ports["n1"]


async def _until(federation: SmallFederation, *, healthy: bool, reason: str) -> None:
    async with asyncio.timeout(10):
        while True:
            health = (await federation.operator("n1").get("/health")).json()
            matches = not reason or any(reason in text and "not asked" not in text for text in health["reasons"])
            if health["healthy"] is healthy and matches:
                return
            await asyncio.sleep(0.05)
