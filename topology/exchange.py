"""Proving that keys arrive: a master SAE asks at its node, the slave SAE fetches at its own, the bytes are compared."""

import hmac
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import httpx

from topology.errors import ApiRefused, TestbedError
from topology.node_api import IssuedKey, NodeApis
from topology.plan import Plan

WORKERS = 4
PROOF_PAUSE_S = 0.3


@dataclass(frozen=True)
class Exchange:
    """One exchange between two SAEs, with its outcome; latencies in ms, None where it did not get that far."""

    master_sae: str
    slave_sae: str
    key_ids: tuple[str, ...] = ()
    identical: bool = False
    grade: str | None = None
    path: tuple[str, ...] = ()
    enc_keys_ms: float | None = None
    enc_keys_server_ms: float | None = None
    dec_keys_ms: float | None = None
    error: str | None = None

    def report(self) -> dict[str, Any]:
        """The exchange as `exchange --json` shows it."""
        document: dict[str, Any] = {
            "master_sae": self.master_sae,
            "slave_sae": self.slave_sae,
            "key_ids": list(self.key_ids),
            "identical": self.identical,
            "grade": self.grade,
            "path": list(self.path),
            "enc_keys_ms": self.enc_keys_ms,
            "dec_keys_ms": self.dec_keys_ms,
        }
        return document if self.error is None else {**document, "error": self.error}


def all_pairs(plan: Plan) -> list[tuple[str, str]]:
    """Every ordered pair of SAEs that the policy allows."""
    names = [sae.sae for sae in plan.saes]
    pairs = [(master, slave) for master in names for slave in names if master != slave]
    return pairs if plan.allowed_pairs is None else [pair for pair in pairs if pair in plan.allowed_pairs]


def default_pair(plan: Plan) -> tuple[str, str]:
    """The pair that shows most: in different regions, else at different nodes, and as far apart as the plan lists."""
    at = {sae.sae: sae for sae in plan.saes}
    pairs = all_pairs(plan)
    if not pairs:
        raise TestbedError("the description has no two SAEs that may exchange keys")
    return max(
        pairs,
        key=lambda pair: (at[pair[0]].region != at[pair[1]].region, at[pair[0]].node != at[pair[1]].node),
    )


def exchange_all(
    apis: NodeApis, pairs: Sequence[tuple[str, str]], number: int, size_bits: int | None
) -> list[Exchange]:
    """Exchange keys for every pair, a few pairs at a time; never raises for a single pair."""
    with ThreadPoolExecutor(min(WORKERS, max(1, len(pairs)))) as workers:
        return list(workers.map(lambda pair: exchange(apis, pair[0], pair[1], number, size_bits), pairs))


def exchange(apis: NodeApis, master: str, slave: str, number: int, size_bits: int | None) -> Exchange:
    """Exchange keys once."""
    outcome = Exchange(master, slave)
    try:
        begun = time.perf_counter()
        issued = apis.enc_keys(master, slave, number, size_bits)
        answered = time.perf_counter()
        key_ids = tuple(key.key_id for key in issued.keys)
        outcome = Exchange(
            master, slave, key_ids, enc_keys_ms=_ms(answered - begun), enc_keys_server_ms=issued.server_ms
        )
        fetched = apis.dec_keys(slave, master, key_ids)
        dec_keys_ms = _ms(time.perf_counter() - answered)
        way = apis.provenance(apis.sae(slave).node, key_ids[0])
    except (ApiRefused, httpx.HTTPError) as error:
        return replace(outcome, error=str(error) or type(error).__name__)
    return replace(
        outcome,
        identical=_identical(issued.keys, fetched.keys),
        grade=way["grade"],
        path=tuple(way["path"]),
        dec_keys_ms=dec_keys_ms,
    )


def prove(apis: NodeApis, pair: tuple[str, str], within_s: float) -> Exchange:
    """Exchange a key between two SAEs, trying again for a while: new devices have yet to make the first link keys.

    Keys that differ end it at once.
    """
    deadline = time.monotonic() + within_s
    while True:
        done = exchange(apis, *pair, 1, None)
        if done.error is None or time.monotonic() > deadline:
            return done
        time.sleep(PROOF_PAUSE_S)


def report(exchanges: Iterable[Exchange]) -> dict[str, Any]:
    """The document of `exchange --json`."""
    done = list(exchanges)
    failed = sum(one.error is not None for one in done)
    identical = sum(one.identical for one in done)
    return {
        "exchanges": [one.report() for one in done],
        "identical": identical,
        "different": len(done) - identical - failed,
        "failed": failed,
    }


def _identical(issued: Sequence[IssuedKey], fetched: Sequence[IssuedKey]) -> bool:
    mine = {key.key_id: key.value for key in issued}
    theirs = {key.key_id: key.value for key in fetched}
    return mine.keys() == theirs.keys() and all(
        hmac.compare_digest(value, theirs[key_id]) for key_id, value in mine.items()
    )


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
