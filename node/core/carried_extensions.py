"""Extensions that a node does not understand and passes on unchanged: those of a transfer, and those of single keys.

ETSI GS QKD 020: members of `extension_optional` that are not implemented go along. Between two hops they are one JSON
text: bounded, stored with the parcel, and associated data of the next hop, so that nobody on a link can alter them.
"""

import json
from collections.abc import Sequence

from node.errors import BadRequestError
from node.wire.etsi020 import Extension, ExtKeyContainer

MAX_CARRIED_BYTES = 16 * 1024

Carried = tuple[Extension | None, Sequence[Extension | None]]


def carried_by(container: ExtKeyContainer) -> str:
    """Return the extensions of a transfer as text, the same at both ends of a hop; empty if there are none.

    Raises BadRequestError if there is more than a node carries, or something that cannot be said again in JSON.
    """
    of_all, of_keys = (
        container.extension_optional,
        {key.key_id: key.extension for key in container.keys if key.extension},
    )
    if of_all is None and not of_keys:
        return ""
    try:
        text = json.dumps([of_all, of_keys], separators=(",", ":"), sort_keys=True, allow_nan=False)
    except ValueError:
        raise BadRequestError("an extension cannot be passed on", {"extension_optional": "not JSON"}) from None
    if len(text) > MAX_CARRIED_BYTES:
        most = {"extension_optional": f"at most {MAX_CARRIED_BYTES} bytes, with those of the keys"}
        raise BadRequestError("extensions are longer than a node carries", most)
    return text


def unpacked(carried: str, key_ids: Sequence[str]) -> Carried:
    """Return what `carried_by` packed: the extension of the transfer and those of its keys, None for a key without."""
    if not carried:
        return None, (None,) * len(key_ids)
    of_all, of_keys = json.loads(carried)
    return of_all, [of_keys.get(key_id) for key_id in key_ids]
