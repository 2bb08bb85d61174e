"""Extensions of Get key in their four cases, and our own: grade, suite and provenance of the way that keys take."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
import pytest_asyncio

from node.clients.peer_node import HttpPeerNode
from node.core import key_delivery
from node.core.demands import DemandNotMetError
from node.core.keys import Grade
from node.settings import DeliverySettings, NodeSettings, PoolSettings
from node.wire import etsi014
from node.wire.etsi020 import AckContainer, ExtKeyContainer
from tests.integration.node.sae_federation import SaeFederation, fills_paused

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_SUPPORTED = "not all extension_mandatory parameters are supported"
NOT_MET = "not all extension_mandatory request options could be met"
POOL = PoolSettings(target_blocks=40, batch_blocks=20, reserve_link_keys=0)
SUITE = "mlkem768-v1"
OTHER_SUITE = "mlkem1024-v1"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["proactive", "reactive", "both"])
async def federation(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[SaeFederation]:
    root = tmp_path_factory.mktemp("federation")
    async with SaeFederation(root, DeliverySettings(pattern=request.param), POOL) as started:
        yield started


async def refused(federation: SaeFederation, slave: str, **request: Any) -> dict[str, Any]:
    """Ask a1's node, be refused with 400 and find that nothing was kept or consumed; return the body."""
    with fills_paused():
        before = await federation.quiet_books()
        answer = await federation.enc_keys("a1", slave, **request)
        assert answer.status_code == 400, answer.text
        assert await federation.quiet_books() == before
    body: dict[str, Any] = answer.json()
    return body


# The four cases.


async def test_mandatory_extension_that_is_unknown_is_refused_by_name(federation: SaeFederation) -> None:
    wanted = [{"kmstn_provenance": True}, {"acme_route": "direct", "kmstn_color": 1}]
    body = await refused(federation, "b", extension_mandatory=wanted)
    assert body == {
        "message": NOT_SUPPORTED,
        "details": [{"acme_route": "not supported"}, {"kmstn_color": "not supported"}],
    }


async def test_many_long_unknown_names_are_answered_in_short(federation: SaeFederation) -> None:
    wanted = [{f"acme_{'x' * 200}{number}": number} for number in range(900)]
    answer = await federation.enc_keys("a1", "b", extension_mandatory=wanted)
    assert answer.status_code == 400
    assert len(answer.content) < 4096


async def test_mandatory_extension_that_is_known_and_cannot_be_met_is_refused(federation: SaeFederation) -> None:
    body = await refused(federation, "c", extension_mandatory=[{"kmstn_grade": "qkd"}])
    assert body == {"message": NOT_MET, "details": [{"kmstn_grade": "the way to n3 is not all QKD"}]}


async def test_mandatory_extension_that_is_known_and_can_be_met_is_met(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "b", extension_mandatory=[{"kmstn_grade": "qkd"}, {"kmstn_provenance": True}])
    assert key["key_ID_extension"] == {"kmstn_provenance": {"grade": "qkd", "path": ["n1", "n2"]}}


@pytest.mark.parametrize(
    "optional", [{"acme_route": "direct"}, {"kmstn_grade": "qkd"}, {"kmstn_suite": OTHER_SUITE}, {}]
)
async def test_optional_extension_that_is_unknown_or_cannot_be_met_is_ignored(
    federation: SaeFederation, optional: dict[str, Any]
) -> None:
    [key] = await federation.issued("a1", "c", extension_optional=[optional])
    assert list(key) == ["key_ID", "key"]


async def test_optional_extension_that_can_be_met_is_met(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "b", extension_optional=[{"acme_x": 1}, {"kmstn_provenance": True}])
    assert key["key_ID_extension"]["kmstn_provenance"]["path"] == ["n1", "n2"]


BAD_VALUES: list[tuple[str, Any, str]] = [
    ("kmstn_grade", "QKD", "one of qkd, pqc"),
    ("kmstn_grade", "", "one of qkd, pqc"),
    ("kmstn_grade", None, "one of qkd, pqc"),
    ("kmstn_grade", ["qkd"], "one of qkd, pqc"),
    ("kmstn_grade", {"grade": "qkd"}, "one of qkd, pqc"),
    ("kmstn_suite", 768, "the name of a suite"),
    ("kmstn_suite", "", "the name of a suite"),
    ("kmstn_provenance", 1, "true or false"),
    ("kmstn_provenance", "true", "true or false"),
    ("kmstn_provenance", None, "true or false"),
]


