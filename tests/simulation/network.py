"""The network between simulated machines: real bodies, virtual latency, and every unkindness that HTTP can meet.

A request may be lost, come late, come twice (the copy's answer goes nowhere), or its answer may be lost; a cut link
swallows everything. Requests overtake each other, since each has a latency of its own.
"""

import asyncio
import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from node.clients.http import Answer, HttpService, ServiceFailure
from node.clients.peer_node import HttpPeerNode
from tests.simulation.trace import Trace


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request between machines."""

    caller: str
    certificate: bytes
    method: str
    path: str
    body: bytes | None


class Endpoint(Protocol):
    """One API of one machine."""

    @property
    def machine(self) -> str:
        """The machine's name."""

    def take(self, call: Call) -> "asyncio.Future[Answer] | None":
        """Begin to serve; None if nothing listens. The future is cancelled when the machine crashes meanwhile."""


class Eavesdropper(Protocol):
    """Who sees every request leave, every answer leave, and knows what the network lost."""

    def request_left(self, call: Call, target: str) -> None: ...
    def answer_left(self, call: Call, target: str, answer: Answer) -> None: ...
    def lost(self, call: Call, target: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Storm:
    """What the network does to requests between two machines, from `begin` to `end`; chances from 0 to 1."""

    ends: frozenset[str]
    begin: float
    end: float
    lose_request: float = 0.0
    lose_answer: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    longest_delay_s: float = 0.0
    cut: bool = False


class Network:
    """All machines' network."""

    def __init__(
        self, rng: random.Random, trace: Trace, eavesdropper: Eavesdropper, storms: Collection[Storm] = ()
    ) -> None:
        self._rng = rng
        self._trace = trace
        self._eavesdropper = eavesdropper
        self._storms = tuple(storms)
        self._latency_s: dict[frozenset[str], float] = {}
        self._refused: set[bytes] = set()

    def latency_s(self, caller: str, target: str) -> float:
        """Return the one-way latency between two machines."""
        ends = frozenset((caller, target))
        if ends not in self._latency_s:
            self._latency_s[ends] = self._rng.uniform(0.001, 0.04)
        return self._latency_s[ends]

    async def request(self, call: Call, endpoint: Endpoint, timeout_s: float) -> Answer:
        """Send a request, wait for its answer; raises ServiceFailure."""
        self._eavesdropper.request_left(call, endpoint.machine)
        loop = asyncio.get_running_loop()
        answer = _unanswered()
        storm = self._storm(call.caller, endpoint.machine)
        if storm is not None and (storm.cut or self._rng.random() < storm.lose_request):
            self._trace.say("%s %s to %s is lost", call.method, call.path, endpoint.machine, where=call.caller)
            self._eavesdropper.lost(call, endpoint.machine)
        else:
            loop.call_later(self._travel_s(call, endpoint, storm), self._arrive, call, endpoint, answer, storm)
            if storm is not None and self._rng.random() < storm.duplicate:
                self._trace.say("%s %s to %s goes twice", call.method, call.path, endpoint.machine, where=call.caller)
                late_s = 2 * self._travel_s(call, endpoint, storm)
                loop.call_later(late_s, self._arrive, call, endpoint, _unanswered(), storm)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise ServiceFailure(f"no answer within {timeout_s:g} s") from None

    def _storm(self, caller: str, target: str) -> Storm | None:
        now = asyncio.get_running_loop().time()
        for storm in self._storms:
            if storm.begin <= now < storm.end and caller in storm.ends and target in storm.ends:
                return storm
        return None

    def _travel_s(self, call: Call, endpoint: Endpoint, storm: Storm | None) -> float:
        usual = self.latency_s(call.caller, endpoint.machine) * self._rng.uniform(1.0, 1.3)
        if storm is not None and self._rng.random() < storm.delay:
            return usual + self._rng.uniform(0.0, storm.longest_delay_s)
        return usual

    def _arrive(self, call: Call, endpoint: Endpoint, answer: "asyncio.Future[Answer]", storm: Storm | None) -> None:
        if call.body in self._refused:
            return  # Whoever sends a copy does so for want of an answer: not after a refusal.
        served = endpoint.take(call)
        if served is None:
            self._eavesdropper.lost(call, endpoint.machine)
            _fail(answer, "cannot connect: Connection refused")
            return
        served.add_done_callback(lambda done: self._served(call, endpoint, done, answer, storm))

    def _served(
        self,
        call: Call,
        endpoint: Endpoint,
        served: "asyncio.Future[Answer]",
        answer: "asyncio.Future[Answer]",
        storm: Storm | None,
    ) -> None:
        if served.cancelled():
            self._eavesdropper.lost(call, endpoint.machine)
            _fail(answer, "ServerDisconnectedError: Server disconnected")
            return
        result = served.result()
        self._trace.say(
            "answered %s %s %s of %s", result.status, call.method, call.path, call.caller, where=endpoint.machine
        )
        self._eavesdropper.answer_left(call, endpoint.machine, result)
        if result.status in (400, 401) and call.path.startswith("/kmapi/") and call.body:
            self._refused.add(call.body)
        if storm is not None and self._rng.random() < storm.lose_answer:
            self._trace.say("its answer to %s is lost", call.caller, where=endpoint.machine)
            return
        loop = asyncio.get_running_loop()
        loop.call_later(self._travel_s(call, endpoint, storm), _succeed, answer, result)


def _unanswered() -> "asyncio.Future[Answer]":
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    # Whoever asked may have crashed meanwhile: then nobody collects the answer, and that is no error.
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    return answer


def _succeed(answer: "asyncio.Future[Answer]", result: Answer) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: "asyncio.Future[Answer]", text: str) -> None:
    if not answer.done():
        answer.set_exception(ServiceFailure(text))


class SimulatedService(HttpService):
    """A remote API as one machine reaches it: what the real clients are given in place of HTTP."""

    def __init__(self, network: Network, caller: str, certificate: bytes, endpoint: Endpoint, timeout_s: float) -> None:
        self.base_url = f"https://{endpoint.machine}"
        self._network = network
        self._caller = caller
        self._certificate = certificate
        self._endpoint = endpoint
        self._timeout_s = timeout_s

    async def request(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Send one request; raises ServiceFailure."""
        call = Call(self._caller, self._certificate, method, path, body)
        return await self._network.request(call, self._endpoint, self._timeout_s)

    async def close(self) -> None:
        """Nothing is open."""

    @property
    def round_trip_s(self) -> float:
        """Return the round trip in seconds when nothing is wrong."""
        return 2 * self._network.latency_s(self._caller, self._endpoint.machine)


class SimulatedPeer(HttpPeerNode):
    """The real client of a neighbouring node, but for the one measurement that opens a socket."""

    def __init__(self, name: str, service: SimulatedService) -> None:
        super().__init__(name, service)
        self._round_trip_s = service.round_trip_s

    async def rtt_ms(self) -> float | None:
        """Return the round trip in ms."""
        return 1000 * self._round_trip_s
