"""What one device hands out and refuses, without clock or network."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

import emulators
from emulators.device import Device, NotAllowedError, StoreEmptyError, UnfitRequestError, first_position
from emulators.fibre import Direction, Fibre, FibreKey
from emulators.settings import EmulatedDeviceSettings, ProfileSettings
from node.mutual_tls.identity import Identity, Role
from node.wire import etsi014

LIT_AT = 1_700_000_000.0
FIBRE = Fibre("kmstn1-kmstn2", bytes(32))
BESIDE = Identity("galicia-south", Role.NODE, "kmstn1")


def settings_of(end: str, **profile: Any) -> EmulatedDeviceSettings:
    here, there = ("kmstn1", "kmstn2") if end == "a" else ("kmstn2", "kmstn1")
    return EmulatedDeviceSettings(
        device=f"{here}-to-{there}",
        domain="galicia-south",
        link="kmstn1-kmstn2",
        end="a" if end == "a" else "b",
        node=here,
        peer_device=f"{there}-to-{here}",
        peer_node=there,
        lit_at=LIT_AT,
        profile=ProfileSettings(**profile),
    )


def device(end: str, **profile: Any) -> Device:
    settings = settings_of(end, **profile)
    return Device(settings, FIBRE, first_position(settings), ())


def take(source: Device, number: int = 1, now: float = LIT_AT) -> list[FibreKey]:
    return source.hand_out(etsi014.KeyRequest(number=number), now)[1]


def ids(keys: list[FibreKey]) -> list[str]:
    return [key.key_id for key in keys]


def test_both_ends_serve_the_same_key() -> None:
    keys = take(device("a"), 3)
    assert device("b").fetch(ids(keys))[1] == keys
    assert {len(key.value) for key in keys} == {32}


def test_masters_of_both_ends_never_get_the_same_key() -> None:
    left, right = take(device("a"), 100), take(device("b"), 100)
    assert len({key.value for key in left + right}) == 200
    assert len(set(ids(left + right))) == 200


def test_master_cannot_fetch_its_own_key_again() -> None:
    source = device("a")
    with pytest.raises(UnfitRequestError, match=etsi014.KEYS_NOT_FOUND):
        source.fetch(ids(take(source)))


def test_key_is_fetched_once() -> None:
    key_ids, target = ids(take(device("a"))), device("b")
    target.fetch(key_ids)
    with pytest.raises(UnfitRequestError, match=etsi014.KEYS_NOT_FOUND):
        target.fetch(key_ids)


@pytest.mark.parametrize(
    "strange",
    ["00000000-0000-4000-8000-000000000000", "no-uuid", Fibre("kmstn2-kmstn3", bytes(32)).key_id(Direction.A_TO_B, 0)],
)
def test_one_unknown_id_keeps_the_others_in_store(strange: str) -> None:
    key_ids, target = ids(take(device("a"), 2)), device("b")
    with pytest.raises(UnfitRequestError, match=etsi014.KEYS_NOT_FOUND):
        target.fetch([*key_ids, strange])
    assert ids(target.fetch(key_ids)[1]) == key_ids


def test_same_id_twice_in_one_request_is_refused() -> None:
    (key_id,) = ids(take(device("a")))
    with pytest.raises(UnfitRequestError, match=etsi014.KEYS_NOT_FOUND):
        device("b").fetch([key_id, key_id])


def test_key_left_behind_by_a_storeful_of_newer_ones_is_dropped() -> None:
    source, target = (
        device("a", storage_keys=10, initial_keys=10, secret_key_rate_bps=512.0),
        device("b", storage_keys=10),
    )
    old = take(source, 10)
    (newest,) = take(source, 1, LIT_AT + 10)
    target.fetch([newest.key_id])
    assert target.fetch(ids(old[1:2]))[1] == old[1:2]
    with pytest.raises(UnfitRequestError, match=etsi014.KEYS_NOT_FOUND):
        target.fetch(ids(old[:1]))


def test_fetched_keys_stay_fetched_after_the_memory_is_swept() -> None:
    source = device("a", storage_keys=4, initial_keys=4, secret_key_rate_bps=512.0)
    target = device("b", storage_keys=4)
    fetched = [key_id for second in range(40) for key_id in ids(take(source, 1, LIT_AT + second))]
    for key_id in fetched:
        target.fetch([key_id])
    for key_id in fetched:
        with pytest.raises(UnfitRequestError):
            target.fetch([key_id])


def test_store_is_capped() -> None:
    source = device("a", storage_keys=20, initial_keys=5)
    assert source.status(LIT_AT + 1e6).stored_key_count == 20
    with pytest.raises(StoreEmptyError):
        take(source, 21, LIT_AT + 1e6)


def test_initial_keys_do_not_exceed_the_store() -> None:
    assert device("a", storage_keys=20, initial_keys=500).status(LIT_AT).stored_key_count == 20


def test_empty_store_fills_at_half_the_secret_key_rate_of_the_link() -> None:
    source = device("a", initial_keys=1, secret_key_rate_bps=5120.0)
    take(source)
    with pytest.raises(StoreEmptyError, match="1 keys requested, 0 in store"):
        take(source, 1, LIT_AT + 0.09)
    assert source.status(LIT_AT + 10.0).stored_key_count == 100


def test_clock_that_goes_backwards_makes_no_key() -> None:
    source = device("a", initial_keys=0, secret_key_rate_bps=512.0)
    assert source.status(LIT_AT + 10).stored_key_count == 10
    assert source.status(LIT_AT).stored_key_count == 10
    assert source.status(LIT_AT + 10).stored_key_count == 10


def test_refused_request_costs_no_key() -> None:
    source = device("a", initial_keys=2, secret_key_rate_bps=0.0)
    with pytest.raises(StoreEmptyError):
        take(source, 3)
    assert len(take(source, 2)) == 2


@pytest.mark.parametrize(
    ("request_members", "message"),
    [
        ({"size": 255}, etsi014.SIZE_NOT_MULTIPLE_OF_8),
        ({"size": 512}, "size shall be 256"),
        ({"number": 129}, "number shall be at most 128"),
        ({"additional_slave_SAE_IDs": ("x",)}, "additional_slave_SAE_IDs"),
        ({"extension_mandatory": ({"vendor_x": 1},)}, etsi014.MANDATORY_NOT_SUPPORTED),
    ],
)
def test_request_the_device_cannot_meet_is_refused(request_members: dict[str, Any], message: str) -> None:
    with pytest.raises(UnfitRequestError, match=message):
        device("a").hand_out(etsi014.KeyRequest(**request_members), LIT_AT)


@pytest.mark.parametrize(
    ("caller", "opposite"),
    [
        (Identity("galicia-south", Role.NODE, "kmstn2"), "kmstn2"),
        (Identity("galicia-south", Role.SAE, "kmstn1"), "kmstn2"),
        (Identity("euskadi", Role.NODE, "kmstn1"), "kmstn2"),
        (BESIDE, "kmstn3"),
        (BESIDE, "kmstn1"),
    ],
)
def test_stranger_or_strange_target_is_not_admitted(caller: Identity, opposite: str) -> None:
    with pytest.raises(NotAllowedError):
        device("a").admit(caller, opposite)


def test_node_beside_the_device_is_admitted() -> None:
    device("a").admit(BESIDE, "kmstn2")


def test_key_ids_are_version_4_uuids_that_do_not_show_their_order() -> None:
    key_ids = ids(take(device("a"), 64))
    assert {key_id[14] for key_id in key_ids} == {"4"}
    assert {key_id[19] for key_id in key_ids} <= set("89ab")
    assert key_ids != sorted(key_ids)


def test_key_of_other_seeds_and_links_differs() -> None:
    fibres = [FIBRE, Fibre("kmstn1-kmstn2", bytes(31) + b"\x01"), Fibre("kmstn1-kmstn3", bytes(32))]
    assert len({fibre.key(Direction.A_TO_B, 0, 256).value for fibre in fibres}) == 3


def test_seed_of_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        Fibre("kmstn1-kmstn2", bytes(31))


def test_repr_of_a_key_has_no_key_bytes() -> None:
    (key,) = take(device("a"))
    assert repr(key) == f"FibreKey(key_id={key.key_id!r})"


def test_generic_profile_is_the_default_of_the_settings() -> None:
    text = (Path(str(emulators.__file__)).parent / "vendor_profiles/generic.toml").read_text()
    assert tomllib.loads(text) == ProfileSettings().model_dump()
