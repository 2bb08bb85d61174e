"""The small federation as a neighbouring node sees it: genuine transfers to change and post, and all that nodes say.

Reactive, so that nothing is under way but what a test sends.
"""

import asyncio
import base64
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from node.clients.peer_node import HttpPeerNode
from node.core.keys import KeyBlock, Parcel
from node.core.outcomes import Outcome
from node.core.ports import Ledger
from node.core.sealing_origin import draft, sealed
from node.settings import DeliverySettings
from node.storage.database import DATABASE_NAME
from node.wire.etsi020 import AckContainer, ExtKeyContainer, VoidContainer, dump, dump_acks
from node.wire.federation import Purpose
from tests.integration.node.small_federation import HOME, SmallFederation

EXT_KEYS, ACK, VOID = "/kmapi/v1/ext_keys", "/kmapi/v1/ext_keys/ack", "/kmapi/v1/ext_keys/void"
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
# What a request that kept nothing has not touched. Link keys come and go by themselves; those named are looked for.
TABLES = ("transfer", "parcel", "parcel_key", "record", "deposit", "pool_block")
BESIDE = {"n1": "n2", "n2": "n3", "n3": "n2"}

Json = dict[str, Any]


@dataclass
class Transfer:
    """A transfer that its origin drew up and has in its books, and that has not left."""

    message: Json
    outcome: "asyncio.Future[Outcome]"
    values: list[bytes]

    @property
    def key_ids(self) -> list[str]:
        return [key["key_id"] for key in self.message["keys"]]


