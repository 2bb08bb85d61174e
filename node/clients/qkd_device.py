"""The QKD device beside this node, over ETSI GS QKD 014, as any SAE would use it.

A device may answer anything: every oddity ends as a DeviceError that says what was wrong, never as a crash.
"""

import json
import re
from collections.abc import Sequence
from urllib.parse import quote

from node.clients.http import Answer, HttpService, ServiceFailure
from node.core.keys import BLOCK_SIZE_BYTES, KeyBlock
from node.core.link_key_stock import UnknownLinkKeysError
from node.errors import DeviceError, printable
from node.wire import etsi014

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class HttpQkdDevice:
    """The `QkdDevice` of a running node; `peer` is the SAE ID of the node at the other end of the link."""

    def __init__(self, peer: str, service: HttpService) -> None:
        self._path = f"/api/v1/keys/{quote(peer, safe='')}"
        self._service = service

    async def stored_key_count(self) -> int:
        """Return how many keys it says it has for us."""
        answer = await self._call("GET", "status", None)
        try:
            return etsi014.read_stored_key_count(answer.body)
        except etsi014.MalformedAnswerError as error:
            raise DeviceError(f"its status cannot be read: {error}") from error

    async def enc_keys(self, number: int) -> tuple[KeyBlock, ...]:
        """Get up to `number` fresh link keys as master."""
        body = {"number": number, "size": 8 * BLOCK_SIZE_BYTES}
        return self._keys(await self._call("POST", "enc_keys", body), number)

    async def dec_keys(self, key_ids: Sequence[str]) -> tuple[KeyBlock, ...]:
        """Get the named link keys as slave; raises UnknownLinkKeysError if it lacks any of them."""
        body = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
        try:
            keys = self._keys(await self._call("POST", "dec_keys", body), len(key_ids))
        except _RefusedError as error:
            raise UnknownLinkKeysError(str(error)) from error
        wanted = {key_id.lower() for key_id in key_ids}
        if {key.key_id for key in keys} != wanted:
            raise DeviceError("it answered other keys than those asked for")
        return keys

    async def _call(self, method: str, what: str, body: object) -> Answer:
        encoded = None if body is None else json.dumps(body).encode()
        try:
            answer = await self._service.request(method, f"{self._path}/{what}", encoded)
        except ServiceFailure as failure:
            raise DeviceError(f"{what}: {failure}") from failure
        if answer.status == 200:
            return answer
        text = f"{what}: answered {answer.status}: {printable(etsi014.read_error_message(answer.body))}"
        raise _RefusedError(text) if answer.status in (400, 404) else DeviceError(text)

    def _keys(self, answer: Answer, at_most: int) -> tuple[KeyBlock, ...]:
        try:
            delivered = etsi014.read_delivered_keys(answer.body)
        except etsi014.MalformedAnswerError as error:
            raise DeviceError(f"its keys cannot be read: {error}") from error
        if not 1 <= len(delivered) <= at_most:
            raise DeviceError(f"it answered {len(delivered)} keys where {at_most} were asked for")
        if any(len(key.value) != BLOCK_SIZE_BYTES for key in delivered):
            raise DeviceError(f"a key of it is not {8 * BLOCK_SIZE_BYTES} bits long")
        if len({key.key_id for key in delivered}) != len(delivered):
            raise DeviceError("it answered one key ID twice")
        if not all(_UUID.fullmatch(key.key_id.lower()) for key in delivered):
            raise DeviceError("a key ID of it is not a UUID")
        return tuple(KeyBlock(key.key_id.lower(), key.value) for key in delivered)


class _RefusedError(DeviceError):
    """400 or 404: it does not have what was asked for."""
