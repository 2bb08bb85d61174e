"""What a destination keeps: each key for itself, nothing after its expiry, and room for what is new."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from node.core.destination import Destination, ParcelRefusedError
from node.core.hop import Incoming
from node.core.keys import Direction, Grade, KeyBlock, KeyState, Parcel, PoolBlock
from node.core.outcomes import Outcome, acknowledgement, close_books, outcome_of
from node.core.ports import Ledger
from node.core.sealing_origin import draft, sealed, wrapped
from node.wire.etsi020 import AckStatus, dump_acks, parse_acks
from node.wire.federation import Purpose
from tests.unit.core.relay_pair import Pair, incoming

LIFETIME_S = 20.0


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    started = await Pair(tmp_path).start()
    yield started
    started.close()


def destination(pair: Pair) -> Destination:
    return pair.n2.core.relay._destination


def fresh(number: int) -> list[KeyBlock]:
    return [KeyBlock(str(uuid.uuid4()), uuid.uuid4().bytes * 2) for _ in range(number)]


def drafted(pair: Pair, purpose: Purpose, keys: list[KeyBlock]) -> Parcel:
    parties = ("n1", ("n2",)) if purpose is Purpose.POOL_BLOCK else ("a", ("b",))
    expires_at = pair.clock.now() + LIFETIME_S
    parcel = draft(purpose, keys, parties, ("n1", "n2"), str(uuid.uuid4()), expires_at)
    return replace(parcel, path=("n1", "n2"), protections=("qkd+pqc",))


def sealed_by_n1(pair: Pair, keys: list[KeyBlock], purpose: Purpose = Purpose.SESSION_KEY) -> Parcel:
    key = pair.n1.core.federation.seal_key("n2")
    return sealed(drafted(pair, purpose, keys), key, "cryptography")


async def share_blocks(pair: Pair, blocks: list[KeyBlock]) -> None:
    pool = [PoolBlock(block.key_id, block.value, Grade.QKD) for block in blocks]
    await pair.n1.store.transact(lambda ledger: ledger.add_blocks("n2", Direction.OUT, pool, ready=True))
    await pair.n2.store.transact(lambda ledger: ledger.add_blocks("n1", Direction.IN, pool, ready=True))


async def wrapped_by_n1(pair: Pair, keys: list[KeyBlock]) -> Parcel:
    parcel = drafted(pair, Purpose.WRAPPED_KEY, keys)
    return (await pair.n1.store.transact(lambda ledger: wrapped(ledger, parcel)))[0]


async def keep(pair: Pair, parcel: Parcel) -> tuple[str, ...]:
    return await pair.n2.store.transact(lambda ledger: destination(pair).keep(ledger, parcel))


async def void(pair: Pair, key: KeyBlock, initiator: str = "a") -> None:
    await pair.n2.store.transact(lambda ledger: destination(pair).void(ledger, key.key_id, initiator))


async def fetched(pair: Pair, keys: list[KeyBlock]) -> list[bytes | None]:
    return await pair.n2.store.transact(lambda ledger: [ledger.fetch_deposit(key.key_id, "b") for key in keys])


async def blocks_held(pair: Pair, origin: str = "n1") -> int:
    counts = await pair.n2.store.transact(lambda ledger: ledger.block_counts())
    return counts.get((origin, Direction.IN, True), 0)


async def forgotten(pair: Pair) -> None:
    """Let all that arrived expire, and be swept."""
    pair.clock.time += LIFETIME_S + 1
    await pair.n2.store.transact(lambda ledger: ledger.sweep(pair.clock.now()))


# Expiry.


@pytest.mark.parametrize("purpose", [Purpose.SESSION_KEY, Purpose.POOL_BLOCK])
async def test_sealed_parcel_replayed_with_a_later_expiry_once_it_is_forgotten_is_refused(
    pair: Pair, purpose: Purpose
) -> None:
    parcel = sealed_by_n1(pair, fresh(2), purpose)
    assert await keep(pair, parcel) == ()
    await forgotten(pair)
    await pair.n2.store.transact(lambda ledger: ledger.drop_blocks(parcel.key_ids))
    before = pair.n2.books()
    with pytest.raises(ParcelRefusedError, match="does not open"):
        await keep(pair, replace(parcel, expires_at=pair.clock.now() + LIFETIME_S))
    assert pair.n2.books() == before


async def test_wrapped_parcel_replayed_with_a_later_expiry_is_refused_even_if_its_blocks_are_back(pair: Pair) -> None:
    blocks, keys = fresh(2), fresh(1)
    await share_blocks(pair, blocks)
    parcel = await wrapped_by_n1(pair, keys)
    assert await keep(pair, parcel) == ()
    assert await fetched(pair, keys) == [keys[0].value]
    await forgotten(pair)
    await share_blocks(pair, blocks)
    with pytest.raises(ParcelRefusedError, match="does not open"):
        await keep(pair, replace(parcel, expires_at=pair.clock.now() + LIFETIME_S))
    assert await fetched(pair, keys) == [None]


async def test_voided_key_is_remembered_as_long_as_any_parcel_with_it_may_live(pair: Pair) -> None:
    first, second = fresh(2)
    parcel = sealed_by_n1(pair, [first])
    await keep(pair, parcel)
    for key in (first, second):
        await void(pair, key)
        record = await pair.n2.store.transact(lambda ledger, key=key: ledger.record(key.key_id))  # type: ignore[misc]
        assert record is not None
        assert record.state is KeyState.VOIDED
        assert record.expires_at >= parcel.expires_at
    assert record.expires_at > pair.clock.now() + 86_400


# Each key for itself.


@pytest.mark.parametrize("purpose", list(Purpose))
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_of_several_keys_the_voided_one_is_refused_and_the_others_are_kept(
    pair: Pair, purpose: Purpose, at: int
) -> None:
    keys = fresh(3)
    if purpose is Purpose.WRAPPED_KEY:
        await share_blocks(pair, fresh(4))
        parcel = await wrapped_by_n1(pair, keys)
    else:
        parcel = sealed_by_n1(pair, keys, purpose)
    await void(pair, keys[at], parcel.initiator_sae)
    for _ in range(2):  # The second time nothing is new.
        assert await keep(pair, parcel) == (keys[at].key_id,)
    rest = [key for key in keys if key is not keys[at]]
    if purpose is Purpose.POOL_BLOCK:
        named = [key.key_id for key in rest]
        assert await pair.n2.store.transact(lambda ledger: ledger.take_named_blocks("n1", named)) is not None
        assert await blocks_held(pair) == 0
    else:
        assert await fetched(pair, [keys[at], *rest]) == [None, *(key.value for key in rest)]
        assert await blocks_held(pair) == 0


async def test_parcel_of_which_every_key_was_voided_is_refused(pair: Pair) -> None:
    keys = fresh(2)
    for key in keys:
        await void(pair, key)
    before = pair.n2.books()
    with pytest.raises(ParcelRefusedError, match="were voided") as refused:
        await keep(pair, sealed_by_n1(pair, keys))
    assert refused.value.refusal is None
    assert pair.n2.books() == before


async def test_keys_that_are_here_already_stay_as_they_are_beside_new_ones(pair: Pair) -> None:
    first, second = fresh(2)
    await keep(pair, sealed_by_n1(pair, [second]))
    assert await fetched(pair, [second]) == [second.value]
    assert await keep(pair, sealed_by_n1(pair, [first, second])) == ()
    assert await fetched(pair, [first, second]) == [first.value, None]


async def test_each_group_of_keys_is_acknowledged_with_its_own_outcome(pair: Pair) -> None:
    keys = fresh(3)
    await void(pair, keys[0])
    message = await sent(pair, sealed_by_n1(pair, keys))
    await pair.n2.core.relay.accept("n1", message)
    await pair.n2.background.finish()
    said = {ack.ack_status: [entry.key_id for entry in ack.key_id_container] for ack in pair.n2.wire.acks}
    assert said == {AckStatus.FAILED: [keys[0].key_id], AckStatus.RELAYED: [key.key_id for key in keys[1:]]}
    [voided] = [ack.message for ack in pair.n2.wire.acks if ack.ack_status is AckStatus.FAILED]
    assert voided == "the keys were voided"
    assert await fetched(pair, keys) == [None, keys[1].value, keys[2].value]


async def sent(pair: Pair, parcel: Parcel) -> Incoming:
    """Have n1 put a parcel on the wire."""
    bare = replace(parcel, path=("n1",), protections=())
    await pair.n1.core.relay.send(bare, lambda _ledger, ready: ready)
    await pair.n1.background.finish()
    return incoming_of(pair)


def incoming_of(pair: Pair) -> Incoming:
    return incoming(json.loads(pair.n1.wire.sent.pop()))


# What the origin makes of a refusal.


async def refused_by_n2(pair: Pair, parcel: Parcel) -> Outcome:
    """Return what n1 hears from n2 over a node on the way."""
    with pytest.raises(ParcelRefusedError) as refused:
        await keep(pair, parcel)
    path = parcel.path
    outcome = Outcome(AckStatus.FAILED, path, parcel.protections, str(refused.value), refused.value.refusal)
    for _hop in range(2):
        ack = acknowledgement(parcel.key_ids, parcel.initiator_sae, parcel.target_saes, outcome)
        [heard] = parse_acks(dump_acks((ack,)))
        outcome = outcome_of(heard)
    return outcome


async def voided_there(pair: Pair, parcel: Parcel) -> Parcel:
    for key_id in parcel.key_ids:
        await void(pair, KeyBlock(key_id, b""))
    return parcel


async def for_a_stranger(_pair: Pair, parcel: Parcel) -> Parcel:
    return replace(parcel, target_saes=("nobody",))


async def without_its_blocks(pair: Pair, parcel: Parcel) -> Parcel:
    await pair.n2.store.transact(lambda ledger: ledger.drop_blocks(parcel.end_to_end.block_ids))
    return parcel


async def with_another_tag(_pair: Pair, parcel: Parcel) -> Parcel:
    return replace(parcel, end_to_end=parcel.end_to_end.model_copy(update={"tags": (bytes(16),)}))


@pytest.mark.parametrize(
    ("befell", "left"),
    [(voided_there, 3), (for_a_stranger, 3), (without_its_blocks, 0), (with_another_tag, 0)],
)
async def test_origin_drops_its_pool_only_when_the_destination_could_not_unwrap(
    pair: Pair, befell: Callable[..., object], left: int
) -> None:
    await share_blocks(pair, fresh(5))
    parcel = await wrapped_by_n1(pair, fresh(1))
    outcome = await refused_by_n2(pair, await befell(pair, parcel))  # type: ignore[misc]

    def close(ledger: Ledger) -> int:
        close_books(ledger, parcel, outcome, parcel.key_ids)
        return sum(ledger.block_counts().values())

    assert await pair.n1.store.transact(close) == left


# Room.


async def test_new_blocks_push_out_the_oldest_of_their_origin_when_there_is_no_more_room(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    destination(pair).inbound_limit = 4
    batches = [fresh(2) for _ in range(3)]
    other = [PoolBlock(key.key_id, key.value, Grade.QKD) for key in fresh(1)]
    await pair.n2.store.transact(lambda ledger: ledger.add_blocks("n3", Direction.IN, other, ready=True))
    for batch in batches:
        await keep(pair, sealed_by_n1(pair, batch, Purpose.POOL_BLOCK))
    assert (await blocks_held(pair), await blocks_held(pair, "n3")) == (4, 1)
    assert destination(pair).dropped_blocks == 2
    assert "2 pool blocks of n1 dropped" in caplog.text
    newest = [key.key_id for batch in batches[1:] for key in batch]
    assert await pair.n2.store.transact(lambda ledger: ledger.take_named_blocks("n1", newest)) is not None


async def test_blocks_that_come_again_push_nothing_out(pair: Pair) -> None:
    destination(pair).inbound_limit = 4
    first, second = (sealed_by_n1(pair, fresh(2), Purpose.POOL_BLOCK) for _ in range(2))
    for parcel in (first, second, first, second):
        await keep(pair, parcel)
    assert await blocks_held(pair) == 4
    assert destination(pair).dropped_blocks == 0


async def test_more_blocks_at_once_than_are_ever_kept_are_refused(pair: Pair) -> None:
    destination(pair).inbound_limit = 4
    with pytest.raises(ParcelRefusedError, match="no more than 4"):
        await keep(pair, sealed_by_n1(pair, fresh(5), Purpose.POOL_BLOCK))
    assert await blocks_held(pair) == 0


async def test_no_room_is_made_at_the_cost_of_other_origins(pair: Pair) -> None:
    destination(pair).inbound_limit = 4
    for origin in range(Destination.ORIGINS):
        blocks = [PoolBlock(key.key_id, key.value, Grade.QKD) for key in fresh(4)]
        await pair.n2.store.transact(
            lambda ledger, name=f"o{origin}", blocks=blocks: ledger.add_blocks(name, Direction.IN, blocks, ready=True)  # type: ignore[misc]
        )
    with pytest.raises(ParcelRefusedError, match="pool blocks are kept"):
        await keep(pair, sealed_by_n1(pair, fresh(1), Purpose.POOL_BLOCK))
    assert await blocks_held(pair) == 0
