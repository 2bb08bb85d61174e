"""Key bytes in no log line, error, status or answer that is not a key delivery, whatever happens, at level DEBUG.

Every secret that the nodes store or draw is noted on its way, and all that they say is searched for it afterwards.
"""

import asyncio
import base64
import json
import logging
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.app import SystemRandomness
from node.clients.http import Answer
from node.clients.qkd_device import HttpQkdDevice
from node.core.kem_keys import KemKey
from node.core.key_delivery import KeyDelivery
from node.core.keys import Grade, KeyBlock, PoolBlock
from node.crypto.secret_bytes import SecretBytes
from node.errors import DeviceError
from node.storage.value_cipher import ValueCipher
from tests.integration.node.small_federation import DATA_KEY, HOME, LAYOUT, SmallFederation

MARKER = bytes.fromhex("c0ffee15" * 8)
WINDOW = 16
SECRET_PLACES = ("link_key:", "pool_block:", "deposit:", "kem_key:")


class Everything(logging.Handler):
    """Keeps every line that any logger of the process says."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Spy:
    """What must not be seen, and what was said."""

    def __init__(self) -> None:
        self.secrets: set[bytes] = {DATA_KEY, MARKER}
        self.handler = Everything()
        self.said: list[str] = []

    def found(self) -> list[str]:
        """Return the lines that show a secret in any form."""
        windows = {window for secret in self.secrets for window in written(secret)}
        raw = {repr(secret[begin : begin + 8])[2:-1] for secret in self.secrets for begin in (0, 8, 16, 24)}
        lines = [*self.handler.lines, *self.said]
        text = "\n".join(lines)
        assert not any(one in text for one in raw)
        shown = {text[at : at + WINDOW] for at in range(len(text))} & windows
        return [line for line in lines if any(window in line for window in shown)]


def written(secret: bytes) -> Iterable[str]:
    """Return windows that show a secret, written in hex or base64, wherever its groups begin."""
    for half in (secret[:16], secret[16:32], secret[-16:]):
        for text in (half.hex(), half.hex().upper()):
            yield text[:WINDOW]
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            for shift in range(3):
                yield encode(b"\0" * shift + half)[4:].decode()[:WINDOW]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spy]:
    noted = Spy()
    seal, draw = ValueCipher.seal, SystemRandomness.bytes

    def noting_seal(cipher: ValueCipher, place: str, value: bytes) -> bytes:
        if place.startswith(SECRET_PLACES):
            noted.secrets.add(value)
        return seal(cipher, place, value)

    def noting_draw(randomness: SystemRandomness, size_bytes: int) -> bytes:
        drawn = draw(randomness, size_bytes)
        if size_bytes >= 32:
            noted.secrets.add(drawn)
        return drawn

    monkeypatch.setattr(ValueCipher, "seal", noting_seal)
    monkeypatch.setattr(SystemRandomness, "bytes", noting_draw)
    root, levels = logging.getLogger(), {}
    names = [None, *logging.root.manager.loggerDict, "kmstn", "aiohttp", "asyncio", "uvicorn", "uvicorn.error"]
    for name in names:
        logger = logging.getLogger(name)
        levels[name] = logger.level
        logger.setLevel(logging.DEBUG)
    root.addHandler(noted.handler)
    yield noted
    root.removeHandler(noted.handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


async def deliver(federation: SmallFederation) -> list[str]:
    """Exchange keys between all pairs, to several slaves, and in answer to what is refused; return the key IDs."""
    key_ids = []
    for master in HOME:
        for slave in set(HOME) - {master}:
            issued = await federation.sae(master).post(f"/api/v1/keys/{slave}/enc_keys", json={"number": 2})
            assert issued.status_code == 200, issued.text
            ids = [key["key_ID"] for key in issued.json()["keys"]]
            body = {"key_IDs": [{"key_ID": key_id} for key_id in ids]}
            assert (await federation.sae(slave).post(f"/api/v1/keys/{master}/dec_keys", json=body)).status_code == 200
            key_ids += ids
    return key_ids


async def provoke(federation: SmallFederation, spy: Spy, key_ids: list[str]) -> None:
    """Ask for what is refused, with key bytes in the requests; keep the answers."""
    planted = {
        "key": base64.b64encode(MARKER).decode(),
        "value": base64.b64encode(MARKER).decode(),
        "hex": MARKER.hex(),
    }
    requests: list[tuple[Any, str, Any]] = [
        (federation.sae("b"), "/api/v1/keys/a1/dec_keys", {"key_IDs": [{"key_ID": key_ids[0]}]}),
        (federation.sae("b"), "/api/v1/keys/a1/dec_keys", {"key_IDs": [{"key_ID": planted["key"]}]}),
        (federation.sae("b"), "/api/v1/keys/a1/dec_keys", {"key_IDs": [planted]}),
        (federation.sae("a1"), "/api/v1/keys/b/enc_keys", {"size": planted, "number": planted["hex"]}),
        (federation.sae("a1"), "/api/v1/keys/b/enc_keys", {"extension_mandatory": [planted]}),
        (federation.peer("n1", "n2"), "/kmapi/v1/ext_keys", {"keys": [{"key_ID": key_ids[0], **planted}]}),
        (federation.peer("n1", "n2"), "/kmapi/v1/ext_keys", {"keys": planted}),
        (federation.peer("n1", "n2"), "/kmapi/v1/ext_keys/ack", [planted]),
        (federation.peer("n1", "n2"), "/kmapi/v1/ext_keys/void", {"key_ids": [planted]}),
        (federation.peer("n1", "n2"), "/kmapi/v1/ext_keys", planted["key"]),
    ]
    for client, path, body in requests:
        answer = await client.post(path, json=body)
        assert answer.status_code >= 400, (path, body)
        spy.said.append(answer.text)


async def ask_around(federation: SmallFederation, spy: Spy, key_ids: list[str]) -> None:
    """Keep everything that the operator's API tells."""
    for node in federation.nodes:
        for path in ("/status", "/health", *(f"/keys/{key_id}" for key_id in key_ids)):
            spy.said.append((await federation.operator(node).get(path)).text)
    for node in LAYOUT:
        spy.said.append(repr(vars(federation.nodes[node])))


