"""What a node must refuse, towards SAEs and neighbours: the standard's answer, and nothing consumed or stored."""

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from node.clients.peer_node import HttpPeerNode
from node.identity_uri import Role
from node.mutual_tls.contexts import client_context
from node.settings import DeliverySettings
from node.wire.etsi020 import AckContainer, ExtKeyContainer, dump
from tests.certificates import issue, write_identity
from tests.integration.node.small_federation import SmallFederation

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SmallFederation]:
    async with SmallFederation(tmp_path_factory.mktemp("federation")) as started:
        yield started


BAD_KEY_REQUESTS: list[tuple[str, Any, int, str]] = [
    ("b", {"size": 0}, 400, ""),
    ("b", {"size": -256}, 400, ""),
    ("b", {"size": 257}, 400, "size shall be a multiple of 8"),
    ("b", {"size": 8}, 400, "size is out of bounds"),
    ("b", {"size": 8192}, 400, "size is out of bounds"),
    ("b", {"size": "256"}, 400, "bad request format"),
    ("b", {"size": 256.5}, 400, "bad request format"),
    ("b", {"number": 0}, 400, ""),
    ("b", {"number": 129}, 400, "number is out of bounds"),
    ("b", {"number": True}, 400, "bad request format"),
    ("b", [], 400, "bad request format"),
    ("b", "text", 400, "bad request format"),
    ("a1", {}, 400, "an SAE cannot share keys with itself"),
    ("b", {"additional_slave_SAE_IDs": ["a1"]}, 400, "an SAE cannot share keys with itself"),
    ("b", {"additional_slave_SAE_IDs": ["c"] * 9}, 400, "too many additional slave SAEs"),
    ("b", {"extension_mandatory": [{"acme_x": 1}]}, 400, "not all extension_mandatory parameters are supported"),
    ("n2", {}, 503, "no node of the federation advertises the SAE n2"),
    ("n1", {}, 503, "no node of the federation advertises the SAE n1"),
    ("nobody", {}, 503, "no node of the federation advertises the SAE nobody"),
]


