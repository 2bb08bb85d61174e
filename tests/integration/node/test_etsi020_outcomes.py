"""Acknowledgements over ETSI GS QKD 020, in any grouping; and extensions that no node understands, passed on."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from node.core.destination import Destination
from node.core.keys import Parcel
from node.core.ports import Ledger
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
    held_at_n2,
    open_at,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NeighbourFederation]:
    async with NeighbourFederation(tmp_path_factory.mktemp("federation")) as started:
        yield started


# Acknowledgements.


async def test_several_containers_in_one_call_are_acted_upon_each(federation: NeighbourFederation) -> None:
    one, other = await held_at_n2(federation), await held_at_n2(federation)
    acks = [ack_of(one.key_ids, "relayed"), ack_of(other.key_ids, "failed", message="no room")]
    assert (await federation.post("n3", "n2", ACK, acks)).status_code == 200
    assert (await asyncio.wait_for(one.outcome, 5)).status is AckStatus.RELAYED
    failed = await asyncio.wait_for(other.outcome, 5)
    assert (failed.status, failed.message) == (AckStatus.FAILED, "no room")
    assert not open_at(federation, "n2") & {*one.key_ids, *other.key_ids}


async def test_keys_of_one_transfer_may_be_acknowledged_one_by_one_in_any_order(
    federation: NeighbourFederation,
) -> None:
    transfer = await held_at_n2(federation, 3)
    first, second, third = transfer.key_ids
    for key_ids in ([third], [first]):
        assert (await federation.post("n3", "n2", ACK, [ack_of(key_ids, "relayed")])).status_code == 200
        await eventually(lambda key_ids=key_ids: len(federation.acks_to("n1", key_ids[0])) == 1)  # type: ignore[misc]
        await asyncio.sleep(0.05)
        assert not transfer.outcome.done()
    assert open_at(federation, "n2") & set(transfer.key_ids) == {second}
    assert (await federation.post("n3", "n2", ACK, [ack_of([second], "relayed")])).status_code == 200
    assert (await asyncio.wait_for(transfer.outcome, 5)).status is AckStatus.RELAYED
    await federation.quiet_books()
    assert not (open_at(federation, "n2") | open_at(federation, "n1")) & set(transfer.key_ids)


async def test_session_keys_of_which_one_failed_fail_all_and_the_others_are_voided(
    federation: NeighbourFederation,
) -> None:
    transfer = await held_at_n2(federation, 3)
    first, second, third = transfer.key_ids
    acks = [ack_of([first], "relayed"), ack_of([second], "failed")]
    assert (await federation.post("n3", "n2", ACK, acks)).status_code == 200
    assert (await asyncio.wait_for(transfer.outcome, 5)).status is AckStatus.FAILED
    await eventually(lambda: bool(federation.told("n3", VOID)))
    assert federation.told("n3", VOID)[-1]["key_ids"] == transfer.key_ids
    await federation.quiet_books()
    assert not open_at(federation, "n1") & set(transfer.key_ids)
    # What is heard of the third comes too late, and changes nothing.
    assert (await federation.post("n3", "n2", ACK, [ack_of([third], "relayed")])).status_code == 200


async def test_keys_of_several_transfers_may_share_a_container_when_their_parties_agree(
    federation: NeighbourFederation,
) -> None:
    one, other = await held_at_n2(federation, 2), await held_at_n2(federation)
    strange = await federation.drawn_up("a2", "c")
    with federation.withholding("n3"):
        assert (await federation.post("n1", "n2", EXT_KEYS, strange.message)).status_code == 202
    ack = ack_of([*other.key_ids, *one.key_ids, *strange.key_ids], "relayed")
    assert (await federation.post("n3", "n2", ACK, [ack])).status_code == 200
    for transfer in (one, other):
        assert (await asyncio.wait_for(transfer.outcome, 5)).status is AckStatus.RELAYED
    await federation.quiet_books()
    # The third is of another master: it was not spoken of.
    assert open_at(federation, "n2") & {*one.key_ids, *other.key_ids, *strange.key_ids} == set(strange.key_ids)
    assert not strange.outcome.done()


async def test_acknowledgement_from_elsewhere_or_for_others_changes_nothing(federation: NeighbourFederation) -> None:
    transfer = await held_at_n2(federation)
    before = await federation.quiet_books()
    for sender, ack in (
        ("n1", ack_of(transfer.key_ids, "failed")),
        ("n3", ack_of(transfer.key_ids, "failed", "a2")),
        ("n3", ack_of(transfer.key_ids, "failed", "a1", "b")),
        ("n3", ack_of([], "failed")),
    ):
        assert (await federation.post(sender, "n2", ACK, [ack])).status_code == 200
    assert (await federation.post("n3", "n2", ACK, [])).status_code == 200
    assert await federation.quiet_books() == before
    assert not transfer.outcome.done()


async def test_unknown_keys_beside_known_ones_are_passed_over(federation: NeighbourFederation) -> None:
    transfer = await held_at_n2(federation)
    acks = [ack_of([UNKNOWN_ID], "relayed"), ack_of([UNKNOWN_ID, *transfer.key_ids], "relayed")]
    assert (await federation.post("n3", "n2", ACK, acks)).status_code == 200
    assert (await asyncio.wait_for(transfer.outcome, 5)).status is AckStatus.RELAYED
    assert not federation.acks_to("n1", UNKNOWN_ID)


async def test_second_acknowledgement_is_harmless_whatever_it_says(federation: NeighbourFederation) -> None:
    transfer = await held_at_n2(federation, 2)
    assert (await federation.post("n3", "n2", ACK, [ack_of(transfer.key_ids, "relayed")])).status_code == 200
    assert (await asyncio.wait_for(transfer.outcome, 5)).status is AckStatus.RELAYED
    before = await federation.quiet_books()
    for status in ("relayed", "failed"):
        assert (await federation.post("n3", "n2", ACK, [ack_of(transfer.key_ids, status)])).status_code == 200
        assert (await federation.post("n2", "n1", ACK, [ack_of(transfer.key_ids, status)])).status_code == 200
    assert await federation.quiet_books() == before


# `key_id_container`: the published schema has its `properties` beside `items`, the prose is normative.


@pytest.mark.parametrize("of", [list, dict], ids=["bare IDs", "one object"])
async def test_key_id_container_of_another_shape_than_the_prose_says_is_refused(
    federation: NeighbourFederation, of: type
) -> None:
    transfer = await held_at_n2(federation)
    container: Any = transfer.key_ids if of is list else {"key_id": transfer.key_ids[0]}
    before = await federation.quiet_books()
    answer = await federation.post("n3", "n2", ACK, [ack_of([], "relayed", key_id_container=container)])
    assert answer.status_code == 400
    assert answer.json()["type"].endswith("/invalid-parameter")
    assert await federation.quiet_books() == before


async def test_entries_of_a_key_id_container_may_have_extensions_and_members_of_others(
    federation: NeighbourFederation,
) -> None:
    transfer = await held_at_n2(federation)
    entry = {"key_id": transfer.key_ids[0], "extension": {"E1_x": [1]}, "E1_more": 2}
    answer = await federation.post("n3", "n2", ACK, [ack_of([], "relayed", key_id_container=[entry])])
    assert answer.status_code == 200
    assert (await asyncio.wait_for(transfer.outcome, 5)).status is AckStatus.RELAYED


# Extensions that no node here understands.


async def test_extensions_that_nobody_understands_reach_next_hop_and_destination_unchanged(
    federation: NeighbourFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Parcel] = []
    keep = Destination.keep

    def watched(self: Destination, ledger: Ledger, parcel: Parcel) -> tuple[str, ...]:
        kept.append(parcel)
        return keep(self, ledger, parcel)

    monkeypatch.setattr(Destination, "keep", watched)
    of_all = {"E32473_unheard_of": {"list": [1, None, 1e16, "é"], "deep": {"a": {"b": False}}}, "E7_other": 2**53 + 1}
    of_key = {"E7_of_key": None}
    carried = json.dumps([of_all, {"KEY_ID": of_key}], separators=(",", ":"), sort_keys=True)
    transfer = await federation.drawn_up("a1", "c", 2, carried=carried)
    onward = await onward_of(federation, transfer)
    for message in (transfer.message, onward):
        assert message["extension_optional"] == of_all
        assert [key.get("extension") for key in message["keys"]] == [of_key, None]
    [parcel] = [one for one in kept if one.key_ids == tuple(transfer.key_ids)]
    assert parcel.carried == carried.replace("KEY_ID", transfer.key_ids[0])


async def onward_of(federation: NeighbourFederation, transfer: Transfer) -> Json:
    """Deliver a transfer to n2; return what n2 then sends to n3."""
    assert (await federation.post("n1", "n2", EXT_KEYS, transfer.message)).status_code == 202
    assert (await asyncio.wait_for(transfer.outcome, 5)).status is AckStatus.RELAYED
    onward: Json = federation.told("n3", EXT_KEYS)[-1]
    assert [key["key_id"] for key in onward["keys"]] == transfer.key_ids
    return onward


async def test_transfer_without_extensions_goes_on_without(federation: NeighbourFederation) -> None:
    onward = await onward_of(federation, await federation.drawn_up("a1", "c"))
    assert "extension_optional" not in onward
    assert "extension" not in onward["keys"][0]


async def test_extension_altered_on_the_link_is_refused_and_keeps_nothing(federation: NeighbourFederation) -> None:
    transfer = await federation.drawn_up("a1", "c", carried='[{"E1_x":1},{}]')
    before = await federation.quiet_books()
    for changes in ({"extension_optional": {"E1_x": 2}}, {"extension_optional": None}):
        answer = await federation.post("n1", "n2", EXT_KEYS, transfer.message | changes)
        assert answer.status_code == 400
    assert await federation.quiet_books() == before
    await onward_of(federation, transfer)
