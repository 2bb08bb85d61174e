"""The figures of Get status are true at the moment of the answer: what it says is stored can be taken, and no more."""

from pathlib import Path
from typing import Any

import pytest

from node.settings import DeliverySettings, KeySettings, PoolSettings
from tests.integration.node.sae_federation import SaeFederation, fills_paused

POOL = PoolSettings(target_blocks=24, batch_blocks=24, reserve_link_keys=0)
PROACTIVE = DeliverySettings(pattern="proactive")


@pytest.mark.parametrize(("slave", "key_size"), [("c", 64), ("b", 256), ("b", 264), ("c", 1024)])
async def test_as_many_keys_as_the_status_says_can_be_taken_and_not_one_more(
    tmp_path: Path, slave: str, key_size: int
) -> None:
    changes = {"keys": KeySettings(key_size=key_size)}
    async with SaeFederation(tmp_path, PROACTIVE, POOL, changes=changes) as federation:
        with fills_paused():
            stored = (await federation.key_status("a1", slave))["stored_key_count"]
            assert stored > 1
            for left in range(stored, 0, -1):
                assert (await federation.key_status("a1", slave))["stored_key_count"] == left
                assert (await federation.enc_keys("a1", slave)).status_code == 200
            assert (await federation.key_status("a1", slave))["stored_key_count"] == 0
            refused = await federation.enc_keys("a1", slave)
            assert refused.status_code == 503
            assert "blocks" in refused.json()["message"]


async def test_one_request_for_as_many_keys_as_the_status_says_is_met_too(tmp_path: Path) -> None:
    async with SaeFederation(tmp_path, PROACTIVE, POOL) as federation:
        with fills_paused():
            stored = (await federation.key_status("a1", "c"))["stored_key_count"]
            assert len(await federation.issued("a1", "c", number=stored)) == stored


async def test_status_never_says_more_than_max_key_count(tmp_path: Path) -> None:
    changes = {"keys": KeySettings(max_key_count=3)}
    async with SaeFederation(tmp_path, PROACTIVE, POOL, changes=changes) as federation:
        for slave in ("a2", "b", "c"):
            assert (await federation.key_status("a1", slave))["stored_key_count"] == 3


async def test_slave_at_the_same_node_takes_nothing_from_any_pool(tmp_path: Path) -> None:
    async with SaeFederation(tmp_path, PROACTIVE, POOL) as federation:
        with fills_paused():
            before = federation.books()
            status = await federation.key_status("a1", "a2")
            assert status["stored_key_count"] == status["max_key_count"]
            await federation.issued("a1", "a2", number=128)
            assert (await federation.key_status("a1", "a2"))["stored_key_count"] == status["stored_key_count"]
            assert [n for table, n in federation.books().items() if "pool" in table] == [
                n for table, n in before.items() if "pool" in table
            ]


async def test_reactive_node_stores_nothing_and_says_that_it_makes_keys_when_asked(tmp_path: Path) -> None:
    async with SaeFederation(tmp_path, DeliverySettings(pattern="reactive")) as federation:
        status = await federation.key_status("a1", "c")
        assert status["stored_key_count"] == 0
        assert status["status_extension"]["kmstn_pattern"] == "reactive"
        assert (await federation.key_status("a1", "a2"))["stored_key_count"] == status["max_key_count"]
        await federation.issued("a1", "c")


async def test_node_that_cannot_reach_the_slaves_node_says_that_it_could_deliver_nothing(tmp_path: Path) -> None:
    async with SaeFederation(tmp_path, PROACTIVE, POOL) as federation:
        assert (await federation.key_status("a1", "c"))["stored_key_count"] > 0
        federation.nodes["n1"]._core.federation.routing.lose("n2")
        federation.nodes["n1"]._core.watches["n2"].poll = _unanswered  # type: ignore[method-assign]
        assert (await federation.key_status("a1", "c"))["stored_key_count"] == 0
        assert (await federation.enc_keys("a1", "c")).status_code == 503


async def _unanswered() -> None:
    return None


async def test_status_names_both_nodes_both_saes_and_the_limits(tmp_path: Path) -> None:
    async with SaeFederation(tmp_path) as federation:
        limits = KeySettings()
        for master, slave, source, target in (
            ("a1", "c", "n1", "n3"),
            ("a1", "a2", "n1", "n1"),
            ("c", "b", "n3", "n2"),
        ):
            status = await federation.key_status(master, slave)
            count = status.pop("stored_key_count")
            assert isinstance(count, int)
            assert status == {
                "source_KME_ID": source,
                "target_KME_ID": target,
                "master_SAE_ID": master,
                "slave_SAE_ID": slave,
                "key_size": limits.key_size,
                "max_key_count": limits.max_key_count,
                "max_key_per_request": limits.max_key_per_request,
                "max_key_size": limits.max_key_size,
                "min_key_size": limits.min_key_size,
                "max_SAE_ID_count": limits.max_sae_id_count,
                "status_extension": {
                    "kmstn_pattern": "both",
                    "kmstn_max_bits_per_request": limits.max_bits_per_request,
                },
            }


async def test_status_refuses_what_get_key_would_refuse_with_the_same_answer(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"allowed_pairs": (("a1", "b"), ("a1", "nobody"))}
    async with SaeFederation(tmp_path, DeliverySettings(pattern="reactive"), changes=changes) as federation:
        for slave, code in (("a1", 400), ("c", 401), ("nobody", 503), ("b", 200)):
            status = await federation.sae("a1").get(f"/api/v1/keys/{slave}/status")
            asked = await federation.enc_keys("a1", slave)
            assert (status.status_code, asked.status_code) == (code, code), slave
            if code != 200:
                assert status.json() == asked.json()
        stranger = await federation.sae("b", at="n1").get("/api/v1/keys/a1/status")
        assert stranger.status_code == 401
