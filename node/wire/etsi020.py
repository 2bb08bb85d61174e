"""ETSI GS QKD 020 V1.1.1 on the wire: the containers of its schemas and its problem bodies (RFC 9457).

Names are the standard's. What a message means, and whether it is allowed, is decided in `core`.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError

from node.settings import SaeId

PROBLEM_BASE = "https://qkd.etsi.org/gs020-interop-kms/"
MAX_BODY_BYTES = 4 * 1024 * 1024
# Of one transfer, acknowledgement or request to void.
MAX_KEYS = 1024
SYNCHRONOUS_MODE = "synchronous_mode"


def _decode_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64 as of RFC 4648") from None


def _encode_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


# Bytes inside, base64 on the wire: decoding is canonical alphabet only, and never quotes its input.
Base64 = Annotated[bytes, BeforeValidator(_decode_base64), PlainSerializer(_encode_base64, when_used="json")]
KeyId = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$")]
Extension = Annotated[dict[str, Any], Field(min_length=1, max_length=1024)]


class AckStatus(StrEnum):
    """What became of keys, as one node tells the one before it."""

    RELAYED = "relayed"
    FAILED = "failed"
    VOIDED = "voided"
    FAILED_TO_VOID = "failed to void"
    NOT_PRESENT = "key not present"


class Wire020(BaseModel):
    """Members of other spellings are passed over, as JSON schemas do by default."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class ExtKey(Wire020):
    """One key under way; `value` is base64 on the wire."""

    key_id: KeyId
    value: Base64 = Field(repr=False)
    extension: Extension | None = None


class ExtKeyContainer(Wire020):
    """Body of `POST /kmapi/v1/ext_keys`."""

    keys: tuple[ExtKey, ...] = Field(min_length=1, max_length=MAX_KEYS)
    initiator_sae_id: SaeId
    target_sae_ids: tuple[SaeId, ...] = Field(min_length=1, max_length=64)
    ack_callback_url: str | None = Field(default=None, max_length=1024)
    extension_mandatory: Extension | None = None
    extension_optional: Extension | None = None


class KeyIdEntry(Wire020):
    """One entry of `key_id_container` (the prose of the standard is normative: an object, not its properties)."""

    key_id: KeyId
    extension: Extension | None = None


class AckContainer(Wire020):
    """What became of some keys between an initiator and its targets."""

    key_id_container: tuple[KeyIdEntry, ...] = Field(max_length=MAX_KEYS)
    ack_status: AckStatus
    initiator_sae_id: SaeId
    target_sae_ids: tuple[SaeId, ...] = Field(max_length=64)
    message: str | None = Field(default=None, max_length=4096)
    extension: Extension | None = None


class VoidContainer(Wire020):
    """Body of `POST /kmapi/v1/ext_keys/void`."""

    key_ids: tuple[KeyId, ...] = Field(max_length=MAX_KEYS)
    initiator_sae_id: SaeId
    target_sae_ids: tuple[SaeId, ...] = Field(min_length=1, max_length=64)
    ack_callback_url: str | None = Field(default=None, max_length=1024)
    extension: Extension | None = None
    all_confirmation: bool | None = Field(default=None, strict=True)


class VersionContainer(Wire020):
    """Answer of `GET /kmapi/versions`."""

    versions: tuple[str, ...]
    capabilities: tuple[str, ...] = ()
    extension: Extension | None = None


AckContainers = TypeAdapter(Annotated[tuple[AckContainer, ...], Field(max_length=1024)])
Slug = Literal["missing-parameters", "invalid-parameter", "ack-not-understood", "void-request-not-understood"]


class MessageFormatError(ValueError):
    """A body that is not what the standard's schema says; `details` = {place: what is wrong}, without values."""

    def __init__(self, slug: Slug, details: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{place}: {wrong}" for place, wrong in details.items()))
        self.slug: Slug = slug
        self.details = dict(details)


WireT = TypeVar("WireT", bound=Wire020)


def parse(model: type[WireT], body: bytes, not_understood: Slug = "invalid-parameter") -> WireT:
    """Read one container; raises MessageFormatError naming each wrong member, `not_understood` if it is none at all."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _format_error(error, not_understood) from None


def parse_acks(body: bytes) -> tuple[AckContainer, ...]:
    """Read the array that `POST /kmapi/v1/ext_keys/ack` takes; raises MessageFormatError."""
    try:
        return AckContainers.validate_json(body)
    except ValidationError as error:
        raise _format_error(error, "ack-not-understood") from None


def dump(container: Wire020) -> bytes:
    """Serialise a container, leaving out what is absent."""
    return container.model_dump_json(exclude_none=True).encode()


def dump_acks(acks: tuple[AckContainer, ...]) -> bytes:
    """Serialise an array of acknowledgements."""
    return AckContainers.dump_json(acks, exclude_none=True)


def problem(status: int, slug: str, title: str, details: Mapping[str, str]) -> bytes:
    """Serialise a problem body: the standard's member is `details`, an object of strings, not `detail`."""
    body: dict[str, Any] = {"type": PROBLEM_BASE + slug, "status": status, "title": title[:1024]}
    if details:
        body["details"] = {name[:128]: value[:1024] for name, value in details.items()}
    return json.dumps(body, separators=(",", ":")).encode()


def _format_error(error: ValidationError, not_understood: Slug) -> MessageFormatError:
    findings = error.errors(include_url=False, include_context=False, include_input=False)[:16]
    wrong_inside = {finding["loc"][:depth] for finding in findings for depth in range(len(finding["loc"]))}
    # pydantic counts only the members of an array that are right, and then finds it too short as well.
    findings = [one for one in findings if one["type"] != "too_short" or one["loc"] not in wrong_inside]
    details = {".".join(map(str, finding["loc"])) or "body": finding["msg"] for finding in findings}
    missing = all(finding["type"] == "missing" for finding in findings)
    if not missing and any(_is_of_the_whole(finding["loc"]) for finding in findings):
        return MessageFormatError(not_understood, details)
    return MessageFormatError("missing-parameters" if missing else "invalid-parameter", details)


def _is_of_the_whole(place: tuple[int | str, ...]) -> bool:
    """Tell whether a finding is about a body, a container of an array, or the status that it is sent for."""
    return place == () or place[1:] == ("ack_status",) or (len(place) == 1 and isinstance(place[0], int))
