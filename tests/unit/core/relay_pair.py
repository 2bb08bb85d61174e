"""Nodes n1 and n2 of two domains, joined by a QKD link: the real core and store of each, a clock to turn, a wire.

What n1 sends to n2 stays on the wire until a test delivers it: as it is, changed, twice, late, after a restart.
"""

import asyncio
import json
import sqlite3
import uuid
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from node.core.assembly import Core
from node.core.hop import Incoming
from node.core.keys import Direction, KeyBlock, Parcel
from node.core.ports import Ledger
from node.core.sealing_origin import draft, sealed
from node.core.world import World
from node.crypto.advert_signature import AdvertSigner
from node.identity_uri import Role
from node.settings import LinkKind, NeighbourSettings, NodeSettings
from node.storage.store_file import DATABASE_NAME
from node.wire.etsi020 import AckContainer, ExtKeyContainer, VoidContainer, dump, parse
from node.wire.federation import (
    END_TO_END,
    HYBRID_TRANSPORT,
    EndToEnd,
    FederationAdvert,
    HybridTransport,
    LinkKeyAnnouncement,
    LinkKeyHoldings,
    Purpose,
)
from tests.certificates import issue, make_authority
from tests.unit.storage.small_stores import made

LINK = "n1-n2"
BOOKS = ("link_key", "pool_block", "transfer", "parcel", "parcel_key", "record", "deposit")
KEM_LIFETIME_S = 100.0
KEY = bytes(range(32))
OTHER = {"n1": "n2", "n2": "n1"}
DOMAIN = {"n1": "east", "n2": "west"}
HOLDERS = {name: issue(make_authority(domain), Role.NODE, name) for name, domain in DOMAIN.items()}
LINK_KEYS = [KeyBlock(str(uuid.uuid4()), uuid.uuid4().bytes * 2) for _ in range(32)]


@dataclass
class Clock:
    """Time as the test turns it."""

    time: float = 1000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Randomness:
    """Random enough for tests."""

    def bytes(self, size_bytes: int) -> bytes:
        return uuid.uuid4().bytes[:1] * size_bytes

    def uuid(self) -> str:
        return str(uuid.uuid4())


@dataclass
class Background:
    """Work that was begun; `finish` waits for it."""

    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def finish(self) -> None:
        while self.tasks:
            await self.tasks.pop()


@dataclass
class Wire:
    """The `PeerNode` that a node sees: takes everything, delivers nothing."""

    sent: list[bytes] = field(default_factory=list)
    acks: list[AckContainer] = field(default_factory=list)
    synchronous_mode: bool = False

    async def versions(self) -> FederationAdvert:
        raise NotImplementedError

    async def ext_keys(self, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        self.sent.append(dump(container))
        return ()

    async def ack(self, acks: tuple[AckContainer, ...]) -> None:
        self.acks.extend(acks)

    async def void(self, container: VoidContainer) -> None:
        raise NotImplementedError

    async def announce_link_keys(self, announcement: LinkKeyAnnouncement) -> LinkKeyHoldings:
        raise NotImplementedError

    async def rtt_ms(self) -> float | None:
        return None


class End:
    """One of the two nodes; what is on its disk outlives `restart`."""

    def __init__(self, name: str, folder: Path, clock: Clock, suites: tuple[str, ...]) -> None:
        self.name = name
        self.clock = clock
        self.suites = suites
        self._path = folder / name
        self._path.mkdir()
        self._begin()

    def _begin(self) -> None:
        other = OTHER[self.name]
        neighbour = NeighbourSettings(
            node=other, domain=DOMAIN[other], url=f"https://{other}:8020", link=LINK, kind=LinkKind.QKD
        )
        settings = NodeSettings(
            node=self.name,
            domain=DOMAIN[self.name],
            trusted_domains=(DOMAIN[other],),
            site=self.name,
            saes=("a", "a2") if self.name == "n1" else ("b", "b2"),
            neighbours=(neighbour,),
            suites=self.suites,
            kem_key_lifetime_s=KEM_LIFETIME_S,
            advert_lifetime_s=1000.0,
        )
        self.store = made(self._path)
        self.store.open()
        self.background, self.wire = Background(), Wire()
        world = World(self.store, self.clock, Randomness(), self.background, {other: self.wire})
        holder = HOLDERS[self.name]
        names = {holder.der: (DOMAIN[name], name) for name, holder in HOLDERS.items()}
        signer = AdvertSigner(holder.key, holder.der)
        self.core = Core(settings, world, {}, lambda certificate, _now: names[certificate], signer.sign)

    async def start(self) -> None:
        """Renew KEM keys where due, and advertise: what housekeeping does from time to time."""
        await self.core.prepare()

    async def restart(self, suites: tuple[str, ...] | None = None) -> None:
        """Stop and start again, perhaps with other settings."""
        self.store.close()
        self.suites = suites or self.suites
        self._begin()
        await self.start()

    def books(self) -> dict[str, int]:
        """Return how many rows each table has, but those that are no key's."""
        with closing(sqlite3.connect(self._path / DATABASE_NAME)) as connection:
            return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in BOOKS}


