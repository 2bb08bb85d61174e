"""Two emulated devices as processes: mutual TLS, the standard's answers, and `kill -9` in between."""

import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from node.mutual_tls.contexts import client_context
from node.wire import etsi014
from tests.certificates import Credential, issue, make_authority, write_identity
from tests.integration.node.small_federation import free_port

HOME, PARTNER = make_authority("home"), make_authority("partner")
START_LIMIT_S = 20.0
UNKNOWN_KEY_ID = "00000000-0000-4000-8000-000000000000"
Answer = tuple[int, Any]


@dataclass
class DeviceProcess:
    """`python -m emulators` for one end of the link kmstn1-kmstn2, on a free port."""

    folder: Path
    node: str
    peer: str
    port: int
    process: asyncio.subprocess.Process | None = None
    sessions: list[aiohttp.ClientSession] = field(default_factory=list)

    def prepare(self, seed: Path) -> None:
        device = issue(HOME, "device", f"{self.node}-to-{self.peer}")
        settings = {
            "device": f"{self.node}-to-{self.peer}",
            "domain": "home",
            "link": "kmstn1-kmstn2",
            "end": "a" if self.node == "kmstn1" else "b",
            "node": self.node,
            "peer_device": f"{self.peer}-to-{self.node}",
            "peer_node": self.peer,
            "lit_at": 1_700_000_000.0,
            "profile": {"initial_keys": 100, "storage_keys": 100, "secret_key_rate_bps": 0.0, "api_latency_ms": 0.0},
            "fibre_seed_path": str(seed),
            "state_dir": str(self.folder / "state"),
            "identity_dir": str(write_identity(self.folder / "identity", device, [HOME, PARTNER])),
            "bind": "127.0.0.1",
            "port": self.port,
        }
        (self.folder / "settings.json").write_text(json.dumps(settings))

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "emulators", str(self.folder / "settings.json"), stderr=asyncio.subprocess.PIPE
        )
        assert self.process.stderr is not None
        log: list[str] = []
        async with asyncio.timeout(START_LIMIT_S):
            while not log or " on port " not in log[-1]:
                line = (await self.process.stderr.readline()).decode()
                assert line, "the device ended: " + "".join(log)
                log.append(line)

    async def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.communicate()

    def caller(self, leaf: Credential) -> aiohttp.ClientSession:
        folder = self.folder / f"caller-{leaf.certificate.serial_number}"
        tls = client_context(write_identity(folder, leaf, [HOME]), ["home"], peer_plane=False)
        session = aiohttp.ClientSession(
            f"https://localhost:{self.port}/api/v1/keys/", connector=aiohttp.TCPConnector(ssl=tls)
        )
        self.sessions.append(session)
        return session

    def beside(self) -> aiohttp.ClientSession:
        return self.caller(issue(HOME, "node", self.node))


@dataclass
class Link:
    a: DeviceProcess
    b: DeviceProcess


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    seed = tmp_path / "fibre.seed"
    seed.write_bytes(os.urandom(32))
    ends = [
        DeviceProcess(tmp_path / node, node, peer, free_port())
        for node, peer in (("kmstn1", "kmstn2"), ("kmstn2", "kmstn1"))
    ]
    for end in ends:
        end.prepare(seed)
    try:
        await asyncio.gather(*(end.start() for end in ends))
        yield Link(*ends)
    finally:
        for end in ends:
            for session in end.sessions:
                await session.close()
            await end.kill()


async def get(session: aiohttp.ClientSession, path: str) -> Answer:
    async with session.get(path) as answer:
        body = await answer.read()
        return answer.status, json.loads(body) if body else None


async def post(session: aiohttp.ClientSession, path: str, body: Any) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with session.post(path, data=data, headers={"Content-Type": "application/json"}) as answer:
        content = await answer.read()
        return answer.status, json.loads(content) if content else None


def names(keys: dict[str, Any]) -> dict[str, Any]:
    return {"key_IDs": [{"key_ID": key["key_ID"]} for key in keys["keys"]]}


async def test_both_ends_serve_the_same_key(link: Link) -> None:
    master, slave = link.a.beside(), link.b.beside()
    status, posted = await post(master, "kmstn2/enc_keys", {"number": 3, "size": 256})
    assert (status, len(posted["keys"])) == (200, 3)
    assert await post(slave, "kmstn1/dec_keys", names(posted)) == (200, posted)
    status, got = await get(master, "kmstn2/enc_keys?number=1&size=256")
    assert status == 200
    assert await get(slave, f"kmstn1/dec_keys?key_ID={got['keys'][0]['key_ID']}") == (200, got)


