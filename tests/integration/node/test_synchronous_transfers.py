"""Session keys between our own nodes in synchronous mode of ETSI GS QKD 020: the answer says what became of them."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node.clients.peer_node import HttpPeerNode
from node.core.hop import Incoming
from node.core.relay import Relay
from node.errors import PeerUncertainError
from node.settings import DeliverySettings
from node.wire.etsi020 import AckContainer, ExtKeyContainer
from tests.integration.node.neighbour_federation import ACK, EXT_KEYS, NeighbourFederation, eventually, fetched

SYNCHRONOUS = DeliverySettings(pattern="reactive", relay_timeout_s=20.0, arrival_wait_s=0.2)


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[NeighbourFederation]:
    async with NeighbourFederation(tmp_path, SYNCHRONOUS) as started:
        yield started


def transfers(federation: NeighbourFederation, receiver: str) -> list[Any]:
    return federation.told(receiver, EXT_KEYS)


async def asked(federation: NeighbourFederation, slave: str = "c", master: str = "a1") -> tuple[str, bytes]:
    answer = await federation.sae(master).get(f"/api/v1/keys/{slave}/enc_keys")
    assert answer.status_code == 200, answer.text
    [key] = answer.json()["keys"]
    return key["key_ID"], base64.b64decode(key["key"])


async def test_key_over_two_hops_needs_no_acknowledgement_of_its_own(federation: NeighbourFederation) -> None:
    key_id, value = await asked(federation)
    for receiver in ("n2", "n3"):
        [message] = transfers(federation, receiver)
        assert "ack_callback_url" not in message
    assert not [said for said in federation.said if said[1] == ACK]
    assert await fetched(federation, "c", "a1", key_id) == value
    assert not await fetched(federation, "c", "a1", key_id)


async def test_lost_answer_makes_the_key_go_again_asynchronously_and_once_only(
    federation: NeighbourFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends, lost = HttpPeerNode.ext_keys, list[str]()

    async def lose_first_answer(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        acks = await sends(peer, container)
        if not lost:
            lost.append(peer.name)
            raise PeerUncertainError(f"{peer.name}: no answer within 5 s")
        return acks

    monkeypatch.setattr(HttpPeerNode, "ext_keys", lose_first_answer)
    key_id, value = await asked(federation)
    messages = [*transfers(federation, "n2"), *transfers(federation, "n3")]
    assert sum("ack_callback_url" in message for message in messages) >= 1
    assert await fetched(federation, "c", "a1", key_id) == value
    assert not await fetched(federation, "c", "a1", key_id)


async def test_destination_that_refuses_says_so_in_its_answer(federation: NeighbourFederation) -> None:
    destination = federation.nodes["n3"]._core.relay._destination
    destination._saes = frozenset()
    answer = await federation.sae("a1").get("/api/v1/keys/c/enc_keys")
    assert answer.status_code == 503
    assert "SAE not registered here" in answer.json()["message"]
    await eventually(lambda: federation.books()["n1 parcel"] == [] == federation.books()["n2 parcel"])


async def test_many_keys_that_wait_leave_connections_for_others(
    federation: NeighbourFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 connections lead to a neighbour: with 40 keys held up behind it, it is still heard."""
    gate, held = asyncio.Event(), list[str]()
    accept = Relay.accept_and_answer

    async def hold(relay: Relay, sender: str, incoming: Incoming) -> tuple[AckContainer, ...]:
        held.append(incoming.parcel_id)
        await gate.wait()
        return await accept(relay, sender, incoming)

    monkeypatch.setattr(Relay, "accept_and_answer", hold)
    asking = [asyncio.create_task(asked(federation, master="b")) for _ in range(40)]
    await eventually(lambda: len(held) == 40, timeout_s=20)
    peer = federation.nodes["n2"]._peers["n3"]
    await asyncio.wait_for(peer.versions(), 20)
    gate.set()
    for key_id, value in await asyncio.gather(*asking):
        assert await fetched(federation, "c", "b", key_id) == value


async def test_neighbour_that_offers_no_synchronous_mode_is_called_back(federation: NeighbourFederation) -> None:
    peer = federation.nodes["n1"]._peers["n2"]
    assert isinstance(peer, HttpPeerNode)
    peer.synchronous_mode = False
    key_id, value = await asked(federation, "b")
    [message] = transfers(federation, "n2")
    assert message["ack_callback_url"] == federation.callback("n1")
    assert federation.acks_to("n1", key_id)
    assert await fetched(federation, "b", "a1", key_id) == value
