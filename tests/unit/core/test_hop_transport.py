"""One hop and one seal, from relay to relay: every member is authenticated, nothing opens twice, late or weaker."""

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import BaseModel

from node.core.carried_extensions import MAX_CARRIED_BYTES
from node.core.keys import Parcel
from node.crypto.errors import UnknownSuiteError
from node.errors import BadRequestError, NoRouteError, ReplayedTransferError
from node.wire.etsi020 import AckStatus, ExtKey, ExtKeyContainer
from node.wire.federation import END_TO_END, HYBRID_TRANSPORT, EndToEnd, HybridTransport, KemPublicKey, Purpose
from tests.unit.core.relay_pair import KEM_LIFETIME_S, KEY, End, Pair

WEAK, STRONG = "mlkem768-v1", "mlkem1024-v1"
NEVER = ("mlkem768+frodokem976aes-v1", STRONG, "mlkem768-v2", "", "null")
OTHER_ID = "00000000-0000-4000-8000-000000000000"
TAG = "AAAAAAAAAAAAAAAAAAAAAA=="
VALUE = "A" * 43 + "="
CARRIED = '[{"E1_x":{"y":[1,null]}},{}]'


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    started = await Pair(tmp_path).start()
    yield started
    started.close()


# What is done to each member of a message on its way, by where it stands and under which name.
CHANGES: dict[tuple[type[BaseModel], str], Any] = {
    (ExtKeyContainer, "keys"): [{"key_id": OTHER_ID, "value": VALUE}],
    (ExtKeyContainer, "initiator_sae_id"): "a2",
    (ExtKeyContainer, "target_sae_ids"): ["b2"],
    (ExtKeyContainer, "ack_callback_url"): "https://n1:8020/kmapi/v1/ext_keys/ack/",
    (ExtKeyContainer, "extension_optional"): {"E1_x": {"y": 1}},
    (ExtKey, "key_id"): OTHER_ID,
    (ExtKey, "value"): VALUE,
    (ExtKey, "extension"): {"E1_x": {"y": 1}},
    (HybridTransport, "suite"): STRONG,
    (HybridTransport, "protection"): "pqc",
    (HybridTransport, "transfer_id"): OTHER_ID,
    (HybridTransport, "kem_key_id"): "0" * 32,
    (HybridTransport, "kem_ciphertext"): VALUE,
    (HybridTransport, "tags"): [TAG],
    (HybridTransport, "link_key_ids"): [[OTHER_ID]],
    (HybridTransport, "purpose"): "pool-block",
    (HybridTransport, "path"): ["n3", "n1"],
    (HybridTransport, "protections"): ["qkd+pqc"],
    (HybridTransport, "expires_at"): 11_001.0,
    (EndToEnd, "origin"): "n3",
    (EndToEnd, "destination"): "n1",
    (EndToEnd, "suite"): STRONG,
    (EndToEnd, "kem_key_id"): "0" * 32,
    (EndToEnd, "kem_ciphertext"): VALUE,
    (EndToEnd, "tags"): [TAG],
    (EndToEnd, "block_ids"): [OTHER_ID],
    (EndToEnd, "master_sae"): "a2",
    (EndToEnd, "slave_saes"): ["b2"],
}
# `extension_mandatory` holds the two headers.
HEADERS = {(ExtKeyContainer, "extension_mandatory")}


def changed(message: dict[str, Any], model: type[BaseModel], name: str, value: Any) -> dict[str, Any]:
    """Return the message with one member replaced."""
    copy: dict[str, Any] = json.loads(json.dumps(message))
    places = {
        ExtKeyContainer: copy,
        ExtKey: copy["keys"][0],
        HybridTransport: copy["extension_mandatory"][HYBRID_TRANSPORT],
        EndToEnd: copy["extension_mandatory"][END_TO_END],
    }
    assert places[model].get(name) != value
    places[model][name] = value
    return copy


def header_of(message: dict[str, Any]) -> dict[str, Any]:
    header: dict[str, Any] = message["extension_mandatory"][HYBRID_TRANSPORT]
    return header


