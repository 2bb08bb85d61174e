"""One key for several slaves, in several regions: each fetches it once; a wrong list leaves nothing anywhere."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from node.clients.peer_node import HttpPeerNode
from node.errors import PeerRefusedError
from node.settings import DeliverySettings, KeySettings
from node.wire.etsi020 import AckContainer, ExtKeyContainer
from tests.integration.node.sae_federation import SaeFederation, fills_paused
from tests.integration.node.small_federation import HOME

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SaeFederation]:
    started = SaeFederation(
        tmp_path_factory.mktemp("federation"),
        changes={"keys": KeySettings(max_sae_id_count=4)},
        more_saes={"n2": ("b2",), "n3": ("c2",)},
    )
    async with started:
        with fills_paused():
            yield started


async def test_slaves_in_two_regions_and_at_the_masters_own_node_each_fetch_the_same_keys_once(
    federation: SaeFederation,
) -> None:
    keys = await federation.issued("a1", "b", number=2, size=520, additional_slave_SAE_IDs=["a2", "c", "b2", "c2"])
    key_ids = [key["key_ID"] for key in keys]
    for slave in ("b", "a2", "c", "b2", "c2"):
        fetched = await federation.dec_keys(slave, "a1", *key_ids)
        assert fetched.status_code == 200, (slave, fetched.text)
        assert fetched.json()["keys"] == keys
    for slave in ("b", "a2", "c", "b2", "c2"):
        again = await federation.dec_keys(slave, "a1", *key_ids)
        assert again.status_code == 400
        assert again.json()["message"] == "one or more keys specified are not found on KME"


async def test_sae_beside_the_slaves_that_was_not_named_gets_401(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "b", additional_slave_SAE_IDs=["c"])
    for stranger in ("b2", "c2", "a2", "a1"):
        refused = await federation.dec_keys(stranger, "a1", key["key_ID"])
        assert refused.status_code == 401, stranger
    for slave in ("b", "c"):
        assert (await federation.dec_keys(slave, "a1", key["key_ID"])).json()["keys"] == [key]


BAD_LISTS: list[tuple[str, list[str], str, dict[str, str]]] = [
    ("b", ["b"], "a slave SAE is listed twice", {"additional_slave_SAE_IDs": "b"}),
    ("b", ["c", "c"], "a slave SAE is listed twice", {"additional_slave_SAE_IDs": "c"}),
    ("b", ["c", "a1"], "an SAE cannot share keys with itself", {"slave_SAE_ID": "a1"}),
    ("b", ["c", "nobody"], "no node of the federation advertises", {"additional_slave_SAE_IDs": "nobody"}),
    ("b", ["c", ""], "not an SAE ID", {"additional_slave_SAE_IDs.1": ""}),
    ("b", ["c", "x y"], "not an SAE ID", {"additional_slave_SAE_IDs.1": ""}),
    ("b", ["c", "x" * 65], "not an SAE ID", {"additional_slave_SAE_IDs.1": ""}),
    ("b", ["a2", "c", "b2", "c2", "d"], "too many additional slave SAEs", {"additional_slave_SAE_IDs": "at most 4"}),
]


@pytest.mark.parametrize(("slave", "additional", "message", "details"), BAD_LISTS)
async def test_wrong_list_of_slaves_is_named_and_nothing_is_kept_anywhere(
    federation: SaeFederation, slave: str, additional: list[str], message: str, details: dict[str, str]
) -> None:
    before = await federation.quiet_books()
    refused = await federation.enc_keys("a1", slave, additional_slave_SAE_IDs=additional)
    assert refused.status_code == 400, refused.text
    assert message in refused.json()["message"]
    [named] = refused.json()["details"]
    assert list(named) == list(details)
    assert all(text in named[name] for name, text in details.items())
    assert await federation.quiet_books() == before


async def test_node_without_multicast_says_so(tmp_path: Path) -> None:
    changes = {"keys": KeySettings(max_sae_id_count=0)}
    async with SaeFederation(tmp_path, DeliverySettings(pattern="reactive"), changes=changes) as federation:
        assert (await federation.key_status("a1", "b"))["max_SAE_ID_count"] == 0
        assert (await federation.enc_keys("a1", "b", additional_slave_SAE_IDs=["c"])).status_code == 400
        assert (await federation.enc_keys("a1", "b", additional_slave_SAE_IDs=[])).status_code == 200


async def test_one_region_that_fails_leaves_no_key_to_fetch_in_the_others(
    federation: SaeFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued: list[str] = []
    original = HttpPeerNode.ext_keys

    async def ext_keys(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        issued.extend(key.key_id for key in container.keys)
        if peer.name == "n3":
            raise PeerRefusedError("the link is down")
        return await original(peer, container)

    monkeypatch.setattr(HttpPeerNode, "ext_keys", ext_keys)
    refused = await federation.enc_keys("a1", "b", additional_slave_SAE_IDs=["a2", "c"])
    assert refused.status_code == 503
    for slave in ("b", "a2", "c"):
        assert HOME[slave] in federation.nodes
        assert await _gone(federation, slave, issued[0]), slave


async def _gone(federation: SaeFederation, slave: str, key_id: str) -> bool:
    """Whether a voided key cannot be fetched; voiding goes on after the answer, so the record is waited for."""
    for _ in range(100):
        record: dict[str, Any] = (await federation.operator(HOME[slave]).get(f"/keys/{key_id}")).json()
        if record.get("state", "voided") == "voided":
            break
    return (await federation.dec_keys(slave, "a1", key_id)).status_code in (400, 401)
