"""Every problem type of ETSI GS QKD 020, raised with raw JSON; 400 and 401 kept nothing of the request."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from node.storage.ledger import SqliteLedger
from tests.integration.node.neighbour_federation import (
    ACK,
    EXT_KEYS,
    UNKNOWN_ID,
    VOID,
    Json,
    NeighbourFederation,
    ack_of,
    link_key_ids,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROBLEM_BASE = "https://qkd.etsi.org/gs020-interop-kms/"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NeighbourFederation]:
    async with NeighbourFederation(tmp_path_factory.mktemp("federation")) as started:
        yield started


def details_of(answer: httpx.Response, status: int, slug: str) -> dict[str, str]:
    """Check that an answer is this problem, in the form of the standard; return its details."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    problem = answer.json()
    assert problem["type"] == PROBLEM_BASE + slug, answer.text
    assert problem["status"] == status
    assert 1 <= len(problem["title"]) <= 1024
    assert "detail" not in problem
    details: dict[str, str] = problem["details"]
    assert details
    assert all(isinstance(value, str) for value in details.values())
    return details


async def kept_nothing(
    federation: NeighbourFederation, post: tuple[str, str, str, Any], status: int, slug: str
) -> dict[str, str]:
    """Post something wrong; return the details of the problem, having seen that no node's books changed."""
    before = await federation.quiet_books()
    details = details_of(await federation.post(*post), status, slug)
    assert await federation.quiet_books() == before
    return details


def bare(federation: NeighbourFederation, **changes: Any) -> Json:
    """Spell a transfer of the standard's own members, which these nodes do not take; None leaves a member out."""
    whole = {
        "keys": [{"key_id": UNKNOWN_ID, "value": "AA=="}],
        "initiator_sae_id": "a1",
        "target_sae_ids": ["b"],
        "ack_callback_url": federation.callback("n1"),
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


@pytest.mark.parametrize("member", ["keys", "initiator_sae_id", "target_sae_ids"])
async def test_transfer_without_a_required_member_is_missing_parameters(
    federation: NeighbourFederation, member: str
) -> None:
    body = bare(federation, **{member: None})
    assert await kept_nothing(federation, ("n1", "n2", EXT_KEYS, body), 400, "missing-parameters") == {
        member: "Field required"
    }


async def test_key_without_value_is_missing_parameters(federation: NeighbourFederation) -> None:
    body = bare(federation, keys=[{"key_id": UNKNOWN_ID}])
    details = await kept_nothing(federation, ("n1", "n2", EXT_KEYS, body), 400, "missing-parameters")
    assert details.keys() == {"keys.0.value"}


async def test_transfer_without_our_mandatory_extensions_is_missing_parameters(federation: NeighbourFederation) -> None:
    details = await kept_nothing(federation, ("n1", "n2", EXT_KEYS, bare(federation)), 400, "missing-parameters")
    assert details.keys() == {"extension_mandatory"}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"keys": []}, "keys"),
    ({"keys": [{"key_id": "7", "value": "AA=="}]}, "keys.0.key_id"),
    ({"keys": [{"key_id": UNKNOWN_ID, "value": "A=A"}]}, "keys.0.value"),
    ({"keys": [{"key_id": UNKNOWN_ID, "value": "AA==", "extension": {}}]}, "keys.0.extension"),
    ({"initiator_sae_id": ""}, "initiator_sae_id"),
    ({"initiator_sae_id": "x" * 65}, "initiator_sae_id"),
    ({"initiator_sae_id": "a b"}, "initiator_sae_id"),
    ({"target_sae_ids": []}, "target_sae_ids"),
    ({"target_sae_ids": "b"}, "target_sae_ids"),
    ({"ack_callback_url": 1}, "ack_callback_url"),
    ({"ack_callback_url": "https://localhost:1/kmapi/v1/ext_keys/ack"}, "ack_callback_url"),
    ({"extension_mandatory": []}, "extension_mandatory"),
    ({"extension_optional": {}}, "extension_optional"),
]


@pytest.mark.parametrize(("changes", "place"), WRONG, ids=str)
async def test_wrong_member_is_an_invalid_parameter_that_is_named(
    federation: NeighbourFederation, changes: dict[str, Any], place: str
) -> None:
    post = ("n1", "n2", EXT_KEYS, bare(federation, **changes))
    assert place in await kept_nothing(federation, post, 400, "invalid-parameter")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"keys": NaN'], ids=str)
async def test_body_that_is_no_transfer_is_an_invalid_parameter(federation: NeighbourFederation, body: bytes) -> None:
    details = await kept_nothing(federation, ("n1", "n2", EXT_KEYS, body), 400, "invalid-parameter")
    assert details.keys() == {"body"}


