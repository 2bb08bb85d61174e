"""The composition root: the one place that knows the real clock, randomness, sockets, disk and TPM of a node."""

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from node.clients.foreign_kms import HttpForeignKms
from node.clients.http import HttpService
from node.clients.peer_node import HttpPeerNode
from node.clients.qkd_device import HttpQkdDevice
from node.core.assembly import Core
from node.core.foreign import neighbour_name
from node.core.ports import PeerNode, QkdDevice
from node.core.world import World
from node.crypto.advert_signature import AdvertSigner
from node.errors import CannotServeError, StoreError
from node.health import Health
from node.identity_uri import Role
from node.mutual_tls.client_certificate_protocol import RunningServer, serve
from node.mutual_tls.contexts import client_context, foreign_client_context, foreign_server_context, server_context
from node.mutual_tls.foreign_identity import ForeignAnchors
from node.mutual_tls.identity import CertificateRefusedError, TrustAnchors
from node.sealing.epochs import keep_epochs
from node.servers.callers import Callers
from node.servers.foreign_api import ForeignCallers, foreign_api
from node.servers.operator_api import operator_api
from node.servers.peer_api import peer_api
from node.servers.sae_api import sae_api
from node.settings import ForeignKmsSettings, NodeSettings
from node.storage.database import DATABASE_NAME, Database, RollbackGuard
from node.storage.value_cipher import ValueCipher

log = logging.getLogger("kmstn")

PEER_TIMEOUT_S = 5.0


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
        """Return a UUID of version 7: ordered by time, so that the store's indexes grow at their end.

        With random ones every key of a request would touch a page of its own in each index, the more the more keys
        are stored. The 74 random bits keep IDs of different nodes apart; an ID is no secret.
        """
        chance = secrets.randbits(74)
        number = time.time_ns() // 1_000_000 << 80 | 7 << 76 | chance >> 62 << 64 | 2 << 62 | chance & (1 << 62) - 1
        digits = f"{number:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


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

    def __init__(
        self,
        settings: NodeSettings,
        data_key: bytes,
        sealing: str,
        *,
        guard: RollbackGuard | None = None,
        tls_groups: str | None = None,
    ) -> None:
        self.settings = settings
        self._groups = tls_groups
        self._tasks = Tasks()
        self._clock = SystemClock()
        self._servers: list[RunningServer] = []
        self._services: list[HttpService] = []
        self._domains = (settings.domain, *settings.trusted_domains)
        self._anchors = TrustAnchors.load(settings.identity_dir / "domains", self._domains)
        self._store = Database(settings.state_dir / DATABASE_NAME, ValueCipher(data_key), guard)
        self._peers: dict[str, PeerNode] = {n.node: self._peer(n.node, n.domain, n.url) for n in settings.neighbours}
        foreign: dict[str, PeerNode] = {neighbour_name(kms.name): self._foreign(kms) for kms in settings.foreign_kms}
        world = World(self._store, self._clock, SystemRandomness(), self._tasks, self._peers, foreign)
        self._core = core = Core(settings, world, self._devices(), self._owner_of, _signer(settings.identity_dir).sign)
        self.health = Health(settings, sealing, core.federation, core.watches, core.stocks, core.pools.peers)
        self.health.foreign_kms = core.gateway.answering
        self.health.store_says = lambda: self._store.failure

    async def start(self) -> None:
        """Open the store, take up what was under way, serve. Raises StoreError, SealingError, OSError."""
        self._store.open()
        await self._core.prepare()
        await self._serve()
        self._core.begin(self.health)
        self._tasks.spawn(keep_epochs(self._store, self.settings.rollback_interval_s, self._clock.sleep, self.health))
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
        """The ports in use: SAE, peer and operator API; where there are foreign KMSs, theirs too."""
        return tuple(server.port for server in self._servers)

    async def _serve(self) -> None:
        settings, core, own = self.settings, self._core, (self.settings.domain,)
        now = self._clock.now
        apps = (
            (
                sae_api(
                    settings, core.delivery, Callers("SAE API", self._anchors, {Role.SAE}, now, own[0]), self._refusal
                ),
                settings.sae_port,
                own,
            ),
            (
                peer_api(
                    core.federation, core.relay, core.stocks, Callers("peer API", self._anchors, {Role.NODE}, now)
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
            self._servers.append(await serve(app, context, settings.bind, port, settings.limits))
        if settings.foreign_kms:
            await self._serve_foreign_kms()

    async def _serve_foreign_kms(self) -> None:
        settings = self.settings
        by_name = {kms.name: kms for kms in settings.foreign_kms}
        names = {name: kms.certificate_name for name, kms in by_name.items()}
        callers = ForeignCallers(ForeignAnchors(settings.identity_dir, names), by_name, self._clock.now)
        app = foreign_api(self._core.gateway, self._core.relay, callers)
        context = foreign_server_context(settings.identity_dir, names)
        self._servers.append(await serve(app, context, settings.bind, settings.foreign_port, settings.limits))

    def _refusal(self) -> str | None:
        return self.health.refusal()

    def _owner_of(self, certificate: bytes, now: float) -> tuple[str, str]:
        try:
            identity = self._anchors.identify(certificate, datetime.fromtimestamp(now, UTC))
        except CertificateRefusedError as error:
            return "", str(error)
        return (identity.domain, identity.name) if identity.role is Role.NODE else ("", "")

    def _devices(self) -> dict[str, QkdDevice]:
        devices: dict[str, QkdDevice] = {}
        for neighbour in self.settings.neighbours:
            if neighbour.device is not None:
                url, timeout_s = neighbour.device.url, neighbour.device.timeout_s
                service = self._service(url, self.settings.domain, timeout_s, False)
                devices[neighbour.node] = HttpQkdDevice(neighbour.node, service)
        return devices

    def _peer(self, name: str, domain: str, url: str) -> HttpPeerNode:
        usual, overflow = (self._service(url, domain, PEER_TIMEOUT_S, True) for _ in range(2))
        return HttpPeerNode(name, usual, overflow)

    def _foreign(self, kms: ForeignKmsSettings) -> HttpForeignKms:
        settings = self.settings
        base_url = settings.foreign_url or f"https://{settings.node}:{settings.foreign_port}"
        context = foreign_client_context(settings.identity_dir, kms.name)
        service = HttpService(kms.url, context, PEER_TIMEOUT_S, kms.certificate_name)
        self._services.append(service)
        return HttpForeignKms(kms.name, service, f"{base_url}/kmapi/v1/ext_keys/ack")

    def _service(self, url: str, domain: str, timeout_s: float, peer_plane: bool) -> HttpService:
        groups = self._groups if peer_plane else None
        context = client_context(self.settings.identity_dir, (domain,), peer_plane=peer_plane, groups=groups)
        service = HttpService(url, context, timeout_s)
        self._services.append(service)
        return service


def _signer(identity_dir: Path) -> AdvertSigner:
    key = serialization.load_pem_private_key((identity_dir / "tls.key").read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{identity_dir / 'tls.key'}: not an elliptic curve key")
    certificate = x509.load_pem_x509_certificate((identity_dir / "tls.crt").read_bytes())
    return AdvertSigner(key, certificate.public_bytes(serialization.Encoding.DER))
