"""`kill -9` of nodes at random, under load: what masters were given, slaves must get, the same and once.

    python -m tests.testbed.kill_campaign --name three-regions --kills 200

Exchanges run all the while, between SAEs of every pair of nodes. A key is *acknowledged* once its master's node has
answered. It is *lost* if the slave cannot fetch it a minute after the last kill, when every node is back. If a request
to fetch it was cut off by a kill and the slave's node has it down as delivered, then the answer was what was lost,
which no server can prevent: that is counted by itself.
"""

import argparse
import hashlib
import math
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields

import httpx
from rich.console import Console

from topology.docker_runtime import DockerEngine
from topology.errors import ApiRefused
from topology.exchange import all_pairs, exchange_all
from topology.node_api import NodeApis
from topology.testbed import Testbed, look_up

WORKERS = 12
WORKER_PAUSE_S = 0.2
QUIET_S = 60.0
FETCH_PAUSE_S = 1.0
# Nobody can tell whether a request that ended so was carried out.
CUT_OFF = (httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout, httpx.WriteError)


@dataclass
class Tally:
    """What was counted; keys are compared and remembered by a hash under a secret of this run."""

    kills: int = 0
    acknowledged: int = 0
    identical: int = 0
    different: int = 0
    reused: int = 0
    lost: int = 0
    answer_cut_off: int = 0
    refused: int = 0
    healed_pairs: int = 0
    pairs: int = 0
    findings: list[str] = field(default_factory=list)
    _salt: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    _seen: set[bytes] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def holds(self) -> bool:
        """Whether nothing that must not happen has happened."""
        return (
            self.different == self.reused == self.lost == 0 and self.identical > 0 and self.healed_pairs == self.pairs
        )

    def fingerprint(self, value: str) -> bytes:
        """Return what stands for a key here."""
        return hashlib.blake2b(value.encode(), key=self._salt).digest()

    def count(self, what: str, finding: str = "") -> None:
        """Count one."""
        with self._lock:
            setattr(self, what, getattr(self, what) + 1)
            if finding:
                self.findings.append(finding)

    def issued(self, key_id: str, value: bytes) -> None:
        """Count a key that a master was given."""
        with self._lock:
            self.acknowledged += 1
            if {key_id.encode(), value} & self._seen:
                self.reused += 1
                self.findings.append(f"{key_id}: this ID or its key was given out before")
            self._seen |= {key_id.encode(), value}

    def report(self) -> dict[str, object]:
        """The figures."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.repr}


class Campaign:
    """One run against a testbed that is up."""

    def __init__(self, testbed: Testbed, kills: int, seed: int, tell: Callable[[str], None]) -> None:
        self._testbed = testbed
        self._apis = testbed.apis()
        self._kills = kills
        self._chance = random.Random(seed)
        self._tell = tell
        self._over = threading.Event()
        self._deadline = math.inf
        self.tally = Tally()

    def run(self) -> Tally:
        """Kill and exchange; returns what was counted, once everything has healed or the time for it is over."""
        with ThreadPoolExecutor(WORKERS + 1) as threads:
            workers = [
                threads.submit(self._exchange_until_over, random.Random(self._chance.random())) for _ in range(WORKERS)
            ]
            try:
                self._kill_at_random()
            finally:
                self._deadline = time.monotonic() + QUIET_S
                self._over.set()
            for worker in workers:
                worker.result()
        pairs = all_pairs(self._testbed.plan)
        self.tally.pairs = len(pairs)
        self.tally.healed_pairs = self._healed(pairs)
        self._apis.close()
        return self.tally

    def _kill_at_random(self) -> None:
        nodes = [access.node for access in self._testbed.plan.access]
        with ThreadPoolExecutor(len(nodes)) as starters:
            down: dict[str, Future[None]] = {}
            while self.tally.kills < self._kills:
                time.sleep(self._chance.uniform(0.2, 2.5))
                down = {node: start for node, start in down.items() if not start.done()}
                up = [node for node in nodes if node not in down]
                if len(up) <= len(nodes) // 2:
                    continue
                node = self._chance.choice(up)
                docker("kill", "--signal", "KILL", self._container(node))
                self.tally.count("kills")
                down[node] = starters.submit(self._start_again, node, self._chance.uniform(0, 1.5))
                if self.tally.kills % 10 == 0:
                    self._tell(f"  {self.tally.kills} kills, {self.tally.acknowledged} keys acknowledged")

    def _start_again(self, node: str, pause_s: float) -> None:
        time.sleep(pause_s)
        docker("start", self._container(node))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                self._apis.health(node)
            except (httpx.HTTPError, ApiRefused):
                time.sleep(0.3)
            else:
                return

    def _container(self, node: str) -> str:
        return f"{self._testbed.name}-{node}"

    def _exchange_until_over(self, chance: random.Random) -> None:
        apis, pairs = self._testbed.apis(), all_pairs(self._testbed.plan)
        while not self._over.is_set():
            master, slave = chance.choice(pairs)
            self._exchange(apis, master, slave, chance.choice((1, 1, 1, 2, 3)))
            time.sleep(WORKER_PAUSE_S)
        apis.close()

    def _exchange(self, apis: NodeApis, master: str, slave: str, number: int) -> None:
        try:
            issued = apis.enc_keys(master, slave, number, None).keys
        except (httpx.HTTPError, ApiRefused):
            return self.tally.count("refused")
        held = {key.key_id: self.tally.fingerprint(key.value) for key in issued}
        for key_id, value in held.items():
            self.tally.issued(key_id, value)
        for key_id, value in held.items():
            self._fetch(apis, (master, slave), key_id, value)
        return None

    def _fetch(self, apis: NodeApis, pair: tuple[str, str], key_id: str, value: bytes) -> None:
        (master, slave), cut_off, last = pair, False, ""
        while time.monotonic() < self._deadline:
            try:
                (fetched,) = apis.dec_keys(slave, master, (key_id,)).keys
            except (httpx.HTTPError, ApiRefused) as error:
                cut_off |= isinstance(error, CUT_OFF)
                last = f"{type(error).__name__} {error}"
                if cut_off and self._is_delivered(apis, slave, key_id):
                    return self.tally.count("answer_cut_off")
                time.sleep(FETCH_PAUSE_S)
                continue
            same = secrets.compare_digest(self.tally.fingerprint(fetched.value), value)
            return self.tally.count("identical") if same else self.tally.count("different", f"{key_id}: {pair}")
        return self.tally.count("lost", f"{key_id}: {master} > {slave}: {last}")

    def _is_delivered(self, apis: NodeApis, slave: str, key_id: str) -> bool:
        try:
            return bool(apis.provenance(apis.sae(slave).node, key_id)["state"] == "delivered")
        except (httpx.HTTPError, ApiRefused):
            return False

    def _healed(self, pairs: list[tuple[str, str]]) -> int:
        """Exchange every pair until all succeed in one round; returns how many did in the last."""
        healed = 0
        for _ in range(20):
            done = exchange_all(self._apis, pairs, 1, None)
            healed = sum(one.identical for one in done)
            if healed == len(pairs):
                break
            time.sleep(3)
        return healed


def docker(*arguments: str) -> None:
    """Run the docker command; raises CalledProcessError."""
    subprocess.run(("docker", *arguments), check=True, capture_output=True, timeout=60)


def main() -> int:
    """Return the exit code: 0 when nothing was lost, different or used again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", help="the testbed, which must be up")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    options = parser.parse_args()
    console = Console()
    console.print(f"seed {options.seed}")
    campaign = Campaign(look_up(DockerEngine(), options.name), options.kills, options.seed, console.print)
    begun = time.monotonic()
    tally = campaign.run()
    console.print(tally.report())
    console.print(f"{time.monotonic() - begun:.0f} s, {'holds' if tally.holds else 'DOES NOT HOLD'}")
    return 0 if tally.holds else 1


if __name__ == "__main__":
    sys.exit(main())
