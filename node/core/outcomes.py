"""What became of parcels: as acknowledgements say it, and what it means in the books of the origin. No I/O."""

import logging
from collections.abc import Collection
from dataclasses import dataclass

from pydantic import ValidationError

from node.core.foreign import is_foreign
from node.core.keys import Grade, KeyState, Parcel, grade_of
from node.core.ports import Ledger
from node.errors import BadRequestError
from node.wire.etsi020 import AckContainer, AckStatus, KeyIdEntry
from node.wire.federation import PROVENANCE, HopProtection, Provenance, Purpose, Refusal, extension

log = logging.getLogger("kmstn.relay")

# A foreign KMS knows none of our hop transport.
FOREIGN_HOP: HopProtection = "tls"
# Of keys that are not under way, to tell a late acknowledgement from a senseless one: no more, since anybody can ask.
LOOKED_UP = 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a parcel, as its origin learns it."""

    status: AckStatus
    path: tuple[str, ...] = ()
    protections: tuple[HopProtection, ...] = ()
    message: str = ""
    refusal: Refusal | None = None

    @property
    def grade(self) -> Grade:
        """The grade of the way; `pqc` unless the acknowledgement says of every hop what protected it."""
        told = len(self.protections) == len(self.path) - 1 > 0
        return grade_of(self.protections) if told else Grade.PQC


def seen_from_here(parcel: Parcel, outcome: Outcome) -> Outcome:
    """Return an outcome with the way that this node knows: a foreign KMS says nothing of it, and would not be believed.

    What it did not take it may say in words; it is the end of the way all the same.
    """
    if not is_foreign(parcel.downstream):
        return outcome
    way = (*parcel.path, parcel.downstream), (*parcel.protections, FOREIGN_HOP)
    return Outcome(outcome.status, *way, outcome.message)


def close_books(ledger: Ledger, parcel: Parcel, outcome: Outcome, key_ids: Collection[str]) -> None:
    """Write the outcome into the books; what that means depends on what the parcel carried."""
    ledger.acknowledge(key_ids)
    for neighbour in (parcel.upstream, parcel.downstream):
        if neighbour is not None and is_foreign(neighbour):
            ledger.close_foreign_keys(neighbour, key_ids, outcome.status)
    if parcel.upstream is not None:
        return
    relayed = outcome.status is AckStatus.RELAYED
    if parcel.purpose is Purpose.POOL_BLOCK and relayed:
        ledger.confirm_blocks(key_ids, outcome.grade)
    elif parcel.purpose is Purpose.POOL_BLOCK:
        ledger.drop_blocks(key_ids)
    else:
        state = KeyState.RELAYED if relayed else KeyState.VOIDED
        # Blocks gave a wrapped key its grade; a key that was relayed itself has that of its way.
        grade = outcome.grade if parcel.purpose is Purpose.SESSION_KEY and relayed else None
        for key_id in key_ids:
            ledger.update_record(key_id, state, outcome.path or None, grade)
        if not relayed and _could_not_unwrap(parcel, outcome):
            # The destination may have lost its store, and with it the other blocks of this pool.
            dropped = ledger.drop_pool(parcel.end_to_end.destination)
            log.warning("%s did not keep keys, %d pool blocks dropped", parcel.end_to_end.destination, dropped)


@dataclass(frozen=True, slots=True)
class Closing:
    """What an acknowledgement did to a parcel: these of its keys are closed, or all of it is owed still.

    `in_part` = it spoke of some of the keys only; `whole` = nothing of the parcel is open any more.
    """

    parcel: Parcel
    key_ids: Collection[str]
    owed: bool = False
    in_part: bool = False
    whole: bool = True


def close_acknowledged(ledger: Ledger, ack: AckContainer, sender: str, outcome: Outcome) -> tuple[list[Closing], bool]:
    """Close the books of whatever an acknowledgement is of, in any grouping; tells too if any key is known here.

    Keys that did not go through the sender, or not for these targets, stay as they are.
    """
    key_ids = [entry.key_id for entry in ack.key_id_container]
    groups: dict[str, tuple[Parcel, list[str]]] = {}
    found = ledger.parcels_of(key_ids)
    for key_id, parcel in found.items():
        if is_of(ack, parcel, sender) and not is_given_up(ledger, parcel, key_id):
            groups.setdefault(parcel.parcel_id, (parcel, []))[1].append(key_id)
    closings = [_close(ledger, parcel, outcome, its_keys) for parcel, its_keys in groups.values()]
    return closings, bool(found) or any(ledger.record(key_id) is not None for key_id in key_ids[:LOOKED_UP])


def is_open(ledger: Ledger, parcel: Parcel) -> bool:
    """Tell whether just this parcel is open: not closed, and no other in its place."""
    return {one.parcel_id for one in ledger.parcels_of(parcel.key_ids).values()} == {parcel.parcel_id}


def keep_to_void(ledger: Ledger, parcel: Parcel) -> None:
    """Note that session keys of this node are given up; their parcel stays, or comes back, until they are voided."""
    if not ledger.parcels_of(parcel.key_ids):
        ledger.add_parcel(parcel)
    if is_foreign(parcel.downstream):
        ledger.close_foreign_keys(parcel.downstream, parcel.key_ids, AckStatus.FAILED)
    for key_id in parcel.key_ids:
        ledger.update_record(key_id, KeyState.VOIDED)


def is_of(ack: AckContainer, parcel: Parcel, sender: str) -> bool:
    """Tell whether an acknowledgement is of this parcel, from the neighbour that it was sent to."""
    parties = (ack.initiator_sae_id, frozenset(ack.target_sae_ids))
    return parcel.downstream == sender and parties == (parcel.initiator_sae, frozenset(parcel.target_saes))


def is_given_up(ledger: Ledger, parcel: Parcel, key_id: str) -> bool:
    """Tell whether a session key of this node was given up, and its parcel is open only until it is voided."""
    own = parcel.upstream is None and parcel.purpose is Purpose.SESSION_KEY
    return own and (record := ledger.record(key_id)) is not None and record.state is KeyState.VOIDED


def _close(ledger: Ledger, parcel: Parcel, outcome: Outcome, key_ids: Collection[str]) -> Closing:
    outcome = seen_from_here(parcel, outcome)
    if is_still_owed(parcel, outcome):
        return Closing(parcel, key_ids, owed=True)
    in_part = len(key_ids) < len(parcel.key_ids)
    if in_part and fails_as_a_whole(parcel, outcome):
        key_ids = parcel.key_ids
    close_books(ledger, parcel, outcome, key_ids)
    whole = not in_part or not ledger.parcels_of(parcel.key_ids)
    return Closing(parcel, key_ids, in_part=in_part, whole=whole)


def weaker(one: Outcome, other: Outcome) -> Outcome:
    """Return the outcome that stands for both: of keys of one parcel that were acknowledged one after the other."""
    if one.status is not other.status:
        return one if one.status is AckStatus.FAILED else other
    return one if one.grade is Grade.PQC else other


def fails_as_a_whole(parcel: Parcel, outcome: Outcome) -> bool:
    """Tell whether what befell some keys befalls all of a parcel: session keys are answered together or not at all."""
    own = parcel.upstream is None and parcel.purpose is Purpose.SESSION_KEY
    return own and outcome.status is AckStatus.FAILED


def is_still_owed(parcel: Parcel, outcome: Outcome) -> bool:
    """Tell whether a failure leaves a key owed: one of this node that a master may hold, given up on the way.

    Wrapped keys are answered before they arrive. What another node on the way could not do is no reason to void them:
    they are sent again until they expire. Only their destination can say that they will never open.
    """
    given_out = parcel.upstream is None and parcel.purpose is Purpose.WRAPPED_KEY
    return given_out and outcome.status is AckStatus.FAILED and not _is_verdict(parcel, outcome)


def _is_verdict(parcel: Parcel, outcome: Outcome) -> bool:
    return outcome.path[-1:] == (parcel.end_to_end.destination,)


def _could_not_unwrap(parcel: Parcel, outcome: Outcome) -> bool:
    wrapped = bool(parcel.end_to_end.block_ids)
    return wrapped and _is_verdict(parcel, outcome) and outcome.refusal == "does-not-open"


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
    return Outcome(ack.ack_status, way.path, way.protections, ack.message or "", way.refusal)


def acknowledgement(
    key_ids: Collection[str], initiator: str, targets: tuple[str, ...], outcome: Outcome
) -> AckContainer:
    """Make the acknowledgement that carries an outcome."""
    provenance = Provenance(path=outcome.path, protections=outcome.protections, refusal=outcome.refusal)
    return AckContainer(
        key_id_container=tuple(KeyIdEntry(key_id=key_id) for key_id in key_ids),
        ack_status=outcome.status,
        initiator_sae_id=initiator,
        target_sae_ids=targets,
        message=outcome.message or None,
        extension=extension(PROVENANCE, provenance) if outcome.path else None,
    )
