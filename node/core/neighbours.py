"""Watching neighbours: what they advertise, whether they answer, how long a round trip takes."""

import logging
from collections import deque

from node.core.federation import Federation
from node.core.ports import Clock, PeerNode
from node.errors import PeerError

log = logging.getLogger("kmstn.neighbours")

MISSED_POLLS = 3
ROUND_TRIPS_KEPT = 5
POLLS_PER_ROUND_TRIP = 5
# A neighbour that does not answer yet, or any more, is asked more often, and so is every one after the start, while
# routes spread by one hop a poll: everybody waits for that.
EAGER_INTERVAL_S = 0.25
EAGER_S = 8.0


class NeighbourWatch:
    """What one node sees of one neighbour."""

    def __init__(self, name: str, peer: PeerNode, federation: Federation, clock: Clock, interval_s: float) -> None:
        self.name = name
        self._peer = peer
        self._federation = federation
        self._clock = clock
        self._interval_s = interval_s
        self._missed = MISSED_POLLS
        self._round_trips_ms: deque[float] = deque(maxlen=ROUND_TRIPS_KEPT)
        self._refused: tuple[str, ...] = ()

    @property
    def reachable(self) -> bool:
        """Whether it answered one of the last polls."""
        return self._missed < MISSED_POLLS

    @property
    def rtt_ms(self) -> float | None:
        """The best of the last few round trips in ms; None while it does not answer."""
        return min(self._round_trips_ms, default=None) if self.reachable else None

    async def run(self) -> None:
        """Poll for ever."""
        polls = 0
        began = self._clock.now()
        while True:
            await self.poll()
            if self.reachable and (polls % POLLS_PER_ROUND_TRIP == 0 or len(self._round_trips_ms) < ROUND_TRIPS_KEPT):
                await self._measure()
            polls += 1
            settled = self.reachable and self._clock.now() - began > EAGER_S
            await self._clock.sleep(self._interval_s if settled else min(self._interval_s, EAGER_INTERVAL_S))

    async def poll(self) -> None:
        """Ask once what it advertises."""
        try:
            advert = await self._peer.versions()
        except PeerError as error:
            self._miss(error)
            return
        if not self.reachable:
            log.info("neighbour %s answers", self.name)
        self._missed = 0
        refused = self._federation.learn(self.name, advert, self._clock.now())
        for reason in set(refused) - set(self._refused):
            log.warning("neighbour %s passed on an advert that is not believed: %s", self.name, reason)
        self._refused = refused

    def _miss(self, error: PeerError) -> None:
        self._missed += 1
        if self._missed == MISSED_POLLS:
            log.warning("neighbour %s does not answer: %s", self.name, error)
            self._round_trips_ms.clear()
            self._federation.routing.lose(self.name)

    async def _measure(self) -> None:
        if (rtt_ms := await self._peer.rtt_ms()) is not None:
            self._round_trips_ms.append(rtt_ms)