async def test_key_never_served_twice_after_kill(link: Link) -> None:
    master, slave = link.a.beside(), link.b.beside()
    _, before = await post(master, "kmstn2/enc_keys", {"number": 5})
    assert (await post(slave, "kmstn1/dec_keys", names(before)))[0] == 200
    for end in (link.a, link.b):
        await end.kill()
        await end.start()
    master, slave = link.a.beside(), link.b.beside()
    _, after = await post(master, "kmstn2/enc_keys", {"number": 5})
    served = {key["key"] for key in before["keys"] + after["keys"]}
    assert len(served) == 10
    assert await post(slave, "kmstn1/dec_keys", names(before)) == (400, {"message": etsi014.KEYS_NOT_FOUND})
    assert await post(slave, "kmstn1/dec_keys", names(after)) == (200, after)


async def test_kill_in_the_middle_of_requests_repeats_no_key(link: Link) -> None:
    answers: list[dict[str, Any]] = []

    async def ask(session: aiohttp.ClientSession) -> None:
        while True:
            status, body = await post(session, "kmstn2/enc_keys", {"number": 1})
            if status != 200:
                return
            answers.append(body["keys"][0])
            if len(answers) == 40:
                assert link.a.process is not None
                link.a.process.send_signal(signal.SIGKILL)

    outcomes = await asyncio.gather(*(ask(link.a.beside()) for _ in range(4)), return_exceptions=True)
    assert all(isinstance(outcome, aiohttp.ClientError) for outcome in outcomes)
    await link.a.kill()
    await link.a.start()
    await ask(link.a.beside())
    assert 90 <= len(answers) <= 100
    assert len({key["key"] for key in answers}) == len({key["key_ID"] for key in answers}) == len(answers)


async def test_empty_store_answers_503(link: Link) -> None:
    master = link.a.beside()
    assert (await post(master, "kmstn2/enc_keys", {"number": 100}))[0] == 200
    assert (await get(master, "kmstn2/status"))[1]["stored_key_count"] == 0
    assert await post(master, "kmstn2/enc_keys", {}) == (503, {"message": "1 keys requested, 0 in store"})


async def test_status_has_the_figures_of_table_9(link: Link) -> None:
    assert await get(link.a.beside(), "kmstn2/status") == (
        200,
        {
            "source_KME_ID": "kmstn1-to-kmstn2",
            "target_KME_ID": "kmstn2-to-kmstn1",
            "master_SAE_ID": "kmstn1",
            "slave_SAE_ID": "kmstn2",
            "key_size": 256,
            "stored_key_count": 100,
            "max_key_count": 100,
            "max_key_per_request": 128,
            "max_key_size": 256,
            "min_key_size": 256,
            "max_SAE_ID_count": 0,
        },
    )


@pytest.mark.parametrize("leaf", [issue(HOME, "sae", "kmstn1"), issue(HOME, "node", "kmstn2")], ids=["sae", "other"])
async def test_anyone_but_the_node_beside_it_is_answered_401(link: Link, leaf: Credential) -> None:
    caller = link.a.caller(leaf)
    assert await get(caller, "kmstn2/status") == (401, None)
    assert await post(caller, "kmstn2/enc_keys", {}) == (401, None)
    assert await post(caller, "kmstn2/dec_keys", {"key_IDs": [{"key_ID": UNKNOWN_KEY_ID}]}) == (401, None)
    assert (await get(link.a.beside(), "kmstn2/status"))[1]["stored_key_count"] == 100


async def test_keys_with_another_node_than_the_opposite_one_are_refused(link: Link) -> None:
    for path in ("kmstn3/status", "kmstn1/status", "kmstn2%2Fx/status"):
        assert await get(link.a.beside(), path) == (401, None)


async def test_foreign_domain_certificate_is_refused(link: Link) -> None:
    with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await get(link.a.caller(issue(PARTNER, "node", "kmstn1")), "kmstn2/status")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"number": ', "body"),
        ({"number": "1"}, "number"),
        ({"number": True}, "number"),
        (b"x" * 70_000, "65536 bytes"),
        ({"size": 255}, etsi014.SIZE_NOT_MULTIPLE_OF_8),
    ],
)
async def test_bad_request_says_where(link: Link, body: Any, named: str) -> None:
    status, answer = await post(link.a.beside(), "kmstn2/enc_keys", body)
    assert status == 400
    assert named in json.dumps(answer)


async def test_unknown_path_and_method_have_an_error_body(link: Link) -> None:
    assert await get(link.a.beside(), "kmstn2/keys") == (404, {"message": "Not Found"})
    assert (await post(link.a.beside(), "kmstn2/status", {}))[0] == 405


async def test_second_device_on_the_same_port_fails_at_once(link: Link) -> None:
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "emulators", str(link.a.folder / "settings.json"), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(START_LIMIT_S):
        _, log = await second.communicate()
    assert second.returncode == 1
    assert b"Address already in use" in log


async def test_device_stops_on_sigterm_with_a_connection_open(link: Link) -> None:
    assert (await get(link.a.beside(), "kmstn2/status"))[0] == 200
    assert link.a.process is not None
    link.a.process.terminate()
    async with asyncio.timeout(START_LIMIT_S):
        assert await link.a.process.wait() == 0
