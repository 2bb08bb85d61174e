"""The oracle: sees every commit of every disk and every message, and holds them against the truths."""

import asyncio
import json
from collections.abc import Mapping

from node.clients.http import Answer
from node.core.keys import Direction, Grade, KeyBlock, KeyRecord, KeyState, Parcel
from node.wire.federation import LINK_KEYS_PATH
from tests.simulation.exchanges import Exchanges
from tests.simulation.messages import Transfer, read_transfer
from tests.simulation.network import Call
from tests.simulation.provenance import Provenance
from tests.simulation.secrecy import Secrecy
from tests.simulation.spending import Spending
from tests.simulation.trace import Trace
from tests.simulation.verdict import Truth, Verdict

EXT_KEYS = "/kmapi/v1/ext_keys"


class Oracle:
    """The `Witness` of all disks and the `Eavesdropper` on the network."""

    def __init__(self, trace: Trace, homes: Mapping[str, str], links: Mapping[frozenset[str], bool]) -> None:
        """`links` says of each pair of neighbours whether a QKD link joins them."""
        self.verdict = Verdict(trace)
        self.trace = trace
        self.spending = Spending(self.verdict)
        self.secrecy = Secrecy(self.verdict, homes)
        self.provenance = Provenance(self.verdict, links)
        self.exchanges = Exchanges(self.verdict, homes)
        self.messages = 0
        self._read: dict[bytes, Transfer] = {}
        self._link_keys: dict[Direction, set[str]] = {Direction.OUT: set(), Direction.IN: set()}
        self._voids_at: dict[tuple[str, str], float] = {}

    # The network.

    def request_left(self, call: Call, target: str) -> None:
        """A request left its sender."""
        self.messages += 1
        if call.path == EXT_KEYS:
            transfer = self._transfer(call, target)
            self.trace.say("sends %s %s to %s", transfer.purpose, transfer.key_ids[0], target, where=call.caller)
            self.provenance.left(transfer)
            self.spending.left(transfer)
            self.secrecy.left(transfer)
        elif call.path == EXT_KEYS + "/ack":
            acks = json.loads(call.body or b"[]")
            said = [(ack["ack_status"], ack["key_id_container"][0]["key_id"]) for ack in acks]
            self.trace.say("acknowledges %s to %s", said, target, where=call.caller)
            self.exchanges.acknowledged(call.caller, acks)
        elif call.path == EXT_KEYS + "/void":
            void = json.loads(call.body or b"{}")
            self.trace.say("voids %s at %s", void["key_ids"], target, where=call.caller)
            self.exchanges.void_left(void["key_ids"], void["target_sae_ids"])
        elif call.path == LINK_KEYS_PATH:
            self._announced(call.caller, json.loads(call.body or b"{}")["key_ids"], Direction.OUT, "announces")

    def answer_left(self, call: Call, target: str, answer: Answer) -> None:
        """An answer left the machine that served."""
        if call.path == EXT_KEYS and answer.status == 202:
            transfer = self._transfer(call, target)
            self.spending.accepted(target, transfer.transfer_id)
            self.exchanges.accepted(transfer)
        elif call.path == EXT_KEYS + "/void":
            self._void_answered(call, target, answer)
        elif call.path == LINK_KEYS_PATH and answer.status == 200:
            self._announced(target, json.loads(answer.body)["held"], Direction.IN, "says that it holds")
        elif call.path.startswith("/api/v1/keys/") and not target.endswith("-device"):
            self.exchanges.answered(call, target, answer, asyncio.get_running_loop().time())

    def lost(self, call: Call, target: str) -> None:
        """The network or a crash swallowed a request."""
        if call.path == EXT_KEYS + "/void":
            self.exchanges.void_lost(json.loads(call.body or b"{}")["key_ids"])

    def crashed(self, node: str) -> None:
        """A node crashed: what it was asked to void just before may not have been."""
        now = asyncio.get_running_loop().time()
        lost = [key_id for (at, key_id), when in self._voids_at.items() if at == node and now - when < 5.0]
        self.exchanges.void_lost(lost)

    def surprised(self, text: str) -> None:
        """Something happened that no code foresees."""
        self.verdict.blame(Truth.NO_SURPRISE, text)

    # The disks.

    def work_began(self, node: str) -> None:
        """Another transaction of a node."""
        self.provenance.work_began()

    def link_keys_added(self, node: str, direction: Direction, key_ids: tuple[str, ...]) -> None:
        """A node has link keys in stock."""
        self._link_keys[direction].update(key_ids)

    def link_keys_confirmed(self, node: str, key_ids: tuple[str, ...]) -> None:
        """A node counts on the other end of the link holding these."""
        absent = sorted(set(key_ids) - self._link_keys[Direction.IN])
        self.verdict.check(
            not absent, Truth.HEALS, f"{node} confirms link keys that the other end never held: {absent}"
        )

    def link_keys_dropped(self, node: str, key_ids: tuple[str, ...]) -> None:
        """A node threw link keys away."""

    def link_keys_taken(self, node: str, link: str, key_ids: tuple[str, ...]) -> None:
        """A node spent link keys on something that it sends."""
        self.spending.spent(node, "link key to send", key_ids)

    def link_keys_used(self, node: str, link: str, key_ids: tuple[str, ...]) -> None:
        """A node spent link keys on something that it received."""
        self.spending.spent(node, "link key to receive", key_ids)

    def blocks_kept(self, node: str, key_ids: tuple[str, ...]) -> None:
        """A node keeps pool blocks of another."""
        self.exchanges.durable.kept.update(key_ids)
        self.provenance.blocks_kept(key_ids)

    def blocks_taken(self, node: str, peer: str, key_ids: tuple[str, ...]) -> None:
        """A node spent pool blocks to wrap."""
        self.spending.spent(node, "pool block to wrap", key_ids)

    def blocks_used(self, node: str, peer: str, key_ids: tuple[str, ...]) -> None:
        """A node spent pool blocks to unwrap."""
        self.spending.spent(node, "pool block to unwrap", key_ids)
        self.provenance.blocks_used(key_ids)

    def transfer_remembered(self, node: str, transfer_id: str) -> None:
        """A node takes over a transfer."""
        self.exchanges.durable.transfers.add((node, transfer_id))
        self.provenance.remembered(node, transfer_id)

    def parcel_kept(self, node: str, parcel: Parcel) -> None:
        """A node has a parcel to send on."""
        self.provenance.kept(node, parcel)
        self.secrecy.kept(node, parcel)
        self.exchanges.parcel_kept(node, parcel)

    def record_added(self, node: str, record: KeyRecord) -> None:
        """A session key is in the books of a node."""
        self.trace.say("books key %s, %s", record.key_id, record.state, where=node)
        if record.state is KeyState.VOIDED:
            return  # Voided before it came: only that is remembered.
        self.provenance.recorded(node, record)
        self.exchanges.recorded(node, record)

    def record_updated(
        self, node: str, key_id: str, state: KeyState, path: tuple[str, ...] | None, grade: Grade | None
    ) -> None:
        """A session key changed in the books of a node."""
        self.trace.say("books key %s, %s", key_id, state, where=node)
        self.provenance.updated(node, key_id, path if state is KeyState.RELAYED else None, grade)
        self.exchanges.updated(node, key_id, state)

    def deposited(self, node: str, key: KeyBlock, slaves: tuple[str, ...]) -> None:
        """A node holds a key for slaves."""
        self.secrecy.deposited(node, key, slaves)

    def fetched(self, node: str, key_id: str, slave: str) -> None:
        """A node gave a key up, to hand it to a slave."""
        self.exchanges.durable.fetched.add((key_id, slave))

    def _transfer(self, call: Call, target: str) -> Transfer:
        body = call.body or b""
        if body not in self._read:
            self._read[body] = read_transfer(call.caller, target, body)
        return self._read[body]

    def _void_answered(self, call: Call, target: str, answer: Answer) -> None:
        key_ids = json.loads(call.body or b"{}")["key_ids"]
        if answer.status != 202:
            self.exchanges.void_lost(key_ids)
        now = asyncio.get_running_loop().time()
        self._voids_at.update({(target, key_id): now for key_id in key_ids})

    def _announced(self, node: str, key_ids: list[str], direction: Direction, does: str) -> None:
        unknown = sorted(set(key_ids) - self._link_keys[direction])
        self.verdict.check(not unknown, Truth.HEALS, f"{node} {does} link keys that it never stored: {unknown}")
