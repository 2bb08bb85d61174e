"""A node whose store fails says so on every API, keeps what it has acknowledged, and goes on when the store does."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.errors import StoreDamagedError, StoreForeignError, StoreMissingError
from node.storage.database import DATABASE_NAME
from node.storage.store_file import create_store
from node.storage.value_cipher import ValueCipher
from tests.integration.node.small_federation import SmallFederation


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[SmallFederation]:
    async with SmallFederation(tmp_path) as started:
        yield started


def pragma(federation: SmallFederation, node: str, text: str) -> int:
    connection = federation.nodes[node]._store._connection
    assert connection is not None
    row = connection.execute(f"PRAGMA {text}").fetchone()
    return int(row[0]) if row else 0


async def enc_keys(federation: SmallFederation, number: int = 1) -> httpx.Response:
    return await federation.sae("a1").post("/api/v1/keys/b/enc_keys", json={"number": number})


async def dec_keys(federation: SmallFederation, keys: list[Any]) -> list[Any]:
    """Fetch the keys at the slave, a few at a time."""
    fetched: list[Any] = []
    for key in keys:
        answer = await federation.sae("b").get("/api/v1/keys/a1/dec_keys", params={"key_ID": key["key_ID"]})
        assert answer.status_code == 200, answer.text
        fetched += answer.json()["keys"]
    return fetched


async def until_refused(federation: SmallFederation, word: str) -> tuple[list[Any], str]:
    """Ask for keys until the store is the reason of a 503; return the keys that were handed out, and the reason."""
    keys: list[Any] = []
    async with asyncio.timeout(30):
        while True:
            answer = await enc_keys(federation, 4)
            if answer.status_code == 200:
                keys += answer.json()["keys"]
                continue
            assert answer.status_code == 503, answer.text
            if word in answer.json()["message"]:
                return keys, answer.json()["message"]


async def until_served(federation: SmallFederation) -> list[Any]:
    async with asyncio.timeout(30):
        while (answer := await enc_keys(federation)).status_code != 200:
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(0.1)
    keys: list[Any] = answer.json()["keys"]
    return keys


FAILURES: dict[str, tuple[Callable[[SmallFederation, str], str], str]] = {
    "full": (lambda federation, node: f"max_page_count = {pragma(federation, node, 'page_count')}", "full"),
    "read-only": (lambda _federation, _node: "query_only = ON", "readonly"),
}
REPAIRS = {"full": "max_page_count = 1000000", "read-only": "query_only = OFF"}


@pytest.mark.parametrize("failure", FAILURES)
async def test_masters_node_whose_store_fails_refuses_with_the_reason_and_goes_on_by_itself(
    federation: SmallFederation, failure: str
) -> None:
    before = (await enc_keys(federation, 2)).json()["keys"]
    make, word = FAILURES[failure]
    pragma(federation, "n1", make(federation, "n1"))
    keys, reason = await until_refused(federation, word)
    assert "the store refused to write" in reason
    health = (await federation.operator("n1").get("/health")).json()
    assert not health["healthy"]
    assert any(word in one for one in health["reasons"])
    status = await federation.status("n1")
    assert not status["healthy"]
    assert any(word in one for one in status["reasons"])
    pragma(federation, "n1", REPAIRS[failure])
    after = await until_served(federation)
    await federation.settled()
    assert (await federation.operator("n1").get("/health")).json() == {"healthy": True, "reasons": []}
    wanted = before + keys + after
    assert await dec_keys(federation, wanted) == wanted, "whatever enc_keys answered is there for the slave"


async def test_slaves_node_whose_store_is_full_refuses_its_neighbour_and_loses_nothing(
    federation: SmallFederation,
) -> None:
    before = (await enc_keys(federation, 2)).json()["keys"]
    pragma(federation, "n2", "query_only = ON")
    underway = (await enc_keys(federation, 2)).json().get("keys", [])
    fetched = await federation.sae("b").get("/api/v1/keys/a1/dec_keys", params={"key_ID": before[0]["key_ID"]})
    assert fetched.status_code == 503
    assert "readonly" in fetched.json()["message"]
    answer = await federation.peer("n1", "n2").post("/kmapi/v1/ext_keys/void", json={})
    assert answer.status_code in (400, 503)
    pragma(federation, "n2", "query_only = OFF")
    await federation.settled()
    await until_served(federation)
    wanted = before + underway
    async with asyncio.timeout(30):
        assert await dec_keys(federation, wanted) == wanted


async def test_damage_found_while_running_ends_the_service_with_the_reason(federation: SmallFederation) -> None:
    path = federation.settings("n1").state_dir / DATABASE_NAME
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE pool_block SET sealed = zeroblob(60) WHERE direction = 'out'")
        other.execute("UPDATE link_key SET sealed = zeroblob(60)")
    _keys, reason = await until_refused(federation, "altered")
    assert "stored value" in reason
    for _ in range(2):
        health = (await federation.operator("n1").get("/health")).json()
        assert any("altered" in reason for reason in health["reasons"])
        status = await federation.status("n1")
        assert not status["healthy"]
        assert status["node"] == "n1"
        assert (await enc_keys(federation)).status_code == 503
        answer = await federation.operator("n1").get(f"/keys/{'0' * 8}-0000-4000-8000-{'0' * 12}")
        assert answer.status_code == 503
    await federation.stop_node("n1")
    with pytest.raises(StoreDamagedError, match="altered"):
        await federation.start_node("n1")


async def test_node_does_not_start_on_a_store_that_is_not_its_own_whole_one(federation: SmallFederation) -> None:
    await federation.stop_node("n1")
    path = federation.settings("n1").state_dir / DATABASE_NAME
    whole = path.read_bytes()
    create_store(path, ValueCipher(bytes(32)), epoch=0)
    foreign = path.read_bytes()
    damages: list[tuple[bytes, type[Exception]]] = [
        (b"", StoreMissingError),
        (b"no database" * 1000, StoreDamagedError),
        (whole[:-4096], StoreDamagedError),
        (whole[:8192] + bytes(4096) + whole[12288:], StoreDamagedError),
        (foreign, StoreForeignError),
    ]
    for content, kind in damages:
        path.write_bytes(content)
        with pytest.raises(kind, match="cannot open"):
            await federation.start_node("n1")
        assert path.read_bytes() == content
    path.write_bytes(whole)
    await federation.start_node("n1")
    await federation.settled()
    assert await until_served(federation)
