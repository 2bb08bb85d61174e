"""The composition root: the one place that knows the real clock, randomness, sockets, disk and TPM of a node."""

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from node.clients.http import HttpService
from node.clients.peer_node import HttpPeerNode
from node.clients.qkd_device import HttpQkdDevice
from node.core.arrivals import Arrivals
from node.core.destination import Destination
from node.core.federation import Federation
from node.core.hop import HopTransport
from node.core.kem_keys import KemKeyring
from node.core.key_delivery import KeyDelivery
from node.core.key_request import Admission
from node.core.link_key_stock import LinkKeyStock, keep_in_stock
from node.core.neighbours import NeighbourWatch
from node.core.pool import Pools
from node.core.ports import Ledger, PeerNode
from node.core.relay import Relay, World
from node.crypto.advert_signature import AdvertSigner
from node.errors import CannotServeError, KmstnError, StoreError
from node.health import Health
from node.identity_uri import Role
from node.mutual_tls.client_certificate_protocol import RunningServer, serve
from node.mutual_tls.contexts import client_context, server_context
from node.mutual_tls.identity import CertificateRefusedError, TrustAnchors
from node.servers.callers import Callers
from node.servers.operator_api import operator_api
from node.servers.peer_api import peer_api
from node.servers.sae_api import sae_api
from node.settings import NodeSettings
from node.storage.database import DATABASE_NAME, Database
from node.storage.value_cipher import ValueCipher

log = logging.getLogger("kmstn")

PEER_TIMEOUT_S = 5.0
SWEEP_INTERVAL_S = 5.0


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class SystemRandomness:
    """The operating system's generator."""

    def bytes(self, size_bytes: int) -> bytes:
        """Return random bytes."""
        return secrets.token_bytes(size_bytes)

    def uuid(self) -> str:
        """Return a random UUID, version 4."""
        return str(uuid.uuid4())


class Tasks:
    """The `Background` of a running node, and its endless loops."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start work that nobody waits for; a failure is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def cancel(self) -> None:
        """Stop everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, (CannotServeError, StoreError)):
                log.error("%s", error)
            else:
                log.error("unexpected failure", exc_info=error)


