"""Every bound of a Get key request: at the bound it passes, one beyond it is refused and says what was wrong."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from node.core.demands import Demands
from node.core.key_request import Admission, KeyOrder, check_sae_id
from node.core.keys import Grade
from node.errors import BadRequestError, NotAuthorisedError
from node.settings import KeySettings
from node.wire import etsi014

KEYS = KeySettings(
    key_size=256,
    min_key_size=64,
    max_key_size=1024,
    max_key_per_request=4,
    max_key_count=100,
    max_sae_id_count=2,
    max_bits_per_request=2048,
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
        ({"additional_slave_SAE_IDs": ("c",)}, "listed twice", "additional_slave_SAE_IDs"),
        ({"additional_slave_SAE_IDs": ("d", "d")}, "listed twice", "additional_slave_SAE_IDs"),
        ({"additional_slave_SAE_IDs": ("d", "e f")}, "not an SAE ID", "additional_slave_SAE_IDs.1"),
        ({"number": 3, "size": 1024}, "too much for one request", "number"),
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


def test_most_additional_slaves_pass() -> None:
    assert order(additional_slave_SAE_IDs=("d", "e")).slave_saes == ("c", "d", "e")


def test_optional_extension_is_no_reason_to_refuse() -> None:
    assert order(extension_optional=({"magic": 1}, {"kmstn_grade": "qkd"}, {"kmstn_suite": "x"})).demands == Demands()


def test_mandatory_extensions_become_demands() -> None:
    wanted: Any = ({"kmstn_grade": "qkd", "kmstn_suite": "x"}, {}, {"kmstn_provenance": True})
    demands = order(extension_mandatory=wanted).demands
    assert demands == Demands(Grade.QKD, "x", True)
    assert demands.of_the_way
    assert not order(extension_mandatory=({"kmstn_grade": "pqc", "kmstn_provenance": False},)).demands.of_the_way


def test_mandatory_provenance_is_preferred_to_an_optional_one() -> None:
    both: dict[str, Any] = {
        "extension_mandatory": ({"kmstn_provenance": False},),
        "extension_optional": ({"kmstn_provenance": True},),
    }
    assert not order(**both).demands.provenance


def test_unknown_mandatory_extension_is_named_before_a_bad_value() -> None:
    with pytest.raises(BadRequestError, match=etsi014.MANDATORY_NOT_SUPPORTED) as refused:
        order(extension_mandatory=({"kmstn_grade": 7, "magic": 1},))
    assert refused.value.details == {"magic": "not supported"}


NAMES = st.sampled_from(["kmstn_grade", "kmstn_suite", "kmstn_provenance", "x_y"]) | st.text(max_size=5)
VALUES = st.recursive(
    st.sampled_from(["qkd", "pqc", "mlkem768-v1"])
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
OPTIONS = st.lists(st.dictionaries(NAMES, VALUES, max_size=3), max_size=3)


@given(mandatory=OPTIONS, optional=OPTIONS)
def test_whatever_stands_in_the_extensions_is_taken_or_refused_in_short(mandatory: Any, optional: Any) -> None:
    made, error = None, None
    try:
        made = order(extension_mandatory=tuple(mandatory), extension_optional=tuple(optional))
    except BadRequestError as refused:
        error = etsi014.Error(message=refused.message, details=[{name: text} for name, text in refused.details.items()])
    if made is not None:
        known = {"kmstn_grade", "kmstn_suite", "kmstn_provenance"}
        assert all(set(option) <= known for option in mandatory)
        assert made.demands.grade in (None, "qkd", "pqc")
    assert error is None or len(etsi014.to_json_bytes(error)) < 4096


@pytest.mark.parametrize("sae", ["a", "A-z0.9_~", "dir/sae", "50%2F", "a+b", "urn:x:y?z=1#2", "x" * 64])
def test_id_of_characters_that_a_uri_allows_passes(sae: str) -> None:
    check_sae_id("where", sae)


@pytest.mark.parametrize("sae", ["", "x" * 65, "a b", "a\n", "\x00", "é", "\ufffd", '"', "a\\b", "<a>"])
def test_id_that_no_sae_can_have_is_refused_without_being_quoted(sae: str) -> None:
    with pytest.raises(BadRequestError, match="not an SAE ID") as refused:
        check_sae_id("where", sae)
    assert list(refused.value.details) == ["where"]
    assert not sae or sae not in str(refused.value.details)


@pytest.mark.parametrize(
    "figures",
    [
        {"key_size": 255},
        {"min_key_size": 0},
        {"min_key_size": 512},
        {"max_key_size": 128},
        {"max_key_size": 262_144},
        {"max_bits_per_request": 2048},
        {"max_key_per_request": 0},
        {"max_key_per_request": 1025},
        {"max_sae_id_count": 64},
        {"max_key_count": -1},
    ],
)
def test_figures_that_do_not_fit_each_other_are_refused_at_the_start(figures: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        KeySettings(**figures)


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
