"""A simulated machine: what boots, crashes and boots again with the real node inside, on its own disk and clock."""

import asyncio
import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from node.clients.http import Answer
from node.clients.qkd_device import HttpQkdDevice
from node.core.assembly import Core
from node.core.ports import PeerNode, QkdDevice
from node.core.world import World
from node.errors import CannotServeError, StoreError
from node.health import Health
from node.identity_uri import Role
from node.mutual_tls.identity import CertificateRefusedError, TrustAnchors
from node.servers.callers import Callers
from node.servers.peer_api import peer_api
from node.servers.sae_api import sae_api
from node.settings import NodeSettings
from tests.simulation.devices import Device
from tests.simulation.disk import Disk, SimulatedStore
from tests.simulation.identities import EPOCH, authority, holder
from tests.simulation.network import Call, Network, SimulatedPeer, SimulatedService
from tests.simulation.trace import WHERE, Trace

PEER_TIMEOUT_S = 5.0
REBOOT_S = 1.0

Application = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]


class SeededRandomness:
    """A generator that goes on over crashes of its node; the oracle hears of every secret drawn."""

    def __init__(self, rng: random.Random, on_secret: Callable[[bytes], None]) -> None:
        self._rng = rng
        self._on_secret = on_secret

    def bytes(self, size_bytes: int) -> bytes:
        """Return random bytes."""
        drawn = self._rng.randbytes(size_bytes)
        self._on_secret(drawn)
        return drawn

    def uuid(self) -> str:
        """Return a random UUID, version 4."""
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))


class SkewedClock:
    """The virtual time as a machine's clock shows it."""

    def __init__(self, skew_s: float) -> None:
        self._skew_s = skew_s

    def now(self) -> float:
        """Return Unix seconds, by this clock."""
        return EPOCH + self._skew_s + asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Api:
    """The `Endpoint` of one API of a machine: `sae` or `peer`."""

    of: "Machine"
    which: str

    @property
    def machine(self) -> str:
        """The machine's name."""
        return self.of.name

    def take(self, call: Call) -> "asyncio.Future[Answer] | None":
        """Begin to serve, if the machine is up."""
        process = self.of.process
        return process.serve(self.which, call) if process is not None else None


class Machine:
    """One site: disk, clock, identity, and the process that runs, if any."""

    def __init__(
        self,
        settings: NodeSettings,
        disk: Disk,
        network: Network,
        skew_s: float,
        randomness: SeededRandomness,
        on_surprise: Callable[[str], None],
    ) -> None:
        self.name = settings.node
        self.settings = settings
        self.disk = disk
        self.network = network
        self.clock = SkewedClock(skew_s)
        self.randomness = randomness
        self.on_surprise = on_surprise
        self.holder = holder(settings.domain, Role.NODE, settings.node)
        self.neighbours: dict[str, Machine] = {}
        self.devices: dict[str, Device] = {}
        self.process: Process | None = None
        self.down_s = 2.0
        self.crashes = 0
        self.on_crash: Callable[[str], None] = lambda _node: None
        disk.on_crash = self.crash
        disk.on_conflict = lambda text: on_surprise(f"{self.name}: the store did not take it: {text}")

    @property
    def trace(self) -> Trace:
        """The account of the run."""
        return self.disk.trace

    def boot(self) -> None:
        """Start the node's process."""
        if self.process is None:
            self.trace.say("boots", where=self.name)
            self.process = Process(self)
            self.process.spawn(self.process.start())

    def crash(self, reason: str) -> None:
        """Lose the process and all it held in memory; it boots again after `down_s`."""
        if self.process is None:
            return
        self.trace.say("crashes " + reason, where=self.name)
        self.crashes += 1
        self.on_crash(self.name)
        self.process.die()
        self.process = None
        asyncio.get_running_loop().call_later(self.down_s, self.boot)


