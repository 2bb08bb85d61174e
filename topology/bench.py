"""Measuring: seconds to bring testbeds up and down, latency of enc_keys proactive and reactive, memory of nodes.

Latencies are set against the sum of the measured round trips of the links on the path, in the same run.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from topology.engine import Engine
from topology.exchange import all_pairs, exchange
from topology.progress import Progress
from topology.status import status
from topology.testbed import DEFAULT_DESCRIPTION, Testbed, bring_up, take_down

PATTERNS = ("both", "reactive")
PAUSE_S = 0.3


def run_bench(engine: Engine, requests: int, progress: Progress) -> dict[str, Any]:
    """Bring up a testbed for each pattern, measure, take it down; returns the document of `bench --json`."""
    seconds: dict[str, float] = {}
    enc_keys: list[dict[str, Any]] = []
    largest_mib = 0.0
    for pattern in PATTERNS:
        name = f"bench-{pattern}"
        with _described(pattern) as file, _timed(seconds, f"{name} up"):
            testbed, _changes = bring_up(engine, file, name, progress)
        try:
            document = _settled(testbed)
            largest_mib = max(largest_mib, *(node["memory_mib"] for node in document["nodes"]))
            with progress.step(f"{name}: {requests} requests a pair"):
                enc_keys += _latencies(testbed, pattern, document, requests)
        finally:
            with _timed(seconds, f"{name} down"):
                take_down(engine, name)
    return {"testbed_s": seconds, "enc_keys": enc_keys, "largest_node_mib": largest_mib}


@contextmanager
def _described(pattern: str) -> Iterator[Path]:
    text = DEFAULT_DESCRIPTION.read_text()
    line = next(line for line in text.splitlines() if line.startswith("delivery:"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.yaml"
        file.write_text(text.replace(line, f"delivery: {{pattern: {pattern}}}"))
        yield file


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    seconds[what] = round(time.monotonic() - begun, 1)


def _settled(testbed: Testbed) -> dict[str, Any]:
    """Return the status once every link was measured and every pool is full, or after a minute."""
    deadline = time.monotonic() + 60
    while True:
        document = status(testbed)
        full = all(pool["outbound_blocks"] >= pool["target"] for pool in document["pools"])
        measured = all(link["measured"]["rtt_ms"] is not None for link in document["links"])
        if (full and measured) or time.monotonic() > deadline:
            return document
        time.sleep(1)


def _latencies(testbed: Testbed, pattern: str, document: dict[str, Any], requests: int) -> list[dict[str, Any]]:
    rtt_ms = {frozenset(link["between"]): link["measured"]["rtt_ms"] for link in document["links"]}
    apis = testbed.apis()
    figures = []
    for master, slave in _one_pair_per_distance(testbed):
        taken: list[float] = []
        at_node: list[float] = []
        path: tuple[str, ...] = ()
        for _ in range(requests):
            one = exchange(apis, master, slave, 1, None)
            if one.error is None and one.enc_keys_ms is not None and one.enc_keys_server_ms is not None:
                taken.append(one.enc_keys_ms)
                at_node.append(one.enc_keys_server_ms)
                path = one.path
            time.sleep(PAUSE_S)
        rtt_sum_ms = sum(rtt_ms[frozenset(hop)] for hop in pairwise(path))
        figures.append(_figure(pattern, path, rtt_sum_ms, taken, at_node))
    apis.close()
    return figures


def _one_pair_per_distance(testbed: Testbed) -> list[tuple[str, str]]:
    """Cross-region pairs, one for each pair of nodes that a WAN path joins, in one direction."""
    at = {sae.sae: sae for sae in testbed.plan.saes}
    chosen: dict[frozenset[str], tuple[str, str]] = {}
    for master, slave in all_pairs(testbed.plan):
        if at[master].region != at[slave].region:
            chosen.setdefault(frozenset((at[master].node, at[slave].node)), (master, slave))
    return list(chosen.values())


def _figure(
    pattern: str, path: tuple[str, ...], rtt_sum_ms: float, taken: list[float], at_node: list[float]
) -> dict[str, Any]:
    """Give the client's percentiles, and the node's own (`Server-Timing`): without client, proxy and host network."""
    p50_ms, server_p50_ms = statistics.median(taken), statistics.median(at_node)
    p95_ms = statistics.quantiles(taken, n=20)[-1] if len(taken) > 1 else p50_ms
    return {
        "pattern": pattern,
        "path": list(path),
        "requests": len(taken),
        "rtt_sum_ms": round(rtt_sum_ms, 1),
        "p50_ms": round(p50_ms, 1),
        "p95_ms": round(p95_ms, 1),
        "ratio": round(p50_ms / rtt_sum_ms, 2) if rtt_sum_ms else None,
        "server_p50_ms": round(server_p50_ms, 1),
        "server_ratio": round(server_p50_ms / rtt_sum_ms, 2) if rtt_sum_ms else None,
    }