async def test_bad_key_requests_get_the_standards_answer_and_consume_nothing(federation: SmallFederation) -> None:
    before = await federation.stocks()
    for slave, body, status, message in BAD_KEY_REQUESTS:
        answer = await federation.sae("a1").post(f"/api/v1/keys/{slave}/enc_keys", json=body)
        assert answer.status_code == status, (slave, body, answer.text)
        assert message in answer.json()["message"], (slave, body, answer.text)
    assert await federation.stocks() == before


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"number": 1e999}', b"[" * 100_000, b"null", b"x" * 300_000])
async def test_bodies_that_are_not_json_are_named_as_such(federation: SmallFederation, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await federation.sae("a1").post("/api/v1/keys/b/enc_keys", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["message"]


async def test_sae_that_is_not_registered_at_the_node_is_refused(
    federation: SmallFederation, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await federation.sae("b", at="n1").get("/api/v1/keys/c/enc_keys")
    assert answer.status_code == 401
    assert "not registered" in answer.json()["message"]


async def test_certificate_of_another_region_is_refused_and_the_reason_logged(
    federation: SmallFederation, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "kmstn.tls"), pytest.raises(httpx.TransportError):
        await _client(federation, federation.identity("west", Role.SAE, "a1")).get("/api/v1/keys/b/enc_keys")
    assert any(record.name == "kmstn.tls" for record in caplog.records)


async def test_expired_certificate_is_refused_and_the_reason_logged(
    federation: SmallFederation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    past = datetime.now(UTC) - timedelta(days=2)
    leaf = issue(federation.authorities["east"], Role.SAE, "a1", not_before=past, not_after=past + timedelta(days=1))
    identity = write_identity(tmp_path / "expired", leaf, federation.authorities.values())
    with caplog.at_level(logging.WARNING, "kmstn.tls"), pytest.raises(httpx.TransportError):
        await _client(federation, identity).get("/api/v1/keys/b/enc_keys")
    assert "expired" in caplog.text


async def test_node_certificate_does_not_open_the_sae_api(
    federation: SmallFederation, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await _client(federation, federation.identity("east", Role.NODE, "n2")).get("/api/v1/keys/b/enc_keys")
    assert answer.status_code == 401
    assert "role node" in caplog.text


def _client(federation: SmallFederation, identity: Path) -> httpx.AsyncClient:
    context = client_context(identity, ("east",), peer_plane=False)
    return httpx.AsyncClient(verify=context, base_url=f"https://localhost:{federation.ports['n1'][0]}", timeout=10)


class Wiretap:
    """Records the transfers that nodes send; withholds them if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, withhold: bool) -> None:
        self.sent: list[tuple[str, ExtKeyContainer]] = []
        original = HttpPeerNode.ext_keys

        async def ext_keys(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
            self.sent.append((peer.name, container))
            return () if withhold else await original(peer, container)

        monkeypatch.setattr(HttpPeerNode, "ext_keys", ext_keys)

    def to(self, node: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(next(dump(c) for name, c in self.sent if name == node))
        return body


async def test_replayed_transfer_is_refused_and_stores_nothing(
    federation: SmallFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Wiretap(monkeypatch, withhold=False)
    assert (await federation.sae("a1").get("/api/v1/keys/b/enc_keys")).status_code == 200
    await federation.settled()
    message = tap.to("n2")
    before = (await federation.status("n2"))["pools"]
    again = await federation.peer("n1", at="n2").post("/kmapi/v1/ext_keys", json=message)
    assert again.status_code == 503
    assert "replayed_transfer" in again.json()["details"]
    assert (await federation.status("n2"))["pools"] == before


async def test_tampered_transfer_is_refused_and_the_genuine_one_still_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = DeliverySettings(pattern="reactive", transfer_mode="asynchronous", relay_timeout_s=0.5)
    async with SmallFederation(tmp_path, delivery) as federation:
        tap = Wiretap(monkeypatch, withhold=True)
        lost = await federation.sae("a1").get("/api/v1/keys/b/enc_keys")
        assert lost.status_code == 503
        genuine = tap.to("n2")
        peer = federation.peer("n1", at="n2")
        for name, tampered in _tampered(genuine):
            answer = await peer.post("/kmapi/v1/ext_keys", json=tampered)
            assert answer.status_code == 400, (name, answer.text)
        assert (await peer.post("/kmapi/v1/ext_keys", json=genuine)).status_code == 202


def _tampered(genuine: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    transport = ("extension_mandatory", "E32473_hybrid_transport")
    sealed = ("extension_mandatory", "E32473_end_to_end")
    other_id = "00000000-0000-4000-8000-000000000000"
    changes: list[tuple[tuple[str | int, ...], Any]] = [
        (("keys", 0, "value"), "A" * 43 + "="),
        (("keys", 0, "key_id"), other_id),
        (("initiator_sae_id",), "a2"),
        (("target_sae_ids",), ["c"]),
        ((*transport, "transfer_id"), other_id),
        ((*transport, "kem_key_id"), "0" * 32),
        ((*transport, "protection"), "pqc"),
        ((*transport, "purpose"), "pool-block"),
        ((*transport, "link_key_ids"), [[other_id]]),
        ((*transport, "path"), ["n3"]),
        ((*transport, "expires_at"), 4e9),
        ((*transport, "tags"), ["A" * 22 + "=="]),
        ((*sealed, "origin"), "n3"),
        ((*sealed, "tags"), ["A" * 22 + "=="]),
    ]
    return [(".".join(map(str, path)), _changed(genuine, path, value)) for path, value in changes]


def _changed(message: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(message))
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    assert place[path[-1]] != value
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        ({}, 400, "keys"),
        ({"keys": [], "initiator_sae_id": "a", "target_sae_ids": ["b"]}, 400, "keys"),
        ({"keys": [{"key_id": "x", "value": "AA=="}], "initiator_sae_id": "a", "target_sae_ids": ["b"]}, 400, "key_id"),
        ([], 400, "body"),
    ],
)
async def test_malformed_transfer_is_a_problem_that_names_the_place(
    federation: SmallFederation, body: Any, status: int, place: str
) -> None:
    answer = await federation.peer("n1", at="n2").post("/kmapi/v1/ext_keys", json=body)
    assert answer.status_code == status
    assert answer.json()["type"].startswith("https://qkd.etsi.org/gs020-interop-kms/")
    assert place in json.dumps(answer.json()["details"])


async def test_unsupported_mandatory_extension_is_answered_503(federation: SmallFederation) -> None:
    body = {
        "keys": [{"key_id": "00000000-0000-4000-8000-000000000000", "value": "AA=="}],
        "initiator_sae_id": "a1",
        "target_sae_ids": ["b"],
        "ack_callback_url": f"https://localhost:{federation.ports['n1'][1]}/kmapi/v1/ext_keys/ack",
        "extension_mandatory": {"E99999_other": {"x": 1}},
    }
    answer = await federation.peer("n1", at="n2").post("/kmapi/v1/ext_keys", json=body)
    assert answer.status_code == 503
    assert answer.json()["type"].endswith("/unsupported-mandatory-extension")


async def test_callback_to_somebody_else_is_refused(federation: SmallFederation) -> None:
    body = {
        "key_ids": ["00000000-0000-4000-8000-000000000000"],
        "initiator_sae_id": "a1",
        "target_sae_ids": ["b"],
        "ack_callback_url": "https://localhost:1/kmapi/v1/ext_keys/ack",
    }
    answer = await federation.peer("n1", at="n2").post("/kmapi/v1/ext_keys/void", json=body)
    assert answer.status_code == 400
    assert "ack_callback_url" in answer.json()["details"]


async def test_node_that_is_no_neighbour_is_refused(federation: SmallFederation) -> None:
    answer = await federation.peer("n3", at="n1").get("/kmapi/versions")
    assert answer.status_code == 401


@pytest.mark.parametrize("expires_at", [1.0, 4e12])
async def test_transfer_past_its_expiry_or_without_end_is_refused(
    federation: SmallFederation, monkeypatch: pytest.MonkeyPatch, expires_at: float
) -> None:
    tap = Wiretap(monkeypatch, withhold=False)
    assert (await federation.sae("a1").get("/api/v1/keys/b/enc_keys")).status_code == 200
    await federation.settled()
    message = tap.to("n2")
    message["extension_mandatory"]["E32473_hybrid_transport"]["expires_at"] = expires_at
    answer = await federation.peer("n1", at="n2").post("/kmapi/v1/ext_keys", json=message)
    assert answer.status_code == 400
    assert "expires_at" in answer.text


async def test_neighbour_cannot_void_another_masters_key(federation: SmallFederation) -> None:
    [key] = (await federation.sae("a1").get("/api/v1/keys/b/enc_keys")).json()["keys"]
    for _ in range(100):
        if (await federation.operator("n2").get(f"/keys/{key['key_ID']}")).status_code == 200:
            break
    body = {
        "key_ids": [key["key_ID"]],
        "initiator_sae_id": "c",
        "target_sae_ids": ["b"],
        "ack_callback_url": f"https://localhost:{federation.ports['n3'][1]}/kmapi/v1/ext_keys/ack",
    }
    answer = await federation.peer("n3", at="n2").post("/kmapi/v1/ext_keys/void", json=body)
    assert answer.status_code == 202
    fetched = await federation.sae("b").get("/api/v1/keys/a1/dec_keys", params={"key_ID": key["key_ID"]})
    assert fetched.json()["keys"] == [key]
