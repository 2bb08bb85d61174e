"""Thousands of wrong requests from an SAE, a neighbour and an operator, each with a good certificate.

Whatever they say: no 500, no hang, an answer as the API's document describes it, and books that no refused request
has changed. KMSTN_FUZZ_REQUESTS sets how many, KMSTN_FUZZ_SEED which.
"""

import asyncio
import json
import logging
import os
import random
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

import pytest

from node.clients.peer_node import HttpPeerNode
from node.wire.etsi020 import AckContainer, ExtKeyContainer, dump
from tests.hostile.books import Books, books_at_rest, differences, read_books
from tests.hostile.fuzzing import Fuzzer
from tests.hostile.hostile_federation import OPERATOR_API, PEER_API, SAE_API, HostileFederation
from tests.hostile.openapi_document import Document, Operation
from tests.hostile.raw_http import ClosedError, RawAnswer, RawClient, RawRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = int(os.environ.get("KMSTN_FUZZ_REQUESTS", "20000"))
SEED = int(os.environ.get("KMSTN_FUZZ_SEED", "4"))
SHARES = {"etsi014": (SAE_API, 0.45), "etsi020": (PEER_API, 0.45), "operator": (OPERATOR_API, 0.1)}
BATCH = 400
REFUSED = {400, 401, 404, 405}
MEMORY_GROWTH_MIB = 100


@dataclass
class Round:
    """One API under fire."""

    federation: HostileFederation
    document: Document
    fuzzer: Fuzzer
    client: RawClient
    statuses: Counter[int] = field(default_factory=Counter)

    async def run(self, number: int) -> None:
        """Send so many requests; after each batch, the refused ones must have changed nothing."""
        books = await books_at_rest(self.federation)
        number += self.statuses.total()
        while self.statuses.total() < number:
            refused = [request for request in self._drawn() if (await self._fire(request)).status in REFUSED]
            if len(refused) < BATCH:
                # Requests that were met have changed the books: so the refused ones go again, on their own.
                books = await books_at_rest(self.federation)
                for request in refused:
                    assert (await self._fire(request)).status in REFUSED, request
            self._compare(books, refused)

    def _drawn(self) -> list[RawRequest]:
        return [self.fuzzer.request() for _ in range(BATCH)]

    async def _fire(self, request: RawRequest) -> RawAnswer:
        try:
            answer = await self.client.ask(request)
        except (ClosedError, TimeoutError) as error:
            raise AssertionError(f"{error!r} instead of an answer to {request}") from error
        self.statuses[answer.status] += 1
        wrong = self._misfit(request, answer)
        assert wrong is None, f"{wrong}\n{str(request)[:2000]}\n{str(answer)[:1000]}"
        return answer

    def _misfit(self, request: RawRequest, answer: RawAnswer) -> str | None:
        if answer.status >= 500 and answer.status != 503:
            return "the node failed"
        if answer.headers.get("content-type", "").startswith("text/plain") and answer.status == 400:
            return None  # What is no HTTP never reaches the API: uvicorn says so in plain text.
        operation = self._operation(request)
        schema = operation.answers.get(answer.status) if operation else None
        if operation and answer.status not in operation.answers:
            return f"{answer.status} is not described for {operation.path}"
        if schema is None:
            schema = self.document.operations[0].answers.get(401) if answer.body else None
        if schema is None or request.method == "HEAD":
            return None
        return self.document.misfit(json.loads(answer.body), schema)

    def _operation(self, request: RawRequest) -> Operation | None:
        """Find what a request asks for, None where it asks for nothing that there is."""
        path = unquote(request.target.partition("?")[0])
        for operation in self.document.operations:
            before, _, after = operation.path.partition("{")
            after = after.partition("}")[2]
            middle = path[len(before) : len(path) - len(after)] if after else path[len(before) :]
            fits = path.startswith(before) and path.endswith(after) and ("{" not in operation.path or middle)
            if fits and operation.method == request.method and (path == before or "{" in operation.path):
                return operation if "/" not in middle else None
        return None

    def _compare(self, books: Books, requests: list[RawRequest]) -> None:
        changed = differences(books, read_books(self.federation))
        assert not changed, f"{changed} after refusing one of\n" + "\n".join(str(request)[:400] for request in requests)


@pytest.mark.parametrize("name", SHARES)
async def test_fuzzed_requests_are_refused_as_the_standard_says_and_change_nothing(
    federation: HostileFederation, name: str, monkeypatch: pytest.MonkeyPatch, unkept_log: None
) -> None:
    api, share = SHARES[name]
    generator = random.Random(f"{SEED} {name}")
    templates = await _genuine_messages(federation, monkeypatch) if api == PEER_API else []
    fuzzer = Fuzzer(Document(name), _words(federation), generator, templates)
    fired = Round(federation, fuzzer.document, fuzzer, federation.client(api))
    number = max(BATCH, int(REQUESTS * share))
    await fired.run(max(BATCH, number // 10))
    before_mib = _resident_mib()
    await fired.run(number - number // 10)
    grown_mib = _resident_mib() - before_mib
    fired.client.close()
    print(f"\n{name}: {sum(fired.statuses.values())} requests {dict(fired.statuses)}, {grown_mib:+.0f} MiB")
    assert grown_mib < MEMORY_GROWTH_MIB
    assert (await federation.sae("a1").get("/api/v1/keys/b/enc_keys")).status_code == 200


@pytest.fixture
def unkept_log(alarms: logging.Handler) -> Iterator[None]:
    """Look at the log as it comes, so that the memory which pytest keeps it in is not taken for the node's."""
    log = logging.getLogger("kmstn")
    log.addHandler(alarms)
    log.propagate = False
    yield
    log.propagate = True
    log.removeHandler(alarms)


async def _genuine_messages(
    federation: HostileFederation, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, dict[str, object]]]:
    """Have n2 send n1 keys, and return what it sent: to be sent again, spoiled."""
    sent: list[ExtKeyContainer] = []
    original = HttpPeerNode.ext_keys

    async def ext_keys(peer: HttpPeerNode, container: ExtKeyContainer) -> tuple[AckContainer, ...]:
        if peer.name == "n1":
            sent.append(container)
        return await original(peer, container)

    with monkeypatch.context() as patch:
        patch.setattr(HttpPeerNode, "ext_keys", ext_keys)
        for path in ("/api/v1/keys/a1/enc_keys", "/api/v1/keys/a1/enc_keys?number=2&size=512"):
            assert (await federation.sae("b").get(path)).status_code == 200
        await books_at_rest(federation)
    await asyncio.sleep(0)
    return [("/kmapi/v1/ext_keys", json.loads(dump(container))) for container in sent]


def _words(federation: HostileFederation) -> list[str]:
    port = federation.ports["n2"][PEER_API]
    callback = f"https://localhost:{port}/kmapi/v1/ext_keys/ack"
    return ["a1", "a2", "b", "c", "n1", "n2", "n3", "nobody", "n1-n2", "n2-n3", "east", "mlkem768-v1", "v1", callback]


def _resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
