"""What a node does with a parcel addressed to it: open it end to end and keep what is in it, in one transaction."""

import logging
from collections.abc import Iterable, Set
from dataclasses import replace

from node.core.kem_keys import KemKeyring
from node.core.keys import Direction, Grade, KeyBlock, KeyRecord, KeyState, Parcel, PoolBlock, grade_of
from node.core.outcomes import Outcome
from node.core.ports import Clock, Ledger
from node.crypto.aead import time_as_text
from node.crypto.end_to_end_seal import SealContext, Sealed, open_sealed
from node.crypto.errors import RefusedError
from node.crypto.kem import Provider
from node.crypto.pool_wrap import WrapContext, Wrapped, unwrap
from node.crypto.suites import suite_kem
from node.wire.etsi020 import AckStatus
from node.wire.federation import EndToEnd, Purpose, Refusal

log = logging.getLogger("kmstn.destination")

# No transfer lives longer than a day (`relay`), and none beyond the expiry that its origin sealed: nothing that was
# voided can arrive after this, though clocks differ.
VOIDS_REMEMBERED_S = 86_400.0 + 3_600.0
VOIDED = "the keys were voided"


class ParcelRefusedError(Exception):
    """The parcel arrived here, but cannot be kept; the text says why and goes back with the acknowledgement."""

    refusal: Refusal | None = None


class UnopenedError(ParcelRefusedError):
    """It does not open: the origin's view of what is here is wrong."""

    refusal: Refusal | None = "does-not-open"


class Destination:
    """The end of the way for pool blocks and session keys of this node's SAEs."""

    # Of one origin, and of all together as many times that: origins are names that neighbours pass on.
    inbound_limit = 4096
    ORIGINS = 16

    def __init__(self, node: str, saes: frozenset[str], keyring: KemKeyring, provider: Provider, clock: Clock) -> None:
        self._node = node
        self._saes = saes
        self._keyring = keyring
        self._provider: Provider = provider
        self._clock = clock
        self.dropped_blocks = 0

    def arrived(self, ledger: Ledger, parcel: Parcel) -> tuple[tuple[Outcome, tuple[str, ...]], ...]:
        """Keep what can be kept; returns each outcome with the keys that it is of."""
        try:
            voided = self.keep(ledger, parcel)
        except ParcelRefusedError as error:
            way = parcel.path, parcel.protections
            return ((Outcome(AckStatus.FAILED, *way, str(error), error.refusal), parcel.key_ids),)
        relayed = Outcome(AckStatus.RELAYED, parcel.path, parcel.protections)
        kept = tuple(key_id for key_id in parcel.key_ids if key_id not in set(voided))
        if not voided:
            return ((relayed, kept),)
        return (Outcome(AckStatus.FAILED, parcel.path, parcel.protections, VOIDED), voided), (relayed, kept)

    def keep(self, ledger: Ledger, parcel: Parcel) -> tuple[str, ...]:
        """Open and store what is new; returns the IDs of keys that were voided before they came, which are not kept.

        Keys that are here already are left as they are. Raises ParcelRefusedError: none of the keys is kept.
        """
        records = {key_id: ledger.record(key_id) for key_id in parcel.key_ids}
        voided = tuple(key for key, record in records.items() if record and record.state is KeyState.VOIDED)
        if len(voided) == len(records):
            raise ParcelRefusedError(VOIDED)
        new = frozenset(key_id for key_id, record in records.items() if record is None)
        if parcel.purpose is Purpose.POOL_BLOCK:
            self._keep_blocks(ledger, parcel, new)
        elif new:
            self._keep_session_keys(ledger, parcel, new)
        return voided

    def opened(self, parcel: Parcel) -> Parcel:
        """Return a parcel for a foreign KMS with bare bodies; raises ParcelRefusedError if it does not open."""
        seal = parcel.end_to_end
        bare = EndToEnd(origin=seal.origin, destination=parcel.downstream)
        return replace(parcel, bodies=self._open_seal(parcel), end_to_end=bare)

    def void(self, ledger: Ledger, key_id: str, initiator: str) -> KeyState | None:
        """Drop an initiator's key that nobody has fetched; returns its state now, None if it has no such key here.

        A key that is not here may still be on its way, overtaken by the request to void it: that it was voided is
        remembered, so that it is refused when it arrives.
        """
        dropped = ledger.drop_inbound_block(initiator, key_id)
        record = ledger.record(key_id)
        if record is None:
            until = self._clock.now() + VOIDS_REMEMBERED_S
            ledger.add_records([KeyRecord(key_id, initiator, (), 0, Grade.PQC, (), KeyState.VOIDED, until)])
        if dropped:
            return KeyState.VOIDED
        if record is None or record.master_sae != initiator:
            return None
        local = [sae for sae in record.slave_saes if sae in self._saes]
        if record.state is KeyState.DEPOSITED and ledger.deposits_left(key_id) == len(local):
            ledger.drop_deposits(key_id)
            ledger.update_record(key_id, KeyState.VOIDED)
            return KeyState.VOIDED
        return record.state

    def _keep_blocks(self, ledger: Ledger, parcel: Parcel, new: Set[str]) -> None:
        origin = parcel.end_to_end.origin
        own, of_all = _inbound_blocks(ledger, origin)
        to_drop = max(0, own + len(new) - self.inbound_limit)
        if len(new) > self.inbound_limit or of_all + len(new) - to_drop > self.ORIGINS * self.inbound_limit:
            raise ParcelRefusedError(f"no more than {self.inbound_limit} pool blocks are kept for a node")
        grade = grade_of(parcel.protections)
        opened = zip(parcel.key_ids, self._open_seal(parcel), strict=True)
        blocks = [PoolBlock(key_id, value, grade) for key_id, value in opened if key_id in new]
        ledger.add_blocks(origin, Direction.IN, blocks, ready=True)
        excess = _inbound_blocks(ledger, origin)[0] - self.inbound_limit
        if excess > 0:
            # Blocks that the origin gave up, or lost with its store, are never named again: the oldest make room.
            dropped = ledger.drop_oldest_inbound_blocks(origin, excess)
            self.dropped_blocks += dropped
            log.warning("%d pool blocks of %s dropped, the oldest, for %d new ones", dropped, origin, len(blocks))

    def _keep_session_keys(self, ledger: Ledger, parcel: Parcel, new: Set[str]) -> None:
        strangers = [sae for sae in parcel.target_saes if sae not in self._saes]
        if strangers:
            raise ParcelRefusedError(f"SAE not registered here: {', '.join(strangers)}")
        if parcel.purpose is Purpose.WRAPPED_KEY:
            values, grade = self._unwrap(ledger, parcel)
        else:
            values, grade = self._open_seal(parcel), grade_of(parcel.protections)
        opened = zip(parcel.key_ids, values, strict=True)
        keys = [KeyBlock(key_id, value) for key_id, value in opened if key_id in new]
        ledger.add_records(
            [
                KeyRecord(
                    key_id=key.key_id,
                    master_sae=parcel.initiator_sae,
                    slave_saes=parcel.target_saes,
                    size_bits=8 * len(key.value),
                    grade=grade,
                    path=parcel.path,
                    state=KeyState.DEPOSITED,
                    expires_at=parcel.expires_at,
                )
                for key in keys
            ]
        )
        ledger.deposit(keys, parcel.target_saes)

    def _open_seal(self, parcel: Parcel) -> tuple[bytes, ...]:
        seal = parcel.end_to_end
        if seal.suite is None or seal.kem_key_id is None or seal.kem_ciphertext is None:
            raise UnopenedError("the end-to-end seal is incomplete")
        private_key = self._keyring.private_key("seal", seal.suite, seal.kem_key_id)
        if private_key is None:
            raise UnopenedError("the seal's KEM key is unknown or has expired")
        try:
            sealed = Sealed(seal.kem_ciphertext, parcel.bodies, seal.tags)
            return open_sealed(sealed, seal_context(parcel), suite_kem(self._provider, seal.suite), private_key)
        except RefusedError as error:
            raise UnopenedError(f"the end-to-end seal does not open: {error}") from error

    def _unwrap(self, ledger: Ledger, parcel: Parcel) -> tuple[tuple[bytes, ...], Grade]:
        wrap = parcel.end_to_end
        blocks = ledger.take_named_blocks(wrap.origin, wrap.block_ids)
        if blocks is None:
            raise UnopenedError("a pool block is unknown or was spent before")
        try:
            wrapped = Wrapped(parcel.bodies, wrap.tags[0] if wrap.tags else b"")
            values = unwrap(wrapped, [block.value for block in blocks], wrap_context(parcel))
        except RefusedError as error:
            raise UnopenedError(f"the wrapped key does not open: {error}") from error
        return values, weakest([block.grade for block in blocks])


