"""Truth 2: no link key, pool block, KEM ciphertext or transfer is ever used twice, and spending is durable first."""

import sqlite3
from collections.abc import Hashable

from tests.simulation.messages import Transfer
from tests.simulation.verdict import Truth, Verdict


class Spending:
    """Watches everything that may be used once."""

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self._uses: dict[tuple[str, Hashable], object] = {}
        self._taken: set[tuple[str, str, str]] = set()
        self._answered: set[tuple[str, str]] = set()
        self._left: set[str] = set()

    def spent(self, node: str, what: str, key_ids: tuple[str, ...]) -> None:
        """A node committed that it took these out of its stock."""
        for key_id in key_ids:
            place = (node, what, key_id)
            self._verdict.check(place not in self._taken, Truth.NEVER_TWICE, f"{node} took {what} {key_id} twice")
            self._taken.add(place)

    def search(self, node: str, connection: sqlite3.Connection) -> None:
        """Nothing that a node spent may still be on its disk."""
        rows = connection.execute("SELECT key_id FROM link_key UNION ALL SELECT key_id FROM pool_block").fetchall()
        spent = {key_id for at, _what, key_id in self._taken if at == node}
        kept = sorted(spent & {row[0] for row in rows})
        self._verdict.check(not kept, Truth.NEVER_TWICE, f"{node} still stores what it spent: {kept[:3]}")

    def left(self, transfer: Transfer) -> None:
        """A transfer left its sender."""
        again = transfer.transfer_id in self._left
        text = f"{transfer.sender} sends transfer {transfer.transfer_id} again instead of a new one"
        self._verdict.check(not again, Truth.NEVER_TWICE, text)
        self._left.add(transfer.transfer_id)
        for key_id in transfer.link_key_ids:
            self._once("link key", key_id, transfer.body)
            durable = (transfer.sender, "link key to send", key_id) in self._taken
            text = f"{transfer.sender} uses link key {key_id} before its spending is durable"
            self._verdict.check(durable, Truth.NEVER_TWICE, text)
        self._once("hop KEM ciphertext", transfer.hop_kem, transfer.body)
        seal = transfer.end_to_end
        whole = (transfer.key_ids, transfer.targets, seal)
        if seal.get("kem_ciphertext"):
            self._once("seal KEM ciphertext", (seal["kem_key_id"], seal["kem_ciphertext"]), whole)
        for key_id in transfer.block_ids:
            self._once("pool block", key_id, whole)
            durable = (seal["origin"], "pool block to wrap", key_id) in self._taken
            text = f"{seal['origin']} uses pool block {key_id} before its spending is durable"
            self._verdict.check(durable, Truth.NEVER_TWICE, text)

    def accepted(self, node: str, transfer_id: str) -> None:
        """A node answered that it took over a transfer."""
        twice = (node, transfer_id) in self._answered
        self._verdict.check(not twice, Truth.NEVER_TWICE, f"{node} accepted transfer {transfer_id} twice")
        self._answered.add((node, transfer_id))

    def _once(self, what: str, name: Hashable, message: object) -> None:
        first = self._uses.setdefault((what, name), message)
        shown = name if isinstance(name, str) else "of one encapsulation"
        self._verdict.check(first == message, Truth.NEVER_TWICE, f"{what} {shown} protects two different messages")
