"""How much of a bare HTTPS server's throughput `enc_keys` keeps: durable, mutual TLS, keep-alive; one run, one ratio.

    python -m tests.benchmarks.enc_keys_throughput [--seconds 4] [--connections 8]

Beside the node (two SAEs of its own, sealed store on disk) runs what it is set against, uvicorn and FastAPI over the
same TLS: answering such an answer's bytes as a constant, and answering it as FastAPI users do, as an object that is
checked against its model and serialised for each request. Each server has a process of its own; so has the client.
"""

import argparse
import asyncio
import multiprocessing
import ssl
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from operator import truediv
from pathlib import Path

import uvloop
from fastapi import FastAPI, Response
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from node.app import Node
from node.identity_uri import Role
from node.mutual_tls.client_certificate_protocol import serve
from node.mutual_tls.contexts import client_context, server_context
from node.settings import NodeSettings
from node.storage.store_file import DATABASE_NAME, create_store
from node.storage.value_cipher import ValueCipher
from tests.certificates import issue, make_authority, write_identity
from tests.integration.node.small_federation import DATA_KEY, GROUPS, free_port

NUMBERS = (1, 64)
ROUNDS = 3
SLAVE = "slave"
HOST = "localhost"
PATHS = {
    "node": {"node": f"/api/v1/keys/{SLAVE}/enc_keys"},
    "bare": {"bytes": "/bytes/{number}", "object": "/object/{number}"},
}
KEY = {"key_ID": "4f2c9f53-1c0d-4e8a-9a5e-1c3a3c6f8a10", "key": "A" * 43 + "="}


@dataclass(frozen=True)
class Target:
    """What is asked in the benchmark; `path` holds the number of keys."""

    name: str
    port: int
    path: str

    def request(self, number: int) -> bytes:
        """Make the request for a number of keys."""
        body = b'{"number":%d}' % number
        path = self.path.format(number=number)
        head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        return head.encode() + b"\r\n\r\n" + body


async def serve_node(folder: Path, port: int) -> None:
    """Serve a node with two SAEs of its own."""
    settings = NodeSettings(
        node="n1",
        domain="east",
        site="n1",
        saes=("master", SLAVE),
        neighbours=(),
        trusted_domains=(),
        sealing="unsafe-plaintext",
        state_dir=folder / "state",
        identity_dir=folder / "node",
        bind="127.0.0.1",
        sae_port=port,
        peer_port=free_port(),
        operator_port=free_port(),
    )
    settings.state_dir.mkdir()
    create_store(settings.state_dir / DATABASE_NAME, ValueCipher(DATA_KEY), epoch=0)
    await Node(settings, DATA_KEY, "unsafe", tls_groups=GROUPS).start()


class BareKey(BaseModel):
    """A key of the bare server."""

    key_ID: str
    key: str


class BareContainer(BaseModel):
    """An answer of the bare server."""

    keys: list[BareKey]


async def serve_bare(folder: Path, port: int) -> None:
    """Serve constants: as bytes, and as objects."""
    app = FastAPI()
    answers = {number: BareContainer(keys=[BareKey(**KEY)] * number) for number in NUMBERS}
    constants = {number: answer.model_dump_json().encode() for number, answer in answers.items()}

    @app.post("/bytes/{number}")
    async def constant(number: int) -> Response:
        return Response(constants[number], media_type="application/json")

    @app.post("/object/{number}")
    async def container(number: int) -> BareContainer:
        return answers[number]

    await serve(app, server_context(folder / "node", ("east",), peer_plane=False), "127.0.0.1", port)


def run_server(start: Callable[[Path, int], Awaitable[None]], folder: Path, port: int, ready: Connection) -> None:
    """Be a server process."""

    async def forever() -> None:
        await start(folder, port)
        ready.send("ready")
        await asyncio.Event().wait()

    uvloop.run(forever())


async def requests_per_s(
    context: ssl.SSLContext, target: Target, number: int, seconds: float, connections: int
) -> float:
    """Ask on some connections for some seconds."""
    begun = time.perf_counter()
    asking = [_ask(context, target.port, target.request(number), begun + seconds) for _ in range(connections)]
    counts = await asyncio.gather(*asking)
    return sum(counts) / (time.perf_counter() - begun)


async def _ask(context: ssl.SSLContext, port: int, request: bytes, deadline: float) -> int:
    reader, writer = await asyncio.open_connection(HOST, port, ssl=context, limit=2**20)
    count = 0
    while time.perf_counter() < deadline:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"the server answered {head[:40]!r}")
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        count += 1
    writer.close()
    return count


async def measure(folder: Path, targets: list[Target], seconds: float, connections: int) -> None:
    """Measure in turns, print the medians and the node's share of each bare one."""
    context = client_context(folder / "master", ("east",), peer_plane=False)
    table = Table(box=None, header_style="bold")
    node, *others = (target.name for target in targets)
    for head in (
        "keys/request",
        *(f"{name}, requests/s" for name in (node, *others)),
        *(f"/ {name}" for name in others),
    ):
        table.add_column(head)
    for number in NUMBERS:
        rates: dict[str, list[float]] = {target.name: [] for target in targets}
        for _ in range(ROUNDS):
            for target in targets:
                rates[target.name].append(await requests_per_s(context, target, number, seconds, connections))
        medians = [f"{statistics.median(rates[name]):.0f}" for name in (node, *others)]
        shares = [statistics.median(map(truediv, rates[node], rates[name])) for name in others]
        table.add_row(str(number), *medians, *(f"{share:.2f}" for share in shares))
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4, help="of each of the three rounds")
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        authority = make_authority("east")
        for directory, role, who in (("node", Role.NODE, "n1"), ("master", Role.SAE, "master")):
            write_identity(folder / directory, issue(authority, role, who, dns=(HOST,)), [authority])
        context = multiprocessing.get_context("spawn")
        targets, processes = [], []
        for what, start in (("node", serve_node), ("bare", serve_bare)):
            port, (ours, theirs) = free_port(), context.Pipe()
            process = context.Process(target=run_server, args=(start, folder, port, theirs), daemon=True)
            process.start()
            processes.append(process)
            ours.recv()
            targets += [Target(name, port, path) for name, path in PATHS[what].items()]
        try:
            uvloop.run(measure(folder, targets, options.seconds, options.connections))
        finally:
            for process in processes:
                process.terminate()
                process.join()


if __name__ == "__main__":
    main()
