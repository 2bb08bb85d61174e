"""Whether a node can do its work, and what stands in the way; what the operator's API shows."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from node.core.federation import Federation
from node.core.link_key_stock import LinkKeyStock
from node.core.neighbours import NeighbourWatch
from node.settings import NodeSettings

log = logging.getLogger("kmstn.health")


class Health:
    """Gathers what the parts of a node say of themselves."""

    def __init__(
        self,
        settings: NodeSettings,
        sealing: str,
        federation: Federation,
        watches: Mapping[str, NeighbourWatch],
        stocks: Mapping[str, LinkKeyStock],
        pool_peers: Callable[[], tuple[str, ...]],
    ) -> None:
        self._settings = settings
        self._sealing = sealing
        self._federation = federation
        self._watches = watches
        self._stocks = stocks
        self.pool_peers = pool_peers
        self.pool_target = settings.pool.target_blocks
        self.qkd_links = tuple((stock.link, peer) for peer, stock in stocks.items())
        self.counters: Counter[str] = Counter()
        self.store_failure: str | None = None
        self.store_says: Callable[[], str | None] = lambda: None
        self.tpm_failure: str | None = None
        # Others' machines: when one does not answer, this node is well all the same.
        self.foreign_kms: Mapping[str, bool] = {}

    def refusal(self) -> str | None:
        """Return why no key is served now: what the store says of itself, or housekeeping of it. None if any is."""
        return self.store_says() or self.store_failure

    def reasons(self) -> list[str]:
        """Return why the node is not healthy; empty if it is."""
        reasons = [f"device {stock.settings.name}: {stock.failure}" for stock in self._stocks.values() if stock.failure]
        reasons += [
            f"neighbour {watch.name} does not answer" for watch in self._watches.values() if not watch.reachable
        ]
        return reasons + [reason for reason in (self.refusal(), self.tpm_failure) if reason]

    def describe(self, uncounted: str | None = None) -> dict[str, Any]:
        """Return the status but for the stocks, which the store counts, or says why it cannot."""
        reasons = self.reasons()
        if uncounted is not None and uncounted not in reasons:
            reasons.append(uncounted)
        return {
            "node": self._settings.node,
            "domain": self._settings.domain,
            "site": self._settings.site,
            "healthy": not reasons,
            "reasons": reasons,
            "sealing": self._sealing,
            "saes": list(self._settings.saes),
            "neighbours": [self._neighbour(watch) for watch in self._watches.values()],
            "foreign_kms": [{"name": name, "reachable": answers} for name, answers in self.foreign_kms.items()],
            "devices": [_device(stock) for stock in self._stocks.values()],
            "routes": self._routes(),
            "counters": {
                "link_keys_unmatched": sum(stock.unmatched for stock in self._stocks.values()),
                **self.counters,
            },
        }

    def _neighbour(self, watch: NeighbourWatch) -> dict[str, Any]:
        settings = self._federation.neighbour(watch.name)
        assert settings is not None  # noqa: S101 - watches are made from the neighbours
        return {
            "node": watch.name,
            "link": settings.link,
            "kind": settings.kind.value,
            "reachable": watch.reachable,
            "rtt_ms": watch.rtt_ms,
        }

    def _routes(self) -> list[dict[str, Any]]:
        return [
            {
                "node": route.destination,
                "next": route.next_hop,
                "cost": route.cost,
                "path": list(route.node_path),
                "domains": list(route.domain_path),
            }
            for route in self._federation.routing.routes()
        ]


def _device(stock: LinkKeyStock) -> dict[str, Any]:
    return {
        "name": stock.settings.name,
        "link": stock.link,
        "healthy": stock.failure is None,
        "stored_keys": stock.stored_keys,
        "reason": stock.failure,
    }
