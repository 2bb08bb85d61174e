"""ETSI GS QKD 014 V1.1.1 on the wire: its data formats, member names spelled as printed, and its prescribed messages.

Requests are read strictly ("1" and true are no integers). Answers of other vendors' devices are read with the
tolerance that is needed in the field, by the `read_` functions. What a request is answered is not decided here.
No error raised here quotes a key.
"""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, JsonValue, ValidationError, field_validator

SIZE_NOT_MULTIPLE_OF_8 = "size shall be a multiple of 8"
MANDATORY_NOT_SUPPORTED = "not all extension_mandatory parameters are supported"
MANDATORY_NOT_MET = "not all extension_mandatory request options could be met"
OPTIONAL_NOT_HANDLED = "not all extension_optional request options handled"
KEYS_NOT_FOUND = "one or more keys specified are not found on KME"
BAD_REQUEST_FORMAT = "bad request format"

MAX_MESSAGE_CHARACTERS = 200
MAX_NAME_CHARACTERS = 64
MAX_DETAILS = 16
# More entries than any KME allows. Arrays are read up to their first fault: a refusal costs less than its request.
MAX_ENTRIES = 1024

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

Extension = dict[str, JsonValue]
WireT = TypeVar("WireT", bound="Wire")


class RequestFormatError(ValueError):
    """A request that is not what the standard describes; answered 400 with `error`."""

    def __init__(self, details: Iterable[tuple[str, str]]) -> None:
        named = [{where[:MAX_NAME_CHARACTERS]: wrong} for where, wrong in islice(details, MAX_DETAILS)]
        self.error = Error(message=BAD_REQUEST_FORMAT, details=named)
        super().__init__(f"{BAD_REQUEST_FORMAT}: {self.error.details}")


class MalformedAnswerError(ValueError):
    """A device's answer that even tolerance cannot read: `member` says where, `wrong` what."""

    def __init__(self, member: str, wrong: str) -> None:
        super().__init__(f"{member}: {wrong}")
        self.member = member
        self.wrong = wrong


class Wire(BaseModel):
    """A data format of the standard: strict types, unknown members passed over, inputs kept out of errors."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", hide_input_in_errors=True)


class Status(Wire):
    """Table 9. Sizes in bits."""

    source_KME_ID: str
    target_KME_ID: str
    master_SAE_ID: str
    slave_SAE_ID: str
    key_size: int
    stored_key_count: int
    max_key_count: int
    max_key_per_request: int
    max_key_size: int
    min_key_size: int
    max_SAE_ID_count: int
    status_extension: Extension | None = None


class KeyRequest(Wire):
    """Table 10. Size in bits; None stands for the default of the status."""

    number: int = Field(default=1, ge=1)
    size: int | None = Field(default=None, ge=1)
    additional_slave_SAE_IDs: Annotated[tuple[str, ...], Field(max_length=MAX_ENTRIES), FailFast()] = ()
    extension_mandatory: Annotated[tuple[Extension, ...], Field(max_length=MAX_ENTRIES), FailFast()] = ()
    extension_optional: Annotated[tuple[Extension, ...], Field(max_length=MAX_ENTRIES), FailFast()] = ()


class Key(Wire):
    """One key of table 11; `key` is in base64 and stays out of the repr."""

    key_ID: str
    key: str = Field(repr=False)
    key_ID_extension: Extension | None = None
    key_extension: Extension | None = None

    @classmethod
    def of(cls, key_id: str, value: bytes) -> "Key":
        """Make a key without extensions from its bytes."""
        return cls(key_ID=key_id, key=base64.b64encode(value).decode("ascii"))


class KeyContainer(Wire):
    """Table 11, with `keys` as in every example of the standard."""

    keys: tuple[Key, ...]
    key_container_extension: Extension | None = None


class KeyID(Wire):
    """One member of table 12; a UUID, compared in lower case."""

    key_ID: str
    key_ID_extension: Extension | None = None

    @field_validator("key_ID")
    @classmethod
    def _is_uuid(cls, value: str) -> str:
        if not _UUID.fullmatch(value.lower()):
            raise ValueError("not a UUID")
        return value.lower()


class KeyIDs(Wire):
    """Table 12."""

    key_IDs: Annotated[tuple[KeyID, ...], Field(max_length=MAX_ENTRIES), FailFast()]
    key_IDs_extension: Extension | None = None

    @field_validator("key_IDs")
    @classmethod
    def _names_one(cls, value: tuple[KeyID, ...]) -> tuple[KeyID, ...]:
        if not value:
            raise ValueError("names no key")
        return value


class Error(Wire):
    """The error body of 6.5."""

    message: str
    details: list[dict[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class DeliveredKey:
    """A key that a device handed out."""

    key_id: str
    value: bytes = field(repr=False)


def to_json_bytes(wire: Wire) -> bytes:
    """Serialise for a body; members that are None are left out."""
    return wire.__pydantic_serializer__.to_json(wire, exclude_none=True)


def parse_key_request(body: bytes) -> KeyRequest:
    """Read the body of a Get key call (empty: all defaults); raises RequestFormatError."""
    if not body:
        return KeyRequest()
    request = _parse(KeyRequest, body)
    if request.size is None and "size" in request.model_fields_set:
        # A member may be left out; null is no integer, here as in `number`.
        raise RequestFormatError([("size", "Input should be a valid integer")])
    return request


def parse_key_ids(body: bytes) -> KeyIDs:
    """Read the body of a Get key with key IDs call (empty: no member); raises RequestFormatError."""
    return _parse(KeyIDs, body or b"{}")


def key_request_from_query(query: Iterable[tuple[str, str]]) -> KeyRequest:
    """Read `number` and `size` of a GET; raises RequestFormatError, also for what only POST can carry."""
    members = _once_each(query, ("number", "size"))
    wrong = [(name, "not a decimal integer") for name, text in members.items() if not _is_integer(text)]
    if wrong:
        raise RequestFormatError(wrong)
    return _parse(KeyRequest, json.dumps({name: int(text) for name, text in members.items()}).encode())


def key_ids_from_query(query: Iterable[tuple[str, str]]) -> KeyIDs:
    """Read the one `key_ID` of a GET; raises RequestFormatError."""
    members = _once_each(query, ("key_ID",))
    if not members:
        raise RequestFormatError([("key_ID", "missing from the query")])
    return _parse(KeyIDs, json.dumps({"key_IDs": [members]}).encode())


def read_delivered_keys(body: bytes) -> tuple[DeliveredKey, ...]:
    """Read a device's key container (`keys` or `Keys`, `key_ID` or `key_id`); raises MalformedAnswerError."""
    container = _read_object(body)
    entries = container.get("keys", container.get("Keys"))
    if not isinstance(entries, list):
        raise MalformedAnswerError("keys", "no array of keys")
    return tuple(_read_key(f"keys[{index}]", entry) for index, entry in enumerate(entries))


