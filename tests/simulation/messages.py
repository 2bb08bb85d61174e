"""What an eavesdropper reads in a transfer between nodes, without any key."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from node.wire.federation import END_TO_END, HYBRID_TRANSPORT


@dataclass(frozen=True, slots=True)
class Transfer:
    """One `ext_keys` request as it left a node."""

    sender: str
    receiver: str
    body: bytes = field(repr=False)
    transfer_id: str
    purpose: str
    initiator: str
    targets: tuple[str, ...]
    key_ids: tuple[str, ...]
    values: tuple[bytes, ...] = field(repr=False)
    protection: str
    link_key_ids: tuple[str, ...]
    hop_kem: tuple[str, str]
    end_to_end: dict[str, Any]

    @property
    def destination(self) -> str:
        """Where the bodies end."""
        return str(self.end_to_end["destination"])

    @property
    def block_ids(self) -> tuple[str, ...]:
        """The pool blocks that wrap the bodies."""
        return tuple(self.end_to_end.get("block_ids") or ())


def read_transfer(sender: str, receiver: str, body: bytes) -> Transfer:
    """Read a transfer."""
    members = json.loads(body)
    header, end = members["extension_mandatory"][HYBRID_TRANSPORT], members["extension_mandatory"][END_TO_END]
    return Transfer(
        sender=sender,
        receiver=receiver,
        body=body,
        transfer_id=header["transfer_id"],
        purpose=header["purpose"],
        initiator=members["initiator_sae_id"],
        targets=tuple(members["target_sae_ids"]),
        key_ids=tuple(key["key_id"] for key in members["keys"]),
        values=tuple(base64.b64decode(key["value"]) for key in members["keys"]),
        protection=header["protection"],
        link_key_ids=tuple(key_id for ids in header.get("link_key_ids", ()) for key_id in ids),
        hop_kem=(header["kem_key_id"], header["kem_ciphertext"]),
        end_to_end=end,
    )
