"""What a node knows of its federation: who its neighbours are, what they and others advertise, what it advertises.

Joins directory, routing and KEM keys, so that delivery can ask one place: where is this SAE, which way, sealed to what.
"""

from collections.abc import Callable, Collection

from node.core.directory import AdvertRefusedError, Directory
from node.core.foreign import is_foreign, neighbour_name
from node.core.hop import HopLink
from node.core.kem_keys import KemKeyring
from node.core.routing import Adjacency, Route, RoutingTable
from node.errors import BadRequestError, NoRouteError
from node.settings import NeighbourSettings, NodeSettings
from node.wire.federation import FederationAdvert, KemPublicKey, NodeAdvert, Purpose, SignedAdvert

# Of one answer: looking at a wrong signature costs as much as at a right one.
MAX_REFUSED_ADVERTS = 32


class Federation:
    """The surroundings of one node."""

    def __init__(
        self,
        settings: NodeSettings,
        keyring: KemKeyring,
        owner_of: Callable[[bytes, float], tuple[str, str]],
        sign: Callable[[bytes], SignedAdvert],
    ) -> None:
        self._settings = settings
        self._keyring = keyring
        self._sign = sign
        self._neighbours = {neighbour.node: neighbour for neighbour in settings.neighbours}
        self._foreign = {sae: neighbour_name(kms.name) for kms in settings.foreign_kms for sae in kms.saes}
        self.directory = Directory(owner_of, settings.suites)
        adjacencies = [Adjacency(n.node, n.domain, n.cost) for n in settings.neighbours]
        self.routing = RoutingTable(settings.node, settings.domain, adjacencies)

    def advertise_self(self, now: float) -> None:
        """Say anew who this node is and which keys it has."""
        advert = NodeAdvert(
            node=self._settings.node,
            domain=self._settings.domain,
            saes=(*self._settings.saes, *self._foreign),
            foreign_saes=tuple(kms.saes for kms in self._settings.foreign_kms),
            suites=self._settings.suites,
            kem_keys=self._keyring.published(),
            issued_at=now,
            expires_at=now + self._settings.advert_lifetime_s,
        )
        self.directory.learn(self._sign(advert.model_dump_json().encode()), now)

    def advert_for(self, neighbour: str) -> FederationAdvert:
        """Return what a neighbour is told in `versions`."""
        domain = self._neighbours[neighbour].domain
        return FederationAdvert(adverts=self.directory.signed_adverts(), routes=self.routing.adverts_for(domain))

    def learn(self, neighbour: str, advert: FederationAdvert, now: float) -> tuple[str, ...]:
        """Take over what a neighbour says; returns why single adverts were not believed."""
        refused = []
        for signed in advert.adverts:
            try:
                self.directory.learn(signed, now)
            except AdvertRefusedError as error:
                refused.append(str(error))
                if len(refused) >= MAX_REFUSED_ADVERTS:
                    break
        # A node that does not say who it is is of no use; and the directory bounds how many there are.
        routes = tuple(route for route in advert.routes if self.directory.node(route.node) is not None)
        self.routing.learn(neighbour, routes)
        return tuple(refused)

    def neighbour(self, node: str) -> NeighbourSettings | None:
        """Return the settings of a neighbour, None for any other node."""
        return self._neighbours.get(node)

    def link_to(self, neighbour: str) -> HopLink:
        """Return the link to a neighbour."""
        settings = self._neighbours[neighbour]
        return HopLink(neighbour, settings.link, settings.kind)

    def home_of(self, sae: str) -> str:
        """Return the node that serves an SAE; raises NoRouteError if nobody advertises it."""
        home = self.directory.home_of(sae)
        if home is None:
            raise NoRouteError(f"no node of the federation advertises the SAE {sae}")
        return home

    def foreign_kms_of(self, targets: Collection[str]) -> str | None:
        """Return the foreign KMS beside this node that serves the targets, None if they are none of its SAEs.

        Raises BadRequestError if not all of them live there: each KMS gets a transfer of its own.
        """
        found = {self._foreign.get(target) for target in targets}
        if len(found) > 1:
            wrong = {"target_sae_ids": "live at several KMSs: one request for each"}
            raise BadRequestError("the targets are not at home at one KMS", wrong)
        return found.pop() if found else None

    def lives_with(self, sae: str) -> tuple[str, tuple[str, ...]]:
        """Return an SAE's home, and the SAEs of the foreign KMS that it lives behind there; raises NoRouteError."""
        home = self.home_of(sae)
        advert = self.directory.node(home)
        groups = advert.foreign_saes if advert else ()
        return home, next((group for group in groups if sae in group), ())

    def end_of(self, target: str) -> str:
        """Return where keys for a target end: its home, or the node itself for pool blocks; raises NoRouteError."""
        return target if self.directory.node(target) is not None else self.home_of(target)

    def check_origin(self, purpose: Purpose, path: tuple[str, ...], origin: str, parties: tuple[str, ...]) -> None:
        """Check that a parcel comes from where it says, and that its parties may share keys.

        `parties` = initiator, then targets. A transit node is trusted with this much: not to pass off its own parcels
        as another's, since only hops are authenticated. Raises BadRequestError.
        """
        initiator, *targets = parties
        home = initiator if purpose is Purpose.POOL_BLOCK else self.directory.home_of(initiator)
        wrong = {}
        if (path[1:2] if is_foreign(path[0]) else path[:1]) != (origin,):
            wrong["origin"] = "is not where the path begins"
        if home != origin:
            wrong["initiator_sae_id"] = "is not at home at the origin"
        pairs = self._settings.allowed_pairs
        if purpose is not Purpose.POOL_BLOCK and pairs is not None:
            forbidden = [target for target in targets if (initiator, target) not in pairs]
            wrong |= dict.fromkeys(forbidden, "the policy forbids it as a target")
        if wrong:
            raise BadRequestError("the parcel is not its origin's to send", wrong)

    def route_to(self, node: str, avoid: str | None = None) -> Route:
        """Return the route to a node that does not begin with `avoid`; raises NoRouteError.

        A foreign KMS beside this node is one hop away.
        """
        if is_foreign(node):
            return Route(node, node, 1, (node,), ())
        route = self.routing.route(node, avoid)
        if route is None:
            raise NoRouteError(f"no route from {self._settings.node} to {node}")
        return route

    def onward(self, node: str, sender: str) -> Route:
        """Return the route on for what came from a neighbour; raises NoRouteError, BadRequestError if it leads back."""
        try:
            return self.route_to(node, avoid=sender)
        except NoRouteError as error:
            if self.routing.route(node) is None:
                raise
            leads = {"invalid_routing": f"leads back to {sender}"}
            raise BadRequestError(str(error), leads, slug="key-routing-error") from error

    def hop_key(self, neighbour: str) -> KemPublicKey:
        """Return the neighbour's KEM key for hops; raises NoRouteError while it has not advertised one."""
        return self._kem_key(neighbour, "hop")

    def seal_key(self, node: str) -> KemPublicKey:
        """Return a node's KEM key for end-to-end seals; raises NoRouteError while there is none."""
        return self._kem_key(node, "seal")

    def _kem_key(self, node: str, purpose: str) -> KemPublicKey:
        key = self.directory.kem_key(node, purpose)
        if key is None:
            raise NoRouteError(f"{node} advertises no KEM key of a suite that this node accepts")
        return key
