"""One hop: a parcel becomes a protected ETSI 020 transfer for a neighbour, and a transfer becomes a parcel again.

Both run inside a store transaction: link keys are spent in the same commit that records what they protect, so no link
key is ever used by two messages, whatever crashes. What a parcel is for, and where it goes next, is `relay`'s business.
"""

import hashlib
from dataclasses import dataclass, replace

from node.core.carried_extensions import carried_by, unpacked
from node.core.kem_keys import KemKeyring
from node.core.keys import KeyBlock, Parcel
from node.core.ports import LinkKeyLedger
from node.crypto.errors import HopRefusedError, KemError
from node.crypto.hybrid_transport import (
    HopContext,
    ProtectedBodies,
    Protection,
    link_keys_needed,
    open_protected,
    protect,
)
from node.crypto.kem import Provider
from node.crypto.suites import suite_kem
from node.errors import BadRequestError, CannotServeError, InsufficientKeyMaterialError
from node.settings import LinkKind
from node.wire.etsi020 import ExtKey, ExtKeyContainer
from node.wire.federation import (
    END_TO_END,
    HYBRID_TRANSPORT,
    EndToEnd,
    HopProtection,
    HybridTransport,
    KemPublicKey,
    Purpose,
    extension,
)


@dataclass(frozen=True, slots=True)
class HopLink:
    """The link to a neighbour, as a hop uses it."""

    neighbour: str
    link: str
    kind: LinkKind


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What a sender decides about one transfer: a fresh ID, whom to seal the hop to, how much stock to leave alone.

    Without a callback URL it is synchronous.
    """

    transfer_id: str
    kem_key: KemPublicKey
    callback_url: str | None
    reserve_link_keys: int = 0


class HopTransport:
    """Protects and opens transfers of one node."""

    def __init__(self, node: str, keyring: KemKeyring, provider: Provider) -> None:
        self._node = node
        self._keyring = keyring
        self._provider: Provider = provider

    def send(self, ledger: LinkKeyLedger, parcel: Parcel, link: HopLink, dispatch: Dispatch) -> ExtKeyContainer:
        """Protect a parcel for the next hop, spending link keys. Raises InsufficientKeyMaterialError."""
        protection = expected_protection(link.kind, parcel.purpose)
        link_keys = self._take(ledger, parcel, link, dispatch) if protection == "qkd+pqc" else ()
        header = HybridTransport(
            suite=dispatch.kem_key.suite,
            protection=protection,
            transfer_id=dispatch.transfer_id,
            kem_key_id=dispatch.kem_key.key_id,
            kem_ciphertext=b"",
            tags=(),
            link_key_ids=tuple(tuple(key.key_id for key in keys) for keys in link_keys),
            purpose=parcel.purpose,
            path=parcel.path,
            protections=parcel.protections,
            expires_at=parcel.expires_at,
        )
        context = _context(header, parcel, self._node, link.neighbour, dispatch.callback_url)
        kem = suite_kem(self._provider, dispatch.kem_key.suite)
        values = [[key.value for key in keys] for keys in link_keys]
        try:
            protected = protect(parcel.bodies, context, kem, dispatch.kem_key.public_key, values)
        except KemError as error:
            raise CannotServeError(f"{link.neighbour} advertises a KEM key that is none: {error}") from error
        header = header.model_copy(update={"kem_ciphertext": protected.kem_ciphertext, "tags": protected.tags})
        of_all, of_keys = unpacked(parcel.carried, parcel.key_ids)
        return ExtKeyContainer(
            keys=tuple(
                ExtKey(key_id=key_id, value=value, extension=own)
                for key_id, value, own in zip(parcel.key_ids, protected.values, of_keys, strict=True)
            ),
            initiator_sae_id=parcel.initiator_sae,
            target_sae_ids=parcel.target_saes,
            ack_callback_url=dispatch.callback_url,
            extension_mandatory={
                **extension(HYBRID_TRANSPORT, header),
                **extension(END_TO_END, parcel.end_to_end),
            },
            extension_optional=of_all,
        )

    def receive(self, ledger: LinkKeyLedger, incoming: "Incoming", link: HopLink) -> Parcel:
        """Open a transfer from a neighbour, spending the link keys it names. Raises BadRequestError: nothing kept."""
        header, container = incoming.header, incoming.container
        parcel = incoming.sealed_parcel(link.neighbour)
        self._check(header, link)
        private_key = self._keyring.private_key("hop", header.suite, header.kem_key_id)
        if private_key is None:
            raise BadRequestError("the KEM key is unknown or has expired", {HYBRID_TRANSPORT: "kem_key_id"})
        link_keys = self._take_named(ledger, header, link)
        context = _context(header, parcel, link.neighbour, self._node, container.ack_callback_url)
        protected = ProtectedBodies(header.kem_ciphertext, parcel.bodies, header.tags)
        kem = suite_kem(self._provider, header.suite)
        try:
            bodies = open_protected(protected, context, kem, private_key, link_keys)
        except HopRefusedError as error:
            raise BadRequestError("the transfer does not open", {HYBRID_TRANSPORT: str(error)}) from error
        return replace(parcel, bodies=bodies)

    def _take(
        self, ledger: LinkKeyLedger, parcel: Parcel, link: HopLink, dispatch: Dispatch
    ) -> tuple[tuple[KeyBlock, ...], ...]:
        needed = [link_keys_needed(len(body)) for body in parcel.bodies]
        taken = ledger.take_link_keys(link.link, sum(needed), dispatch.reserve_link_keys)
        if taken is None:
            raise InsufficientKeyMaterialError(f"link {link.link} has fewer than {sum(needed)} link keys to spare")
        return _split(taken, needed)

    def _take_named(self, ledger: LinkKeyLedger, header: HybridTransport, link: HopLink) -> list[list[bytes]]:
        named = [key_id for key_ids in header.link_key_ids for key_id in key_ids]
        if not named:
            return []
        taken = ledger.take_named_link_keys(link.link, named)
        if taken is None:
            raise BadRequestError("a link key is unknown or was spent before", {HYBRID_TRANSPORT: "link_key_ids"})
        counts = [len(key_ids) for key_ids in header.link_key_ids]
        return [[key.value for key in keys] for keys in _split(taken, counts)]

    def _check(self, header: HybridTransport, link: HopLink) -> None:
        wrong = {}
        if header.path[-1] != link.neighbour:
            wrong["path"] = "does not end with the sender"
        if self._node in header.path:
            wrong["invalid_routing"] = "leads back to a node it came through"
        if len(header.protections) != len(header.path) - 1:
            wrong["protections"] = "one for each hop before this one"
        if header.protection != expected_protection(link.kind, header.purpose):
            wrong["protection"] = f"a {link.kind.value} link asks for more"
        if not self._keyring.accepts(header.suite):
            wrong["suite"] = "is not accepted here"
        if wrong:
            slug = "key-routing-error" if wrong.keys() & {"path", "invalid_routing"} else "invalid-parameter"
            raise BadRequestError("the hop header is not acceptable", wrong, slug=slug)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A transfer as it arrived, its two headers read."""

    container: ExtKeyContainer
    header: HybridTransport
    end_to_end: EndToEnd
    parcel_id: str

    def sealed_parcel(self, sender: str) -> Parcel:
        """Return the parcel with its bodies still under the hop's protection; raises BadRequestError."""
        container, header = self.container, self.header
        return Parcel(
            parcel_id=self.parcel_id,
            purpose=header.purpose,
            initiator_sae=container.initiator_sae_id,
            target_saes=container.target_sae_ids,
            key_ids=tuple(key.key_id for key in container.keys),
            bodies=tuple(key.value for key in container.keys),
            end_to_end=self.end_to_end,
            path=header.path,
            protections=header.protections,
            upstream=sender,
            downstream="",
            expires_at=header.expires_at,
            carried=carried_by(container),
            synchronous=container.ack_callback_url is None,
        )