async def test_no_key_is_shown_while_keys_are_delivered_refused_and_lost(
    spy: Spy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with SmallFederation(tmp_path) as federation:
        key_ids = await deliver(federation)
        await provoke(federation, spy, key_ids)
        await ask_around(federation, spy, key_ids)

        def fails(_delivery: KeyDelivery, *arguments: object) -> None:
            value = next(iter(spy.secrets))  # A traceback shows lines, never what is in them.
            raise RuntimeError(f"unexpected, with {len(value)} bytes at hand")

        with monkeypatch.context() as patched:
            patched.setattr(KeyDelivery, "enc_keys", fails)
            spy.said.append((await federation.sae("a1").get("/api/v1/keys/b/enc_keys")).text)
        await federation.stop_node("n2")
        for slave in ("b", "c"):
            spy.said.append((await federation.sae("a2").post(f"/api/v1/keys/{slave}/enc_keys", json={"size": 8})).text)
        await federation.start_node("n2")
        await federation.settled()
        connection = federation.nodes["n1"]._store._connection
        assert connection is not None
        connection.execute("UPDATE pool_block SET sealed = zeroblob(60)")
        connection.execute("UPDATE link_key SET sealed = zeroblob(60)")
        for _ in range(3):
            spy.said.append((await federation.sae("a1").get("/api/v1/keys/c/enc_keys")).text)
        await ask_around(federation, spy, key_ids[:2])
        await asyncio.sleep(0.2)
    out, err = capfd.readouterr()
    spy.said += [out, err]
    assert len(spy.secrets) > 100
    assert len(spy.handler.lines) > 100
    assert "unexpected failure" in "\n".join(spy.handler.lines)
    assert spy.found() == []


def test_the_search_finds_what_is_shown(spy: Spy) -> None:
    for text in (MARKER.hex(), base64.b64encode(b"1" + MARKER).decode(), f"key: {MARKER[16:].hex().upper()}"):
        spy.said = ["harmless", text]
        assert spy.found() == [text]
    spy.said = [f"value {MARKER!r}"]
    with pytest.raises(AssertionError):
        spy.found()


class FixedAnswer:
    """An HTTP service that answers one thing."""

    def __init__(self, status: int, body: bytes) -> None:
        self._answer = Answer(status, body)

    async def request(self, _method: str, _path: str, _body: bytes | None = None) -> Answer:
        return self._answer


KEY = base64.b64encode(MARKER).decode()
GOOD_ID = "11111111-1111-4111-8111-111111111111"
ODD_KEYS: list[Any] = [
    [{"key_ID": "no UUID", "key": KEY}],
    [{"key_ID": GOOD_ID, "key": KEY + "="}],
    [{"key_ID": GOOD_ID, "key": KEY[:-4]}],
    [{"key_ID": GOOD_ID, "key": [KEY]}],
    [{"key_ID": GOOD_ID, "key": KEY}, {"key_ID": GOOD_ID, "key": KEY}],
    [{"key_ID": GOOD_ID, "key": KEY}] * 9,
    [KEY],
    {"key": KEY},
]


@pytest.mark.parametrize("odd", ODD_KEYS)
@pytest.mark.parametrize("cut", [0, 1], ids=["whole", "cut short"])
async def test_no_key_of_an_odd_device_is_in_the_error_that_says_so(spy: Spy, odd: Any, cut: int) -> None:
    body = json.dumps({"keys": odd}).encode()
    device = HttpQkdDevice("n2", FixedAnswer(200, body[: len(body) - cut]))  # type: ignore[arg-type]
    for call in (device.enc_keys(4), device.dec_keys([GOOD_ID, GOOD_ID[:-1] + "2"]), device.stored_key_count()):
        with pytest.raises(DeviceError) as raised:
            await call
        spy.said += [repr(raised.value), "".join(traceback.format_exception(raised.value))]
    assert spy.found() == []


def test_no_key_is_in_the_repr_of_what_holds_it(spy: Spy) -> None:
    holders = (
        KeyBlock("k", MARKER),
        PoolBlock("k", MARKER, Grade.QKD),
        KemKey("hop", "mlkem768-v1", "k", b"public", MARKER, 0.0),
        SecretBytes(MARKER),
        ValueCipher(MARKER),
    )
    spy.said = [f"{holder!r} {holder!s} {holder}" for holder in holders]
    assert spy.found() == []
