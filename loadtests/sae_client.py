"""One SAE as a client of its own node: ETSI GS QKD 014 over mutual TLS, one kept connection, every request observed.

The SAE trusts the CA of its own domain and nothing else. A request is never repeated: neither call is idempotent,
and a key that is lost to a broken connection is a key lost. No reason given here quotes key bytes.
"""

import base64
import binascii
import json
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hmac import compare_digest
from time import perf_counter
from typing import Any
from urllib.parse import quote

import requests
import urllib3

from loadtests.settings import Credentials, Sae

MAX_REASON_CHARACTERS = 200


class Call(StrEnum):
    """The two methods under load, spelled as in the URL."""

    ENC_KEYS = "enc_keys"
    DEC_KEYS = "dec_keys"


class RequestFailedError(Exception):
    """A request that brought no keys; its text is the reason, fit for a report."""


Observer = Callable[[Call, float, RequestFailedError | None], None]
"""Told of every finished request: which call, after how many milliseconds, and why it failed if it did."""


@dataclass(frozen=True)
class ReceivedKey:
    """A key as one SAE got it."""

    key_id: str
    value: bytes = field(repr=False)

    def equals(self, other: "ReceivedKey") -> bool:
        """Compare the bytes in constant time."""
        return compare_digest(self.value, other.value)


class SaeClient:
    """Requests of one SAE; not for use by two users at once."""

    def __init__(self, sae: Sae, files: Credentials, timeout_s: float, observe: Observer) -> None:
        self.sae = sae
        self._timeout_s = timeout_s
        self._observe = observe
        self._session = requests.Session()
        # The environment could otherwise bring in a proxy or a bundle of other CAs.
        self._session.trust_env = False
        self._session.verify = str(files.authority)
        self._session.cert = (str(files.certificate), str(files.key))

    def connect(self, peer: Sae) -> None:
        """Open the connection by a Get status, so that no latency of a key request contains the first handshake.

        A failure is left to the key requests, which meet it again and count it.
        """
        try:
            self._session.get(self._url(peer, "status"), timeout=self._timeout_s, allow_redirects=False)
        except (OSError, urllib3.exceptions.HTTPError):
            return

    def enc_keys(self, slave: Sae, number: int, size_bits: int | None) -> dict[str, ReceivedKey]:
        """Ask for new keys, by ID; `size_bits` None leaves the size to the node. Raises RequestFailedError."""
        body: dict[str, Any] = {"number": number} if size_bits is None else {"number": number, "size": size_bits}

        def read(content: bytes) -> dict[str, ReceivedKey]:
            keys = read_keys(content)
            if len(keys) != number:
                raise RequestFailedError(f"malformed answer: {len(keys)} keys instead of {number}")
            if size_bits is not None and any(len(key.value) * 8 != size_bits for key in keys.values()):
                raise RequestFailedError(f"malformed answer: a key is not of {size_bits} bits")
            return keys

        return self._post(Call.ENC_KEYS, slave, body, read)

    def dec_keys(self, master: Sae, key_ids: Iterable[str]) -> dict[str, ReceivedKey]:
        """Fetch the keys that the master was given, by ID; raises RequestFailedError."""
        body = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
        return self._post(Call.DEC_KEYS, master, body, read_keys)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _url(self, peer: Sae, method: str) -> str:
        return f"{self.sae.url.rstrip('/')}/api/v1/keys/{quote(peer.name, safe='')}/{method}"

    def _post(
        self, call: Call, peer: Sae, body: Mapping[str, Any], read: Callable[[bytes], dict[str, ReceivedKey]]
    ) -> dict[str, ReceivedKey]:
        start = perf_counter()
        failure, keys = None, {}
        try:
            answer = self._session.post(
                self._url(peer, call), json=body, timeout=self._timeout_s, allow_redirects=False
            )
            elapsed_ms = (perf_counter() - start) * 1000
            keys = read(_body_of_success(answer))
        except RequestFailedError as error:
            failure = error
        except (OSError, urllib3.exceptions.HTTPError) as error:
            elapsed_ms = (perf_counter() - start) * 1000
            failure = RequestFailedError(transport_reason(error))
        self._observe(call, elapsed_ms, failure)
        if failure is not None:
            raise failure
        return keys


def read_keys(content: bytes) -> dict[str, ReceivedKey]:
    """Read a key container (table 11) into keys by ID in lower case; raises RequestFailedError."""
    try:
        entries = [(entry["key_ID"].lower(), entry["key"]) for entry in json.loads(content)["keys"]]
        keys = {key_id: ReceivedKey(key_id, base64.b64decode(text, validate=True)) for key_id, text in entries}
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise RequestFailedError("malformed answer: no key container") from None
    if len(keys) != len(entries):
        raise RequestFailedError("malformed answer: a key ID appears twice")
    return keys


def transport_reason(error: BaseException) -> str:
    """Name the first cause of a broken request without addresses or object IDs, so that equal causes add up."""
    if isinstance(error, requests.Timeout):
        return type(error).__name__
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"node's certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {getattr(error, 'reason', None) or type(error).__name__}"
    return getattr(error, "strerror", None) or type(error).__name__


def _body_of_success(answer: requests.Response) -> bytes:
    if answer.status_code == 200:
        return answer.content
    try:
        message = " ".join(str(answer.json()["message"]).split())
    except (ValueError, KeyError, TypeError):
        message = "no Error body"
    raise RequestFailedError(f"{answer.status_code} {message}"[:MAX_REASON_CHARACTERS])
