"""Keys to and from KMSs that speak plain ETSI GS QKD 020, through the node beside them.

east:  n1 ==QKD== n2 --WAN-- n3 :west     n2 also serves two foreign KMSs: partner (x1, x2) and other (y1)
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.identity_uri import Role
from node.settings import DeliverySettings, ForeignKmsSettings, NodeSettings
from tests.certificates import issue, make_authority, write_identity
from tests.integration.node.plain_kms import ACK, EXT_KEYS, VERSIONS, VOID, PlainKms, new_key
from tests.integration.node.small_federation import SmallFederation, free_port

KMS_SAES = {"partner": ("x1", "x2"), "other": ("y1",)}
REACTIVE = DeliverySettings(pattern="reactive", relay_timeout_s=20.0, arrival_wait_s=0.2)


@dataclass
class ForeignFederation(SmallFederation):
    """The small federation with two foreign KMSs at n2."""

    delivery: DeliverySettings = field(default_factory=lambda: REACTIVE)
    kms: dict[str, PlainKms] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.foreign_port = free_port()
        folder = self.identity("east", Role.NODE, "n2") / "foreign"
        folder.mkdir()
        for name in KMS_SAES:
            authority = make_authority(name)
            leaf = issue(authority, Role.NODE, name, dns=(f"kms.{name}.example",), uris=())
            identity = write_identity(self.root / f"kms-{name}", leaf, [authority])
            (folder / f"{name}.crt").write_bytes((identity / "domains" / f"{name}.crt").read_bytes())
            trusted = self.identity("east", Role.NODE, "n2") / "domains" / "east.crt"
            self.kms[name] = PlainKms(free_port(), f"https://localhost:{self.foreign_port}", identity, trusted)

    async def __aenter__(self) -> "ForeignFederation":
        for kms in self.kms.values():
            await self.stack.enter_async_context(kms)
        await super().__aenter__()
        return self

    def settings(self, name: str) -> NodeSettings:
        settings = super().settings(name)
        if name != "n2":
            return settings
        kms = tuple(
            ForeignKmsSettings(
                name=known, url=self.kms[known].url(""), saes=saes, certificate_name=f"kms.{known}.example"
            )
            for known, saes in KMS_SAES.items()
        )
        url = f"https://localhost:{self.foreign_port}"
        return settings.model_copy(update={"foreign_kms": kms, "foreign_port": self.foreign_port, "foreign_url": url})

    async def asks(self, master: str, slave: str, **request: Any) -> httpx.Response:
        return await self.sae(master).post(f"/api/v1/keys/{slave}/enc_keys", json=request)

    async def fetches(self, slave: str, master: str, key_id: str) -> bytes | None:
        answer = await self.sae(slave).get(f"/api/v1/keys/{master}/dec_keys", params={"key_ID": key_id})
        return base64.b64decode(answer.json()["keys"][0]["key"]) if answer.status_code == 200 else None


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[ForeignFederation]:
    async with ForeignFederation(tmp_path) as started:
        yield started


@pytest.fixture
def partner(federation: ForeignFederation) -> PlainKms:
    return federation.kms["partner"]


@pytest.fixture
def other(federation: ForeignFederation) -> PlainKms:
    return federation.kms["other"]


async def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.02)


def value_of(key: dict[str, str]) -> bytes:
    return base64.b64decode(key["value"])


async def test_versions_offer_the_standard_and_nothing_of_ours(partner: PlainKms) -> None:
    assert await partner.versions_of_node() == {"versions": ["v1"], "capabilities": ["synchronous_mode"]}


@pytest.mark.parametrize("slave", ["b", "a1", "c"])
async def test_key_of_a_foreign_sae_reaches_an_sae_here_next_door_and_in_another_region(
    federation: ForeignFederation, partner: PlainKms, slave: str
) -> None:
    key = new_key()
    assert (await partner.send([key], "x1", [slave])).status_code == 202
    await until(lambda: partner.statuses(key["key_id"]) == ["relayed"])
    assert await federation.fetches(slave, "x1", key["key_id"]) == value_of(key)
    assert await federation.fetches(slave, "x1", key["key_id"]) is None


@pytest.mark.parametrize("slave", ["b", "c"])
async def test_synchronous_transfer_is_answered_with_its_outcome_and_never_called_back(
    federation: ForeignFederation, partner: PlainKms, slave: str
) -> None:
    key = new_key()
    answer = await partner.send([key], "x1", [slave], synchronous=True)
    assert answer.status_code == 200
    [ack] = answer.json()
    assert (ack["ack_status"], ack["key_id_container"]) == ("relayed", [{"key_id": key["key_id"]}])
    assert "extension" not in ack
    assert await federation.fetches(slave, "x1", key["key_id"]) == value_of(key)
    assert partner.told(ACK) == []


@pytest.mark.parametrize("master", ["b", "a1", "c"])
async def test_key_for_a_foreign_sae_is_sent_plainly_and_given_out_once_acknowledged(
    federation: ForeignFederation, partner: PlainKms, master: str
) -> None:
    asked = asyncio.create_task(federation.asks(master, "x1"))
    transfer = await partner.next_transfer()
    assert sorted(transfer) == ["ack_callback_url", "initiator_sae_id", "keys", "target_sae_ids"]
    assert (transfer["initiator_sae_id"], transfer["target_sae_ids"]) == (master, ["x1"])
    await asyncio.sleep(0.1)
    assert not asked.done()
    assert (await partner.acknowledge(transfer)).status_code == 200
    answer = await asked
    assert answer.status_code == 200, answer.text
    [key], [sent] = answer.json()["keys"], transfer["keys"]
    assert (key["key_ID"], key["key"]) == (sent["key_id"], sent["value"])


@pytest.mark.parametrize("master", ["b", "a1"])
async def test_key_that_the_foreign_kms_could_not_keep_is_given_to_nobody(
    federation: ForeignFederation, partner: PlainKms, master: str
) -> None:
    asked = asyncio.create_task(federation.asks(master, "x1"))
    assert (await partner.acknowledge(await partner.next_transfer(), "failed")).status_code == 200
    assert (await asked).status_code == 503


@pytest.mark.parametrize("status", [400, 401])
async def test_transfer_that_is_refused_fails_at_once(
    federation: ForeignFederation, partner: PlainKms, status: int
) -> None:
    partner.answers[EXT_KEYS] = [status]
    assert (await federation.asks("a1", "x1")).status_code == 503
    assert len(partner.told(EXT_KEYS)) == 1


async def test_transfer_whose_answer_is_unclear_is_repeated_as_it_was(
    federation: ForeignFederation, partner: PlainKms
) -> None:
    partner.answers[EXT_KEYS] = [503]
    asked = asyncio.create_task(federation.asks("b", "x1"))
    again = await partner.next_transfer(2)
    assert again == partner.told(EXT_KEYS)[0]
    await partner.acknowledge(again)
    assert (await asked).status_code == 200


async def test_transfer_that_stays_unclear_is_voided(federation: ForeignFederation, partner: PlainKms) -> None:
    partner.answers[EXT_KEYS] = [503, 503]
    partner.answers[VOID] = [503, 401]
    assert (await federation.asks("b", "x1")).status_code == 503
    await until(lambda: len(partner.told(VOID)) >= 3)
    [sent] = {key["key_id"] for body in partner.told(EXT_KEYS) for key in body["keys"]}
    assert all(body["key_ids"] == [sent] for body in partner.told(VOID))


async def test_key_given_up_that_the_foreign_kms_keeps_after_all_is_voided_again(
    federation: ForeignFederation, partner: PlainKms
) -> None:
    partner.answers[EXT_KEYS] = [503, 503]
    assert (await federation.asks("b", "x1")).status_code == 503
    await until(lambda: len(partner.told(VOID)) >= 1)
    voids = len(partner.told(VOID))
    await partner.acknowledge(partner.told(EXT_KEYS)[0])
    await until(lambda: len(partner.told(VOID)) > voids)


async def test_acknowledgement_that_was_not_taken_is_told_again(
    federation: ForeignFederation, partner: PlainKms
) -> None:
    key = new_key()
    partner.answers[ACK] = [503, 401]
    assert (await partner.send([key], "x1", ["b"])).status_code == 202
    await until(lambda: len(partner.statuses(key["key_id"])) >= 3)
    assert set(partner.statuses(key["key_id"])) == {"relayed"}


async def test_acknowledgement_survives_a_restart_of_the_node(federation: ForeignFederation, partner: PlainKms) -> None:
    key = new_key()
    partner.answers[ACK] = [503] * 1000
    assert (await partner.send([key], "x1", ["b"])).status_code == 202
    await until(lambda: len(partner.statuses(key["key_id"])) >= 1)
    await federation.stop_node("n2")
    partner.answers.clear()
    told = len(partner.statuses(key["key_id"]))
    await federation.start_node("n2")
    await until(lambda: len(partner.statuses(key["key_id"])) > told)
    assert await federation.fetches("b", "x1", key["key_id"]) == value_of(key)


async def test_key_sent_twice_counts_once_and_another_value_under_its_id_is_refused(
    federation: ForeignFederation, partner: PlainKms
) -> None:
    key = new_key()
    for _ in range(2):
        assert (await partner.send([key], "x1", ["b"])).status_code == 202
    await until(lambda: len(partner.statuses(key["key_id"])) >= 2)
    forged = new_key() | {"key_id": key["key_id"]}
    assert (await partner.send([forged], "x1", ["b"])).status_code == 400
    assert await federation.fetches("b", "x1", key["key_id"]) == value_of(key)
    assert (await partner.send([key], "x1", ["b"])).status_code == 202
    assert (await partner.send([forged], "x1", ["b"])).status_code == 400
    assert await federation.fetches("b", "x1", key["key_id"]) is None


@pytest.mark.parametrize("slave", ["b", "c"])
async def test_void_drops_a_key_that_nobody_fetched_and_fails_for_one_that_was(
    federation: ForeignFederation, partner: PlainKms, slave: str
) -> None:
    key, taken = new_key(), new_key()
    assert (await partner.send([key, taken], "x1", [slave], synchronous=True)).status_code == 200
    assert await federation.fetches(slave, "x1", taken["key_id"]) == value_of(taken)
    answer = await partner.ask_to_void([key["key_id"], taken["key_id"]], "x1", [slave])
    assert answer.status_code == 200
    found = {one["key_id"]: ack["ack_status"] for ack in answer.json() for one in ack["key_id_container"]}
    assert found == {key["key_id"]: "voided", taken["key_id"]: "failed to void"}
    assert await federation.fetches(slave, "x1", key["key_id"]) is None


async def test_key_voided_before_it_came_is_not_kept(federation: ForeignFederation, partner: PlainKms) -> None:
    key = new_key()
    await partner.ask_to_void([key["key_id"]], "x1", ["b"])
    assert (await partner.send([key], "x1", ["b"])).status_code == 202
    await until(lambda: partner.statuses(key["key_id"]) == ["failed"])
    assert await federation.fetches("b", "x1", key["key_id"]) is None


async def test_other_kms_can_neither_send_nor_void_nor_acknowledge_in_its_name(
    federation: ForeignFederation, partner: PlainKms, other: PlainKms
) -> None:
    key = new_key()
    assert (await other.send([key], "x1", ["b"])).status_code == 400
    assert (await partner.send([key], "x1", ["b"], synchronous=True)).status_code == 200
    assert (await other.ask_to_void([key["key_id"]], "x1", ["b"])).status_code == 400
    assert await federation.fetches("b", "x1", key["key_id"]) == value_of(key)
    asked = asyncio.create_task(federation.asks("b", "x1"))
    transfer = await partner.next_transfer()
    await other.acknowledge(transfer)
    await asyncio.sleep(0.2)
    assert not asked.done()
    await partner.acknowledge(transfer)
    assert (await asked).status_code == 200


async def test_key_between_foreign_kmss_passes_with_its_extensions_unchanged(
    partner: PlainKms, other: PlainKms
) -> None:
    key: dict[str, Any] = new_key() | {"extension": {"E32473_of_key": {"n": 1}}}
    optional = {"E32473_of_all": ["as", "it", "is"]}
    assert (await partner.send([key], "x1", ["y1"], extension_optional=optional)).status_code == 202
    transfer = await other.next_transfer()
    assert transfer["keys"] == [key]
    assert transfer["extension_optional"] == optional
    assert partner.statuses(key["key_id"]) == []
    await other.acknowledge(transfer)
    await until(lambda: partner.statuses(key["key_id"]) == ["relayed"])


@pytest.mark.parametrize(
    ("change", "status", "slug", "detail"),
    [
        ({"initiator_sae_id": "b"}, 400, "invalid-parameter", "initiator_sae_id"),
        ({"target_sae_ids": ["x2"]}, 400, "key-routing-error", "invalid_routing"),
        ({"target_sae_ids": ["nobody"]}, 400, "key-routing-error", "no_known_route"),
        ({"target_sae_ids": ["b", "c"]}, 400, "invalid-parameter", "target_sae_ids"),
        ({"target_sae_ids": ["b", "b"]}, 400, "invalid-parameter", "target_sae_ids"),
        ({"ack_callback_url": "https://elsewhere.example/ack"}, 400, "invalid-parameter", "ack_callback_url"),
        ({"keys": [{"key_id": new_key()["key_id"], "value": ""}]}, 400, "invalid-parameter", "value"),
        (
            {"extension_mandatory": {"E32473_unknown": {}}},
            503,
            "unsupported-mandatory-extension",
            "unsupported_mandatory_extension",
        ),
    ],
)
async def test_transfer_that_cannot_be_taken_says_why_and_keeps_nothing(
    federation: ForeignFederation, partner: PlainKms, change: dict[str, Any], status: int, slug: str, detail: str
) -> None:
    key = new_key()
    body = {
        "keys": [key],
        "initiator_sae_id": "x1",
        "target_sae_ids": ["b"],
        "ack_callback_url": partner.url(ACK),
    }
    answer = await partner.post(EXT_KEYS, body | change)
    assert answer.status_code == status, answer.text
    assert answer.json()["type"].endswith(slug)
    assert detail in answer.json()["details"]
    assert await federation.fetches("b", "x1", key["key_id"]) is None


async def test_multicast_to_saes_here_and_behind_a_foreign_kms_needs_both(
    federation: ForeignFederation, partner: PlainKms
) -> None:
    for status, expected in (("relayed", 200), ("failed", 503)):
        before = len(partner.told(EXT_KEYS))
        asked = asyncio.create_task(federation.asks("a1", "c", additional_slave_SAE_IDs=["b", "x1"]))
        transfer = await partner.next_transfer(before + 1)
        await partner.acknowledge(transfer, status)
        assert (await asked).status_code == expected
        [sent] = transfer["keys"]
        if status == "relayed":
            for slave in ("b", "c"):
                assert await federation.fetches(slave, "a1", sent["key_id"]) == value_of(sent)


async def test_demand_for_qkd_is_not_met_behind_a_foreign_kms(federation: ForeignFederation, partner: PlainKms) -> None:
    answer = await federation.asks("a1", "x1", extension_mandatory=[{"kmstn_grade": "qkd"}])
    assert answer.status_code == 400
    assert partner.told(EXT_KEYS) == []


async def test_status_says_which_foreign_kms_answers(federation: ForeignFederation) -> None:
    async with asyncio.timeout(30):
        while True:
            found = (await federation.status("n2"))["foreign_kms"]
            if found == [{"name": "partner", "reachable": True}, {"name": "other", "reachable": True}]:
                break
            await asyncio.sleep(0.05)
    assert (await federation.status("n1"))["foreign_kms"] == []


async def test_certificates_open_their_own_door_only(federation: ForeignFederation, partner: PlainKms) -> None:
    authority = make_authority("partner")
    stranger = issue(authority, Role.NODE, "partner", dns=("kms.partner.example",), uris=())
    wrong = write_identity(federation.root / "stranger", stranger, [authority])
    doors = (
        (wrong, federation.foreign_port),
        (federation.identity("east", Role.NODE, "n1"), federation.foreign_port),
        (federation.identity("east", Role.SAE, "a1"), federation.foreign_port),
        (partner.identity, federation.ports["n2"][0]),
        (partner.identity, federation.ports["n2"][1]),
    )
    for identity, port in doors:
        intruder = PlainKms(free_port(), f"https://localhost:{port}", identity, partner.trusted)
        async with intruder:
            try:
                answer = await intruder._client.get(VERSIONS)
            except httpx.TransportError:
                continue
            assert answer.status_code == 401
