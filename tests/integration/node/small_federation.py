"""A federation of real nodes and emulated devices in one process, on loopback ports, with mutual TLS.

east:  n1 ==QKD== n2 --WAN-- n3 :west        SAEs: a1, a2 at n1; b at n2; c at n3
"""

import asyncio
import random
import socket
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from emulators.app import make_device_application
from emulators.settings import EmulatedDeviceSettings, ProfileSettings
from emulators.store import Store
from node.app import Node
from node.identity_uri import Role
from node.mutual_tls.client_certificate_protocol import serve
from node.mutual_tls.contexts import client_context, server_context
from node.settings import DeliverySettings, DeviceSettings, LinkKind, NeighbourSettings, NodeSettings, PoolSettings
from node.storage.store_file import DATABASE_NAME, create_store
from node.storage.value_cipher import ValueCipher
from tests.certificates import Credential, issue, make_authority, write_identity

GROUPS = "prime256v1"
PORTS = range(10_000, 20_000)
DATA_KEY = bytes(range(32))
LAYOUT = {"n1": ("east", ("a1", "a2")), "n2": ("east", ("b",)), "n3": ("west", ("c",))}
HOME = {sae: node for node, (_domain, saes) in LAYOUT.items() for sae in saes}


_untried: list[int] = []


def free_port() -> int:
    """Return a port that is free and was not returned before (as long as there are others).

    It is below those that the kernel gives to outgoing connections at any moment.
    """
    for _ in range(2 * len(PORTS)):
        if not _untried:
            _untried.extend(random.sample(PORTS, len(PORTS)))
        port = _untried.pop()
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {PORTS[0]} and {PORTS[-1]}")