@dataclass
class NeighbourFederation(SmallFederation):
    """Everything that nodes send to each other is in `said`, and arrives unless its receiver is in `withheld`."""

    delivery: DeliverySettings = field(
        default_factory=lambda: DeliverySettings(
            pattern="reactive", transfer_mode="asynchronous", relay_timeout_s=0.7, arrival_wait_s=0.2
        )
    )
    said: list[tuple[str, str, Any]] = field(default_factory=list)
    withheld: set[tuple[str, str]] = field(default_factory=set)
    patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)

    async def __aenter__(self) -> "NeighbourFederation":
        self._listen()
        await super().__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await super().__aexit__(*exception)
        self.patch.undo()

    def _listen(self) -> None:
        sends, acknowledges, voids = HttpPeerNode.ext_keys, HttpPeerNode.ack, HttpPeerNode.void

        async def ext_keys(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
            return await sends(peer, container) if self._hears(peer.name, EXT_KEYS, dump(container)) else ()

        async def ack(peer: HttpPeerNode, acks: tuple[AckContainer, ...]) -> None:
            if self._hears(peer.name, ACK, dump_acks(acks)):
                await acknowledges(peer, acks)

        async def void(peer: HttpPeerNode, container: VoidContainer) -> None:
            if self._hears(peer.name, VOID, dump(container)):
                await voids(peer, container)

        for name, method in (("ext_keys", ext_keys), ("ack", ack), ("void", void)):
            self.patch.setattr(HttpPeerNode, name, method)

    def _hears(self, receiver: str, path: str, body: bytes) -> bool:
        self.said.append((receiver, path, json.loads(body)))
        return (receiver, path) not in self.withheld

    def told(self, receiver: str, path: str) -> list[Any]:
        """Return what a node was sent."""
        return [body for name, where, body in self.said if (name, where) == (receiver, path)]

    def acks_to(self, receiver: str, key_id: str) -> list[Json]:
        """Return the acknowledgements of one key that a node was sent."""
        containers = [container for acks in self.told(receiver, ACK) for container in acks]
        return [one for one in containers if key_id in [entry["key_id"] for entry in one["key_id_container"]]]

    @contextmanager
    def withholding(self, receiver: str, path: str = EXT_KEYS) -> Iterator[None]:
        """Let nothing of a kind arrive at a node."""
        self.withheld.add((receiver, path))
        try:
            yield
        finally:
            self.withheld.discard((receiver, path))

    async def drawn_up(
        self, master: str, slave: str, number: int = 1, *, synchronous: bool = False, carried: str = ""
    ) -> Transfer:
        """Have the master's node send keys, and withhold them."""
        origin, destination = HOME[master], HOME[slave]
        core = self.nodes[origin]._core
        randomness, now = core.relay._world.randomness, core.relay._world.clock.now()
        keys = [KeyBlock(randomness.uuid(), randomness.bytes(32)) for _ in range(number)]
        parties, ends = (master, (slave,)), (origin, destination)
        bare = draft(Purpose.SESSION_KEY, keys, parties, ends, randomness.uuid(), now + 60)

        def prepare(_ledger: Ledger, parcel: Parcel) -> Parcel:
            parcel = sealed(parcel, core.federation.seal_key(destination), "cryptography")
            return replace(parcel, carried=carried.replace("KEY_ID", keys[0].key_id))

        beside = "n2" if origin != "n2" else destination
        with self.withholding(beside), pytest.MonkeyPatch.context() as patch:
            if synchronous:
                patch.setattr(core.relay, "_callback_url", None)
            number_said = len(self.said)
            outcome = await core.relay.send(bare, prepare)
            await eventually(lambda: any(where == EXT_KEYS for _to, where, _body in self.said[number_said:]))
        message = next(b for to, path, b in reversed(self.said) if (to, path) == (beside, EXT_KEYS))
        assert [key["key_id"] for key in message["keys"]] == [key.key_id for key in keys]
        return Transfer(message, outcome, [key.value for key in keys])

    async def post(self, sender: str, receiver: str, path: str, body: Any) -> httpx.Response:
        """Post with the certificate of a node; bytes as they are."""
        headers = {"Content-Type": "application/json"}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.peer(sender, at=receiver).post(path, content=content, headers=headers)

    def callback(self, node: str) -> str:
        """Return where a node hears of outcomes."""
        return f"https://localhost:{self.ports[node][1]}{ACK}"

    def void_of(self, sender: str, master: str, slave: str, key_ids: list[str], **more: Any) -> Json:
        """Spell a request to void; `sender` empty: in synchronous mode."""
        named = {"key_ids": key_ids, "initiator_sae_id": master, "target_sae_ids": [slave]}
        return named | ({"ack_callback_url": self.callback(sender)} if sender else {}) | more

    def books(self) -> dict[str, list[Any]]:
        """Return what is in the nodes' tables, but for sealed values."""
        found = {}
        for node in self.nodes:
            with closing(sqlite3.connect(self.root / f"state-{node}" / DATABASE_NAME)) as connection:
                for table in TABLES:
                    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                    named = ", ".join(column for column in columns if column != "sealed")
                    found[f"{node} {table}"] = sorted(connection.execute(f"SELECT {named} FROM {table}").fetchall())
        return found

    def link_keys_at(self, node: str) -> set[str]:
        """Return the IDs of the link keys that a node holds."""
        with closing(sqlite3.connect(self.root / f"state-{node}" / DATABASE_NAME)) as connection:
            return {row[0] for row in connection.execute("SELECT key_id FROM link_key")}

    async def quiet_books(self) -> dict[str, list[Any]]:
        """Return the books once they stay as they are."""
        books = self.books()
        while True:
            await asyncio.sleep(0.15)
            again = self.books()
            if again == books:
                return again
            books = again


def ack_of(key_ids: list[str], status: str, master: str = "a1", slave: str = "c", **more: Any) -> Json:
    """Spell one acknowledgement."""
    entries = [{"key_id": key_id} for key_id in key_ids]
    return {
        "key_id_container": entries,
        "ack_status": status,
        "initiator_sae_id": master,
        "target_sae_ids": [slave],
    } | more


def link_key_ids(message: Json) -> set[str]:
    """Return the link keys that a transfer names."""
    named = message["extension_mandatory"]["E32473_hybrid_transport"].get("link_key_ids", [])
    return {key_id for of_one in named for key_id in of_one}


async def eventually(holds: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.01)


def ids_by_status(acks: list[Json]) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for ack in acks:
        groups.setdefault(ack["ack_status"], set()).update(entry["key_id"] for entry in ack["key_id_container"])
    return groups


async def fetched(federation: NeighbourFederation, slave: str, master: str, key_id: str) -> bytes | None:
    """Fetch a key as its slave; None if it is not there."""
    answer = await federation.sae(slave).get(f"/api/v1/keys/{master}/dec_keys", params={"key_ID": key_id})
    if answer.status_code != 200:
        assert answer.status_code == 400, answer.text
        return None
    return base64.b64decode(answer.json()["keys"][0]["key"])


async def held_at_n2(federation: NeighbourFederation, number: int = 1) -> Transfer:
    """Have n2 take over keys from a1 to c, and n3 hear nothing of them."""
    transfer = await federation.drawn_up("a1", "c", number)
    with federation.withholding("n3"):
        assert (await federation.post("n1", "n2", EXT_KEYS, transfer.message)).status_code == 202
        await eventually(lambda: transfer.key_ids[0] in str(federation.told("n3", EXT_KEYS)))
    return transfer


def open_at(federation: NeighbourFederation, node: str) -> set[str]:
    """Return the IDs of keys under way in a node's books."""
    return {row[0] for row in federation.books()[f"{node} parcel_key"]}