def _inbound_blocks(ledger: Ledger, origin: str) -> tuple[int, int]:
    """Return how many blocks of one origin are here, and of all."""
    stored = [(peer, n) for (peer, where, _), n in ledger.block_counts().items() if where is Direction.IN]
    return sum(n for peer, n in stored if peer == origin), sum(n for _, n in stored)


def weakest(grades: Iterable[Grade]) -> Grade:
    """Return the lower of the grades; `qkd` if there are none."""
    return Grade.PQC if Grade.PQC in grades else Grade.QKD


def seal_context(parcel: Parcel) -> SealContext:
    """Return what origin and destination must agree on for a sealed parcel."""
    seal = parcel.end_to_end
    return SealContext(
        suite=seal.suite or "",
        origin=seal.origin,
        destination=seal.destination,
        kem_key_id=seal.kem_key_id or "",
        initiator_sae_id=parcel.initiator_sae,
        target_sae_ids=parcel.target_saes,
        key_ids=parcel.key_ids,
        purpose=parcel.purpose.value,
        expires_at=time_as_text(parcel.expires_at),
    )


def wrap_context(parcel: Parcel) -> WrapContext:
    """Return what origin and destination must agree on for a wrapped parcel."""
    return WrapContext(
        origin=parcel.end_to_end.origin,
        destination=parcel.end_to_end.destination,
        initiator_sae_id=parcel.initiator_sae,
        target_sae_ids=parcel.target_saes,
        key_ids=parcel.key_ids,
        block_ids=parcel.end_to_end.block_ids,
        purpose=parcel.purpose.value,
        expires_at=time_as_text(parcel.expires_at),
    )
