"""Two SAEs get the same keys from their own nodes, whichever way the keys had to take."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.clients.peer_node import HttpPeerNode
from node.errors import PeerRefusedError, PeerUncertainError
from node.settings import DeliverySettings, PoolSettings
from node.wire.etsi020 import AckContainer, AckStatus, ExtKeyContainer, VoidContainer
from tests.integration.node.small_federation import HOME, SmallFederation

PAIRS = [(master, slave) for master in HOME for slave in HOME if master != slave]


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[SmallFederation]:
    async with SmallFederation(tmp_path) as started:
        yield started


async def exchange(
    federation: SmallFederation, master: str, slave: str, **request: Any
) -> tuple[httpx.Response, httpx.Response]:
    issued = await federation.sae(master).post(f"/api/v1/keys/{slave}/enc_keys", json=request)
    assert issued.status_code == 200, issued.text
    key_ids = [{"key_ID": key["key_ID"]} for key in issued.json()["keys"]]
    fetched = await federation.sae(slave).post(f"/api/v1/keys/{master}/dec_keys", json={"key_IDs": key_ids})
    return issued, fetched


@pytest.mark.parametrize("pattern", ["proactive", "reactive"])
async def test_every_ordered_pair_gets_identical_keys(tmp_path: Path, pattern: Any) -> None:
    pool = PoolSettings(target_blocks=40, batch_blocks=16, reserve_link_keys=0)
    async with SmallFederation(tmp_path, DeliverySettings(pattern=pattern), pool) as federation:
        for master, slave in PAIRS:
            issued, fetched = await exchange(federation, master, slave, number=2, size=512)
            assert fetched.status_code == 200, fetched.text
            assert issued.json()["keys"] == fetched.json()["keys"]
            key_id = issued.json()["keys"][0]["key_ID"]
            record = (await federation.operator(HOME[slave]).get(f"/keys/{key_id}")).json()
            crosses = "n3" in (HOME[master], HOME[slave])
            assert record["grade"] == ("pqc" if crosses else "qkd")
            assert record["path"][0] == HOME[master]
            assert record["path"][-1] == HOME[slave]
            assert len(record["path"]) == (3 if {HOME[master], HOME[slave]} == {"n1", "n3"} else len(record["path"]))


async def test_empty_pool_falls_back_to_reactive_relay(federation: SmallFederation) -> None:
    for _ in range(12):
        issued, fetched = await exchange(federation, "a1", "c", number=4)
        assert issued.json()["keys"] == fetched.json()["keys"]


async def test_a_key_is_handed_to_a_slave_once(federation: SmallFederation) -> None:
    issued, fetched = await exchange(federation, "a1", "c")
    assert fetched.status_code == 200
    key_id = issued.json()["keys"][0]["key_ID"]
    again = await federation.sae("c").get("/api/v1/keys/a1/dec_keys", params={"key_ID": key_id})
    assert again.status_code == 400
    assert again.json()["message"] == "one or more keys specified are not found on KME"


async def test_multicast_gives_every_slave_the_same_key(federation: SmallFederation) -> None:
    body = {"additional_slave_SAE_IDs": ["a2", "c"]}
    issued = await federation.sae("a1").post("/api/v1/keys/b/enc_keys", json=body)
    assert issued.status_code == 200, issued.text
    [key] = issued.json()["keys"]
    for slave in ("b", "a2", "c"):
        fetched = await federation.sae(slave).get("/api/v1/keys/a1/dec_keys", params={"key_ID": key["key_ID"]})
        assert fetched.json()["keys"] == [key], slave


async def test_another_sae_cannot_fetch_the_key_and_the_slave_still_can(federation: SmallFederation) -> None:
    issued = await federation.sae("a1").get("/api/v1/keys/b/enc_keys")
    [key] = issued.json()["keys"]
    thief = await federation.sae("a2", at="n1").get("/api/v1/keys/a1/dec_keys", params={"key_ID": key["key_ID"]})
    assert thief.status_code in (400, 401)
    fetched = await federation.sae("b").get("/api/v1/keys/a1/dec_keys", params={"key_ID": key["key_ID"]})
    assert fetched.json()["keys"] == [key]


async def test_one_unknown_id_leaves_the_known_key_where_it_is(federation: SmallFederation) -> None:
    issued = await federation.sae("a1").get("/api/v1/keys/b/enc_keys")
    [key] = issued.json()["keys"]
    unknown = "00000000-0000-4000-8000-000000000000"
    body = {"key_IDs": [{"key_ID": key["key_ID"]}, {"key_ID": unknown}]}
    refused = await federation.sae("b").post("/api/v1/keys/a1/dec_keys", json=body)
    assert refused.status_code == 400
    fetched = await federation.sae("b").get("/api/v1/keys/a1/dec_keys", params={"key_ID": key["key_ID"]})
    assert fetched.json()["keys"] == [key]


async def test_keys_survive_the_restart_of_the_slaves_node(federation: SmallFederation) -> None:
    issued = await federation.sae("a1").get("/api/v1/keys/c/enc_keys")
    [key] = issued.json()["keys"]
    fetchable = federation.operator("n3")
    for _ in range(100):
        if (await fetchable.get(f"/keys/{key['key_ID']}")).status_code == 200:
            break
    await federation.stop_node("n3")
    await federation.start_node("n3")
    fetched = await federation.sae("c").get("/api/v1/keys/a1/dec_keys", params={"key_ID": key["key_ID"]})
    assert fetched.json()["keys"] == [key]
    await federation.settled()
    _issued, again = await exchange(federation, "c", "a1")
    assert again.status_code == 200


async def test_key_in_the_masters_hands_arrives_although_a_transit_node_gave_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = DeliverySettings(pattern="proactive", relay_timeout_s=1)
    sends = HttpPeerNode.ext_keys
    failed: list[str] = []

    async def fail_for_a_while(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        if peer.name == "n3" and container.initiator_sae_id == "a1" and len(failed) < 3:
            failed.append(peer.name)
            raise PeerUncertainError("n3: no answer within 5 s")
        return await sends(peer, container)

    async with SmallFederation(tmp_path, delivery) as federation:
        monkeypatch.setattr(HttpPeerNode, "ext_keys", fail_for_a_while)
        issued = await federation.sae("a1").post("/api/v1/keys/c/enc_keys", json={})
        assert issued.status_code == 200, issued.text
        key_id = issued.json()["keys"][0]["key_ID"]
        async with asyncio.timeout(20):
            while True:
                fetched = await federation.sae("c").get("/api/v1/keys/a1/dec_keys", params={"key_ID": key_id})
                if fetched.status_code == 200:
                    break
        assert len(failed) == 3
        assert fetched.json()["keys"] == issued.json()["keys"]


async def test_key_that_was_taken_before_its_repeat_was_refused_is_voided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends, acknowledges = HttpPeerNode.ext_keys, HttpPeerNode.ack
    sent: list[ExtKeyContainer] = []

    async def lose_the_answer_then_refuse(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        if container.initiator_sae_id != "a1":
            return await sends(peer, container)
        sent.append(container)
        if len(sent) > 1:
            raise PeerRefusedError("n2: refused")
        await sends(peer, container)
        raise PeerUncertainError("n2: no answer within 5 s")

    async def lose_what_became_of_it(peer: HttpPeerNode, acks: tuple[AckContainer, ...]) -> None:
        if any(ack.ack_status is AckStatus.RELAYED and ack.initiator_sae_id == "a1" for ack in acks):
            raise PeerUncertainError("n1: no answer within 5 s")
        await acknowledges(peer, acks)

    async with SmallFederation(tmp_path, DeliverySettings(pattern="reactive")) as federation:
        monkeypatch.setattr(HttpPeerNode, "ext_keys", lose_the_answer_then_refuse)
        monkeypatch.setattr(HttpPeerNode, "ack", lose_what_became_of_it)
        issued = await federation.sae("a1").post("/api/v1/keys/b/enc_keys", json={})
        assert (issued.status_code, len(sent)) == (503, 2)
        await asyncio.sleep(0.5)
        fetched = await federation.sae("b").get("/api/v1/keys/a1/dec_keys", params={"key_ID": sent[0].keys[0].key_id})
        assert fetched.status_code == 400, "the slave holds a key that the master was refused"


async def test_key_that_was_given_up_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sends = HttpPeerNode.ext_keys
    sent: list[str] = []

    async def answer_too_late(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        if container.initiator_sae_id != "a1":
            return await sends(peer, container)
        sent.append(peer.name)
        await asyncio.sleep(0.8)
        raise PeerUncertainError("n2: no answer within 0.8 s")

    async def does_not_answer(_peer: HttpPeerNode, _request: VoidContainer) -> None:
        raise PeerUncertainError("n2: no answer")

    async with SmallFederation(tmp_path, DeliverySettings(pattern="reactive", relay_timeout_s=0.3)) as federation:
        monkeypatch.setattr(HttpPeerNode, "ext_keys", answer_too_late)
        monkeypatch.setattr(HttpPeerNode, "void", does_not_answer)
        issued = await federation.sae("a1").post("/api/v1/keys/b/enc_keys", json={})
        assert issued.status_code == 503
        await asyncio.sleep(1.5)
        assert sent == ["n2"]


async def test_nodes_recover_when_the_other_end_lost_its_whole_store(federation: SmallFederation) -> None:
    """What was wrapped for the lost store fails, and says so; then new blocks and link keys take its place."""
    await federation.stop_node("n2")
    for path in (federation.root / "state-n2").iterdir():
        path.unlink()
    await federation.start_node("n2")
    for master, slave in (("a1", "b"), ("b", "a1"), ("c", "b"), ("b", "c")):
        assert await _eventually(federation, master, slave), (master, slave)
    await federation.settled()


async def _eventually(federation: SmallFederation, master: str, slave: str) -> bool:
    for _ in range(50):
        issued = await federation.sae(master).get(f"/api/v1/keys/{slave}/enc_keys")
        if issued.status_code == 200:
            [key] = issued.json()["keys"]
            which = {"key_ID": key["key_ID"]}
            fetched = await federation.sae(slave).get(f"/api/v1/keys/{master}/dec_keys", params=which)
            if fetched.status_code == 200:
                assert fetched.json()["keys"] == [key]
                return True
        await asyncio.sleep(0.1)
    return False
