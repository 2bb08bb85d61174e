"""The data formats of ETSI GS QKD 014: strict on requests, tolerant on devices' answers, silent about keys."""

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.wire import etsi014
from node.wire.etsi014 import (
    DeliveredKey,
    Error,
    Key,
    KeyContainer,
    KeyRequest,
    MalformedAnswerError,
    RequestFormatError,
    Status,
    key_ids_from_query,
    key_request_from_query,
    parse_key_ids,
    parse_key_request,
    read_delivered_keys,
    read_error_message,
    read_stored_key_count,
    to_json_bytes,
)

KEY_ID = "bc490419-7d60-487f-adc1-4ddcc177c139"
SECRET = bytes(range(32))
SECRET_BASE64 = base64.b64encode(SECRET).decode()


def test_empty_request_has_the_defaults_of_the_standard() -> None:
    assert parse_key_request(b"{}") == parse_key_request(b"") == KeyRequest(number=1, size=None)


def test_full_request_is_read() -> None:
    body = {
        "number": 3,
        "size": 1024,
        "additional_slave_SAE_IDs": ["ABCDEFG", "HIJKLMN"],
        "extension_mandatory": [{"abc_route_type": "direct"}, {"abc_transfer_method": "qkd"}],
        "extension_optional": [{"abc_max_age": 30000}],
    }
    read = parse_key_request(json.dumps(body).encode())
    assert json.loads(to_json_bytes(read)) == body


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"number": "1"}', "number"),
        (b'{"number": true}', "number"),
        (b'{"number": 1.0}', "number"),
        (b'{"number": 0}', "number"),
        (b'{"size": -8}', "size"),
        (b'{"additional_slave_SAE_IDs": "x"}', "additional_slave_SAE_IDs"),
        (b'{"additional_slave_SAE_IDs": ["x", 1]}', "additional_slave_SAE_IDs.1"),
        (b'{"extension_mandatory": {"a_b": 1}}', "extension_mandatory"),
        (b'{"size": null}', "size"),
        (b'{"number": 1, "number": 1}', "number"),
        (b'{"a_b": {"x": [{"y": 1, "z": 2, "y": 1}]}}', "y"),
        (b'{"a_b": NaN}', "body"),
        (b'{"extension_optional": [{"a_b": -Infinity}]}', "body"),
        (b'{"a_b": ' + b"[" * 300 + b"]" * 300 + b"}", "body"),
        (b'{"a_b": "\\ud800"}', "body"),
        (b"[]", "body"),
        (b'{"number": ', "body"),
        (b"\xff", "body"),
    ],
)
def test_malformed_key_request_names_the_member(body: bytes, where: str) -> None:
    with pytest.raises(RequestFormatError) as refused:
        parse_key_request(body)
    assert refused.value.error.details is not None
    assert list(refused.value.error.details[0]) == [where]


def test_messages_are_those_of_the_standard_letter_for_letter() -> None:
    """As printed in 5.2, 5.3 and 6.2 of V1.1.1."""
    assert etsi014.SIZE_NOT_MULTIPLE_OF_8 == "size shall be a multiple of 8"
    assert etsi014.MANDATORY_NOT_SUPPORTED == "not all extension_mandatory parameters are supported"
    assert etsi014.MANDATORY_NOT_MET == "not all extension_mandatory request options could be met"
    assert etsi014.OPTIONAL_NOT_HANDLED == "not all extension_optional request options handled"
    assert etsi014.KEYS_NOT_FOUND == "one or more keys specified are not found on KME"


@pytest.mark.parametrize(
    "body",
    [
        b'{"additional_slave_SAE_IDs": [' + b"1," * 100_000 + b"1]}",
        b'{"extension_mandatory": [' + b"1," * 100_000 + b"1]}",
        b"{" + b",".join(b'"%d": 1, "%d": 1' % (n, n) for n in range(10_000)) + b"}",
        b'{"' + b"x" * 100_000 + b'": 1, "' + b"x" * 100_000 + b'": 2}',
    ],
)
def test_refusal_of_a_great_body_is_short(body: bytes) -> None:
    with pytest.raises(RequestFormatError) as refused:
        parse_key_request(body)
    assert len(to_json_bytes(refused.value.error)) < 2048


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["number", "size", "key_IDs", "key_ID", "extension_mandatory"]), inner)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
@example(b'{"number": 1' + b"0" * 4299 + b"}")
@example(b'{"x": 1' + b"0" * 4299 + b"}")
@example(b'{"x": 1e' + b"9" * 400 + b"}")
def test_whatever_the_body_is_it_is_read_or_refused(body: bytes) -> None:
    for parse in (parse_key_request, parse_key_ids):
        with contextlib.suppress(RequestFormatError):
            parse(body)


def test_more_entries_than_any_kme_allows_are_not_read() -> None:
    body = json.dumps({"key_IDs": [{"key_ID": KEY_ID}] * 1025}).encode()
    with pytest.raises(RequestFormatError):
        parse_key_ids(body)


def test_empty_request_for_key_ids_names_what_is_missing() -> None:
    with pytest.raises(RequestFormatError) as refused:
        parse_key_ids(b"")
    assert refused.value.error.details == [{"key_IDs": "Field required"}]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"key_IDs": []}', b'{"key_IDs": [{"key_ID": "x"}]}', b'{"key_IDs": [{}]}', b'{"key_IDs": [1]}'],
)
def test_malformed_key_ids_are_refused(body: bytes) -> None:
    with pytest.raises(RequestFormatError):
        parse_key_ids(body)


