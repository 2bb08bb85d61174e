"""Keys on their last hop, to a foreign KMS: bare, as ETSI GS QKD 020 has them. Pure.

What protects them there is TLS alone. The same keys may be sent again as they are: the standard has a sender repeat or
void what may have been taken, and repeats bring the same values under the same IDs.
"""

from collections.abc import Mapping

from node.core.carried_extensions import unpacked
from node.core.foreign import ForeignKey
from node.core.keys import Direction, Parcel
from node.core.outcomes import FOREIGN_HOP, Outcome
from node.wire.etsi020 import AckStatus, ExtKey, ExtKeyContainer


def plain_transfer(parcel: Parcel) -> ExtKeyContainer:
    """Spell a parcel with bare bodies as the standard does; where it is to be acknowledged, the client adds."""
    of_all, of_keys = unpacked(parcel.carried, parcel.key_ids)
    keys = zip(parcel.key_ids, parcel.bodies, of_keys, strict=True)
    return ExtKeyContainer(
        keys=tuple(ExtKey(key_id=key_id, value=body, extension=extension) for key_id, body, extension in keys),
        initiator_sae_id=parcel.initiator_sae,
        target_sae_ids=parcel.target_saes,
        extension_optional=of_all,
    )


def sent_keys(parcel: Parcel) -> list[ForeignKey]:
    """Return what is to be remembered of keys that are sent to a foreign KMS: whom they were for, and no value."""
    return [
        ForeignKey(key_id, Direction.OUT, parcel.initiator_sae, parcel.target_saes, b"", parcel.expires_at, told=True)
        for key_id in parcel.key_ids
    ]


def outcome_before(parcel: Parcel, known: Mapping[str, ForeignKey]) -> Outcome | None:
    """Return what became of keys that were handed out before; None if they are to be sent, for the first time or again.

    A node before that did not hear of the outcome sends them again.
    """
    outcomes = [known[key_id].outcome for key_id in parcel.key_ids if key_id in known]
    if any(outcome not in (None, AckStatus.RELAYED) for outcome in outcomes):
        return Outcome(AckStatus.FAILED, parcel.path, parcel.protections, "the keys were given up before")
    if len(outcomes) < len(parcel.key_ids) or None in outcomes:
        return None
    way = (*parcel.path, parcel.downstream), (*parcel.protections, FOREIGN_HOP)
    return Outcome(AckStatus.RELAYED, *way)
