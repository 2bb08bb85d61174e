"""A neighbour with a good certificate and bad intentions: what it advertises, announces and acknowledges.

It costs the node next to nothing, spoils nothing for others, and what it made the node believe is bounded.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from node.clients.peer_node import HttpPeerNode
from node.core.keys import Direction
from node.crypto.advert_signature import AdvertSigner
from node.identity_uri import Role
from node.mutual_tls.client_certificate_protocol import serve
from node.mutual_tls.contexts import server_context
from node.settings import LimitSettings
from node.wire.etsi020 import AckContainer, ExtKeyContainer, VersionContainer, dump
from node.wire.federation import FEDERATION, FederationAdvert, NodeAdvert, SignedAdvert
from tests.certificates import Credential, issue, make_authority
from tests.hostile.books import books_at_rest, differences, read_books
from tests.hostile.hostile_federation import PEER_API, HostileFederation
from tests.integration.node.small_federation import GROUPS

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINK_KEYS = "/federation/v1/link_keys"
LONGEST_ANSWER_BYTES = 4 * 1024 * 1024


class Impostor:
    """An ASGI application in the place of n2, which answers `versions` with anything."""

    def __init__(self) -> None:
        self.body = b"{}"
        self.asked = 0

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.asked += 1
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})

    async def heard(self, body: bytes, times: int = 3) -> None:
        """Answer this until the node has heard it some times."""
        self.body, before = body, self.asked
        async with asyncio.timeout(20):
            while self.asked < before + times:
                await asyncio.sleep(0.02)


Told = tuple[HostileFederation, Impostor]


@pytest_asyncio.fixture(loop_scope="module")
async def told(tmp_path: Path) -> AsyncIterator[Told]:
    """A federation of its own, with an impostor in the place of n2: at its address, with its certificate."""
    federation = HostileFederation(tmp_path)
    async with federation:
        await federation.stop_node("n2")
        impostor = Impostor()
        identity = federation.identity("east", Role.NODE, "n2")
        context = server_context(identity, ("east", "west"), peer_plane=True, groups=GROUPS)
        server = await serve(impostor, context, "127.0.0.1", federation.ports["n2"][PEER_API])
        yield federation, impostor
        await server.stop()


def signed(leaf: Credential, **changes: Any) -> SignedAdvert:
    """Have the holder of a certificate say something of itself."""
    now = time.time()
    says = {
        "node": leaf.certificate.subject.rdns[0]._attributes[0].value,
        "domain": leaf.domain,
        "saes": (),
        "suites": ("mlkem768-v1",),
        "kem_keys": (),
        "issued_at": now,
        "expires_at": now + 30,
    }
    advert = NodeAdvert.model_construct(**says | changes)
    return AdvertSigner(leaf.key, leaf.der).sign(advert.model_dump_json().encode())


def versions(adverts: list[SignedAdvert], routes: list[dict[str, Any]] | None = None) -> bytes:
    """Spell an answer, whether or not its members are in bounds."""
    said = json.loads(FederationAdvert.model_construct(adverts=tuple(adverts), routes=()).model_dump_json())
    return json.dumps({"versions": ["v1"], "extension": {FEDERATION: {**said, "routes": routes or []}}}).encode()


def route(node: str, **changes: Any) -> dict[str, Any]:
    return {"node": node, "cost": 1, "node_path": ["n2", node], "domain_path": []} | changes


def wrong_answers(federation: HostileFederation) -> Iterator[tuple[str, bytes]]:
    """Draw up answers that are nothing to believe."""
    west, east = federation.authorities["west"], federation.authorities["east"]
    good = signed(issue(west, Role.NODE, "w0"))
    spoiled = good.model_copy(update={"signature": good.signature[:-1] + bytes([good.signature[-1] ^ 1])})
    yield "no JSON", b"<html>"
    yield "deep", b'{"versions":["v1"],"extension":' + b'{"a":' * 50_000
    yield "longer than any answer", b" " * (LONGEST_ANSWER_BYTES + 100_000)
    yield "invalid UTF-8", b'{"versions": ["\xff"]}'
    yield "no extension", b'{"versions": ["v1"]}'
    yield "extension of another shape", json.dumps({"versions": [], "extension": {FEDERATION: [1]}}).encode()
    yield "too many adverts", versions([good] * 1025)
    yield "wrong signature", versions([spoiled] * 1000)
    yield "certificate that is none", versions([good.model_copy(update={"certificate": b"\x30\x82\xff\xff"})])
    yield "body that is none", versions([good.model_copy(update={"body": b"[" * 30_000})])
    yield "certificate of an SAE", versions([signed(issue(east, Role.SAE, "n3"))])
    yield "certificate of a strange domain", versions([signed(issue(make_authority("mars"), Role.NODE, "m1"))])
    yield "somebody else's name", versions([signed(issue(west, Role.NODE, "w1"), node="n1")])
    yield "somebody else's domain", versions([signed(issue(west, Role.NODE, "w2"), domain="east")])
    yield "node of another domain", versions([signed(issue(west, Role.NODE, "n1"))])
    yield "for ever", versions([signed(issue(west, Role.NODE, "w3"), expires_at=4e12)])
    yield "not a number", versions([signed(issue(west, Role.NODE, "w4"), issued_at=float("nan"))])
    yield "from the future", versions([signed(issue(west, Role.NODE, "w5"), issued_at=time.time() + 9e6)])
    yield "of 900 kB", versions([signed(issue(west, Role.NODE, "w6"), suites=("x" * 900_000,))])
    yield "routes that lead back", versions([good], [route("w0", node_path=["n2", "n1", "w0"])] * 1000)
    yield "routes that lead home", versions([good], [route("w0", domain_path=["west", "east"])] * 1000)
    yield "routes to nobody", versions([], [route(f"x{number:04}") for number in range(1024)])
    yield "routes of endless cost", versions([good], [route("w0", cost=10**400)])
    yield "routes of the greatest cost", versions([good], [route("w0", cost=1_000_000)])
    yield "routes of negative cost", versions([good], [route("w0", cost=-5)])
    yield "paths of 1000 nodes", versions([good], [route("w0", node_path=["w0"] * 1000)])


async def test_wrong_adverts_are_not_believed_and_the_node_stays_up(told: Told) -> None:
    federation, impostor = told
    for name, body in wrong_answers(federation):
        await impostor.heard(body)
        status = await federation.status("n1")
        known = {entry["node"] for entry in status["routes"]}
        assert known <= {"n2", "n3", "w0"}, name
        answer = await federation.peer("n2", at="n1").get("/kmapi/versions")
        assert answer.status_code == 200, name
        VersionContainer.model_validate_json(answer.content)
        assert (await federation.sae("a1").get("/api/v1/keys/a2/enc_keys")).status_code == 200, name


async def test_domain_that_invents_nodes_gets_no_more_than_its_share(told: Told) -> None:
    federation, impostor = told
    west = federation.authorities["west"]
    invented = [issue(west, Role.NODE, f"w{number:03}") for number in range(400)]
    saes = tuple(f"{number:060}" for number in range(100))
    for _ in range(2):
        adverts = [signed(leaf, saes=saes) for leaf in invented]
        routes = [route(f"w{number:03}") for number in range(400)]
        # More than one answer holds: a hundred of them each time.
        for part in range(0, 400, 100):
            await impostor.heard(versions(adverts[part : part + 100], routes), times=2)
    known = federation.nodes["n1"]._core.federation.directory.nodes()
    assert 1 < len([node for node in known if node.domain == "west"]) < 350
    answer = (await federation.peer("n2", at="n1").get("/kmapi/versions")).content
    assert len(answer) < LONGEST_ANSWER_BYTES
    VersionContainer.model_validate_json(answer)
    assert (await federation.sae("a1").get("/api/v1/keys/a2/enc_keys")).status_code == 200
    # What is known of one's own domain is not crowded out.
    assert {"n1", "n2"} <= {node.node for node in known}


async def test_sae_that_is_at_home_elsewhere_cannot_be_claimed(told: Told) -> None:
    federation, impostor = told
    leaf = issue(federation.authorities["west"], Role.NODE, "a-thief")
    own = federation.nodes["n1"]._core.federation
    await impostor.heard(versions([signed(leaf, saes=("a1", "a2", "b", "c"))], [route("a-thief")]))
    assert [own.home_of(sae) for sae in ("a1", "a2", "b", "c")] == ["n1", "n1", "n2", "n3"]


# Announcements and pool blocks.


def announcement(number: int) -> dict[str, Any]:
    return {"link": "n1-n2", "key_ids": [str(uuid.uuid4()) for _ in range(number)]}


async def test_announcement_of_more_link_keys_than_are_kept_is_refused(federation: HostileFederation) -> None:
    before = await books_at_rest(federation)
    for _ in range(20):
        answer = await federation.peer("n2", at="n1").post(LINK_KEYS, json=announcement(1024))
        assert answer.status_code == 503
        assert answer.json()["type"].endswith("/server-side-general-error")
        assert "link keys are kept" in answer.text
    assert not differences(before, read_books(federation))


async def test_link_keys_that_no_device_has_are_absent_one_announcement_at_a_time(
    federation: HostileFederation,
) -> None:
    before = await books_at_rest(federation)
    peer = federation.peer("n2", at="n1")
    answers = await asyncio.gather(*(peer.post(LINK_KEYS, json=announcement(20)) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 200:
            assert (len(answer.json()["held"]), len(answer.json()["absent"])) == (0, 20)
    assert not differences(before, read_books(federation))


async def test_no_more_pool_blocks_of_one_node_are_kept_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    limited = _Unsettled(tmp_path_factory.mktemp("limited"), limits=LimitSettings(inbound_blocks=4))
    async with limited, asyncio.timeout(30):
        while await _inbound(limited) < 4:
            await asyncio.sleep(0.05)
        for _ in range(20):
            await asyncio.sleep(0.05)
            assert await _inbound(limited) == 4
        assert (await limited.status("n1"))["healthy"]


class _Unsettled(HostileFederation):
    """Its pools never get full."""

    async def settled(self) -> None:
        return None


async def _inbound(federation: HostileFederation) -> int:
    counts = await federation.nodes["n1"]._store.transact(lambda ledger: ledger.block_counts())
    return counts.get(("n2", Direction.IN, True), 0)


# Transfers and acknowledgements.


@pytest.mark.parametrize("member", ["link_key_ids", "block_ids", "tags", "path", "suite"])
async def test_transfer_with_far_too_much_in_one_member_is_refused(
    federation: HostileFederation, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    message = await _transfer_to_n1(federation, monkeypatch)
    ids = [str(uuid.uuid4()) for _ in range(40_000)]
    carried = message["extension_mandatory"]
    part = carried["E32473_end_to_end" if member in ("block_ids",) else "E32473_hybrid_transport"]
    part[member] = {"link_key_ids": [ids], "suite": "x" * 1_000_000, "path": ["n2"] * 1000}.get(member, ids)
    before = await books_at_rest(federation)
    answer = await federation.peer("n2", at="n1").post("/kmapi/v1/ext_keys", json=message)
    assert answer.status_code == 400
    assert len(answer.content) < 20_000
    assert not differences(before, read_books(federation))


async def _transfer_to_n1(federation: HostileFederation, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    sent: list[ExtKeyContainer] = []
    original = HttpPeerNode.ext_keys

    async def ext_keys(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        sent.append(container)
        return await original(peer, container)

    with monkeypatch.context() as patch:
        patch.setattr(HttpPeerNode, "ext_keys", ext_keys)
        assert (await federation.sae("b").get("/api/v1/keys/a1/enc_keys")).status_code == 200
        await books_at_rest(federation)
    message: dict[str, Any] = json.loads(dump(sent[0]))
    return message


async def test_acknowledgements_of_which_one_cannot_be_read_change_nothing(
    federation: HostileFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    await books_at_rest(federation)

    async def withheld(_peer: HttpPeerNode, _container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        return ()

    with monkeypatch.context() as patch:
        patch.setattr(HttpPeerNode, "ext_keys", withheld)
        answer = await federation.sae("a1").get("/api/v1/keys/b/enc_keys")
        assert answer.status_code == 200
        await asyncio.sleep(0.2)
    [key] = answer.json()["keys"]
    failed = {
        "key_id_container": [{"key_id": key["key_ID"]}],
        "ack_status": "failed",
        "initiator_sae_id": "a1",
        "target_sae_ids": ["b"],
    }
    unreadable = failed | {"extension": {"E32473_provenance": {"path": 1}}}
    before = read_books(federation)
    refused = await federation.peer("n2", at="n1").post("/kmapi/v1/ext_keys/ack", json=[failed, unreadable])
    assert refused.status_code == 400
    changed = differences(before, read_books(federation))
    assert not [line for line in changed if line.startswith(("n1 parcel", "n1 record"))]
    assert (await federation.peer("n2", at="n1").post("/kmapi/v1/ext_keys/ack", json=[failed])).status_code == 200
    await books_at_rest(federation)