class Node:
    """One key management node: made from settings and a data key, then `start`ed and `stop`ped."""

    def __init__(self, settings: NodeSettings, data_key: bytes, sealing: str, *, tls_groups: str | None = None) -> None:
        self.settings = settings
        self._groups = tls_groups
        self._tasks = Tasks()
        self._clock = SystemClock()
        self._servers: list[RunningServer] = []
        self._services: list[HttpService] = []
        self._domains = (settings.domain, *settings.trusted_domains)
        self._anchors = TrustAnchors.load(settings.identity_dir / "domains", self._domains)
        self._store = Database(settings.state_dir / DATABASE_NAME, ValueCipher(data_key))
        self._keyring = KemKeyring(settings.suites, settings.kem_provider, settings.kem_key_lifetime_s)
        self._federation = Federation(settings, self._keyring, self._owner_of, _signer(settings.identity_dir).sign)
        self._peers: dict[str, PeerNode] = {n.node: self._peer(n.node, n.domain, n.url) for n in settings.neighbours}
        self._world = World(self._store, self._clock, SystemRandomness(), self._tasks, self._peers)
        self._arrivals = Arrivals()
        self._relay = self._make_relay()
        self._pools = Pools(settings, self._federation, self._relay, self._world)
        self.delivery = KeyDelivery(
            settings, _admission(settings), self._federation, self._relay, self._world, self._arrivals
        )
        self._stocks = self._make_stocks()
        self._watches = {name: self._watch(name, peer) for name, peer in self._peers.items()}
        self.health = Health(settings, sealing, self._federation, self._watches, self._stocks, self._pools.peers)

    async def start(self) -> None:
        """Open the store, take up what was under way, serve. Raises StoreError, OSError."""
        self._store.open()
        await self._renew_kem_keys()
        self._federation.advertise_self(self._clock.now())
        await self._serve()
        for loop in (self._pools.run, self.delivery.repeat_overdue, self._keep_house):
            self._tasks.spawn(self._for_ever(loop))
        for watch in self._watches.values():
            self._tasks.spawn(self._for_ever(watch.run))
        for stock in self._stocks.values():
            self._tasks.spawn(self._for_ever(partial(keep_in_stock, stock, self._clock)))
        self._tasks.spawn(self._resume())
        log.info("%s serves %d SAEs and %d neighbours", self.settings.node, len(self.settings.saes), len(self._peers))

    async def stop(self) -> None:
        """Stop serving and close the store."""
        await self._tasks.cancel()
        await asyncio.gather(
            *(service.close() for service in self._services), *(server.stop() for server in self._servers)
        )
        self._store.close()

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports in use: SAE, peer and operator API."""
        return tuple(server.port for server in self._servers)

    async def _for_ever(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop that should not end; when the store or anything else fails under it, say so and begin it again."""
        while True:
            try:
                await loop()
            except KmstnError as error:
                log.error("%s", error)
            except Exception:
                log.exception("unexpected failure; going on")
            await self._clock.sleep(SWEEP_INTERVAL_S / 5)

    async def _serve(self) -> None:
        settings, own = self.settings, (self.settings.domain,)
        now = self._clock.now
        apps = (
            (
                sae_api(
                    settings, self.delivery, Callers("SAE API", self._anchors, {Role.SAE}, now, own[0]), self._refusal
                ),
                settings.sae_port,
                own,
            ),
            (
                peer_api(
                    self._federation, self._relay, self._stocks, Callers("peer API", self._anchors, {Role.NODE}, now)
                ),
                settings.peer_port,
                self._domains,
            ),
            (
                operator_api(
                    self.health, self._store, Callers("operator API", self._anchors, {Role.OPERATOR}, now, own[0])
                ),
                settings.operator_port,
                own,
            ),
        )
        for app, port, domains in apps:
            peer_plane = port == settings.peer_port
            groups = self._groups if peer_plane else None
            context = server_context(settings.identity_dir, domains, peer_plane=peer_plane, groups=groups)
            self._servers.append(await serve(app, context, settings.bind, port))

    def _refusal(self) -> str | None:
        return self.health.store_failure

    def _owner_of(self, certificate: bytes, now: float) -> tuple[str, str]:
        try:
            identity = self._anchors.identify(certificate, datetime.fromtimestamp(now, UTC))
        except CertificateRefusedError as error:
            return "", str(error)
        return (identity.domain, identity.name) if identity.role is Role.NODE else ("", "")

    def _make_relay(self) -> Relay:
        settings = self.settings
        hops = HopTransport(settings.node, self._keyring, settings.kem_provider)
        destination = Destination(settings.node, frozenset(settings.saes), self._keyring, settings.kem_provider)
        base_url = settings.peer_url or f"https://{settings.node}:{settings.peer_port}"
        callback_url = f"{base_url}/kmapi/v1/ext_keys/ack"
        relay = Relay(settings.node, callback_url, self._federation, hops, destination, self._world)
        relay.on_arrival = self._arrivals.notify
        relay.pool_reserve = settings.pool.reserve_link_keys
        return relay

    def _make_stocks(self) -> dict[str, LinkKeyStock]:
        stocks = {}
        for neighbour in self.settings.neighbours:
            if neighbour.device is not None:
                device = HttpQkdDevice(
                    neighbour.node,
                    self._service(neighbour.device.url, self.settings.domain, neighbour.device.timeout_s, False),
                )
                peer = self._peers[neighbour.node]
                stocks[neighbour.node] = LinkKeyStock(neighbour.link, neighbour.device, device, peer, self._store)
        return stocks

    def _peer(self, name: str, domain: str, url: str) -> HttpPeerNode:
        return HttpPeerNode(name, self._service(url, domain, PEER_TIMEOUT_S, True))

    def _service(self, url: str, domain: str, timeout_s: float, peer_plane: bool) -> HttpService:
        groups = self._groups if peer_plane else None
        context = client_context(self.settings.identity_dir, (domain,), peer_plane=peer_plane, groups=groups)
        service = HttpService(url, context, timeout_s)
        self._services.append(service)
        return service

    def _watch(self, name: str, peer: PeerNode) -> NeighbourWatch:
        return NeighbourWatch(name, peer, self._federation, self._clock, self.settings.advert_interval_s)

    async def _renew_kem_keys(self) -> None:
        """Load the stored KEM keys, make new ones where due: durable before they are published."""
        now = self._clock.now()
        self._keyring.install(await self._store.transact(lambda ledger: ledger.kem_keys()))
        renewed = self._keyring.renewals(now)

        def keep(ledger: Ledger) -> None:
            ledger.drop_kem_keys(now)
            for key in renewed:
                ledger.add_kem_key(key)

        await self._store.transact(keep)
        self._keyring.install(renewed)
        self._keyring.forget_expired(now)

    async def _resume(self) -> None:
        """Take up what was under way when the node stopped."""
        parcels = await self._store.transact(lambda ledger: ledger.open_parcels())
        if not parcels:
            return
        await self._clock.sleep(2 * self.settings.advert_interval_s)
        for parcel in parcels:
            await self._relay.take_up(parcel)

    async def _keep_house(self) -> None:
        advertised_at = self._clock.now()
        while True:
            await self._clock.sleep(SWEEP_INTERVAL_S)
            now = self._clock.now()
            try:
                expired = await self._store.transact(lambda ledger, now=now: ledger.sweep(now))  # type: ignore[misc]
                await self._renew_kem_keys()
                self.health.store_failure = None
            except StoreError as error:
                log.error("%s", error)
                self.health.store_failure = str(error)
                continue
            if expired:
                self.health.counters["keys_expired_unfetched"] += len(expired)
                log.warning("%d keys expired before their slaves fetched them", len(expired))
            self._federation.directory.forget_expired(now)
            self._relay.forget_expired(now)
            if now - advertised_at > self.settings.advert_lifetime_s / 4:
                self._federation.advertise_self(now)
                advertised_at = now


def _admission(settings: NodeSettings) -> Admission:
    pairs = None if settings.allowed_pairs is None else frozenset(settings.allowed_pairs)
    return Admission(frozenset(settings.saes), pairs, settings.keys)


def _signer(identity_dir: Path) -> AdvertSigner:
    key = serialization.load_pem_private_key((identity_dir / "tls.key").read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{identity_dir / 'tls.key'}: not an elliptic curve key")
    certificate = x509.load_pem_x509_certificate((identity_dir / "tls.crt").read_bytes())
    return AdvertSigner(key, certificate.public_bytes(serialization.Encoding.DER))
