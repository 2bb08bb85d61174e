"""The result of a load test: one JSON document for scripts, one table for people, and whether it passed.

Percentiles are exact: nearest rank over every sample, no histogram, no interpolation. `per_s` counts successful
requests over the whole run, the ramp-up included.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from loadtests.measurements import Measurements
from loadtests.sae_client import Call

MAX_REASONS = 20


def result(measurements: Measurements, elapsed_s: float) -> dict[str, Any]:
    """Make the JSON document; a percentile without samples is None."""
    answered = sum(len(samples) for samples in measurements.latencies_ms.values())
    failed = sum(reasons.total() for reasons in measurements.failures.values())
    return {
        "requests": answered + failed,
        "failures": failed,
        "compared": measurements.compared,
        "different": measurements.different,
        "missing": measurements.missing,
        **{call.value: _latency(measurements.latencies_ms[call], elapsed_s) for call in Call},
        "failure_reasons": {call.value: _most_common(measurements.failures[call]) for call in Call},
        "incidents": [asdict(incident) for incident in measurements.incidents],
        "elapsed_s": round(elapsed_s, 3),
    }


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Nearest rank: the smallest sample that `percent` of all samples do not exceed; `ordered` is ascending."""
    if not ordered:
        return None
    return ordered[max(-(-percent * len(ordered) // 100), 1) - 1]


def passed(document: dict[str, Any]) -> bool:
    """Tell whether keys were compared and every one of those issued reached both SAEs alike."""
    return bool(document["compared"] > 0 and document["different"] == 0 and document["missing"] == 0)


def table(document: dict[str, Any]) -> str:
    """Lay the document out for people, several lines without a final line break."""
    lines = [
        f"requests {document['requests']}, failures {document['failures']}, in {document['elapsed_s']:.1f} s",
        f"keys compared {document['compared']}, different {document['different']}, missing {document['missing']}",
        "",
        f"{'':10}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}{'per s':>10}",
        *(_row(call.value, document[call.value]) for call in Call),
    ]
    for call, reasons in document["failure_reasons"].items():
        lines += [f"failed {call}, {count} times: {reason}" for reason, count in reasons.items()]
    lines += [
        f"{each['kind']}: key {each['key_id']} from {each['master_sae']} to {each['slave_sae']}: {each['reason']}"
        for each in document["incidents"]
    ]
    return "\n".join([*lines, "", "passed" if passed(document) else _why_not(document)])


def progress(measurements: Measurements) -> str:
    """Say in one line how far a running test is."""
    document = result(measurements, max(measurements.running_s(), 0.001))
    return (
        f"{document['elapsed_s']:5.0f} s: {document['requests']} requests, {document['failures']} failures, "
        f"{document['compared']} keys compared, {document['different']} different"
    )


def _latency(samples: Sequence[float], elapsed_s: float) -> dict[str, float | None]:
    ordered = sorted(samples)
    ranks = {f"p{percent}_ms": percentile(ordered, percent) for percent in (50, 95, 99)}
    rounded = {name: None if value is None else round(value, 3) for name, value in ranks.items()}
    return {**rounded, "per_s": round(len(samples) / elapsed_s, 3) if elapsed_s > 0 else 0.0}


def _most_common(reasons: Counter[str]) -> dict[str, int]:
    shown = dict(reasons.most_common(MAX_REASONS))
    rest = reasons.total() - sum(shown.values())
    return {**shown, "other reasons": rest} if rest else shown


def _row(name: str, latency: dict[str, float | None]) -> str:
    cells = (latency[column] for column in ("p50_ms", "p95_ms", "p99_ms", "per_s"))
    return f"{name:10}" + "".join(f"{'-' if cell is None else format(cell, '.1f'):>10}" for cell in cells)


def _why_not(document: dict[str, Any]) -> str:
    if document["compared"] == 0:
        return "FAILED: not one key was compared"
    return f"FAILED: {document['different']} keys differ, {document['missing']} are missing"
