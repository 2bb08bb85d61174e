"""A foreign KMS over ETSI GS QKD 020 as published: nothing of ours in what it is sent, nothing of ours expected."""

from pydantic import ValidationError

from node.clients.http import HttpService
from node.clients.peer_node import HttpPeerNode
from node.errors import PeerUncertainError
from node.wire.etsi020 import AckContainer, ExtKeyContainer, VersionContainer, VoidContainer
from node.wire.federation import FederationAdvert, LinkKeyAnnouncement, LinkKeyHoldings


class HttpForeignKms(HttpPeerNode):
    """The `PeerNode` of a running foreign KMS; `callback_url` = where it is to acknowledge."""

    def __init__(self, name: str, service: HttpService, callback_url: str) -> None:
        super().__init__(name, service)
        self._callback_url = callback_url

    async def versions(self) -> FederationAdvert:
        """Ask whether it answers; it has nothing to say of our federation."""
        body = await self._call("GET", "/kmapi/versions", None, 200)
        try:
            VersionContainer.model_validate_json(body)
        except ValidationError:
            raise PeerUncertainError(f"{self.name}: versions cannot be read") from None
        return FederationAdvert(adverts=(), routes=())

    async def ext_keys(self, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        """Hand over keys, in asynchronous mode, which every KMS has."""
        return await super().ext_keys(container.model_copy(update={"ack_callback_url": self._callback_url}))

    async def ack(self, acks: tuple[AckContainer, ...]) -> None:
        """Acknowledge keys; which way they went stays with us."""
        await super().ack(tuple(ack.model_copy(update={"extension": None}) for ack in acks))

    async def void(self, container: VoidContainer) -> None:
        """Ask to void keys, in asynchronous mode."""
        await super().void(container.model_copy(update={"ack_callback_url": self._callback_url}))

    async def announce_link_keys(self, announcement: LinkKeyAnnouncement) -> LinkKeyHoldings:
        """No QKD link of ours leads there."""
        raise PeerUncertainError(f"{self.name} shares no QKD link with this node")
