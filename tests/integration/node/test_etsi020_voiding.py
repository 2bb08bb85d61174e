"""Voiding over ETSI GS QKD 020, and synchronous mode: outcomes called back, or in the answer, never both."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from node.core.keys import Direction, Grade, KeyRecord, KeyState, PoolBlock
from node.wire.etsi020 import AckStatus
from tests.integration.node.neighbour_federation import (
    ACK,
    EXT_KEYS,
    UNKNOWN_ID,
    VOID,
    Json,
    NeighbourFederation,
    Transfer,
    ack_of,
    eventually,
    fetched,
    ids_by_status,
    open_at,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NeighbourFederation]:
    async with NeighbourFederation(tmp_path_factory.mktemp("federation")) as started:
        yield started


# Voiding.


async def arrived(federation: NeighbourFederation, master: str, slave: str, number: int = 1) -> Transfer:
    """Relay keys to the slave's node."""
    transfer = await federation.drawn_up(master, slave, number)
    assert (await federation.post("n1", "n2", EXT_KEYS, transfer.message)).status_code == 202
    assert (await asyncio.wait_for(transfer.outcome, 5)).status is AckStatus.RELAYED
    return transfer


async def voided(federation: NeighbourFederation, request: Json, receiver: str = "n1") -> list[Json]:
    """Post a request to void from n1 to n2; return the acknowledgements that come of it."""
    before = len(federation.told(receiver, ACK))
    assert (await federation.post("n1", "n2", VOID, request)).status_code == 202
    await eventually(lambda: len(federation.told(receiver, ACK)) > before)
    return [ack for acks in federation.told(receiver, ACK)[before:] for ack in acks]


@pytest.mark.parametrize("slave", ["b", "c"], ids=["at the neighbour", "farther on"])
async def test_keys_are_voided_by_their_ids_and_each_outcome_is_told(
    federation: NeighbourFederation, slave: str
) -> None:
    transfer = await arrived(federation, "a1", slave, 3)
    first, second, third = transfer.key_ids
    assert await fetched(federation, slave, "a1", second) == transfer.values[1]
    acks = await voided(federation, federation.void_of("n1", "a1", slave, [first, second, UNKNOWN_ID]))
    assert ids_by_status(acks) == {"voided": {first}, "failed to void": {second}, "key not present": {UNKNOWN_ID}}
    assert {(ack["initiator_sae_id"], *ack["target_sae_ids"]) for ack in acks} == {("a1", slave)}
    assert await fetched(federation, slave, "a1", first) is None
    assert await fetched(federation, slave, "a1", third) == transfer.values[2]
    again = await voided(federation, federation.void_of("n1", "a1", slave, [first]))
    assert ids_by_status(again) == {"voided": {first}}


@pytest.mark.parametrize("slave", ["b", "c"], ids=["at the neighbour", "farther on"])
async def test_all_keys_between_two_saes_are_voided_with_confirmation_and_no_others(
    federation: NeighbourFederation, slave: str
) -> None:
    mine, others = await arrived(federation, "a2", slave, 2), await arrived(federation, "a1", slave)
    acks = await voided(federation, federation.void_of("n1", "a2", slave, [], all_confirmation=True))
    assert set(mine.key_ids) <= ids_by_status(acks)["voided"]
    assert await fetched(federation, slave, "a2", mine.key_ids[0]) is None
    assert await fetched(federation, slave, "a1", others.key_ids[0]) == others.values[0]


async def test_more_keys_than_one_acknowledgement_names_are_voided_and_told_in_several(
    federation: NeighbourFederation,
) -> None:
    store = federation.nodes["n2"]._core.relay._world.store
    names = [f"00000000-0000-4000-8000-{number:012x}" for number in range(1, 1501)]
    await store.transact(lambda ledger: ledger.add_records([record_of(name) for name in names]))
    answer = await federation.post("n1", "n2", VOID, federation.void_of("", "x1", "b", [], all_confirmation=True))
    assert answer.status_code == 200, answer.text
    assert ids_by_status(answer.json()) == {"failed to void": set(names)}
    assert sorted(len(ack["key_id_container"]) for ack in answer.json()) == [476, 1024]


def record_of(key_id: str) -> KeyRecord:
    return KeyRecord(key_id, "x1", ("b",), 256, Grade.QKD, ("n1", "n2"), KeyState.DELIVERED, 4e9)


@pytest.mark.parametrize("slave", ["b", "c"], ids=["at the neighbour", "farther on"])
async def test_where_there_is_nothing_to_void_that_is_told_too(federation: NeighbourFederation, slave: str) -> None:
    acks = await voided(federation, federation.void_of("n1", "a9", slave, [], all_confirmation=True))
    assert [(ack["ack_status"], ack["key_id_container"]) for ack in acks] == [("voided", [])]


@pytest.mark.parametrize("slave", ["b", "c"], ids=["at the neighbour", "farther on"])
async def test_void_that_overtakes_its_transfer_has_the_keys_refused_when_they_come(
    federation: NeighbourFederation, slave: str
) -> None:
    transfer = await federation.drawn_up("a1", slave)
    acks = await voided(federation, federation.void_of("n1", "a1", slave, transfer.key_ids))
    assert ids_by_status(acks) == {"key not present": set(transfer.key_ids)}
    assert (await federation.post("n1", "n2", EXT_KEYS, transfer.message)).status_code == 202
    outcome = await asyncio.wait_for(transfer.outcome, 5)
    assert (outcome.status, outcome.message) == (AckStatus.FAILED, "the keys were voided")
    assert await fetched(federation, slave, "a1", transfer.key_ids[0]) is None