class Process:
    """One run of a node: the real core, the real APIs, no sockets. It is the `Background` of its core."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._store = SimulatedStore(machine.disk)
        self._context = copy_context()
        self._context.run(WHERE.set, machine.name)
        settings = machine.settings
        domains = (settings.domain, *settings.trusted_domains)
        self._anchors = TrustAnchors({domain: authority(domain).certificate for domain in domains})
        world = World(self._store, machine.clock, machine.randomness, self, self._peers())
        self.core = Core(settings, world, self._devices(), self._owner_of, machine.holder.signer.sign)
        core = self.core
        self.health = Health(settings, "simulated", core.federation, core.watches, core.stocks, core.pools.peers)
        self._apis = _applications(machine.name)
        self._apis.serve(self._parts())
        self.serving = False

    async def start(self) -> None:
        """Do what `Node.start` does; a node whose store fails ends, and is started again."""
        try:
            await self.core.prepare()
        except StoreError:
            self._machine.down_s = REBOOT_S
            self._machine.crash("at its start: the store fails")
            return
        self.serving = True
        self.core.begin(self.health)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start work that nobody waits for."""
        self._task(work).add_done_callback(self._done)

    def serve(self, which: str, call: Call) -> "asyncio.Task[Answer] | None":
        """Serve one request with the real application; None while the node does not listen yet."""
        return self._task(self._answer(self._apis.applications[which], call)) if self.serving else None

    def die(self) -> None:
        """End at once: nothing of this process runs any more."""
        self._store.crash()
        tasks, self._tasks = list(self._tasks), {}
        for task in tasks:
            task.cancel()

    def _task(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, CannotServeError | StoreError):
            self._machine.on_surprise(f"{self._machine.name}: work in the background failed: {error!r}")

    async def _answer(self, application: Application, call: Call) -> Answer:
        messages: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": call.body or b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        try:
            await application(_scope(call), receive, send)
        except Exception as error:
            self._machine.on_surprise(f"{self._machine.name}: {call.path} failed: {error!r}")
            return Answer(500, b"")
        body = b"".join(message.get("body", b"") for message in messages)
        return Answer(messages[0]["status"], body)

    def _parts(self) -> dict[str, Any]:
        """Return what the applications are made from."""
        now, core = self._machine.clock.now, self.core
        return {
            "settings": core.settings,
            "delivery": core.delivery,
            "sae_callers": Callers("SAE API", self._anchors, {Role.SAE}, now, core.settings.domain),
            "refused": lambda: self.health.store_failure,
            "federation": core.federation,
            "relay": core.relay,
            "stocks": core.stocks,
            "peer_callers": Callers("peer API", self._anchors, {Role.NODE}, now),
        }

    def _peers(self) -> dict[str, PeerNode]:
        return {name: SimulatedPeer(name, self._service(Api(other, "peer"))) for name, other in self._others()}

    def _others(self) -> list[tuple[str, Machine]]:
        return list(self._machine.neighbours.items())

    def _devices(self) -> dict[str, QkdDevice]:
        return {name: HttpQkdDevice(name, self._service(device)) for name, device in self._machine.devices.items()}

    def _service(self, endpoint: Api | Device) -> SimulatedService:
        machine = self._machine
        return SimulatedService(machine.network, machine.name, machine.holder.der, endpoint, PEER_TIMEOUT_S)

    def _owner_of(self, certificate: bytes, now: float) -> tuple[str, str]:
        try:
            identity = self._anchors.identify(certificate, datetime.fromtimestamp(now, UTC))
        except CertificateRefusedError as error:
            return "", str(error)
        return (identity.domain, identity.name) if identity.role is Role.NODE else ("", "")


class _Stand:
    """Stands for a part of whichever process runs now."""

    part: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.part, name)

    def __call__(self) -> Any:
        return self.part()


class _Apis:
    """The real applications of a machine. Making one takes long, so they are made once, from stands for their parts."""

    def __init__(self) -> None:
        self._stands: dict[str, Any] = defaultdict(_Stand)
        of = self._stands
        self.applications: dict[str, Application] = {
            "sae": sae_api(of["settings"], of["delivery"], of["sae_callers"], of["refused"]),
            "peer": peer_api(of["federation"], of["relay"], of["stocks"], of["peer_callers"]),
        }

    def serve(self, parts: Mapping[str, Any]) -> None:
        """Serve from these parts from now on."""
        for name, part in parts.items():
            self._stands[name].part = part


@cache
def _applications(_machine: str) -> _Apis:
    return _Apis()


def _scope(call: Call) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": "https",
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": (call.caller, 1),
        "server": ("simulated", 1),
        "extensions": {"tls": {"client_certificate_der": call.certificate}},
    }