def test_key_id_is_compared_in_lower_case() -> None:
    body = json.dumps({"key_IDs": [{"key_ID": KEY_ID.upper()}]}).encode()
    assert parse_key_ids(body).key_IDs[0].key_ID == KEY_ID


def test_get_request_takes_number_and_size() -> None:
    assert key_request_from_query([("number", "3"), ("size", "512")]) == KeyRequest(number=3, size=512)
    assert key_request_from_query([]) == KeyRequest()


@pytest.mark.parametrize(
    "query",
    [
        [("number", "three")],
        [("number", "")],
        [("number", "1_0")],
        [("number", "٣")],
        [("number", "0")],
        [("number", "9" * 5000)],
        [("number", "1"), ("number", "2")],
        [("extension_mandatory", "[]")],
    ],
)
def test_malformed_query_is_refused(query: list[tuple[str, str]]) -> None:
    with pytest.raises(RequestFormatError):
        key_request_from_query(query)


def test_get_with_key_id_takes_exactly_one() -> None:
    assert key_ids_from_query([("key_ID", KEY_ID)]).key_IDs[0].key_ID == KEY_ID
    for query in ([], [("key_ID", KEY_ID)] * 2):
        with pytest.raises(RequestFormatError):
            key_ids_from_query(query)


def test_members_are_spelled_as_in_the_standard() -> None:
    container = KeyContainer(keys=(Key.of(KEY_ID, SECRET),))
    assert json.loads(to_json_bytes(container)) == {"keys": [{"key_ID": KEY_ID, "key": SECRET_BASE64}]}
    assert to_json_bytes(Error(message="m")) == b'{"message":"m"}'
    assert set(Status.model_fields) == {
        *("source_KME_ID", "target_KME_ID", "master_SAE_ID", "slave_SAE_ID", "key_size", "stored_key_count"),
        *("max_key_count", "max_key_per_request", "max_key_size", "min_key_size", "max_SAE_ID_count"),
        "status_extension",
    }


def test_repr_shows_no_key() -> None:
    key = Key.of(KEY_ID, SECRET)
    for shown in (repr(key), str(key), repr(KeyContainer(keys=(key,))), repr(DeliveredKey(KEY_ID, SECRET))):
        assert KEY_ID in shown
        assert SECRET_BASE64 not in shown
        assert repr(SECRET) not in shown


@pytest.mark.parametrize(
    "answer",
    [
        {"keys": [{"key_ID": KEY_ID, "key": SECRET_BASE64}]},
        {"Keys": [{"key_ID": KEY_ID, "key": SECRET_BASE64}]},
        {"keys": [{"key_id": KEY_ID, "key": SECRET_BASE64, "vendor": 1}], "extra": {}},
    ],
)
def test_dialects_of_the_key_container_are_read(answer: dict[str, Any]) -> None:
    assert read_delivered_keys(json.dumps(answer).encode()) == (DeliveredKey(KEY_ID, SECRET),)


@pytest.mark.parametrize(
    ("answer", "member"),
    [
        ([], "body"),
        ({}, "keys"),
        ({"keys": {}}, "keys"),
        ({"keys": [SECRET_BASE64]}, "keys[0]"),
        ({"keys": [{"key": SECRET_BASE64}]}, "keys[0].key_ID"),
        ({"keys": [{"key_ID": 7, "key": SECRET_BASE64}]}, "keys[0].key_ID"),
        ({"keys": [{"key_ID": KEY_ID, "key": [SECRET_BASE64]}]}, "keys[0].key"),
        ({"keys": [{"key_ID": KEY_ID, "key": SECRET_BASE64 + "!"}]}, "keys[0].key"),
        ({"keys": [{"key_ID": KEY_ID, "key": SECRET_BASE64[:-1]}]}, "keys[0].key"),
        ({"keys": [{"key_ID": KEY_ID, "key": ""}]}, "keys[0].key"),
    ],
)
def test_malformed_key_container_is_named_without_its_keys(answer: Any, member: str) -> None:
    with pytest.raises(MalformedAnswerError) as refused:
        read_delivered_keys(json.dumps(answer).encode())
    assert refused.value.member == member
    assert SECRET_BASE64[:8] not in repr(refused.value)


def test_broken_json_with_a_key_in_it_leaves_no_key_in_the_error() -> None:
    with pytest.raises(MalformedAnswerError) as refused:
        read_delivered_keys(f'{{"keys": [{{"key": "{SECRET_BASE64}"'.encode())
    # The decoder's error holds the document, so it may be neither cause nor printed context.
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    "answer", [{}, {"stored_key_count": "3"}, {"stored_key_count": True}, {"stored_key_count": -1}]
)
def test_status_without_a_count_is_malformed(answer: dict[str, Any]) -> None:
    with pytest.raises(MalformedAnswerError, match="stored_key_count"):
        read_stored_key_count(json.dumps(answer).encode())


def test_stored_key_count_of_a_sparse_status_is_read() -> None:
    assert read_stored_key_count(b'{"stored_key_count": 3}') == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message": "no keys"}', "no keys"),
        (b'{"error": "no keys"}', "no reason given"),
        (b"", "no reason given"),
        (b"<html>", "no reason given"),
        (b'{"message": 5}', "no reason given"),
        (json.dumps({"message": "x" * 500}).encode(), "x" * 200),
    ],
)
def test_error_answers_of_devices_are_read_as_far_as_they_go(body: bytes, message: str) -> None:
    assert read_error_message(body) == message
