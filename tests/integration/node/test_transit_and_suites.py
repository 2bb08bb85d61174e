"""A transit node that is an attacker, with memory, store, data key and all messages: no payload. And over the wire:
replays after a restart, suites that nobody agreed on, a neighbour that comes back weaker."""

import asyncio
import base64
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from node.clients.peer_node import HttpPeerNode
from node.core.destination import seal_context
from node.core.keys import Parcel
from node.crypto.aead import xor
from node.crypto.end_to_end_seal import Sealed, open_sealed
from node.crypto.errors import SealRefusedError
from node.crypto.kem import Kem
from node.crypto.secret_bytes import SecretBytes
from node.crypto.suites import suite_kem
from node.settings import DeliverySettings, NodeSettings
from node.storage.database import DATABASE_NAME
from node.storage.parcel_codec import parcel_from_bytes
from node.storage.value_cipher import ValueCipher
from node.wire.etsi020 import AckContainer, ExtKeyContainer, dump
from tests.integration.node.small_federation import DATA_KEY, SmallFederation

WEAK, STRONG = "mlkem768-v1", "mlkem1024-v1"
SEALED_TABLES = {"kem_key": "key_id", "link_key": "key_id", "pool_block": "key_id", "parcel": "parcel_id"}


class Memory:
    """Every value that a node's store ever sealed or opened, by node: what passed through its memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._of: dict[ValueCipher, list[tuple[str, bytes]]] = defaultdict(list)
        seal, opened = ValueCipher.seal, ValueCipher.open

        def remember_sealed(cipher: ValueCipher, place: str, value: bytes) -> bytes:
            self._of[cipher].append((place, value))
            return seal(cipher, place, value)

        def remember_opened(cipher: ValueCipher, place: str, sealed: bytes) -> bytes:
            value = opened(cipher, place, sealed)
            self._of[cipher].append((place, value))
            return value

        monkeypatch.setattr(ValueCipher, "seal", remember_sealed)
        monkeypatch.setattr(ValueCipher, "open", remember_opened)

    def of(self, federation: SmallFederation, node: str, table: str = "") -> list[bytes]:
        """Return the values, perhaps of one table only."""
        cipher = federation.nodes[node]._store._cipher
        return list({value for place, value in self._of[cipher] if place.startswith(table)})


class Wiretap:
    """Every transfer that any node sends, as it is on the wire; withholds them if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.withhold = False
        original = HttpPeerNode.ext_keys

        async def ext_keys(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
            self.sent.append((peer.name, dump(container)))
            return () if self.withhold else await original(peer, container)

        monkeypatch.setattr(HttpPeerNode, "ext_keys", ext_keys)

    def to(self, node: str) -> dict[str, Any]:
        """Return the last transfer to a node."""
        message: dict[str, Any] = json.loads(next(body for name, body in reversed(self.sent) if name == node))
        return message


def on_disk(federation: SmallFederation, node: str) -> list[bytes]:
    """Return what the data key opens of a node's store, and the files themselves."""
    folder, cipher = federation.root / f"state-{node}", ValueCipher(DATA_KEY)
    found = [path.read_bytes() for path in folder.iterdir() if path.is_file()]
    with closing(sqlite3.connect(folder / DATABASE_NAME)) as connection:
        for table, name in SEALED_TABLES.items():
            rows = connection.execute(f"SELECT {name}, sealed FROM {table}").fetchall()
            found += [cipher.open(f"{table}:{key_id}", sealed) for key_id, sealed in rows]
        assert connection.execute("SELECT count(*) FROM deposit").fetchone() == (0,)
    return found


def blocks_on_disk(federation: SmallFederation, node: str, peer: str) -> list[bytes]:
    """Return the blocks of one pool."""
    cipher = ValueCipher(DATA_KEY)
    with closing(sqlite3.connect(federation.root / f"state-{node}" / DATABASE_NAME)) as connection:
        rows = connection.execute("SELECT key_id, sealed FROM pool_block WHERE peer = ?", (peer,)).fetchall()
    return [cipher.open(f"pool_block:{key_id}", sealed) for key_id, sealed in rows]


def forms(value: bytes) -> list[bytes]:
    """Return how a value might show in bytes: as it is, in hex, and in base64 wherever its group begins."""
    return [value, value.hex().encode(), *(base64.b64encode(b"\0" * shift + value)[4:-4] for shift in range(3))]


def shows(value: bytes, places: Iterable[bytes]) -> bool:
    wanted = forms(value)
    return any(form in place for place in places for form in wanted)


def opened_by(parcel: Parcel, privates: Iterable[bytes]) -> list[bytes]:
    """Try every private key on a parcel's seal; return what the first that fits gives."""
    seal = parcel.end_to_end
    assert seal.suite is not None
    assert seal.kem_ciphertext is not None
    kem: Kem = suite_kem("cryptography", seal.suite)
    for private in privates:
        try:
            sealed = Sealed(seal.kem_ciphertext, parcel.bodies, seal.tags)
            return list(open_sealed(sealed, seal_context(parcel), kem, SecretBytes(private)))
        except SealRefusedError:
            continue
    return []


async def test_transit_node_turned_attacker_finds_no_payload_in_memory_store_and_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, tap = Memory(monkeypatch), Wiretap(monkeypatch)
    async with SmallFederation(tmp_path) as federation:
        secrets = set(blocks_on_disk(federation, "n1", "n3")) | set(blocks_on_disk(federation, "n3", "n1"))
        pooled = len(secrets)
        assert pooled >= 8
        # Two keys are wrapped with pool blocks; ten want more blocks than the pool has, so are relayed at once.
        wrapped, relayed = await exchanged(federation, 2), await exchanged(federation, 10)
        await federation.settled()
        known = [*memory.of(federation, "n2"), *on_disk(federation, "n2"), *(body for _node, body in tap.sent)]
        parcels = [parcel_from_bytes(value) for value in memory.of(federation, "n2", "parcel:")]
        privates = memory.of(federation, "n2", "kem_key:")
        seen = [value for value in memory.of(federation, "n2") if len(value) == 32]
        destination_privates = memory.of(federation, "n3", "kem_key:")
        origin_memory = memory.of(federation, "n1")

    secrets |= wrapped | relayed
    assert not [secret for secret in secrets if shows(secret, known)]
    passed = [parcel for parcel in parcels if parcel.end_to_end.destination == "n3" != parcel.end_to_end.origin]
    ours = [parcel for parcel in passed if parcel.initiator_sae == "a1"]
    assert {parcel.purpose.value for parcel in ours} == {"wrapped-key", "session-key"}
    bodies = {body for parcel in passed for body in parcel.bodies}
    assert not {xor(body, value) for body in bodies for value in seen if len(body) == 32} & secrets
    assert not {xor(one, other) for one in bodies for other in bodies if len(one) == len(other)} & secrets
    assert len(privates) >= 2
    sealed = [parcel for parcel in passed if parcel.end_to_end.kem_ciphertext is not None]
    assert not [parcel for parcel in sealed if opened_by(parcel, privates)]

    # The search looks where keys would be: it finds them at the ends, and n3's key opens what n2 passed on.
    assert any(shows(block, origin_memory) for block in secrets - wrapped - relayed)
    found = {body for parcel in sealed for body in opened_by(parcel, destination_privates)}
    assert relayed <= found
    assert not wrapped & found


async def exchanged(federation: SmallFederation, number: int) -> set[bytes]:
    """Have a1 and c share keys; return them."""
    issued = await federation.sae("a1").get("/api/v1/keys/c/enc_keys", params={"number": number})
    assert issued.status_code == 200, issued.text
    key_ids = [{"key_ID": key["key_ID"]} for key in issued.json()["keys"]]
    fetched = await federation.sae("c").post("/api/v1/keys/a1/dec_keys", json={"key_IDs": key_ids})
    assert fetched.json()["keys"] == issued.json()["keys"]
    return {base64.b64decode(key["key"]) for key in issued.json()["keys"]}


@dataclass
class SuiteFederation(SmallFederation):
    """Nodes with suites of their own choice; nodes named nowhere have the default."""

    suites: dict[str, tuple[str, ...]] = field(default_factory=dict)

    async def __aenter__(self) -> "SuiteFederation":
        await super().__aenter__()
        return self

    def settings(self, name: str) -> NodeSettings:
        made = super().settings(name)
        return made.model_copy(update={"suites": self.suites.get(name, made.suites)})

    async def restart(self, name: str) -> None:
        await self.stop_node(name)
        await self.start_node(name)

    def books(self, node: str) -> dict[str, int]:
        with closing(sqlite3.connect(self.root / f"state-{node}" / DATABASE_NAME)) as connection:
            tables = ("transfer", "parcel", "record", "deposit", "pool_block")
            return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


REACTIVE = DeliverySettings(pattern="reactive", transfer_mode="asynchronous", relay_timeout_s=1.0)


async def test_transfer_replayed_after_the_receiver_restarted_is_refused_and_stores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Wiretap(monkeypatch)
    async with SuiteFederation(tmp_path, REACTIVE) as federation:
        issued = await federation.sae("a1").get("/api/v1/keys/b/enc_keys")
        assert issued.status_code == 200, issued.text
        message = tap.to("n2")
        await federation.restart("n2")
        await federation.settled()
        before = federation.books("n2")
        again = await federation.peer("n1", at="n2").post("/kmapi/v1/ext_keys", json=message)
        assert again.status_code == 503
        assert "replayed_transfer" in again.json()["details"]
        assert federation.books("n2") == before
        [key] = issued.json()["keys"]
        fetched = [
            await federation.sae("b").get("/api/v1/keys/a1/dec_keys", params={"key_ID": key["key_ID"]}) for _ in "12"
        ]
        assert fetched[0].json()["keys"] == [key]
        assert fetched[1].status_code == 400


async def test_transfer_under_a_suite_never_advertised_is_a_400_that_is_logged_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tap = Wiretap(monkeypatch)
    async with SuiteFederation(tmp_path, REACTIVE) as federation:
        tap.withhold = True
        assert (await federation.sae("a1").get("/api/v1/keys/b/enc_keys")).status_code == 503
        async with asyncio.timeout(10):
            while federation.books("n2")["record"] == 0:  # The origin gave the key up, and had it voided.
                await asyncio.sleep(0.05)
        genuine, before = tap.to("n2"), federation.books("n2")
        peer = federation.peer("n1", at="n2")
        for suite in (STRONG, "mlkem768+frodokem976aes-v1", "mlkem768-v2"):
            altered = json.loads(json.dumps(genuine))
            altered["extension_mandatory"]["E32473_hybrid_transport"]["suite"] = suite
            caplog.clear()
            answer = await peer.post("/kmapi/v1/ext_keys", json=altered)
            assert answer.status_code == 400
            assert answer.json()["details"] == {"suite": "is not accepted here"}
            assert "'suite': 'is not accepted here'" in caplog.text
            assert federation.books("n2") == before
        assert (await peer.post("/kmapi/v1/ext_keys", json=genuine)).status_code == 202


async def test_neighbour_that_comes_back_with_weaker_suites_only_is_neither_sent_to_nor_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tap = Wiretap(monkeypatch)
    suites = {"n1": (STRONG,), "n2": (STRONG, WEAK), "n3": (WEAK,)}
    async with SuiteFederation(tmp_path, REACTIVE, suites=suites) as federation:
        assert (await federation.sae("a1").get("/api/v1/keys/b/enc_keys")).status_code == 200
        assert tap.to("n2")["extension_mandatory"]["E32473_hybrid_transport"]["suite"] == STRONG
        federation.suites["n2"] = (WEAK,)
        await federation.restart("n2")
        async with asyncio.timeout(10):
            while f"downgrade refused: n2 offers {WEAK}, this node accepts {STRONG} only" not in caplog.text:
                await asyncio.sleep(0.05)
        number = len(tap.sent)
        refused = await federation.sae("a1").get("/api/v1/keys/b/enc_keys")
        assert refused.status_code == 503
        assert "no KEM key of a suite that this node accepts" in refused.json()["message"]
        back = await federation.sae("b").get("/api/v1/keys/a1/enc_keys")
        assert back.status_code == 503
        assert len(tap.sent) == number
        assert (await federation.sae("b").get("/api/v1/keys/c/enc_keys")).status_code == 200