@pytest.mark.parametrize("array", ["extension_mandatory", "extension_optional"])
@pytest.mark.parametrize(("name", "value", "wrong"), BAD_VALUES)
async def test_value_that_a_known_extension_does_not_have_is_named(
    federation: SaeFederation, array: str, name: str, value: Any, wrong: str
) -> None:
    answer = await federation.enc_keys("a1", "b", **{array: [{name: value}]})
    assert answer.status_code == 400
    assert answer.json() == {"message": "bad request format", "details": [{f"{array}.{name}": wrong}]}


async def test_known_extension_that_stands_twice_is_refused(federation: SaeFederation) -> None:
    body = await refused(federation, "b", extension_mandatory=[{"kmstn_grade": "pqc"}, {"kmstn_grade": "qkd"}])
    assert body["details"] == [{"extension_mandatory.kmstn_grade": "stands twice"}]


# Grade.


async def test_grade_pqc_is_what_every_way_has(federation: SaeFederation) -> None:
    await federation.issued("a1", "c", extension_mandatory=[{"kmstn_grade": "pqc"}])


async def test_grade_qkd_holds_between_saes_of_one_node(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "a2", extension_mandatory=[{"kmstn_grade": "qkd", "kmstn_provenance": True}])
    assert key["key_ID_extension"] == {"kmstn_provenance": {"grade": "qkd", "path": ["n1"]}}


async def test_grade_qkd_for_slaves_of_whom_one_is_in_another_region_is_refused_whole(
    federation: SaeFederation,
) -> None:
    wanted = [{"kmstn_grade": "qkd"}]
    body = await refused(federation, "b", additional_slave_SAE_IDs=["a2", "c"], extension_mandatory=wanted)
    assert body["message"] == NOT_MET
    await federation.issued("a1", "b", additional_slave_SAE_IDs=["a2"], extension_mandatory=wanted)


@contextmanager
def blocks_of_grade_pqc(federation: SaeFederation, node: str, peer: str) -> Iterator[None]:
    """As if n1 had filled this pool over a way that was not all QKD."""
    database = federation.nodes[node]._store
    connection: Any = database._connection
    connection.execute("UPDATE pool_block SET grade = 'pqc' WHERE peer = ? AND direction = 'out'", (peer,))
    yield
    connection.execute("UPDATE pool_block SET grade = 'qkd' WHERE peer = ? AND direction = 'out'", (peer,))


async def test_blocks_that_came_without_qkd_do_not_serve_a_demand_for_it(federation: SaeFederation) -> None:
    pattern = federation.delivery.pattern
    with fills_paused(), blocks_of_grade_pqc(federation, "n1", "n2"):
        before = await federation.quiet_books()
        wanted = [{"kmstn_grade": "qkd", "kmstn_provenance": True}]
        answer = await federation.enc_keys("a1", "b", extension_mandatory=wanted)
        if pattern == "proactive":
            assert answer.status_code == 400
            assert answer.json()["message"] == NOT_MET
            assert await federation.quiet_books() == before
        else:
            [key] = answer.json()["keys"]
            assert key["key_ID_extension"]["kmstn_provenance"]["grade"] == "qkd"
            after = await federation.quiet_books()
            assert after["n1 pool_block"] == before["n1 pool_block"]


