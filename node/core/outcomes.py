"""What became of parcels: as acknowledgements say it, and what it means in the books of the origin. No I/O."""

import logging
from collections.abc import Collection
from dataclasses import dataclass

from pydantic import ValidationError

from node.core.keys import KeyState, Parcel, grade_of
from node.core.ports import Ledger
from node.errors import BadRequestError
from node.wire.etsi020 import AckContainer, AckStatus, KeyIdEntry
from node.wire.federation import PROVENANCE, HopProtection, Provenance, Purpose, extension

log = logging.getLogger("kmstn.relay")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a parcel, as its origin learns it."""

    status: AckStatus
    path: tuple[str, ...] = ()
    protections: tuple[HopProtection, ...] = ()
    message: str = ""


def close_books(ledger: Ledger, parcel: Parcel, outcome: Outcome, key_ids: Collection[str]) -> None:
    """Write the outcome into the books; what that means depends on what the parcel carried."""
    ledger.acknowledge(key_ids)
    if parcel.upstream is not None:
        return
    relayed = outcome.status is AckStatus.RELAYED
    if parcel.purpose is Purpose.POOL_BLOCK and relayed:
        ledger.confirm_blocks(key_ids, grade_of(outcome.protections))
    elif parcel.purpose is Purpose.POOL_BLOCK:
        ledger.drop_blocks(key_ids)
    else:
        state = KeyState.RELAYED if relayed else KeyState.VOIDED
        # Blocks gave a wrapped key its grade; a key that was relayed itself has that of its way.
        grade = grade_of(outcome.protections) if parcel.purpose is Purpose.SESSION_KEY and relayed else None
        for key_id in key_ids:
            ledger.update_record(key_id, state, outcome.path or None, grade)
        if not relayed and outcome.path[-1:] == (parcel.end_to_end.destination,) and parcel.end_to_end.block_ids:
            # The destination could not unwrap: it may have lost its store, and with it the other blocks of this pool.
            dropped = ledger.drop_pool(parcel.end_to_end.destination)
            log.warning("%s did not keep keys, %d pool blocks dropped", parcel.end_to_end.destination, dropped)


def key_ids_between(ledger: Ledger, master: str, slaves: tuple[str, ...]) -> tuple[str, ...]:
    """Return the IDs of all keys between a master and any of the slaves."""
    return tuple({key_id for slave in slaves for key_id in ledger.key_ids_between(master, slave)})


def void_outcomes(states: dict[str, KeyState | None]) -> dict[AckStatus, list[str]]:
    """Group keys by what voiding them came to."""
    groups: dict[AckStatus, list[str]] = {}
    for key_id, state in states.items():
        status = AckStatus.FAILED_TO_VOID
        if state is None:
            status = AckStatus.NOT_PRESENT
        elif state is KeyState.VOIDED:
            status = AckStatus.VOIDED
        groups.setdefault(status, []).append(key_id)
    return groups


def outcome_of(ack: AckContainer) -> Outcome:
    """Read what an acknowledgement says; raises BadRequestError."""
    carried = (ack.extension or {}).get(PROVENANCE)
    try:
        way = Provenance.model_validate(carried) if carried else Provenance(path=(), protections=())
    except ValidationError as error:
        wrong = {PROVENANCE: f"{error.error_count()} wrong members"}
        raise BadRequestError("the provenance cannot be read", wrong, slug="ack-not-understood") from None
    return Outcome(ack.ack_status, way.path, way.protections, ack.message or "")


def acknowledgement(
    key_ids: Collection[str], initiator: str, targets: tuple[str, ...], outcome: Outcome
) -> AckContainer:
    """Make the acknowledgement that carries an outcome."""
    provenance = Provenance(path=outcome.path, protections=outcome.protections)
    return AckContainer(
        key_id_container=tuple(KeyIdEntry(key_id=key_id) for key_id in key_ids),
        ack_status=outcome.status,
        initiator_sae_id=initiator,
        target_sae_ids=targets,
        message=outcome.message or None,
        extension=extension(PROVENANCE, provenance) if outcome.path else None,
    )
