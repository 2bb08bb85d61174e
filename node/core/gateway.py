"""Keys that come from a foreign KMS: one that speaks ETSI GS QKD 020 as published, and none of our extensions.

This node is where our part of the way begins: it takes the keys as they are, keeps them for its own SAEs, seals them to
the node that serves the targets, or hands them to another foreign KMS. What became of them is on record before the KMS
hears of it, and told until it listens. The same key may come twice, since an answer may be lost: it counts once, and
another value under its ID is refused. The way to a foreign KMS is the relay's (`relay`, `handing_out`).
"""

import hashlib
import hmac
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial

from node.core.answers import Answer
from node.core.carried_extensions import carried_by
from node.core.federation import Federation
from node.core.foreign import ForeignKey, is_foreign, neighbour_name
from node.core.keys import Direction, Grade, KeyBlock, KeyRecord, KeyState, Parcel
from node.core.outcomes import FOREIGN_HOP, Outcome, acknowledgement
from node.core.ports import Ledger
from node.core.relay import Relay
from node.core.sealing_origin import draft, sealed
from node.core.world import World
from node.errors import BadRequestError, InsufficientKeyMaterialError, NoRouteError, PeerError
from node.settings import ForeignKmsSettings, NodeSettings
from node.wire.etsi020 import AckContainer, AckStatus, ExtKeyContainer, VoidContainer
from node.wire.federation import Purpose

log = logging.getLogger("kmstn.gateway")

# Of one KMS: what is remembered of a key outlives it by nothing, and a KMS that sends more must wait.
MAX_REMEMBERED = 100_000
TOLD_AT_ONCE = 256
LOOK_INTERVAL_S = 2.0


