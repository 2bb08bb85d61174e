"""Broken protection and broken provenance: keys in clear, ciphertexts used twice, ways that were never gone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from node.core import destination, hop, key_delivery, outcomes, relay, sealing_origin
from node.core.destination import Destination
from node.core.keys import Grade, Parcel
from node.core.ports import Ledger
from node.crypto import kem_cryptography
from node.crypto.end_to_end_seal import Sealed, seal_for
from node.crypto.hybrid_transport import ProtectedBodies, protect
from node.crypto.pool_wrap import Wrapped
from node.wire.federation import Purpose


def seal_is_dropped() -> list[tuple[Any, str, Any]]:
    """Bodies travel without the end-to-end seal: transit nodes can read them."""

    def seal(bodies: Sequence[bytes], *arguments: Any) -> Sealed:
        return replace(seal_for(bodies, *arguments), ciphertexts=tuple(bodies))

    def unseal(sealed: Sealed, *_arguments: Any) -> tuple[bytes, ...]:
        return sealed.ciphertexts

    return [(sealing_origin, "seal_for", seal), (destination, "open_sealed", unseal)]


def wrap_is_dropped() -> list[tuple[Any, str, Any]]:
    """Keys are sent as they are, and pool blocks are spent for nothing."""

    def wrap(keys: Sequence[bytes], *_arguments: Any) -> Wrapped:
        return Wrapped(tuple(keys), bytes(16))

    def unwrap(wrapped: Wrapped, *_arguments: Any) -> tuple[bytes, ...]:
        return wrapped.values

    return [(sealing_origin, "wrap", wrap), (destination, "unwrap", unwrap)]


def hop_protection_is_dropped() -> list[tuple[Any, str, Any]]:
    """Bodies cross links as the origin sealed them, without KEM and link keys of the hop."""

    def without(bodies: Sequence[bytes], *arguments: Any) -> ProtectedBodies:
        return replace(protect(bodies, *arguments), values=tuple(bodies))

    def unprotect(protected: ProtectedBodies, *_arguments: Any) -> tuple[bytes, ...]:
        return protected.values

    return [(hop, "protect", without), (hop, "open_protected", unprotect)]


def encapsulation_is_used_twice() -> list[tuple[Any, str, Any]]:
    """The KEM gives the same secret for every message to the same key."""
    owner: Any = kem_cryptography._MlKem
    whole = owner.__dict__["encapsulate"]
    known: dict[bytes, tuple[bytes, bytes]] = {}

    def encapsulate(self: Any, public: bytes) -> tuple[bytes, bytes]:
        if public not in known:
            known[public] = whole(self, public)
        return known[public]

    return [(owner, "encapsulate", encapsulate)]


def grade_is_always_qkd() -> list[tuple[Any, str, Any]]:
    """Every way counts as if each hop had spent QKD material."""

    def grade(_protections: object) -> Grade:
        return Grade.QKD

    return [(module, "grade_of", grade) for module in (destination, outcomes)]


def wrapped_keys_are_graded_qkd() -> list[tuple[Any, str, Any]]:
    """The grade of a wrapped key forgets which way its pool blocks came."""

    def weakest(_grades: object) -> Grade:
        return Grade.QKD

    return [(destination, "weakest", weakest), (key_delivery, "weakest", weakest)]


def transit_is_left_out_of_the_path() -> list[tuple[Any, str, Any]]:
    """The destination writes down origin and itself only."""
    whole = Destination.__dict__["_keep_session_keys"]

    def keep(self: Destination, ledger: Ledger, parcel: Parcel, new: frozenset[str]) -> None:
        whole(self, ledger, replace(parcel, path=(parcel.path[0], parcel.path[-1])), new)

    return [(Destination, "_keep_session_keys", keep)]


def origin_books_its_own_way() -> list[tuple[Any, str, Any]]:
    """The origin writes down the way reversed."""
    whole = outcomes.outcome_of

    def read(ack: Any) -> Any:
        outcome = whole(ack)
        return replace(outcome, path=outcome.path[::-1])

    return [(relay, "outcome_of", read)]


def qkd_hops_without_link_keys() -> list[tuple[Any, str, Any]]:
    """QKD links are used as if they were WAN links, and still graded as QKD."""

    def says(kind: Any, purpose: Purpose) -> Any:
        return "pqc"

    def grade(_protections: object) -> Grade:
        return Grade.QKD

    grades = [(module, "grade_of", grade) for module in (destination, outcomes)]
    return [(hop, "expected_protection", says), (relay, "expected_protection", says), *grades]
