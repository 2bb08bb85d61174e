"""After the faults: everything works again, stocks agree, nothing stays open, every answered key can be fetched."""

import asyncio
from collections.abc import Mapping

from node.core.keys import Direction, KeyState
from node.settings import LinkKind
from node.wire.federation import Purpose
from tests.simulation.identities import EPOCH
from tests.simulation.machine import Machine
from tests.simulation.oracle import Oracle
from tests.simulation.scenario import Order, Scenario
from tests.simulation.verdict import Truth
from tests.simulation.workload import Saes

ATTEMPTS = 4
PAUSE_S = 2.0
SKEW_MARGIN_S = 10.0
SKEW_S = 5.0
LONGEST_MEMORY_S = 2 * 86_400.0


class Healing:
    """What is checked at the end of a run."""

    def __init__(self, scenario: Scenario, machines: Mapping[str, Machine], saes: Saes, oracle: Oracle) -> None:
        self._scenario = scenario
        self._machines = machines
        self._saes = saes
        self._oracle = oracle

    async def check(self) -> None:
        """Check everything; takes some virtual seconds."""
        self._check_nothing_is_open()
        await self._fetch_the_rest()
        self._check_orphans()
        self._check_ways()
        await asyncio.gather(*(self._exchange(*pair) for pair in self._pairs()))
        await self._check_stocks()
        for machine in self._machines.values():
            self._oracle.secrecy.search(machine.name, machine.disk.connection, machine.disk.ledger)
            self._oracle.spending.search(machine.name, machine.disk.connection)
        self._check_expiry()

    async def _fetch_the_rest(self) -> None:
        """Every key that a master heard of can be fetched by each slave that has not fetched it, until it expires."""
        now = asyncio.get_running_loop().time()
        deadline = now - self._scenario.delivery.key_lifetime_s + SKEW_MARGIN_S
        waiting = [
            (slave, issue)
            for issue in self._oracle.exchanges.issued.values()
            for slave in issue.slaves
            if issue.heard and issue.at > deadline and not self._saes.has(slave, [issue.key_id])
        ]
        got = await asyncio.gather(
            *(self._saes.fetch(slave, issue.master, [issue.key_id], 1) for slave, issue in waiting)
        )
        for (slave, issue), fetched in zip(waiting, got, strict=True):
            if not fetched:
                self._oracle.exchanges.unfetchable(issue.key_id, slave)

    def _check_orphans(self) -> None:
        for machine in self._machines.values():
            rows = machine.disk.connection.execute(
                "SELECT DISTINCT key_id, master_sae FROM deposit JOIN record USING (key_id)"
            )
            for key_id, master in rows.fetchall():
                there = self._machines[self._scenario.topology.homes[master]]
                record = there.disk.ledger.record(key_id)
                ended = record is None or record.state not in (KeyState.UNDERWAY, KeyState.VOIDED)
                forgotten = there.crashes > 0 and ended
                if self._oracle.exchanges.orphan(machine.name, key_id, forgotten):
                    self._saes.tally.orphans += 1

    def _check_nothing_is_open(self) -> None:
        """What an origin sent is acknowledged, or given up, well before it expires; so its keys are not under way."""
        lifetime_s, relay_s = self._scenario.delivery.key_lifetime_s, self._scenario.delivery.relay_timeout_s
        for machine in self._machines.values():
            for parcel in machine.disk.ledger.open_parcels():
                pool_block = parcel.purpose is Purpose.POOL_BLOCK
                overdue = self._is_overdue(parcel.expires_at, 4 * relay_s if pool_block else lifetime_s)
                if parcel.upstream is None:
                    text = f"{machine.name} still waits for the acknowledgement of {parcel.purpose} {parcel.key_ids[0]}"
                    self._oracle.verdict.check(not overdue, Truth.HEALS, text)
            query = "SELECT key_id, expires_at FROM record WHERE state = 'underway'"
            for key_id, expires_at in machine.disk.connection.execute(query).fetchall():
                overdue = self._is_overdue(expires_at, lifetime_s)
                text = f"{machine.name} still has key {key_id} under way"
                self._oracle.verdict.check(not overdue, Truth.HEALS, text)

    def _is_overdue(self, expires_at: float, lifetime_s: float) -> bool:
        """Tell whether something begun long ago is not about to expire."""
        now, expires = asyncio.get_running_loop().time(), expires_at - EPOCH
        settled = expires - lifetime_s < now - self._scenario.delivery.relay_timeout_s - SKEW_S
        return settled and expires > now + SKEW_S

    def _check_ways(self) -> None:
        """Origin and destination say the same of the way of a key."""
        issued = self._oracle.exchanges.issued
        for issue in issued.values():
            here = self._machines[issue.origin].disk.ledger.record(issue.key_id)
            homes = {self._scenario.topology.homes[slave] for slave in issue.slaves}
            if here is None or here.state != "relayed" or len(homes) > 1:
                continue
            there = self._machines[homes.pop()].disk.ledger.record(issue.key_id)
            if there is not None:
                text = f"of key {issue.key_id} the origin writes {here.grade}, the other end {there.grade}"
                self._oracle.verdict.check(here.grade == there.grade, Truth.WHICH_WAY, text)

    def _pairs(self) -> list[tuple[str, str]]:
        """One pair of SAEs for each ordered pair of nodes."""
        nodes = {node: saes[0] for node, (_domain, saes) in self._scenario.topology.nodes.items() if saes}
        return [(nodes[one], nodes[other]) for one in nodes for other in nodes if one != other]

    async def _exchange(self, master: str, slave: str) -> None:
        order = Order(0.0, master, (slave,), 1, 256, 0.0, 1)
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE_S)
            key_ids = await self._saes.place(order)
            if key_ids and await self._saes.fetch(slave, master, key_ids, 2):
                return
        self._oracle.verdict.blame(Truth.HEALS, f"{master} and {slave} cannot exchange keys any more")

    async def _check_stocks(self) -> None:
        """Each link key that a sender counts on is at the other end."""
        await asyncio.sleep(PAUSE_S)
        for link in self._scenario.topology.links:
            if link.kind is not LinkKind.QKD:
                continue
            for sender, receiver in (link.ends, link.ends[::-1]):
                counted = self._link_keys(sender, link.name, Direction.OUT)
                held = self._link_keys(receiver, link.name, Direction.IN)
                missing = sorted(counted - held)
                text = f"{sender} counts on link keys that {receiver} lacks: {missing}"
                self._oracle.verdict.check(not missing, Truth.HEALS, text)
                self._oracle.verdict.check(bool(counted), Truth.HEALS, f"{sender} has no link keys for {link.name}")

    def _link_keys(self, node: str, link: str, direction: Direction) -> set[str]:
        query = "SELECT key_id FROM link_key WHERE link = ? AND direction = ? AND ready = 1"
        return {row[0] for row in self._machines[node].disk.connection.execute(query, (link, direction))}

    def _check_expiry(self) -> None:
        """Nothing outlives its expiry: a sweep after the longest life leaves no parcel, key or pending block."""
        latest = EPOCH + asyncio.get_running_loop().time() + LONGEST_MEMORY_S
        for machine in self._machines.values():
            while machine.disk.ledger.sweep(latest)[1]:
                pass
            for table in ("parcel", "parcel_key", "deposit", "record", "transfer"):
                [number] = machine.disk.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
                self._oracle.verdict.check(
                    number == 0, Truth.HEALS, f"{machine.name} keeps {number} of {table} for ever"
                )