@dataclass
class SmallFederation:
    """Started nodes, and clients for their APIs."""

    root: Path
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    pool: PoolSettings = field(
        default_factory=lambda: PoolSettings(target_blocks=8, batch_blocks=4, reserve_link_keys=4)
    )
    profile: ProfileSettings = field(
        default_factory=lambda: ProfileSettings(api_latency_ms=0, api_latency_per_key_ms=0)
    )
    nodes: dict[str, Node] = field(default_factory=dict)
    clients: dict[tuple[str, Role, str, int], httpx.AsyncClient] = field(default_factory=dict)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        self.authorities: dict[str, Credential] = {domain: make_authority(domain) for domain in ("east", "west")}
        self.ports = {node: (free_port(), free_port(), free_port()) for node in LAYOUT}
        self.device_ports = {"n1": free_port(), "n2": free_port()}
        self.lit_at = time.time()
        self.root.joinpath("fibre.seed").write_bytes(bytes(range(32, 64)))

    async def __aenter__(self) -> "SmallFederation":
        for end, node in (("a", "n1"), ("b", "n2")):
            await self.start_device(end, node)
        for node in LAYOUT:
            await self.start_node(node)
        await self.settled()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await asyncio.gather(*(client.aclose() for client in self.clients.values()))
        await asyncio.gather(*(self.stop_node(name) for name in list(self.nodes)))
        await self.stack.aclose()

    async def start_node(self, name: str) -> Node:
        settings = self.settings(name)
        if not (settings.state_dir / DATABASE_NAME).exists():
            create_store(settings.state_dir / DATABASE_NAME, ValueCipher(DATA_KEY), epoch=0)
        node = Node(settings, DATA_KEY, "unsafe", tls_groups=GROUPS)
        await node.start()
        self.nodes[name] = node
        return node

    async def stop_node(self, name: str) -> None:
        await self.nodes.pop(name).stop()

    async def settled(self) -> None:
        """Wait until every node knows every other and has filled its pools."""
        async with asyncio.timeout(20):
            while not await self._is_settled():
                await asyncio.sleep(0.05)

    async def _is_settled(self) -> bool:
        for name in self.nodes:
            status = await self.status(name)
            pooled = self.delivery.pattern == "reactive" or (
                len(status["pools"]) == 2
                and all(pool["outbound_blocks"] >= self.pool.target_blocks for pool in status["pools"])
            )
            if len(status["routes"]) < 2 or not status["healthy"] or not pooled:
                return False
            if any(link["outbound"] < 16 for link in status["link_keys"]):
                return False
        return True

    async def status(self, node: str) -> dict[str, Any]:
        answer = await self.operator(node).get("/status")
        body: dict[str, Any] = answer.json()
        return body

    async def stocks(self) -> list[Any]:
        """Return what no request in error may change."""
        return [(await self.status(node))[what] for node in self.nodes for what in ("pools",)]

    def operator(self, node: str) -> httpx.AsyncClient:
        return self._client(node, Role.OPERATOR, "operator", LAYOUT[node][0], 2)

    def sae(self, name: str, *, at: str | None = None) -> httpx.AsyncClient:
        """Return a client with the certificate of an SAE, for the SAE API of its node (or another)."""
        domain = LAYOUT[HOME[name]][0] if name in HOME else "east"
        return self._client(at or HOME.get(name, "n1"), Role.SAE, name, domain, 0)

    def peer(self, name: str, at: str) -> httpx.AsyncClient:
        """Return a client with the certificate of a node, for the ETSI 020 API of another."""
        return self._client(at, Role.NODE, name, LAYOUT[name][0], 1)

    def _client(self, node: str, role: Role, name: str, domain: str, api: int) -> httpx.AsyncClient:
        which = (node, role, name, api)
        if which not in self.clients:
            self.clients[which] = self._connect(node, self.identity(domain, role, name), api)
        return self.clients[which]

    def _connect(self, node: str, identity: Path, api: int) -> httpx.AsyncClient:
        context = client_context(identity, (LAYOUT[node][0],), peer_plane=api == 1, groups=GROUPS if api == 1 else None)
        return httpx.AsyncClient(verify=context, base_url=f"https://localhost:{self.ports[node][api]}", timeout=20)

    def identity(self, domain: str, role: Role, name: str) -> Path:
        directory = self.root / f"{domain}-{role.value}-{name}"
        if not directory.exists():
            leaf = issue(self.authorities[domain], role, name, dns=("localhost",))
            write_identity(directory, leaf, self.authorities.values())
        return directory

    async def start_device(self, end: str, node: str) -> None:
        other = "n2" if node == "n1" else "n1"
        settings = EmulatedDeviceSettings(
            device=f"{node}-to-{other}",
            domain="east",
            link="n1-n2",
            end=end,
            node=node,
            peer_device=f"{other}-to-{node}",
            peer_node=other,
            lit_at=self.lit_at,
            profile=self.profile,
            fibre_seed_path=self.root / "fibre.seed",
            state_dir=self.root / f"device-{node}",
            identity_dir=self.identity("east", Role.DEVICE, f"{node}-to-{other}"),
        )
        settings.state_dir.mkdir(exist_ok=True)
        store = Store(settings.state_dir)
        context = server_context(settings.identity_dir, ("east",), peer_plane=False)
        server = await serve(make_device_application(settings, store), context, "127.0.0.1", self.device_ports[node])
        self.stack.callback(store.close)
        self.stack.push_async_callback(server.stop)

    def settings(self, name: str) -> NodeSettings:
        domain, saes = LAYOUT[name]
        state = self.root / f"state-{name}"
        state.mkdir(exist_ok=True)
        sae_port, peer_port, operator_port = self.ports[name]
        return NodeSettings(
            node=name,
            domain=domain,
            site=name,
            saes=saes,
            neighbours=tuple(self._neighbours(name)),
            trusted_domains=("west",) if domain == "east" else ("east",),
            delivery=self.delivery,
            pool=self.pool,
            sealing="unsafe-plaintext",
            state_dir=state,
            identity_dir=self.identity(domain, Role.NODE, name),
            bind="127.0.0.1",
            sae_port=sae_port,
            peer_port=peer_port,
            operator_port=operator_port,
            peer_url=f"https://localhost:{peer_port}",
            advert_interval_s=0.1,
        )

    def _neighbours(self, name: str) -> list[NeighbourSettings]:
        joined = {"n1": ["n2"], "n2": ["n1", "n3"], "n3": ["n2"]}[name]
        return [self._neighbour(name, other) for other in joined]

    def _neighbour(self, name: str, other: str) -> NeighbourSettings:
        qkd = {name, other} == {"n1", "n2"}
        device = None
        if qkd:
            url = f"https://localhost:{self.device_ports[name]}"
            device = DeviceSettings(name=f"{name}-to-{other}", url=url, poll_interval_s=0.05)
        return NeighbourSettings(
            node=other,
            domain=LAYOUT[other][0],
            url=f"https://localhost:{self.ports[other][1]}",
            link="n1-n2" if qkd else "n2-n3",
            kind=LinkKind.QKD if qkd else LinkKind.WAN,
            device=device,
        )
