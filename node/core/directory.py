"""What the nodes of the federation say of themselves, as far as it could be verified: SAEs, suites, KEM keys.

An advert counts if its signature is right, its certificate is a node's, of a trusted domain, and names the same node,
it has not expired, and it is newer than the one known. It may have come through any neighbour.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from node.crypto.advert_signature import signature_is_valid
from node.wire.federation import KemPublicKey, NodeAdvert, SignedAdvert


class AdvertRefusedError(Exception):
    """An advert that is not believed; the text says why."""


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A believed advert, and the form in which it is passed on."""

    advert: NodeAdvert
    signed: SignedAdvert


class Directory:
    """Every node known, this one included. `owner_of` maps a certificate to (domain, node) or raises."""

    def __init__(self, owner_of: Callable[[bytes, float], tuple[str, str]], clock_skew_s: float = 30.0) -> None:
        self._owner_of = owner_of
        self._clock_skew_s = clock_skew_s
        self._nodes: dict[str, KnownNode] = {}
        self._homes: dict[str, str] = {}

    def learn(self, signed: SignedAdvert, now: float) -> None:
        """Take over an advert; raises AdvertRefusedError. One already known costs next to nothing."""
        try:
            advert = NodeAdvert.model_validate_json(signed.body)
        except ValidationError as error:
            raise AdvertRefusedError(f"not an advert: {error.error_count()} wrong members") from None
        known = self._nodes.get(advert.node)
        if known is not None and known.advert.issued_at >= advert.issued_at:
            return
        self._verify(signed, advert, now)
        if known is not None and known.advert.domain != advert.domain:
            raise AdvertRefusedError(f"{advert.node} is known as a node of {known.advert.domain}")
        self._nodes[advert.node] = KnownNode(advert, signed)
        self._homes = self._map_homes()

    def forget_expired(self, now: float) -> None:
        """Drop nodes that have not been heard of in time."""
        alive = {name: node for name, node in self._nodes.items() if node.advert.expires_at + self._clock_skew_s > now}
        if len(alive) != len(self._nodes):
            self._nodes = alive
            self._homes = self._map_homes()

    def node(self, name: str) -> NodeAdvert | None:
        """Return what a node says of itself."""
        known = self._nodes.get(name)
        return known.advert if known else None

    def nodes(self) -> tuple[NodeAdvert, ...]:
        """Return every known node."""
        return tuple(known.advert for known in self._nodes.values())

    def signed_adverts(self) -> tuple[SignedAdvert, ...]:
        """Return what is passed on to neighbours."""
        return tuple(known.signed for _name, known in sorted(self._nodes.items()))

    def home_of(self, sae: str) -> str | None:
        """Return the node that serves an SAE."""
        return self._homes.get(sae)

    def kem_key(self, node: str, purpose: str, suites: Iterable[str]) -> KemPublicKey | None:
        """Return the node's key for the first of our suites that it has one for."""
        advert = self.node(node)
        keys = {key.suite: key for key in advert.kem_keys if key.purpose == purpose} if advert else {}
        return next((keys[suite] for suite in suites if suite in keys), None)

    def _verify(self, signed: SignedAdvert, advert: NodeAdvert, now: float) -> None:
        if not now < advert.expires_at + self._clock_skew_s:
            raise AdvertRefusedError(f"the advert of {advert.node} has expired")
        if advert.issued_at > now + self._clock_skew_s:
            raise AdvertRefusedError(f"the advert of {advert.node} is from the future")
        if self._owner_of(signed.certificate, now) != (advert.domain, advert.node):
            raise AdvertRefusedError(f"the advert of {advert.node} was signed by somebody else")
        if not signature_is_valid(signed):
            raise AdvertRefusedError(f"the signature of the advert of {advert.node} is wrong")

    def _map_homes(self) -> dict[str, str]:
        """An SAE that two nodes claim stays with the one that was known first."""
        claims = [(sae, name) for name, known in sorted(self._nodes.items()) for sae in known.advert.saes]
        homes = {sae: name for sae, name in claims if self._homes.get(sae) == name}
        for sae, name in claims:
            homes.setdefault(sae, name)
        return homes