async def test_way_that_turns_out_worse_than_it_looked_gives_no_key_to_anybody(
    federation: SaeFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Routes may change under way: what counts is the way that the destination acknowledged."""
    if federation.delivery.pattern == "proactive":
        pytest.skip("grades of blocks are known before")
    deposits, voided = federation.books()["n3 deposit"], voided_at_n1(federation)
    with monkeypatch.context() as patch:
        patch.setattr(key_delivery, "check_way_to", lambda *_arguments: None)
        if federation.delivery.pattern == "both":
            patch.setattr(key_delivery, "wrapped", _no_blocks)
        answer = await federation.enc_keys("a1", "c", extension_mandatory=[{"kmstn_grade": "qkd"}])
    assert (answer.status_code, answer.json()["message"]) == (400, NOT_MET)
    # Pools may be filling beside this, so that the books are looked at until all of it holds at once.
    async with asyncio.timeout(30):
        while (
            federation.books()["n3 deposit"] != deposits
            or voided_at_n1(federation) != voided + 1
            or federation.books()["n1 parcel"] != 0
        ):
            await asyncio.sleep(0.02)


def voided_at_n1(federation: SaeFederation) -> int:
    database = federation.nodes["n1"]._store
    connection: Any = database._connection
    return int(connection.execute("SELECT count(*) FROM record WHERE state = 'voided'").fetchone()[0])


def _no_blocks(*_arguments: Any) -> Any:
    raise DemandNotMetError({"kmstn_grade": "as if the pool were of the wrong grade"})


# Suite.


async def test_suite_that_every_seal_and_hop_uses_can_be_demanded(federation: SaeFederation) -> None:
    wanted = [{"kmstn_suite": SUITE}, {"kmstn_provenance": True}]
    if federation.delivery.pattern == "proactive":
        body = await refused(federation, "c", extension_mandatory=wanted)
        assert body == {"message": NOT_MET, "details": [{"kmstn_suite": "nobody remembers how the blocks came"}]}
        return
    with fills_paused():
        before = (await federation.quiet_books())["n1 pool_block"]
        [key] = await federation.issued("a1", "c", extension_mandatory=wanted)
        assert key["key_ID_extension"]["kmstn_provenance"] == {"grade": "pqc", "path": ["n1", "n2", "n3"]}
        assert (await federation.quiet_books())["n1 pool_block"] == before
    assert (await federation.dec_keys("c", "a1", key["key_ID"])).json()["keys"][0]["key"] == key["key"]


@pytest.mark.parametrize("suite", [OTHER_SUITE, "rot13-v1"])
async def test_suite_that_would_not_be_used_is_refused(federation: SaeFederation, suite: str) -> None:
    for slave, others in (("b", []), ("c", []), ("a2", ["c"])):
        wanted = [{"kmstn_suite": suite}]
        body = await refused(federation, slave, additional_slave_SAE_IDs=others, extension_mandatory=wanted)
        assert body["message"] == NOT_MET
        assert list(body["details"][0]) == ["kmstn_suite"]


async def test_suite_is_no_matter_where_nothing_is_sent(federation: SaeFederation) -> None:
    await federation.issued("a1", "a2", extension_mandatory=[{"kmstn_suite": OTHER_SUITE}])


class MixedSuites(SaeFederation):
    """n3, in the other region, would rather use another suite; n1 and n2 agree on theirs."""

    def settings(self, name: str) -> NodeSettings:
        suites = (SUITE, OTHER_SUITE) if name != "n3" else (OTHER_SUITE,)
        return super().settings(name).model_copy(update={"suites": suites})


async def test_one_hop_that_would_use_another_suite_refuses_the_demand(tmp_path: Path) -> None:
    async with MixedSuites(tmp_path, DeliverySettings(pattern="reactive")) as federation:
        for suite in (SUITE, OTHER_SUITE):
            body = await refused(federation, "c", extension_mandatory=[{"kmstn_suite": suite}])
            assert body["message"] == NOT_MET
        await federation.issued("a1", "b", extension_mandatory=[{"kmstn_suite": SUITE}])
        await refused(federation, "b", extension_mandatory=[{"kmstn_suite": OTHER_SUITE}])
        await federation.issued("a1", "c")


# Provenance.


async def test_provenance_false_is_as_good_as_none(federation: SaeFederation) -> None:
    [key] = await federation.issued("a1", "b", extension_mandatory=[{"kmstn_provenance": False}])
    assert list(key) == ["key_ID", "key"]


@pytest.mark.parametrize(
    ("slave", "grade", "path"),
    [("a2", "qkd", ["n1"]), ("b", "qkd", ["n1", "n2"]), ("c", "pqc", ["n1", "n2", "n3"])],
)
async def test_both_ends_are_told_the_way_if_they_ask(
    federation: SaeFederation, slave: str, grade: str, path: list[str]
) -> None:
    keys = await federation.issued("a1", slave, number=2, extension_optional=[{"kmstn_provenance": True}])
    told = {"kmstn_provenance": {"grade": grade, "path": path}}
    assert [key["key_ID_extension"] for key in keys] == [told, told]
    ids = [key["key_ID"] for key in keys]
    answer = await federation.dec_keys(slave, "a1", *ids, key_IDs_extension={"kmstn_provenance": True, "acme_x": 1})
    assert answer.json()["keys"] == keys


async def test_slave_may_ask_for_the_way_of_one_key_of_several(federation: SaeFederation) -> None:
    keys = await federation.issued("a1", "b", number=2)
    entries = [
        {"key_ID": keys[0]["key_ID"].upper(), "key_ID_extension": {"kmstn_provenance": True}},
        {"key_ID": keys[1]["key_ID"], "key_ID_extension": {"kmstn_provenance": False, "acme_x": None}},
    ]
    answer = await federation.sae("b").post("/api/v1/keys/a1/dec_keys", json={"key_IDs": entries})
    told, plain = answer.json()["keys"]
    assert told["key_ID_extension"] == {"kmstn_provenance": {"grade": "qkd", "path": ["n1", "n2"]}}
    assert plain == keys[1]


@pytest.mark.parametrize(
    ("members", "where"),
    [
        ({"key_IDs_extension": {"kmstn_provenance": 1}}, "key_IDs_extension.kmstn_provenance"),
        ({"key_ID_extension": {"kmstn_provenance": "yes"}}, "key_IDs.0.key_ID_extension.kmstn_provenance"),
    ],
)
async def test_bad_value_in_dec_keys_is_named_and_the_key_stays(
    federation: SaeFederation, members: dict[str, Any], where: str
) -> None:
    [key] = await federation.issued("a1", "b")
    entry = {"key_ID": key["key_ID"]} | {k: v for k, v in members.items() if k == "key_ID_extension"}
    body = {"key_IDs": [entry]} | {k: v for k, v in members.items() if k == "key_IDs_extension"}
    answer: httpx.Response = await federation.sae("b").post("/api/v1/keys/a1/dec_keys", json=body)
    assert answer.status_code == 400
    assert answer.json() == {"message": etsi014.BAD_REQUEST_FORMAT, "details": [{where: "true or false"}]}
    assert (await federation.dec_keys("b", "a1", key["key_ID"])).json()["keys"] == [key]


async def test_master_is_told_the_weakest_grade_of_all_ways_of_a_multicast(federation: SaeFederation) -> None:
    request = {"additional_slave_SAE_IDs": ["a2", "c"], "extension_mandatory": [{"kmstn_provenance": True}]}
    [key] = await federation.issued("a1", "b", **request)
    assert key["key_ID_extension"]["kmstn_provenance"]["grade"] == Grade.PQC
    answer = await federation.dec_keys("b", "a1", key["key_ID"], key_IDs_extension={"kmstn_provenance": True})
    assert answer.json()["keys"][0]["key_ID_extension"]["kmstn_provenance"] == {"grade": "qkd", "path": ["n1", "n2"]}


@pytest.mark.parametrize("mode", ["synchronous", "asynchronous"])
async def test_neighbour_that_does_not_say_which_way_keys_went_earns_no_grade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Literal["synchronous", "asynchronous"]
) -> None:
    """An acknowledgement of ETSI GS QKD 020 need not carry our provenance: then nothing better than `pqc` is known."""
    acknowledges, sends = HttpPeerNode.ack, HttpPeerNode.ext_keys

    def bare(acks: tuple[AckContainer, ...]) -> tuple[AckContainer, ...]:
        return tuple(one.model_copy(update={"extension": None}) for one in acks)

    async def ack(peer: HttpPeerNode, acks: tuple[AckContainer, ...]) -> None:
        await acknowledges(peer, bare(acks))

    async def ext_keys(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        return bare(await sends(peer, container))

    monkeypatch.setattr(HttpPeerNode, "ack", ack)
    monkeypatch.setattr(HttpPeerNode, "ext_keys", ext_keys)
    delivery = DeliverySettings(pattern="both", transfer_mode=mode)
    async with SaeFederation(tmp_path, delivery, POOL) as federation:
        for pool in (True, False):
            with fills_paused(), contextlib.ExitStack() as stack:
                if not pool:
                    stack.enter_context(monkeypatch.context()).setattr(key_delivery, "wrapped", _no_blocks)
                [key] = await federation.issued("a1", "b", extension_optional=[{"kmstn_provenance": True}])
                assert key["key_ID_extension"]["kmstn_provenance"]["grade"] == "pqc", pool
                answer = await federation.enc_keys("a1", "b", extension_mandatory=[{"kmstn_grade": "qkd"}])
                assert (answer.status_code, answer.json()["message"]) == (400, NOT_MET), pool
        request = {"additional_slave_SAE_IDs": ["a2"], "extension_optional": [{"kmstn_provenance": True}]}
        [key] = await federation.issued("a1", "b", **request)
        assert key["key_ID_extension"]["kmstn_provenance"]["grade"] == "pqc"
        answer = await federation.enc_keys("a1", "b", extension_mandatory=[{"kmstn_suite": SUITE}])
        assert (answer.status_code, answer.json()["message"]) == (400, NOT_MET)