def expected_protection(kind: LinkKind, purpose: Purpose) -> HopProtection:
    """Return what a hop must use: QKD material where there is some, but for a wrap that is one-time pad already."""
    return "qkd+pqc" if kind is LinkKind.QKD and purpose is not Purpose.WRAPPED_KEY else "pqc"


def _context(header: HybridTransport, parcel: Parcel, sender: str, receiver: str, callback: str | None) -> HopContext:
    return HopContext(
        suite=header.suite,
        protection=Protection(header.protection),
        transfer_id=header.transfer_id,
        sender=sender,
        receiver=receiver,
        kem_key_id=header.kem_key_id,
        initiator_sae_id=parcel.initiator_sae,
        target_sae_ids=parcel.target_saes,
        key_ids=parcel.key_ids,
        link_key_ids=header.link_key_ids,
        path=parcel.path,
        hop=len(parcel.protections),
        purpose=f"{header.purpose.value} {_digest(parcel)}",
        callback=callback,
    )


def _digest(parcel: Parcel) -> str:
    """Bind what the hop carries beside the bodies: end-to-end header, grade so far, expiry, extensions passed on."""
    carried = f"{parcel.end_to_end.model_dump_json()}\n{','.join(parcel.protections)}\n{parcel.expires_at!r}"
    if parcel.carried:
        carried += f"\n{parcel.carried}"
    return hashlib.sha256(carried.encode()).hexdigest()


def _split(keys: tuple[KeyBlock, ...], counts: list[int]) -> tuple[tuple[KeyBlock, ...], ...]:
    rest = iter(keys)
    return tuple(tuple(next(rest) for _ in range(count)) for count in counts)