def test_every_member_of_a_message_has_an_attack_below() -> None:
    models: tuple[type[BaseModel], ...] = (ExtKeyContainer, ExtKey, HybridTransport, EndToEnd)
    members = {(model, name) for model in models for name in model.model_fields}
    assert members == set(CHANGES) | HEADERS


@pytest.mark.parametrize(("model", "name"), CHANGES, ids=lambda part: getattr(part, "__name__", part))
async def test_one_member_changed_on_the_way_is_refused_and_keeps_nothing(
    pair: Pair, model: type[BaseModel], name: str
) -> None:
    genuine, before = await pair.send(), pair.n2.books()
    with pytest.raises(BadRequestError):
        await pair.deliver(changed(genuine, model, name, CHANGES[model, name]))
    assert pair.n2.books() == before
    assert await pair.deliver(genuine) == KEY


async def test_extensions_arrive_as_they_were_sent_and_cannot_be_altered_or_left_out_on_the_way(pair: Pair) -> None:
    genuine = await pair.send(lambda parcel: replace(parcel, carried=CARRIED))
    assert genuine["extension_optional"] == {"E1_x": {"y": [1, None]}}
    for altered in ({"E1_x": {"y": [1, 0]}}, {"E1_x": {"y": [1]}}, {"E1_z": 1}, None):
        with pytest.raises(BadRequestError):
            await pair.deliver(changed(genuine, ExtKeyContainer, "extension_optional", altered))
    assert await pair.deliver(genuine) == KEY


async def test_extensions_longer_than_a_node_carries_are_refused_and_keep_nothing(pair: Pair) -> None:
    genuine, before = await pair.send(), pair.n2.books()
    for model, name in ((ExtKeyContainer, "extension_optional"), (ExtKey, "extension")):
        with pytest.raises(BadRequestError) as refused:
            await pair.deliver(changed(genuine, model, name, {"E1_x": "y" * MAX_CARRIED_BYTES}))
        assert refused.value.details.keys() == {"extension_optional"}
    assert pair.n2.books() == before


# What a node on the way can do to a sealed parcel before it protects it for the next hop, honestly.
FORGED: dict[str, Any] = {
    "purpose": Purpose.POOL_BLOCK,
    "initiator_sae": "a2",
    "target_saes": ("b2",),
    "key_ids": (OTHER_ID,),
    "bodies": (bytes(32),),
    "expires_at": 12_000.0,
    "end_to_end.origin": "n3",
    "end_to_end.destination": "n1",
    "end_to_end.suite": STRONG,
    "end_to_end.kem_key_id": "0" * 32,
    "end_to_end.kem_ciphertext": bytes(1088),
    "end_to_end.tags": (bytes(16),),
}
# A way grows hop by hop, so its origin cannot have authenticated it; the rest is local to a node. That an honest way
# is told, and extensions as they came, is what nodes on the way are trusted with (node/README.md).
NOT_BOUND = {"parcel_id", "path", "protections", "upstream", "downstream", "carried", "synchronous"}
# Only wrapped keys have block IDs, bound in `WrapContext`, and only they and what comes after them may name SAEs apart.
OF_OTHER_PURPOSES = {"end_to_end.block_ids", "end_to_end.master_sae", "end_to_end.slave_saes"}


def test_every_field_of_a_parcel_is_bound_or_said_not_to_be() -> None:
    own = {field.name for field in fields(Parcel)} - {"end_to_end"}
    sealed = {f"end_to_end.{name}" for name in EndToEnd.model_fields}
    assert own | sealed == set(FORGED) | NOT_BOUND | OF_OTHER_PURPOSES


def forged(parcel: Parcel, name: str) -> Parcel:
    header, _, member = name.partition(".")
    value = FORGED[name]
    if member:
        value = parcel.end_to_end.model_copy(update={member: value})
    return replace(parcel, **{header: value})


