"""What a node does with a parcel addressed to it: open it end to end and keep what is in it, in one transaction."""

from collections.abc import Iterable

from node.core.kem_keys import KemKeyring
from node.core.keys import Direction, Grade, KeyBlock, KeyRecord, KeyState, Parcel, PoolBlock, grade_of
from node.core.ports import Clock, Ledger
from node.crypto.end_to_end_seal import SealContext, Sealed, open_sealed
from node.crypto.errors import RefusedError
from node.crypto.kem import Provider
from node.crypto.pool_wrap import WrapContext, Wrapped, unwrap
from node.crypto.suites import suite_kem
from node.wire.federation import Purpose

# No transfer lives longer (`relay`), so nothing that was voided can arrive after this.
VOIDS_REMEMBERED_S = 86_400.0


class ParcelRefusedError(Exception):
    """The parcel arrived here, but cannot be kept; the text says why and goes back with the acknowledgement."""


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

    def keep(self, ledger: Ledger, parcel: Parcel) -> None:
        """Open and store; a parcel that is here already is left as it is. Raises ParcelRefusedError."""
        known = ledger.record(parcel.key_ids[0])
        if known is not None and known.state is KeyState.VOIDED:
            raise ParcelRefusedError("the keys were voided")
        if parcel.purpose is Purpose.POOL_BLOCK:
            self._keep_blocks(ledger, parcel)
        elif known is None:
            self._keep_session_keys(ledger, parcel)

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

    def _keep_blocks(self, ledger: Ledger, parcel: Parcel) -> None:
        stored = [(peer, n) for (peer, where, _), n in ledger.block_counts().items() if where is Direction.IN]
        room = self.inbound_limit - sum(n for peer, n in stored if peer == parcel.end_to_end.origin)
        if len(parcel.key_ids) > min(room, self.ORIGINS * self.inbound_limit - sum(n for _, n in stored)):
            raise ParcelRefusedError(f"no more than {self.inbound_limit} pool blocks are kept for a node")
        grade = grade_of(parcel.protections)
        blocks = [
            PoolBlock(key_id, value, grade)
            for key_id, value in zip(parcel.key_ids, self._open_seal(parcel), strict=True)
        ]
        ledger.add_blocks(parcel.end_to_end.origin, Direction.IN, blocks, ready=True)

    def _keep_session_keys(self, ledger: Ledger, parcel: Parcel) -> None:
        strangers = [sae for sae in parcel.target_saes if sae not in self._saes]
        if strangers:
            raise ParcelRefusedError(f"SAE not registered here: {', '.join(strangers)}")
        if parcel.purpose is Purpose.WRAPPED_KEY:
            values, grade = self._unwrap(ledger, parcel)
        else:
            values, grade = self._open_seal(parcel), grade_of(parcel.protections)
        keys = [KeyBlock(key_id, value) for key_id, value in zip(parcel.key_ids, values, strict=True)]
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
            raise ParcelRefusedError("the end-to-end seal is incomplete")
        private_key = self._keyring.private_key("seal", seal.suite, seal.kem_key_id)
        if private_key is None:
            raise ParcelRefusedError("the seal's KEM key is unknown or has expired")
        try:
            sealed = Sealed(seal.kem_ciphertext, parcel.bodies, seal.tags)
            return open_sealed(sealed, seal_context(parcel), suite_kem(self._provider, seal.suite), private_key)
        except RefusedError as error:
            raise ParcelRefusedError(f"the end-to-end seal does not open: {error}") from error

    def _unwrap(self, ledger: Ledger, parcel: Parcel) -> tuple[tuple[bytes, ...], Grade]:
        wrap = parcel.end_to_end
        blocks = ledger.take_named_blocks(wrap.origin, wrap.block_ids)
        if blocks is None:
            raise ParcelRefusedError("a pool block is unknown or was spent before")
        try:
            wrapped = Wrapped(parcel.bodies, wrap.tags[0] if wrap.tags else b"")
            values = unwrap(wrapped, [block.value for block in blocks], wrap_context(parcel))
        except RefusedError as error:
            raise ParcelRefusedError(f"the wrapped key does not open: {error}") from error
        return values, weakest([block.grade for block in blocks])


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
    )
