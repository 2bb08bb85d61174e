"""Truth 3: nobody but the SAEs' own nodes can read a key. Transit stores and all messages are searched for it."""

import sqlite3
from collections.abc import Mapping

from node.core.keys import KeyBlock, Parcel
from node.storage.ledger import SqliteLedger
from tests.simulation.messages import Transfer
from tests.simulation.verdict import Truth, Verdict


class Secrecy:
    """Knows every secret that any node drew, and who drew it."""

    def __init__(self, verdict: Verdict, homes: Mapping[str, str]) -> None:
        self._verdict = verdict
        self._homes = homes
        self._drawn_by: dict[bytes, str] = {}
        self._bodies: dict[bytes, str] = {}

    def drawn(self, node: str, secret: bytes) -> None:
        """A node drew a session key or a pool block."""
        self._drawn_by[secret] = node

    def left(self, transfer: Transfer) -> None:
        """A transfer left its sender, for everybody to see."""
        for key_id, value in zip(transfer.key_ids, transfer.values, strict=True):
            bare = value in self._drawn_by
            self._verdict.check(not bare, Truth.NOBODY_ELSE, f"key {key_id} leaves {transfer.sender} in clear")
            text = f"{transfer.sender} sends the body of {key_id} without the protection of the hop"
            self._verdict.check(value not in self._bodies, Truth.NOBODY_ELSE, text)

    def kept(self, node: str, parcel: Parcel) -> None:
        """A node keeps a parcel on its way."""
        for key_id, body in zip(parcel.key_ids, parcel.bodies, strict=True):
            self._bodies[body] = node
            readable = self._drawn_by.get(body, node) != node
            self._verdict.check(not readable, Truth.NOBODY_ELSE, f"{node} on the way holds key {key_id} in clear")

    def deposited(self, node: str, key: KeyBlock, slaves: tuple[str, ...]) -> None:
        """A node keeps a session key for slaves."""
        strangers = [slave for slave in slaves if self._homes.get(slave) != node]
        self._verdict.check(
            not strangers, Truth.NOBODY_ELSE, f"{node} keeps key {key.key_id} for {strangers}, not at home there"
        )

    def search(self, node: str, connection: sqlite3.Connection, ledger: SqliteLedger) -> None:
        """Search all that a node stores, opened with its data key, for secrets that are not its own."""
        rows = connection.execute("SELECT key_id, peer, sealed FROM pool_block").fetchall()
        for key_id, peer, sealed in rows:
            drawer = self._drawn_by.get(ledger._open("pool_block", key_id, sealed), peer)
            self._verdict.check(drawer in (peer, node), Truth.NOBODY_ELSE, f"{node} holds {drawer}'s block {key_id}")
        for parcel in ledger.open_parcels():
            self.kept(node, parcel)
        for key_id, slave, sealed in connection.execute("SELECT key_id, slave_sae, sealed FROM deposit").fetchall():
            self.deposited(node, KeyBlock(key_id, ledger._open("deposit", key_id, sealed)), (slave,))