async def test_pool_block_is_voided_by_its_id_by_its_origin_only(federation: NeighbourFederation) -> None:
    block_id = "00000000-0000-4000-8000-00000000b10c"
    block = PoolBlock(block_id, bytes(range(32)), Grade.QKD)
    store = federation.nodes["n2"]._core.relay._world.store
    await store.transact(lambda ledger: ledger.add_blocks("n1", Direction.IN, [block], ready=True))
    for initiator, status in (("n3", "key not present"), ("n1", "voided")):
        request = federation.void_of("", initiator, "n2", [block_id])
        answer = await federation.post("n1", "n2", VOID, request)
        assert ids_by_status(answer.json()) == {status: {block_id}}


# Synchronous mode.


async def test_synchronous_mode_is_advertised(federation: NeighbourFederation) -> None:
    answer = await federation.peer("n1", at="n2").get("/kmapi/versions")
    assert answer.json()["capabilities"] == ["synchronous_mode"]


@pytest.mark.parametrize("slave", ["b", "c"], ids=["at the neighbour", "farther on"])
async def test_synchronous_transfer_is_answered_with_its_outcome_and_never_called_back(
    federation: NeighbourFederation, slave: str
) -> None:
    transfer = await federation.drawn_up("a1", slave, 2, synchronous=True)
    assert "ack_callback_url" not in transfer.message
    answer = await federation.post("n1", "n2", EXT_KEYS, transfer.message)
    assert answer.status_code == 200, answer.text
    [ack] = answer.json()
    assert ack["ack_status"] == "relayed"
    assert [entry["key_id"] for entry in ack["key_id_container"]] == transfer.key_ids
    assert (ack["initiator_sae_id"], ack["target_sae_ids"]) == ("a1", [slave])
    assert await fetched(federation, slave, "a1", transfer.key_ids[0]) == transfer.values[0]
    await asyncio.sleep(0.2)
    assert not federation.acks_to("n1", transfer.key_ids[0])


async def test_synchronous_answer_holds_every_key_however_they_were_acknowledged(
    federation: NeighbourFederation,
) -> None:
    transfer = await federation.drawn_up("a1", "c", 2, synchronous=True)
    with federation.withholding("n3"):
        posted = asyncio.create_task(federation.post("n1", "n2", EXT_KEYS, transfer.message))
        await eventually(lambda: transfer.key_ids[0] in str(federation.told("n3", EXT_KEYS)))
    for key_id, status in zip(transfer.key_ids, ("failed", "relayed"), strict=True):
        assert (await federation.post("n3", "n2", ACK, [ack_of([key_id], status)])).status_code == 200
    answer = await posted
    assert answer.status_code == 200
    assert ids_by_status(answer.json()) == {"failed": {transfer.key_ids[0]}, "relayed": {transfer.key_ids[1]}}


async def test_outcome_after_the_time_out_of_a_synchronous_transfer_calls_nobody_back(
    federation: NeighbourFederation,
) -> None:
    transfer = await federation.drawn_up("a1", "c", synchronous=True)
    with federation.withholding("n3"):
        assert (await federation.post("n1", "n2", EXT_KEYS, transfer.message)).status_code == 408
    assert (await federation.post("n3", "n2", ACK, [ack_of(transfer.key_ids, "relayed")])).status_code == 200
    await federation.quiet_books()
    assert not open_at(federation, "n2") & set(transfer.key_ids)
    assert not federation.acks_to("n1", transfer.key_ids[0])


async def test_node_restarted_under_a_synchronous_transfer_sends_it_on_and_calls_nobody_back(
    federation: NeighbourFederation,
) -> None:
    transfer = await federation.drawn_up("a1", "c", synchronous=True, carried='[{"E1_x":1},{}]')
    with federation.withholding("n3"):
        assert (await federation.post("n1", "n2", EXT_KEYS, transfer.message)).status_code == 408
    await federation.stop_node("n2")
    await federation.start_node("n2")
    await federation.settled()
    await eventually(lambda: not open_at(federation, "n2") & set(transfer.key_ids))
    assert await fetched(federation, "c", "a1", transfer.key_ids[0]) == transfer.values[0]
    sent = [one for one in federation.told("n3", EXT_KEYS) if one["keys"][0]["key_id"] == transfer.key_ids[0]]
    assert len(sent) == 2
    assert [one["extension_optional"] for one in sent] == [{"E1_x": 1}] * 2
    assert not federation.acks_to("n1", transfer.key_ids[0])


@pytest.mark.parametrize("slave", ["b", "c"], ids=["at the neighbour", "farther on"])
async def test_synchronous_void_is_answered_with_its_outcomes_and_never_called_back(
    federation: NeighbourFederation, slave: str
) -> None:
    transfer = await arrived(federation, "a1", slave, 2)
    taken = await fetched(federation, slave, "a1", transfer.key_ids[1])
    assert taken == transfer.values[1]
    before = len(federation.told("n1", ACK))
    answer = await federation.post("n1", "n2", VOID, federation.void_of("", "a1", slave, transfer.key_ids))
    assert answer.status_code == 200, answer.text
    assert ids_by_status(answer.json()) == {"voided": {transfer.key_ids[0]}, "failed to void": {transfer.key_ids[1]}}
    every = federation.void_of("", "a1", slave, [], all_confirmation=True)
    answer = await federation.post("n1", "n2", VOID, every)
    assert answer.status_code == 200, answer.text
    assert set(transfer.key_ids) <= set().union(*ids_by_status(answer.json()).values())
    assert len(federation.told("n1", ACK)) == before
