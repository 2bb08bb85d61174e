"""What the nodes of the federation say of themselves, as far as it could be verified: SAEs, suites, KEM keys.

An advert counts if its signature is right, its certificate is a node's, of a trusted domain, and names the same node,
it has not expired, and it is newer than the one known. It may have come through any neighbour.

The suite towards a node is the first of this node's own list that the node's signed list has too. It is that one or
none: a node that offers nothing of this node's list gets nothing sent, and where the key of the agreed suite is missing
no other suite takes its place. So what anybody can do to an advert (hold it back, replay it) never leads below the
list. A step down within the list is the other operator's choice, signed: it is followed, and logged.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from node.crypto.advert_signature import signature_is_valid
from node.wire.federation import KemPublicKey, NodeAdvert, SignedAdvert

log = logging.getLogger("kmstn.directory")

# What is known is passed on to neighbours in one answer of at most 4 MiB, in base64. One domain, whose CA may make up
# any number of nodes, must not crowd out the others.
# KEM keys are most of an advert: 5 kB of ML-KEM, 75 kB of FrodoKEM, 0.7 MB of Classic McEliece. With the latter a
# domain has room for one node.
MAX_ADVERT_BYTES = 736 * 1024
MAX_DOMAIN_BYTES = 768 * 1024
MAX_DIRECTORY_BYTES = 2816 * 1024
MAX_NODES = 1000
LONGEST_LIFETIME_S = 86_400.0


class AdvertRefusedError(Exception):
    """An advert that is not believed; the text says why."""


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A believed advert, and the form in which it is passed on."""

    advert: NodeAdvert
    signed: SignedAdvert


class Directory:
    """Every node known, this one included.

    `owner_of` maps a certificate to (domain, node) or raises; `suites` are those this node accepts, best first.
    """

    def __init__(
        self,
        owner_of: Callable[[bytes, float], tuple[str, str]],
        suites: tuple[str, ...],
        clock_skew_s: float = 30.0,
    ) -> None:
        self._owner_of = owner_of
        self._suites = suites
        self._clock_skew_s = clock_skew_s
        self._nodes: dict[str, KnownNode] = {}
        self._homes: dict[str, str] = {}
        self._homes_are_stale = False

    def learn(self, signed: SignedAdvert, now: float) -> None:
        """Take over an advert; raises AdvertRefusedError. One already known costs next to nothing."""
        if _size(signed) > MAX_ADVERT_BYTES:
            raise AdvertRefusedError(f"an advert is longer than {MAX_ADVERT_BYTES} bytes")
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
        self._check_room(signed, advert)
        self._watch_suites(known.advert if known else None, advert)
        self._nodes[advert.node] = KnownNode(advert, signed)
        # Claims count in the order they came in; only a claim given up makes room for a later one.
        for sae in advert.saes:
            self._homes.setdefault(sae, advert.node)
        given_up = known is not None and not set(known.advert.saes) <= set(advert.saes)
        self._homes_are_stale = self._homes_are_stale or given_up

    def forget_expired(self, now: float) -> None:
        """Drop nodes that have not been heard of in time."""
        alive = {name: node for name, node in self._nodes.items() if node.advert.expires_at + self._clock_skew_s > now}
        if len(alive) != len(self._nodes):
            self._nodes = alive
            self._homes_are_stale = True

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
        if self._homes_are_stale:
            self._homes, self._homes_are_stale = self._map_homes(), False
        return self._homes.get(sae)

    def agreed_suite(self, node: str) -> str | None:
        """Return the first of this node's suites that the other has too; None if there is none, or no such node."""
        advert = self.node(node)
        return self._agreed(advert) if advert else None

    def kem_key(self, node: str, purpose: str) -> KemPublicKey | None:
        """Return the node's key of the agreed suite; None if it has none of that suite, whatever else it has."""
        advert, agreed = self.node(node), self.agreed_suite(node)
        keys = advert.kem_keys if advert else ()
        return next((key for key in keys if (key.purpose, key.suite) == (purpose, agreed)), None)

    def _agreed(self, advert: NodeAdvert) -> str | None:
        return next((suite for suite in self._suites if suite in advert.suites), None)

    def _watch_suites(self, known: NodeAdvert | None, advert: NodeAdvert) -> None:
        """Say when a node offers less than before, or nothing that this node accepts."""
        before, after = self._agreed(known) if known else None, self._agreed(advert)
        if after is None and (known is None or before is not None):
            offered, accepted = ", ".join(advert.suites)[:200], ", ".join(self._suites)
            log.warning("downgrade refused: %s offers %s, this node accepts %s only", advert.node, offered, accepted)
        elif before is not None and after is not None and self._suites.index(after) > self._suites.index(before):
            log.warning("%s no longer offers %s: %s is used with it from now on", advert.node, before, after)

    def _verify(self, signed: SignedAdvert, advert: NodeAdvert, now: float) -> None:
        if not now < advert.expires_at + self._clock_skew_s:
            raise AdvertRefusedError(f"the advert of {advert.node} has expired")
        if advert.issued_at > now + self._clock_skew_s:
            raise AdvertRefusedError(f"the advert of {advert.node} is from the future")
        if advert.expires_at > now + LONGEST_LIFETIME_S:
            raise AdvertRefusedError(f"the advert of {advert.node} would never expire")
        if self._owner_of(signed.certificate, now) != (advert.domain, advert.node):
            raise AdvertRefusedError(f"the advert of {advert.node} was signed by somebody else")
        if not signature_is_valid(signed):
            raise AdvertRefusedError(f"the signature of the advert of {advert.node} is wrong")

    def _check_room(self, signed: SignedAdvert, advert: NodeAdvert) -> None:
        """Refuse what would make the directory longer than neighbours can be told."""
        others = [known for name, known in self._nodes.items() if name != advert.node]
        of_domain = sum(_size(known.signed) for known in others if known.advert.domain == advert.domain)
        if of_domain + _size(signed) > MAX_DOMAIN_BYTES:
            raise AdvertRefusedError(f"{advert.domain} advertises more than {MAX_DOMAIN_BYTES} bytes")
        in_all = sum(_size(known.signed) for known in others)
        if len(others) >= MAX_NODES or in_all + _size(signed) > MAX_DIRECTORY_BYTES:
            raise AdvertRefusedError("more nodes are advertised than can be passed on")

    def _map_homes(self) -> dict[str, str]:
        """An SAE that two nodes claim stays with the one that was known first."""
        claims = [(sae, name) for name, known in sorted(self._nodes.items()) for sae in known.advert.saes]
        homes = {sae: name for sae, name in claims if self._homes.get(sae) == name}
        for sae, name in claims:
            homes.setdefault(sae, name)
        return homes


def _size(signed: SignedAdvert) -> int:
    return len(signed.body) + len(signed.signature) + len(signed.certificate)