@pytest.mark.parametrize("name", FORGED)
async def test_node_on_the_way_that_changes_what_it_forwards_gains_nothing(pair: Pair, name: str) -> None:
    message = await pair.send(lambda parcel: forged(parcel, name))
    try:
        assert await pair.deliver(message) is None
    except BadRequestError:
        return
    assert [ack.ack_status for ack in pair.n2.wire.acks] == [AckStatus.FAILED]
    assert not any(pair.n2.books()[table] for table in ("record", "deposit", "parcel", "pool_block"))


async def test_transfer_replayed_at_once_and_after_a_restart_is_refused_and_keeps_nothing(pair: Pair) -> None:
    message = await pair.send()
    assert await pair.deliver(message) == KEY
    before = pair.n2.books()
    for _ in range(2):
        with pytest.raises(ReplayedTransferError):
            await pair.deliver(message)
        assert pair.n2.books() == before
        await pair.n2.restart()
        pair.meet()


async def test_replay_under_a_fresh_transfer_id_is_refused_even_where_the_link_keys_are_still_there(
    pair: Pair,
) -> None:
    message = await pair.send()
    header_of(message)["transfer_id"] = str(uuid.uuid4())
    with pytest.raises(BadRequestError):
        await pair.deliver(message)


async def test_transfer_refused_once_is_no_replay_when_it_comes_as_it_was_sent(pair: Pair) -> None:
    genuine = await pair.send()
    for _ in range(3):
        with pytest.raises(BadRequestError):
            await pair.deliver(changed(genuine, ExtKey, "value", VALUE))
        await pair.n2.restart()
        pair.meet()
    assert await pair.deliver(genuine) == KEY


class HeldUpError(Exception):
    """A parcel was sealed, and is held up before any node has it in its books."""


def published(end: End, purpose: str) -> KemPublicKey:
    advert = end.core.federation.directory.node(end.name)
    assert advert is not None
    (key,) = [key for key in advert.kem_keys if key.purpose == purpose]
    return key


async def turn(pair: Pair, end: End, seconds: float, *, restart: bool) -> None:
    """Let time pass, then do what housekeeping does, or restart."""
    pair.clock.time += seconds
    await (end.restart() if restart else end.start())
    pair.meet()


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
async def test_message_to_the_previous_hop_key_opens_until_that_key_expires_and_not_after(
    pair: Pair, restart: bool
) -> None:
    early, late = await pair.send(), await pair.send()
    first = published(pair.n2, "hop")
    assert header_of(early)["kem_key_id"] == first.key_id
    await turn(pair, pair.n2, KEM_LIFETIME_S / 2 + 1, restart=restart)
    assert published(pair.n2, "hop").key_id != first.key_id
    assert header_of(await pair.send())["kem_key_id"] == published(pair.n2, "hop").key_id
    assert await pair.deliver(early) == KEY
    await turn(pair, pair.n2, KEM_LIFETIME_S / 2, restart=restart)
    before = pair.n2.books()
    with pytest.raises(BadRequestError, match="unknown or has expired"):
        await pair.deliver(late)
    assert pair.n2.books() == before


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
async def test_parcel_sealed_to_the_previous_seal_key_opens_until_that_key_expires_and_not_after(
    pair: Pair, restart: bool
) -> None:
    held: list[Parcel] = []

    def hold(parcel: Parcel) -> Parcel:
        held.append(parcel)
        raise HeldUpError

    for _ in range(2):
        with pytest.raises(HeldUpError):
            await pair.send(hold)
    first = published(pair.n2, "seal")
    assert {parcel.end_to_end.kem_key_id for parcel in held} == {first.key_id}
    await turn(pair, pair.n2, KEM_LIFETIME_S / 2 + 1, restart=restart)
    assert published(pair.n2, "seal").key_id != first.key_id
    # The hops are fresh, what they carry is not: held up on the way.
    early = await pair.send(lambda fresh: replace(held[0], downstream=fresh.downstream))
    assert await pair.deliver(early) == KEY
    await turn(pair, pair.n2, KEM_LIFETIME_S / 2, restart=restart)
    late = await pair.send(lambda fresh: replace(held[1], downstream=fresh.downstream))
    assert await pair.deliver(late) is None
    assert [ack.ack_status for ack in pair.n2.wire.acks][-1:] == [AckStatus.FAILED]


