"""What an SAE makes of answers and of broken connections, without quoting keys."""

import base64
import json
import ssl
from itertools import pairwise
from typing import Any

import pytest
import requests

from loadtests.sae_client import RequestFailedError, read_keys, transport_reason

SECRET = base64.b64encode(b"thirty-two bytes of key material").decode()


def test_key_ids_are_compared_in_lower_case() -> None:
    keys = read_keys(json.dumps({"keys": [{"key_ID": "ABC", "key": SECRET}]}).encode())
    assert keys["abc"].value == b"thirty-two bytes of key material"


@pytest.mark.parametrize(
    "document",
    [
        {"Keys": SECRET},
        {"keys": SECRET},
        {"keys": [SECRET]},
        {"keys": [{"key_ID": "a"}]},
        {"keys": [{"key_ID": 1, "key": SECRET}]},
        {"keys": [{"key_ID": "a", "key": "!" + SECRET}]},
        {"keys": [{"key_ID": "a", "key": SECRET[:-1]}]},
        {"keys": [{"key_ID": "a", "key": SECRET}, {"key_ID": "A", "key": SECRET}]},
        [SECRET],
    ],
)
def test_a_malformed_key_container_is_a_failure_that_does_not_quote_it(document: Any) -> None:
    with pytest.raises(RequestFailedError, match="malformed answer") as raised:
        read_keys(json.dumps(document).encode())
    assert SECRET[:8] not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def chained(*errors: BaseException) -> BaseException:
    for outer, inner in pairwise(errors):
        outer.__context__ = inner
    return errors[0]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.ReadTimeout("at 0x7f3a"), "ReadTimeout"),
        (chained(requests.ConnectionError("at 0x7f3a"), ConnectionRefusedError(111, "Connection refused")), "refused"),
        (chained(requests.ConnectionError("at 0x7f3a"), ConnectionError("at 0x7f3a")), "ConnectionError"),
        (chained(requests.exceptions.SSLError("at 0x7f3a"), ssl.SSLError(1, "at 0x7f3a")), "TLS: SSLError"),
    ],
)
def test_equal_causes_of_broken_requests_get_equal_reasons(error: BaseException, reason: str) -> None:
    assert reason in transport_reason(error)
    assert "0x" not in transport_reason(error)