async def test_altered_transfer_is_an_invalid_parameter_and_its_link_keys_are_not_spent(
    federation: NeighbourFederation,
) -> None:
    transfer = await federation.drawn_up("a1", "b")
    altered = json.loads(json.dumps(transfer.message))
    altered["keys"][0]["value"] = "A" * 43 + "="
    details = await kept_nothing(federation, ("n1", "n2", EXT_KEYS, altered), 400, "invalid-parameter")
    assert details.keys() == {"E32473_hybrid_transport"}
    assert link_key_ids(transfer.message) <= federation.link_keys_at("n2")
    assert (await federation.post("n1", "n2", EXT_KEYS, transfer.message)).status_code == 202


async def test_transfer_that_leads_straight_back_to_its_sender_is_a_routing_error(
    federation: NeighbourFederation,
) -> None:
    transfer = await federation.drawn_up("a1", "c")
    transfer.message["extension_mandatory"]["E32473_end_to_end"]["destination"] = "n1"
    details = await kept_nothing(federation, ("n1", "n2", EXT_KEYS, transfer.message), 400, "key-routing-error")
    assert details == {"invalid_routing": "leads back to n1"}


async def test_transfer_that_passed_here_before_is_a_routing_error(federation: NeighbourFederation) -> None:
    transfer = await federation.drawn_up("a1", "c")
    transfer.message["extension_mandatory"]["E32473_hybrid_transport"]["path"] = ["n2", "n1"]
    details = await kept_nothing(federation, ("n1", "n2", EXT_KEYS, transfer.message), 400, "key-routing-error")
    assert "invalid_routing" in details


async def test_transfer_to_where_no_route_is_known_is_refused_at_once(federation: NeighbourFederation) -> None:
    transfer = await federation.drawn_up("a1", "c")
    transfer.message["extension_mandatory"]["E32473_end_to_end"]["destination"] = "n9"
    details = await kept_nothing(federation, ("n1", "n2", EXT_KEYS, transfer.message), 400, "key-routing-error")
    assert details == {"no_known_route": "no route from n2 to n9"}


@pytest.mark.parametrize("body", [b"{", b"[]", b'"all"'], ids=str)
async def test_body_that_is_no_request_to_void_is_not_understood(federation: NeighbourFederation, body: bytes) -> None:
    post = ("n1", "n2", VOID, body)
    assert (await kept_nothing(federation, post, 400, "void-request-not-understood")).keys() == {"body"}


async def test_request_to_void_at_several_nodes_is_not_understood(federation: NeighbourFederation) -> None:
    body = federation.void_of("n1", "a1", "b", [UNKNOWN_ID], target_sae_ids=["b", "c"])
    details = await kept_nothing(federation, ("n1", "n2", VOID, body), 400, "void-request-not-understood")
    assert details.keys() == {"target_sae_ids"}


async def test_request_to_void_all_pool_blocks_is_not_understood(federation: NeighbourFederation) -> None:
    body = federation.void_of("n1", "n1", "n2", [], all_confirmation=True)
    details = await kept_nothing(federation, ("n1", "n2", VOID, body), 400, "void-request-not-understood")
    assert details.keys() == {"key_ids"}


async def test_request_to_void_without_a_required_member_is_missing_parameters(federation: NeighbourFederation) -> None:
    for member in ("key_ids", "initiator_sae_id", "target_sae_ids"):
        body = federation.void_of("n1", "a1", "b", [UNKNOWN_ID])
        del body[member]
        details = await kept_nothing(federation, ("n1", "n2", VOID, body), 400, "missing-parameters")
        assert details.keys() == {member}


@pytest.mark.parametrize("confirmation", [{}, {"all_confirmation": False}], ids=str)
@pytest.mark.parametrize("sender", ["n1", ""], ids=["asynchronous", "synchronous"])
async def test_void_without_key_ids_or_confirmation_is_refused(
    federation: NeighbourFederation, confirmation: Json, sender: str
) -> None:
    body = federation.void_of(sender, "a1", "b", [], **confirmation)
    details = await kept_nothing(federation, ("n1", "n2", VOID, body), 400, "no-key-ids-or-confirmation")
    assert details.keys() == {"no_all_confirmation"}


async def test_confirmation_that_is_no_boolean_is_an_invalid_parameter(federation: NeighbourFederation) -> None:
    body = federation.void_of("n1", "a1", "b", [], all_confirmation="true")
    details = await kept_nothing(federation, ("n1", "n2", VOID, body), 400, "invalid-parameter")
    assert details.keys() == {"all_confirmation"}


NOT_UNDERSTOOD: list[tuple[Any, str]] = [
    (b"{", "body"),
    ({}, "body"),
    ([1], "0"),
    ([ack_of([UNKNOWN_ID], "lost")], "0.ack_status"),
    ([ack_of([UNKNOWN_ID], "relayed", extension={"E32473_provenance": {"path": 1}})], "E32473_provenance"),
]


