"""What a KEM costs: keys, ciphertexts, and the CPU of one hop through a transit node. It measures and asserts nothing.

    python -m tests.benchmarks.hop_cpu                      what this installation has
    python -m tests.benchmarks.hop_cpu --suite mlkem768-v1  one suite (repeat for more)

In the node image, which has liboqs (README.md beside this file has the line). A hop is all that a transit node does
with one transfer of one 256-bit body: read the message, spend the link key, open, remember the transfer, store the
parcel sealed, spend the next link key, protect, commit with a sync, write the message. Left out: TLS, HTTP, and the
acknowledgement. `alone` commits each hop for itself, `grouped` 16 together, as under load. CPU time of the process.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from node.core.hop import Dispatch, HopLink, HopTransport, Incoming
from node.core.kem_keys import KemKeyring
from node.core.keys import BLOCK_SIZE_BYTES, Direction, KeyBlock, Parcel
from node.core.ports import Ledger
from node.core.sealing_origin import draft, sealed
from node.crypto.errors import KemUnavailableError
from node.crypto.kem import Kem, Provider
from node.crypto.suites import SUITES, provider_of, suite_kem, suite_named
from node.settings import LinkKind
from node.storage.database import DATABASE_NAME, Database
from node.storage.store_file import create_store
from node.storage.value_cipher import ValueCipher
from node.wire.etsi020 import ExtKeyContainer, dump, parse
from node.wire.federation import END_TO_END, HYBRID_TRANSPORT, EndToEnd, HybridTransport, KemPublicKey, Purpose

PROVIDERS: tuple[Provider, ...] = ("cryptography", "liboqs")
SHARED = ("mlkem768-v1", "mlkem1024-v1")
HOPS = 192
GROUP = 16
SECONDS_PER_FIGURE = 0.3
CALLBACK = "https://n:8020/kmapi/v1/ext_keys/ack"
INCOMING, OUTGOING = HopLink("n1", "n1-n2", LinkKind.QKD), HopLink("n3", "n2-n3", LinkKind.QKD)


@dataclass(frozen=True)
class Row:
    """The figures of one suite with one provider, or with both. Times of CPU; sizes in bytes."""

    provider: str
    suite: str
    generate_us: float
    encapsulate_us: float
    decapsulate_us: float
    public_size: int
    ciphertext_size: int
    alone_ms: float
    grouped_ms: float


def measure(provider: Provider, suite: str) -> Row:
    """Measure one suite; raise `KemUnavailableError` where this installation lacks a mechanism of it."""
    kem = suite_kem(provider, suite)
    pair = kem.generate()
    ciphertext, _secret = kem.encapsulate(pair.public)
    return Row(
        " + ".join(dict.fromkeys(provider_of(provider, name) for name in suite_named(suite).mechanisms)),
        suite,
        _microseconds(kem.generate),
        _microseconds(lambda: kem.encapsulate(pair.public)),
        _microseconds(lambda: kem.decapsulate(pair.private, ciphertext)),
        len(pair.public),
        len(ciphertext),
        *_hop_milliseconds(provider, suite, kem),
    )


def _microseconds(call: Callable[[], object]) -> float:
    """Return the median CPU time of a call, over as many as fit (but 3)."""
    taken: list[int] = []
    until = time.perf_counter() + SECONDS_PER_FIGURE
    while len(taken) < 3 or time.perf_counter() < until:
        begun = time.process_time_ns()
        call()
        taken.append(time.process_time_ns() - begun)
    return statistics.median(taken) / 1000


def _hop_milliseconds(provider: Provider, suite: str, kem: Kem) -> tuple[float, float]:
    """Return the CPU of a hop alone and in groups."""
    keyring = KemKeyring((suite,), provider, 3600.0)
    keyring.install(keyring.renewals(0.0))
    (hop_key,) = (key for key in keyring.published() if key.purpose == "hop")
    hops = 32 if _microseconds(lambda: kem.encapsulate(hop_key.public_key)) > 3000 else HOPS
    with tempfile.TemporaryDirectory() as folder:
        messages, link_keys = _messages(provider, hop_key, 2 * hops, Path(folder) / "sender.db")
        transit = _Transit(HopTransport("n2", keyring, provider), hop_key, Path(folder) / DATABASE_NAME)
        return asyncio.run(transit.run(messages, link_keys))


def _messages(provider: Provider, key: KemPublicKey, number: int, path: Path) -> tuple[list[bytes], list[KeyBlock]]:
    """Make what the node before sends, and the link keys it spends."""
    sender = HopTransport("n1", KemKeyring((), provider, 1.0), provider)
    link_keys = [KeyBlock(str(uuid.uuid4()), os.urandom(BLOCK_SIZE_BYTES)) for _ in range(number)]

    def send(ledger: Ledger) -> list[bytes]:
        ledger.add_link_keys(INCOMING.link, Direction.OUT, link_keys, ready=True)
        link = HopLink("n2", INCOMING.link, LinkKind.QKD)
        return [dump(sender.send(ledger, _parcel(key, provider), link, _dispatch(key))) for _ in range(number)]

    async def run() -> list[bytes]:
        store = _opened(path)
        made = await store.transact(send)
        store.close()
        return made

    return asyncio.run(run()), link_keys


def _opened(path: Path) -> Database:
    cipher = ValueCipher(os.urandom(32))
    create_store(path, cipher, 0)
    store = Database(path, cipher)
    store.open()
    return store


def _parcel(key: KemPublicKey, provider: Provider) -> Parcel:
    block = KeyBlock(str(uuid.uuid4()), os.urandom(BLOCK_SIZE_BYTES))
    ends = ("n1", "n3")
    bare = draft(Purpose.SESSION_KEY, [block], ("sae-a", ("sae-b",)), ends, str(uuid.uuid4()), time.time() + 600)
    return sealed(bare, key, provider)


def _dispatch(key: KemPublicKey) -> Dispatch:
    return Dispatch(str(uuid.uuid4()), key, CALLBACK)


class _Transit:
    def __init__(self, transport: HopTransport, next_key: KemPublicKey, path: Path) -> None:
        self._transport = transport
        self._next_key = next_key
        self._store = _opened(path)

    async def run(self, messages: list[bytes], link_keys: list[KeyBlock]) -> tuple[float, float]:
        fresh = [KeyBlock(str(uuid.uuid4()), key.value) for key in link_keys]

        def stock(ledger: Ledger) -> None:
            ledger.add_link_keys(INCOMING.link, Direction.IN, link_keys, ready=True)
            ledger.add_link_keys(OUTGOING.link, Direction.OUT, fresh, ready=True)

        await self._store.transact(stock)
        half = len(messages) // 2
        alone = await self._timed(messages[:half], 1)
        grouped = await self._timed(messages[half:], GROUP)
        self._store.close()
        return alone, grouped

    async def _timed(self, messages: list[bytes], size: int) -> float:
        taken = []
        for group in _groups(messages, size):
            begun = time.process_time_ns()
            await asyncio.gather(*map(self._hop, group))
            taken.append((time.process_time_ns() - begun) / len(group))
        return statistics.median(taken) / 1e6

    async def _hop(self, message: bytes) -> bytes:
        container = parse(ExtKeyContainer, message)
        mandatory = container.extension_mandatory or {}
        header = HybridTransport.model_validate(mandatory[HYBRID_TRANSPORT])
        incoming = Incoming(container, header, EndToEnd.model_validate(mandatory[END_TO_END]), str(uuid.uuid4()))

        def take_over(ledger: Ledger) -> ExtKeyContainer:
            ledger.remember_transfer(header.transfer_id, INCOMING.neighbour, header.expires_at)
            parcel = self._transport.receive(ledger, incoming, INCOMING)
            ours = replace(
                parcel,
                path=(*parcel.path, "n2"),
                protections=(*parcel.protections, header.protection),
                downstream=OUTGOING.neighbour,
            )
            container = self._transport.send(ledger, ours, OUTGOING, _dispatch(self._next_key))
            ledger.add_parcel(ours)
            return container

        return dump(await self._store.transact(take_over))


def _groups(messages: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(messages), size):
        yield messages[start : start + size]


def _rows(suites: list[str]) -> Iterator[Row]:
    for suite in suites:
        # ML-KEM alone has two providers. In a combination it comes from `cryptography`, as in a node by default.
        for provider in PROVIDERS if suite in SHARED else PROVIDERS[:1]:
            try:
                yield measure(provider, suite)
            except KemUnavailableError as error:
                print(f"left out: {error}"[:150], file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="CPU and sizes of every suite and of one hop")
    parser.add_argument("--suite", action="append", choices=sorted(SUITES), help="default: all")
    chosen = parser.parse_args(arguments).suite or list(SUITES)
    print(f"{'suite':31}{'provider':23}{'keygen':>9}{'encaps':>9}{'decaps':>9}", end="")
    print(f"{'public':>9}{'cipher':>8}{'hop alone':>11}{'hop grouped':>13}")
    print(f"{'':54}{'us':>9}{'us':>9}{'us':>9}{'bytes':>9}{'bytes':>8}{'ms':>11}{'ms':>13}")
    for row in _rows(chosen):
        print(f"{row.suite:31}{row.provider:23}{row.generate_us:9.0f}{row.encapsulate_us:9.0f}", end="")
        print(f"{row.decapsulate_us:9.0f}{row.public_size:9}{row.ciphertext_size:8}", end="")
        print(f"{row.alone_ms:11.2f}{row.grouped_ms:13.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
