"""Every bound of a Get key request: at the bound it passes, one beyond it is refused and says what was wrong."""

from typing import Any

import pytest

from node.core.key_request import Admission, KeyOrder
from node.errors import BadRequestError, NotAuthorisedError
from node.settings import KeySettings
from node.wire import etsi014

KEYS = KeySettings(
    key_size=256, min_key_size=64, max_key_size=1024, max_key_per_request=4, max_key_count=100, max_sae_id_count=2
)
OPEN = Admission(frozenset({"a", "b"}), None, KEYS)
PAIRED = Admission(frozenset({"a", "b"}), frozenset({("a", "c"), ("a", "d"), ("b", "a")}), KEYS)


def order(admission: Admission = OPEN, caller: str = "a", slave: str = "c", **members: Any) -> KeyOrder:
    return admission.order(caller, slave, etsi014.KeyRequest(**members))


def test_request_without_figures_gets_the_defaults_of_the_status() -> None:
    assert order() == KeyOrder(master_sae="a", slave_saes=("c",), number=1, size_bits=256)


@pytest.mark.parametrize("members", [{"number": 4}, {"size": 64}, {"size": 1024}, {"number": 4, "size": 72}])
def test_request_at_the_bound_passes(members: dict[str, Any]) -> None:
    made = order(**members)
    assert (made.number, made.size_bits) == (members.get("number", 1), members.get("size", 256))


@pytest.mark.parametrize(
    ("members", "message", "named"),
    [
        ({"number": 5}, "number is out of bounds", "number"),
        ({"size": 56}, "size is out of bounds", "size"),
        ({"size": 1032}, "size is out of bounds", "size"),
        ({"size": 257}, etsi014.SIZE_NOT_MULTIPLE_OF_8, "size"),
        ({"size": 63}, etsi014.SIZE_NOT_MULTIPLE_OF_8, "size"),
        ({"extension_mandatory": ({"magic": 1},)}, etsi014.MANDATORY_NOT_SUPPORTED, "magic"),
        ({"additional_slave_SAE_IDs": ("d", "e", "f")}, "too many additional", "additional_slave_SAE_IDs"),
        ({"additional_slave_SAE_IDs": ("a",)}, "cannot share keys with itself", "slave_SAE_ID"),
    ],
)
def test_request_beyond_a_bound_is_refused(members: dict[str, Any], message: str, named: str) -> None:
    with pytest.raises(BadRequestError, match=message) as refused:
        order(**members)
    assert set(refused.value.details) == {named}


@pytest.mark.parametrize("members", [{"number": 0}, {"number": -1}, {"size": 0}, {"number": True}, {"size": "256"}])
def test_figure_that_is_none_is_no_request_at_all(members: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        etsi014.KeyRequest(**members)


def test_most_additional_slaves_pass_and_a_repeated_one_counts_once_as_target() -> None:
    assert order(additional_slave_SAE_IDs=("d", "c")).slave_saes == ("c", "d")


def test_optional_extension_is_no_reason_to_refuse() -> None:
    assert order(extension_optional=({"magic": 1},)).number == 1


def test_sae_of_another_node_is_not_served() -> None:
    with pytest.raises(NotAuthorisedError, match="not registered") as refused:
        order(caller="stranger")
    assert refused.value.details == {"SAE_ID": "stranger"}


def test_own_id_as_peer_is_refused() -> None:
    with pytest.raises(BadRequestError, match="with itself"):
        order(slave="a")


def test_pair_outside_the_policy_is_refused() -> None:
    with pytest.raises(NotAuthorisedError, match="does not allow this pair"):
        order(PAIRED, caller="b", slave="c")


def test_policy_for_one_direction_does_not_open_the_other() -> None:
    assert order(PAIRED, caller="b", slave="a").slave_saes == ("a",)
    with pytest.raises(NotAuthorisedError, match="does not allow this pair"):
        order(PAIRED, caller="a", slave="b")


def test_one_additional_slave_outside_the_policy_refuses_the_whole_request() -> None:
    assert order(PAIRED, additional_slave_SAE_IDs=("d",)).slave_saes == ("c", "d")
    with pytest.raises(NotAuthorisedError) as refused:
        order(PAIRED, additional_slave_SAE_IDs=("d", "e"))
    assert refused.value.details == {"slave_SAE_ID": "e"}


def test_policy_answers_without_a_request_too() -> None:
    assert OPEN.may_pair("x", "y")
    assert PAIRED.may_pair("a", "c")
    assert not PAIRED.may_pair("c", "a")
