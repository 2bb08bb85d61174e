"""The small federation as SAEs see it: settings that a test may change, SAEs with awkward IDs, books to compare."""

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from node.core.pool import Pools
from node.identity_uri import Role
from node.mutual_tls.contexts import client_context
from node.settings import NodeSettings
from node.storage.database import DATABASE_NAME
from tests.certificates import issue, write_identity
from tests.integration.node.small_federation import HOME, LAYOUT, SmallFederation

# What a request that was refused may not have touched, at any node: no key handed out, none kept, no block spent.
BOOKS = ("record", "deposit", "parcel", "pool_block")


@dataclass
class SaeFederation(SmallFederation):
    """`changes` replaces settings of every node, `more_saes` adds SAEs by node."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    more_saes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    async def __aenter__(self) -> "SaeFederation":
        await super().__aenter__()
        return self

    def settings(self, name: str) -> NodeSettings:
        made = super().settings(name)
        return made.model_copy(update={**self.changes, "saes": (*made.saes, *self.more_saes.get(name, ()))})

    def home(self, sae: str) -> str:
        return next((node for node, saes in self.more_saes.items() if sae in saes), HOME.get(sae, "n1"))

    def sae(self, name: str, *, at: str | None = None) -> httpx.AsyncClient:
        home = self.home(name)
        return self._client(at or home, Role.SAE, name, LAYOUT[home][0], 0)

    def identity(self, domain: str, role: Role, name: str) -> Path:
        return super().identity(domain, role, name) if "/" not in name else self._identity(domain, role, name)

    def _identity(self, domain: str, role: Role, name: str) -> Path:
        directory = self.root / quote(f"{domain}-{role.value}-{name}", safe="")
        if not directory.exists():
            write_identity(directory, issue(self.authorities[domain], role, name), self.authorities.values())
        return directory

    async def enc_keys(self, master: str, slave: str, **request: Any) -> httpx.Response:
        """Ask for keys with POST."""
        return await self.sae(master).post(f"/api/v1/keys/{quote(slave, safe='')}/enc_keys", json=request)

    async def dec_keys(self, slave: str, master: str, *key_ids: str, **members: Any) -> httpx.Response:
        """Fetch keys with POST."""
        body = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids], **members}
        return await self.sae(slave).post(f"/api/v1/keys/{quote(master, safe='')}/dec_keys", json=body)

    async def issued(self, master: str, slave: str, **request: Any) -> list[dict[str, Any]]:
        """Ask for keys and get them."""
        answer = await self.enc_keys(master, slave, **request)
        assert answer.status_code == 200, answer.text
        keys: list[dict[str, Any]] = answer.json()["keys"]
        return keys

    async def key_status(self, master: str, slave: str) -> dict[str, Any]:
        """Get the ETSI 014 status."""
        answer = await self.sae(master).get(f"/api/v1/keys/{quote(slave, safe='')}/status")
        assert answer.status_code == 200, answer.text
        status: dict[str, Any] = answer.json()
        return status

    async def raw(self, sae: str, request: bytes) -> tuple[int, bytes]:
        """Send bytes as they are; return status and body of the answer."""
        node = self.home(sae)
        domain = LAYOUT[node][0]
        context = client_context(self.identity(domain, Role.SAE, sae), (domain,), peer_plane=False)
        reader, writer = await asyncio.open_connection("localhost", self.ports[node][0], ssl=context)
        try:
            writer.write(request)
            answer = await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body

    def books(self) -> dict[str, int]:
        """Return how many rows each of the nodes' tables has."""
        counts = {}
        for name in self.nodes:
            path = self.root / f"state-{name}" / DATABASE_NAME
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            for table in BOOKS:
                counts[f"{name} {table}"] = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            connection.close()
        return counts

    async def quiet_books(self) -> dict[str, int]:
        """Return the books once every parcel has arrived and was acknowledged."""
        async with asyncio.timeout(10):
            books = self.books()
            while any(number for table, number in books.items() if table.endswith(" parcel")):
                await asyncio.sleep(0.02)
                books = self.books()
        return books


@contextmanager
def fills_paused() -> Iterator[None]:
    """Have nobody fill pools any more; with every pool full there is no fill under way either."""

    async def idle(_pools: Pools, _peer: str) -> None:
        await asyncio.sleep(3600)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pools, "_fill_once", idle)
        yield
