"""One run: a seed becomes a federation, orders and faults; then everything must heal, and nothing may be amiss."""

import asyncio
import random
from dataclasses import dataclass
from itertools import permutations

from node.core import neighbours
from node.settings import LinkKind
from tests.simulation.devices import Device, Fibre
from tests.simulation.disk import Disk
from tests.simulation.healing import Healing
from tests.simulation.machine import Machine, SeededRandomness
from tests.simulation.network import Network
from tests.simulation.oracle import Oracle
from tests.simulation.scenario import Scenario, draw
from tests.simulation.trace import LogCapture, Trace
from tests.simulation.verdict import Violation
from tests.simulation.virtual_time import run_virtual
from tests.simulation.workload import Saes, Tally

# Neighbours are asked less often than in the field: it is most of the work of a run, and no truth depends on it.
EAGER_INTERVAL_S = 1.0
# A request lost just before the end times out, then routes come back one hop a poll, then what waits is sent again.
HEALING_S = 12.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to; the trace has lines only if it was to be kept."""

    seed: int
    violations: tuple[Violation, ...]
    tally: Tally
    digest: str
    virtual_s: float
    messages: int
    crashes: int
    lines: tuple[str, ...]


def simulate(seed: int, *, trace: bool = False, faults: bool = True) -> Report:
    """Run one seed."""
    return simulate_scenario(draw(seed, faults=faults), trace=trace)


def simulate_scenario(scenario: Scenario, *, trace: bool = False) -> Report:
    """Run one scenario."""
    neighbours.EAGER_INTERVAL_S = EAGER_INTERVAL_S
    account = Trace(scenario.seed, trace)
    surprises: list[str] = []
    with LogCapture(account, surprises):
        return run_virtual(_Run(scenario, account, surprises).run())


class _Run:
    def __init__(self, scenario: Scenario, trace: Trace, surprises: list[str]) -> None:
        self._scenario = scenario
        self._trace = trace
        self._surprises = surprises
        topology = scenario.topology
        links = {frozenset(link.ends): link.kind is LinkKind.QKD for link in topology.links}
        self._oracle = Oracle(trace, topology.homes, links)
        self._network = Network(self._rng("network"), trace, self._oracle, scenario.storms)
        self._machines = {name: self._machine(name) for name in topology.nodes}
        self._join()
        self._saes = Saes(self._machines, topology.homes, self._network, self._oracle)
        self._healing = Healing(scenario, self._machines, self._saes, self._oracle)

    async def run(self) -> Report:
        """Play everything, or until the first violation."""
        played = asyncio.ensure_future(self._play())
        reached = asyncio.ensure_future(self._oracle.verdict.reached.wait())
        await asyncio.wait((played, reached), return_when=asyncio.FIRST_COMPLETED)
        for surprise in self._surprises:
            self._oracle.surprised(surprise)
        for machine in self._machines.values():
            if machine.process is not None:
                machine.process.die()
            machine.disk.close()
        if played.done():
            played.result()
        played.cancel()
        reached.cancel()
        return Report(
            self._scenario.seed,
            tuple(self._oracle.verdict.violations),
            self._saes.tally,
            self._trace.digest,
            asyncio.get_running_loop().time(),
            self._oracle.messages,
            sum(machine.crashes for machine in self._machines.values()),
            tuple(self._trace.lines),
        )

    async def _play(self) -> None:
        for machine in self._machines.values():
            machine.boot()
        loop = asyncio.get_running_loop()
        for crash in self._scenario.crashes:
            if crash.at is not None:
                loop.call_at(crash.at, self._crash_now, crash.node, crash.down_s)
        await asyncio.sleep(self._first_fault_s())
        for crash in self._scenario.crashes:
            if crash.at is None:
                machine = self._machines[crash.node]
                machine.down_s = crash.down_s
                machine.disk.crash_steps[machine.disk.step + crash.step] = crash.moment
        await asyncio.gather(*(self._saes.play(order) for order in self._scenario.orders))
        await asyncio.sleep(max(0.0, self._scenario.faults_end - loop.time()))
        self._trace.say("the faults are over", where="-")
        for machine in self._machines.values():
            machine.disk.crash_steps.clear()
            machine.boot()
        await asyncio.sleep(HEALING_S + self._scenario.delivery.relay_timeout_s)
        await self._healing.check()

    def _first_fault_s(self) -> float:
        return min((order.at for order in self._scenario.orders), default=0.0)

    def _crash_now(self, node: str, down_s: float) -> None:
        self._machines[node].down_s = down_s
        self._machines[node].crash("by a kill")

    def _rng(self, what: str) -> random.Random:
        return random.Random(f"{what} {self._scenario.seed}")

    def _machine(self, name: str) -> Machine:
        scenario, oracle = self._scenario, self._oracle
        disk = Disk(name, self._rng(f"disk {name}"), oracle, self._trace, scenario.full_disks.get(name, ()))
        randomness = SeededRandomness(self._rng(f"node {name}"), lambda secret: oracle.secrecy.drawn(name, secret))
        skew_s = scenario.skews_s.get(name, 0.0)
        machine = Machine(scenario.settings(name), disk, self._network, skew_s, randomness, oracle.surprised)
        machine.on_crash = oracle.crashed
        return machine

    def _join(self) -> None:
        for link in self._scenario.topology.links:
            fibre = Fibre(
                link.name,
                self._rng(f"fibre {link.name}"),
                self._scenario.keys_per_s,
                self._scenario.storage_keys,
                self._scenario.bad_days.get(link.name, ()),
            )
            for end, other in permutations(link.ends):
                machine = self._machines[end]
                machine.neighbours[other] = self._machines[other]
                if link.kind is LinkKind.QKD:
                    machine.devices[other] = Device(fibre, end, other)
