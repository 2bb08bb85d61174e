"""Get key with key IDs: all keys or none, each once, only by a slave of every one of them; messages as prescribed."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from node.settings import DeliverySettings, KeySettings
from tests.integration.node.sae_federation import SaeFederation

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_FOUND = "one or more keys specified are not found on KME"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SaeFederation]:
    started = SaeFederation(
        tmp_path_factory.mktemp("federation"),
        DeliverySettings(arrival_wait_s=0.3),
        changes={"keys": KeySettings(max_key_per_request=8)},
        more_saes={"n3": ("c2",)},
    )
    async with started:
        yield started


async def arrived(federation: SaeFederation, slave: str, *keys: dict[str, Any]) -> None:
    operator = federation.operator(federation.home(slave))
    async with asyncio.timeout(10):
        for key in keys:
            while (await operator.get(f"/keys/{key['key_ID']}")).status_code != 200:
                await asyncio.sleep(0.01)


async def refused(federation: SaeFederation, slave: str, master: str, *key_ids: str) -> dict[str, Any]:
    """Fetch and be refused with 400; return the body."""
    answer = await federation.dec_keys(slave, master, *key_ids)
    assert answer.status_code == 400, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_own_key_beside_another_slaves_gets_401_and_both_stay(federation: SaeFederation) -> None:
    [own] = await federation.issued("a1", "c")
    [others] = await federation.issued("a1", "c2")
    await arrived(federation, "c", own, others)
    for key_ids in ((own, others), (others, own)):
        answer = await federation.dec_keys("c", "a1", *(key["key_ID"] for key in key_ids))
        assert answer.status_code == 401
        assert "key" not in answer.json()
    assert (await federation.dec_keys("c", "a1", own["key_ID"])).json()["keys"] == [own]
    assert (await federation.dec_keys("c2", "a1", others["key_ID"])).json()["keys"] == [others]


async def test_anothers_key_gets_401_even_beside_one_that_is_unknown(federation: SaeFederation) -> None:
    [others] = await federation.issued("a1", "c2")
    await arrived(federation, "c2", others)
    assert (await federation.dec_keys("c", "a1", str(uuid.uuid4()), others["key_ID"])).status_code == 401
    assert (await federation.dec_keys("c2", "a1", others["key_ID"])).json()["keys"] == [others]


async def test_master_cannot_fetch_its_own_key_as_slave(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "a2")
    assert (await federation.dec_keys("a1", "a1", key["key_ID"])).status_code == 401
    assert (await federation.dec_keys("a2", "a1", key["key_ID"])).json()["keys"] == [key]


async def test_one_unknown_key_refuses_all_and_consumes_none(federation: SaeFederation) -> None:
    keys = await federation.issued("a1", "c", number=2)
    body = await refused(federation, "c", "a1", keys[0]["key_ID"], str(uuid.uuid4()), keys[1]["key_ID"])
    assert body["message"] == NOT_FOUND
    assert (await federation.dec_keys("c", "a1", *(key["key_ID"] for key in keys))).json()["keys"] == keys


async def test_one_fetched_key_refuses_all_and_consumes_none(federation: SaeFederation) -> None:
    keys = await federation.issued("a1", "c", number=3)
    assert (await federation.dec_keys("c", "a1", keys[1]["key_ID"])).json()["keys"] == [keys[1]]
    body = await refused(federation, "c", "a1", *(key["key_ID"] for key in keys))
    assert body["message"] == NOT_FOUND
    rest = [keys[0], keys[2]]
    assert (await federation.dec_keys("c", "a1", *(key["key_ID"] for key in rest))).json()["keys"] == rest


async def test_key_of_another_master_is_not_found_under_this_one(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "c")
    await arrived(federation, "c", key)
    assert (await refused(federation, "c", "b", key["key_ID"]))["message"] == NOT_FOUND
    assert (await federation.dec_keys("c", "a1", key["key_ID"])).json()["keys"] == [key]


async def test_key_that_was_voided_before_it_came_is_not_found_whoever_asks(federation: SaeFederation) -> None:
    """Nobody knows any more for whom it was, so that 401 would be a guess."""
    key_id = str(uuid.uuid4())
    body = {
        "key_ids": [key_id],
        "initiator_sae_id": "a1",
        "target_sae_ids": ["c"],
        "ack_callback_url": f"https://localhost:{federation.ports['n2'][1]}/kmapi/v1/ext_keys/ack",
    }
    assert (await federation.peer("n2", at="n3").post("/kmapi/v1/ext_keys/void", json=body)).status_code == 202
    await arrived(federation, "c", {"key_ID": key_id})
    assert (await refused(federation, "c", "a1", key_id))["message"] == NOT_FOUND


async def test_key_ids_in_upper_case_are_the_same_keys(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "c")
    assert (await federation.dec_keys("c", "a1", key["key_ID"].upper())).json()["keys"] == [key]


async def test_one_id_twice_is_refused_in_whatever_case_and_consumes_nothing(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "c")
    for second in (key["key_ID"], key["key_ID"].upper()):
        body = await refused(federation, "c", "a1", key["key_ID"], second)
        assert body["details"] == [{"key_IDs": f"{key['key_ID']} stands twice"}]
    assert (await federation.dec_keys("c", "a1", key["key_ID"])).json()["keys"] == [key]


async def test_more_ids_than_keys_per_request_are_refused(federation: SaeFederation) -> None:
    body = await refused(federation, "c", "a1", *(str(uuid.uuid4()) for _ in range(9)))
    assert body["details"] == [{"key_IDs": "1 to 8"}]


async def test_fetching_is_tried_at_once_by_many_and_one_gets_the_key(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "c")
    answers = await asyncio.gather(*(federation.dec_keys("c", "a1", key["key_ID"]) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7


@pytest.mark.parametrize("slave", ["a2", "b"])
async def test_expired_key_is_not_found_even_before_it_is_swept_and_takes_no_other_with_it(
    tmp_path: Path, slave: str
) -> None:
    delivery = DeliverySettings(key_lifetime_s=1.5, arrival_wait_s=0.1)
    async with SaeFederation(tmp_path, delivery) as federation:
        [old] = await federation.issued("a1", slave)
        await arrived(federation, slave, old)
        await asyncio.sleep(1.0)
        [fresh] = await federation.issued("a1", slave)
        await arrived(federation, slave, fresh)
        await asyncio.sleep(0.6)
        for key_ids in ((old,), (fresh, old)):
            body = await refused(federation, slave, "a1", *(key["key_ID"] for key in key_ids))
            assert body["message"] == NOT_FOUND
        assert (await federation.dec_keys(slave, "a1", fresh["key_ID"])).json()["keys"] == [fresh]


EMPTY = {"key_IDs": "Field required"}
BAD_BODIES: list[tuple[bytes, dict[str, str]]] = [
    (b"", EMPTY),
    (b"{}", EMPTY),
    (b'{"key_IDs": []}', {"key_IDs": "names no key"}),
    (b'{"key_IDs": [{}]}', {"key_IDs.0.key_ID": "Field required"}),
    (b'{"key_IDs": [{"key_ID": 7}]}', {"key_IDs.0.key_ID": "valid string"}),
    (b'{"key_IDs": [{"key_ID": "x"}]}', {"key_IDs.0.key_ID": "not a UUID"}),
    (b'{"key_IDs": {"key_ID": "x"}}', {"key_IDs": "valid array"}),
    (b'{"key_IDs": [{"key_ID": "x", "key_ID": "y"}]}', {"key_IDs.0.key_ID": "not a UUID"}),
    (b'{"key_IDs": null}', {"key_IDs": "valid array"}),
]


@pytest.mark.parametrize(("body", "details"), BAD_BODIES)
async def test_malformed_key_ids_get_400_naming_the_member(
    federation: SaeFederation, body: bytes, details: dict[str, str]
) -> None:
    answer = await federation.sae("c").post("/api/v1/keys/a1/dec_keys", content=body)
    assert answer.status_code == 400
    assert answer.json()["message"] == "bad request format"
    [named] = answer.json()["details"]
    assert list(named) == list(details)
    assert all(text in named[name] for name, text in details.items()), named


async def test_get_form_takes_one_id_and_nothing_else(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "c")
    client, path = federation.sae("c"), "/api/v1/keys/a1/dec_keys"
    for query in ("", f"?key_ID={key['key_ID']}&key_ID={key['key_ID']}", f"?key_ID={key['key_ID']}&number=1"):
        assert (await client.get(path + query)).status_code == 400, query
    assert (await client.get(f"{path}?key_ID={key['key_ID']}")).json()["keys"] == [key]
