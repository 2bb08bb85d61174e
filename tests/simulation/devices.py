"""QKD devices: two ends of one fibre with a finite stock, served over ETSI GS QKD 014, and their bad days."""

import asyncio
import base64
import json
import random
import uuid
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from typing import Any

from node.clients.http import Answer
from tests.simulation.network import Call

ANSWER_S = (0.002, 0.02)


@dataclass(frozen=True, slots=True)
class BadDay:
    """From `begin` to `end` a device answers wrongly; chances from 0 to 1."""

    begin: float
    end: float
    refuses: float = 0.0
    slow: float = 0.0
    loses_keys: float = 0.0


class Fibre:
    """What both ends of a QKD link share: each key is made at one end, and can be fetched once at the other."""

    def __init__(
        self, link: str, rng: random.Random, keys_per_s: float, storage_keys: int, bad_days: Collection[BadDay] = ()
    ) -> None:
        self.link = link
        self.rng = rng
        self._keys_per_s = keys_per_s
        self._storage_keys = storage_keys
        self._bad_days = tuple(bad_days)
        self._stock: dict[str, float] = {}
        self._as_of: dict[str, float] = {}
        self._unfetched: dict[str, dict[str, bytes]] = {}

    def stock(self, end: str) -> int:
        """Return how many keys an end could hand out now."""
        now = asyncio.get_running_loop().time()
        before = self._stock.get(end, float(self._storage_keys))
        produced = (now - self._as_of.get(end, now)) * self._keys_per_s
        self._stock[end], self._as_of[end] = min(before + produced, float(self._storage_keys)), now
        return int(self._stock[end])

    def make(self, end: str, number: int) -> dict[str, bytes] | None:
        """Hand out fresh keys at one end; None if there are too few."""
        if self.stock(end) < number:
            return None
        self._stock[end] -= number
        made = {str(uuid.UUID(int=self.rng.getrandbits(128), version=4)): self.rng.randbytes(32) for _ in range(number)}
        kept = made if self.rng.random() >= self.bad_day().loses_keys else {}
        self._unfetched.setdefault(end, {}).update(kept)
        return made

    def fetch(self, other_end: str, key_ids: list[str]) -> dict[str, bytes] | None:
        """Hand out what the other end was given, each key once, all or none."""
        unfetched = self._unfetched.setdefault(other_end, {})
        if any(key_id not in unfetched for key_id in key_ids):
            return None
        return {key_id: unfetched.pop(key_id) for key_id in key_ids}

    def bad_day(self) -> BadDay:
        """Return what is wrong now; an empty one if nothing is."""
        now = asyncio.get_running_loop().time()
        return next((day for day in self._bad_days if day.begin <= now < day.end), BadDay(0, 0))


class Device:
    """The `Endpoint` of one end of a fibre."""

    def __init__(self, fibre: Fibre, end: str, other_end: str) -> None:
        self.machine = f"{end}-device"
        self._fibre = fibre
        self._end = end
        self._other_end = other_end
        self._serving: dict[asyncio.Task[Answer], None] = {}

    def take(self, call: Call) -> "asyncio.Future[Answer]":
        """Begin to serve."""
        return self._task(self._serve(call))

    def _task(self, work: Coroutine[Any, Any, Answer]) -> "asyncio.Task[Answer]":
        task = asyncio.get_running_loop().create_task(work)
        self._serving[task] = None
        task.add_done_callback(lambda done: self._serving.pop(done))
        return task

    async def _serve(self, call: Call) -> Answer:
        rng, day = self._fibre.rng, self._fibre.bad_day()
        slow = rng.random() < day.slow
        await asyncio.sleep(rng.uniform(0.5, 6.0) if slow else rng.uniform(*ANSWER_S))
        if rng.random() < day.refuses:
            return _refused(503, "the device is tired")
        what = call.path.rsplit("/", 1)[-1]
        if what == "status":
            return Answer(200, json.dumps({"stored_key_count": self._fibre.stock(self._end)}).encode())
        body = json.loads(call.body or b"{}")
        if what == "enc_keys":
            made = self._fibre.make(self._end, body["number"])
            return _keys(made) if made is not None else _refused(503, "less key in store than asked for")
        fetched = self._fibre.fetch(self._other_end, [entry["key_ID"] for entry in body["key_IDs"]])
        return _keys(fetched) if fetched is not None else _refused(400, "one or more keys are not found")


def _keys(keys: dict[str, bytes]) -> Answer:
    entries = [{"key_ID": key_id, "key": base64.b64encode(value).decode()} for key_id, value in keys.items()]
    return Answer(200, json.dumps({"keys": entries}).encode())


def _refused(status: int, message: str) -> Answer:
    return Answer(status, json.dumps({"message": message}).encode())