async def pair_with(folder: Path, n1: tuple[str, ...], n2: tuple[str, ...]) -> Pair:
    return await Pair(folder, {"n1": n1, "n2": n2}).start()


@pytest.mark.parametrize(
    ("n1", "n2", "used"),
    [((STRONG, WEAK), (WEAK, STRONG), STRONG), ((WEAK, STRONG), (STRONG, WEAK), WEAK), ((STRONG, WEAK), (WEAK,), WEAK)],
)
async def test_sender_uses_the_first_of_its_own_suites_that_the_receiver_advertises(
    tmp_path: Path, n1: tuple[str, ...], n2: tuple[str, ...], used: str
) -> None:
    pair = await pair_with(tmp_path, n1, n2)
    message = await pair.send()
    assert header_of(message)["suite"] == used
    assert message["extension_mandatory"][END_TO_END]["suite"] == used
    assert await pair.deliver(message) == KEY
    pair.close()


async def test_neighbour_that_comes_back_with_weaker_suites_only_is_sent_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = await pair_with(tmp_path, (STRONG,), (STRONG, WEAK))
    assert header_of(await pair.send())["suite"] == STRONG
    pair.clock.time += 1
    await pair.n2.restart((WEAK,))
    pair.meet()
    before = pair.n1.books()
    with pytest.raises(NoRouteError, match="no KEM key of a suite that this node accepts"):
        await pair.send()
    assert pair.n1.books() == before
    assert f"downgrade refused: n2 offers {WEAK}, this node accepts {STRONG} only" in caplog.text
    pair.close()


async def test_suite_that_the_receiver_no_longer_accepts_is_refused_though_its_keys_are_still_stored(
    tmp_path: Path,
) -> None:
    pair = await pair_with(tmp_path, (WEAK, STRONG), (STRONG, WEAK))
    message = await pair.send()
    assert header_of(message)["suite"] == WEAK
    await pair.n2.restart((STRONG,))
    pair.meet()
    before = pair.n2.books()
    with pytest.raises(BadRequestError) as refused:
        await pair.deliver(message)
    assert refused.value.details == {"suite": "is not accepted here"}
    assert pair.n2.books() == before
    pair.close()


async def test_node_whose_settings_name_a_suite_that_does_not_exist_does_not_start(tmp_path: Path) -> None:
    pair = Pair(tmp_path, {"n1": (WEAK, "mlkem768-v9")})
    with pytest.raises(UnknownSuiteError, match="mlkem768-v9"):
        await pair.start()
    pair.close()


@pytest.mark.parametrize("suite", NEVER)
async def test_hop_that_names_a_suite_never_advertised_is_refused_and_keeps_nothing(pair: Pair, suite: str) -> None:
    genuine, before = await pair.send(), pair.n2.books()
    with pytest.raises(BadRequestError) as refused:
        await pair.deliver(changed(genuine, HybridTransport, "suite", suite))
    assert refused.value.details == {"suite": "is not accepted here"}
    assert pair.n2.books() == before


@pytest.mark.parametrize("suite", NEVER)
async def test_seal_that_names_a_suite_never_advertised_is_refused_and_keeps_nothing(
    pair: Pair, suite: str, caplog: pytest.LogCaptureFixture
) -> None:
    message = await pair.send(lambda parcel: _sealed_under(parcel, suite))
    assert await pair.deliver(message) is None
    assert [ack.ack_status for ack in pair.n2.wire.acks] == [AckStatus.FAILED]
    assert "keys from n1 refused" in caplog.text
    assert not any(pair.n2.books()[table] for table in ("record", "deposit"))


def _sealed_under(parcel: Parcel, suite: str) -> Parcel:
    return replace(parcel, end_to_end=parcel.end_to_end.model_copy(update={"suite": suite}))
