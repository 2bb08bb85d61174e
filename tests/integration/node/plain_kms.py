"""A KMS of another kind: ETSI GS QKD 020 written from the standard alone, with what it was sent on record.

It knows nothing of `node`: it speaks JSON over mutual TLS, and answers what a test tells it to.
"""

import asyncio
import json
import ssl
import uuid
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_bytes
from typing import Any

import httpx
from aiohttp import web

VERSIONS, EXT_KEYS = "/kmapi/versions", "/kmapi/v1/ext_keys"
ACK, VOID = f"{EXT_KEYS}/ack", f"{EXT_KEYS}/void"


def new_key(size_bytes: int = 32) -> dict[str, str]:
    """Make a key as it is on the wire."""
    return {"key_id": str(uuid.uuid4()), "value": b64encode(token_bytes(size_bytes)).decode()}


@dataclass
class PlainKms:
    """One foreign KMS: listens on `port`, calls the node at `node_url` with the files of `identity`."""

    port: int
    node_url: str
    identity: Path
    trusted: Path
    received: list[tuple[str, Any]] = field(default_factory=list)
    answers: dict[str, list[int]] = field(default_factory=dict)

    async def __aenter__(self) -> "PlainKms":
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.verify_mode = ssl.CERT_REQUIRED
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context in (server, client):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(self.identity / "tls.crt", self.identity / "tls.key")
            context.load_verify_locations(self.trusted)
        application = web.Application()
        application.router.add_get(VERSIONS, self._versions)
        for path in (EXT_KEYS, ACK, VOID):
            application.router.add_post(path, self._take)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=server).start()
        self._client = httpx.AsyncClient(verify=client, base_url=self.node_url, timeout=20)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._client.aclose()
        await self._runner.cleanup()

    async def _versions(self, _request: web.Request) -> web.Response:
        return web.json_response({"versions": ["v1"]})

    async def _take(self, request: web.Request) -> web.Response:
        self.received.append((request.path, json.loads(await request.read())))
        usual = 200 if request.path == ACK else 202
        scripted = self.answers.get(request.path)
        return web.Response(status=scripted.pop(0) if scripted else usual)

    def told(self, path: str) -> list[Any]:
        """Return the bodies that came to one path."""
        return [body for where, body in self.received if where == path]

    def statuses(self, key_id: str) -> list[str]:
        """Return what was acknowledged of a key."""
        acks = [ack for body in self.told(ACK) for ack in body]
        return [ack["ack_status"] for ack in acks if key_id in [one["key_id"] for one in ack["key_id_container"]]]

    def transfers(self, key_id: str) -> list[Any]:
        """Return the transfers that brought a key."""
        return [body for body in self.told(EXT_KEYS) if key_id in [key["key_id"] for key in body["keys"]]]

    def url(self, path: str) -> str:
        """Return where it can be called."""
        return f"https://localhost:{self.port}{path}"

    async def post(self, path: str, body: Any) -> httpx.Response:
        """Call the node."""
        return await self._client.post(path, json=body)

    async def versions_of_node(self) -> Any:
        """Ask what the node offers."""
        return (await self._client.get(VERSIONS)).json()

    async def send(
        self, keys: list[dict[str, Any]], initiator: str, targets: list[str], *, synchronous: bool = False, **more: Any
    ) -> httpx.Response:
        """Send keys."""
        body = {"keys": keys, "initiator_sae_id": initiator, "target_sae_ids": targets} | more
        return await self.post(EXT_KEYS, body if synchronous else body | {"ack_callback_url": self.url(ACK)})

    async def ask_to_void(self, key_ids: list[str], initiator: str, targets: list[str], **more: Any) -> httpx.Response:
        """Ask to void keys, synchronously."""
        body = {"key_ids": key_ids, "initiator_sae_id": initiator, "target_sae_ids": targets} | more
        return await self.post(VOID, body)

    async def acknowledge(self, transfer: Any, status: str = "relayed") -> httpx.Response:
        """Say what became of all keys of a transfer."""
        ack = {
            "key_id_container": [{"key_id": key["key_id"]} for key in transfer["keys"]],
            "ack_status": status,
            "initiator_sae_id": transfer["initiator_sae_id"],
            "target_sae_ids": transfer["target_sae_ids"],
        }
        return await self.post(ACK, [ack])

    async def next_transfer(self, number: int = 1, timeout_s: float = 20.0) -> Any:
        """Return the transfer that makes it so many."""
        async with asyncio.timeout(timeout_s):
            while len(self.told(EXT_KEYS)) < number:
                await asyncio.sleep(0.01)
        return self.told(EXT_KEYS)[number - 1]