def _stock(ledger: Ledger, direction: Direction) -> None:
    ledger.add_link_keys(LINK, direction, LINK_KEYS, ready=True)


class Pair:
    """Both ends and what lies between them."""

    def __init__(self, folder: Path, suites: dict[str, tuple[str, ...]] | None = None) -> None:
        self.clock = Clock()
        chosen = suites or {}
        self.n1, self.n2 = (End(name, folder, self.clock, chosen.get(name, ("mlkem768-v1",))) for name in OTHER)

    async def start(self) -> "Pair":
        """Start both, give them link keys, let each hear the other's advert."""
        for end, direction in ((self.n1, Direction.OUT), (self.n2, Direction.IN)):
            await end.start()
            await end.store.transact(partial(_stock, direction=direction))
        self.meet()
        return self

    def meet(self) -> None:
        """Each hears what the other advertises."""
        for hears, speaks in ((self.n1, self.n2), (self.n2, self.n1)):
            refused = hears.core.federation.learn(
                speaks.name, speaks.core.federation.advert_for(hears.name), self.clock.now()
            )
            assert refused == ()

    def close(self) -> None:
        """Close both stores."""
        self.n1.store.close()
        self.n2.store.close()

    async def send(self, change: Callable[[Parcel], Parcel] = lambda parcel: parcel) -> dict[str, Any]:
        """Have n1 send a session key to b; returns the message, which is not delivered.

        `change` is what a dishonest node on the way does to the sealed parcel before the hop protects it.
        """
        federation = self.n1.core.federation
        key = KeyBlock(str(uuid.uuid4()), KEY)
        ends, expires_at = ("n1", "n2"), self.clock.now() + 10_000
        parcel = draft(Purpose.SESSION_KEY, [key], ("a", ("b",)), ends, str(uuid.uuid4()), expires_at)

        def prepare(_ledger: Ledger, parcel: Parcel) -> Parcel:
            return change(sealed(parcel, federation.seal_key("n2"), "cryptography"))

        await self.n1.core.relay.send(parcel, prepare)
        await self.n1.background.finish()
        message: dict[str, Any] = json.loads(self.n1.wire.sent.pop())
        return message

    async def deliver(self, message: dict[str, Any]) -> bytes | None:
        """Hand a message to n2 as its API does; returns the key that b then fetches. Raises what n2 would answer."""
        await self.n2.core.relay.accept("n1", incoming(message))
        await self.n2.background.finish()
        key_id = message["keys"][0]["key_id"]
        return await self.n2.store.transact(lambda ledger: ledger.fetch_deposit(key_id, "b"))


def incoming(message: dict[str, Any]) -> Incoming:
    """Read a message."""
    container = parse(ExtKeyContainer, json.dumps(message).encode())
    mandatory = container.extension_mandatory or {}
    header = HybridTransport.model_validate(mandatory[HYBRID_TRANSPORT])
    return Incoming(container, header, EndToEnd.model_validate(mandatory[END_TO_END]), str(uuid.uuid4()))
