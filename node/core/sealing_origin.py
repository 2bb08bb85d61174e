"""What an origin puts on its way: blocks and keys sealed to the destination, keys wrapped with pool blocks."""

from collections.abc import Sequence
from dataclasses import replace

from node.core.destination import seal_context, wrap_context
from node.core.keys import Grade, KeyBlock, Parcel
from node.core.ports import PoolLedger
from node.crypto.end_to_end_seal import seal_for
from node.crypto.errors import KemError
from node.crypto.kem import Provider
from node.crypto.pool_wrap import blocks_needed, wrap
from node.crypto.suites import suite_kem
from node.errors import CannotServeError, InsufficientKeyMaterialError
from node.wire.federation import EndToEnd, KemPublicKey, Purpose


def draft(
    purpose: Purpose,
    keys: Sequence[KeyBlock],
    parties: tuple[str, tuple[str, ...]],
    ends: tuple[str, str],
    parcel_id: str,
    expires_at: float,
) -> Parcel:
    """Begin a parcel with bare bodies; `parties` = (initiator SAE, target SAEs), `ends` = (origin, destination)."""
    initiator, targets = parties
    origin, destination = ends
    return Parcel(
        parcel_id=parcel_id,
        purpose=purpose,
        initiator_sae=initiator,
        target_saes=targets,
        key_ids=tuple(key.key_id for key in keys),
        bodies=tuple(key.value for key in keys),
        end_to_end=EndToEnd(origin=origin, destination=destination),
        path=(origin,),
        protections=(),
        upstream=None,
        downstream="",
        expires_at=expires_at,
    )


def sealed(parcel: Parcel, key: KemPublicKey, provider: Provider) -> Parcel:
    """Seal the bodies to the destination's KEM key."""
    named = parcel.end_to_end.model_copy(update={"suite": key.suite, "kem_key_id": key.key_id})
    parcel = replace(parcel, end_to_end=named)
    try:
        done = seal_for(parcel.bodies, seal_context(parcel), suite_kem(provider, key.suite), key.public_key)
    except KemError as error:
        destination = parcel.end_to_end.destination
        raise CannotServeError(f"{destination} advertises a KEM key that is none: {error}") from error
    header = named.model_copy(update={"kem_ciphertext": done.kem_ciphertext, "tags": done.tags})
    return replace(parcel, bodies=done.ciphertexts, end_to_end=header)


def wrapped(ledger: PoolLedger, parcel: Parcel) -> tuple[Parcel, tuple[Grade, ...]]:
    """Wrap the bodies with pool blocks, spending them; raises InsufficientKeyMaterialError if there are too few."""
    destination = parcel.end_to_end.destination
    number = blocks_needed([len(body) for body in parcel.bodies])
    blocks = ledger.take_blocks(destination, number)
    if blocks is None:
        raise InsufficientKeyMaterialError(f"the pool with {destination} has fewer than {number} blocks")
    named = parcel.end_to_end.model_copy(update={"block_ids": tuple(block.key_id for block in blocks)})
    parcel = replace(parcel, end_to_end=named)
    done = wrap(parcel.bodies, [block.value for block in blocks], wrap_context(parcel))
    header = named.model_copy(update={"tags": (done.tag,)})
    return replace(parcel, bodies=done.values, end_to_end=header), tuple(block.grade for block in blocks)