@pytest.mark.parametrize(("body", "place"), NOT_UNDERSTOOD, ids=str)
async def test_acknowledgement_that_says_nothing_is_not_understood(
    federation: NeighbourFederation, body: Any, place: str
) -> None:
    details = await kept_nothing(federation, ("n3", "n2", ACK, body), 400, "ack-not-understood")
    assert details.keys() == {place}


@pytest.mark.parametrize("member", ["key_id_container", "ack_status", "initiator_sae_id", "target_sae_ids"])
async def test_acknowledgement_without_a_required_member_is_missing_parameters(
    federation: NeighbourFederation, member: str
) -> None:
    body = ack_of([UNKNOWN_ID], "relayed")
    del body[member]
    details = await kept_nothing(federation, ("n3", "n2", ACK, [body]), 400, "missing-parameters")
    assert details.keys() == {f"0.{member}"}


@pytest.mark.parametrize("status", ["relayed", "failed"])
async def test_acknowledgement_of_keys_that_never_went_that_way_is_key_not_present(
    federation: NeighbourFederation, status: str
) -> None:
    post = ("n3", "n2", ACK, [ack_of([UNKNOWN_ID], status)])
    assert (await kept_nothing(federation, post, 400, "key-not-present")).keys() == {"key_id_container"}


@pytest.mark.parametrize("path", [EXT_KEYS, ACK, VOID])
async def test_node_that_is_no_neighbour_is_unauthorized(federation: NeighbourFederation, path: str) -> None:
    transfer = await federation.drawn_up("a1", "b")
    body = {EXT_KEYS: transfer.message, ACK: [ack_of(transfer.key_ids, "failed", "a1", "b")]}
    body[VOID] = federation.void_of("n1", "a1", "b", transfer.key_ids)
    # n3 has a certificate of a domain that n1 trusts, but no link to n1.
    details = await kept_nothing(federation, ("n3", "n1", path, body[path]), 401, "unauthorized")
    assert details == {"node": "n3"}


async def test_outcome_that_does_not_come_in_time_is_a_timeout_in_synchronous_mode(
    federation: NeighbourFederation,
) -> None:
    transfer = await federation.drawn_up("a1", "c", synchronous=True)
    with federation.withholding("n3"):
        answer = await federation.post("n1", "n2", EXT_KEYS, transfer.message)
        assert details_of(answer, 408, "timeout").keys() == {"timeout"}
        # The keys may have been kept, and here they were.
        assert any(transfer.key_ids[0] in row for row in federation.books()["n2 parcel_key"])
    with federation.withholding("n3", VOID):
        body = federation.void_of("", "a1", "c", transfer.key_ids)
        answer = await federation.post("n1", "n2", VOID, body)
        assert details_of(answer, 408, "timeout").keys() == {"timeout"}
    assert not federation.acks_to("n1", transfer.key_ids[0])


async def test_void_towards_an_sae_that_nobody_knows_is_no_known_route(federation: NeighbourFederation) -> None:
    body = federation.void_of("n1", "a1", "nobody", [UNKNOWN_ID])
    answer = await federation.post("n1", "n2", VOID, body)
    assert details_of(answer, 503, "server-side-general-error").keys() == {"no_known_route"}


async def test_transfer_for_a_neighbour_that_shows_no_key_yet_is_no_known_route(
    federation: NeighbourFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = await federation.drawn_up("a1", "c")
    directory = federation.nodes["n2"]._core.federation.directory
    with monkeypatch.context() as patch:
        patch.setattr(directory, "kem_key", lambda _node, _purpose: None)
        answer = await federation.post("n1", "n2", EXT_KEYS, transfer.message)
    assert details_of(answer, 503, "server-side-general-error").keys() == {"no_known_route"}


async def test_transfer_for_which_there_are_no_link_keys_is_insufficient_key_material(
    federation: NeighbourFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer = await federation.drawn_up("c", "a1")
    with monkeypatch.context() as patch:
        patch.setattr(SqliteLedger, "take_link_keys", lambda *_arguments: None)
        answer = await federation.post("n3", "n2", EXT_KEYS, transfer.message)
    assert details_of(answer, 503, "insufficient-key-material").keys() == {"insufficient_key_material"}
    assert transfer.key_ids[0] not in str(federation.told("n1", EXT_KEYS))


async def test_mandatory_extension_that_is_not_implemented_is_named(federation: NeighbourFederation) -> None:
    for body in (bare(federation), (await federation.drawn_up("a1", "b")).message):
        mandatory = {**body.get("extension_mandatory", {}), "E32473_unheard_of": {"x": 1}}
        answer = await federation.post("n1", "n2", EXT_KEYS, body | {"extension_mandatory": mandatory})
        details = details_of(answer, 503, "unsupported-mandatory-extension")
        assert details == {"unsupported_mandatory_extension": "not supported: E32473_unheard_of"}
