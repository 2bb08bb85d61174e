"""Get key in all its forms, and what is none: what is served, what is refused, and that refusals cost nothing."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from node.settings import DeliverySettings, KeySettings, PoolSettings
from tests.integration.node.sae_federation import SaeFederation, fills_paused

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/api/v1/keys/b/enc_keys"
HEAD = b"POST /api/v1/keys/b/enc_keys HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
AWKWARD = (
    "dir/sae+1",
    "50%2Foff",
    "x/status",
    "enc_keys",
    "urn:sae;v=1?q=2#f&g",
    "a+b",
    "%",
    "~.-_!$'()*,:@[]",
    "w" * 64,
)
WHOLE_POOL = PoolSettings(target_blocks=40, batch_blocks=16, reserve_link_keys=0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SaeFederation]:
    root = tmp_path_factory.mktemp("federation")
    started = SaeFederation(root, more_saes={"n1": AWKWARD, "n3": tuple(f"{sae}3"[-64:] for sae in AWKWARD)})
    async with started:
        yield started


# Forms.


async def test_get_and_post_give_keys_alike(federation: SaeFederation) -> None:
    client = federation.sae("a1")
    answers = [
        await client.get(PATH),
        await client.get(f"{PATH}?number=1&size=256"),
        await client.post(PATH, json={}),
        await client.post(PATH, json={"number": 1, "size": 256}),
        await client.post(PATH, content=b" {}\n", headers={"Content-Type": "Application/JSON; charset=UTF-8"}),
        await client.post(PATH, content=b"{}"),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert list(answer.json()) == ["keys"]
        [key] = answer.json()["keys"]
        assert list(key) == ["key_ID", "key"]
        assert len(base64.b64decode(key["key"], validate=True)) == 32
        fetched = await federation.sae("b").get("/api/v1/keys/a1/dec_keys", params={"key_ID": key["key_ID"]})
        assert fetched.json() == answer.json()


@pytest.mark.parametrize(
    "head", [b"", b"Content-Length: 0\r\n", b"Content-Type: application/json\r\n", b"Content-Type:\r\n"]
)
async def test_post_without_a_body_asks_for_one_key_of_the_default_size(federation: SaeFederation, head: bytes) -> None:
    status, body = await federation.raw("a1", HEAD + head + b"\r\n")
    assert status == 200, body
    [key] = json.loads(body)["keys"]
    assert len(base64.b64decode(key["key"])) == 32


@pytest.mark.parametrize("head", [b"", b"Content-Length: 0\r\n"])
async def test_post_dec_keys_without_a_body_names_what_is_missing(federation: SaeFederation, head: bytes) -> None:
    status, body = await federation.raw("b", HEAD.replace(b"b/enc_keys", b"a1/dec_keys") + head + b"\r\n")
    assert (status, json.loads(body)["details"]) == (400, [{"key_IDs": "Field required"}])


async def test_body_in_chunks_is_read_to_its_end(federation: SaeFederation) -> None:
    chunks = b'9\r\n{"number"\r\n4\r\n: 2}\r\n0\r\n\r\n'
    status, body = await federation.raw("a1", HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert (status, len(json.loads(body)["keys"])) == (200, 2)


@pytest.mark.parametrize("pattern", ["proactive", "reactive"])
async def test_every_size_in_whole_bytes_up_to_the_greatest_is_the_same_key_at_both_ends(
    tmp_path: Path, pattern: Any
) -> None:
    async with SaeFederation(tmp_path, DeliverySettings(pattern=pattern), WHOLE_POOL) as federation:
        for slave in ("a2", "b", "c"):
            for size in (64, 72, 248, 256, 264, 512, 1000, 4088, 4096):
                if pattern == "proactive":
                    await federation.settled()
                [key] = await federation.issued("a1", slave, size=size)
                assert 8 * len(base64.b64decode(key["key"])) == size
                assert (await federation.dec_keys(slave, "a1", key["key_ID"])).json()["keys"] == [key], (slave, size)


async def test_several_keys_of_several_blocks_each_come_in_one_answer(federation: SaeFederation) -> None:
    keys = await federation.issued("a1", "c", number=5, size=1000)
    assert len({key["key_ID"] for key in keys}) == len({key["key"] for key in keys}) == 5
    fetched = await federation.dec_keys("c", "a1", *(key["key_ID"] for key in reversed(keys)))
    assert fetched.json()["keys"] == keys[::-1]


async def test_most_keys_of_the_default_size_fit_one_request_and_one_answer(federation: SaeFederation) -> None:
    status = await federation.key_status("a1", "a2")
    keys = await federation.issued("a1", "a2", number=status["max_key_per_request"])
    fetched = await federation.dec_keys("a2", "a1", *(key["key_ID"] for key in keys))
    assert fetched.json()["keys"] == keys


# Refusals of figures.

NOT_AN_INTEGER = "Input should be a valid integer"
BAD_FIGURES: list[tuple[str, str, str]] = [
    ('{"size": 257}', "size shall be a multiple of 8", "size"),
    ('{"size": 63}', "size shall be a multiple of 8", "size"),
    ('{"size": 4097}', "size shall be a multiple of 8", "size"),
    ('{"size": 56}', "size is out of bounds", "size"),
    ('{"size": 4104}', "size is out of bounds", "size"),
    ('{"size": 0}', "bad request format", "size"),
    ('{"size": -256}', "bad request format", "size"),
    ('{"size": 256.0}', "bad request format", "size"),
    ('{"size": "256"}', "bad request format", "size"),
    ('{"size": true}', "bad request format", "size"),
    ('{"size": null}', "bad request format", "size"),
    ('{"size": [256]}', "bad request format", "size"),
    ('{"size": ' + "8" * 40 + "}", "size is out of bounds", "size"),
    ('{"size": ' + "8" * 5000 + "}", "bad request format", "body"),
    ('{"number": 129}', "number is out of bounds", "number"),
    ('{"number": ' + "9" * 40 + "}", "number is out of bounds", "number"),
    ('{"number": 0}', "bad request format", "number"),
    ('{"number": -1}', "bad request format", "number"),
    ('{"number": 1.5}', "bad request format", "number"),
    ('{"number": 1e2}', "bad request format", "number"),
    ('{"number": 1e999}', "bad request format", "number"),
    ('{"number": "1"}', "bad request format", "number"),
    ('{"number": false}', "bad request format", "number"),
    ('{"number": null}', "bad request format", "number"),
    ('{"number": NaN}', "bad request format", "number"),
    ('{"number": 1, "number": 2}', "bad request format", "number"),
    ('{"number": 1, "n\\u0075mber": 2}', "bad request format", "number"),
    ('{"number": 33, "size": 4096}', "number and size are too much for one request", "number"),
    ('{"additional_slave_SAE_IDs": "c"}', "bad request format", "additional_slave_SAE_IDs"),
    ('{"additional_slave_SAE_IDs": [1]}', "bad request format", "additional_slave_SAE_IDs.0"),
    ('{"extension_optional": {"a_b": 1}}', "bad request format", "extension_optional"),
    ('{"extension_optional": [{"a_b": 1, "a_b": 2}]}', "bad request format", "a_b"),
    ('{"extension_optional": [{"a_b": NaN}]}', "bad request format", "body"),
    ('{"unknown": {"x": 1, "x": 2}}', "bad request format", "x"),
]


async def test_figures_that_are_none_or_too_much_are_named_and_consume_nothing(federation: SaeFederation) -> None:
    with fills_paused():
        before = await federation.quiet_books()
        for text, message, member in BAD_FIGURES:
            answer = await federation.sae("a1").post(PATH, content=text.encode())
            assert answer.status_code == 400, (text, answer.text)
            assert answer.json()["message"] == message, (text, answer.text)
            assert member in answer.json()["details"][0], (text, answer.text)
        assert await federation.quiet_books() == before


@pytest.mark.parametrize(
    ("query", "member"),
    [
        ("number=three", "number"),
        ("number=", "number"),
        ("number=1.0", "number"),
        ("number=%2B1", "number"),
        ("number=1&number=1", "number"),
        ("size=0x100", "size"),
        ("size=257", "size"),
        ("size=%FF", "size"),
        ("number=33&size=4096", "number"),
        ("extension_mandatory=%5B%5D", "extension_mandatory"),
        ("Number=1", "Number"),
        ("x" * 5000 + "=1", "x" * 64),
    ],
)
async def test_query_that_get_does_not_take_is_named(federation: SaeFederation, query: str, member: str) -> None:
    answer = await federation.sae("a1").get(f"{PATH}?{query}")
    assert answer.status_code == 400
    assert next(iter(answer.json()["details"][0])) == member


async def test_number_and_size_are_bounded_together_as_the_status_says(tmp_path: Path) -> None:
    changes = {"keys": KeySettings(max_bits_per_request=4096)}
    async with SaeFederation(tmp_path, DeliverySettings(pattern="reactive"), changes=changes) as federation:
        status = await federation.key_status("a1", "b")
        assert status["status_extension"]["kmstn_max_bits_per_request"] == 4096
        assert len(await federation.issued("a1", "b", number=16)) == 16
        for request in ({"number": 17}, {"number": 2, "size": 2056}):
            refused = await federation.enc_keys("a1", "b", **request)
            assert refused.status_code == 400
            assert refused.json()["message"] == "number and size are too much for one request"
            assert "4096 bits" in refused.text


# Refusals of bodies.

DEEP = b'{"extension_optional": [{"a_b": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}"


@pytest.mark.parametrize(
    ("body", "member"),
    [
        (b"{", "body"),
        (b"null", "body"),
        (b"[]", "body"),
        (b"\xff\xfe", "body"),
        (b"\xef\xbb\xbf{}", "body"),
        (b'{"number": 1, "x": "\xc3\x28"}', "body"),
        (b'{"x": "\\ud800"}', "body"),
        (b"{} {}", "body"),
        (b"[" * 100_000, "body"),
        (DEEP, "body"),
        (b'{"additional_slave_SAE_IDs": [' + b"1," * 100_000 + b"1]}", "additional_slave_SAE_IDs.0"),
        (b'{"extension_mandatory": [' + b'{"a_b": 1},' * 20_000 + b"{}]}", "extension_mandatory"),
        (b"x" * 300_000, "body"),
    ],
)
async def test_body_that_cannot_be_read_is_named_in_a_short_answer(
    federation: SaeFederation, body: bytes, member: str
) -> None:
    answer = await federation.sae("a1").post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert list(answer.json()["details"][0]) == [member]
    assert len(answer.content) < 4096


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "application/jsonx"],
)
async def test_body_of_another_type_is_refused(federation: SaeFederation, content_type: str) -> None:
    answer = await federation.sae("a1").post(PATH, content=b"{}", headers={"Content-Type": content_type})
    assert answer.status_code == 400
    assert list(answer.json()["details"][0]) == ["Content-Type"]


async def test_client_that_goes_away_in_its_body_leaves_no_trace_in_the_log(
    federation: SaeFederation, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.gather(_leave(federation), _leave(federation))
    await asyncio.sleep(0.2)
    assert "unexpected" not in caplog.text
    assert (await federation.enc_keys("a1", "b")).status_code == 200


async def _leave(federation: SaeFederation) -> None:
    with pytest.raises((TimeoutError, IndexError, ValueError)):
        async with asyncio.timeout(0.3):
            await federation.raw("a1", HEAD + b"Content-Length: 100\r\n\r\n{")


# Paths.


@pytest.mark.parametrize("sae", AWKWARD)
async def test_awkward_ids_are_percent_encoded_once_as_master_and_as_slave(federation: SaeFederation, sae: str) -> None:
    there = f"{sae}3"[-64:]
    [local] = await federation.issued("a1", sae)
    assert (await federation.dec_keys(sae, "a1", local["key_ID"])).json()["keys"] == [local]
    [key] = await federation.issued(sae, there)
    assert (await federation.dec_keys(there, sae, key["key_ID"])).json()["keys"] == [key]
    status = await federation.key_status(sae, there)
    assert (status["master_SAE_ID"], status["slave_SAE_ID"]) == (sae, there)


async def test_plus_in_a_path_is_a_plus_and_no_space(federation: SaeFederation) -> None:
    assert (await federation.sae("a1").get("/api/v1/keys/a+b/status")).json()["slave_SAE_ID"] == "a+b"


async def test_slashes_of_an_id_may_stand_unencoded(federation: SaeFederation) -> None:
    assert (await federation.sae("a1").get("/api/v1/keys/x/status/status")).json()["slave_SAE_ID"] == "x/status"


NO_IDS = [b"x%20y", b"na%C3%AFve", b"%FF", b"%C3%28", b"%zz", b"%", b"%4", b"a%00b", b"%0A", b"w" * 65, b"%61" * 65]


@pytest.mark.parametrize("encoded", NO_IDS)
@pytest.mark.parametrize("method", [b"status", b"enc_keys", b"dec_keys?key_ID=00000000-0000-4000-8000-000000000000"])
async def test_id_that_no_sae_of_a_federation_can_have_is_refused(
    federation: SaeFederation, encoded: bytes, method: bytes
) -> None:
    request = b"GET /api/v1/keys/%s/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % (encoded, method)
    status, body = await federation.raw("a1", request)
    assert status == 400
    assert json.loads(body)["message"] == "not an SAE ID"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/v1/keys"),
        ("GET", "/api/v1/keys//status"),
        ("GET", "/api/v1/keys/status"),
        ("GET", "/api/v1/keys/b/"),
        ("GET", "/api/v1/keys/b/status/"),
        ("GET", "/api/v1/keys/b/other"),
        ("GET", "/api/v1/keys/b%2Fstatus"),
        ("GET", "/api/v1/keys/b%2Fenc_keys"),
        ("GET", "/api/v2/keys/b/status"),
        ("GET", "/keys/b/status"),
        ("POST", "/api/v1/keys/b/status"),
        ("PUT", PATH),
        ("DELETE", PATH),
        ("OPTIONS", PATH),
        ("GET", "/api/v1/keys/" + "b/" * 20_000 + "other"),
    ],
)
async def test_path_or_method_outside_the_standard_gets_400_and_no_key(
    federation: SaeFederation, method: str, path: str
) -> None:
    before = await federation.quiet_books()
    answer = await federation.sae("a1").request(method, path)
    assert answer.status_code == 400
    assert answer.json()["message"] == f"{method} on this path is not part of ETSI GS QKD 014"
    records = [name for name in before if name.endswith("record")]
    after = federation.books()
    assert [after[name] for name in records] == [before[name] for name in records]


async def test_caller_without_rights_learns_nothing_of_the_paths(federation: SaeFederation) -> None:
    for path in ("/", "/api/v1/keys/b/other", f"/api/v1/keys/{quote('x y')}/status"):
        answer = await federation.sae("b", at="n1").get(path)
        assert answer.status_code == 401, path


# Answers.


async def test_failing_store_is_answered_503_without_its_place_on_disk(tmp_path: Path) -> None:
    async with SaeFederation(tmp_path) as federation:
        client = federation.sae("a1")
        assert (await client.get(PATH)).status_code == 200
        federation.nodes["n1"]._store.close()
        for path in (PATH, "/api/v1/keys/b/status", "/api/v1/keys/a2/enc_keys"):
            answer = await client.get(path)
            assert answer.status_code == 503, path
            assert "message" in answer.json()
            assert str(tmp_path) not in answer.text


async def test_fault_of_the_node_itself_is_a_503_as_the_standard_has_no_500(
    federation: SaeFederation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_arguments: Any) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setattr(type(federation.nodes["n1"]._core.delivery), "enc_keys", broken)
    answer = await federation.sae("a1").get(PATH)
    assert (answer.status_code, answer.json()["message"]) == (503, "the request could not be processed")
    assert "a fault" in caplog.text
