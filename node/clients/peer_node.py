"""A neighbouring node over ETSI GS QKD 020 and our extensions of it; what its answers mean is in the standard's rule:
400 and 401 kept nothing, any other outcome may have kept the keys."""

import asyncio
import contextlib
import time
from urllib.parse import urlsplit

from pydantic import ValidationError

from node.clients.http import HttpService, ServiceFailure
from node.errors import PeerError, PeerRefusedError, PeerUnauthorisedError, PeerUncertainError, printable
from node.wire.etsi020 import (
    SYNCHRONOUS_MODE,
    AckContainer,
    ExtKeyContainer,
    MessageFormatError,
    VersionContainer,
    VoidContainer,
    dump,
    dump_acks,
    parse_acks,
)
from node.wire.federation import FEDERATION, LINK_KEYS_PATH, FederationAdvert, LinkKeyAnnouncement, LinkKeyHoldings

CONNECT_TIMEOUT_S = 3.0
_KEPT_NOTHING: dict[int, type[PeerError]] = {400: PeerRefusedError, 401: PeerUnauthorisedError}
# Synchronous transfers hold a connection until the keys have arrived: beyond so many they have some of their own.
WAITING_AT_ONCE = 16


class HttpPeerNode:
    """The `PeerNode` of a running node."""

    def __init__(self, name: str, service: HttpService, overflow: HttpService | None = None) -> None:
        self.name = name
        self._service = service
        self._overflow = overflow or service
        self._waiting = 0
        self._last: tuple[bytes, FederationAdvert] | None = None
        self.synchronous_mode = False

    async def versions(self) -> FederationAdvert:
        """Return what it advertises; an unchanged answer is not read twice."""
        body = await self._call("GET", "/kmapi/versions", None, 200)
        if self._last is not None and self._last[0] == body:
            return self._last[1]
        try:
            said = VersionContainer.model_validate_json(body)
            advert = FederationAdvert.model_validate((said.extension or {}).get(FEDERATION))
        except ValidationError as error:
            raise PeerUncertainError(f"{self.name}: versions cannot be read: {_places(error)}") from None
        self._last = (body, advert)
        self.synchronous_mode = SYNCHRONOUS_MODE in said.capabilities
        return advert

    async def ext_keys(self, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        """Hand over keys; returns when they were accepted; in synchronous mode, what became of them."""
        if container.ack_callback_url is not None:
            await self._call("POST", "/kmapi/v1/ext_keys", dump(container), 202)
            return ()
        service = self._service if self._waiting < WAITING_AT_ONCE else self._overflow
        self._waiting += 1
        try:
            return parse_acks(await self._call("POST", "/kmapi/v1/ext_keys", dump(container), 200, service))
        except MessageFormatError as error:
            raise PeerUncertainError(f"{self.name}: the outcome cannot be read: {error}") from None
        finally:
            self._waiting -= 1

    async def ack(self, acks: tuple[AckContainer, ...]) -> None:
        """Acknowledge keys."""
        await self._call("POST", "/kmapi/v1/ext_keys/ack", dump_acks(acks), 200)

    async def void(self, container: VoidContainer) -> None:
        """Ask to void keys."""
        await self._call("POST", "/kmapi/v1/ext_keys/void", dump(container), 202)

    async def announce_link_keys(self, announcement: LinkKeyAnnouncement) -> LinkKeyHoldings:
        """Tell which link keys are held here, hear which are held there."""
        body = await self._call("POST", LINK_KEYS_PATH, dump(announcement), 200)
        try:
            return LinkKeyHoldings.model_validate_json(body)
        except ValidationError as error:
            raise PeerUncertainError(f"{self.name}: link keys cannot be read: {_places(error)}") from None

    async def rtt_ms(self) -> float | None:
        """Measure one TCP handshake with its API, in ms: one round trip, nothing else; None if it does not answer."""
        address = urlsplit(self._service.base_url)
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _reader, writer = await asyncio.open_connection(address.hostname, address.port)
        except (OSError, TimeoutError):
            return None
        elapsed_ms = 1000 * (time.perf_counter() - begin)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return elapsed_ms

    async def _call(
        self, method: str, path: str, body: bytes | None, expected: int, service: HttpService | None = None
    ) -> bytes:
        try:
            answer = await (service or self._service).request(method, path, body)
        except ServiceFailure as failure:
            raise PeerUncertainError(f"{self.name}: {failure}") from failure
        if answer.status == expected:
            return answer.body
        text = f"{self.name}: {path} answered {answer.status}: {printable(answer.body[:300].decode(errors='replace'))}"
        raise _KEPT_NOTHING.get(answer.status, PeerUncertainError)(text)


def _places(error: ValidationError) -> str:
    places = (".".join(map(str, finding["loc"])) for finding in error.errors(include_input=False)[:5])
    return printable(", ".join(places))