class Gateway:
    """The side of one node that faces foreign KMSs; `answering`: which of them answer, when last asked."""

    def __init__(self, settings: NodeSettings, federation: Federation, relay: Relay, world: World) -> None:
        self._settings = settings
        self._federation = federation
        self._relay = relay
        self._world = world
        self._kms = {neighbour_name(kms.name): kms for kms in settings.foreign_kms}
        self._answers: dict[str, Answer] = {}
        self.answering = {kms.name: False for kms in settings.foreign_kms}
        relay.tell_foreign(self._tell)

    async def accept(self, kms: str, container: ExtKeyContainer) -> None:
        """Take over keys; durable when this returns, what becomes of them is told by calls back.

        Raises BadRequestError (nothing kept), NoRouteError or CannotServeError.
        """
        await self._take(kms, container)
        await self._tell_known(kms, [key.key_id for key in container.keys])

    async def accept_and_answer(self, kms: str, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        """Take over keys in synchronous mode; returns what became of them, and never calls back.

        Raises OutcomeUnknownError when that takes too long, and what `accept` raises.
        """
        key_ids = [key.key_id for key in container.keys]
        answer = Answer(key_ids)
        self._answers.update(dict.fromkeys(key_ids, answer))
        try:
            await self._take(kms, container)
            known = await self._world.store.transact(lambda ledger: ledger.foreign_keys(kms, key_ids))
            answer.take(_acknowledgements(key for key in known.values() if key.outcome is not None))
            return await answer.within(self._relay.answer_timeout_s)
        finally:
            for key_id in key_ids:
                if self._answers.get(key_id) is answer:
                    del self._answers[key_id]

    async def void(self, kms: str, request: VoidContainer) -> None:
        """Take over a request to void keys that this KMS sent. Raises BadRequestError, NoRouteError."""
        self._check_initiator(kms, request.initiator_sae_id)
        await self._relay.void(kms, request)

    async def void_and_answer(self, kms: str, request: VoidContainer) -> tuple[AckContainer, ...]:
        """Void in synchronous mode. Raises OutcomeUnknownError, and what `void` raises."""
        self._check_initiator(kms, request.initiator_sae_id)
        return await self._relay.void_and_answer(kms, request)

    async def run(self) -> None:
        """Tell what was not heard, end what nobody acknowledges, ask whether the KMSs answer; for ever."""
        while True:
            await self._world.clock.sleep(LOOK_INTERVAL_S)
            for kms in self._kms:
                await self._look(kms)

    async def _look(self, kms: str) -> None:
        untold = await self._world.store.transact(lambda ledger: ledger.untold_foreign_keys(kms, TOLD_AT_ONCE))
        if untold:
            await self._call_back(kms, _acknowledgements(untold))
        await self._end_overdue(kms)
        try:
            await self._world.neighbour(kms).versions()
            self.answering[self._kms[kms].name] = True
        except PeerError:
            self.answering[self._kms[kms].name] = False

    async def _end_overdue(self, kms: str) -> None:
        """Give up keys of a foreign KMS whose arrival was not acknowledged in time, and have them voided."""
        delivery, now = self._settings.delivery, self._world.clock.now()
        before = now + delivery.key_lifetime_s - 2 * delivery.relay_timeout_s
        overdue = await self._world.store.transact(lambda ledger: ledger.overdue_parcels(before, "", TOLD_AT_ONCE))
        for parcel in overdue:
            if parcel.upstream == kms:
                await self._relay.end(parcel, "no acknowledgement in time")

    async def _take(self, kms: str, container: ExtKeyContainer) -> None:
        self._check_initiator(kms, container.initiator_sae_id)
        self._check_targets(container)
        self._check_sizes(container)
        end = self._end_of(kms, container.target_sae_ids)
        parcel = self._draft(kms, container, end)
        await self._relay.forward(partial(self._keep, kms=kms, container=container, parcel=parcel))

    def _keep(self, ledger: Ledger, kms: str, container: ExtKeyContainer, parcel: Parcel) -> Parcel | None:
        """Remember keys and what is done with them; returns the parcel that goes on, None if nothing is to be sent."""
        known = ledger.foreign_keys(kms, parcel.key_ids)
        new = [key for key in _read(container, parcel.expires_at) if key.key_id not in known]
        _check_repeated(_read(container, parcel.expires_at), known)
        if not new:
            return None
        if ledger.foreign_key_count(kms) + len(new) > MAX_REMEMBERED:
            raise InsufficientKeyMaterialError(f"more than {MAX_REMEMBERED} keys of one KMS are under way")
        records = {key.key_id: ledger.record(key.key_id) for key in new}
        voided = {key_id for key_id, record in records.items() if record and _was_voided(record, container)}
        if taken := [key_id for key_id, record in records.items() if record and key_id not in voided]:
            raise BadRequestError("a key ID is in use", {"key_id": f"{taken[0]} is another key's"})
        ledger.add_foreign_keys(kms, [_without_callback(key, container) for key in new])
        ledger.close_foreign_keys(kms, voided, AckStatus.FAILED)
        left = [key.key_id for key in new if key.key_id not in voided]
        if not left:
            return None
        parcel = _only(parcel, left)
        if parcel.end_to_end.destination == self._settings.node:
            self._deposit(ledger, kms, parcel)
            return None
        return self._ready(parcel)

    def _deposit(self, ledger: Ledger, kms: str, parcel: Parcel) -> None:
        keys = [KeyBlock(key_id, body) for key_id, body in zip(parcel.key_ids, parcel.bodies, strict=True)]
        ledger.add_records(
            [
                KeyRecord(
                    key_id=key.key_id,
                    master_sae=parcel.initiator_sae,
                    slave_saes=parcel.target_saes,
                    size_bits=8 * len(key.value),
                    grade=Grade.PQC,
                    path=parcel.path,
                    state=KeyState.DEPOSITED,
                    expires_at=parcel.expires_at,
                )
                for key in keys
            ]
        )
        ledger.deposit(keys, parcel.target_saes)
        ledger.close_foreign_keys(kms, parcel.key_ids, AckStatus.RELAYED)
        self._relay.on_arrival(parcel.key_ids)

    def _ready(self, parcel: Parcel) -> Parcel:
        """Seal a parcel for the node at its end; for another foreign KMS it stays as it is."""
        destination = parcel.end_to_end.destination
        if is_foreign(destination):
            return parcel
        return sealed(parcel, self._federation.seal_key(destination), self._settings.kem_provider)

    def _draft(self, kms: str, container: ExtKeyContainer, end: str) -> Parcel:
        expires_at = self._world.clock.now() + self._settings.delivery.key_lifetime_s
        keys = [KeyBlock(key.key_id, key.value) for key in container.keys]
        parties = container.initiator_sae_id, container.target_sae_ids
        ends = self._settings.node, end
        parcel = draft(Purpose.SESSION_KEY, keys, parties, ends, self._world.randomness.uuid(), expires_at)
        downstream = end if end == self._settings.node else self._federation.route_to(end).next_hop
        return replace(
            parcel,
            path=(kms, self._settings.node),
            protections=(FOREIGN_HOP,),
            upstream=kms,
            downstream=downstream,
            carried=carried_by(container),
        )

    def _end_of(self, kms: str, targets: tuple[str, ...]) -> str:
        """Return where keys end: this node, another one, or another foreign KMS; raises BadRequestError."""
        try:
            homes = {self._federation.home_of(target) for target in targets}
        except NoRouteError as error:
            raise BadRequestError(str(error), {error.reason: str(error)}, slug="key-routing-error") from error
        if len(homes) > 1:
            wrong = {"target_sae_ids": "are at home at several nodes: one request for each"}
            raise BadRequestError("the targets are not at home at one node", wrong)
        home = homes.pop()
        if home != self._settings.node:
            self._federation.route_to(home)
            return home
        end = self._federation.foreign_kms_of(targets) or home
        if end == kms:
            leads = {"invalid_routing": "the targets are the sender's own"}
            raise BadRequestError("the keys would go straight back", leads, slug="key-routing-error")
        return end

    def _check_initiator(self, kms: str, initiator: str) -> None:
        settings: ForeignKmsSettings = self._kms[kms]
        if initiator not in settings.saes:
            raise BadRequestError("the keys are not this KMS's to send", {"initiator_sae_id": "is no SAE of yours"})

    def _check_targets(self, container: ExtKeyContainer) -> None:
        pairs, initiator = self._settings.allowed_pairs, container.initiator_sae_id
        if len(set(container.target_sae_ids)) != len(container.target_sae_ids):
            raise BadRequestError("a target stands twice", {"target_sae_ids": "an SAE stands twice"})
        if pairs is not None and any((initiator, target) not in pairs for target in container.target_sae_ids):
            raise BadRequestError("the policy forbids this pair of SAEs", {"target_sae_ids": "not with this initiator"})

    def _check_sizes(self, container: ExtKeyContainer) -> None:
        keys = self._settings.keys
        if not all(keys.min_key_size <= 8 * len(key.value) <= keys.max_key_size for key in container.keys):
            bounds = f"{keys.min_key_size} to {keys.max_key_size} bits"
            raise BadRequestError("the size of a key is out of bounds", {"value": bounds})

    # What the foreign KMS is told.

    def _tell(self, kms: str, acks: tuple[AckContainer, ...]) -> None:
        self._world.background.spawn(self._answer_or_call_back(kms, acks))

    async def _tell_known(self, kms: str, key_ids: Collection[str]) -> None:
        """Tell what is known already: of keys kept here, and of those that were sent once more."""
        known = await self._world.store.transact(lambda ledger: ledger.foreign_keys(kms, key_ids))
        settled = [key for key in known.values() if key.outcome is not None]
        if settled:
            self._world.background.spawn(self._call_back(kms, _acknowledgements(settled)))

    async def _answer_or_call_back(self, kms: str, acks: tuple[AckContainer, ...]) -> None:
        key_ids = [entry.key_id for ack in acks for entry in ack.key_id_container]
        for answer in {id(one): one for key_id in key_ids if (one := self._answers.get(key_id))}.values():
            answer.take(tuple(ack.model_copy(update={"extension": None}) for ack in acks))
        known = await self._world.store.transact(lambda ledger: ledger.foreign_keys(kms, key_ids))
        untold = [key for key in known.values() if not key.told and key.outcome is not None]
        if untold:
            await self._call_back(kms, _acknowledgements(untold))

    async def _call_back(self, kms: str, acks: tuple[AckContainer, ...]) -> None:
        try:
            await self._world.neighbour(kms).ack(acks)
        except PeerError as error:
            log.warning("%s did not take an acknowledgement, it is told again later: %s", kms, error)
            return
        key_ids = [entry.key_id for ack in acks for entry in ack.key_id_container]
        await self._world.store.transact(lambda ledger: ledger.foreign_keys_told(kms, key_ids))


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(b"kmstn foreign key" + value).digest()


def _read(container: ExtKeyContainer, expires_at: float) -> list[ForeignKey]:
    parties = container.initiator_sae_id, container.target_sae_ids
    return [ForeignKey(key.key_id, Direction.IN, *parties, _digest(key.value), expires_at) for key in container.keys]


def _without_callback(key: ForeignKey, container: ExtKeyContainer) -> ForeignKey:
    """A request in synchronous mode is never called back: there is nobody left to tell."""
    return replace(key, told=container.ack_callback_url is None)


def _check_repeated(keys: Iterable[ForeignKey], known: Mapping[str, ForeignKey]) -> None:
    """Refuse what came before with another value, or for others."""
    for key in keys:
        before = known.get(key.key_id)
        if before is None:
            continue
        same_parties = (before.initiator_sae, set(before.target_saes)) == (key.initiator_sae, set(key.target_saes))
        same_value = hmac.compare_digest(before.digest, key.digest)
        if not (same_parties and same_value and before.direction is Direction.IN):
            wrong = {"key_id": f"{key.key_id} came before, with another value or for others"}
            raise BadRequestError("a key ID is in use", wrong)


def _was_voided(record: KeyRecord, container: ExtKeyContainer) -> bool:
    """Tell whether a key was voided before it came."""
    return record.state is KeyState.VOIDED and record.master_sae == container.initiator_sae_id


def _only(parcel: Parcel, key_ids: Collection[str]) -> Parcel:
    chosen = [(k, body) for k, body in zip(parcel.key_ids, parcel.bodies, strict=True) if k in key_ids]
    return replace(parcel, key_ids=tuple(k for k, _ in chosen), bodies=tuple(body for _, body in chosen))


def _acknowledgements(keys: Iterable[ForeignKey]) -> tuple[AckContainer, ...]:
    """Group keys by parties and outcome."""
    groups: dict[tuple[str, tuple[str, ...], AckStatus], list[str]] = {}
    for key in keys:
        if key.outcome is not None:
            groups.setdefault((key.initiator_sae, key.target_saes, key.outcome), []).append(key.key_id)
    return tuple(
        acknowledgement(key_ids, initiator, targets, Outcome(status))
        for (initiator, targets, status), key_ids in groups.items()
    )
