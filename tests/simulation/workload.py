"""SAEs: they ask for keys, fetch them at their own nodes, try again, fetch twice, and forget nothing."""

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from node.clients.http import Answer, ServiceFailure
from node.identity_uri import Role
from tests.simulation.identities import holder
from tests.simulation.machine import Api, Machine
from tests.simulation.network import Call, Network
from tests.simulation.oracle import Oracle
from tests.simulation.scenario import Order
from tests.simulation.trace import Trace

SAE_TIMEOUT_S = 12.0
RETRY_PAUSE_S = 1.5


@dataclass(slots=True)
class Tally:
    """How the SAEs fared."""

    orders: int = 0
    served: int = 0
    refused: int = 0
    unheard: int = 0
    fetched: int = 0
    orphans: int = 0
    refusals: list[str] = field(default_factory=list)


class Saes:
    """All SAEs of a federation."""

    def __init__(
        self, machines: Mapping[str, Machine], homes: Mapping[str, str], network: Network, oracle: Oracle
    ) -> None:
        self._machines = machines
        self._homes = homes
        self._network = network
        self._oracle = oracle
        self._fetched: dict[tuple[str, str], bytes] = {}
        self.tally = Tally()

    @property
    def trace(self) -> Trace:
        """The account of the run."""
        return self._oracle.trace

    async def place(self, order: Order) -> list[str]:
        """Ask for keys; returns the IDs of those that the master got."""
        self.tally.orders += 1
        body = {"number": order.number, "size": order.size_bits, "additional_slave_SAE_IDs": order.slaves[1:]}
        try:
            answer = await self._call(order.master, f"{order.slaves[0]}/enc_keys", body)
        except ServiceFailure as failure:
            self.tally.unheard += 1
            self.trace.say("got no answer: %s", failure, where=order.master)
            return []
        if answer.status != 200:
            self.tally.refused += 1
            self.tally.refusals.append(answer.body.decode()[:160])
            self.trace.say("is refused: %s", answer.body.decode()[:200], where=order.master)
            return []
        self.tally.served += 1
        keys = _keys(answer)
        for key_id, value in keys.items():
            self._oracle.exchanges.issued[key_id].heard = True
            shown = self.trace.fingerprint(value)
            self.trace.say("has key %s = %s, for %s", key_id, shown, order.slaves, where=order.master)
        return list(keys)

    async def fetch(self, slave: str, master: str, key_ids: list[str], attempts: int, again: bool = False) -> bool:
        """Fetch keys, trying again until there (or, with `again`, beyond); returns whether the slave has them all."""
        body = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
        for attempt in range(attempts):
            if attempt and self.has(slave, key_ids) and not again:
                break
            if attempt:
                await asyncio.sleep(RETRY_PAUSE_S)
            try:
                answer = await self._call(slave, f"{master}/dec_keys", body)
            except ServiceFailure as failure:
                self.trace.say("fetched nothing: %s", failure, where=slave)
                continue
            if answer.status != 200:
                self.trace.say("is refused: %s", answer.body.decode()[:200], where=slave)
                continue
            for key_id, value in _keys(answer).items():
                self.tally.fetched += 1
                self._fetched[key_id, slave] = value
                self.trace.say("has key %s = %s", key_id, self.trace.fingerprint(value), where=slave)
        return self.has(slave, key_ids)

    def has(self, slave: str, key_ids: list[str]) -> bool:
        """Tell whether a slave got all these keys."""
        return all((key_id, slave) in self._fetched for key_id in key_ids)

    async def play(self, order: Order) -> None:
        """Place an order at its time and have its slaves fetch."""
        await asyncio.sleep(order.at - asyncio.get_running_loop().time())
        key_ids = await self.place(order)
        if key_ids and order.fetch_after_s < 100:
            await asyncio.sleep(order.fetch_after_s)
            fetching = (self.fetch(slave, order.master, key_ids, order.fetches, order.again) for slave in order.slaves)
            await asyncio.gather(*fetching)

    async def _call(self, sae: str, path: str, body: object) -> Answer:
        machine = self._machines[self._homes[sae]]
        certificate = holder(machine.settings.domain, Role.SAE, sae).der
        call = Call(sae, certificate, "POST", f"/api/v1/keys/{path}", json.dumps(body).encode())
        return await self._network.request(call, Api(machine, "sae"), SAE_TIMEOUT_S)


def _keys(answer: Answer) -> dict[str, bytes]:
    return {key["key_ID"]: base64.b64decode(key["key"]) for key in json.loads(answer.body)["keys"]}
