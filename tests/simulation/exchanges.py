"""Truth 1: both SAEs get the same bytes, or neither gets any; and every promise is durable before it is made."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from node.clients.http import Answer
from node.core.keys import KeyRecord, KeyState, Parcel
from node.wire.etsi020 import AckStatus
from tests.simulation.messages import Transfer
from tests.simulation.network import Call
from tests.simulation.verdict import Truth, Verdict

VOID_GRACE_S = 5.0


@dataclass(slots=True)
class Issue:
    """A key that a node answered to its master; `heard` once the answer arrived."""

    key_id: str
    master: str
    origin: str
    slaves: tuple[str, ...]
    at: float
    heard: bool = False


@dataclass(slots=True)
class Durable:
    """What the disks of all nodes hold or held, as far as promises go."""

    transfers: set[tuple[str, str]] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    records: dict[tuple[str, str], KeyState] = field(default_factory=dict)
    fetched: set[tuple[str, str]] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)


class Exchanges:
    """Follows each session key from its master's request to its slaves."""

    def __init__(self, verdict: Verdict, homes: Mapping[str, str]) -> None:
        self._verdict = verdict
        self._homes = homes
        self.issued: dict[str, Issue] = {}
        self.durable = Durable()
        self.voids_sent: set[tuple[str, str]] = set()
        self.voids_lost: set[str] = set()
        self._values: dict[str, str] = {}
        self._given: set[tuple[str, str]] = set()

    # What disks say.

    def recorded(self, node: str, record: KeyRecord) -> None:
        """A node committed a session key to its books."""
        self.durable.records[node, record.key_id] = record.state
        self.durable.kept.add(record.key_id)

    def updated(self, node: str, key_id: str, state: KeyState) -> None:
        """A node committed another state of a session key."""
        if (node, key_id) in self.durable.records:
            self.durable.records[node, key_id] = state

    def parcel_kept(self, node: str, parcel: Parcel) -> None:
        """A node committed a parcel."""
        if parcel.upstream is None:
            self.durable.sent.update(dict.fromkeys(parcel.key_ids, node))

    # What the network sees.

    def accepted(self, transfer: Transfer) -> None:
        """A receiver answered 202 to a transfer."""
        durable = (transfer.receiver, transfer.transfer_id) in self.durable.transfers
        text = f"{transfer.receiver} answers 202 to transfer {transfer.transfer_id} before it is durable"
        self._verdict.check(durable, Truth.BOTH_OR_NEITHER, text)

    def acknowledged(self, node: str, acks: list[dict[str, Any]]) -> None:
        """A node tells the one before it what became of keys."""
        for ack in acks:
            if ack["ack_status"] == AckStatus.RELAYED:
                for entry in ack["key_id_container"]:
                    kept = entry["key_id"] in self.durable.kept
                    text = f"{node} says that key {entry['key_id']} was relayed, but nobody keeps it"
                    self._verdict.check(kept, Truth.BOTH_OR_NEITHER, text)

    def void_left(self, key_ids: list[str], targets: list[str]) -> None:
        """A request to void keys left a node."""
        self.voids_sent.update((key_id, self._homes.get(targets[0], targets[0])) for key_id in key_ids)

    def void_lost(self, key_ids: list[str]) -> None:
        """The network, or a crash, swallowed a request to void keys."""
        self.voids_lost.update(key_ids)

    def answered(self, call: Call, node: str, answer: Answer, now: float) -> None:
        """A node answered an SAE."""
        if answer.status != 200 or call.path.endswith("/status"):
            return
        keys = {key["key_ID"]: key["key"] for key in json.loads(answer.body)["keys"]}
        other = call.path.split("/")[4]
        if call.path.endswith("/enc_keys"):
            asked = json.loads(call.body or b"{}")
            slaves = (other, *asked.get("additional_slave_SAE_IDs", ()))
            for key_id, value in keys.items():
                self._issue(Issue(key_id, call.caller, node, slaves, now), value)
        else:
            for key_id, value in keys.items():
                self._give(node, key_id, call.caller, value)

    def _issue(self, issue: Issue, value: str) -> None:
        key_id, origin = issue.key_id, issue.origin
        self._same(key_id, value)
        self.issued[key_id] = issue
        text = f"{origin} answers key {key_id} to {issue.master} before it is durable"
        self._verdict.check((origin, key_id) in self.durable.records, Truth.BOTH_OR_NEITHER, text)
        for slave in issue.slaves:
            home = self._homes[slave]
            durable = (home, key_id) in self.durable.records or self.durable.sent.get(key_id) == origin
            text = f"{origin} answers key {key_id} to {issue.master}, but for {slave} it is nowhere"
            self._verdict.check(durable, Truth.BOTH_OR_NEITHER, text)

    def _give(self, node: str, key_id: str, slave: str, value: str) -> None:
        self._same(key_id, value)
        text = f"{node} hands key {key_id} to {slave} twice"
        self._verdict.check((key_id, slave) not in self._given, Truth.BOTH_OR_NEITHER, text)
        self._given.add((key_id, slave))
        text = f"{node} hands key {key_id} to {slave} before it is durable that it did"
        self._verdict.check((key_id, slave) in self.durable.fetched, Truth.BOTH_OR_NEITHER, text)
        issue = self.issued.get(key_id)
        if issue is not None:
            text = f"{node} hands key {key_id} to {slave}, for whom {issue.master} did not ask it"
            self._verdict.check(slave in issue.slaves, Truth.BOTH_OR_NEITHER, text)

    def _same(self, key_id: str, value: str) -> None:
        same = self._values.setdefault(key_id, value) == value
        self._verdict.check(same, Truth.BOTH_OR_NEITHER, f"two different values were handed out for key {key_id}")

    # At the end.

    def unfetchable(self, key_id: str, slave: str) -> None:
        """A slave cannot fetch, before its expiry and with everything well again, a key that its master has."""
        issue = self.issued[key_id]
        if (key_id, slave) in self.durable.fetched:
            return  # Consumed; the answer was lost, or a crash came between.
        home, state = self._homes[slave], self.durable.records.get((issue.origin, key_id))
        text = f"{issue.master} has key {key_id}, {slave} cannot fetch it at {home}, and {issue.origin} has it {state}"
        self._verdict.blame(Truth.BOTH_OR_NEITHER, text)

    def orphan(self, node: str, key_id: str, forgotten: bool) -> bool:
        """Tell whether a node holds a key that its master was refused, or never heard of because its origin crashed.

        That is excused, until the key expires, where the request to void it was lost, and where it is `forgotten`: its
        origin crashed when all was done but the answer, or between two copies of a key for several nodes.
        """
        if key_id in self.issued:
            return False
        sent = (key_id, node) in self.voids_sent
        if key_id not in self.voids_lost and (sent or not forgotten):
            reason = "although it was voided" if sent else "and nobody voided it"
            text = f"{node} still holds key {key_id}, refused to its master, {reason}"
            self._verdict.blame(Truth.BOTH_OR_NEITHER, text)
        return True
