"""The small federation with waits so short that hostile tests are quick, and raw connections to its ports."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from node.identity_uri import Role
from node.mutual_tls.contexts import client_context
from node.settings import DeliverySettings, LimitSettings, NodeSettings
from tests.hostile.raw_http import RawClient, RawConnection
from tests.integration.node.small_federation import GROUPS, LAYOUT, SmallFederation

SAE_API, PEER_API, OPERATOR_API = 0, 1, 2
APIS = {"SAE": SAE_API, "peer": PEER_API, "operator": OPERATOR_API}
HOLDERS = {SAE_API: (Role.SAE, "a1"), PEER_API: (Role.NODE, "n2"), OPERATOR_API: (Role.OPERATOR, "operator")}
PATHS = {SAE_API: "/api/v1/keys/b/status", PEER_API: "/kmapi/versions", OPERATOR_API: "/health"}


@dataclass
class HostileFederation(SmallFederation):
    """Node n1 is the one attacked, its neighbour n2 and its SAE a1 attack, unless a test says otherwise."""

    delivery: DeliverySettings = field(
        default_factory=lambda: DeliverySettings(arrival_wait_s=0.02, relay_timeout_s=2.0)
    )
    limits: LimitSettings = field(
        default_factory=lambda: LimitSettings(
            handshake_timeout_s=1.0,
            request_timeout_s=1.0,
            response_timeout_s=1.5,
            shutdown_timeout_s=0.5,
            keep_alive_s=5,
            connections=200,
            handshakes=100,
            inbound_link_keys=96,
        )
    )

    def settings(self, name: str) -> NodeSettings:
        return super().settings(name).model_copy(update={"limits": self.limits})

    def context(self, api: int, identity: Path | None = None, *, node: str = "n1") -> ssl.SSLContext:
        """Return a context that opens an API of a node, or tries to with another identity."""
        role, name = HOLDERS[api]
        groups = GROUPS if api == PEER_API else None
        return client_context(
            identity or self.identity("east", role, name),
            (LAYOUT[node][0],),
            peer_plane=api == PEER_API,
            groups=groups,
        )

    def client(self, api: int, *, node: str = "n1") -> RawClient:
        """Return a client that has the right certificate."""
        return RawClient(self.ports[node][api], self.context(api, node=node))

    async def open(self, api: int, *, node: str = "n1") -> RawConnection:
        """Open a connection with the right certificate."""
        return await RawConnection.open(self.ports[node][api], self.context(api, node=node))