def read_stored_key_count(body: bytes) -> int:
    """Read from a device's status what it holds; raises MalformedAnswerError."""
    count = _read_object(body).get("stored_key_count")
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 2**63:
        raise MalformedAnswerError("stored_key_count", "no count")
    return count


def read_error_message(body: bytes) -> str:
    """Read what a device gives as reason, as far as it gives one; never raises."""
    try:
        message = _read_object(body).get("message")
    except MalformedAnswerError:
        message = None
    return message[:MAX_MESSAGE_CHARACTERS] if isinstance(message, str) and message else "no reason given"


def _parse(model: type[WireT], body: bytes) -> WireT:
    try:
        read = model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestFormatError((".".join(map(str, e["loc"])) or "body", e["msg"]) for e in found) from None
    _refuse_what_pydantic_passes(body)
    return read


def _refuse_what_pydantic_passes(body: bytes) -> None:
    """Refuse members that stand twice, of which pydantic takes the last, and NaN, which is no JSON.

    Read once more, by C code, and only what was found to be JSON of bounded depth: some 2 us for an ordinary request.
    """
    try:
        _STRICT_JSON.decode(body.decode())
    except RequestFormatError:
        raise
    except ValueError:
        raise RequestFormatError([("body", "not JSON as of RFC 8259")]) from None


def _members_once(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({name for name, _value in pairs}) != len(pairs):
        times = Counter(name for name, _value in pairs)
        raise RequestFormatError((name, "stands twice") for name, number in times.items() if number > 1)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_STRICT_JSON = json.JSONDecoder(object_pairs_hook=_members_once, parse_constant=_no_constant)


def _once_each(query: Iterable[tuple[str, str]], allowed: tuple[str, ...]) -> dict[str, str]:
    members: dict[str, str] = {}
    for name, text in query:
        if name not in allowed:
            raise RequestFormatError([(name, f"not a parameter of this GET, which takes {' and '.join(allowed)}")])
        if name in members:
            raise RequestFormatError([(name, "given twice")])
        members[name] = text
    return members


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,18}", text) is not None


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        # The decoder's own error carries the whole text, keys and all.
        raise MalformedAnswerError("body", "not JSON") from None
    if not isinstance(answer, dict):
        raise MalformedAnswerError("body", "not an object")
    return answer


def _read_key(where: str, entry: object) -> DeliveredKey:
    if not isinstance(entry, dict):
        raise MalformedAnswerError(where, "not an object")
    key_id, encoded = entry.get("key_ID", entry.get("key_id")), entry.get("key")
    if not isinstance(key_id, str) or not key_id:
        raise MalformedAnswerError(f"{where}.key_ID", "no identifier")
    if not isinstance(encoded, str):
        raise MalformedAnswerError(f"{where}.key", "no string")
    try:
        value = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedAnswerError(f"{where}.key", "not base64") from None
    if not value:
        raise MalformedAnswerError(f"{where}.key", "empty")
    return DeliveredKey(key_id, value)
