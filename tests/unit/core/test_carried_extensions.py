"""Extensions on their way: the same text at both ends of a hop, whatever JSON has in it, and never without a bound."""

import json
import uuid
from typing import Any

import pytest

from node.core.carried_extensions import MAX_CARRIED_BYTES, carried_by, unpacked
from node.errors import BadRequestError
from node.wire.etsi020 import ExtKey, ExtKeyContainer, dump, parse

PLAIN: dict[str, Any] = {"initiator_sae_id": "a1", "target_sae_ids": ["b"]}
VALUES: list[Any] = [
    None,
    {"member": None, "list": [None, {}, []]},
    1.0,
    -0.0,
    1e22,
    5e-324,
    2**53 + 1,
    10**300,
    True,
    "é\u2028\x00𝄞",
    {"": {"b": 1, "a": 2}},
]


def received(extension_optional: Any, of_key: Any) -> ExtKeyContainer:
    key = {"key_id": str(uuid.uuid4()), "value": "AA==", "extension": of_key}
    return parse(
        ExtKeyContainer, json.dumps({**PLAIN, "keys": [key], "extension_optional": extension_optional}).encode()
    )


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_goes_out_says_what_came_in_and_packs_to_the_same_text(value: Any) -> None:
    extension = {"E1_x": value}
    container = received(extension, extension)
    carried = carried_by(container)
    of_all, of_keys = unpacked(carried, [container.keys[0].key_id])
    key = ExtKey(key_id=container.keys[0].key_id, value=b"0", extension=of_keys[0])
    onward = dump(container.model_copy(update={"keys": (key,), "extension_optional": of_all}))
    body = json.loads(onward)
    assert repr(body["extension_optional"]) == repr(json.loads(json.dumps(extension, sort_keys=True)))
    assert body["keys"][0]["extension"] == extension
    assert carried_by(parse(ExtKeyContainer, onward)) == carried


def test_transfer_without_extensions_carries_nothing() -> None:
    assert carried_by(received(None, None)) == ""
    assert unpacked("", ["1", "2"]) == (None, (None, None))


@pytest.mark.parametrize(
    "value", [float("inf"), float("nan"), "x" * MAX_CARRIED_BYTES, ["é"] * (MAX_CARRIED_BYTES // 8)]
)
def test_what_cannot_be_said_again_or_is_too_long_is_refused(value: Any) -> None:
    for extensions in (({"E1_x": value}, None), (None, {"E1_x": value})):
        with pytest.raises(BadRequestError):
            carried_by(received(*extensions))
