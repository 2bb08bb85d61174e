"""The reports as people read them: tables and a few lines. The same figures as the JSON documents."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from topology.doctor import Finding
from topology.exchange import Exchange
from topology.testbed import Testbed

Rows = Iterable[Sequence[object]]


def show_up(console: Console, testbed: Testbed, document: dict[str, Any]) -> None:
    """Say that a testbed runs, what proved it, and where to go next."""
    proof = document["proof"]
    apis = testbed.apis()
    console.print(f"\n{testbed.name} is up ({document['elapsed_s']} s).")
    if proof["identical"]:
        way = " > ".join(proof["path"])
        console.print(f"Proof: {proof['master_sae']} and {proof['slave_sae']} hold the same key; it went {way}")
        console.print(f"       grade {proof['grade']}, enc_keys {proof['enc_keys_ms']} ms")
    else:
        console.print(f"NOT PROVED: {proof['master_sae']} to {proof['slave_sae']}: {proof.get('error', 'keys differ')}")
    rows = [(sae.sae, sae.node, sae.region, apis.sae_url(sae.node)) for sae in testbed.plan.saes]
    apis.close()
    console.print(_table(("SAE", "node", "region", "ETSI 014 API"), rows))
    first = testbed.plan.saes[0].sae
    console.print("Next:")
    for line, what in (
        ("invoke status", "nodes, devices, links as requested and as measured"),
        ("invoke exchange --all-pairs", "a key for every pair of SAEs, compared"),
        (f"invoke credentials {first}", "certificate and key of an SAE, and a curl line"),
        ("invoke load --users 20 --duration-s 60", "Locust"),
        ("invoke down", "leaves nothing"),
    ):
        console.print(f"  {line:42} {what}")
    console.print("(`python3 tasks.py TASK` does the same without entering .venv.)")


def show_status(console: Console, document: dict[str, Any], problems: list[str]) -> None:
    """Show a status document."""
    nodes = [
        (one["name"], one["region"], _word(one["healthy"]), one["memory_mib"], one["sae_api"], _kept(one["sealing"]))
        for one in document["nodes"]
    ]
    console.print(_table(("node", "region", "health", "MiB", "ETSI 014 API", "data key"), nodes))
    devices = [(d["name"], _word(d["healthy"]), d["stored_keys"]) for d in document["devices"]]
    console.print(_table(("device", "health", "stored keys"), devices))
    links = [
        (
            link["name"],
            link["kind"],
            f"{link['requested']['rtt_ms']:.2f}",
            link["measured"]["rtt_ms"],
            link["requested"]["rate_mbps"] or "",
            link["backend"],
            link["verdict"],
        )
        for link in document["links"]
    ]
    heads = ("link", "kind", "rtt asked, ms", "rtt measured, ms", "Mbit/s asked", "backend", "verdict")
    console.print(_table(heads, links))
    for why in sorted({link["why"].partition(" (")[0] for link in document["links"]} - {""}):
        console.print(f"shaping: {why}; a userspace delay line shapes in its place")
    console.print(_table(("pools of", "with", "full", "least filled"), _pools(document["pools"])))
    console.print("\n".join(problems) if problems else f"{document['testbed']}: all is well")


def show_exchanges(console: Console, exchanges: list[Exchange]) -> None:
    """Show what exchanges came to."""
    rows = [
        (
            one.master_sae,
            one.slave_sae,
            one.error or ("identical" if one.identical else "DIFFERENT"),
            one.grade or "",
            " > ".join(one.path),
            one.enc_keys_ms,
            one.dec_keys_ms,
        )
        for one in exchanges
    ]
    console.print(_table(("master", "slave", "keys", "grade", "path", "enc_keys ms", "dec_keys ms"), rows))
    identical = sum(one.identical for one in exchanges)
    console.print(f"{identical} of {len(exchanges)} identical")


def show_load(console: Console, document: dict[str, Any]) -> None:
    """Show what a load test came to."""
    rows = [
        (name, *(document[name][figure] for figure in ("p50_ms", "p95_ms", "p99_ms", "per_s")))
        for name in ("enc_keys", "dec_keys")
    ]
    console.print(_table(("request", "p50 ms", "p95 ms", "p99 ms", "per s"), rows))
    for figure in ("requests", "failures", "compared", "different", "missing"):
        console.print(f"{figure:10} {document[figure]}")
    for name, reasons in document.get("failure_reasons", {}).items():
        for reason, number in reasons.items():
            console.print(f"  {name} failed {number} times: {reason}")


def show_findings(console: Console, findings: list[Finding]) -> None:
    """Show what doctor found, remedies last."""
    console.print(_table(("looked at", "verdict", "found"), [(f.what, f.verdict, f.found) for f in findings]))
    for finding in findings:
        if finding.remedy and finding.verdict != "ok":
            console.print(f"{finding.what}: {finding.remedy}")
    if all(finding.verdict != "missing" for finding in findings):
        console.print("This machine can run a testbed: invoke up")


def show_images(console: Console, images: list[dict[str, Any]]) -> None:
    """List the images."""
    console.print(_table(("image", "tag", "MB"), [(one["role"], one["tag"], one["size_mb"]) for one in images]))


FIGURES = ("rtt_sum_ms", "p50_ms", "p95_ms", "ratio", "server_p50_ms", "server_ratio")


def show_bench(console: Console, document: dict[str, Any]) -> None:
    """Show the figures of a benchmark."""
    for name, seconds in document["testbed_s"].items():
        console.print(f"{name:24} {seconds:.1f} s")
    rows = [
        (one["pattern"], " > ".join(one["path"]), *(one[figure] for figure in FIGURES)) for one in document["enc_keys"]
    ]
    heads = ("pattern", "path", "sum of rtt, ms", "enc_keys p50", "p95", "p50 / rtt", "p50 at the node", "/ rtt")
    console.print(_table(heads, rows))
    console.print(f"largest node: {document['largest_node_mib']} MiB")


def _pools(pools: list[dict[str, Any]]) -> Rows:
    for node in dict.fromkeys(pool["node"] for pool in pools):
        own = [pool for pool in pools if pool["node"] == node]
        full = sum(pool["outbound_blocks"] >= pool["target"] for pool in own)
        least = min(own, key=lambda pool: pool["outbound_blocks"])
        yield node, len(own), full, f"{least['outbound_blocks']} of {least['target']} with {least['peer']}"


def _kept(sealing: str | None) -> str:
    """How the data key is kept, in a word: what stands before the colon."""
    return (sealing or "unknown").partition(":")[0]


def _word(healthy: bool) -> str:
    return "well" if healthy else "NOT WELL"


def _table(heads: Sequence[str], rows: Rows) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head.endswith("API"))
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    return table
