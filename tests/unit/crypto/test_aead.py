"""The encodings under every protection: no two meanings share one encoding, no two sets of secrets one key."""

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.crypto.aead import associated_data, decrypt, derive, derive_one_message_key, encrypt, xor

# The letters that JSON itself is made of: where an encoding could be misread.
TEXTS = st.text(alphabet='ab01,:"\\[]{}ñ', max_size=4)
SCALARS = st.none() | st.booleans() | st.integers(-2, 11) | TEXTS
FIELDS = st.dictionaries(
    st.sampled_from(["a", "b", "ab"]), st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)
)


def marked(value: object) -> object:
    """Tell True from 1, which Python calls equal."""
    if isinstance(value, list | tuple):
        return tuple(marked(item) for item in value)
    return (type(value), value)


def meaning(fields: dict[str, Any]) -> object:
    return {name: marked(value) for name, value in fields.items()}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FIELDS, FIELDS)
def test_other_fields_never_encode_alike(left: dict[str, Any], right: dict[str, Any]) -> None:
    alike = associated_data("label", **left) == associated_data("label", **right)
    assert alike == (meaning(left) == meaning(right))


def test_fields_that_look_alike_when_run_together_encode_apart() -> None:
    encodings = [
        associated_data("label", a=("x", "y")),
        associated_data("label", a=("xy",)),
        associated_data("label", a=(("x",), ("y",))),
        associated_data("label", a="x,y"),
        associated_data("label", a='["x","y"]'),
        associated_data("label", a=1),
        associated_data("label", a="1"),
        associated_data("label", a=True),
        associated_data("label", a=None),
        associated_data("label"),
        associated_data("other label"),
        associated_data("label", fields="label"),
    ]
    assert all(left != right for left, right in itertools.combinations(encodings, 2))


def test_order_of_fields_and_kind_of_sequence_do_not_matter() -> None:
    assert associated_data("label", a=1, b=["x"]) == associated_data("label", b=("x",), a=1)


def test_text_from_a_peer_that_is_not_unicode_encodes_without_failing() -> None:
    assert associated_data("label", a="\ud800") != associated_data("label", a="\ud801")


@pytest.mark.parametrize("value", [b"bytes", 1.0, {"a": 1}, ["a", b"bytes"], {1}])
def test_value_without_one_clear_encoding_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="associated data cannot hold"):
        associated_data("label", a=value)


def test_secrets_label_and_context_each_make_another_key() -> None:
    keys = [
        derive((b"a", b"bc"), "label", b"context", 32),
        derive((b"ab", b"c"), "label", b"context", 32),
        derive((b"abc",), "label", b"context", 32),
        derive((b"bc", b"a"), "label", b"context", 32),
        derive((b"a", b"bc", b""), "label", b"context", 32),
        derive((b"a", b"bc"), "labelc", b"ontext", 32),
        derive((b"a", b"bc"), "label", b"other", 32),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("size", [0, 1, 15, 17])
def test_tag_that_is_not_whole_never_opens(size: int) -> None:
    key = derive_one_message_key((b"secret",), "label", b"")
    ciphertext, tag = encrypt(key, b"text", b"")
    assert decrypt(key, ciphertext, tag, b"") == b"text"
    # A byte moved across the border between ciphertext and tag keeps their concatenation as it was.
    joined = ciphertext + tag
    assert decrypt(key, joined[:-size] if size else joined, joined[len(joined) - size :], b"") is None


def test_keys_do_not_print_themselves() -> None:
    key = derive_one_message_key((b"secret",), "label", b"")
    assert key.key.hex() not in repr(key)
    assert repr(key.key) not in repr(key)


def test_pad_shorter_than_its_text_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot combine 3 bytes with 2"):
        xor(b"abc", b"ab")
    assert xor(b"\x00\x00\x01", b"\x00\x00\x01") == bytes(3)
